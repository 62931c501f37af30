"""Scores: deterministic, of one row alone, split into parts that sum, in raw units where people read them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from anomvae.training.loop import train
from anomvae.training.settings import TrainingSettings
from anomvae.vae.layout import Layout
from anomvae.vae.model import TableVAE
from anomvae.vae.scores import RowScorer, RowScores
from anomvae.vae.settings import ModelSettings

if TYPE_CHECKING:
    from torch import Tensor

    from anomvae.vae.preparation import Rows
    from tests.vae.conftest import MakeModel, MakeRaw, MakeRows

KINDS = ["vae", "beta-vae", "autoencoder", "denoising-autoencoder"]
LIKELIHOODS = ["gaussian", "mse", "bernoulli", "student-t"]


def answers(model: TableVAE, raw: tuple[Tensor, Tensor]) -> RowScores:
    with torch.no_grad():
        scores: RowScores = RowScorer(model)(*raw)
    return scores


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("draws", [1, 8])
def test_contributions_of_columns_and_latent_sum_to_the_score(
    make_model: MakeModel, make_raw: MakeRaw, kind: str, likelihood: str, draws: int
) -> None:
    model = make_model(3, (4, 2), kind=kind, likelihood=likelihood, score_draws=draws, latent=3)
    found = answers(model, make_raw(model.layout, 40))
    total = found.contribution.double().sum(dim=1) + found.latent_contribution.double()
    torch.testing.assert_close(found.score.double(), total, rtol=1e-4, atol=1e-4)
    assert found.contribution.shape == (40, 5)
    assert found.score.std() > 0.1


def test_a_score_is_the_negative_bound_at_beta_one_whatever_beta_trained(
    make_model: MakeModel, make_raw: MakeRaw
) -> None:
    models = [make_model(2, (3,), kind="vae"), make_model(2, (3,), kind="beta-vae", beta=9.0)]
    raw = make_raw(models[0].layout, 20)
    assert torch.equal(answers(models[0], raw).score, answers(models[1], raw).score)


def test_an_autoencoders_score_is_its_reconstruction_alone(make_model: MakeModel, make_raw: MakeRaw) -> None:
    model = make_model(3, kind="autoencoder", likelihood="mse", score_draws=8)
    found = answers(model, make_raw(model.layout, 20))
    assert (found.latent_contribution == 0).all()
    wanted = 3 * (0.5 * found.reconstruction_error + 0.5 * np.log(2 * np.pi))
    torch.testing.assert_close(found.score, wanted)


def test_more_draws_bring_the_score_to_the_bound(make_model: MakeModel, make_raw: MakeRaw) -> None:
    model = make_model(3, latent=4)
    raw = make_raw(model.layout, 30)
    rows: Rows = model.preparation(*raw)
    noise = torch.randn(20_000, 1, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        posterior = model.posterior(rows.features())
        terms = model.terms(rows, posterior, posterior.at(noise))
        bound = terms.column.sum(dim=1) + terms.latent
    errors = {}
    for draws in (1, 256):
        many = TableVAE(model.layout, replace(model.settings, score_draws=draws))
        many.load_state_dict(model.state_dict())
        errors[draws] = (answers(many, raw).score - bound).abs().mean().item()
    assert errors[256] < 0.2 * errors[1]


@pytest.mark.parametrize("draws", [1, 8])
def test_a_score_does_not_depend_on_its_batch_mates_or_its_place(
    make_model: MakeModel, make_raw: MakeRaw, draws: int
) -> None:
    model = make_model(3, (4, 2), score_draws=draws, latent=3)
    numeric, codes = make_raw(model.layout, 100)
    together = answers(model, (numeric, codes))
    backwards = answers(model, (numeric.flip(0), codes.flip(0)))
    alone = [answers(model, (numeric[i : i + 1], codes[i : i + 1])) for i in range(100)]
    for name in RowScores._fields:
        whole = getattr(together, name)
        torch.testing.assert_close(getattr(backwards, name).flip(0), whole, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(torch.cat([getattr(one, name) for one in alone]), whole, rtol=1e-5, atol=1e-5)


def test_scoring_twice_gives_the_same_bits_and_leaves_the_random_state_alone(
    make_model: MakeModel, make_raw: MakeRaw
) -> None:
    model = make_model(3, (4,), score_draws=8)
    raw = make_raw(model.layout, 50)
    first, state = answers(model, raw), torch.get_rng_state()
    second = answers(model, raw)
    assert all(torch.equal(left, right) for left, right in zip(first, second, strict=True))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("draws", [1, 8])
def test_a_missing_cell_adds_exactly_nothing(
    make_model: MakeModel, make_raw: MakeRaw, likelihood: str, draws: int
) -> None:
    model = make_model(3, (4, 2), likelihood=likelihood, score_draws=draws)
    numeric, codes = make_raw(model.layout, 20)
    numeric[:, 1] = torch.nan
    codes[:, 0] = 4
    found = answers(model, (numeric, codes))
    assert (found.contribution[:, 1] == 0).all()
    assert (found.contribution[:, 3] == 0).all()
    assert (found.contribution[:, [0, 2, 4]] != 0).any(dim=0).all()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_value_stored_under_a_missing_cell_does_not_matter_to_its_cost(
    make_model: MakeModel, make_rows: MakeRows, likelihood: str
) -> None:
    model = make_model(3, (2,), likelihood=likelihood)
    rows = make_rows(model, 10)
    rows = rows._replace(observed=rows.observed * torch.tensor([1.0, 0.0, 1.0]))
    decoded = model.decode(torch.zeros(1, 10, 1))
    for stored in (0.0, 1.0, -29.0, 1e15):
        cost = model.likelihood.cost(decoded, rows._replace(x=rows.x.index_fill(1, torch.tensor([1]), stored)))
        assert (cost[..., 1] == 0).all()
        torch.testing.assert_close(cost, model.likelihood.cost(decoded, rows))


def test_missing_infinities_score_as_missing_cells(make_model: MakeModel, make_raw: MakeRaw) -> None:
    base = make_model(2)
    model = TableVAE(replace(base.layout, infinite_is_missing=(True, False)), base.settings)
    model.load_state_dict({**base.state_dict(), "preparation.infinite_is_missing": torch.tensor([True, False])})
    numeric, codes = make_raw(model.layout, 3)
    numeric[0, 0], numeric[1, 0], numeric[2, 0] = torch.nan, torch.inf, -torch.inf
    numeric[:, 1] = 11.0
    found = answers(model, (numeric, codes))
    assert found.score[0] == found.score[1] == found.score[2]
    numeric[:, 0], numeric[0, 1], numeric[1, 1] = 10.0, torch.inf, 1e30
    found = answers(model, (numeric, codes))
    assert found.score[0] == found.score[1]
    assert found.score[0] > found.score[2]


def test_a_row_of_nothing_but_missing_cells_scores_its_latent_alone(make_model: MakeModel) -> None:
    model = make_model(2, (3,), score_draws=8)
    found = answers(model, (torch.full((1, 2), torch.nan), torch.tensor([[3]])))
    assert (found.contribution == 0).all()
    assert found.score.item() == found.latent_contribution.item()
    assert found.reconstruction_error.item() == 0.0
    assert torch.isfinite(found.expected).all()


def test_the_encoder_is_told_which_cells_are_missing(make_model: MakeModel) -> None:
    model = make_model(2, (3,))
    at_mean = torch.tensor([model.layout.offset])
    gone = torch.full((1, 2), torch.nan)
    there, missing = (answers(model, (numbers, torch.tensor([[0]]))) for numbers in (at_mean, gone))
    assert not torch.allclose(there.latent, missing.latent)
    known, unknown = (answers(model, (at_mean, torch.tensor([[code]]))) for code in (0, 3))
    assert not torch.allclose(known.latent, unknown.latent)


def test_gradients_of_missing_cells_are_nil_and_those_of_the_others_are_not(
    make_model: MakeModel, make_raw: MakeRaw
) -> None:
    model = make_model(3, (2,), score_draws=8)
    numeric, codes = make_raw(model.layout, 10)
    numeric[::2, 1] = torch.nan
    numeric.requires_grad_()
    scores: RowScores = RowScorer(model)(numeric, codes)
    scores.score.sum().backward()  # type: ignore[no-untyped-call]
    assert numeric.grad is not None
    assert (numeric.grad[::2, 1] == 0).all()
    assert (numeric.grad[1::2, 1] != 0).all()
    assert torch.isfinite(numeric.grad).all()


def test_a_column_missing_from_every_row_teaches_the_decoder_nothing(make_model: MakeModel, make_raw: MakeRaw) -> None:
    model = make_model(3, (2,))
    numeric, codes = make_raw(model.layout, 10)
    numeric[:, 1] = torch.nan
    scores: RowScores = RowScorer(model)(numeric, codes)
    scores.score.sum().backward()  # type: ignore[no-untyped-call]
    weight, bias = list(model.decoder.parameters())[-2:]
    assert weight.grad is not None
    assert bias.grad is not None
    assert (bias.grad[1] == 0).all()
    assert (weight.grad[1] == 0).all()
    assert (bias.grad[[0, 2, 3, 4]] != 0).all()
    spread = dict(model.likelihood.named_parameters())["numeric.free_log_variance"].grad
    assert spread is not None
    assert (spread != 0).tolist() == [True, False, True]


def test_the_reconstruction_error_is_the_mean_square_over_observed_columns_and_the_brier_score(
    make_model: MakeModel, make_raw: MakeRaw
) -> None:
    model = make_model(3, (4,), likelihood="gaussian", score_draws=8)
    numeric, codes = make_raw(model.layout, 20)
    numeric[:5, 0] = torch.nan
    codes[:10, 0] = 4  # missing
    codes[10:12, 0] = 7  # never seen
    found = answers(model, (numeric, codes))
    scale, offset = torch.tensor(model.layout.scale), torch.tensor(model.layout.offset)
    squares = ((numeric - found.expected) / scale).square()
    logits = model.decoder(found.latent).detach()[:, 3:]
    masses = (1 - model.layout.unknown_mass) * torch.softmax(20 * torch.tanh(logits / 20), dim=1)
    masses = torch.cat([masses, torch.full((20, 1), model.layout.unknown_mass)], dim=1)
    came = torch.nn.functional.one_hot(codes[:, 0].clamp(max=4), 5)
    came[10:12] = torch.tensor([0, 0, 0, 0, 1])
    brier = (masses - came).square().sum(dim=1)
    brier[:10] = torch.nan
    wanted = torch.cat([squares, brier[:, None]], dim=1).nanmean(dim=1)
    torch.testing.assert_close(found.reconstruction_error, wanted, rtol=1e-4, atol=1e-5)
    assert (offset > 0).all()


def test_the_expected_category_is_the_most_probable_one(make_model: MakeModel, make_raw: MakeRaw) -> None:
    model = make_model(1, (4, 2))
    found = answers(model, make_raw(model.layout, 20))
    logits = model.decoder(found.latent).detach()
    assert torch.equal(found.expected_category[:, 0], logits[:, 1:5].argmax(dim=1))
    assert torch.equal(found.expected_category[:, 1], logits[:, 5:].argmax(dim=1))


def fitted(numeric: np.ndarray[Any, np.dtype[np.float64]], **settings: Any) -> tuple[TableVAE, Tensor]:
    """A model trained for a moment on columns of numbers, and these as the graph takes them."""
    unit = settings.get("likelihood") == "bernoulli"
    offset, scale = (numeric.min(0), np.ptp(numeric, axis=0)) if unit else (numeric.mean(0), numeric.std(0))
    d = numeric.shape[1]
    layout = Layout(tuple(offset.tolist()), tuple(scale.tolist()), (False,) * d, (), (), 0.01)
    torch.manual_seed(0)
    model = TableVAE(layout, ModelSettings(layers=(16,), latent=2, prior="normal", **settings))
    raw = torch.tensor(numeric, dtype=torch.float32)
    rows: Rows = model.preparation(raw, torch.zeros(len(raw), 0, dtype=torch.int64))
    train(model, rows, rows, TrainingSettings(max_steps=250, device="cpu", learning_rate=1e-2))
    return model.eval(), raw


@pytest.mark.parametrize(
    ("kind", "likelihood"), [("vae", "gaussian"), ("vae", "student-t"), ("autoencoder", "bernoulli")]
)
def test_what_was_expected_is_told_in_raw_units(kind: str, likelihood: str) -> None:
    draw = np.random.default_rng(0)
    cause = draw.normal(size=400)
    numeric = np.stack([1e4 + 50 * cause, 1e-6 * (cause + 0.05 * draw.normal(size=400)), -3e5 - 1e5 * cause], axis=1)
    model, raw = fitted(numeric, kind=kind, likelihood=likelihood)
    found = answers(model, (raw, torch.zeros(400, 0, dtype=torch.int64)))
    for column in range(3):
        expected, seen = found.expected[:, column].double().numpy(), numeric[:, column]
        assert abs(expected.mean() - seen.mean()) < 0.2 * seen.std()
        assert np.corrcoef(expected, seen)[0, 1] > 0.9
        assert np.sqrt(np.mean((expected - seen) ** 2)) < 0.5 * seen.std()


def test_a_row_that_breaks_a_relation_scores_above_those_that_keep_it_and_is_told_why() -> None:
    draw = np.random.default_rng(1)
    cause = draw.normal(size=500)
    numeric = np.stack([cause, cause + 0.1 * draw.normal(size=500), -cause + 0.1 * draw.normal(size=500)], axis=1)
    model, raw = fitted(numeric)
    none = torch.zeros(500, 0, dtype=torch.int64)
    normal = answers(model, (raw, none)).score
    broken = raw.clone()
    broken[:, 2] = -broken[:, 2]
    strange = answers(model, (broken, none))
    far = raw[:, 0].abs() > 1
    assert (strange.score[far] > normal.quantile(0.95)).float().mean() > 0.95
    assert (strange.contribution[far].argmax(dim=1) == 2).float().mean() > 0.5


def test_samples_are_the_same_for_a_seed_and_lie_in_raw_units_and_known_codes(make_model: MakeModel) -> None:
    model = make_model(2, (3, 2))
    numbers, codes = model.sample(500, seed=4)
    again, other = model.sample(500, seed=4), model.sample(500, seed=5)
    assert torch.equal(numbers, again[0])
    assert torch.equal(codes, again[1])
    assert not torch.equal(numbers, other[0])
    assert numbers.shape == (500, 2)
    z = torch.randn(500, 1, generator=torch.Generator().manual_seed(4))
    wanted = model.decoder(z)[:, :2] * torch.tensor(model.layout.scale) + torch.tensor(model.layout.offset)
    torch.testing.assert_close(numbers, wanted.detach())
    assert ((codes >= 0) & (codes < torch.tensor([3, 2]))).all()


def test_decoding_a_rows_latent_gives_what_was_expected_of_it(make_model: MakeModel, make_raw: MakeRaw) -> None:
    for likelihood in LIKELIHOODS:
        model = make_model(2, (3,), likelihood=likelihood)
        found = answers(model, make_raw(model.layout, 10))
        numbers, codes = model.decode_rows(found.latent)
        torch.testing.assert_close(numbers, found.expected)
        assert torch.equal(codes, found.expected_category)


def test_the_latent_size_follows_the_columns_unless_stated() -> None:
    assert [ModelSettings().latent_size(n) for n in (1, 2, 6, 32, 500)] == [2, 2, 6, 32, 32]
    assert ModelSettings(latent=3).latent_size(500) == 3


def test_a_vae_with_gaussian_noise_has_exemplars_by_default() -> None:
    assert ModelSettings().prior_in_force == "exemplars"
    others = (ModelSettings(kind="autoencoder"), ModelSettings(likelihood="mse"), ModelSettings(score_draws=4))
    assert {other.prior_in_force for other in others} == {"normal"}
