"""Series as every detector of another library gets them: on steps, scaled by asset, holes filled; and what windows say of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from anomvae.bundle import Column
from anomvae.data.series import read_sequences
from anomvae.data.windows import StepMeans, windows_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from anomvae.data.cadence import Cadence
    from anomvae.data.series import Sequences

Floats = npt.NDArray[np.float64]
Cells = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

FLOOR = 0.1
"""A spread counts as at least this share of the median of the assets' spreads."""
CHUNK = 2_048


@dataclass(frozen=True, slots=True)
class Scaling:
    """Mean and standard deviation of each channel by asset, from its training rows.

    Attributes:
        centre: By asset; under "" what assets count as that did not train; shape ``(d,)`` each.
        spread: Likewise, above 0.
    """

    centre: dict[str, Floats]
    spread: dict[str, Floats]

    @classmethod
    def of(cls, train: Sequences) -> Scaling:
        """The scaling of training steps."""
        own = {name: _moments(train.values[train.asset == code]) for code, name in enumerate(train.assets)}
        centre, spread = _moments(train.values)
        usual = np.median([found[1] for found in own.values()], axis=0)
        usual = np.where(usual > 0, usual, np.where(spread > 0, spread, 1.0))
        own[""] = centre, spread
        return cls(
            {name: found[0] for name, found in own.items()},
            {name: np.maximum(found[1], FLOOR * usual) for name, found in own.items()},
        )

    def __call__(self, sequences: Sequences) -> Sequences:
        """Scaled steps without holes: a missing cell is the last before it in its sequence, or the mean."""
        names = [name if name in self.centre else "" for name in sequences.assets]
        centre, spread = (np.stack([of[name] for name in names]) for of in (self.centre, self.spread))
        scaled = (sequences.values - centre[sequences.asset]) / spread[sequences.asset]
        return replace(sequences, values=_filled(scaled, sequences.begin).astype(np.float32))


class StepScores(NamedTuple):
    """What a detector says of each step; NaN: nothing.

    Attributes:
        batch: By all windows that cover it, shape ``(m,)``.
        online: By the window whose newest step it is, shape ``(m,)``.
    """

    batch: Floats
    online: Floats


def lay_out(
    rows: pa.Table, time: str, asset: str | None, channels: list[str], window: int, cadence: Cadence | None
) -> Sequences:
    """Rows as sequences of steps, by the product's own rules.

    Args:
        rows: At least the columns named here.
        time: Column of the time.
        asset: Column of the assets; None: there is one.
        channels: Columns of the channels.
        window: Steps in a window, which decides what gap ends a sequence.
        cadence: That of the training rows; None: these are they.
    """
    columns = [Column(name, "numeric", "double") for name in channels]
    return read_sequences(rows, time=time, columns=columns, window=window, asset=asset, cadence=cadence)


def training_windows(train: Sequences, window: int, most: int) -> Cells:
    """Windows of scaled training steps, evenly thinned to at most so many, shape ``(k, w, d)``."""
    every = windows_of(train, window)
    chosen = np.unique(np.linspace(0, len(every) - 1, min(most, len(every))).astype(np.int64))
    return every.take(chosen).encoded().series


def scores_of_windows(steps: Sequences, window: int, score: Callable[[Cells], Floats]) -> StepScores:
    """Scores of steps from windows one step apart.

    Args:
        steps: Scaled.
        window: w.
        score: Gives windows, shape ``(k, w, d)``, a score each, ``(k,)``, or each of their steps one, ``(k, w)``.

    Returns:
        Batch: the mean over the windows that cover a step of its score there, or of theirs. Online: of its newest step's
        window alone.
    """
    means, online = StepMeans(len(steps)), np.full(len(steps), np.nan)
    for part, encoded in windows_of(steps, window).chunks(CHUNK):
        found = score(encoded.series)
        each = np.broadcast_to(found[:, None], (len(part), window)) if found.ndim == 1 else found
        means.add(part.starts, each)
        online[part.newest] = each[:, -1]
    return StepScores(means.means(), online)


def drawn_in(steps: Sequences) -> Sequences:
    """Far values by their logarithm, as our own detector takes them."""
    return replace(steps, values=np.sign(steps.values) * np.log1p(np.abs(steps.values)))


def _moments(values: Cells) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each channel over its known cells."""
    values = values.astype(np.float64)
    return np.nanmean(values, axis=0), np.nanstd(values, axis=0)


def _filled(values: Floats, begin: Ints) -> Floats:
    first = np.zeros(len(values), dtype=np.int64)
    first[begin] = begin
    first = np.maximum.accumulate(first)
    known = ~np.isnan(values)
    last = np.maximum.accumulate(np.where(known, np.arange(len(values))[:, None], -1), axis=0)
    from_before = last >= first[:, None]
    return np.where(from_before, np.take_along_axis(values, np.maximum(last, 0), axis=0), 0.0)
