"""What the daemon exposes to Prometheus."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics

from anomvae.observability.instruments import (
    GRPC_CODES,
    HTTP_CODES,
    HTTP_PROTOCOLS,
    INSTRUMENTS,
    SHED_REASONS,
    STAGES,
)
from anomvae.observability.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def announce(metrics: Metrics, model: str = "press", version: str = "1") -> None:
    metrics.model_loaded(
        model, version=version, kind="table", digest="sha256:0", reference="models:/press", alarm_rate=0.01, at=1.5e9
    )


def used() -> Metrics:
    """Metrics of a daemon that has done a little of everything."""
    metrics = Metrics({"version": "1.2.3", "python": "3.11", "onnxruntime": "1.20"}, clock=lambda: 1700000000.5)
    announce(metrics)
    metrics.provider("press", "CPUExecutionProvider", fell_back=True)
    metrics.shadow_loaded("press", "2")
    metrics.stages("press", 0.001, 0.002, 0.003, 0.004)
    metrics.request("press", "v2-json", "200", 3, 0.01, TRACE)
    metrics.request("press", "v2-json", "200", 1, 40.0)
    metrics.batch("press", 3, "full")
    metrics.rows(
        "press",
        scores=np.array([1.0, 7.0, np.nan], dtype=np.float32),
        p_values=np.array([0.5, 0.01, np.nan]),
        alarms=np.array([False, True, True]),
        threshold=5.0,
    )
    metrics.cells("press", missing=2, unknown=1)
    metrics.shadow("press", 3, 1)
    metrics.ready(ready=True)
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_the_text_format_parses() -> None:
    body, content_type = used().render("text/plain")
    assert content_type.startswith("text/plain")
    families = {family.name for family in parser.text_string_to_metric_families(body.decode())}
    assert {"anomvae_requests", "anomvae_request_seconds", "python_info", "process_cpu_seconds"} <= families


def test_openmetrics_parses_strictly() -> None:
    body, content_type = used().render(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name for family in openmetrics.text_string_to_metric_families(body.decode())}  # type: ignore[no-untyped-call]
    assert {"anomvae_requests", "anomvae_score_margin_nats", "anomvae_p_value"} <= families


def test_promtool_finds_nothing_to_complain_of() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    body, _ = used().render("")
    checked = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    "accept", ["", "*/*", "application/openmetrics-text;version=x", ";;,=", "text/plain;version=ü"]
)
def test_any_accept_header_is_answered(accept: str) -> None:
    assert used().render(accept)[0]


def test_the_registry_exposes_the_instruments_and_no_other() -> None:
    families = {family.name: family for family in used().registry.collect() if family.name.startswith("anomvae_")}
    exposed = {
        (f"{name}_total" if family.type == "counter" else name, family.type, family.documentation)
        for name, family in families.items()
    }
    assert exposed == {(each.name, each.type, each.help) for each in INSTRUMENTS}
    for each in INSTRUMENTS:
        samples = families[each.name.removesuffix("_total")].samples
        assert samples, f"{each.name} has a series once a model is served"
        assert {frozenset(sample.labels) - {"le"} for sample in samples} == {frozenset(each.labels)}, each.name


def test_a_request_is_counted_with_its_rows_and_its_duration() -> None:
    metrics = used()
    labels = {"model": "press", "protocol": "v2-json"}
    assert value(metrics, "anomvae_requests_total", code="200", **labels) == 2
    assert value(metrics, "anomvae_rows_total", code="200", **labels) == 4
    assert value(metrics, "anomvae_request_seconds_count", **labels) == 2
    assert value(metrics, "anomvae_request_seconds_sum", **labels) == pytest.approx(40.01)
    sums = [value(metrics, "anomvae_stage_seconds_sum", model="press", stage=stage) for stage in STAGES]
    assert sums == pytest.approx([0.001, 0.002, 0.003, 0.004])


def test_rows_are_recorded_as_far_as_they_were_computed() -> None:
    metrics = used()
    metrics.rows("press", scores=None, p_values=None, alarms=None, threshold=5.0)
    assert value(metrics, "anomvae_score_margin_nats_bucket", model="press", le="0.0") == 1
    assert value(metrics, "anomvae_score_margin_nats_bucket", model="press", le="2.0") == 2
    assert value(metrics, "anomvae_score_margin_nats_bucket", model="press", le="+Inf") == 3
    assert value(metrics, "anomvae_p_value_sum", model="press") == pytest.approx(0.51)
    assert value(metrics, "anomvae_verdicts_total", model="press") == 3
    assert value(metrics, "anomvae_alarms_total", model="press") == 2
    assert value(metrics, "anomvae_missing_cells_total", model="press") == 2
    assert value(metrics, "anomvae_unknown_category_cells_total", model="press") == 1


@pytest.mark.parametrize("threshold", [np.inf, -np.inf, np.nan, 1e300])
def test_a_threshold_beyond_all_scores_is_recorded_without_complaint(threshold: float) -> None:
    metrics = used()
    scores = np.array([np.inf, -np.inf, np.nan, 3e38, -3e38, 0.0], dtype=np.float32)
    metrics.rows("press", scores=scores, p_values=None, alarms=None, threshold=threshold)
    assert value(metrics, "anomvae_score_margin_nats_bucket", model="press", le="+Inf") == 3 + 6


def test_the_trace_of_a_request_is_shown_in_openmetrics_only() -> None:
    metrics = used()
    assert TRACE.encode() not in metrics.render("text/plain")[0]
    lines = [line for line in metrics.render(OPENMETRICS)[0].decode().splitlines() if TRACE in line]
    assert lines == [
        'anomvae_request_seconds_bucket{le="0.01",model="press",protocol="v2-json"} 1.0'
        f' # {{trace_id="{TRACE}"}} 0.01 1700000000.5'
    ]


@pytest.mark.parametrize("trace", ["x" * 200, 'a"b\\c\nd', "\ud800", "ünicode"])
def test_no_trace_id_breaks_the_exposition(trace: str) -> None:
    metrics = used()
    metrics.request("press", "grpc", "OK", 1, 0.2, trace)
    body, _ = metrics.render(OPENMETRICS)
    assert list(openmetrics.text_string_to_metric_families(body.decode()))  # type: ignore[no-untyped-call]


def infos(metrics: Metrics, name: str) -> list[dict[str, str]]:
    return [sample.labels for family in metrics.registry.collect() if family.name == name for sample in family.samples]


def test_the_version_before_disappears_when_another_is_loaded() -> None:
    metrics = used()
    announce(metrics, "other")
    announce(metrics, version="2")
    told = {(labels["model"], labels["version"]) for labels in infos(metrics, "anomvae_model_info")}
    assert told == {("press", "2"), ("other", "1")}
    metrics.provider("press", "CUDAExecutionProvider", fell_back=False)
    assert infos(metrics, "anomvae_provider_info") == [{"model": "press", "provider": "CUDAExecutionProvider"}]
    metrics.shadow_loaded("press", None)
    assert infos(metrics, "anomvae_shadow_info") == []


def test_loading_again_does_not_set_counters_back() -> None:
    metrics = used()
    announce(metrics, version="2")
    assert value(metrics, "anomvae_verdicts_total", model="press") == 3


def test_a_label_that_utf8_cannot_hold_does_not_break_the_exposition() -> None:
    metrics = Metrics()
    announce(metrics, version="\udcff")
    assert infos(metrics, "anomvae_model_info")[0]["version"] == "?"
    assert metrics.render("")[0]


RECORDERS: dict[str, Callable[[Metrics, str], None]] = {
    "request": lambda metrics, model: metrics.request(model, "other", "404", 2, 0.1),
    "stages": lambda metrics, model: metrics.stages(model, 0.1, 0.1, 0.1, 0.1),
    "shed": lambda metrics, model: metrics.shed(model, "bytes"),
    "expired": lambda metrics, model: metrics.expired(model),
    "cancelled": lambda metrics, model: metrics.cancelled(model, "departed"),
    "batch": lambda metrics, model: metrics.batch(model, 1, "idle"),
    "batch_failed": lambda metrics, model: metrics.batch_failed(model),
    "rows": lambda metrics, model: metrics.rows(
        model, scores=np.ones(1), p_values=np.ones(1), alarms=np.ones(1, dtype=np.bool_), threshold=0.0
    ),
    "cells": lambda metrics, model: metrics.cells(model, missing=1, unknown=1),
    "reload": lambda metrics, model: metrics.reload(model, "failed"),
    "settled": lambda metrics, model: metrics.reload_settled(model),
    "provider": lambda metrics, model: metrics.provider(model, "CPUExecutionProvider", fell_back=False),
    "shadow_loaded": lambda metrics, model: metrics.shadow_loaded(model, "1"),
    "shadow": lambda metrics, model: metrics.shadow(model, 1, 1),
    "shadow_dropped": lambda metrics, model: metrics.shadow_dropped(model, 1),
}


@pytest.mark.parametrize("record", RECORDERS.values(), ids=RECORDERS.keys())
def test_a_model_that_is_not_served_never_becomes_a_label(record: Callable[[Metrics, str], None]) -> None:
    metrics = Metrics()
    for number in range(50):
        record(metrics, f"made-up-{number}")
    assert b"made-up" not in metrics.render("")[0]
    remembered = [held for held in vars(metrics).values() if isinstance(held, dict)]
    assert not any("made-up" in str(key) for held in remembered for key in held)


def test_requests_for_models_not_served_are_counted_together() -> None:
    metrics = Metrics()
    for number in range(3):
        metrics.request(f"made-up-{number}", "other", "404", 2, 0.1)
    assert value(metrics, "anomvae_requests_total", model="", protocol="other", code="404") == 3
    assert value(metrics, "anomvae_rows_total", model="", protocol="other", code="404") == 6


def test_what_rules_watch_starts_at_zero() -> None:
    metrics = Metrics()
    for reason in SHED_REASONS:
        assert value(metrics, "anomvae_shed_requests_total", model="", reason=reason) == 0
    announce(metrics)
    alone = [each for each in INSTRUMENTS if each.type == "counter" and each.labels == ("model",)]
    assert {value(metrics, each.name, model="press") for each in alone} == {0}
    assert value(metrics, "anomvae_tokens_reloads_total", outcome="failed") == 0


def test_the_failures_of_a_protocol_start_at_zero_with_its_first_request_and_no_others_are_there() -> None:
    for protocol in (*HTTP_PROTOCOLS, "grpc"):
        metrics = Metrics()
        announce(metrics)
        answered, *failures = GRPC_CODES if protocol == "grpc" else HTTP_CODES
        metrics.request("press", protocol, answered, 2, 0.1)
        for code in failures:
            for name in ("anomvae_requests_total", "anomvae_rows_total"):
                assert value(metrics, name, model="press", protocol=protocol, code=code) == 0
        body = metrics.render("")[0].decode()
        told = {line.partition('protocol="')[2].partition('"')[0] for line in body.splitlines() if "protocol=" in line}
        assert told == {protocol}


def test_scores_are_held_against_a_threshold_for_each_row_or_one_for_all() -> None:
    for threshold in (
        5.0,
        np.array([5.0, 9.0, 1.0], dtype=np.float32),
        np.array([np.inf, 5.0, -np.inf], dtype=np.float32),
    ):
        metrics = Metrics()
        announce(metrics)
        scores = np.array([4.0, 8.0, 2.0], dtype=np.float32)
        metrics.rows("press", scores=scores, p_values=None, alarms=None, threshold=threshold)
        below = value(metrics, "anomvae_score_margin_nats_bucket", model="press", le="0.0")
        assert 3 - (below or 0) == (scores > threshold).sum()


def test_rows_by_the_tail_and_pooled_ones_are_counted() -> None:
    metrics = Metrics()
    announce(metrics)
    for tails in (np.array([True, False, True]), np.array([False]), None):
        metrics.rows("press", scores=None, p_values=None, alarms=None, threshold=0.0, tails=tails)
    metrics.pooled("press", 3)
    metrics.pooled("press", 0)
    assert value(metrics, "anomvae_tail_verdicts_total", model="press") == 2
    assert value(metrics, "anomvae_pooled_rows_total", model="press") == 3


def test_trust_is_asked_for_whenever_it_is_read_and_full_for_a_version_just_loaded() -> None:
    class Trust:
        evidence, is_trusted = 0.25, True

    metrics, trust = Metrics(), Trust()

    def told() -> tuple[float | None, float | None]:
        names = ("anomvae_calibration_evidence_log10", "anomvae_calibration_trusted")
        return value(metrics, names[0], model="press"), value(metrics, names[1], model="press")

    announce(metrics)
    assert told() == (0, 1)
    metrics.follow_calibration("press", trust)
    assert told() == (0.25, 1)
    trust.evidence, trust.is_trusted = 3.5, False
    assert told() == (3.5, 0)
    announce(metrics, version="2")
    assert told() == (0, 1)


def test_reload_gauges_tell_the_last_outcome() -> None:
    metrics = Metrics()
    announce(metrics)

    def told() -> tuple[float | None, float | None]:
        names = ("anomvae_model_reload_refused", "anomvae_model_reference_unresolved")
        return value(metrics, names[0], model="press"), value(metrics, names[1], model="press")

    assert told() == (0, 0)
    metrics.reload("press", "failed")
    assert told() == (0, 1)
    metrics.reload("press", "refused")
    assert told() == (1, 0)
    metrics.reload("press", "failed")
    assert told() == (1, 1), "a registry that is away does not make the refused version good"
    metrics.reload_settled("press")
    assert told() == (0, 0)
    metrics.reload("press", "refused")
    metrics.reload("press", "loaded")
    assert told() == (0, 0)
    assert value(metrics, "anomvae_model_reloads_total", model="press", outcome="failed") == 2


def test_gauges_of_the_daemon_tell_what_was_stated_last() -> None:
    metrics = used()
    metrics.follow_inflight(lambda: 1, lambda: 7)
    metrics.inflight_limit(100)
    metrics.tokens_reload("loaded")
    assert value(metrics, "anomvae_requests_inflight") == 1
    assert value(metrics, "anomvae_inflight_rows") == 7
    assert value(metrics, "anomvae_inflight_rows_limit") == 100
    assert value(metrics, "anomvae_tokens_reloads_total", outcome="loaded") == 1
    assert value(metrics, "anomvae_tokens_stale") == 0
    assert value(metrics, "anomvae_ready") == 1
    assert value(metrics, "anomvae_provider_fallback", model="press") == 1
    assert value(metrics, "anomvae_build_info", version="1.2.3", python="3.11", onnxruntime="1.20") == 1


def test_tokens_are_stale_until_their_file_is_read_again() -> None:
    metrics = used()
    assert value(metrics, "anomvae_tokens_stale") == 0
    for outcome, stale in (("failed", 1), ("failed", 1), ("loaded", 0)):
        metrics.tokens_reload(outcome)
        assert value(metrics, "anomvae_tokens_stale") == stale


def test_a_reference_that_answers_again_settles_nothing_that_was_refused() -> None:
    metrics = used()
    for outcome in ("refused", "failed"):
        metrics.reload("press", outcome)
    metrics.reference_resolved("press")
    assert value(metrics, "anomvae_model_reload_refused", model="press") == 1
    assert value(metrics, "anomvae_model_reference_unresolved", model="press") == 0


def test_eight_threads_lose_no_count_while_a_scraper_reads() -> None:
    metrics = Metrics()
    announce(metrics)
    ones = np.ones(2)

    def work(thread: int) -> None:
        for _ in range(200):
            metrics.stages("press", 0.25, 0.25, 0.25, 0.25)
            metrics.rows("press", scores=ones, p_values=ones, alarms=ones > 0, threshold=0.0)
            metrics.request("press", "grpc", "OK", 2, 0.5, f"trace{thread}")
        metrics.render(OPENMETRICS)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert value(metrics, "anomvae_requests_total", model="press", protocol="grpc", code="OK") == 1600
    assert value(metrics, "anomvae_request_seconds_sum", model="press", protocol="grpc") == 800
    assert value(metrics, "anomvae_stage_seconds_sum", model="press", stage="run") == 400
    assert value(metrics, "anomvae_p_value_sum", model="press") == 3200
    assert value(metrics, "anomvae_alarms_total", model="press") == 3200
