"""Volume under the surface: ranking measures for series that forgive a label its borders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from anomvae.errors import SchemaError, SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomvae.evaluation.ranges import Ranges

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

THRESHOLDS = 250
"""Thresholds of a curve, at evenly spaced places of the sorted scores, as in the reference."""
DEFAULT_BUFFER = 100
"""Longest buffer, steps, where nothing is known of the series' period: the default of TSB-AD."""
NO_PERIOD = 125
"""What stands for the period of a series without one, as in TSB-AD."""
LONGEST_LAG = 400
FIRST_LAG = 3
LAGS_FROM_FIRST = (3, 300)
"""Peaks of the autocorrelation nearer to or farther from the first lag than this are no period, as in TSB-AD."""
PERIOD_STEPS = 20_000
"""Steps that the period is taken from."""
_CHUNK_CELLS = 4_000_000


class Volume(NamedTuple):
    """Two volumes under a surface.

    Attributes:
        pr: Under precision over recall over buffer length, VUS-PR.
        roc: Under true over false positive rate over buffer length, VUS-ROC.
    """

    pr: float
    roc: float


@dataclass(frozen=True, slots=True)
class SeriesVolumes:
    """Volumes of several series, each ranked by itself.

    Attributes:
        by_series: By the series' code; series that are all normal or all anomalous have none.
        without: Codes of those.
    """

    by_series: Mapping[int, Volume]
    without: tuple[int, ...]

    @property
    def mean(self) -> Volume:
        """Mean over the series that have one."""
        pr, roc = np.mean(list(self.by_series.values()), axis=0)
        return Volume(float(pr), float(roc))


def volume_under_surface(
    score: FloatArray,
    anomalous: BoolArray,
    buffer_steps: int = DEFAULT_BUFFER,
    *,
    series: IntArray | None = None,
    thresholds: int = THRESHOLDS,
) -> Volume:
    r"""VUS-PR and VUS-ROC: the mean range-AUC over buffer lengths 0, 1, ..., L.

    With a buffer length :math:`\ell`, the steps up to :math:`\ell / 2` (rounded down) beside an anomalous range count as
    partly anomalous, a step :math:`d` from it as :math:`\sqrt{1 - d / \ell}` (summed over ranges, at most 1). At a
    threshold with :math:`B` the sum of those labels over the alarms of the buffers, :math:`C` the alarms in ranges,
    :math:`N` all alarms, :math:`P` the anomalous of :math:`n` steps and :math:`E` the share of ranges that have an alarm
    in themselves or their buffers (ranges whose buffers share a step are one):

    .. math::
        \mathrm{TPR} = E \min\left(1, \frac{C + B}{P + B / 2}\right), \quad
        \mathrm{FPR} = \frac{N - C - B}{n - P - B / 2}, \quad
        \mathrm{precision} = \frac{C + B}{N}

    This is the definition of the package `vus` 0.0.6 (`RangeAUC_volume_opt`) and of TSB-AD, which differs from the paper in
    that only buffer steps that alarm enter the denominator. Lengths :math:`2k` and :math:`2k + 1` reach equally far; the
    buffer of a range reaches past a neighbouring range; the area under precision is a sum of steps, that under the ROC
    curve of trapezoids.

    The scores are sorted once; then each buffer length costs one column of a matrix product over the buffers' steps.

    Args:
        score: Shape ``(n,)``; higher is stranger. NaN: the step was not scored and counts as least strange.
        anomalous: Labels, shape ``(n,)``.
        buffer_steps: Longest buffer, L; usually the series' period, see :func:`find_period`.
        series: Code of the series of each step, shape ``(n,)``, the steps of a series together and in order of time: all are
            ranked together, but ranges and buffers never reach from one series into the next. None: one series.
        thresholds: Thresholds of a curve.

    Raises:
        SchemaError: No step is anomalous, or none is normal.
        SettingError: The buffer or the number of thresholds makes no sense.

    References:
        Volume Under the Surface: A New Accuracy Evaluation Measure for Time-Series Anomaly Detection (Paparrizos et al.,
        VLDB 2022); The Elephant in the Room: Towards A Reliable Time-Series Anomaly Detection Benchmark (Liu and Paparrizos,
        NeurIPS 2024)
    """
    from scipy.integrate import trapezoid

    if buffer_steps < 0:
        raise SettingError(f"the longest buffer is {buffer_steps:,} steps; it must be at least 0")
    if thresholds < 2:  # noqa: PLR2004  a curve has two ends
        raise SettingError(f"there are {thresholds:,} thresholds; a curve needs at least 2")
    n, n_anomalous = len(score), int(np.sum(anomalous))
    if not 0 < n_anomalous < n:
        missing = "anomalies" if n_anomalous == 0 else "normal steps"
        raise SchemaError(f"the labels mark no {missing}, so that nothing can be ranked; a surface needs both")
    bins = _first_alarms(score, thresholds)
    axis = _Axis(anomalous, np.zeros(n, dtype=np.int64) if series is None else series, buffer_steps // 2)
    alarms = np.cumsum(np.bincount(bins, minlength=thresholds))[:, None]
    hits = np.cumsum(np.bincount(bins[anomalous], minlength=thresholds))[:, None]
    buffered = axis.buffered_alarms(bins, buffer_steps, thresholds)
    found = axis.ranges_found(bins, thresholds)[:, np.arange(buffer_steps + 1) // 2]

    true, positives = hits + buffered, n_anomalous + buffered / 2
    edge = np.zeros((1, buffer_steps + 1))
    tpr = np.concatenate([edge, np.minimum(true / positives, 1.0) * found])
    fpr = np.concatenate([edge, (alarms - true) / (n - positives)])
    pr = np.sum(np.diff(tpr, axis=0) * (true / alarms), axis=0)
    roc = trapezoid(np.concatenate([tpr, edge + 1.0]), np.concatenate([fpr, edge + 1.0]), axis=0)
    return Volume(float(np.mean(pr)), float(np.mean(roc)))


def volumes_by_series(
    score: FloatArray, anomalous: BoolArray, series: IntArray, buffer_steps: int | Mapping[int, int] = DEFAULT_BUFFER
) -> SeriesVolumes:
    """VUS-PR and VUS-ROC of each series by itself, as benchmarks of many series report them.

    Args:
        score: Shape ``(n,)``; higher is stranger. NaN counts as least strange.
        anomalous: Labels, shape ``(n,)``.
        series: Code of the series of each step, shape ``(n,)``, steps in order of time within each.
        buffer_steps: Longest buffer, for all or by the series' code.

    Raises:
        SchemaError: No series has both anomalous and normal steps.
    """
    volumes: dict[int, Volume] = {}
    without = []
    for code in np.unique(series).tolist():
        own = series == code
        if not 0 < np.sum(anomalous[own]) < np.sum(own):
            without.append(code)
            continue
        longest = buffer_steps if isinstance(buffer_steps, int) else buffer_steps[code]
        volumes[code] = volume_under_surface(score[own], anomalous[own], longest)
    if not volumes:
        raise SchemaError("no series has both anomalous and normal steps, so that none can be ranked by itself")
    return SeriesVolumes(volumes, tuple(without))


def find_period(values: FloatArray) -> int:
    """Period of a series in steps: the lag of the highest peak of its autocorrelation, as TSB-AD's `find_length` has it.

    Lags from 6 to 303 steps are looked at, in the first 20,000 steps; a missing value counts as the mean. TSB-AD takes the
    first channel of a series of several.

    Args:
        values: Shape ``(n,)``.

    Returns:
        The period; 125 where there is none.

    Example:
        >>> find_period(np.sin(np.arange(2_000) * 2 * np.pi / 48))
        48
    """
    from scipy.signal import argrelextrema, correlate

    values = values[:PERIOD_STEPS]
    known = np.isfinite(values)
    if not known.any():
        return NO_PERIOD
    centred = np.where(known, values - np.mean(values[known]), 0.0)
    correlation = correlate(centred, centred, mode="full", method="fft")[len(centred) - 1 :]
    if not correlation[0] > 0:
        return NO_PERIOD
    tail = (correlation / correlation[0])[FIRST_LAG : LONGEST_LAG + 1]
    peaks = argrelextrema(tail, np.greater)[0]
    if not len(peaks):
        return NO_PERIOD
    highest = int(peaks[np.argmax(tail[peaks])])
    nearest, farthest = LAGS_FROM_FIRST
    return highest + FIRST_LAG if nearest <= highest <= farthest else NO_PERIOD


def _first_alarms(score: FloatArray, thresholds: int) -> IntArray:
    """Number of the highest threshold at which each step alarms; at the last one all do."""
    score = np.where(np.isnan(score), -np.inf, score)
    descending = np.sort(score)[::-1]
    levels = descending[np.linspace(0, len(score) - 1, thresholds).astype(np.int64)]
    return np.searchsorted(-levels, -score, side="left").astype(np.int64)


class _Axis:
    """The steps of all series on one axis, so far apart that no buffer reaches another series or an end."""

    def __init__(self, anomalous: BoolArray, series: IntArray, reach: int) -> None:
        from anomvae.evaluation.ranges import find_ranges

        starts = np.diff(series, prepend=series[0]) != 0
        self.place = np.arange(len(series)) + 2 * reach * (np.cumsum(starts) + 1)
        self.length = int(self.place[-1]) + 2 * reach + 1
        ranges: Ranges = find_ranges(anomalous, series)
        self.first, self.last = self.place[ranges.first], self.place[ranges.last]
        self.anomalous, self.reach = anomalous, reach

    def buffered_alarms(self, bins: IntArray, longest: int, thresholds: int) -> FloatArray:
        """Sum of the labels of alarming buffer steps at each threshold and buffer length, shape ``(t, longest + 1)``."""
        labels = np.zeros((thresholds, longest + 1))
        steps = self._buffers()
        if not self.reach or not len(steps):
            return labels
        steps = steps[np.argsort(bins[steps], kind="stable")]
        distance, length = np.arange(1, self.reach + 1)[:, None], np.arange(1, longest + 1)
        decay = np.zeros((self.reach, longest + 1))
        decay[:, 1:] = np.where(distance <= length // 2, np.sqrt(np.maximum(1 - distance / length, 0.0)), 0.0)
        first, last = np.zeros(self.length), np.zeros(self.length)
        first[self.first] = last[self.last] = 1.0
        after, before = sliding_window_view(first, self.reach), sliding_window_view(last, self.reach)
        chunk = max(1, _CHUNK_CELLS // (longest + 1))
        for start in range(0, len(steps), chunk):
            some = steps[start : start + chunk]
            place, at = self.place[some], bins[some]
            edges = after[place + 1] + before[place - self.reach][:, ::-1]  # ranges at each distance, (steps, reach)
            begins = np.flatnonzero(np.diff(at, prepend=-1))
            labels[at[begins]] += np.add.reduceat(np.minimum(edges @ decay, 1.0), begins, axis=0)
        return np.cumsum(labels, axis=0)

    def ranges_found(self, bins: IntArray, thresholds: int) -> FloatArray:
        """Share of ranges, those whose buffers share a step joined, with an alarm in them or their buffers.

        Returns:
            At each threshold and reach of the buffers, shape ``(t, reach + 1)``.
        """
        share = np.zeros((thresholds, self.reach + 1))
        padded = np.full(self.length + 1, thresholds)
        padded[self.place] = bins
        apart = self.first[1:] - self.last[:-1]
        for reach in range(self.reach + 1):
            splits = apart > 2 * reach
            first = self.first[np.append(True, splits)] - reach
            last = self.last[np.append(splits, True)] + reach
            earliest = np.minimum.reduceat(padded, np.column_stack([first, last + 1]).ravel())[::2]
            share[:, reach] = np.cumsum(np.bincount(earliest, minlength=thresholds)) / len(first)
        return share

    def _buffers(self) -> IntArray:
        """Normal steps within reach of a range."""
        change = np.zeros(self.length + 1, dtype=np.int64)
        np.add.at(change, self.first - self.reach, 1)
        np.add.at(change, self.last + self.reach + 1, -1)
        return np.flatnonzero((np.cumsum(change)[self.place] > 0) & ~self.anomalous)
