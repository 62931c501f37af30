"""The latent space's use and independent columns, against definitions, other implementations and integrals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import trapezoid
from torch.distributions import Independent, Normal, kl_divergence

from anomvae.vae.diagnostics import LatentUse, Relations, compare_with_independent, explain_rows, has_density
from anomvae.vae.exemplars import ExemplarPrior
from anomvae.vae.independent import IndependentColumns
from anomvae.vae.layout import NO_CODE, Layout
from anomvae.vae.mixture import PseudoRowPrior
from anomvae.vae.model import TableVAE
from anomvae.vae.objective import encode_exemplars, store_pseudo_rows
from anomvae.vae.settings import ModelSettings

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from tests.vae.conftest import MakeModel, MakeRaw

    Doubles = npt.NDArray[np.float64]

STORED = 12
LAST_ENCODING = "encoder.2."


def model_with(make_model: MakeModel, make_raw: MakeRaw, prior: str, **settings: Any) -> TableVAE:
    """A model of two numbers and two categories whose prior is filled."""
    model = make_model(2, (3, 2), prior=prior, latent=3, **settings)
    if isinstance(model.prior, ExemplarPrior):
        rows = model.preparation(*make_raw(model.layout, STORED, 5))
        with torch.no_grad():
            model.prior.store(encode_exemplars(model, rows))
    store_pseudo_rows(model)
    return model


def terms_of(model: TableVAE, raw: tuple[Tensor, Tensor], own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Score and latent term as the model itself has them, at the posterior mean."""
    with torch.no_grad():
        rows = model.preparation(*raw)
        posterior = model.posterior(rows.features())
        decoded = model.decode(posterior.mean[None])
        if isinstance(model.prior, ExemplarPrior):
            is_own = None if own is None else own[:, None] == torch.arange(STORED)
            terms = model.prior.terms(rows, posterior, decoded, model.likelihood, is_own)
        else:
            terms = model.prior.terms(rows, posterior, decoded, model.likelihood)
        return terms.total(), terms.latent


@pytest.mark.parametrize("prior", ["normal", "pseudo-rows", "exemplars"])
def test_at_the_posterior_mean_the_bound_is_the_score_and_divergences_add_up_to_the_latent_term(
    make_model: MakeModel, make_raw: MakeRaw, prior: str
) -> None:
    model = model_with(make_model, make_raw, prior)
    raw = make_raw(model.layout, 700, 1)
    found = explain_rows(model, *raw, draws=1)
    score, latent = terms_of(model, raw)
    assert np.allclose(found.bound, score.numpy(), rtol=1e-4, atol=1e-3)
    assert found.latent.total == pytest.approx(latent.mean().item(), rel=1e-3, abs=1e-3)
    assert (found.latent.choice > 0.01) == (prior != "normal")
    assert (found.latent.kl >= 0).all()


def test_each_dimension_has_its_divergence_from_the_components_weighted_by_their_shares(
    make_model: MakeModel, make_raw: MakeRaw
) -> None:
    model = model_with(make_model, make_raw, "pseudo-rows", exemplars=5)
    raw = make_raw(model.layout, 40, 2)
    assert isinstance(model.prior, PseudoRowPrior)
    with torch.no_grad():
        q = model.posterior(model.preparation(*raw).features())
        p = model.prior.components
        each = kl_divergence(
            Normal(q.mean[:, None].double(), torch.exp(0.5 * q.log_variance[:, None].double())),
            Normal(p.mean[None].double(), torch.exp(0.5 * p.log_variance[None].double())),
        )
    share = torch.softmax(-each.sum(dim=2), dim=1)
    expected = (share[:, :, None] * each).sum(dim=1).mean(dim=0)
    assert np.allclose(explain_rows(model, *raw).latent.kl, expected.numpy(), rtol=1e-3, atol=1e-5)


def test_under_the_standard_normal_it_is_the_textbooks_divergence_and_variance(
    make_model: MakeModel, make_raw: MakeRaw
) -> None:
    model = model_with(make_model, make_raw, "normal")
    raw = make_raw(model.layout, 600, 3)
    with torch.no_grad():
        q = model.posterior(model.preparation(*raw).features())
        standard = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
        kl = kl_divergence(Independent(Normal(q.mean, torch.exp(0.5 * q.log_variance)), 1), standard)
    found = explain_rows(model, *raw).latent
    assert found.total == pytest.approx(kl.mean().item(), rel=1e-5)
    assert found.choice == 0.0
    assert np.allclose(found.variance, q.mean.numpy().var(axis=0), rtol=1e-4)
    assert LatentUse(np.zeros(2), 0.0, np.array([0.0101, 0.0099])).active.tolist() == [True, False]


def test_a_stored_row_does_not_answer_for_itself(make_model: MakeModel, make_raw: MakeRaw) -> None:
    model = model_with(make_model, make_raw, "exemplars")
    raw, own = make_raw(model.layout, STORED, 5), torch.arange(STORED)
    alone, helped = (explain_rows(model, *raw, each, draws=1).bound for each in (own, None))
    assert np.allclose(alone, terms_of(model, raw, own)[0].numpy(), rtol=1e-4, atol=1e-3)
    assert (alone > helped).all()


def normal_log(x: Tensor, mean: Tensor | float, deviation: Tensor | float) -> Tensor:
    found: Tensor = Normal(mean, deviation).log_prob(x)  # type: ignore[no-untyped-call]
    return found


def log_density(model: TableVAE, raw: tuple[Tensor, Tensor]) -> Tensor:
    """log p(x) of rows of one number and one category by integration over a latent space of one dimension, shape ``(n,)``."""
    rows, z = model.preparation(*raw), torch.linspace(-40, 40, 16_001)
    decoded = model.decode(z[:, None])
    sigma = torch.exp(0.5 * model.likelihood.log_variance())[0]
    softmax = model.likelihood.categorical.probabilities(decoded.logits)
    prior, code = model.prior, raw[1][:, 0]
    if not isinstance(prior, ExemplarPrior):
        each = normal_log(rows.x, decoded.numeric[:, 0], sigma) + torch.log(softmax[:, code]).T
        return torch.logsumexp(each + normal_log(z, 0.0, 1.0), dim=1) + torch.log(z[1] - z[0])
    copy, found = torch.sigmoid(prior.copy_logit)[0], []
    for m in range(prior.rows):
        centre = decoded.numeric[:, 0] + prior.carry[0] * prior.stored_residual[m, 0]
        onehot = torch.zeros(2).index_put((prior.matched,), prior.stored_onehot[m])
        mass = copy * onehot[code] + (1 - copy) * softmax[:, code]
        spread = torch.exp(0.5 * (prior.stored_log_variance[m] + prior.spread))
        each = normal_log(rows.x, centre, sigma) + torch.log(mass).T
        found.append(torch.logsumexp(each + normal_log(z, prior.stored_mean[m], spread), dim=1))
    return torch.logsumexp(torch.stack(found), dim=0) + torch.log(z[1] - z[0]) - math.log(prior.rows)


@pytest.mark.parametrize("prior", ["normal", "exemplars"])
def test_with_draws_it_bounds_minus_the_log_of_the_density_which_the_score_does_not(
    make_model: MakeModel, make_raw: MakeRaw, prior: str
) -> None:
    model = make_model(1, (2,), prior=prior)
    with torch.no_grad():
        if isinstance(model.prior, ExemplarPrior):
            model.prior.store(encode_exemplars(model, model.preparation(*make_raw(model.layout, STORED, 5))))
        raw = make_raw(model.layout, 60, 6)
        exact = -log_density(model, raw).numpy()
    bound, score = (explain_rows(model, *raw, draws=draws).bound for draws in (800, 1))
    assert (bound > exact - 0.05).all()
    assert (score < exact).any()


@pytest.mark.parametrize("prior", ["normal", "exemplars"])
def test_where_the_posterior_is_the_true_one_the_bound_is_minus_the_log_of_the_density(
    make_model: MakeModel, make_raw: MakeRaw, prior: str
) -> None:
    model = make_model(1, (2,), prior=prior)
    with torch.no_grad():
        for name, weight in model.named_parameters():  # z tells nothing, nor does any row of z
            if name.startswith(LAST_ENCODING) or name == "decoder.0.weight":
                weight.zero_()
        if isinstance(model.prior, ExemplarPrior):
            model.prior.spread_logit.zero_()
            model.prior.store(encode_exemplars(model, model.preparation(*make_raw(model.layout, STORED, 5))))
        raw = make_raw(model.layout, 60, 6)
        exact = -log_density(model, raw).numpy()
    found = explain_rows(model, *raw)
    assert np.allclose(found.bound, exact, atol=1e-3)
    assert not found.latent.active.any()
    assert found.latent.kl.sum() == pytest.approx(0.0, abs=1e-5)


def plain(d: int, cards: tuple[int, ...] = (), noise: float = 0.1, **settings: Any) -> TableVAE:
    """An untrained model of numbers that are scaled already, with a noise of its own."""
    missing = tuple(size if j == 0 else NO_CODE for j, size in enumerate(cards))
    layout = Layout((0.0,) * d, (1.0,) * d, (False,) * d, cards, missing, 1 / 101)
    model = TableVAE(layout, ModelSettings(**{"layers": (4,), **settings}))
    with torch.no_grad():
        for name, parameter in model.likelihood.named_parameters():
            if name.endswith("free_log_variance"):
                parameter.fill_(2 * math.log(noise))
    return model.eval()


def codes_of(n: int, *columns: list[int]) -> Tensor:
    return torch.tensor(columns, dtype=torch.int64).T if columns else torch.zeros(n, 0, dtype=torch.int64)


def in_numbers(values: Doubles) -> tuple[Tensor, Tensor]:
    return torch.tensor(values, dtype=torch.float32), codes_of(len(values))


@pytest.mark.parametrize("shape", ["normal", "skewed", "two modes", "repeated", "constant", "one row"])
def test_the_density_of_a_column_integrates_to_one(shape: str) -> None:
    draw = np.random.default_rng(0)
    cells = {
        "normal": draw.normal(size=500),
        "skewed": np.exp(draw.normal(size=500)),
        "two modes": np.concatenate([draw.normal(-3, 0.1, 250), draw.normal(3, 0.5, 250)]),
        "repeated": draw.integers(0, 4, 500).astype(float),
        "constant": np.full(500, 1.5),
        "one row": np.array([0.3]),
    }[shape]
    columns = IndependentColumns(plain(1), *in_numbers(cells[:, None]))
    at = np.linspace(-30, 30, 400_001)[:, None]
    density = np.exp(-columns.cost(*in_numbers(at))[:, 0])
    assert trapezoid(density, at[:, 0]) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    "true", [stats.norm(), stats.uniform(-1, 3), stats.gamma(2.0), stats.t(5)], ids=["normal", "uniform", "gamma", "t"]
)
def test_it_comes_near_the_true_density_and_near_that_of_scipy(true: Any) -> None:
    draw = np.random.default_rng(1)
    train, held_out = true.rvs((3000, 1), random_state=draw), true.rvs((2000, 1), random_state=draw)
    cost = IndependentColumns(plain(1), *in_numbers(train)).cost(*in_numbers(held_out))[:, 0]
    best, scott = -true.logpdf(held_out[:, 0]), -stats.gaussian_kde(train[:, 0]).logpdf(held_out[:, 0])
    assert best.mean() - 0.02 < cost.mean() < best.mean() + 0.06
    assert cost.mean() < scott.mean() + 0.01


def test_repeated_values_are_worth_what_the_models_own_noise_makes_them_worth() -> None:
    """A kernel as wide as the noise around each of three values: what a model that knew nothing else would say."""
    cells = np.random.default_rng(2).integers(0, 3, (900, 1)).astype(float)
    costs = [
        IndependentColumns(plain(1, noise=noise), *in_numbers(cells)).cost(*in_numbers(cells)).mean()
        for noise in (0.02, 0.05)
    ]
    expected = [math.log(3) + math.log(noise * math.sqrt(2 * math.pi)) for noise in (0.02, 0.05)]
    assert costs == pytest.approx(expected, abs=0.03)


def test_categories_cost_their_smoothed_share_unknown_ones_what_the_model_says_and_missing_cells_nothing() -> None:
    codes = codes_of(8, [0, 0, 0, 1, 1, 3, 3, 9], [0, 1, 0, 1, 0, 1, 0, 1])
    columns = IndependentColumns(plain(0, (3, 2)), torch.zeros(8, 0), codes)
    cost = columns.cost(torch.zeros(5, 0), codes_of(5, [0, 1, 2, 3, 9], [0, 1, -1, 2, 0]))
    known = np.log(100 / 101) + np.log(np.array([3.5, 2.5, 0.5]) / 6.5)
    assert np.allclose(cost[:, 0], [*-known, 0.0, math.log(101)])
    assert np.allclose(cost[[2, 3], 1], math.log(101))


def test_missing_numbers_cost_nothing_and_wild_ones_no_more_than_a_row_spread_over_the_range() -> None:
    draw = np.random.default_rng(3)
    cells = draw.normal(size=(400, 1))
    cells[:50] = np.nan
    columns = IndependentColumns(plain(1), *in_numbers(cells))
    cost = columns.cost(*in_numbers(np.array([[np.nan], [1e9], [-25.0]])))[:, 0]
    assert cost == pytest.approx([0.0, math.log(351 * 60), math.log(351 * 60)])
    nothing = IndependentColumns(plain(1), *in_numbers(np.full((5, 1), np.nan)))
    assert nothing.cost(*in_numbers(np.array([[0.0]])))[0, 0] == pytest.approx(math.log(60))


def test_the_gain_is_that_of_most_rows_and_wild_rows_do_not_decide() -> None:
    draw = np.random.default_rng(4)
    independent = draw.normal(10, 3, 500)
    fit = independent - draw.normal(0.5, 1.0, 500)
    clean = Relations.of(fit, independent)
    fit[:5] += 1e6
    wild = Relations.of(fit, independent)
    assert clean is not None
    assert wild is not None
    assert clean.gain == pytest.approx(0.5, abs=0.1)
    assert clean.error == pytest.approx(1 / math.sqrt(500), rel=0.2)
    assert wild.gain == pytest.approx(clean.gain, abs=0.1)
    assert clean.help
    assert wild.help
    assert wild.fit > 1e3


def test_chance_passes_for_help_about_as_rarely_as_two_standard_errors_have_it() -> None:
    draw = np.random.default_rng(5)
    found = [Relations.of(*draw.standard_t(4, (2, 60))) for _ in range(1000)]
    assert 0.01 < np.mean([each is not None and each.help for each in found]) < 0.045


def test_too_few_rows_one_column_and_no_density_are_not_compared() -> None:
    assert Relations.of(np.zeros(19), np.ones(19)) is None
    rows = in_numbers(np.random.default_rng(6).normal(size=(50, 1)))
    assert compare_with_independent(plain(1), np.zeros(50), rows, rows) is None
    assert not has_density(plain(2, likelihood="bernoulli"))
    assert not has_density(plain(2, likelihood="mse"))
    assert not has_density(plain(2, kind="autoencoder"))
    assert has_density(plain(2, likelihood="student-t"))
    assert has_density(plain(0, (2, 2), likelihood="bernoulli"))
