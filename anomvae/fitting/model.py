"""The middle of a fit: weights, then exemplars and seen values, then the scores that calibrate."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from anomvae.errors import SettingError
from anomvae.training.cross import train_folds
from anomvae.training.exemplars import ExemplarPool, cover, points_of
from anomvae.training.loop import History, Hook, cpu_threads, train
from anomvae.vae.exemplars import ExemplarPrior
from anomvae.vae.layout import layout_of
from anomvae.vae.model import TableVAE
from anomvae.vae.novelty import Novelty
from anomvae.vae.objective import encode_exemplars
from anomvae.vae.preparation import Rows, StoredRows
from anomvae.vae.scores import RowScorer, RowScores
from anomvae.vae.settings import DEFAULT_EXEMPLARS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anomvae.data.encoding import EncodedRows
    from anomvae.data.splits import RowSplit
    from anomvae.fitting.preparation import PreparedData
    from anomvae.fitting.settings import FitSettings
    from anomvae.vae.layout import Scaling

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
Arrays = dict[str, npt.NDArray[Any]]
SCORING_CHUNK = 8192
MOST_TRAIN_ROWS = 50_000
"""Rows that steps are drawn from under exemplars: more than a default fit visits."""
MOST_CANDIDATES = 20_000
"""Rows that exemplars are chosen from, drawn where there are more."""
MOST_NOVELTY_ROWS = 20_000
"""Rows that seen values are learnt from, drawn where there are more."""


@dataclass(frozen=True, slots=True)
class FittedModel:
    """A model with all it stores.

    Attributes:
        model: On the CPU, in evaluation mode.
        history: What happened in training.
        exemplar_of: Position of each normal row among the exemplars, -1 for none.
        learnt: Whether each normal row taught the seen values.
        folds: Fold of each normal row; None without folds.
        fold_networks: Per fold a network trained beside the model without the fold's rows; it stores what the model does, and
            of a row that it scores only the row itself is left out. None without folds.
        apart: Whether each normal row is scored as one of a group not met before; None: none is.
        apart_networks: The networks of the folds again, storing nothing of their fold: they score the rows that are apart.
    """

    model: TableVAE
    history: History
    exemplar_of: IntArray
    learnt: npt.NDArray[np.bool_]
    folds: IntArray | None = None
    fold_networks: tuple[TableVAE, ...] = ()
    apart: npt.NDArray[np.bool_] | None = None
    apart_networks: tuple[TableVAE, ...] = ()

    def score(self, rows: EncodedRows, positions: IntArray) -> tuple[FloatArray, FloatArray]:
        """Scores normal rows as if the model did not hold them, nor, under folds, had been trained on them.

        Args:
            rows: All normal rows.
            positions: Which of them.

        Returns:
            Score and reconstruction error, each of the shape of `positions`.
        """
        score, error = (np.empty(len(positions), dtype=np.float32) for _ in range(2))
        for part, answers in self._answers(rows.take(positions), positions):
            score[part], error[part] = answers.score.numpy(), answers.reconstruction_error.numpy()
        return score, error

    def explain(self, rows: EncodedRows, positions: IntArray | None = None) -> Arrays:
        """All answers for rows, by the names of :class:`~anomvae.vae.scores.RowScores`.

        Args:
            rows: n rows.
            positions: The normal row that each of them is, or was made from by altering it, shape ``(n,)``: it is answered
                in that row's place, by a network that has not met that row, and as if the network did not hold it. None:
                rows that the model does not know.
        """
        parts = list(self._answers(rows, positions))
        back = np.argsort(np.concatenate([part for part, _ in parts]), kind="stable")
        answers = zip(*(answers for _, answers in parts), strict=True)
        found = (np.concatenate([part.numpy() for part in each])[back] for each in answers)
        return dict(zip(RowScores._fields, found, strict=True))

    def witness(self, split: RowSplit) -> tuple[TableVAE, IntArray, IntArray, IntArray]:
        """A network, rows it was not trained on, their positions among its exemplars, and the rows it was trained on."""
        if self.folds is None:
            return self.model, split.validation, self.exemplar_of[split.validation], split.train
        held_out, met = np.flatnonzero(self.folds == 0), np.flatnonzero(self.folds != 0)
        if self.apart is not None:
            return self.apart_networks[0], held_out, np.full(len(held_out), -1), met
        return self.fold_networks[0], held_out, self.exemplar_of[held_out], met

    def _answers(self, rows: EncodedRows, positions: IntArray | None) -> Iterator[tuple[IntArray, RowScores]]:
        """Answers for rows some at a time: which of them, and the answers; arguments as for :meth:`explain`."""
        n = len(rows)
        network, own, learnt = np.zeros(n, dtype=np.int64), np.full(n, -1), np.zeros(n, dtype=np.bool_)
        models: tuple[TableVAE, ...] = (self.model,)
        if positions is not None:
            own, learnt = self.exemplar_of[positions], self.learnt[positions]
            if self.folds is not None:
                models, network = (*self.fold_networks, *self.apart_networks), self.folds[positions]
            if self.apart is not None:
                apart = self.apart[positions]
                network = network + apart * len(self.fold_networks)
                own, learnt = np.where(apart, -1, own), learnt & ~apart
        asked = [
            (model, known, np.flatnonzero((network == at) & (learnt == known)))
            for at, model in enumerate(models)
            for known in (False, True)
        ]
        chunk = self.model.layout.chunk_rows(SCORING_CHUNK)
        for model, known, which in asked if n else asked[:1]:  # no rows have answers too, of no length
            scorer = RowScorer(model).eval()
            for start in range(0, max(len(which), not n), chunk):
                part = which[start : start + chunk]
                taken = rows.take(part)
                given = (torch.from_numpy(each) for each in (taken.numeric, taken.categorical, own[part]))
                with torch.no_grad():
                    yield part, scorer(*given, learnt=known)


def calibration_scores(fitted: FittedModel, prepared: PreparedData) -> tuple[FloatArray, FloatArray]:
    """Scores and reconstruction errors of the calibration rows, none answering for itself."""
    return fitted.score(prepared.normal, prepared.split.calibration)


def fit_model(
    prepared: PreparedData, settings: FitSettings, device: torch.device, hooks: Sequence[Hook] = ()
) -> FittedModel:
    """Fits the weights, then stores exemplars and seen values.

    Rows divided at random are exchangeable: validation and calibration rows, which the weights have not seen, join the
    exemplars and the seen values, and no row ever answers for itself. Divided by time or by group only the training rows
    do: neighbours would answer for one another. Under folds all rows train and are stored, and beside the model a network
    a fold is fitted that scores the fold's rows.
    """
    settings, split = settings.resolved(), prepared.split
    scaling: Scaling = "unit" if settings.model.likelihood == "bernoulli" else "standard"
    layout = layout_of(prepared.columns, len(split.train), scaling)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        model = TableVAE(layout, settings.model).to(device)
    with cpu_threads(settings.training.threads):
        history, networks = _train(model, prepared, settings, hooks)
        if not math.isfinite(history.best.validation_loss):
            raise SettingError(
                "training diverged: the validation bound was never a number; lower training.learning_rate"
                f" ({settings.training.rate:g}) or use model.likelihood = 'student-t' for wild numbers"
            )
        model, networks = model.to("cpu").eval(), [each.to("cpu").eval() for each in networks]
        held = [split.train] if split.folds is not None or split.how != "random" else [*_parts(split)]
        stored = _store(model, prepared, settings, np.sort(np.concatenate(held)))
        apart = [copy.deepcopy(each) for each in networks] if split.apart is not None else []
        for each in networks:
            _store_alike(each, model, prepared, stored.chosen)
        for fold, each in enumerate(apart):
            _store(each, prepared, settings, np.flatnonzero(split.folds != fold))
    return FittedModel(
        model, history, stored.exemplar_of, stored.learnt, split.folds, tuple(networks), split.apart, tuple(apart)
    )


def _train(
    model: TableVAE, prepared: PreparedData, settings: FitSettings, hooks: Sequence[Hook]
) -> tuple[History, list[TableVAE]]:
    """Fits the weights; under folds those of the folds' networks too, which are returned."""
    split, seed, device = prepared.split, settings.training.seed, model.preparation.offset.device
    has_exemplars = isinstance(model.prior, ExemplarPrior)
    positions = _drawn(split.train, MOST_TRAIN_ROWS, seed) if has_exemplars else split.train
    rows = _tensors(model, prepared.normal.take(positions), device)
    folds = None if split.folds is None else torch.from_numpy(split.folds[positions])
    pool = ExemplarPool(rows, _exemplars(settings), seed, folds) if has_exemplars else None
    if folds is not None:
        return train_folds(model, rows, folds, settings.training, hooks, pool)
    validation = _tensors(model, prepared.normal.take(split.validation), device)
    return train(model, rows, validation, settings.training, hooks, pool), []


class _Stored(NamedTuple):
    """Which normal rows a model stores: positions of the exemplars, then as in :class:`FittedModel`."""

    chosen: IntArray
    exemplar_of: IntArray
    learnt: npt.NDArray[np.bool_]


def _store(model: TableVAE, prepared: PreparedData, settings: FitSettings, positions: IntArray) -> _Stored:
    """Stores exemplars and seen values of normal rows; says which rows they are."""
    seed, n = settings.training.seed, len(prepared.normal)
    exemplar_of, learnt = np.full(n, -1, dtype=np.int64), np.zeros(n, dtype=np.bool_)
    kept = positions[:0]
    if isinstance(model.prior, ExemplarPrior):
        candidates = _drawn(positions, MOST_CANDIDATES, seed)
        rows = _tensors(model, prepared.normal.take(candidates), torch.device("cpu"))
        points = torch.cat([points_of(part) for part in _chunks(rows, model)])
        count = _exemplars(settings)
        chosen = cover(points, count, torch.Generator().manual_seed(seed + 3))
        with torch.no_grad():
            model.prior.store(encode_exemplars(model, rows.take(chosen)))
        alone = _has_no_copy(points)[chosen.numpy()] | (len(points) <= count)  # where all are stored, copies are too
        kept = candidates[chosen.numpy()]
        exemplar_of[kept[alone]] = np.flatnonzero(alone)
    if settings.model.has_novelty:
        taught = _drawn(positions, MOST_NOVELTY_ROWS, seed)
        rows_taught = prepared.normal.take(taught)
        model.novelty = Novelty.learn(
            model.layout,
            rows_taught.numeric,
            rows_taught.categorical,
            seed=seed,
            least=settings.model.novelty_least,
        )
        learnt[taught] = True
    return _Stored(kept, exemplar_of, learnt)


def _store_alike(network: TableVAE, model: TableVAE, prepared: PreparedData, chosen: IntArray) -> None:
    """Stores what another model does, encoded by the network itself."""
    if isinstance(network.prior, ExemplarPrior):
        rows = _tensors(network, prepared.normal.take(chosen), torch.device("cpu"))
        with torch.no_grad():
            network.prior.store(encode_exemplars(network, rows.take(torch.arange(len(chosen)))))
    network.novelty = model.novelty


def _parts(split: RowSplit) -> tuple[IntArray, IntArray, IntArray]:
    return split.train, split.validation, split.calibration


def _exemplars(settings: FitSettings) -> int:
    return settings.model.exemplars or DEFAULT_EXEMPLARS


def _drawn(positions: IntArray, most: int, seed: int) -> IntArray:
    """At most `most` of the positions, ascending."""
    if len(positions) <= most:
        return positions
    drawn: IntArray = np.sort(np.random.default_rng([seed, 5]).choice(positions, most, replace=False))
    return drawn


def _has_no_copy(points: torch.Tensor) -> npt.NDArray[np.bool_]:
    """Whether no other point is the same. A row that has a copy may answer for itself: left out, its copy would be stored."""
    _, inverse, counts = torch.unique(points, dim=0, return_inverse=True, return_counts=True)
    alone: npt.NDArray[np.bool_] = (counts[inverse] == 1).numpy()
    return alone


def _chunks(rows: StoredRows, model: TableVAE) -> list[Rows]:
    n, size = len(rows.observed), model.layout.chunk_rows(SCORING_CHUNK)
    return [rows.take(torch.arange(start, min(n, start + size))) for start in range(0, n, size)]


def _tensors(model: TableVAE, rows: EncodedRows, device: torch.device) -> StoredRows:
    with torch.no_grad():
        return StoredRows(
            model.preparation,
            torch.from_numpy(rows.numeric).to(device),
            torch.from_numpy(rows.categorical).to(device),
        )
