"""The training loop: the whole data set as tensors, steps drawn from it, the best weights kept."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from anomvae.errors import SettingError
from anomvae.vae.exemplars import ExemplarPrior
from anomvae.vae.objective import (
    Noise,
    bound_of_rows,
    draw_noise,
    exemplar_objective,
    objective,
    shrinkage,
    store_pseudo_rows,
)
from anomvae.vae.stack import QUICK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from anomvae.training.exemplars import ExemplarPool
    from anomvae.training.settings import TrainingSettings
    from anomvae.vae.model import TableVAE
    from anomvae.vae.preparation import Rows, StoredRows

WARM_UP_STEPS = 50
VALIDATION_CHUNK = 8192
MOST_VALIDATION_ROWS = 1_000
"""Validation rows held against all exemplars at a check."""
MOST_BETWEEN_CHECKS = {False: 200, True: 100}
QUICK_FACTOR = 10.0


@dataclass(frozen=True, slots=True)
class Check:
    """One look at the validation bound.

    Attributes:
        step: Steps taken.
        epoch: Passes over the training rows taken.
        train_loss: Mean objective of the steps since the last check, nats.
        validation_loss: Objective on the validation rows with fixed noise, nats.
        learning_rate: Rate of the last step.
        seconds: Since the start.
        best: Whether it is the best so far.
    """

    step: int
    epoch: float
    train_loss: float
    validation_loss: float
    learning_rate: float
    seconds: float
    best: bool


class Hook(Protocol):
    """Watches a training run."""

    def on_step(self, step: int, max_steps: int, rows: int) -> None:
        """Called after every step with the rows it took."""

    def on_check(self, check: Check) -> None:
        """Called after every look at the validation bound."""


@dataclass(slots=True)
class History:
    """What happened.

    Attributes:
        checks: Every look at the validation bound.
        stopped: Why training ended: `max_steps`, `no_gain`, `interrupted` or `diverged` (the loss was no number any more).
        steps: Steps taken.
    """

    checks: list[Check] = field(default_factory=list)
    stopped: str = "max_steps"
    steps: int = 0

    @property
    def best(self) -> Check:
        """The check whose weights were kept."""
        return min(self.checks, key=lambda check: check.validation_loss)


def choose_device(asked: str) -> torch.device:
    """The device to train on.

    Raises:
        SettingError: `cuda` was asked for and there is none.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        raise SettingError("--device cuda: torch finds no CUDA device here; use --device cpu, or auto")
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")


@contextlib.contextmanager
def cpu_threads(threads: int) -> Iterator[None]:
    """Runs torch with a number of CPU threads, then as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Learner(Protocol):
    """What a course teaches: one network, or several in lock-step.

    Attributes:
        optimiser: Its groups carry a `factor` on the common rate.
        generator: Source of every draw.
    """

    optimiser: torch.optim.Optimizer
    generator: torch.Generator

    def descend(self, batch: Tensor) -> Tensor:
        """Takes one step on rows by position; their mean objective before it, nats."""

    def bound(self) -> float:
        """The objective on rows not trained on, nats; infinite where it is no number."""

    def keep(self) -> None:
        """Remembers the weights as they are."""


class Course:
    """Steps, looks at the bound, and when to stop.

    Args:
        learner: What is taught.
        rows: Training rows.
        between_checks: Most steps between two looks.
        settings: How.
        hooks: Told of every step and check.
    """

    def __init__(
        self, learner: Learner, rows: int, between_checks: int, settings: TrainingSettings, hooks: Sequence[Hook]
    ) -> None:
        self.learner, self.n, self.settings, self.hooks = learner, rows, settings, hooks
        self.batch = settings.batch_of(rows)
        self.every = max(25, min(between_checks, math.ceil(rows / self.batch)))
        self.batches = _batches(rows, self.batch, learner.generator)
        self.history = History()
        self.best, self.stale, self.rate = math.inf, 0, 0.0
        self.recent, self.checked_at = torch.zeros((), device=learner.generator.device), 0
        self.started = time.monotonic()

    def run(self) -> History:
        """Trains; the learner has kept the best weights. A keyboard interrupt ends it early and cleanly."""
        try:
            for step in range(1, self.settings.steps + 1):
                self._step(step)
                if step % self.every == 0 or step == self.settings.steps:
                    self._check()
                    if not math.isfinite(self.history.checks[-1].validation_loss):
                        self.history.stopped = "diverged"
                        break
                if self.stale >= self.settings.patience:
                    self.history.stopped = "no_gain"
                    break
        except KeyboardInterrupt:
            self.history.stopped = "interrupted"
        if not self.history.checks:
            self._check()
        return self.history

    def _step(self, step: int) -> None:
        self.rate = _set_rate(self.learner.optimiser, step, self.settings)
        self.recent += self.learner.descend(next(self.batches))
        self.history.steps = step
        for hook in self.hooks:
            hook.on_step(step, self.settings.steps, self.batch)

    def _check(self) -> None:
        """Looks at the bound and keeps the weights if they are the best so far."""
        bound = self.learner.bound()
        step, taken = self.history.steps, max(1, self.history.steps - self.checked_at)
        is_best = bound < self.best or not self.history.checks
        self.stale = 0 if bound < self.best - self.settings.min_gain else self.stale + 1
        if is_best:
            self.best = bound
            if math.isfinite(bound):
                self.learner.keep()
        check = Check(
            step=step,
            epoch=step * self.batch / self.n,
            train_loss=self.recent.item() / taken,
            validation_loss=bound,
            learning_rate=self.rate,
            seconds=time.monotonic() - self.started,
            best=is_best,
        )
        self.recent.zero_()
        self.checked_at = step
        self.history.checks.append(check)
        for hook in self.hooks:
            hook.on_check(check)


def train(
    model: TableVAE,
    train_rows: Rows | StoredRows,
    validation_rows: Rows | StoredRows,
    settings: TrainingSettings,
    hooks: Sequence[Hook] = (),
    pool: ExemplarPool | None = None,
) -> History:
    """Fits the model in place and leaves it with the weights of the best validation bound.

    A keyboard interrupt ends training early and cleanly: the best weights so far stand.

    Args:
        model: Fresh weights, on the device of the rows.
        train_rows: Prepared rows.
        validation_rows: Prepared rows that decide when to stop.
        settings: How.
        hooks: Told of every step and check.
        pool: The exemplars to train against; for a model with an exemplar prior, and only for it.
    """
    learner = _Single(model, train_rows, validation_rows, settings, pool)
    history = Course(learner, len(train_rows.observed), most_between_checks(model), settings, hooks).run()
    model.load_state_dict(learner.best_weights)
    store_pseudo_rows(model)
    return history


class _Single:
    """One network; arguments as for :func:`train`."""

    def __init__(
        self,
        model: TableVAE,
        train_rows: Rows | StoredRows,
        validation_rows: Rows | StoredRows,
        settings: TrainingSettings,
        pool: ExemplarPool | None,
    ) -> None:
        self.model, self.train_rows, self.validation_rows = model, train_rows, validation_rows
        self.settings, self.pool = settings, pool
        device = train_rows.x.device
        self.generator = torch.Generator(device).manual_seed(settings.seed)
        self.optimiser: torch.optim.Optimizer = torch.optim.Adam(_groups(model), lr=settings.rate, fused=True)
        self.still = validation_noise(model, len(validation_rows.observed), settings.seed, device)
        self.keep()

    def descend(self, batch: Tensor) -> Tensor:
        """See :class:`Learner`."""
        loss = self._loss(batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_gradient_norm)
        self.optimiser.step()
        return loss.detach()

    def _loss(self, batch: Tensor) -> Tensor:
        rows = self.train_rows.take(batch)
        if self.pool is None:
            return objective(self.model, rows, draw_noise(self.model, len(batch), self.generator))
        drawn = self.pool.draw(batch, self.generator)
        noise = draw_noise(self.model, len(batch) + len(drawn.positions), self.generator)
        return exemplar_objective(self.model, rows, drawn.rows, drawn.own, noise) + shrinkage(self.model)

    def bound(self) -> float:
        """See :class:`Learner`."""
        return _validation_loss(self.model, self.validation_rows, self.still, self.pool)

    def keep(self) -> None:
        """See :class:`Learner`."""
        self.best_weights = copy.deepcopy(self.model.state_dict())


def most_between_checks(model: TableVAE) -> int:
    """Most steps between two looks at the bound."""
    return MOST_BETWEEN_CHECKS[isinstance(model.prior, ExemplarPrior)]


def _set_rate(optimiser: torch.optim.Optimizer, step: int, settings: TrainingSettings) -> float:
    """Warm-up, then half a cosine down to a twentieth."""
    warm = min(1.0, step / WARM_UP_STEPS)
    cosine = 0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * step / settings.steps))
    rate = settings.rate * warm * cosine
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]
    return rate


def _groups(model: TableVAE) -> list[dict[str, Any]]:
    """Networks at the common rate; under exemplars the variances, carries and copies at ten times it.

    They are few, see every row, and start far from where they belong: at the common rate the schedule would decide them.
    """
    quick = QUICK if isinstance(model.prior, ExemplarPrior) else ()
    slow = [weight for name, weight in model.named_parameters() if not name.startswith(quick or ("-",))]
    fast = [weight for name, weight in model.named_parameters() if quick and name.startswith(quick) and weight.numel()]
    groups: list[dict[str, Any]] = [{"params": slow, "factor": 1.0}]
    return [*groups, {"params": fast, "factor": QUICK_FACTOR}] if fast else groups


def _batches(n: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row numbers of each step, every row once a pass; a pass's last rows open the next one."""
    waiting = torch.empty(0, dtype=torch.int64, device=generator.device)
    while True:
        waiting = torch.cat([waiting, torch.randperm(n, generator=generator, device=generator.device)])
        while len(waiting) >= batch:
            yield waiting[:batch]
            waiting = waiting[batch:]


def validation_noise(model: TableVAE, n: int, seed: int, device: torch.device) -> Tensor:
    """Fixed noise, so that two checks differ by the weights alone; shape ``(1, at most 8192, k)``."""
    draw = torch.randn(1, min(n, VALIDATION_CHUNK), model.k, generator=torch.Generator().manual_seed(seed + 1))
    return draw.to(device)


@torch.no_grad()
def _validation_loss(model: TableVAE, rows: Rows | StoredRows, still: Tensor, pool: ExemplarPool | None) -> float:
    n = len(rows.observed)
    if pool is not None:
        n = min(n, MOST_VALIDATION_ROWS)
        part = rows.take(torch.arange(n, device=still.device))
        bound = bound_of_rows(model, part, pool.encode(model)).mean().item()
        return bound if math.isfinite(bound) else math.inf
    total = 0.0
    chunk = model.layout.chunk_rows(VALIDATION_CHUNK)
    for start in range(0, n, chunk):
        part = rows.take(torch.arange(start, min(n, start + chunk), device=still.device))
        size = len(part.observed)
        total += objective(model, part, Noise(still[:, :size])).item() * size
    bound = total / max(1, n)
    return bound if math.isfinite(bound) else math.inf
