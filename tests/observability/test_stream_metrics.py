"""A stream's numbers: named as they should be, there from the start, and without a label that could grow."""

from __future__ import annotations

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from anomvae.observability.stream_metrics import CAUSES, OUTCOMES, STREAM_INSTRUMENTS, StreamMetrics


def samples(metrics: StreamMetrics) -> dict[tuple[str, ...], float]:
    """What is exposed, by name and label values, in the order of the labels' names."""
    body, kind = metrics.render("")
    assert kind.startswith("text/plain")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_instruments_are_named_after_the_conventions() -> None:
    for instrument in STREAM_INSTRUMENTS:
        assert instrument.name.startswith("anomvae_stream_")
        assert instrument.name.endswith("_total") == (instrument.type == "counter")
        assert bool(instrument.buckets) == (instrument.type == "histogram")
        assert not {"asset", "topic", "reason"} & set(instrument.labels), "labels that can grow without bound"
        assert instrument.help.endswith(".")
    assert len({instrument.name for instrument in STREAM_INSTRUMENTS}) == len(STREAM_INSTRUMENTS)


def test_every_instrument_is_exposed_and_nothing_else_of_ours() -> None:
    metrics = StreamMetrics()
    metrics.lag({0: 1})
    metrics.model_loaded("m", version="1", kind="series", digest="d", reference="r", alarm_rate=0.01)
    exposed = {name for name, *_ in samples(metrics) if name.startswith("anomvae_")}
    told = {
        name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") if "_seconds_" in name or "p_value_" in name
        else name
        for name in exposed
    }  # fmt: skip
    assert {name for name in told if not name.endswith("_created")} == {each.name for each in STREAM_INSTRUMENTS}


def test_what_rules_must_see_the_first_of_is_there_at_zero() -> None:
    found = samples(StreamMetrics())
    assert all(found["anomvae_stream_records_total", outcome] == 0 for outcome in OUTCOMES)
    assert all(found["anomvae_stream_dead_letters_total", cause] == 0 for cause in CAUSES)
    assert found["anomvae_stream_alarms_total",] == 0
    assert found["anomvae_stream_transactions_total", "aborted"] == 0


def test_causes_are_those_of_the_codec() -> None:
    from anomvae.streaming.codec import CAUSES as KNOWN

    assert CAUSES == KNOWN


def test_outcomes_are_the_fates_of_rows() -> None:
    from anomvae.streaming.placement import Fate

    assert set(OUTCOMES) == {"scored", "dead"} | {fate.name.lower() for fate in Fate if fate is not Fate.STEP}


def test_records_latencies_and_p_values_add_up() -> None:
    metrics = StreamMetrics()
    metrics.records({"scored": 3, "late": 2}, alarms=1)
    metrics.dead_letters({"format": 4})
    metrics.events({"open": 1})
    metrics.rebuilt(replayed=5, cut=6, evicted=7)
    metrics.batch(0.02, 0.3)
    metrics.values(np.array([0.02, 7.0]), np.array([0.5]))
    found = samples(metrics)
    assert found["anomvae_stream_records_total", "scored"] == 3
    assert found["anomvae_stream_records_total", "late"] == 2
    assert found["anomvae_stream_alarms_total",] == 1
    assert found["anomvae_stream_dead_letters_total", "format"] == 4
    assert found["anomvae_stream_events_total", "open"] == 1
    assert found["anomvae_stream_replayed_records_total",] == 5
    assert found["anomvae_stream_cut_windows_total",] == 6
    assert found["anomvae_stream_evicted_assets_total",] == 7
    assert found["anomvae_stream_batch_seconds_sum", "send"] == pytest.approx(0.3)
    assert found["anomvae_stream_latency_seconds_bucket", "0.025"] == 1
    assert found["anomvae_stream_latency_seconds_count",] == 2
    assert found["anomvae_stream_p_value_bucket", "0.5"] == 1


def test_lag_of_a_partition_that_went_away_is_told_no_more() -> None:
    metrics = StreamMetrics()
    metrics.lag({0: 10, 3: 5})
    metrics.lag({3: 4})
    found = samples(metrics)
    assert found["anomvae_stream_lag_records", "3"] == 4
    assert ("anomvae_stream_lag_records", "0") not in found


def test_a_new_version_takes_the_place_of_the_one_before() -> None:
    metrics = StreamMetrics()
    for version in ("1", "2"):
        metrics.model_loaded("m", version=version, kind="series", digest="d", reference="r", alarm_rate=0.01)
    infos = [labels for labels in samples(metrics) if labels[0] == "anomvae_stream_model_info"]
    assert infos == [("anomvae_stream_model_info", "d", "series", "m", "r", "2")]


def test_a_refused_version_is_told_until_it_is_settled() -> None:
    metrics = StreamMetrics()
    metrics.reload("refused")
    metrics.reload("failed")
    assert samples(metrics)["anomvae_stream_model_reload_refused",] == 1
    metrics.reload_settled()
    found = samples(metrics)
    assert found["anomvae_stream_model_reload_refused",] == 0
    assert found["anomvae_stream_model_reloads_total", "failed"] == 1


def test_progress_has_the_time_of_the_clock_and_state_is_asked_when_read() -> None:
    now = [100.0]
    metrics = StreamMetrics(clock=lambda: now[0])
    now[0] = 160.0
    assert samples(metrics)["anomvae_stream_last_progress_timestamp_seconds",] == 100
    metrics.progressed()
    metrics.follow(lambda: False, lambda: 3, lambda: int(now[0]))
    found = samples(metrics)
    assert found["anomvae_stream_last_progress_timestamp_seconds",] == 160
    assert found["anomvae_stream_healthy",] == 0
    assert found["anomvae_stream_partitions",] == 3
    assert found["anomvae_stream_assets",] == 160


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0", "text/plain; version=x"])
def test_any_scraper_is_answered(accept: str) -> None:
    body, _ = StreamMetrics().render(accept)
    assert b"anomvae_stream_records_total" in body
