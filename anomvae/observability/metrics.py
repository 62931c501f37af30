"""Every number the daemon tells Prometheus, and the one place that records them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from prometheus_client import Counter, Gauge, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from anomvae.observability import instruments as i
from anomvae.observability.families import Children, Current, Registry
from anomvae.observability.histograms import RowHistogram, RowSeries, ValueHistogram, ValueSeries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client import CollectorRegistry

    FloatArray = npt.NDArray[np.float64] | npt.NDArray[np.float32]
    BoolArray = npt.NDArray[np.bool_]

FAR = 1e30
"""Less than half a step between the largest numbers of float32: less a threshold nearer to 0, no finite score overflows."""


class CalibrationTrust(Protocol):
    """Whether a model's calibration is still to be trusted."""

    @property
    def evidence(self) -> float:
        """Log10 of the evidence that it is not."""
        ...

    @property
    def is_trusted(self) -> bool:
        """Whether the evidence has stayed small."""
        ...


class Metrics:
    """All instruments of one daemon, on a registry of their own. Any thread may record.

    Series whose first event matters to a rule exist, at 0, from the moment a model is announced by :meth:`model_loaded`:
    `rate()` cannot see the step from nothing to 1. Those of requests come protocol by protocol, all codes that rules count at
    a model's first request by it: most models are asked by one. A model that was never announced is counted under `""`.

    Args:
        build: Labels of `anomvae_build_info`: `version`, `python`, `onnxruntime`; what lacks is empty.
        clock: Unix time in seconds, for exemplars.
    """

    registry: CollectorRegistry

    def __init__(self, build: Mapping[str, str] | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self.registry = Registry()
        self._models = {""}
        self._make_request_instruments(clock)
        self._make_row_instruments()
        self._make_model_instruments()
        self._make_daemon_instruments(build or {})
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        for reason in i.SHED_REASONS:
            self._shed["", reason].inc(0)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition. It takes a while, a millisecond a model; any thread may ask.

        Args:
            accept: The scraper's Accept header; OpenMetrics, which alone holds exemplars, is given to who asks for it.

        Returns:
            Body and content type.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        return encode(self.registry), content_type

    # --- requests

    def request(
        self, model: str, protocol: str, code: str, rows: int, seconds: float, trace_id: str | None = None
    ) -> None:
        """Counts a request that was answered, with its rows and its duration.

        Args:
            model: Name it was served under; `""` where no served model was named.
            protocol: Wire format: one of `instruments.PROTOCOLS`.
            code: HTTP status as text, or name of the gRPC status.
            rows: Its rows; 0 where they were not read.
            seconds: From body read to answer handed over.
            trace_id: Trace it belongs to, shown as the exemplar of its bucket.
        """
        requests, row_count, duration = self._requests[model, protocol, code]
        requests.inc()
        row_count.inc(rows)
        duration.observe(seconds, trace_id)

    def stages(self, model: str, decode_s: float, queue_s: float, run_s: float, encode_s: float) -> None:
        """Records how long each stage of a request took, in seconds."""
        decode, queue, run, encode = self._stages[model,]
        with self._stage_seconds.lock:
            decode.add(decode_s)
            queue.add(queue_s)
            run.add(run_s)
            encode.add(encode_s)

    def follow_inflight(self, requests: Callable[[], int], rows: Callable[[], int]) -> None:
        """Names who knows what is in flight; asked whenever the metrics are read, so that a request costs nothing.

        Args:
            requests: Requests being worked on.
            rows: Rows admitted and not yet answered.
        """
        self._requests_inflight.set_function(requests)
        self._inflight_rows.set_function(rows)

    def inflight_limit(self, rows: int) -> None:
        """States the most rows admitted at once."""
        self._inflight_limit.set(rows)

    def shed(self, model: str, reason: str) -> None:
        """Counts a request refused over a permit: `rows`, `bytes` or `connections`."""
        self._shed[model, reason].inc()

    def expired(self, model: str) -> None:
        """Counts a request dropped because its deadline passed before it ran."""
        self._expired[model,].inc()

    def cancelled(self, model: str, reason: str) -> None:
        """Counts a request dropped because its caller `cancelled` it or `departed`."""
        self._cancelled[model, reason].inc()

    # --- batches and rows

    def batch(self, model: str, rows: int, reason: str) -> None:
        """Counts a batch dispatched, its rows, and what closed it: `idle`, `full` or `waited`."""
        self._batches[model, reason].inc()
        self._batch_rows[model,].observe(rows)

    def batch_failed(self, model: str) -> None:
        """Counts a batch on which the graph failed."""
        self._failed_batches[model,].inc()

    def rows(
        self,
        model: str,
        *,
        scores: FloatArray | None,
        p_values: FloatArray | None,
        alarms: BoolArray | None,
        threshold: float | FloatArray,
        tails: BoolArray | None = None,
    ) -> None:
        """Records the answers to n rows, as far as they were computed.

        Args:
            model: Name it was served under.
            scores: In nats, higher is stranger, shape `(n,)`; None: not computed.
            p_values: That verdicts are held against, shape `(n,)`; None: not computed.
            alarms: True where the row alarmed, shape `(n,)`; None: no verdict was computed.
            threshold: The score beyond which the model alarms, in nats; shape `(n,)` where it is not the same for all rows.
            tails: True where the verdict rests on an extrapolated p-value, shape `(n,)`; None: not computed, or not known.
        """
        if scores is not None:
            self._score_margin[model,].observe(_margins(scores, threshold))
        if p_values is not None:
            self._p_value[model,].observe(p_values)
        if alarms is not None:
            self._verdicts[model,].inc(len(alarms))
            self._alarms[model,].inc(int(np.count_nonzero(alarms)))
        if tails is not None and (extrapolated := int(np.count_nonzero(tails))):
            self._tail_verdicts[model,].inc(extrapolated)

    def pooled(self, model: str, rows: int) -> None:
        """Counts rows of a model with groups that were held against the rows of all groups."""
        if rows:
            self._pooled_rows[model,].inc(rows)

    def cells(self, model: str, *, missing: int, unknown: int) -> None:
        """Counts cells of rows scored that were missing, or held a category training never saw."""
        if missing:
            self._missing[model,].inc(missing)
        if unknown:
            self._unknown[model,].inc(unknown)

    # --- models

    def model_loaded(  # noqa: PLR0913 - the facts of one model
        self, model: str, *, version: str, kind: str, digest: str, reference: str, alarm_rate: float, at: float
    ) -> None:
        """Announces the version now served under a name; what was said of the one before disappears.

        Args:
            model: Name it is served under.
            version: Its version, as the registry or the bundle tells it.
            kind: What the bundle scores: the kind its manifest tells.
            digest: Of the bundle.
            reference: Where it was found, free of secrets.
            alarm_rate: Stated share of normal rows that may alarm.
            at: Unix time of loading, in seconds.
        """
        if model not in self._models:
            self._models.add(model)
            self._start_at_zero(model)
        self._model_info.set(model, (model, version, kind, digest, reference))
        self._loaded_timestamp[model,].set(at)
        self._alarm_rate[model,].set(alarm_rate)
        self._calibration_evidence[model,].set_function(lambda: 0.0)  # nothing is known of it yet
        self._calibration_trusted[model,].set_function(lambda: 1.0)

    def follow_calibration(self, model: str, trust: CalibrationTrust) -> None:
        """Names who knows whether the version now served is to be trusted; asked whenever the metrics are read.

        Args:
            model: Name it is served under; until another version is announced.
            trust: Asked from any thread.
        """
        self._calibration_evidence[model,].set_function(lambda: trust.evidence)
        self._calibration_trusted[model,].set_function(lambda: trust.is_trusted)

    def reload(self, model: str, outcome: str) -> None:
        """Counts a reload, and raises or lowers what alerts look at.

        Args:
            model: Name it is served under.
            outcome: `loaded`: the newest version is served. `refused`: the reference was resolved, but its version was
                refused and the older one serves on. `failed`: the reference could not be resolved; whether a version was
                refused before stays as it was.
        """
        self._reloads[model, outcome].inc()
        self._unresolved[model,].set(outcome == "failed")
        if outcome != "failed":
            self._refused[model,].set(outcome == "refused")

    def reference_resolved(self, model: str) -> None:
        """The reference was looked at and names a version; whether that one was refused stays as it was."""
        self._unresolved[model,].set(0)

    def reload_settled(self, model: str) -> None:
        """The reference was looked at and names what is served: nothing refused, nothing unresolved."""
        self._refused[model,].set(0)
        self._unresolved[model,].set(0)

    def provider(self, model: str, provider: str, fell_back: bool) -> None:
        """States the execution provider in use, and whether another one was asked for first."""
        if model in self._models:
            self._provider_info.set(model, (model, provider))
        self._fallback[model,].set(fell_back)

    def shadow_loaded(self, model: str, version: str | None) -> None:
        """States the challenger scored in shadow; None: there is none any more."""
        if model in self._models:
            self._shadow_info.set(model, None if version is None else (model, version))

    def shadow(self, model: str, rows: int, disagreements: int) -> None:
        """Counts rows also scored by the challenger, and of these the rows with another verdict."""
        self._shadow_rows[model,].inc(rows)
        self._shadow_disagreements[model,].inc(disagreements)

    def shadow_dropped(self, model: str, rows: int) -> None:
        """Counts sampled rows that were not scored in shadow."""
        self._shadow_dropped[model,].inc(rows)

    # --- the daemon

    def tokens_reload(self, outcome: str) -> None:
        """Counts a reload of the token file, and states whether tokens before it are still in force.

        Args:
            outcome: `loaded`, or `failed`: the tokens before stay valid.
        """
        self._tokens_reloads.labels(outcome).inc()
        self._tokens_stale.set(outcome == "failed")

    def ready(self, ready: bool) -> None:
        """States readiness."""
        self._ready.set(ready)

    # --- making

    def _make_request_instruments(self, clock: Callable[[], float]) -> None:
        requests, row_count = self._library_counter(i.REQUESTS), self._library_counter(i.ROWS)
        seconds = ValueHistogram(i.REQUEST_SECONDS, clock)
        self._stage_seconds = ValueHistogram(i.STAGE_SECONDS, clock)
        self._register(seconds, self._stage_seconds)

        def one(model: str, protocol: str, code: str) -> tuple[Counter, Counter, ValueSeries]:
            labels = (model, protocol, code)
            for likely in i.codes_of(protocol) if model else ():
                requests.labels(model, protocol, likely)
                row_count.labels(model, protocol, likely)
            return requests.labels(*labels), row_count.labels(*labels), seconds.labels(model, protocol)

        def four(model: str) -> tuple[ValueSeries, ...]:
            return tuple(self._stage_seconds.labels(model, stage) for stage in i.STAGES)

        self._requests: Children[tuple[Counter, Counter, ValueSeries]] = Children(one, self._models)
        self._stages: Children[tuple[ValueSeries, ...]] = Children(four, self._models)
        self._requests_inflight = self._library_gauge(i.REQUESTS_INFLIGHT)
        self._inflight_rows = self._library_gauge(i.INFLIGHT_ROWS)
        self._inflight_limit = self._library_gauge(i.INFLIGHT_ROWS_LIMIT)
        self._shed = self._counter(i.SHED_REQUESTS)
        self._expired = self._counter(i.EXPIRED_REQUESTS)
        self._cancelled = self._counter(i.CANCELLED_REQUESTS)

    def _make_row_instruments(self) -> None:
        batch_rows = ValueHistogram(i.BATCH_ROWS)
        margin, p_value = RowHistogram(i.SCORE_MARGIN), RowHistogram(i.P_VALUE)
        self._register(batch_rows, margin, p_value)
        self._batch_rows: Children[ValueSeries] = Children(batch_rows.labels, self._models)
        self._score_margin: Children[RowSeries] = Children(margin.labels, self._models)
        self._p_value: Children[RowSeries] = Children(p_value.labels, self._models)
        self._batches = self._counter(i.BATCHES)
        self._failed_batches = self._counter(i.FAILED_BATCHES)
        self._verdicts = self._counter(i.VERDICTS)
        self._alarms = self._counter(i.ALARMS)
        self._tail_verdicts, self._pooled_rows = self._counter(i.TAIL_VERDICTS), self._counter(i.POOLED_ROWS)
        self._missing = self._counter(i.MISSING_CELLS)
        self._unknown = self._counter(i.UNKNOWN_CATEGORY_CELLS)

    def _make_model_instruments(self) -> None:
        self._model_info, self._provider_info = Current(i.MODEL_INFO), Current(i.PROVIDER_INFO)
        self._shadow_info = Current(i.SHADOW_INFO)
        self._register(self._model_info, self._provider_info, self._shadow_info)
        self._loaded_timestamp = self._gauge(i.MODEL_LOADED_TIMESTAMP)
        self._alarm_rate = self._gauge(i.MODEL_ALARM_RATE)
        self._calibration_evidence = self._gauge(i.CALIBRATION_EVIDENCE)
        self._calibration_trusted = self._gauge(i.CALIBRATION_TRUSTED)
        self._reloads = self._counter(i.MODEL_RELOADS)
        self._refused = self._gauge(i.RELOAD_REFUSED)
        self._unresolved = self._gauge(i.REFERENCE_UNRESOLVED)
        self._fallback = self._gauge(i.PROVIDER_FALLBACK)
        self._shadow_rows = self._counter(i.SHADOW_ROWS)
        self._shadow_disagreements = self._counter(i.SHADOW_DISAGREEMENTS)
        self._shadow_dropped = self._counter(i.SHADOW_DROPPED_ROWS)

    def _make_daemon_instruments(self, build: Mapping[str, str]) -> None:
        self._ready = self._library_gauge(i.READY)
        self._tokens_reloads = self._library_counter(i.TOKENS_RELOADS)
        self._tokens_stale = self._library_gauge(i.TOKENS_STALE)
        for outcome in i.TOKEN_OUTCOMES:
            self._tokens_reloads.labels(outcome)
        build_info = Current(i.BUILD_INFO)
        self._register(build_info)
        build_info.set("", tuple(build.get(label, "") for label in i.BUILD_INFO.labels))

    def _start_at_zero(self, model: str) -> None:
        """Makes the series whose first event a rule must see."""
        starts: Iterable[tuple[Children[Counter] | Children[Gauge], Iterable[str]]] = (
            (self._shed, i.SHED_REASONS),
            (self._cancelled, i.CANCEL_REASONS),
            (self._batches, i.BATCH_REASONS),
            (self._reloads, i.RELOAD_OUTCOMES),
        )
        for children, values in starts:
            for value in values:
                _ = children[model, value]
        for single in (
            *(self._expired, self._failed_batches, self._verdicts, self._alarms, self._missing, self._unknown),
            *(self._tail_verdicts, self._pooled_rows),
            *(self._shadow_rows, self._shadow_disagreements, self._shadow_dropped),
            *(self._refused, self._unresolved, self._fallback),
            *(self._stages, self._batch_rows, self._score_margin, self._p_value),
        ):
            _ = single[model,]

    def _library_counter(self, instrument: i.Instrument) -> Counter:
        return Counter(instrument.name, instrument.help, instrument.labels, registry=self.registry)

    def _library_gauge(self, instrument: i.Instrument) -> Gauge:
        return Gauge(instrument.name, instrument.help, instrument.labels, registry=self.registry)

    def _counter(self, instrument: i.Instrument) -> Children[Counter]:
        return Children(self._library_counter(instrument).labels, self._models)

    def _gauge(self, instrument: i.Instrument) -> Children[Gauge]:
        return Children(self._library_gauge(instrument).labels, self._models)

    def _register(self, *collectors: ValueHistogram | RowHistogram | Current) -> None:
        for collector in collectors:
            self.registry.register(collector)


def _margins(scores: FloatArray, threshold: float | FloatArray) -> FloatArray:
    if isinstance(threshold, float) and -FAR < threshold < FAR:
        return scores - threshold
    with np.errstate(invalid="ignore", over="ignore"):  # infinity less infinity is no number, and counted so
        return scores - threshold
