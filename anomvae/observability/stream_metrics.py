"""Every number a stream tells Prometheus, and the one place that records them. Assets are never labels."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from anomvae.observability import buckets
from anomvae.observability.families import Current, Registry
from anomvae.observability.histograms import RowHistogram, ValueHistogram
from anomvae.observability.instruments import Instrument

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import numpy.typing as npt
    from prometheus_client import CollectorRegistry

    FloatArray = npt.NDArray[np.float64]

OUTCOMES = ("scored", "filling", "repeated", "late", "future", "off", "dead")
CAUSES = ("format", "columns", "cells", "time", "asset", "graph")
STATES = ("open", "closed")
STAGES = ("answer", "send")
TRANSACTIONS = ("committed", "aborted")
RELOADS = ("loaded", "refused", "failed")
BATCH_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""From a handful of records to a batch that waits for a broker that comes back."""
LATENCY_SECONDS = (0.001, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0, 86_400.0)
"""Finest where a stream that keeps up lies; the last tell how far behind one is that catches up."""

RECORDS = Instrument(
    "anomvae_stream_records_total",
    "counter",
    ("outcome",),
    "Records answered, by what became of them: scored, filling, repeated, late, future, off, or dead.",
)
DEAD_LETTERS = Instrument(
    "anomvae_stream_dead_letters_total",
    "counter",
    ("cause",),
    "Records that cannot be answered, by cause: format, columns, cells, time, asset, or graph.",
)
ALARMS = Instrument("anomvae_stream_alarms_total", "counter", (), "Records that alarmed.")
EVENTS = Instrument("anomvae_stream_events_total", "counter", ("state",), "Events told, by state: open or closed.")
REPLAYED = Instrument(
    "anomvae_stream_replayed_records_total",
    "counter",
    (),
    "Records read again to rebuild windows, and not answered again.",
)
CUT_WINDOWS = Instrument(
    "anomvae_stream_cut_windows_total",
    "counter",
    (),
    "Whole windows not scored because they reach back too many records.",
)
EVICTED_ASSETS = Instrument("anomvae_stream_evicted_assets_total", "counter", (), "Assets forgotten after a silence.")
BATCH = Instrument(
    "anomvae_stream_batch_seconds",
    "histogram",
    ("stage",),
    "Time a batch takes, by stage: answer (decode, score, write), or send and wait for the acknowledgement.",
    BATCH_SECONDS,
)
LATENCY = Instrument(
    "anomvae_stream_latency_seconds",
    "histogram",
    (),
    "From a record's own time at its source to its answer.",
    LATENCY_SECONDS,
)
P_VALUE = Instrument("anomvae_stream_p_value", "histogram", (), "P-values of the records scored.", buckets.P_VALUE)
LAG = Instrument(
    "anomvae_stream_lag_records",
    "gauge",
    ("partition",),
    "Records that lie unread in each partition this process has, as far as is known.",
)
PARTITIONS = Instrument("anomvae_stream_partitions", "gauge", (), "Partitions this process has.")
ASSETS = Instrument("anomvae_stream_assets", "gauge", (), "Assets of which a window, or part of one, is held.")
REBALANCES = Instrument("anomvae_stream_rebalances_total", "counter", (), "Times that partitions came or went.")
TRANSACTION = Instrument(
    "anomvae_stream_transactions_total", "counter", ("outcome",), "Transactions, by outcome: committed or aborted."
)
HEALTHY = Instrument("anomvae_stream_healthy", "gauge", (), "1 while source and sinks are connected.")
LAST_PROGRESS = Instrument(
    "anomvae_stream_last_progress_timestamp_seconds",
    "gauge",
    (),
    "When progress was last made durable, or there was nothing to do, in Unix time.",
)
MODEL_INFO = Instrument(
    "anomvae_stream_model_info",
    "gauge",
    ("model", "version", "kind", "digest", "reference"),
    "What answers; the series of the version before disappears.",
)
MODEL_ALARM_RATE = Instrument(
    "anomvae_stream_model_alarm_rate", "gauge", (), "Stated share of normal records that may alarm."
)
MODEL_RELOADS = Instrument(
    "anomvae_stream_model_reloads_total",
    "counter",
    ("outcome",),
    "Reloads, by outcome: loaded, refused, or failed when the reference could not be resolved.",
)
RELOAD_REFUSED = Instrument(
    "anomvae_stream_model_reload_refused",
    "gauge",
    (),
    "1 while the newest version was refused and an older one answers.",
)
BUILD_INFO = Instrument("anomvae_stream_build_info", "gauge", ("version", "python", "onnxruntime"), "What is running.")

STREAM_INSTRUMENTS: tuple[Instrument, ...] = (
    RECORDS,
    DEAD_LETTERS,
    ALARMS,
    EVENTS,
    REPLAYED,
    CUT_WINDOWS,
    EVICTED_ASSETS,
    BATCH,
    LATENCY,
    P_VALUE,
    LAG,
    PARTITIONS,
    ASSETS,
    REBALANCES,
    TRANSACTION,
    HEALTHY,
    LAST_PROGRESS,
    MODEL_INFO,
    MODEL_ALARM_RATE,
    MODEL_RELOADS,
    RELOAD_REFUSED,
    BUILD_INFO,
)
"""All of them; `process_*` and `python_*` of the client library come on top."""


class StreamMetrics:
    """All instruments of one stream, on a registry of their own. Any thread may record.

    Series whose first event matters to a rule exist from the start, at 0: `rate()` cannot see the step from nothing to 1.

    Args:
        build: Labels of `anomvae_stream_build_info`: `version`, `python`, `onnxruntime`; what lacks is empty.
        clock: Unix time in seconds.
    """

    registry: CollectorRegistry

    def __init__(self, build: Mapping[str, str] | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self.registry = Registry()
        self._clock = clock
        self._records = self._by(RECORDS, OUTCOMES)
        self._dead = self._by(DEAD_LETTERS, CAUSES)
        self._events = self._by(EVENTS, STATES)
        self._transactions = self._by(TRANSACTION, TRANSACTIONS)
        self._reloads = self._by(MODEL_RELOADS, RELOADS)
        self._alarms, self._replayed = self._counter(ALARMS), self._counter(REPLAYED)
        self._cut, self._evicted = self._counter(CUT_WINDOWS), self._counter(EVICTED_ASSETS)
        self._rebalances = self._counter(REBALANCES)
        self._partitions, self._healthy = self._gauge(PARTITIONS), self._gauge(HEALTHY)
        self._assets, self._last_progress = self._gauge(ASSETS), self._gauge(LAST_PROGRESS)
        self._alarm_rate, self._refused = self._gauge(MODEL_ALARM_RATE), self._gauge(RELOAD_REFUSED)
        self._lag = Gauge(LAG.name, LAG.help, LAG.labels, registry=self.registry)
        self._lagging: set[str] = set()
        batch, latency, p_value = ValueHistogram(BATCH), RowHistogram(LATENCY), RowHistogram(P_VALUE)
        self._batch = {stage: batch.labels(stage) for stage in STAGES}
        self._latency, self._p_value = latency.labels(), p_value.labels()
        self._model_info, build_info = Current(MODEL_INFO), Current(BUILD_INFO)
        for collector in (batch, latency, p_value, self._model_info, build_info):
            self.registry.register(collector)
        build_info.set("", tuple((build or {}).get(label, "") for label in BUILD_INFO.labels))
        for own in (ProcessCollector, PlatformCollector, GCCollector):
            own(registry=self.registry)
        self.progressed()

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition; any thread may ask.

        Args:
            accept: The scraper's Accept header; OpenMetrics is given to who asks for it.

        Returns:
            Body and content type.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        return encode(self.registry), content_type

    # --- batches

    def records(self, outcomes: Mapping[str, int], *, alarms: int) -> None:
        """Counts records by what became of them, and those that alarmed.

        Args:
            outcomes: Records by one of :data:`OUTCOMES`.
            alarms: Of the scored ones.
        """
        for outcome, count in outcomes.items():
            self._records[outcome].inc(count)
        self._alarms.inc(alarms)

    def dead_letters(self, causes: Mapping[str, int]) -> None:
        """Counts records that cannot be answered by one of :data:`CAUSES`."""
        for cause, count in causes.items():
            self._dead[cause].inc(count)

    def events(self, states: Mapping[str, int]) -> None:
        """Counts events told by one of :data:`STATES`."""
        for state, count in states.items():
            self._events[state].inc(count)

    def rebuilt(self, replayed: int, cut: int, evicted: int) -> None:
        """Counts what became of windows.

        Args:
            replayed: Records read again.
            cut: Windows that reach back too far.
            evicted: Assets forgotten.
        """
        self._replayed.inc(replayed)
        self._cut.inc(cut)
        self._evicted.inc(evicted)

    def batch(self, answer_s: float, send_s: float) -> None:
        """Records how long a batch took, in seconds."""
        self._batch["answer"].observe(answer_s)
        self._batch["send"].observe(send_s)

    def values(self, latency_s: FloatArray, p_values: FloatArray) -> None:
        """Records latencies and p-values of records, shape ``(n,)`` each."""
        self._latency.observe(latency_s)
        self._p_value.observe(p_values)

    # --- where the stream is

    def progressed(self) -> None:
        """States that progress was made durable just now, or that there is none to make."""
        self._last_progress.set(self._clock())

    def lag(self, records: Mapping[int, int]) -> None:
        """States how many records lie unread, by partition; those not named are no longer ours."""
        now = {str(partition): count for partition, count in records.items()}
        for partition in self._lagging - now.keys():
            self._lag.remove(partition)
        for partition, count in now.items():
            self._lag.labels(partition).set(count)
        self._lagging = set(now)

    def rebalanced(self) -> None:
        """Counts a time that partitions came or went."""
        self._rebalances.inc()

    def transaction(self, outcome: str) -> None:
        """Counts a transaction that was `committed` or `aborted`."""
        self._transactions[outcome].inc()

    def follow(self, healthy: Callable[[], bool], partitions: Callable[[], int], assets: Callable[[], int]) -> None:
        """Names who knows how the stream is; asked whenever the metrics are read.

        Args:
            healthy: Whether source and sinks are connected.
            partitions: Partitions this process has.
            assets: Assets of which a window is held.
        """
        self._healthy.set_function(healthy)
        self._partitions.set_function(partitions)
        self._assets.set_function(assets)

    # --- the model

    def model_loaded(
        self, model: str, *, version: str, kind: str, digest: str, reference: str, alarm_rate: float
    ) -> None:
        """Announces the version that answers; what was said of the one before disappears.

        Args:
            model: Its name.
            version: Its version, as the registry or the bundle tells it.
            kind: What it scores: tables or series.
            digest: Of the bundle.
            reference: Where it was found.
            alarm_rate: Share of normal records that may alarm.
        """
        self._model_info.set("", (model, version, kind, digest, reference))
        self._alarm_rate.set(alarm_rate)

    def reload(self, outcome: str) -> None:
        """Counts a reload: `loaded`, `refused` (the version before answers on), or `failed`, which the next look mends."""
        self._reloads[outcome].inc()
        if outcome != "failed":
            self._refused.set(outcome == "refused")

    def reload_settled(self) -> None:
        """The reference names what answers: nothing refused."""
        self._refused.set(0)

    def _by(self, instrument: Instrument, values: tuple[str, ...]) -> dict[str, Counter]:
        counter = Counter(instrument.name, instrument.help, instrument.labels, registry=self.registry)
        return {value: counter.labels(value) for value in values}

    def _counter(self, instrument: Instrument) -> Counter:
        return Counter(instrument.name, instrument.help, registry=self.registry)

    def _gauge(self, instrument: Instrument) -> Gauge:
        return Gauge(instrument.name, instrument.help, registry=self.registry)
