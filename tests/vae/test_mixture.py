"""Mixtures in the latent space against torch.distributions, and pseudo-rows, which are no one's rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal, kl_divergence

from anomvae.training.loop import train
from anomvae.training.settings import TrainingSettings
from anomvae.vae.gaussian import Gaussian
from anomvae.vae.mixture import PseudoRowPrior, divergences, log_mean_exp, sample_mixture
from anomvae.vae.scores import RowScorer, RowScores

if TYPE_CHECKING:
    from torch import Tensor

    from anomvae.vae.model import TableVAE
    from anomvae.vae.preparation import Rows
    from tests.vae.conftest import MakeModel, MakeRaw, MakeRows


def gaussians(n: int, k: int, seed: int) -> Gaussian:
    draw = torch.Generator().manual_seed(seed)
    return Gaussian(2.0 * torch.randn(n, k, generator=draw), torch.randn(n, k, generator=draw))


def as_distribution(gaussian: Gaussian) -> Distribution:
    return Independent(Normal(gaussian.mean.double(), torch.exp(0.5 * gaussian.log_variance.double())), 1)


def as_mixture(components: Gaussian) -> MixtureSameFamily:
    return MixtureSameFamily(Categorical(torch.ones(len(components.mean)).double()), as_distribution(components))


def test_divergences_are_those_of_torch_one_by_one() -> None:
    left, right = gaussians(7, 4, 0), gaussians(5, 4, 1)
    found = divergences(left, right)
    assert found.shape == (7, 5)
    for i in range(7):
        for m in range(5):
            one, other = (as_distribution(Gaussian(g.mean[j], g.log_variance[j])) for g, j in ((left, i), (right, m)))
            assert found[i, m].item() == pytest.approx(kl_divergence(one, other).item(), rel=1e-4, abs=1e-4)


def test_a_gaussian_lies_nowhere_nearer_than_at_itself_and_rounding_leaves_no_negative_divergence() -> None:
    same = Gaussian(torch.full((3, 2), 1000.0), torch.full((3, 2), -3.0))
    assert (divergences(same, same) >= 0).all()
    apart = gaussians(6, 3, 2)
    found = divergences(apart, apart)
    torch.testing.assert_close(found.diagonal(), torch.zeros(6), rtol=0.0, atol=1e-4)
    assert (found.argmin(dim=1) == torch.arange(6)).all()


@given(st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=1, max_size=6))
def test_the_log_of_a_mean_of_exponentials_and_its_shares(entries: list[list[float]]) -> None:
    x = torch.tensor(entries)
    value, share = log_mean_exp(x)
    wanted = torch.logsumexp(x.double(), dim=1) - math.log(3)
    torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(share.double(), torch.softmax(x.double(), dim=1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(share.sum(dim=1), torch.ones(len(x)))


def test_a_mean_of_exponentials_that_all_vanish_is_still_a_number() -> None:
    value, share = log_mean_exp(torch.tensor([[-1e30, -5e5, -5e5], [-3e8, -2e8, -1e30]]))
    torch.testing.assert_close(value, torch.tensor([-5e5 + math.log(2 / 3), -2e8]))
    assert share[0].tolist() == [0.0, 0.5, 0.5]
    assert share[1].tolist() == [0.0, 1.0, 0.0]


def test_draws_are_the_mixtures() -> None:
    components = gaussians(3, 2, 4)
    z = sample_mixture(components, 40_000, torch.Generator().manual_seed(0)).double()
    mixture = as_mixture(components)
    deviation = mixture.variance.sqrt()
    assert ((z.mean(dim=0) - mixture.mean).abs() < 5 * deviation / 200).all()
    torch.testing.assert_close(z.var(dim=0), mixture.variance, rtol=0.05, atol=0.0)
    again = sample_mixture(components, 40_000, torch.Generator().manual_seed(0)).double()
    assert torch.equal(z, again)


@pytest.fixture(scope="module")
def trained(make_model: MakeModel, make_rows: MakeRows) -> tuple[TableVAE, Rows]:
    """A model of pseudo-rows after some training, and the rows it was trained on."""
    model = make_model(3, (4,), latent=2, prior="pseudo-rows", exemplars=12)
    rows, validation = make_rows(model, 300, seed=1), make_rows(model, 60, seed=2)
    train(model, rows, validation, TrainingSettings(max_steps=120, device="cpu"))
    return model.eval(), rows


def pseudo_rows(model: TableVAE) -> PseudoRowPrior:
    assert isinstance(model.prior, PseudoRowPrior)
    return model.prior


def test_training_moves_the_pseudo_rows_and_stores_their_posteriors(
    make_model: MakeModel, trained: tuple[TableVAE, Rows]
) -> None:
    model, _ = trained
    prior, fresh = pseudo_rows(model), make_model(3, (4,), latent=2, prior="pseudo-rows", exemplars=12)
    assert prior.pseudo_rows.shape == (12, model.layout.n_features)
    assert not torch.allclose(prior.pseudo_rows, pseudo_rows(fresh).pseudo_rows, atol=1e-3)
    with torch.no_grad():
        now = model.posterior(prior.pseudo_rows)
    for stored, encoded in zip(prior.components, now, strict=True):
        torch.testing.assert_close(stored, encoded)
    assert prior.stored_mean.std() > 0.01


def test_a_score_is_the_columns_cost_and_the_divergence_from_the_mixture(
    make_raw: MakeRaw, trained: tuple[TableVAE, Rows]
) -> None:
    model, _ = trained
    raw = make_raw(model.layout, 20, 5)
    rows = model.preparation(*raw)
    components = pseudo_rows(model).components
    with torch.no_grad():
        found: RowScores = RowScorer(model)(*raw)
        q = model.posterior(rows.features())
        cost = model.likelihood.cost(model.decode(q.mean[None]), rows)[0].double().numpy()
    for i in range(20):
        own = as_distribution(Gaussian(q.mean[i], q.log_variance[i]))
        apart = [
            kl_divergence(own, as_distribution(Gaussian(components.mean[m], components.log_variance[m]))).item()
            for m in range(12)
        ]
        latent = -np.log(np.mean(np.exp(-np.array(apart))))
        assert found.latent_contribution[i].item() == pytest.approx(latent, rel=1e-4, abs=1e-4)
        assert found.score[i].item() == pytest.approx(cost[i].sum() + latent, rel=1e-4, abs=1e-4)
        np.testing.assert_allclose(found.contribution[i], cost[i], rtol=1e-4, atol=1e-4)


def test_the_closed_form_is_never_below_the_divergence_from_the_mixture(
    make_raw: MakeRaw, trained: tuple[TableVAE, Rows]
) -> None:
    model, _ = trained
    rows = model.preparation(*make_raw(model.layout, 15, 6))
    components = pseudo_rows(model).components
    with torch.no_grad():
        q = model.posterior(rows.features())
        bound = -log_mean_exp(-divergences(q, components))[0].double()
    distribution = as_distribution(q)
    torch.manual_seed(0)
    z = distribution.sample((4000,))
    log_ratio: Tensor = distribution.log_prob(z) - as_mixture(components).log_prob(z)  # type: ignore[no-untyped-call]
    error = log_ratio.std(dim=0) / math.sqrt(4000)
    assert (bound > log_ratio.mean(dim=0) - 4 * error).all()
    assert bound.std() > 0.01


def test_no_training_row_is_kept(trained: tuple[TableVAE, Rows]) -> None:
    model, rows = trained
    assert all(len(rows.x) not in tensor.shape for tensor in model.state_dict().values())
    features = rows.features()
    nearest = torch.cdist(pseudo_rows(model).pseudo_rows.detach(), features).min()
    assert nearest.item() > 0.1
    with torch.no_grad():
        encoded = model.posterior(features)
    gap = torch.cdist(pseudo_rows(model).stored_mean, encoded.mean, compute_mode="donot_use_mm_for_euclid_dist")
    assert gap.min().item() > 0.0


def test_the_gradient_reaches_the_pseudo_rows(make_model: MakeModel, make_rows: MakeRows) -> None:
    from anomvae.vae.objective import Noise, objective

    model = make_model(2, (3,), latent=2, prior="pseudo-rows", exemplars=5)
    noise = Noise(torch.zeros(1, 10, 2))
    loss: Tensor = objective(model, make_rows(model, 10), noise)
    loss.backward()  # type: ignore[no-untyped-call]
    gradient = pseudo_rows(model).pseudo_rows.grad
    assert gradient is not None
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).any(dim=1).all()
