"""Windows of a series: where they lie, as the arrays the graph takes, and what they say together of each step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from anomvae.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomvae.data.series import Sequences

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

CHUNK = 4_096
"""Windows made at once."""


@dataclass(frozen=True, slots=True)
class EncodedWindows:
    """Windows as the graph's inputs.

    Attributes:
        series: Raw units, NaN where missing, the newest step last, float32, shape ``(n, w, d)``.
        asset: Number of each window's asset among those with a scaling of their own; any other number means none of them;
            int64, shape ``(n,)``.
        group: Number of each window's group among those with a calibration table of their own, likewise; None: not told.
        row_terms: What the row member has said of the first p steps of each window, so that it is not asked again, shape
            ``(n, p, t)``; None: of none.
    """

    series: npt.NDArray[np.float32]
    asset: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64] | None = None
    row_terms: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.series)

    def take(self, windows: npt.NDArray[np.int64] | slice) -> EncodedWindows:
        """The windows named by position."""
        group = None if self.group is None else self.group[windows]
        terms = None if self.row_terms is None else self.row_terms[windows]
        return EncodedWindows(self.series[windows], self.asset[windows], group, terms)

    def feeds(self) -> dict[str, npt.NDArray[np.generic]]:
        """The arrays by the names of the graph's inputs."""
        feeds: dict[str, npt.NDArray[np.generic]] = {"series": self.series, "asset": self.asset}
        if self.group is not None:
            feeds["group"] = self.group
        return feeds if self.row_terms is None else {**feeds, "row_terms": self.row_terms}


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of sequences by the steps they begin with; their values are made when asked for, k windows.

    Attributes:
        sequences: What they are cut from; none crosses from one sequence into the next.
        window: Steps in each, w.
        starts: Position of each one's first step, ascending, shape ``(k,)``.
        asset: Number of each asset of the sequences for the graph, shape ``(a,)``; None: as they are numbered there.
        group: Number of each asset's group for the graph, likewise; None: not told.
        row_terms: What the row member says of each of the m steps, shape ``(m, t)``; None: it is asked with the windows.
    """

    sequences: Sequences
    window: int
    starts: IntArray
    asset: IntArray | None = None
    group: IntArray | None = None
    row_terms: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def newest(self) -> IntArray:
        """Position of each one's newest step, shape ``(k,)``."""
        return self.starts + self.window - 1

    @property
    def row(self) -> IntArray:
        """Row number of each one's newest step, -1 where that step is missing, shape ``(k,)``."""
        return self.sequences.row[self.newest]

    def take(self, places: IntArray | BoolArray | slice) -> Windows:
        """The windows named by position or mask."""
        return replace(self, starts=self.starts[places])

    def encoded(self) -> EncodedWindows:
        """All of them as the graph's inputs: k * w * d numbers."""
        series = _pieces(self.sequences.values, self.starts, self.window)
        terms = None if self.row_terms is None else _pieces(self.row_terms, self.starts, self.window - 1)
        asset = self.sequences.asset[self.starts]
        group = None if self.group is None else self.group[asset]
        return EncodedWindows(series, asset if self.asset is None else self.asset[asset], group, terms)

    def chunks(self, most: int = CHUNK) -> Iterator[tuple[Windows, EncodedWindows]]:
        """A few at a time, in order, and as the graph's inputs."""
        for first in range(0, len(self), most):
            part = self.take(slice(first, first + most))
            yield part, part.encoded()


def _pieces(steps: npt.NDArray[np.float32], starts: IntArray, size: int) -> npt.NDArray[np.float32]:
    """So many steps from each start on, shape ``(k, size, t)``: of steps of shape ``(m, t)`` each is one piece of memory."""
    width = steps.shape[1]
    if not len(starts):
        return np.empty((0, size, width), dtype=np.float32)
    pieces = sliding_window_view(steps.reshape(-1), size * width)
    found: npt.NDArray[np.float32] = pieces[starts * width].reshape(-1, size, width)
    return found


def windows_of(
    sequences: Sequences, window: int, stride: int = 1, *, asset: IntArray | None = None, group: IntArray | None = None
) -> Windows:
    """All full windows, `stride` steps apart, and the last of each sequence: every step of one long enough is covered.

    Args:
        sequences: What to cut; those shorter than a window give none.
        window: Steps in each.
        stride: Steps from one to the next, at most `window`.
        asset: Number of each asset of the sequences for the graph, shape ``(a,)``
            (:func:`~anomvae.data.series.asset_numbers`); None: as they are numbered there.
        group: Likewise of its group for calibration; None: not told.

    Raises:
        SettingError: No such window or stride can be.
    """
    if window < 1 or not 1 <= stride <= window:
        raise SettingError("--window must be at least 1 step, and --stride from 1 to as many steps as a window has")
    fits = sequences.length >= window
    first = sequences.begin[fits]
    last = first + sequences.length[fits] - window
    count = -((first - last) // stride) + 1  # from first to last in strides, the last one shortened
    begin_of = np.repeat(np.arange(len(first)), count)
    place = np.arange(len(begin_of)) - np.repeat(np.cumsum(count) - count, count)
    starts = np.minimum(first[begin_of] + place * stride, last[begin_of])
    return Windows(sequences, window, starts, asset, group)


def online_windows_of(
    sequences: Sequences, window: int, *, asset: IntArray | None = None, group: IntArray | None = None
) -> Windows:
    """The full windows whose newest step has a row, each as a stream would have answered that row.

    Args:
        sequences: What to cut.
        window: Steps in each.
        asset: As of :func:`windows_of`.
        group: Likewise.

    Raises:
        SettingError: No such window can be.
    """
    every = windows_of(sequences, window, 1, asset=asset, group=group)
    return every.take(every.row >= 0)


class StepMeans:
    """Means over all windows that cover a step, added up a chunk of windows at a time.

    Args:
        total: Steps, m.
        each: Shape of what there is of each step; empty for one number.
    """

    def __init__(self, total: int, each: tuple[int, ...] = ()) -> None:
        self._sums = np.zeros((total, *each))
        self._counts = np.zeros((total, *each), dtype=np.int32)

    def add(self, starts: IntArray, step_values: npt.NDArray[np.floating]) -> None:
        """Adds windows.

        Args:
            starts: Position of each one's first step, shape ``(k,)``.
            step_values: A value for each step of each; NaN says nothing; shape ``(k, w, ...)``.
        """
        known = ~np.isnan(step_values)
        values = np.where(known, step_values, 0.0)
        ascending = bool((np.diff(starts) > 0).all())  # no step twice at the same place of a window: plain sums do
        for step in range(step_values.shape[1]):
            at = starts + step
            if ascending:
                self._sums[at] += values[:, step]
                self._counts[at] += known[:, step]
            else:
                np.add.at(self._sums, at, values[:, step])
                np.add.at(self._counts, at, known[:, step])

    def means(self) -> FloatArray:
        """Mean of each step, NaN where nothing was said of it, shape ``(m, ...)``."""
        means = np.full(self._sums.shape, np.nan)
        np.divide(self._sums, self._counts, out=means, where=self._counts > 0)
        return means


def mean_over_windows(step_values: npt.NDArray[np.floating], starts: IntArray, total_steps: int) -> FloatArray:
    """Mean of what the windows that cover a step say of it.

    Args:
        step_values: A value for each step of each window; NaN says nothing; shape ``(k, w, ...)``.
        starts: Position of each window's first step, shape ``(k,)``.
        total_steps: Steps, m.

    Returns:
        Shape ``(m, ...)``, NaN where nothing was said.

    Example:
        >>> mean_over_windows(np.array([[1.0, 2.0], [4.0, 8.0]]), np.array([0, 1]), 4)
        array([ 1.,  3.,  8., nan])
    """
    means = StepMeans(total_steps, step_values.shape[2:])
    means.add(starts, step_values)
    return means.means()
