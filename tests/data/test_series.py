"""Timed rows as sequences and windows: nothing crosses a gap, an asset or a time off, and no row is lost unaccounted."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.bundle import Calibration, Column, Manifest, Provenance, SeriesFacts, Split
from anomvae.data.cadence import Arrival, Cadence
from anomvae.data.off import parse_off
from anomvae.data.sequences import sequence_concerns
from anomvae.data.series import Fate, Sequences, asset_numbers, median_interval, read_sequences, sequences_for
from anomvae.data.times import read_time, read_times
from anomvae.data.windows import StepMeans, mean_over_windows, online_windows_of, windows_of
from anomvae.errors import CellError, ColumnMismatchError, SchemaError, SettingError

START = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
X = (Column("x", "numeric", "double"),)


def laid(columns: dict[str, Any], window: int = 4, **more: Any) -> Sequences:
    return read_sequences(pa.table(columns), time="t", columns=X, window=window, **more)


def said(sequences: Sequences, window: int = 4, **more: Any) -> dict[str, str]:
    concerns = sequence_concerns(sequences, window, time="t", **more)
    return {concern.message: concern.severity for concern in concerns}


def manifest(facts: SeriesFacts | None) -> Manifest:
    return Manifest(
        name="pump",
        kind="table" if facts is None else "series",
        model="vae",
        columns=X,
        left_out=(),
        split=Split("time", "t", 10, 1, 5),
        calibration=Calibration("split", 5, 0.2, 0.2, "both", 1.0, 1.0),
        provenance=Provenance("pump.csv", "sha256:0", 16, 0, "2026-01-01T00:00:00", 1.0),
        latent=2,
        series=facts,
    )


# Times.


@settings(max_examples=40)
@given(st.integers(-(10**15), 10**16 // 2), st.integers(-14 * 60, 14 * 60))
def test_an_instant_is_the_same_seconds_however_it_is_written(micros: int, offset: int) -> None:
    instant = (START + dt.timedelta(microseconds=micros)).astimezone(dt.timezone(dt.timedelta(minutes=offset)))
    seconds = instant.timestamp()
    in_utc = instant.astimezone(dt.UTC)
    ways: list[pa.Array] = [
        pa.array([instant], pa.timestamp("us", "Europe/Berlin")),
        pa.array([in_utc.replace(tzinfo=None)], pa.timestamp("us")),
        pa.array([in_utc.replace(tzinfo=None)], pa.timestamp("ns")),
        pa.array([instant.isoformat()]),
        pa.array([in_utc.replace(tzinfo=None).isoformat(" ")], pa.large_string()),
        pa.array([in_utc.isoformat().replace("+00:00", "Z")]).dictionary_encode(),
        pa.chunked_array([[instant.isoformat()], pa.array([], pa.string())]),
    ]
    for cells in ways:
        assert read_times(cells, "t")[0] == pytest.approx(seconds, abs=1e-7, rel=0)
    assert len({float(read_times(cells, "t")[0]) for cells in ways}) == 1
    assert {read_time(value, "t") for value in (instant, instant.isoformat(), f" {in_utc.isoformat()} ")} == {
        float(read_times(ways[0], "t")[0])
    }


@settings(max_examples=40)
@given(st.lists(st.integers(1, 10_000_000), min_size=1, max_size=20))
def test_microseconds_are_kept(steps: list[int]) -> None:
    micros = np.cumsum(np.array([1_790_000_000_000_000, *steps], dtype=np.int64))
    times = read_times(pa.array(micros).cast(pa.timestamp("us", "UTC")), "t")
    assert np.array_equal(np.round(np.diff(times) * 1e6).astype(np.int64), steps)


@given(st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_taken_as_they_are_also_as_text(number: float) -> None:
    assert read_times(pa.array([number]), "t").tolist() == [float(number)]
    assert read_times(pa.array([repr(number)]), "t").tolist() == [float(number)]
    assert read_time(number, "t") == read_time(repr(number), "t") == float(number)


def test_dates_decimals_durations_and_different_offsets_are_times() -> None:
    day = dt.date(2026, 3, 1)
    midnight = dt.datetime(2026, 3, 1, tzinfo=dt.UTC).timestamp()
    assert read_times(pa.array([day]), "t").tolist() == [midnight] == [read_time(day, "t")]
    assert read_times(pa.array([day], pa.date64()), "t").tolist() == [midnight]
    assert read_times(pa.array([decimal.Decimal("1.50")]), "t").tolist() == [1.5]
    assert read_times(pa.array([dt.timedelta(milliseconds=2500)], pa.duration("ms")), "t").tolist() == [2.5]
    mixed = pa.array(["2026-03-01T01:00:00+01:00", "2026-03-01 00:00:01+0000", "20260301T000002Z"])
    assert (read_times(mixed, "t") - midnight).tolist() == [0.0, 1.0, 2.0]
    assert read_times(pa.array([], pa.int64()), "t").shape == (0,)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (pa.array([1.0, None, None]), "has 2 empty cells, first at row 2"),
        (pa.array(["2026-01-01", " "]), "has 1 empty cells, first at row 2"),
        (pa.array([1.0, float("nan")]), "1 cells that are no finite number, first at row 2"),
        (pa.array(["1", "inf"]), "no finite number"),
        (
            pa.array(["2026-01-01", "secret", "2026-13-01"]),
            "has 2 cells of text that are no ISO 8601 timestamps, first at row 2; write all as 2026-03-01T06:00:00",
        ),
        (
            pa.array(["01/02/2026 10:00", "02/02/2026 10:00"]),
            "first at row 1; their day and month cannot be told apart",
        ),
        (pa.array([True, False]), "is bool, which orders no rows"),
        (pa.array([dt.time(1, 2)]), "join it with its date"),
        (pa.array([[1]]), "orders no rows"),
        (pa.nulls(2), "has 2 empty cells"),
    ],
)
def test_what_orders_nothing_is_refused_with_the_column_and_the_count(cells: pa.Array, message: str) -> None:
    with pytest.raises(SchemaError, match=message) as refusal:
        read_times(cells, "when")
    assert "'when'" in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_times_of_which_some_name_an_offset_and_some_do_not_are_refused() -> None:
    """Half of them would silently count as UTC, and their rows as repeats or gaps."""
    cells = pa.array(["2026-03-01T01:00:00+01:00", "2026-03-01 00:00:01", "20260301T000002Z", "2026-03-02"])
    with pytest.raises(
        SchemaError, match="some cells of the time column 'when' name an offset from UTC, and 2, first at row 2"
    ):
        read_times(cells, "when")
    assert read_times(cells.take([1, 3]), "when").shape == read_times(cells.take([0, 2]), "when").shape == (2,)


@pytest.mark.parametrize("value", [None, True, "", "soon", "nan", float("inf"), [1], {}, 10**400])
def test_a_single_value_that_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(CellError, match="'when' holds no time"):
        read_time(value, "when")


# Sequences.


def test_rows_are_sorted_stably_laid_out_and_cut_at_gaps_assets_and_while_off() -> None:
    rows = {
        "t": [3.0, 1.0, 2.0, 1.1, 1.0, 2.0, 3.0, 4.0, 20.0, 5.0],
        "unit": ["b", "b", "b", "b", "a", "a", "a", "a", "a", "b"],
        "x": [13.0, 11.0, 12.0, 99.0, 1.0, 2.0, 3.0, 4.0, 20.0, 15.0],
        "rpm": [9, 9, 9, 9, 9, 0, 9, 9, 9, None],
    }
    found = laid(rows, asset="unit", off=parse_off("rpm < 5"), cadence=Cadence(1.0, 2))
    assert found.assets == ("b", "a")
    assert found.order.tolist() == [1, 3, 2, 0, 9, 4, 5, 6, 7, 8]
    assert found.row.tolist() == [1, 2, 0, -1, 9, 4, 6, 7, 8]
    assert np.array_equal(found.values[:, 0], [11, 12, 13, np.nan, 15, 1, 3, 4, 20], equal_nan=True)
    assert found.asset.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert found.sequence.tolist() == [0, 0, 0, 0, 0, 1, 2, 2, 3]
    assert [Fate(fate).name for fate in found.fate] == ["STEP"] * 3 + ["REPEATED", "STEP", "OFF"] + ["STEP"] * 4
    assert found.begin.tolist() == [0, 5, 6, 8]
    assert found.length.tolist() == [5, 1, 2, 1]
    assert found.rows_of_asset.tolist() == [5, 5]
    course = found.course
    assert np.flatnonzero(course.backward).tolist() == [1, 3]
    assert np.flatnonzero(course.gap).tolist() == [8]
    assert (course.longest_gap, course.missing, course.uneven) == (16.0, 1, 0.0)
    answered = found.sequence == 0
    assert found.reasons(answered) == [
        None,
        None,
        None,
        "repeated",
        "filling",
        "off",
        "filling",
        "filling",
        "filling",
        None,
    ]
    of_rows = found.to_rows(np.arange(9.0))
    assert np.array_equal(of_rows, [2, 0, 1, np.nan, 5, np.nan, 6, 7, 8, 4], equal_nan=True)


@st.composite
def timed_rows(draw: st.DrawFn) -> dict[str, Any]:
    n = draw(st.integers(0, 40))
    return {
        "t": pa.array(draw(st.lists(st.integers(0, 200).map(lambda q: q / 4), min_size=n, max_size=n)), pa.float64()),
        "unit": pa.array(draw(st.lists(st.sampled_from("abc"), min_size=n, max_size=n)), pa.string()),
        "x": pa.array(np.arange(n, dtype=float)),
        "off": pa.array(draw(st.lists(st.sampled_from([False, False, True]), min_size=n, max_size=n)), pa.bool_()),
    }


@settings(max_examples=40)
@given(timed_rows(), st.integers(0, 3))
def test_a_table_is_laid_out_as_a_stream_of_its_sorted_rows_would_be(columns: dict[str, Any], longest: int) -> None:
    cadence = Cadence(1.0, longest)
    found = laid(columns, asset="unit", off=parse_off("off"), cadence=cadence)
    table = pa.table(columns).to_pylist()
    newest: dict[str, float | None] = {}
    steps: list[int] = []
    sequences: list[int] = []
    fates = [Fate.STEP] * len(table)
    for i in found.order.tolist():
        unit, time = table[i]["unit"], table[i]["t"]
        if table[i]["off"]:
            newest[unit], fates[i] = None, Fate.OFF
            continue
        placed = cadence.place(time, newest.get(unit))
        if placed.arrival is Arrival.REPEATED:
            fates[i] = Fate.REPEATED
            continue
        begins = placed.arrival is Arrival.FIRST
        number = (sequences[-1] if sequences else -1) + begins
        steps += [-1] * placed.missing + [i]
        sequences += [number] * (placed.missing + 1)
        newest[unit] = time
    assert found.row.tolist() == steps
    assert found.sequence.tolist() == sequences
    assert found.fate.tolist() == fates
    is_step = found.step >= 0
    assert np.array_equal(found.row[found.step[is_step]], np.flatnonzero(is_step))
    assert np.array_equal(found.values[:, 0], np.where(found.row < 0, np.nan, found.row), equal_nan=True)
    assert found.course.missing == steps.count(-1)


@settings(max_examples=40)
@given(st.lists(st.sampled_from("ab"), max_size=30), st.randoms(use_true_random=False))
def test_the_order_of_the_file_does_not_matter(units: list[str], draw: Any) -> None:
    n = len(units)
    rows = pa.table({"t": np.arange(n) * 1.3, "unit": pa.array(units, pa.string()), "x": np.arange(float(n))})
    places = list(range(n))
    draw.shuffle(places)
    shuffled = rows.take(pa.array(places, pa.int64()))
    one, other = (
        read_sequences(table, time="t", columns=X, window=4, asset="unit", cadence=Cadence(1.0, 2))
        for table in (rows, shuffled)
    )
    for name in one.assets:
        a, b = (found.values[found.asset == found.assets.index(name), 0] for found in (one, other))
        assert np.array_equal(a, b, equal_nan=True)


def test_the_step_is_the_median_interval_of_all_assets_unless_it_is_stated() -> None:
    rows = {"t": [0.0, 5.0, 10.0, 0.0, 5.1, 99.0, 7.0], "unit": [1, 1, 1, 2, 2, 2, 3], "x": [0.0] * 7}
    assert laid(rows, asset="unit").cadence == Cadence(5.05, 1)
    assert laid(rows, asset="unit", window=64, every_s=2.0).cadence == Cadence(2.0, 8)
    assert laid(rows, asset="unit", cadence=Cadence(3.0, 7)).cadence == Cadence(3.0, 7)
    stamps = pa.array([START + dt.timedelta(seconds=i / 10) for i in range(50)])
    assert laid({"t": stamps, "x": np.zeros(50)}).cadence.step_s == 0.1
    assert median_interval(np.array([1.0, 4.0]), np.array([0, 1])) is None


@pytest.mark.parametrize(
    ("columns", "more", "error", "message"),
    [
        ({"t": [1, 1, 1, 2], "x": [0.0, 1.0, 2.0, 3.0]}, {}, SchemaError, "same 't' as the row before.* --by"),
        ({"t": [1, 1, 1, 2], "x": [0.0, 1.0, 2.0, 3.0], "unit": [1] * 4}, {"asset": "unit"}, SchemaError, "'unit' does not tell all"),
        ({"t": [1, 1, 2, 2], "x": [0.0, 0.0, 1.0, 1.0], "unit": [1] * 4}, {"asset": "unit"}, SchemaError, "most rows come twice"),
        ({"t": [1, 1, 2, 2], "x": [None, None, 1.0, 1.0]}, {}, SchemaError, "most rows come twice"),
        ({"t": pa.array(17 * 10**17 + 100 * np.arange(9), pa.timestamp("ns")), "x": [0.0] * 9}, {}, SchemaError, "closer together than"),
        ({"t": pa.array(17 * 10**17 + 300 * np.arange(9), pa.timestamp("ns")), "x": [0.0] * 9}, {}, SchemaError, "closer together than"),
        ({"t": [3, 60], "x": [0.0] * 2}, {"every_s": 1.0}, SettingError, r"the usual interval is 57 \(in units of 't'\)"),
        ({"t": [1], "x": [0.0]}, {}, SchemaError, "no asset has two rows"),
        ({"t": [1, 2], "x": [0.0] * 2, "unit": [1, 2]}, {"asset": "unit"}, SchemaError, "no asset has two rows"),
        ({"t": [1, 2], "x": [0.0] * 2, "unit": ["a", ""]}, {"asset": "unit"}, SchemaError, "'unit' has 1 empty cells, first at row 2"),
        ({"t": [1, 2], "x": [0.0] * 2}, {"asset": "unit"}, ColumnMismatchError, "'unit'"),
        ({"when": [1, 2], "x": [0.0] * 2}, {}, ColumnMismatchError, "'t'"),
        ({"t": [1, 2]}, {}, ColumnMismatchError, "'x'"),
        ({"t": [1, 2], "x": ["a", "b"]}, {}, CellError, "'x' holds text"),
        ({"t": [1, 2], "x": [0.0] * 2}, {"every_s": 0.0}, SettingError, "--every"),
        ({"t": [1, 2], "x": [0.0] * 2}, {"every_s": float("inf")}, SettingError, "--every"),
        ({"t": [1, 2], "x": [0.0] * 2}, {"off": parse_off("rpm < 1")}, SettingError, "'rpm', which is not a column"),
    ],
)  # fmt: skip
def test_what_makes_no_series_is_refused(
    columns: dict[str, Any], more: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        laid(columns, **more)


def test_a_channel_that_is_no_number_is_refused_by_name() -> None:
    rows = pa.table({"t": [1, 2], "state": ["a", "b"]})
    with pytest.raises(SchemaError, match=r"'state' is categorical.*--drop"):
        read_sequences(rows, time="t", columns=(Column("state", "categorical", "string"),), window=2)


@pytest.mark.parametrize(
    "cells", [pa.array(["7", "07 ", "8"]), pa.array([7.0, 7.0, 8.0]), pa.array(["7", "7", "8"]).dictionary_encode()]
)
def test_an_asset_is_the_same_however_its_name_is_written(cells: pa.Array) -> None:
    rows = pa.table({"t": [1, 2, 1], "x": [0.0] * 3, "unit": pa.chunked_array([cells.slice(0, 2), cells.slice(2)])})
    found = read_sequences(rows, time="t", columns=X, window=2, asset="unit")
    assert found.assets == ("7", "8")
    known = Column("unit", "categorical", found.asset_type, ("8", "9"))
    assert asset_numbers(found, rows, known).tolist() == [2, 0]
    assert asset_numbers(found, rows, None).tolist() == [0, 0]


def test_a_manifest_lays_rows_out_as_its_fit_did() -> None:
    facts = SeriesFacts("t", "unit", "int64", ("1", "2"), window=4, stride=1, step_s=2.0, longest_gap=3, off="x > 90",
                        time_type="double")  # fmt: skip
    rows = pa.table({"t": [0.0, 2.0, 6.0, 8.0, 0.0], "unit": [1, 1, 1, 1, 3], "x": [1.0, 2.0, 4.0, 99.0, 1.0]})
    found = sequences_for(rows, manifest(facts))
    assert found.cadence == Cadence(2.0, 3)
    assert found.row.tolist() == [0, 1, -1, 2, 4]
    assert found.fate.tolist() == [Fate.STEP, Fate.STEP, Fate.STEP, Fate.OFF, Fate.STEP]
    assert asset_numbers(found, rows, facts.asset_column).tolist() == [0, 2]
    with pytest.raises(SettingError, match="'pump' scores tables, not series"):
        sequences_for(rows, manifest(None))


def test_an_empty_table_is_no_sequence_where_the_step_is_known() -> None:
    found = laid({"t": pa.array([], pa.float64()), "x": pa.array([], pa.float64())}, cadence=Cadence(1.0, 1))
    assert len(found) == len(windows_of(found, 4)) == 0
    assert found.values.shape == (0, 1)
    assert windows_of(found, 4).encoded().series.shape == (0, 4, 1)


# Windows.


def of_lengths(lengths: list[int], channels: int = 2) -> Sequences:
    """Sequences that are one asset each; a third of the inner steps missing."""
    times = np.concatenate([np.arange(n, dtype=float) for n in lengths])
    inner = np.concatenate([(np.arange(n) > 0) & (np.arange(n) < n - 1) for n in lengths])
    kept = ~(inner & (np.arange(len(times)) % 3 == 1))
    unit = np.repeat(np.arange(len(lengths)), lengths)
    cells = {f"c{j}": np.arange(len(times)) + j / 8 for j in range(channels)}
    rows = pa.table({"t": times[kept], "unit": unit[kept], **{name: cell[kept] for name, cell in cells.items()}})
    columns = [Column(name, "numeric", "double") for name in cells]
    return read_sequences(rows, time="t", columns=columns, window=4, asset="unit", cadence=Cadence(1.0, 5))


LENGTHS = st.lists(st.integers(2, 20), min_size=1, max_size=5)


@settings(max_examples=40)
@given(LENGTHS, st.integers(1, 6), st.data())
def test_windows_cover_every_step_of_a_long_enough_sequence_and_cross_no_border(
    lengths: list[int], window: int, data: st.DataObject
) -> None:
    found = of_lengths(lengths)
    stride = data.draw(st.integers(1, window))
    windows = windows_of(found, window, stride)
    covered = np.zeros(len(found), dtype=bool)
    for start in windows.starts.tolist():
        assert len(set(found.sequence[start : start + window].tolist())) == 1
        covered[start : start + window] = True
    assert np.array_equal(covered, (found.length >= window)[found.sequence])
    expected = [
        begin + place
        for begin, length in zip(found.begin.tolist(), found.length.tolist(), strict=True)
        if length >= window
        for place in sorted({*range(0, length - window + 1, stride), length - window})
    ]
    assert windows.starts.tolist() == expected


@settings(max_examples=40)
@given(LENGTHS, st.integers(1, 6), st.integers(1, 7))
def test_windows_made_a_few_at_a_time_hold_the_steps_they_name(lengths: list[int], window: int, most: int) -> None:
    found = of_lengths(lengths, channels=3)
    number = np.arange(len(lengths))[::-1].copy()
    windows = windows_of(found, window, asset=number, group=number + 5)
    seen = 0
    for part, encoded in windows.chunks(most):
        assert len(part) == len(encoded) <= most
        assert encoded.group is not None
        for i, start in enumerate(part.starts.tolist()):
            assert np.array_equal(encoded.series[i], found.values[start : start + window], equal_nan=True)
            assert encoded.asset[i] == number[found.asset[start]] == encoded.group[i] - 5
        assert encoded.series.flags.c_contiguous
        assert encoded.series.dtype == np.float32
        seen += len(part)
    assert seen == len(windows)


@settings(max_examples=40)
@given(LENGTHS, st.integers(1, 6))
def test_online_windows_answer_every_row_with_a_full_past_and_no_missing_step(lengths: list[int], window: int) -> None:
    found = of_lengths(lengths)
    online = online_windows_of(found, window)
    past = np.arange(len(found)) - found.begin[found.sequence] + 1
    assert online.newest.tolist() == np.flatnonzero((past >= window) & (found.row >= 0)).tolist()
    assert np.array_equal(found.step[online.row], online.newest)


@pytest.mark.parametrize(("window", "stride"), [(0, 1), (4, 0), (4, 5), (-1, 1)])
def test_a_window_or_stride_that_cannot_be_is_refused(window: int, stride: int) -> None:
    with pytest.raises(SettingError, match="--window"):
        windows_of(of_lengths([9]), window, stride)


@settings(max_examples=50)
@given(LENGTHS, st.integers(1, 5), st.sampled_from([(), (2,)]), st.randoms(use_true_random=False))
def test_a_steps_mean_is_over_the_windows_that_cover_it_in_any_split(
    lengths: list[int], window: int, each: tuple[int, ...], draw: Any
) -> None:
    found = of_lengths(lengths)
    starts = windows_of(found, window).starts.copy()
    rng = np.random.default_rng(len(starts))
    values = rng.normal(size=(len(starts), window, *each)).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = np.nan
    said_of: dict[tuple[int, ...], list[float]] = {}
    for k, start in enumerate(starts.tolist()):
        for place in np.ndindex(window, *each):
            said_of.setdefault((start + place[0], *place[1:]), []).append(float(values[k][place]))
    expected = np.full((len(found), *each), np.nan)
    for at, all_said in said_of.items():
        if not np.isnan(all_said).all():
            expected[at] = np.nanmean(all_said)
    np.testing.assert_allclose(mean_over_windows(values, starts, len(found)), expected, rtol=1e-12)
    order = list(range(len(starts)))
    draw.shuffle(order)
    means = StepMeans(len(found), each)
    cut = draw.randint(0, len(starts))
    for part in (order[:cut], order[cut:]):
        means.add(starts[part], values[part])
    np.testing.assert_allclose(means.means(), expected, rtol=1e-12)


def test_windows_that_begin_at_the_same_step_all_count() -> None:
    values: npt.NDArray[np.float64] = np.array([[1.0], [2.0], [6.0]])
    assert mean_over_windows(values, np.array([1, 1, 1]), 2).tolist()[1] == 3.0


# Findings.


def test_a_clean_series_raises_no_concern() -> None:
    found = laid({"t": np.arange(100.0), "x": np.zeros(100)})
    assert said(found) == {}


def test_what_was_mended_is_told_with_rows_and_advice() -> None:
    t = np.arange(200.0)
    t[[5, 6]] = t[[6, 5]]
    t = np.concatenate([t[:100], t[100:150] + 0.3, t[150:] + 50, t[-10:] + 50.2])
    t = np.delete(t, [20, 21, 40])
    told = said(laid({"t": t, "x": np.zeros(len(t))}, window=32), window=32)
    for sentence, severity in {
        "Time 't' goes back at row 7 and 1 more; the rows were sorted by it.": "info",
        "Row 198 and 9 more (4.8%) follow": "warning",
        "Time 't' jumps ahead at row 148, by up to 51 steps; more than 4 missing in one piece": "info",
        "3 steps of 't' are missing (1.5%); windows hold them as empty cells.": "info",
    }.items():
        assert [told[text] for text in told if text.startswith(sentence)] == [severity], told


def test_uneven_and_unusual_steps_are_told() -> None:
    rng = np.random.default_rng(3)
    jitter = np.arange(300.0) + rng.uniform(-0.2, 0.2, 300)
    told = said(laid({"t": jitter, "x": np.zeros(300)}))
    assert any("are uneven" in text and severity == "warning" for text, severity in told.items())
    with pytest.raises(SettingError, match=r"rows lie 1 .* apart"):
        laid({"t": np.arange(300.0), "x": np.zeros(300)}, every_s=3.0)
    told = said(laid({"t": np.arange(300.0), "x": np.zeros(300)}, every_s=0.5))
    assert any("The step is 2 times shorter than the usual interval" in text for text in told)
    assert any("steps of 't' are missing (49.9%); state the step" in text for text in told)


def test_sequences_and_assets_without_a_window_are_told() -> None:
    t = np.concatenate([np.arange(50.0), np.arange(3.0)])
    unit = np.repeat([1, 2], [50, 3])
    told = said(laid({"t": t, "unit": unit, "x": np.zeros(53)}, asset="unit"), asset="unit")
    assert told["Column 'unit' tells 2 assets apart, of 3 to 50 rows each."] == "info"
    short = (
        "1 of 2 sequences are shorter than a window of 4 steps, with 5.7% of the rows (row 51 and 2 more); these are"
    )
    assert any(text.startswith(short) for text in told)
    assert any(
        "1 of 2 assets of 'unit' have no sequence as long as a window (row 51 and 2 more)" in text for text in told
    )
    told = said(laid({"t": [0.0, 1.0], "x": [0.0, 0.0]}))
    assert [(severity, "the longest has 2" in text) for text, severity in told.items()] == [("problem", True)]


def test_what_off_leaves_out_is_told_and_a_condition_that_never_holds_warned_of() -> None:
    rows = {"t": np.arange(40.0), "x": np.arange(40.0)}
    off = parse_off("x >= 30")
    told = said(laid(rows, off=off), off=off.text)
    assert told == {"The condition --off 'x >= 30' holds in row 31 and 9 more (25.0%), left out.": "info"}
    never = parse_off("x > 99")
    told = said(laid(rows, off=never), off=never.text)
    assert [(severity, "holds in no row" in text) for text, severity in told.items()] == [("warning", True)]
