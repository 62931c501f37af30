"""The exemplar prior against its formula, summed exemplar by exemplar in float64."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from anomvae.vae import exemplars as exemplars_module
from anomvae.vae.exemplars import Exemplars
from anomvae.vae.gaussian import kl_divergence
from anomvae.vae.objective import Noise, encode_exemplars, exemplar_objective, exemplar_prior
from anomvae.vae.preparation import Rows
from anomvae.vae.scores import RowScorer, RowScores

if TYPE_CHECKING:
    import numpy.typing as npt

    from anomvae.vae.model import TableVAE
    from anomvae.vae.prior import Terms
    from tests.vae.conftest import MakeModel, MakeRaw

    Floats = npt.NDArray[np.float64]

SHAPES = [(3, ()), (0, (4, 3)), (3, (4, 2)), (1, (5,))]


class Explained(NamedTuple):
    """What the brute force finds of n rows; fields as those of :class:`anomvae.vae.prior.Terms`."""

    column: Floats
    latent: Floats
    score: Floats
    carried: Floats
    mass: Floats


def with_exemplars(make_model: MakeModel, d: int, cards: tuple[int, ...], seed: int = 0) -> TableVAE:
    """A model whose carries, copies and spreads all differ; nothing is stored yet."""
    model = make_model(d, cards, seed=seed, latent=3, prior="exemplars")
    prior = exemplar_prior(model)
    with torch.no_grad():
        prior.spread_logit.copy_(torch.tensor([-0.5, 0.3, 1.2]))
        prior.carry_logit.copy_(torch.linspace(-2.0, 2.0, d))
        prior.copy_logit.copy_(torch.linspace(1.0, -1.5, len(cards)))
    return model


def holed(raw: tuple[Tensor, Tensor], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of which a quarter of the cells are missing, and a fifth of the categories in some were never seen."""
    draw = torch.Generator().manual_seed(seed)
    numeric, codes = raw[0].clone(), raw[1].clone()
    numeric[torch.rand(numeric.shape, generator=draw) < 0.25] = torch.nan
    if codes.shape[1]:
        sizes = codes.amax(dim=0)
        codes[torch.rand(codes.shape, generator=draw) < 0.2] = 9
        codes[torch.rand(len(codes), generator=draw) < 0.2, 0] = int(sizes[0]) + 1  # missing there
    return numeric, codes


def explained_by(
    model: TableVAE, rows: Rows, exemplars: Exemplars, own: Tensor | None = None, *, is_stored: bool = False
) -> Terms:
    with torch.no_grad():
        posterior = model.posterior(rows.features())
        decoded = model.decode(posterior.mean[None])
        prior = exemplar_prior(model)
        return prior.explain(rows, posterior, decoded, model.likelihood, exemplars, own, is_stored=is_stored)


def numbers(x: Tensor) -> Floats:
    return x.detach().double().numpy()


def log_normal(x: float, mean: float, log_variance: float) -> float:
    return -0.5 * (math.log(2 * math.pi) + log_variance + (x - mean) ** 2 / math.exp(log_variance))


def brute_force(model: TableVAE, rows: Rows, held: Rows, own: Tensor | None = None) -> Explained:
    """The docstring's formula, one row, one exemplar, one cell at a time."""
    wide = copy.deepcopy(model).double()
    layout, prior = model.layout, exemplar_prior(wide)
    rows, held = (Rows(*(part.double() for part in each)) for each in (rows, held))
    q, r = wide.posterior(rows.features()), wide.posterior(held.features())
    decoded, decoded_held = wide.decode(q.mean[None]), wide.decode(r.mean[None])
    g, g_held, logits = (numbers(part[0]) for part in (decoded.numeric, decoded_held.numeric, decoded.logits))
    log_variance = numbers(wide.likelihood.log_variance())
    rho, kappa = numbers(torch.sigmoid(prior.carry_logit)), numbers(torch.sigmoid(prior.copy_logit))
    ends = np.cumsum(layout.cardinalities).astype(int)
    blocks = [slice(end - size, end) for end, size in zip(ends, layout.cardinalities, strict=True)]
    x, observed, held_x, held_observed = (numbers(part) for part in (rows.x, rows.observed, held.x, held.observed))
    onehot, held_onehot = numbers(rows.onehot), numbers(held.onehot)
    known, unknown = numbers(rows.known), numbers(rows.unknown)
    n, m_all = len(x), len(held_x)
    residual = (held_x - g_held) * held_observed
    softmax = np.zeros_like(logits)
    for block in blocks:
        weight = np.exp(20 * np.tanh(logits[:, block] / 20))
        softmax[:, block] = (1 - layout.unknown_mass) * weight / weight.sum(axis=1, keepdims=True)
    log_p = np.zeros((n, m_all, layout.d + layout.c))
    fit = np.zeros((n, m_all))
    spread = numbers(prior.spread_logit)
    for i in range(n):
        for m in range(m_all):
            for j in range(layout.d):
                if observed[i, j]:
                    mean = g[i, j] + rho[j] * residual[m, j]
                    log_p[i, m, j] = log_normal(x[i, j], mean, log_variance[j])
            for j, block in enumerate(blocks):
                if unknown[i, j]:
                    log_p[i, m, layout.d + j] = math.log((1 - kappa[j]) * layout.unknown_mass)
                if known[i, j]:
                    s = float(softmax[i, block] @ onehot[i, block])
                    match = float(onehot[i, block] @ held_onehot[m, block])
                    log_p[i, m, layout.d + j] = math.log(kappa[j] * match + (1 - kappa[j]) * s)
            left = torch.distributions.Normal(q.mean[i], torch.exp(0.5 * q.log_variance[i]))
            right = torch.distributions.Normal(r.mean[m], torch.exp(0.5 * (r.log_variance[m] + torch.tensor(spread))))
            fit[i, m] = log_p[i, m].sum() - torch.distributions.kl_divergence(left, right).sum().item()
    if own is not None:
        fit[own.numpy()] = -np.inf
    log_sum = np.logaddexp.reduce(fit, axis=1)
    share = np.exp(fit - log_sum[:, None])
    score = math.log(m_all) - log_sum
    column = -np.einsum("nm,nmj->nj", share, log_p)
    wide_kappa = np.repeat(kappa, layout.cardinalities)
    mass = wide_kappa * (share @ held_onehot) + (1 - wide_kappa) * softmax
    return Explained(column, score - column.sum(axis=1), score, rho * (share @ residual), mass)


def assert_explains(found: Terms, wanted: Explained, model: TableVAE) -> None:
    np.testing.assert_allclose(numbers(found.total()), wanted.score, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(numbers(found.column), wanted.column, rtol=1e-4, atol=5e-4)
    np.testing.assert_allclose(numbers(found.latent), wanted.latent, rtol=1e-4, atol=1e-3)
    if model.layout.d:
        assert found.carried is not None
        np.testing.assert_allclose(numbers(found.carried), wanted.carried, rtol=1e-3, atol=1e-4)
    if model.layout.c:
        assert found.mass is not None
        np.testing.assert_allclose(numbers(found.mass), wanted.mass, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("d", "cards"), SHAPES)
@pytest.mark.parametrize("gaps", [False, True], ids=["whole", "holed"])
@pytest.mark.parametrize("is_stored", [False, True], ids=["given", "stored"])
def test_a_score_is_the_formula_summed_over_the_exemplars(
    make_model: MakeModel, make_raw: MakeRaw, d: int, cards: tuple[int, ...], gaps: bool, is_stored: bool
) -> None:
    model = with_exemplars(make_model, d, cards)
    raw, raw_held = (make_raw(model.layout, n, seed) for n, seed in ((12, 1), (9, 2)))
    if gaps:
        raw, raw_held = holed(raw, 1), holed(raw_held, 2)
    rows, held = model.preparation(*raw), model.preparation(*raw_held)
    with torch.no_grad():
        exemplars = encode_exemplars(model, held)
        if is_stored:
            exemplar_prior(model).store(exemplars)
            exemplars = exemplar_prior(model).stored
    wanted = brute_force(model, rows, held)
    assert wanted.score.std() > 0.1
    assert_explains(explained_by(model, rows, exemplars, is_stored=is_stored), wanted, model)


def test_missing_cells_add_nothing_and_unknown_categories_what_no_exemplar_can_copy(make_model: MakeModel) -> None:
    model = with_exemplars(make_model, 2, (3,))
    raw = (torch.tensor([[11.0, torch.nan]] * 3), torch.tensor([[1], [3], [7]]))  # known, missing, never seen
    with torch.no_grad():
        exemplar_prior(model).store(encode_exemplars(model, model.preparation(*raw)))
        found: RowScores = RowScorer(model)(*raw)
    kappa = torch.sigmoid(exemplar_prior(model).copy_logit[0]).item()
    assert (found.contribution[:, 1] == 0).all()
    assert found.contribution[1, 2].item() == 0.0
    assert found.contribution[2, 2].item() == pytest.approx(
        -math.log((1 - kappa) * model.layout.unknown_mass), rel=1e-5
    )


@pytest.mark.parametrize(("d", "cards"), SHAPES)
def test_contributions_of_columns_and_latent_sum_to_the_score(
    make_model: MakeModel, make_raw: MakeRaw, d: int, cards: tuple[int, ...]
) -> None:
    model = with_exemplars(make_model, d, cards)
    with torch.no_grad():
        exemplar_prior(model).store(encode_exemplars(model, model.preparation(*holed(make_raw(model.layout, 30, 5)))))
        found: RowScores = RowScorer(model)(*holed(make_raw(model.layout, 50)))
    total = found.contribution.double().sum(dim=1) + found.latent_contribution.double()
    torch.testing.assert_close(found.score.double(), total, rtol=1e-4, atol=1e-4)
    assert found.score.std() > 0.1


@pytest.mark.parametrize(("d", "cards"), SHAPES)
def test_without_carry_and_copy_it_is_a_vae_whose_prior_is_the_aggregated_posterior(
    make_model: MakeModel, make_raw: MakeRaw, d: int, cards: tuple[int, ...]
) -> None:
    model = with_exemplars(make_model, d, cards)
    prior = exemplar_prior(model)
    with torch.no_grad():
        prior.carry_logit.fill_(-60.0)
        prior.copy_logit.fill_(-60.0)
    rows, held = (model.preparation(*holed(make_raw(model.layout, n, n), n)) for n in (20, 15))
    with torch.no_grad():
        exemplars = encode_exemplars(model, held)
        found = explained_by(model, rows, exemplars)
        q = model.posterior(rows.features())
        widened = exemplars.posterior._replace(log_variance=exemplars.posterior.log_variance + prior.spread)
        divergence = torch.stack(
            [kl_divergence(q, type(q)(*(part[m] for part in widened))).sum(dim=1) for m in range(15)], dim=1
        )
        latent = math.log(15) - torch.logsumexp(-divergence, dim=1)
        column = model.likelihood.cost(model.decode(q.mean[None]), rows)[0]
    torch.testing.assert_close(found.column, column, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.latent, latent, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.total(), column.sum(dim=1) + latent, rtol=1e-4, atol=1e-4)


def test_with_full_carry_a_row_that_is_stored_costs_what_its_noise_costs(
    make_model: MakeModel, make_raw: MakeRaw
) -> None:
    model = with_exemplars(make_model, 3, ())
    with torch.no_grad():
        exemplar_prior(model).carry_logit.fill_(60.0)
        exemplar_prior(model).spread_logit.zero_()
    raw = make_raw(model.layout, 1)
    with torch.no_grad():
        exemplar_prior(model).store(encode_exemplars(model, model.preparation(*raw)))
        found: RowScores = RowScorer(model)(*raw)
        noise = 0.5 * (math.log(2 * math.pi) + model.likelihood.log_variance()).sum()
    assert found.score.item() == pytest.approx(noise.item(), abs=1e-3)
    torch.testing.assert_close(found.expected, raw[0], rtol=1e-5, atol=1e-4)
    assert found.reconstruction_error.item() < 1e-8


@pytest.mark.parametrize(("d", "cards"), SHAPES)
def test_own_leaves_out_exactly_the_rows_own_exemplar(
    make_model: MakeModel, make_raw: MakeRaw, d: int, cards: tuple[int, ...]
) -> None:
    model = with_exemplars(make_model, d, cards)
    raw = holed(make_raw(model.layout, 8, 3), 3)
    rows = model.preparation(*raw)
    prior = exemplar_prior(model)
    with torch.no_grad():
        exemplars = encode_exemplars(model, rows)
        prior.store(exemplars)
        left_out: RowScores = RowScorer(model)(*raw, torch.tensor([0, 1, 2, 3, -1, -1, 6, 0]))
        plain: RowScores = RowScorer(model)(*raw)
    own = torch.eye(8, dtype=torch.bool)
    wanted = brute_force(model, rows, rows, own)
    assert_explains(explained_by(model, rows, exemplars, own), wanted, model)
    trained = exemplar_objective(model, rows, rows, own, Noise(torch.zeros(1, 16, 3)))  # at the means, as the score
    assert trained.item() == pytest.approx(wanted.score.mean(), rel=1e-4)
    for i, exemplar in enumerate([0, 1, 2, 3, None, None, 6, 0]):
        if exemplar is None:
            assert left_out.score[i] == plain.score[i]
            continue
        others = torch.tensor([m for m in range(8) if m != exemplar])
        without = explained_by(
            model,
            rows.take(torch.tensor([i])),
            Exemplars(
                type(exemplars.posterior)(*(part[others] for part in exemplars.posterior)),
                exemplars.residual[others],
                exemplars.onehot[others],
            ),
        )
        # The mean is over all that are stored, the one left out included.
        assert left_out.score[i].item() == pytest.approx(without.total().item() + math.log(8 / 7), rel=1e-4, abs=1e-4)
        np.testing.assert_allclose(numbers(left_out.contribution[i]), numbers(without.column[0]), rtol=1e-3, atol=1e-3)
    assert (left_out.score - plain.score)[:4].min() > 0  # a row explains itself best


def test_values_most_exemplars_hold_can_be_copied_and_those_few_hold_are_drawn_from_the_softmax(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exemplars_module, "MOST_MATCHES", 3)
    model = with_exemplars(make_model, 0, (4, 3))
    first, second = [0] * 6 + [1] * 2 + [3] * 1, [2] * 5 + [1] * 1 + [0] * 3  # held 6 2 0 1, 3 1 5
    held = model.preparation(torch.zeros(9, 0), torch.tensor([first, second]).T)
    every = model.preparation(torch.zeros(12, 0), torch.cartesian_prod(torch.arange(4), torch.arange(3)))
    prior = exemplar_prior(model)
    with torch.no_grad():
        exemplars = encode_exemplars(model, held)
        prior.store(exemplars)
    assert prior.matched.tolist() == [0, 4, 6]
    assert prior.place.tolist() == [0, 3, 3, 3, 1, 3, 2]
    assert prior.stored_onehot.sum(dim=0).tolist() == [6.0, 3.0, 5.0]
    kept = torch.zeros(7)
    kept[prior.matched] = 1.0
    stored = explained_by(model, every, prior.stored, is_stored=True)
    unstored = explained_by(model, every, exemplars._replace(onehot=exemplars.onehot * kept))
    whole = explained_by(model, every, exemplars)
    for name in ("column", "latent", "score", "mass"):
        torch.testing.assert_close(getattr(stored, name), getattr(unstored, name), rtol=1e-5, atol=1e-5)
    assert stored.mass is not None
    assert whole.mass is not None
    assert (stored.mass[:, [1, 3, 5]] < whole.mass[:, [1, 3, 5]]).all()


@pytest.mark.parametrize(("d", "cards"), SHAPES)
def test_stored_exemplars_answer_as_those_given_where_all_their_values_are_kept(
    make_model: MakeModel, make_raw: MakeRaw, d: int, cards: tuple[int, ...]
) -> None:
    model = with_exemplars(make_model, d, cards)
    rows, held = (model.preparation(*holed(make_raw(model.layout, n, n), n)) for n in (20, 15))
    prior = exemplar_prior(model)
    with torch.no_grad():
        exemplars = encode_exemplars(model, held)
        prior.store(exemplars)
        posterior = model.posterior(rows.features())
        stored = prior.terms(rows, posterior, model.decode(posterior.mean[None]), model.likelihood)
    assert prior.rows == 15
    assert len(prior.matched) == int((exemplars.onehot.sum(dim=0) > 0).sum())  # nobody holds the others
    for left, right in zip(stored, explained_by(model, rows, exemplars), strict=True):
        assert (left is None) == (right is None)
        if left is not None:
            torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("d", "cards"), SHAPES)
def test_a_score_does_not_depend_on_its_batch_mates_or_its_place(
    make_model: MakeModel, make_raw: MakeRaw, d: int, cards: tuple[int, ...]
) -> None:
    model = with_exemplars(make_model, d, cards)
    numeric, codes = holed(make_raw(model.layout, 60))
    scorer = RowScorer(model)
    with torch.no_grad():
        exemplar_prior(model).store(encode_exemplars(model, model.preparation(*make_raw(model.layout, 40, 5))))
        together: RowScores = scorer(numeric, codes)
        backwards: RowScores = scorer(numeric.flip(0), codes.flip(0))
        alone: list[RowScores] = [scorer(numeric[i : i + 1], codes[i : i + 1]) for i in range(60)]
    for name in RowScores._fields:
        whole = getattr(together, name)
        torch.testing.assert_close(getattr(backwards, name).flip(0), whole, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(torch.cat([getattr(one, name) for one in alone]), whole, rtol=1e-4, atol=1e-4)


def test_a_wild_row_scores_high_and_finite(make_model: MakeModel, make_raw: MakeRaw) -> None:
    model = with_exemplars(make_model, 3, (4,))
    numeric, codes = make_raw(model.layout, 5)
    with torch.no_grad():
        exemplar_prior(model).store(encode_exemplars(model, model.preparation(*make_raw(model.layout, 40, 5))))
        usual: RowScores = RowScorer(model)(numeric, codes)
        wild: RowScores = RowScorer(model)(torch.full((1, 3), torch.inf), torch.tensor([[99]]))
    assert all(torch.isfinite(part).all() for part in wild)
    assert wild.score.item() > usual.score.max().item()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_gradient_of_training_is_that_of_its_objective(make_model: MakeModel, make_raw: MakeRaw, seed: int) -> None:
    model = with_exemplars(make_model, 3, (4, 2), seed=seed).double()
    rows, held = (
        Rows(*(part.double() for part in with_exemplars(make_model, 3, (4, 2)).preparation(*holed(raw))))
        for raw in (make_raw(model.layout, 6, seed), make_raw(model.layout, 8, seed + 5))
    )
    own = torch.zeros(6, 8, dtype=torch.bool)
    own[torch.arange(6), torch.arange(6)] = True
    draw = torch.Generator().manual_seed(seed)
    noise = Noise(torch.randn(1, 14, 3, generator=draw, dtype=torch.float64))

    def loss() -> Tensor:
        return exemplar_objective(model, rows, held, own, noise)

    loss().backward()  # type: ignore[no-untyped-call]
    checked = {name: weight for name, weight in model.named_parameters() if name.startswith(("prior.", "likelihood."))}
    assert {name.rsplit(".", 1)[-1] for name in checked} == {
        "spread_logit",
        "carry_logit",
        "copy_logit",
        "free_log_variance",
    }
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        assert (weight.grad != 0).any(), name
    for weight in checked.values():
        for place in range(weight.numel()):
            ends = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    weight[place] += step
                    ends.append(loss().item())
                    weight[place] -= step
            assert weight.grad is not None
            slope = (ends[0] - ends[1]) / 2e-5
            assert weight.grad[place].item() == pytest.approx(slope, rel=1e-5, abs=1e-7)
            assert slope != 0.0


def test_samples_of_z_come_from_the_stored_posteriors(make_model: MakeModel, make_raw: MakeRaw) -> None:
    model = with_exemplars(make_model, 2, ())
    prior = exemplar_prior(model)
    with torch.no_grad():
        prior.store(encode_exemplars(model, model.preparation(*make_raw(model.layout, 4))))
    z = prior.sample(20_000, torch.Generator().manual_seed(0)).double()
    variance = torch.exp(prior.stored_log_variance + prior.spread).double()
    mean = prior.stored_mean.double().mean(dim=0)
    spread = variance.mean(dim=0) + prior.stored_mean.double().var(dim=0, unbiased=False)
    assert ((z.mean(dim=0) - mean).abs() < 5 * (spread / 20_000).sqrt()).all()
    torch.testing.assert_close(z.var(dim=0), spread.detach(), rtol=0.1, atol=0.0)
