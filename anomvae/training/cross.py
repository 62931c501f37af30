"""Cross-fitting: the detector trained on every row, beside it one network a fold that never meets its fold's rows.

All networks start from the same weights and take the same batches, noise and exemplars, so that their scores are of one
level and those of the folds can calibrate the detector's.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import torch

from anomvae.training.exemplars import PER_ROW
from anomvae.training.loop import (
    MOST_VALIDATION_ROWS,
    QUICK_FACTOR,
    Course,
    History,
    Hook,
    most_between_checks,
    validation_noise,
)
from anomvae.vae.exemplars import ExemplarPrior
from anomvae.vae.objective import (
    Noise,
    bound_of_rows,
    draw_noise,
    encode_exemplars,
    objective_of_rows,
    store_pseudo_rows,
)
from anomvae.vae.stack import NetworkStack, stacked_exemplar_objective

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from anomvae.training.exemplars import ExemplarPool
    from anomvae.training.settings import TrainingSettings
    from anomvae.vae.model import TableVAE
    from anomvae.vae.preparation import Rows, StoredRows


def train_folds(
    model: TableVAE,
    rows: Rows | StoredRows,
    folds: Tensor,
    settings: TrainingSettings,
    hooks: Sequence[Hook] = (),
    pool: ExemplarPool | None = None,
) -> tuple[History, list[TableVAE]]:
    """Fits the model on all rows, and one network a fold on the rows of the others.

    The steps are as many for all: those of the best bound on rows out of fold. Up to their number, nothing of a fold's rows
    reaches its network. A keyboard interrupt ends training early and cleanly: the best weights so far stand.

    Args:
        model: Fresh weights, on the device of the rows; left with those fitted on all rows.
        rows: Prepared rows.
        folds: Fold of each row, 0 to K - 1, none empty, int64, shape ``(n,)``.
        settings: How.
        hooks: Told of every step and check; the training loss is that of the model, the validation loss is out of fold.
        pool: The exemplars to train against, of the same folds; for a model with an exemplar prior, and only for it.

    Returns:
        What happened, and the networks of the folds.

    References:
        Cross-conformal predictors (Vovk, 2015), arXiv:1208.0806
    """
    learner = _Folds(model, rows, folds, settings, pool)
    history = Course(learner, len(folds), most_between_checks(model), settings, hooks).run()
    learner.restore()
    learner.stack.write(learner.count, model)
    networks = [learner.stack.network(fold) for fold in range(learner.count)]
    for each in (model, *networks):
        store_pseudo_rows(each)
    return history, networks


class _Folds:
    """The networks of the folds, and after them that of all rows; arguments as for :func:`train_folds`."""

    def __init__(
        self,
        model: TableVAE,
        rows: Rows | StoredRows,
        folds: Tensor,
        settings: TrainingSettings,
        pool: ExemplarPool | None,
    ) -> None:
        self.model, self.rows, self.settings, self.pool = model, rows, settings, pool
        device = rows.x.device
        self.folds, self.count = folds.to(device), int(folds.max()) + 1
        self.stack = NetworkStack(model, self.count + 1)
        self.numbers = torch.arange(self.count + 1, device=device)[:, None]
        self.generator = torch.Generator(device).manual_seed(settings.seed)
        factors = (1.0, QUICK_FACTOR if isinstance(model.prior, ExemplarPrior) else 1.0)
        groups = [
            {"params": [flat], "factor": factor}
            for flat, factor in zip(self.stack.flat, factors, strict=True)
            if flat.numel()
        ]
        self.optimiser: torch.optim.Optimizer = torch.optim.Adam(groups, lr=settings.rate, fused=True)
        self.still = validation_noise(model, MOST_VALIDATION_ROWS, settings.seed, device)
        self.held_out, self.seat = self._held_out(), copy.deepcopy(model)
        self.plain = self.stack.each(_weighted, per_network=(False, False, True))
        self.keep()

    def _held_out(self) -> list[Tensor]:
        """Positions of the rows of each fold that are looked at."""
        draw = torch.randperm(len(self.folds), generator=torch.Generator().manual_seed(self.settings.seed + 4))
        looked_at = draw[:MOST_VALIDATION_ROWS].sort().values.to(self.folds.device)
        return [looked_at[self.folds[looked_at] == fold] for fold in range(self.count)]

    def descend(self, batch: Tensor) -> Tensor:
        """See :class:`~anomvae.training.loop.Learner`; the objective is that of the model."""
        losses = self._losses(batch)
        self.optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self._clip()
        self.optimiser.step()
        return losses[-1].detach()

    def _losses(self, batch: Tensor) -> Tensor:
        """Mean objective of each network over the rows it may meet, nats, shape ``(count + 1,)``."""
        rows, meets_not = self.rows.take(batch), self.folds[batch] == self.numbers
        if self.pool is None:
            noise = draw_noise(self.model, len(batch), self.generator)
            return self.plain(rows, noise, _shares(~meets_not))
        drawn = self.pool.draw(batch, self.generator)
        noise = draw_noise(self.model, len(batch) + len(drawn.positions), self.generator)
        # A row of a fold says by its place which exemplars are near it: those that it drew are closed as well.
        closed = (self.folds[drawn.positions] == self.numbers) | meets_not.repeat_interleave(PER_ROW, dim=1)
        answered = (~closed).to(torch.float32) @ (~drawn.own).to(torch.float32).T > 0
        score, penalty = stacked_exemplar_objective(self.stack, rows, drawn.rows, drawn.own, closed, noise)
        return (score * _shares(~meets_not & answered)).sum(dim=1) + penalty

    @torch.no_grad()
    def _clip(self) -> None:
        """Scales each network's gradient down to the largest norm, as if it were alone."""
        gradients = [flat.grad for flat in self.stack.flat if flat.grad is not None]
        norm = sum(gradient.square().sum(dim=1, keepdim=True) for gradient in gradients) ** 0.5
        for gradient in gradients:
            gradient.mul_(torch.clamp(self.settings.max_gradient_norm / (norm + 1e-6), max=1.0))

    @torch.no_grad()
    def bound(self) -> float:
        """See :class:`~anomvae.training.loop.Learner`: every row by the network of its fold."""
        if not all(torch.isfinite(flat).all() for flat in self.stack.flat):
            return math.inf
        total = sum(self._bounds(fold, part) for fold, part in enumerate(self.held_out) if len(part))
        bound = float(total) / sum(map(len, self.held_out))
        return bound if math.isfinite(bound) else math.inf

    def _bounds(self, fold: int, part: Tensor) -> Tensor:
        """The bound of rows of a fold, summed."""
        rows, model = self.rows.take(part), self.seat
        self.stack.write(fold, model)
        if self.pool is None:
            return objective_of_rows(model, rows, Noise(self.still[:, : len(part)])).sum()
        met = self.pool.positions[self.folds[self.pool.positions] != fold]
        return bound_of_rows(model, rows, encode_exemplars(model, self.pool.rows.take(met))).sum()

    def keep(self) -> None:
        """See :class:`~anomvae.training.loop.Learner`."""
        self.best = [flat.detach().clone() for flat in self.stack.flat]

    @torch.no_grad()
    def restore(self) -> None:
        """Goes back to the weights last kept."""
        for flat, best in zip(self.stack.flat, self.best, strict=True):
            flat.copy_(best)


def _weighted(model: TableVAE, rows: Rows, noise: Noise, share: Tensor) -> Tensor:
    return (objective_of_rows(model, rows, noise) * share).sum()


def _shares(counted: Tensor) -> Tensor:
    """Weights of a mean over the rows that count, by network; nil where none does; shape of `counted`."""
    weight = counted.to(torch.float32)
    return weight / torch.clamp(weight.sum(dim=1, keepdim=True), min=1.0)
