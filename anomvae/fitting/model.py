"""The middle of a fit: weights, then exemplars and seen values, then the scores that calibrate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from anomvae.errors import SettingError
from anomvae.training.exemplars import ExemplarPool, cover, points_of
from anomvae.training.loop import History, Hook, cpu_threads, train
from anomvae.vae.exemplars import ExemplarPrior
from anomvae.vae.layout import layout_of
from anomvae.vae.model import TableVAE
from anomvae.vae.novelty import Novelty
from anomvae.vae.objective import encode_exemplars
from anomvae.vae.preparation import Rows, StoredRows
from anomvae.vae.scores import RowScorer
from anomvae.vae.settings import DEFAULT_EXEMPLARS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.data.encoding import EncodedRows
    from anomvae.fitting.preparation import PreparedData
    from anomvae.fitting.settings import FitSettings
    from anomvae.vae.layout import Scaling

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
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
    """

    model: TableVAE
    history: History
    exemplar_of: IntArray
    learnt: npt.NDArray[np.bool_]

    def score(self, rows: EncodedRows, positions: IntArray) -> tuple[FloatArray, FloatArray]:
        """Scores normal rows as if the model did not hold them: none answers for itself.

        Args:
            rows: All normal rows.
            positions: Which of them.

        Returns:
            Score and reconstruction error, each of the shape of `positions`.
        """
        scorer = RowScorer(self.model).eval()
        chunk = self.model.layout.chunk_rows(SCORING_CHUNK)
        score, error = (np.empty(len(positions), dtype=np.float32) for _ in range(2))
        for learnt in (False, True):
            asked = np.flatnonzero(self.learnt[positions] == learnt)
            for start in range(0, len(asked), chunk):
                part = asked[start : start + chunk]
                taken = rows.take(positions[part])
                own = torch.from_numpy(self.exemplar_of[positions[part]])
                with torch.no_grad():
                    answers = scorer(
                        torch.from_numpy(taken.numeric), torch.from_numpy(taken.categorical), own, learnt=learnt
                    )
                score[part], error[part] = answers.score.numpy(), answers.reconstruction_error.numpy()
        return score, error


def calibration_scores(fitted: FittedModel, prepared: PreparedData) -> tuple[FloatArray, FloatArray]:
    """Scores and reconstruction errors of the calibration rows, none answering for itself."""
    return fitted.score(prepared.normal, prepared.split.calibration)


def fit_model(
    prepared: PreparedData, settings: FitSettings, device: torch.device, hooks: Sequence[Hook] = ()
) -> FittedModel:
    """Fits the weights, then stores exemplars and seen values.

    Rows divided at random are exchangeable: validation and calibration rows, which the weights have not seen, join the
    exemplars and the seen values, and no row ever answers for itself. Divided by time or by group only the training rows
    do: neighbours would answer for one another.
    """
    settings = settings.resolved()
    scaling: Scaling = "unit" if settings.model.likelihood == "bernoulli" else "standard"
    layout = layout_of(prepared.columns, len(prepared.split.train), scaling)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        model = TableVAE(layout, settings.model).to(device)
    train_rows = prepared.split.train
    if isinstance(model.prior, ExemplarPrior):
        train_rows = _drawn(train_rows, MOST_TRAIN_ROWS, settings.training.seed)
    parts = [_tensors(model, prepared.normal.take(part), device) for part in (train_rows, prepared.split.validation)]
    with cpu_threads(settings.training.threads):
        pool = None
        if isinstance(model.prior, ExemplarPrior):
            pool = ExemplarPool(parts[0], settings.model.exemplars or DEFAULT_EXEMPLARS, settings.training.seed)
        history = train(model, parts[0], parts[1], settings.training, hooks, pool)
        if not math.isfinite(history.best.validation_loss):
            raise SettingError(
                "training diverged: the validation bound was never a number; lower training.learning_rate"
                f" ({settings.training.rate:g}) or use model.likelihood = 'student-t' for wild numbers"
            )
        model = model.to("cpu").eval()
        exemplar_of, learnt = _store(model, prepared, settings)
    return FittedModel(model, history, exemplar_of, learnt)


def _store(model: TableVAE, prepared: PreparedData, settings: FitSettings) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """Stores exemplars and seen values; says which rows they are."""
    split, seed = prepared.split, settings.training.seed
    held = [split.train, *([split.validation, split.calibration] if split.how == "random" else [])]
    positions = np.sort(np.concatenate(held))
    exemplar_of = np.full(len(prepared.normal), -1, dtype=np.int64)
    learnt = np.zeros(len(prepared.normal), dtype=np.bool_)
    if isinstance(model.prior, ExemplarPrior):
        candidates = _drawn(positions, MOST_CANDIDATES, seed)
        rows = _tensors(model, prepared.normal.take(candidates), torch.device("cpu"))
        points = torch.cat([points_of(part) for part in _chunks(rows, model)])
        count = settings.model.exemplars or DEFAULT_EXEMPLARS
        chosen = cover(points, count, torch.Generator().manual_seed(seed + 3))
        with torch.no_grad():
            model.prior.store(encode_exemplars(model, rows.take(chosen)))
        alone = _has_no_copy(points)[chosen.numpy()] | (len(points) <= count)  # where all are stored, copies are too
        exemplar_of[candidates[chosen.numpy()[alone]]] = np.flatnonzero(alone)
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
    return exemplar_of, learnt


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
