"""The loop: reproducible, keeps the best weights, stops when told, and never leaves what cannot score."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.errors import SettingError
from anomvae.training.loop import Check, _batches, choose_device, train
from anomvae.training.settings import TrainingSettings
from anomvae.vae.objective import Noise, objective

if TYPE_CHECKING:
    from torch import Tensor

    from anomvae.vae.model import TableVAE
    from anomvae.vae.preparation import Rows
    from tests.training.conftest import MakeModel

    Parts = tuple[Rows, Rows]
    Weights = dict[str, Tensor]

SHORT = TrainingSettings(max_steps=120, batch_rows=40, device="cpu")


def weights(model: TableVAE) -> Weights:
    return copy.deepcopy(dict(model.state_dict()))


def same(left: Weights, right: Weights) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


@dataclass
class Watcher:
    """Remembers the weights at every check, and interrupts when asked."""

    model: TableVAE
    at_step: int | None = None
    at_check: int | None = None
    steps: list[tuple[int, int, int]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    seen: list[Weights] = field(default_factory=list)

    def on_step(self, step: int, max_steps: int, rows: int) -> None:
        self.steps.append((step, max_steps, rows))
        if step == self.at_step:
            raise KeyboardInterrupt

    def on_check(self, check: Check) -> None:
        self.checks.append(check)
        self.seen.append(weights(self.model))
        if len(self.checks) == self.at_check:
            raise KeyboardInterrupt


def test_the_same_seed_gives_the_same_weights_to_the_last_bit(make_model: MakeModel, parts: Parts) -> None:
    models = [make_model(mask_rate=0.1), make_model(mask_rate=0.1)]
    histories = []
    for model in models:
        torch.rand(17)  # the global generator plays no part
        histories.append(train(model, *parts, SHORT))
    assert same(weights(models[0]), weights(models[1]))
    losses = [[check.validation_loss for check in history.checks] for history in histories]
    assert losses[0] == losses[1]


def test_another_seed_gives_other_weights(make_model: MakeModel, parts: Parts) -> None:
    models = [make_model(), make_model()]
    for seed, model in enumerate(models):
        train(model, *parts, replace(SHORT, seed=seed))
    assert not same(weights(models[0]), weights(models[1]))


def test_training_leaves_the_global_random_state_alone(make_model: MakeModel, parts: Parts) -> None:
    state = torch.get_rng_state()
    train(make_model(), *parts, replace(SHORT, max_steps=30))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("kind", ["vae", "beta-vae", "autoencoder", "denoising-autoencoder"])
def test_training_lowers_the_validation_loss(make_model: MakeModel, parts: Parts, kind: str) -> None:
    model = make_model(kind=kind)
    train_rows, validation_rows = parts
    noise = Noise(torch.zeros(1, len(validation_rows.observed), model.k))
    with torch.no_grad():
        before = objective(model, validation_rows, noise).item()
    history = train(model, train_rows, validation_rows, replace(SHORT, learning_rate=1e-2))
    with torch.no_grad():
        after = objective(model, validation_rows, noise).item()
    assert after < before - 0.25
    assert history.best.validation_loss < history.checks[0].validation_loss


def test_the_weights_of_the_best_validation_loss_are_kept_not_the_last(make_model: MakeModel) -> None:
    model = make_model()
    train_rows = model.preparation(
        torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) * 0.1 + 2.0,
        torch.zeros(40, 1, dtype=torch.int64),
    )
    validation_rows = model.preparation(torch.full((20, 3), 0.7), torch.ones(20, 1, dtype=torch.int64))
    watcher = Watcher(model)
    settings = TrainingSettings(max_steps=400, patience=1000, learning_rate=1e-2, device="cpu")
    history = train(model, train_rows, validation_rows, settings, [watcher])
    best = min(range(len(history.checks)), key=lambda i: history.checks[i].validation_loss)
    assert best < len(history.checks) - 1  # the training rows lead away from the validation rows
    assert same(weights(model), watcher.seen[best])
    assert not same(weights(model), watcher.seen[-1])
    assert history.best is history.checks[best]
    lowest = itertools.accumulate((check.validation_loss for check in history.checks), min)
    assert [check.best for check in history.checks] == [
        check.validation_loss == low for check, low in zip(history.checks, lowest, strict=True)
    ]


def test_training_stops_when_nothing_is_gained(make_model: MakeModel, parts: Parts) -> None:
    history = train(make_model(), *parts, replace(SHORT, max_steps=5000, patience=3, min_gain=1e9))
    assert history.stopped == "no_gain"
    assert len(history.checks) == 4  # the first one always gains on nothing
    assert history.steps == history.checks[-1].step == 100


def test_training_goes_on_while_something_is_gained(make_model: MakeModel, parts: Parts) -> None:
    history = train(make_model(), *parts, replace(SHORT, max_steps=110, patience=10, min_gain=0.0))
    assert history.stopped == "max_steps"
    assert history.steps == 110
    assert [check.step for check in history.checks] == [25, 50, 75, 100, 110]


def test_fewer_steps_than_a_check_are_still_checked(make_model: MakeModel, parts: Parts) -> None:
    history = train(make_model(), *parts, replace(SHORT, max_steps=3))
    assert [check.step for check in history.checks] == [3]
    assert math.isfinite(history.best.validation_loss)


@pytest.mark.parametrize("at", [{"at_step": 90}, {"at_check": 3}, {"at_check": 1}])
def test_an_interrupt_keeps_the_best_weights_so_far(make_model: MakeModel, parts: Parts, at: dict[str, Any]) -> None:
    model = make_model()
    watcher = Watcher(model, **at)
    history = train(model, *parts, replace(SHORT, max_steps=5000), [watcher])
    assert history.stopped == "interrupted"
    assert history.steps < 120
    best = watcher.checks.index(history.best)
    assert same(weights(model), watcher.seen[best])
    assert not same(weights(model), weights(make_model()))


def test_an_interrupt_before_the_first_check_keeps_the_weights_as_they_are(make_model: MakeModel, parts: Parts) -> None:
    model, untouched = make_model(), make_model()
    history = train(model, *parts, SHORT, [Watcher(model, at_step=10)])
    assert history.stopped == "interrupted"
    assert history.steps == 10
    assert len(history.checks) == 1
    assert math.isfinite(history.best.validation_loss)
    other = make_model()
    train(other, *parts, SHORT, [Watcher(other, at_step=10)])
    assert same(weights(model), weights(other))
    assert not same(weights(model), weights(untouched))


def test_an_interrupt_at_the_very_first_step_leaves_a_model_that_scores(make_model: MakeModel, parts: Parts) -> None:
    model = make_model()
    history = train(model, *parts, SHORT, [Watcher(model, at_step=1)])
    assert history.stopped == "interrupted"
    assert all(torch.isfinite(value).all() for value in model.state_dict().values() if value.is_floating_point())


@pytest.mark.parametrize("interrupt_at", [None, 5])
def test_a_rate_that_explodes_leaves_no_weights_that_are_not_numbers(
    make_model: MakeModel, parts: Parts, interrupt_at: int | None
) -> None:
    model = make_model(likelihood="mse")
    history = train(model, *parts, replace(SHORT, learning_rate=1e36), [Watcher(model, at_step=interrupt_at)])
    assert history.best.validation_loss == math.inf  # it did explode, and a fit refuses this
    assert history.stopped == ("diverged" if interrupt_at is None else "interrupted")
    floats = [value for value in model.state_dict().values() if value.is_floating_point()]
    assert all(torch.isfinite(value).all() for value in floats)


def test_a_training_that_goes_astray_later_keeps_the_best_weights_and_says_so(
    make_model: MakeModel, parts: Parts
) -> None:
    model = make_model()

    class Poison(Watcher):
        def on_step(self, step: int, max_steps: int, rows: int) -> None:
            if step == 60:
                next(iter(model.decoder.parameters())).data.fill_(math.nan)

    watcher = Poison(model)
    history = train(model, *parts, replace(SHORT, max_steps=5000), [watcher])
    assert history.stopped == "diverged"
    assert history.steps == 75
    assert [math.isfinite(check.validation_loss) for check in history.checks] == [True, True, False]
    assert [check.step for check in history.checks] == [25, 50, 75]
    assert same(weights(model), watcher.seen[history.checks.index(history.best)])


def test_hooks_are_told_of_every_step_and_check(make_model: MakeModel, parts: Parts) -> None:
    model = make_model()
    first, second = Watcher(model), Watcher(model)
    history = train(model, *parts, SHORT, [first, second])
    assert first.steps == second.steps == [(step, 120, 40) for step in range(1, 121)]
    assert first.checks == second.checks == history.checks
    assert [check.epoch for check in history.checks] == [check.step * 40 / 400 for check in history.checks]
    assert all(math.isfinite(check.train_loss) for check in history.checks)
    assert all(left.seconds <= right.seconds for left, right in itertools.pairwise(history.checks))


def test_the_rate_warms_up_and_then_falls_to_a_twentieth(make_model: MakeModel, parts: Parts) -> None:
    history = train(make_model(), *parts, replace(SHORT, max_steps=500, patience=100, learning_rate=0.01))
    rates = [check.learning_rate for check in history.checks]
    assert history.checks[0].step == 25
    assert rates[0] < rates[1]
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] == pytest.approx(0.0005)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.data())
def test_batches_take_every_row_once_a_pass(n: int, data: st.DataObject) -> None:
    batch = data.draw(st.integers(1, n))
    batches = _batches(n, batch, torch.Generator().manual_seed(n))
    drawn = list(itertools.islice(batches, 3 * n))
    assert {len(rows) for rows in drawn} == {batch}
    stream = torch.cat(drawn)
    for start in range(0, 3 * n - n + 1, n):
        assert sorted(stream[start : start + n].tolist()) == list(range(n))


def test_passes_come_in_different_orders() -> None:
    first, second = itertools.islice(_batches(50, 50, torch.Generator().manual_seed(0)), 2)
    assert not torch.equal(first, second)


def test_cuda_is_refused_clearly_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError, match="no CUDA device here; use --device cpu, or auto"):
        choose_device("cuda")
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")


def test_auto_takes_a_gpu_where_there_is_one_and_cpu_means_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"max_steps": 0}, "training.max_steps"),
        ({"batch_rows": 0}, "training.batch_rows"),
        ({"learning_rate": 0.0}, "training.learning_rate"),
        ({"learning_rate": math.nan}, "training.learning_rate"),
        ({"learning_rate": math.inf}, "training.learning_rate"),
        ({"max_gradient_norm": -1.0}, "training.max_gradient_norm"),
        ({"patience": 0}, "training.patience"),
        ({"min_gain": -1e-9}, "training.min_gain"),
        ({"min_gain": math.nan}, "training.min_gain"),
        ({"device": "tpu"}, "training.device"),
    ],
)
def test_settings_that_train_nothing_are_refused_by_name(changes: dict[str, Any], names: str) -> None:
    with pytest.raises(SettingError, match=names):
        TrainingSettings(**changes)


@given(st.integers(1, 10**7), st.none() | st.integers(1, 10**5))
def test_a_step_never_takes_more_rows_than_there_are(rows: int, asked: int | None) -> None:
    batch = TrainingSettings(batch_rows=asked).batch_of(rows)
    assert 1 <= batch <= rows
    assert asked is None or batch == min(asked, rows)
