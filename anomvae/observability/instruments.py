"""Every Prometheus instrument by name, type, labels and meaning: what docs, rules and dashboards are checked against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from anomvae.observability import buckets

HTTP_PROTOCOLS = ("v2-json", "v2-binary", "v1-json", "v1-arrow", "mlflow")
PROTOCOLS = (*HTTP_PROTOCOLS, "grpc", "other")
STAGES = ("decode", "queue", "run", "encode")
BATCH_REASONS = ("idle", "full", "waited")
SHED_REASONS = ("rows", "bytes", "connections")
CANCEL_REASONS = ("cancelled", "departed")
RELOAD_OUTCOMES = ("loaded", "refused", "failed")
TOKEN_OUTCOMES = ("loaded", "failed")

HTTP_CODES = ("200", "429", "500", "503", "504")
GRPC_CODES = ("OK", "RESOURCE_EXHAUSTED", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED")
"""Codes that rules count: their series start at 0, so that `rate()` sees the very first failure."""


def codes_of(protocol: str) -> tuple[str, ...]:
    """Codes of a protocol's answers that rules count; none of `other`, which scores nothing."""
    return {"grpc": GRPC_CODES, "other": ()}.get(protocol, HTTP_CODES)


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric as it is exposed.

    Attributes:
        name: As it stands in the exposition; counters end in `_total`.
        type: Its Prometheus type.
        labels: Names of its labels, in order.
        help: What it counts or measures, in one line.
        buckets: Upper edges of a histogram's buckets, ascending, without +Inf; empty for other types.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


REQUESTS = Instrument("anomvae_requests_total", "counter", ("model", "protocol", "code"), "Requests answered.")
ROWS = Instrument("anomvae_rows_total", "counter", ("model", "protocol", "code"), "Rows of the requests answered.")
REQUEST_SECONDS = Instrument(
    "anomvae_request_seconds",
    "histogram",
    ("model", "protocol"),
    "Whole request, from body read to answer handed over.",
    buckets.SECONDS,
)
STAGE_SECONDS = Instrument(
    "anomvae_stage_seconds",
    "histogram",
    ("model", "stage"),
    "Time per stage of a request: decode, queue, run or encode.",
    buckets.SECONDS,
)
REQUESTS_INFLIGHT = Instrument("anomvae_requests_inflight", "gauge", (), "Requests being worked on.")
INFLIGHT_ROWS = Instrument("anomvae_inflight_rows", "gauge", (), "Rows admitted and not yet answered.")
INFLIGHT_ROWS_LIMIT = Instrument("anomvae_inflight_rows_limit", "gauge", (), "Most rows admitted at once.")
BATCHES = Instrument(
    "anomvae_batches_total",
    "counter",
    ("model", "reason"),
    "Batches dispatched, by what closed them: idle, full or waited.",
)
BATCH_ROWS = Instrument("anomvae_batch_rows", "histogram", ("model",), "Rows a batch.", buckets.BATCH_ROWS)
SHED_REQUESTS = Instrument(
    "anomvae_shed_requests_total",
    "counter",
    ("model", "reason"),
    "Requests refused over a permit: of rows, bytes or connections.",
)
EXPIRED_REQUESTS = Instrument(
    "anomvae_expired_requests_total",
    "counter",
    ("model",),
    "Requests dropped because their deadline passed before they ran.",
)
CANCELLED_REQUESTS = Instrument(
    "anomvae_cancelled_requests_total",
    "counter",
    ("model", "reason"),
    "Requests dropped because the caller cancelled or departed.",
)
FAILED_BATCHES = Instrument("anomvae_failed_batches_total", "counter", ("model",), "Batches on which the graph failed.")
SCORE_MARGIN = Instrument(
    "anomvae_score_margin_nats",
    "histogram",
    ("model",),
    "Score of a row less the threshold of its model, and of its group there; above 0 is beyond the threshold.",
    buckets.MARGIN_NATS,
)
P_VALUE = Instrument(
    "anomvae_p_value",
    "histogram",
    ("model",),
    "P-values that verdicts are held against; of both scores together where both give the verdict.",
    buckets.P_VALUE,
)
VERDICTS = Instrument("anomvae_verdicts_total", "counter", ("model",), "Rows judged at the model's own alarm rate.")
ALARMS = Instrument("anomvae_alarms_total", "counter", ("model",), "Rows that alarmed at the model's own alarm rate.")
TAIL_VERDICTS = Instrument(
    "anomvae_tail_verdicts_total",
    "counter",
    ("model",),
    "Rows whose verdict, at the model's own alarm rate, rests on a p-value extrapolated beyond all calibration rows.",
)
POOLED_ROWS = Instrument(
    "anomvae_pooled_rows_total",
    "counter",
    ("model",),
    "Rows of a model with groups that were held against all groups' rows, their group being unknown or too small.",
)
CALIBRATION_EVIDENCE = Instrument(
    "anomvae_calibration_evidence_log10",
    "gauge",
    ("model",),
    "Log10 of the evidence that rows have become stranger than those that calibrated; 2 is a chance of 1 in 100.",
)
CALIBRATION_TRUSTED = Instrument(
    "anomvae_calibration_trusted",
    "gauge",
    ("model",),
    "0 once rows were found stranger than those that calibrated, until another version is loaded.",
)
MISSING_CELLS = Instrument("anomvae_missing_cells_total", "counter", ("model",), "Missing cells in rows scored.")
UNKNOWN_CATEGORY_CELLS = Instrument(
    "anomvae_unknown_category_cells_total", "counter", ("model",), "Cells holding a category that training never saw."
)
MODEL_INFO = Instrument(
    "anomvae_model_info",
    "gauge",
    ("model", "version", "kind", "digest", "reference"),
    "What is served; the series of the version before disappears.",
)
MODEL_LOADED_TIMESTAMP = Instrument(
    "anomvae_model_loaded_timestamp_seconds", "gauge", ("model",), "When the model was loaded, in Unix time."
)
MODEL_ALARM_RATE = Instrument(
    "anomvae_model_alarm_rate", "gauge", ("model",), "Stated share of normal rows that may alarm."
)
MODEL_RELOADS = Instrument(
    "anomvae_model_reloads_total",
    "counter",
    ("model", "outcome"),
    "Reloads, by outcome: loaded, refused, or failed when the reference could not be resolved.",
)
RELOAD_REFUSED = Instrument(
    "anomvae_model_reload_refused",
    "gauge",
    ("model",),
    "1 while the newest version was refused and an older one serves.",
)
REFERENCE_UNRESOLVED = Instrument(
    "anomvae_model_reference_unresolved", "gauge", ("model",), "1 while the last look at the reference failed."
)
PROVIDER_INFO = Instrument("anomvae_provider_info", "gauge", ("model", "provider"), "Execution provider really in use.")
PROVIDER_FALLBACK = Instrument(
    "anomvae_provider_fallback", "gauge", ("model",), "1 while a provider asked for first is not the one in use."
)
SHADOW_INFO = Instrument("anomvae_shadow_info", "gauge", ("model", "version"), "Challenger scored in shadow.")
SHADOW_ROWS = Instrument("anomvae_shadow_rows_total", "counter", ("model",), "Rows also scored by the challenger.")
SHADOW_DISAGREEMENTS = Instrument(
    "anomvae_shadow_disagreements_total", "counter", ("model",), "Rows on which the challenger's verdict is another."
)
SHADOW_DROPPED_ROWS = Instrument(
    "anomvae_shadow_dropped_rows_total",
    "counter",
    ("model",),
    "Sampled rows that were not scored in shadow, for load or failure.",
)
TOKENS_RELOADS = Instrument(
    "anomvae_tokens_reloads_total", "counter", ("outcome",), "Reloads of the token file, by outcome: loaded or failed."
)
TOKENS_STALE = Instrument(
    "anomvae_tokens_stale",
    "gauge",
    (),
    "1 while the token file has changed and cannot be read: the tokens before stay valid, withdrawn ones too.",
)
READY = Instrument("anomvae_ready", "gauge", (), "1 while the daemon is ready to score.")
BUILD_INFO = Instrument("anomvae_build_info", "gauge", ("version", "python", "onnxruntime"), "What is running.")

INSTRUMENTS: tuple[Instrument, ...] = (
    REQUESTS,
    ROWS,
    REQUEST_SECONDS,
    STAGE_SECONDS,
    REQUESTS_INFLIGHT,
    INFLIGHT_ROWS,
    INFLIGHT_ROWS_LIMIT,
    BATCHES,
    BATCH_ROWS,
    SHED_REQUESTS,
    EXPIRED_REQUESTS,
    CANCELLED_REQUESTS,
    FAILED_BATCHES,
    SCORE_MARGIN,
    P_VALUE,
    VERDICTS,
    ALARMS,
    TAIL_VERDICTS,
    POOLED_ROWS,
    CALIBRATION_EVIDENCE,
    CALIBRATION_TRUSTED,
    MISSING_CELLS,
    UNKNOWN_CATEGORY_CELLS,
    MODEL_INFO,
    MODEL_LOADED_TIMESTAMP,
    MODEL_ALARM_RATE,
    MODEL_RELOADS,
    RELOAD_REFUSED,
    REFERENCE_UNRESOLVED,
    PROVIDER_INFO,
    PROVIDER_FALLBACK,
    SHADOW_INFO,
    SHADOW_ROWS,
    SHADOW_DISAGREEMENTS,
    SHADOW_DROPPED_ROWS,
    TOKENS_RELOADS,
    TOKENS_STALE,
    READY,
    BUILD_INFO,
)
"""All of them, in the order of a request's way; `process_*` and `python_*` of the client library come on top."""
