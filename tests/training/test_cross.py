"""Cross-fitting: no fold network meets its fold, the detector meets every row, and a course ends as a single one does."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from anomvae.training.cross import train_folds
from anomvae.training.exemplars import ExemplarPool
from anomvae.training.loop import Check, History, train
from anomvae.training.settings import TrainingSettings
from anomvae.vae.exemplars import ExemplarPrior
from anomvae.vae.preparation import StoredRows

if TYPE_CHECKING:
    from torch import Tensor

    from anomvae.vae.model import TableVAE
    from tests.training.conftest import MakeModel

N = 130
ONE_CHECK = TrainingSettings(max_steps=24, batch_rows=40, learning_rate=1e-2, device="cpu")
KINDS: dict[str, dict[str, Any]] = {
    "exemplars": {"prior": "exemplars"},
    "pseudo-rows": {"prior": "pseudo-rows", "exemplars": 5},
    "vae": {},
    "beta-vae": {"kind": "beta-vae"},
    "autoencoder": {"kind": "autoencoder"},
    "denoising": {"kind": "denoising-autoencoder"},
    "bernoulli": {"likelihood": "bernoulli"},
    "mse": {"likelihood": "mse"},
    "student-t": {"likelihood": "student-t"},
}


def raw_rows(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows about a line, some cells missing, some categories never seen."""
    draw = torch.Generator().manual_seed(seed)
    cause = torch.randn(N, 1, generator=draw)
    numeric = torch.cat([cause, -cause, cause], dim=1) + 0.1 * torch.randn(N, 3, generator=draw)
    numeric[torch.rand(N, 3, generator=draw) < 0.1] = torch.nan
    return numeric, torch.randint(0, 4, (N, 1), generator=draw)


def folds_of(count: int = 3) -> Tensor:
    return torch.randperm(N, generator=torch.Generator().manual_seed(9)) % count


def fit(
    model: TableVAE,
    raw: tuple[Tensor, Tensor],
    settings: TrainingSettings = ONE_CHECK,
    *,
    exemplars: int = 1000,
    hooks: tuple[Any, ...] = (),
    folds: Tensor | None = None,
) -> tuple[History, list[TableVAE]]:
    rows = StoredRows(model.preparation, *raw)
    folds = folds_of() if folds is None else folds
    pool = ExemplarPool(rows, exemplars, 0, folds) if isinstance(model.prior, ExemplarPrior) else None
    return train_folds(model, rows, folds, settings, hooks, pool)


def weights(model: TableVAE) -> list[Tensor]:
    return [weight.detach().clone() for weight in model.parameters()]


def same(left: TableVAE, right: TableVAE) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(left), weights(right), strict=True))


@pytest.mark.parametrize(("kind", "exemplars"), [("exemplars", 24), *((kind, 1000) for kind in KINDS)])
def test_a_fold_network_is_the_same_to_the_last_bit_whatever_its_folds_rows_hold(
    make_model: MakeModel, kind: str, exemplars: int
) -> None:
    numeric, codes = raw_rows()
    inside = folds_of() == 1
    other, swapped = numeric.clone(), codes.clone()
    other[inside] = 20.0 * torch.randn(int(inside.sum()), 3, generator=torch.Generator().manual_seed(1))
    other[torch.nonzero(inside)[:9, 0]] = 0.25  # copies of one another, which a cover takes once
    swapped[inside] = 3 - swapped[inside]
    models = [make_model(mask_rate=0.1, **KINDS[kind]) for _ in range(2)]
    (_, before), (_, after) = (
        fit(model, raw, exemplars=exemplars)
        for model, raw in zip(models, ((numeric, codes), (other, swapped)), strict=True)
    )
    assert same(before[1], after[1])
    assert not any(same(before[fold], after[fold]) for fold in (0, 2))
    assert not same(*models)


@pytest.mark.parametrize("norm", [10.0, 0.05], ids=["free", "clipped"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_detector_is_what_a_single_run_on_all_rows_makes(make_model: MakeModel, kind: str, norm: float) -> None:
    settings = replace(ONE_CHECK, max_gradient_norm=norm)
    together, alone = (make_model(mask_rate=0.1, **KINDS[kind]) for _ in range(2))
    rows = StoredRows(alone.preparation, *raw_rows())
    pool = ExemplarPool(rows, 1000, 0, folds_of()) if kind == "exemplars" else None
    history, _ = fit(together, raw_rows(), settings)
    single = train(alone, rows, rows, settings, (), pool)
    for left, right in zip(weights(together), weights(alone), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)
    assert history.best.train_loss == pytest.approx(single.best.train_loss, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_and_its_fold_networks_keep_near_the_detector(make_model: MakeModel, kind: str) -> None:
    model, start = (make_model(**KINDS[kind]) for _ in range(2))
    history, networks = fit(model, raw_rows(), replace(ONE_CHECK, max_steps=150))
    assert history.best.validation_loss < history.checks[0].validation_loss - 0.02
    assert len(networks) == 3
    moved = torch.cat([(a - b).flatten() for a, b in zip(weights(model), weights(start), strict=True)]).norm()
    for network in networks:
        apart = torch.cat([(a - b).flatten() for a, b in zip(weights(model), weights(network), strict=True)]).norm()
        assert 0.0 < apart < moved


def test_the_same_seed_gives_the_same_networks_and_leaves_the_global_random_state_alone(make_model: MakeModel) -> None:
    models = [make_model(prior="exemplars") for _ in range(3)]
    state = torch.get_rng_state()
    first, again = (fit(model, raw_rows())[1] for model in models[:2])
    other = fit(models[2], raw_rows(), replace(ONE_CHECK, seed=1))[1]
    assert torch.equal(state, torch.get_rng_state())
    assert all(same(a, b) for a, b in zip([*first, models[0]], [*again, models[1]], strict=True))
    assert not any(same(a, b) for a, b in zip([*first, models[0]], [*other, models[2]], strict=True))


@pytest.mark.parametrize("kind", ["exemplars", "vae"])
def test_a_batch_of_one_row_that_a_network_may_not_meet_teaches_it_nothing(make_model: MakeModel, kind: str) -> None:
    model = make_model(**KINDS[kind])
    history, networks = fit(model, raw_rows(), replace(ONE_CHECK, batch_rows=1, max_steps=60))
    assert abs(history.best.train_loss) < 1e3
    assert all(torch.isfinite(weight).all() for each in (model, *networks) for weight in weights(each))


def test_groups_of_one_row_are_a_fold_too(make_model: MakeModel) -> None:
    folds = torch.zeros(N, dtype=torch.int64)
    folds[17] = 1
    history, networks = fit(make_model(prior="exemplars"), raw_rows(), folds=folds)
    assert len(networks) == 2
    assert math.isfinite(history.best.validation_loss)


@dataclass
class Watcher:
    """Remembers what it is told, and interrupts when asked."""

    at_step: int | None = None
    at_check: int | None = None
    steps: list[tuple[int, int, int]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    def on_step(self, step: int, max_steps: int, rows: int) -> None:
        self.steps.append((step, max_steps, rows))
        if step == self.at_step:
            raise KeyboardInterrupt

    def on_check(self, check: Check) -> None:
        self.checks.append(check)
        if len(self.checks) == self.at_check:
            raise KeyboardInterrupt


def test_hooks_are_told_of_every_step_and_check(make_model: MakeModel) -> None:
    watcher = Watcher()
    history, _ = fit(make_model(prior="exemplars"), raw_rows(), replace(ONE_CHECK, max_steps=60), hooks=(watcher,))
    assert watcher.steps == [(step, 60, 40) for step in range(1, 61)]
    assert watcher.checks == history.checks
    assert [check.step for check in history.checks] == [25, 50, 60]
    assert history.stopped == "max_steps"


def test_the_weights_are_those_of_the_best_bound_out_of_fold_and_not_the_last(make_model: MakeModel) -> None:
    model = make_model(layers=(64,))
    long = replace(ONE_CHECK, max_steps=2000, learning_rate=3e-2, patience=4)
    history, networks = fit(model, raw_rows(), long)
    assert history.stopped == "no_gain"
    assert history.best.step < history.steps
    again = make_model(layers=(64,))
    watcher = Watcher(at_step=history.best.step + 1)
    _, until = fit(again, raw_rows(), long, hooks=(watcher,))
    assert all(same(a, b) for a, b in zip([model, *networks], [again, *until], strict=True))


@pytest.mark.parametrize("at", [{"at_step": 60}, {"at_check": 1}, {"at_step": 3}])
def test_an_interrupt_ends_cleanly_with_the_best_weights_so_far(make_model: MakeModel, at: dict[str, Any]) -> None:
    model, untouched = (make_model(prior="exemplars") for _ in range(2))
    history, networks = fit(model, raw_rows(), replace(ONE_CHECK, max_steps=500), hooks=(Watcher(**at),))
    assert history.stopped == "interrupted"
    assert history.steps <= 60
    assert history.checks
    for each in (model, *networks):
        assert not same(each, untouched)
        assert all(torch.isfinite(weight).all() for weight in weights(each))


@pytest.mark.parametrize("kind", ["exemplars", "mse"])
def test_a_rate_that_explodes_is_told_and_leaves_no_weights_that_are_not_numbers(
    make_model: MakeModel, kind: str
) -> None:
    model = make_model(**KINDS[kind])
    history, networks = fit(model, raw_rows(), replace(ONE_CHECK, learning_rate=1e36, max_steps=200))
    assert history.stopped == "diverged"
    assert history.best.validation_loss == math.inf
    assert all(torch.isfinite(weight).all() for each in (model, *networks) for weight in weights(each))


def test_pseudo_rows_are_stored_with_the_weights_of_their_own_network(make_model: MakeModel) -> None:
    model = make_model(prior="pseudo-rows", exemplars=5)
    _, networks = fit(model, raw_rows())
    for each in (model, *networks):
        prior: Any = each.prior
        with torch.no_grad():
            torch.testing.assert_close(prior.stored_mean, each.posterior(prior.pseudo_rows).mean)


def test_the_fold_networks_are_models_of_their_own(make_model: MakeModel) -> None:
    model = make_model(prior="exemplars")
    _, networks = fit(model, raw_rows())
    before = copy.deepcopy(weights(networks[0]))
    with torch.no_grad():
        for weight in (*model.parameters(), *networks[1].parameters()):
            weight.fill_(0.5)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(networks[0]), strict=True))
