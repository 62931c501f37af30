"""Histograms quick enough for every request and every row: one lock, no loop over buckets, no loop over rows.

Both expose what the client library's `Histogram` would: cumulative buckets, a count, a sum. What differs is the cost, and
that values which are no number are seen: NaN and infinities are counted (NaN with +Inf) but kept out of the sum, where one
of them would stay for good.

A histogram with edges below 0 exposes neither sum nor count, as OpenMetrics wants it: its +Inf bucket is the count.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from itertools import accumulate
from math import isfinite
from threading import Lock
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from prometheus_client.core import Exemplar, HistogramMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prometheus_client.core import Metric

    from anomvae.observability.instruments import Instrument

    Values = npt.NDArray[np.float64] | npt.NDArray[np.float32]

TRACE_ID = re.compile(r"[0-9A-Za-z-]{1,64}")
"""Trace ids that are exposed: short, since OpenMetrics allows 128 characters, and plain, since parsers stumble over more."""

FEW_ROWS = 64
"""Up to here Python's `sum` is quicker than NumPy's, whose warnings of infinities must be switched off and on."""


class _Series(Protocol):
    def state(self) -> tuple[list[int], float, list[tuple[str, float, float] | None]]: ...


SeriesT = TypeVar("SeriesT", bound=_Series)


class _Histogram(Collector, Generic[SeriesT]):
    """A family of series with the same buckets, one per combination of label values."""

    def __init__(self, instrument: Instrument, make: Callable[[], SeriesT]) -> None:
        self.lock = Lock()
        self._instrument, self._make = instrument, make
        self._series: dict[tuple[str, ...], SeriesT] = {}
        self._edges = (*(repr(float(edge)) for edge in instrument.buckets), "+Inf")

    def labels(self, *values: str) -> SeriesT:
        """The series of these label values, from now on exposed. Keep it: looking it up takes a lock."""
        if len(values) != len(self._instrument.labels):
            raise ValueError(f"{self._instrument.name} has the labels {', '.join(self._instrument.labels)}")
        with self.lock:
            if values not in self._series:
                self._series[values] = self._make()
            return self._series[values]

    def describe(self) -> Iterable[Metric]:
        """The family without samples, for the registry's check of names."""
        return [self._family()]

    def collect(self) -> Iterable[Metric]:
        """The family with the samples of all series, each as of one moment."""
        with self.lock:
            states = [(labels, series.state()) for labels, series in self._series.items()]
        family = self._family()
        for labels, (counts, total, exemplars) in states:
            cumulative = accumulate(counts)
            buckets = [_bucket(*each) for each in zip(self._edges, cumulative, exemplars, strict=True)]
            family.add_metric(labels, buckets, total)
        return [family]

    def _family(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self._instrument.name, self._instrument.help, labels=self._instrument.labels)


class ValueSeries:
    """One series that is told one value at a time."""

    __slots__ = ("_clock", "_counts", "_edges", "_exemplars", "_lock", "_sum")

    def __init__(self, edges: Sequence[float], lock: Lock, clock: Callable[[], float]) -> None:
        self._edges, self._lock, self._clock = tuple(edges), lock, clock
        self._counts = [0] * (len(edges) + 1)
        self._exemplars: list[tuple[str, float, float] | None] = [None] * (len(edges) + 1)
        self._sum = 0.0

    def observe(self, value: float, trace_id: str | None = None) -> None:
        """Counts a value.

        Args:
            value: In the unit of the histogram's name.
            trace_id: Trace in which it was measured; the last one of each bucket is exposed with it.
        """
        at = bisect_left(self._edges, value) if value == value else -1  # noqa: PLR0124 - NaN is what differs from itself
        with self._lock:
            self._counts[at] += 1
            if isfinite(value):
                self._sum += value
            if trace_id is not None:
                self._exemplars[at] = (trace_id, value, self._clock())

    def add(self, value: float) -> None:
        """As :meth:`observe`, for a caller that holds the histogram's lock."""
        self._counts[bisect_left(self._edges, value) if value == value else -1] += 1  # noqa: PLR0124 - as above
        if isfinite(value):
            self._sum += value

    def state(self) -> tuple[list[int], float, list[tuple[str, float, float] | None]]:
        """Counts per bucket, sum and exemplars; for a caller that holds the histogram's lock."""
        return self._counts.copy(), self._sum, self._exemplars.copy()


class ValueHistogram(_Histogram[ValueSeries]):
    """A histogram of single values: seconds, sizes.

    Args:
        instrument: Its name, labels, meaning and buckets.
        clock: Unix time in seconds, for exemplars.
    """

    def __init__(self, instrument: Instrument, clock: Callable[[], float] = time.time) -> None:
        super().__init__(instrument, lambda: ValueSeries(instrument.buckets, self.lock, clock))


class RowSeries:
    """One series that is told the values of many rows at a time."""

    __slots__ = ("_counts", "_edges", "_edges32", "_lock", "_sum", "_summed")

    def __init__(self, edges: Sequence[float], lock: Lock) -> None:
        self._edges = np.asarray(edges, dtype=np.float64)
        self._edges32 = self._edges.astype(np.float32)
        self._counts = np.zeros(len(edges) + 1, dtype=np.int64)
        self._lock, self._sum, self._summed = lock, 0.0, edges[0] >= 0

    def observe(self, values: Values) -> None:
        """Counts the values of n rows.

        Values in float32 are held against edges in float32: a p-value of just 0.05 belongs to the bucket up to 0.05,
        although 0.05 in float32 is the slightest bit more than in float64.

        Args:
            values: Shape `(n,)`; n may be 0. NaN and infinities may occur.
        """
        edges = self._edges32 if values.dtype == np.float32 else self._edges
        # NaN sorts behind everything, hence into the last bucket.
        counts = np.bincount(edges.searchsorted(values), minlength=len(self._counts))
        total = _finite_sum(values) if self._summed else 0.0
        with self._lock:
            self._counts += counts
            self._sum += total

    def state(self) -> tuple[list[int], float, list[tuple[str, float, float] | None]]:
        """Counts per bucket, sum and no exemplars; for a caller that holds the histogram's lock."""
        counts: list[int] = self._counts.tolist()
        return counts, self._sum, [None] * len(counts)


class RowHistogram(_Histogram[RowSeries]):
    """A histogram of a number that every row has: a score margin, a p-value."""

    def __init__(self, instrument: Instrument) -> None:
        super().__init__(instrument, lambda: RowSeries(instrument.buckets, self.lock))


def _finite_sum(values: Values) -> float:
    if len(values) <= FEW_ROWS:
        total = float(sum(values.tolist()))
    else:
        with np.errstate(invalid="ignore", over="ignore"):
            total = float(values.sum(dtype=np.float64))
    return total if isfinite(total) else float(values[np.isfinite(values)].sum(dtype=np.float64))


def _bucket(
    edge: str, count: int, seen: tuple[str, float, float] | None
) -> tuple[str, float] | tuple[str, float, Exemplar]:
    if seen is None or not TRACE_ID.fullmatch(seen[0]):
        return edge, float(count)
    trace_id, value, at = seen
    return edge, float(count), Exemplar({"trace_id": trace_id}, value, at)
