"""Calibration rows in order of time: how many independent ones they are worth, and what that makes of p-values and rates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from anomvae.calibration.conditional import conditional_p_values
from anomvae.errors import SettingError, TooFewRowsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.calibration.conformal import FloatArray

    Floats64 = npt.NDArray[np.float64]
    IntArray = npt.NDArray[np.int64]
    BoolArray = npt.NDArray[np.bool_]

LEAST_EXCEEDANCES = 20
"""Alarming rows, at the least, whose clustering is looked at: of fewer it cannot be seen."""
FEWEST_BLOCKS = 4
"""Blocks, at the least, that the scatter of an alarm rate is taken from."""


@dataclass(frozen=True, slots=True)
class Dependence:
    """What neighbouring rows take away from their number.

    Attributes:
        rows: m.
        time: Autocorrelation time, in rows, from 1 (no dependence) to m.
    """

    rows: int
    time: float

    @property
    def effective_rows(self) -> int:
        """Independent rows that would say as much: m / time, rounded down, at least 1.

        Example:
            >>> Dependence(1000, 6.5).effective_rows
            153
        """
        return max(1, math.floor(self.rows / self.time + 1e-9))

    @property
    def block(self) -> int:
        r"""Rows in a row that are resampled together: :math:`(\frac{3}{8} m)^{1/3} (\tau - 1 / \tau)^{2/3}`, at least 1.

        The length that is best for the variance of a mean where dependence falls geometrically, for the time :math:`\tau`.

        References:
            The Use of Subseries Values for Estimating the Variance of a General Statistic from a Stationary Sequence
            (Carlstein, 1986), Annals of Statistics 14 (3)
        """
        length = math.cbrt(0.375 * self.rows * (self.time - 1.0 / self.time) ** 2)
        return max(1, min(math.ceil(length - 1e-9), self.rows))


class RateInterval(NamedTuple):
    """A realised alarm rate and where the true one lies.

    Attributes:
        rate: Share of the rows that alarm.
        low: Lower end.
        high: Upper end.
        effective_rows: Independent rows that would leave as much open.
        block: Rows in a row that were taken together.
    """

    rate: float
    low: float
    high: float
    effective_rows: float
    block: int


def dependence(
    scores: Sequence[FloatArray], segment: IntArray, alarm_rate: float, stratum: IntArray | None = None
) -> Dependence:
    """How far rows in order of time depend on one another, for calibration at a rate: the most prudent of several answers.

    That is the largest autocorrelation time, over all scores, of the scores themselves (as normal scores of their ranks, so
    that no heavy tail decides) and of whether each is among those that would alarm. For Gaussian processes the first is the
    larger, and bounds what holds at any rate; where strange rows come in clusters but ordinary ones do not, the second is.

    Args:
        scores: One or more scores of the same rows, each of shape ``(m,)``; what is not a number is stranger than everything.
        segment: Number of each row's segment; rows of a segment stand in order of time, shape ``(m,)``.
        alarm_rate: Stated share of normal rows that may alarm.
        stratum: Number of each row's group whose share of the rows is fixed, shape ``(m,)``: how groups differ from one
            another is then no dependence. None: one group.

    Raises:
        SettingError: The segments are not as many as the rows, or there are none.
    """
    m = len(segment)
    if m == 0 or any(len(score) != m for score in scores):
        raise SettingError(f"{m:,} segment numbers do not go with the scores: it takes one for each row")
    exceeding = min(max(math.ceil(alarm_rate * m), LEAST_EXCEEDANCES), max(1, m // 2))
    longest = 1.0
    for score in scores:
        ranks = _mean_ranks(score)
        alarming = ranks >= np.partition(ranks, m - exceeding)[m - exceeding]
        for values in (_normal_scores(ranks), alarming.astype(np.float64)):
            longest = max(longest, autocorrelation_time(values, segment, stratum))
    return Dependence(m, longest)


def autocorrelation_time(values: Floats64, segment: IntArray, stratum: IntArray | None = None) -> float:
    r"""The integrated autocorrelation time of a series in segments.

    .. math:: \tau = \sum_{k=-\infty}^{\infty} \rho(k), \qquad
        \mathrm{Var}(\bar x) = \frac{\tau}{m} \mathrm{Var}(x)

    Autocovariances are sums over all pairs of rows of one segment, over m, about the mean of all segments. Segments count as
    independent of one another, and where they differ in level that is dependence within them. Summed is Geyer's initial
    monotone sequence: sums of neighbouring pairs of lags, as long as they are positive, none above the one before. On
    autoregressions worth 50 rows the estimate scatters by a third about the truth, half as much as with Sokal's window.

    Args:
        values: Shape ``(m,)``, finite.
        segment: Number of each value's segment; values of a segment stand in order of time, shape ``(m,)``.
        stratum: Values are taken about the mean of their stratum; None: about that of all.

    Returns:
        In values; from 1 (also where dependence is negative, or nothing varies) to m.

    References:
        Practical Markov Chain Monte Carlo (Geyer, 1992), Statistical Science 7 (4), section 3.3

    Example:
        >>> autocorrelation_time(np.repeat(np.random.default_rng(0).normal(size=2000), 4), np.zeros(8000, int)).__round__()
        4
    """
    m = len(values)
    strata = np.zeros(m, dtype=np.int64) if stratum is None else np.unique(stratum, return_inverse=True)[1]
    means = np.bincount(strata, weights=values) / np.bincount(strata)
    covariances = _autocovariances(values - means[strata], segment)
    if not covariances[0] > 0:
        return 1.0
    pairs = np.append(covariances, 0.0)[: 2 * ((len(covariances) + 1) // 2)].reshape(-1, 2).sum(axis=1) / covariances[0]
    falls = np.flatnonzero(pairs <= 0)
    kept = np.minimum.accumulate(pairs[: falls[0] if len(falls) else len(pairs)])
    return min(max(1.0, 2.0 * float(kept.sum()) - 1.0), float(m))


def block_p_values(rows: int, effective_rows: int) -> Floats64:
    r"""P-values of dependent rows, by how many calibration scores a score does not exceed.

    .. math:: p_a = \max\Big(\frac{a + (1 + \tau) / 2}{m + \tau}, \frac{1}{n + 1}, \frac{a + 1}{m + 1}\Big), \qquad \tau = m / n

    With n = m they are the conformal (a + 1) / (m + 1), and never are they below. The threshold that a of m scores exceed is exceeded by a share of
    normal rows whose mean over calibration sets is, to second order in the empirical process,
    :math:`\frac{a}{m} + \frac{1}{2m} + (1 - \frac{2a}{m}) \frac{\tau}{2m}`: half a row for counting in whole rows, half an
    effective row for the threshold's own scatter. The plain p-value takes both for half a row, and alarms too often. Counting
    in effective rows throughout, :math:`(1 + n a / m) / (n + 1)`, takes both for half an effective row: few effective
    rows then alarm about half as often as was stated. No p-value is below that of n independent rows.

    Args:
        rows: m.
        effective_rows: n, from 1 to m.

    Returns:
        Shape ``(m + 1,)``, ascending; entry m is 1.

    Example:
        >>> block_p_values(1000, 100)[[0, 10, 1000]].round(4).tolist()
        [0.0099, 0.0153, 1.0]
    """
    time = rows / effective_rows
    counts = np.arange(rows + 1.0)
    shares = np.maximum((counts + (1.0 + time) / 2.0) / (rows + time), (counts + 1.0) / (rows + 1.0))
    return np.clip(shares, 1.0 / (effective_rows + 1.0), 1.0)


def conditional_block_p_values(rows: int, effective_rows: int, confidence: float) -> Floats64:
    """P-values of dependent rows that keep the rate for these very rows, by how many scores a score does not exceed.

    Those of as many independent rows as the rows are worth (:func:`conditional_p_values`), at the same shares; between two
    of their counts on the line. Exact where the rows are independent; else as good as the effective number is, by the
    reasoning of binomial intervals for clustered samples.

    Args:
        rows: m.
        effective_rows: n, from 1 to m.
        confidence: At least 0.5 and below 1.

    Returns:
        Shape ``(m + 1,)``, ascending; entry m is 1.

    References:
        Confidence Intervals for Proportions with Small Expected Number of Positive Counts Estimated from Survey Data (Korn
        and Graubard, 1998), Survey Methodology 24 (2)
    """
    bounds = conditional_p_values(effective_rows, confidence)
    counts = np.arange(rows + 1.0) * (effective_rows / rows)
    return np.interp(counts, np.arange(effective_rows + 1.0), bounds)


def equivalent_scores(scores: FloatArray, effective_rows: int) -> Floats64:
    """As many scores as the rows are worth, evenly spaced in rank: they have the rows' distribution and its true weight.

    A tail fitted to them rests on every score, as it should (peaks of clusters alone waste most of what is known, and lie too
    high), but counts its exceedances, and weighs its prior, by what they are worth.

    Args:
        scores: Of m rows, any order, shape ``(m,)``.
        effective_rows: n, from 1 to m.

    Returns:
        Ascending, shape ``(n,)``.

    References:
        Improved estimation for temporally clustered extremes (Fawcett and Walshaw, 2007), Environmetrics 18 (2)
    """
    ascending = np.sort(np.asarray(scores, dtype=np.float64))
    places = ((np.arange(effective_rows) + 0.5) * (len(ascending) / effective_rows)).astype(np.int64)
    found: Floats64 = ascending[places]
    if not np.isfinite(ascending[-1]):
        found[-1] = ascending[-1]  # no tail lies beyond infinity, and whoever fits one must see that
    return found


def rows_in_series(effective_rows_needed: int, found: Dependence) -> int:
    """Dependent rows, dependent as those found, that are worth a number of independent ones.

    Example:
        >>> rows_in_series(99, Dependence(200, 4.0))
        396
    """
    return math.ceil(effective_rows_needed * found.time - 1e-9)


def rate_interval(
    scores: FloatArray,
    segments: IntArray,
    threshold: float,
    confidence: float = 0.95,
    block: int | None = None,
) -> RateInterval:
    """The realised alarm rate of rows in order of time, with an interval that knows that alarms come in clusters.

    The rows of each segment are cut into blocks; the scatter of the blocks' alarms (the delete-one-block jackknife's) says how
    many independent rows would scatter as much, and the interval is Clopper's and Pearson's for so many. Without an alarm,
    or without scatter, the autocorrelation of the scores says it. Too few blocks widen it by Student's t.

    Args:
        scores: Of normal rows, shape ``(n,)``; what is not a number alarms.
        segments: Number of each row's segment; rows of a segment stand in order of time, shape ``(n,)``.
        threshold: Scores above it alarm.
        confidence: Of the interval, above 0 and below 1.
        block: Rows in a row that are taken together; None: as many as the scores' autocorrelation asks for.

    Raises:
        TooFewRowsError: There are no rows.
        SettingError: The confidence is no probability, or `block` is below 1.

    References:
        The interval: Korn and Graubard (1998), Survey Methodology 24 (2). The jackknife: The Jackknife and the Bootstrap for
        General Stationary Observations (Künsch, 1989), Annals of Statistics 17 (3)
    """
    if not 0.0 < confidence < 1.0:
        raise SettingError(f"the confidence is {confidence:g}; it is a probability, above 0 and below 1")
    if block is not None and block < 1:
        raise SettingError(f"the block is {block}; it takes at least 1 row")
    n = len(scores)
    if n == 0:
        raise TooFewRowsError("there are no rows whose alarm rate could be told", 1)
    alarms = ~(np.asarray(scores, dtype=np.float64) <= threshold)
    rate = float(alarms.mean())
    found = dependence([scores], segments, min(max(rate, 1.0 / n), 0.5))
    length = min(found.block if block is None else block, max(1, n // FEWEST_BLOCKS))
    worth = _worth(alarms, segments, length, confidence)
    effective = found.rows / found.time if worth is None else worth
    low, high = _clopper_pearson(rate, effective, confidence)
    return RateInterval(rate, low, high, effective, length)


def _worth(alarms: BoolArray, segment: IntArray, length: int, confidence: float) -> float | None:
    """Independent rows whose alarms would scatter as much as those of blocks do; None where they do not scatter."""
    from scipy.special import ndtri, stdtrit

    n, rate = len(alarms), float(alarms.mean())
    block = _blocks_of(segment, length)
    rows, alarming = np.bincount(block), np.bincount(block, weights=alarms.astype(np.float64))
    blocks = len(rows)
    if blocks < 2 or not 0.0 < rate < 1.0:  # noqa: PLR2004  a scatter takes two
        return None
    variance = blocks / (blocks - 1.0) * float(((alarming - rate * rows) ** 2).sum()) / n**2
    if not variance > 0.0:
        return None
    tail = (1.0 + confidence) / 2.0
    student = float(ndtri(tail) / stdtrit(blocks - 1.0, tail)) ** 2
    return max(1.0, min(float(n), rate * (1.0 - rate) / variance) * student)


def _clopper_pearson(rate: float, rows: float, confidence: float) -> tuple[float, float]:
    """The interval for a share of so many rows, which need be no whole number."""
    from scipy.special import betaincinv

    above, below, error = rate * rows, (1.0 - rate) * rows, (1.0 - confidence) / 2.0
    low = 0.0 if above <= 0.0 else float(betaincinv(above, below + 1.0, error))
    high = 1.0 if below <= 0.0 else float(betaincinv(above + 1.0, below, 1.0 - error))
    return low, high


def _bounds(segment: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Rows by segment, each in order of time, and where segments begin and end in that order."""
    order = np.argsort(segment, kind="stable")
    begins = np.flatnonzero(np.diff(np.asarray(segment)[order], prepend=np.nan) != 0)
    return order, begins, np.append(begins[1:], len(order))


def _blocks_of(segment: IntArray, length: int) -> IntArray:
    """Number of each row's block: each segment is cut into pieces of equal size, about so long."""
    order, begins, ends = _bounds(segment)
    block = np.empty(len(order), dtype=np.int64)
    first = 0
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        pieces = max(1, round((end - begin) / length))
        block[order[begin:end]] = first + np.arange(end - begin) * pieces // (end - begin)
        first += pieces
    return block


def _autocovariances(centred: Floats64, segment: IntArray) -> Floats64:
    """Sums of products of values so many rows apart in the same segment, over m; by FFT."""
    order, begins, ends = _bounds(segment)
    covariances = np.zeros(int((ends - begins).max()))
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        rows = end - begin
        size = 1 << (2 * rows - 1).bit_length()
        power = np.abs(np.fft.rfft(centred[order[begin:end]], size)) ** 2
        covariances[:rows] += np.fft.irfft(power, size)[:rows]
    return covariances / len(order)


def _mean_ranks(scores: FloatArray) -> Floats64:
    """Ranks from 1 on, ties sharing their mean; what is not a number is larger than everything."""
    values = np.asarray(scores, dtype=np.float64)
    known = np.where(np.isnan(values), np.inf, values)
    _, place, counts = np.unique(known, return_inverse=True, return_counts=True)
    found: Floats64 = (np.cumsum(counts) - (counts - 1) / 2.0)[place]
    return found


def _normal_scores(ranks: Floats64) -> Floats64:
    from scipy.special import ndtri

    found: Floats64 = ndtri((ranks - 0.5) / len(ranks))
    return found
