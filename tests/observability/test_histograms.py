"""The histograms against the client library's own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from anomvae.observability.histograms import RowHistogram, ValueHistogram
from anomvae.observability.instruments import INSTRUMENTS, P_VALUE, REQUEST_SECONDS, SCORE_MARGIN, Instrument

FLOATS = st.floats(-1e6, 1e6) | st.sampled_from([*P_VALUE.buckets, *REQUEST_SECONDS.buckets, *SCORE_MARGIN.buckets])
SIZES = Instrument("sizes", "histogram", ("model",), "Sizes.", (0.0, 1.0, 2.5, 10.0))

Exposed = dict[tuple[str, str], float]


def exposed(collector: ValueHistogram | RowHistogram | Histogram) -> Exposed:
    (family,) = collector.collect()
    samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
    return {(sample.name, sample.labels.get("le", "")): sample.value for sample in samples}


def reference(instrument: Instrument, values: list[float]) -> Exposed:
    library = Histogram(
        instrument.name, "Help.", instrument.labels, registry=CollectorRegistry(), buckets=instrument.buckets
    )
    child = library.labels(*["" for _ in instrument.labels])
    for value in values:
        child.observe(value)
    counts = exposed(library)
    if instrument.buckets[0] < 0:  # the library then leaves out the sum alone, which its own parser refuses
        del counts[f"{instrument.name}_count", ""]
    return counts


def by_rows(instrument: Instrument, values: npt.NDArray[np.float64], parts: int = 1) -> Exposed:
    histogram = RowHistogram(instrument)
    series = histogram.labels(*["" for _ in instrument.labels])
    for part in np.array_split(values, parts):
        series.observe(part)
    return exposed(histogram)


def by_values(instrument: Instrument, values: list[float]) -> Exposed:
    histogram = ValueHistogram(instrument)
    series = histogram.labels(*["" for _ in instrument.labels])
    for at, value in enumerate(values):
        if at % 2:
            series.observe(value)
        else:
            with histogram.lock:
                series.add(value)
    return exposed(histogram)


@given(st.lists(FLOATS, max_size=200), st.sampled_from([P_VALUE, SIZES, SCORE_MARGIN]), st.integers(1, 3))
def test_rows_are_counted_as_the_client_library_counts_them(
    values: list[float], instrument: Instrument, parts: int
) -> None:
    expected = reference(instrument, values)
    assert by_rows(instrument, np.array(values, dtype=np.float64), parts) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@given(st.lists(FLOATS, max_size=100), st.sampled_from([REQUEST_SECONDS, SIZES]))
def test_values_are_counted_as_the_client_library_counts_them(values: list[float], instrument: Instrument) -> None:
    assert by_values(instrument, values) == pytest.approx(reference(instrument, values), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("copies", [1, 40])
def test_what_is_no_number_is_counted_and_kept_out_of_the_sum(copies: int) -> None:
    values = [1.0, np.nan, 2.0, np.inf, -np.inf, 4.0] * copies
    for counts in (by_rows(SIZES, np.array(values)), by_values(SIZES, values)):
        assert counts["sizes_sum", ""] == 7.0 * copies
        assert counts["sizes_bucket", "0.0"] == copies, "minus infinity is below every edge"
        assert counts["sizes_bucket", "10.0"] == 4 * copies
        assert counts["sizes_bucket", "+Inf"] == counts["sizes_count", ""] == 6 * copies


def test_rows_of_either_width_that_lie_on_an_edge_belong_to_its_bucket() -> None:
    edges = np.array(P_VALUE.buckets)
    narrow, wide = RowHistogram(P_VALUE), RowHistogram(P_VALUE)
    narrow.labels("m").observe(edges.astype(np.float32))
    wide.labels("m").observe(edges)
    buckets = [{key: count for key, count in exposed(each).items() if key[1]} for each in (narrow, wide)]
    assert buckets[0] == buckets[1]


def test_no_rows_change_nothing() -> None:
    assert set(by_rows(SIZES, np.empty(0)).values()) == {0.0}


def test_buckets_ascend() -> None:
    assert all(
        instrument.buckets == tuple(sorted(set(instrument.buckets)))
        and bool(instrument.buckets) == (instrument.type == "histogram")
        for instrument in INSTRUMENTS
    )


def test_a_series_needs_a_value_for_each_label() -> None:
    with pytest.raises(ValueError, match="sizes has the labels model"):
        ValueHistogram(SIZES).labels("m", "more")


def test_eight_threads_lose_no_observation() -> None:
    rows, values = RowHistogram(SIZES), ValueHistogram(SIZES)
    batch = np.array([0.5, 1.5, 2.0])

    def observe(_: int) -> None:
        for _ in range(500):
            rows.labels("m").observe(batch)
            values.labels("m").observe(2.0, "trace")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(observe, range(8)))
    assert exposed(rows)["sizes_count", ""] == 8 * 500 * 3
    assert exposed(rows)["sizes_sum", ""] == 8 * 500 * 4.0
    assert exposed(values)["sizes_count", ""] == 8 * 500
    assert exposed(values)["sizes_sum", ""] == 8 * 500 * 2.0
