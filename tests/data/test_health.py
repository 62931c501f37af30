"""What looks wrong before a fit: every defect is found, clean tables raise nothing costly, and no value is shown."""

from __future__ import annotations

import datetime as dt
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.data.health import Concern, look_at_channels, look_over
from anomvae.data.schema import Schema, SchemaRules, infer_schema
from anomvae.data.shapes import exact_relations, far_off, find_modes, lone_codes, longest_stretch
from anomvae.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomvae.bundle.manifest import ColumnKind

    FloatArray = npt.NDArray[np.float64]

N = 3_000
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def draw() -> np.random.Generator:
    return np.random.default_rng(7)


def minutes(n: int = N) -> list[dt.datetime]:
    return [START + dt.timedelta(minutes=i) for i in range(n)]


def clean(**more: Any) -> dict[str, Any]:
    rng = draw()
    return {"a": rng.normal(20, 3, N), "b": rng.lognormal(0, 1, N), "c": rng.uniform(0, 5, N), **more}


def looked(columns: dict[str, Any], *, time: str | None = None, by: str | None = None) -> list[Concern]:
    rows = pa.table(columns)
    return look_over(rows, infer_schema(rows, SchemaRules(time=time, by=by)), time=time, by=by)


def about(concerns: list[Concern], word: str) -> Concern:
    found = [concern for concern in concerns if word in concern.message]
    assert found, f"nothing says {word!r} among {[concern.message for concern in concerns]}"
    return found[0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [400, N, 30_000])
def test_clean_tables_raise_no_warning(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = {
        "normal": rng.normal(-3, 2, n),
        "lognormal": rng.lognormal(2, 1.5, n),
        "uniform": rng.uniform(size=n),
        "counts": rng.poisson(2, n),
        "heavy": rng.standard_t(2, n),
        "rounded": np.round(rng.normal(20, 1, n), 1),
        "flag": rng.random(n) < 0.1,
        "kind": rng.choice(["x", "y", "z"], n),
    }
    assert [concern for concern in looked(columns) if concern.severity != "info"] == []


SHAPES: dict[str, Callable[[np.random.Generator, int], FloatArray]] = {
    "normal": lambda rng, n: rng.normal(size=(n, 5)) @ rng.normal(size=(5, 5)),
    "lognormal": lambda rng, n: rng.lognormal(0, 2, (n, 4)),
    "exponential": lambda rng, n: rng.exponential(size=(n, 2)),
    "uniform": lambda rng, n: rng.uniform(size=(n, 4)),
    "cauchy": lambda rng, n: rng.standard_cauchy((n, 2)),
    "poisson": lambda rng, n: rng.poisson(6, (n, 3)).astype(np.float64),
    "beta": lambda rng, n: rng.beta(0.5, 0.5, (n, 2)),
    "sine": lambda _, n: np.sin(np.arange(n)[:, None] / np.array([7.0, 11.0])),
}


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize(("seed", "n"), list(enumerate([200, 600, 3_000, 8_000])))
def test_no_shape_of_one_piece_is_taken_for_several_modes_or_dirt(shape: str, seed: int, n: int) -> None:
    numbers = SHAPES[shape](np.random.default_rng(seed), n)
    assert find_modes(numbers, seed) is None
    assert exact_relations(numbers) == []
    for column in numbers.T:
        assert far_off(np.sort(column)) is None
        assert lone_codes(np.sort(column)) == {}
        assert longest_stretch(column) is None


def test_repeated_rows_are_counted_and_kept_with_a_warning_where_the_split_is_random() -> None:
    rows = pa.table(clean())
    repeated = pa.concat_tables([rows, rows.slice(10, 1_000)])
    concern = about(look_over(repeated, infer_schema(repeated)), "repeat earlier")
    assert concern.severity == "warning"
    assert "row 3,001 and 999 more (25.0%)" in concern.message
    assert "they stay" in concern.message
    assert "random split" in concern.message
    ordered = repeated.append_column("t", pa.array(minutes(repeated.num_rows)))
    found = look_over(ordered, infer_schema(ordered, SchemaRules(time="t")), time="t")
    assert about(found, "repeat earlier").severity == "info"


def test_repeats_among_a_few_categories_are_no_warning() -> None:
    rng = draw()
    concerns = looked({"a": rng.choice(["x", "y"], N), "b": rng.choice(["u", "v", "w"], N)})
    assert about(concerns, "repeat earlier").severity == "info"


def test_a_stuck_sensor_is_found_in_the_order_of_time() -> None:
    columns = clean(t=minutes())
    columns["a"][1_000:1_060] = columns["a"][1_000]
    shuffled = pa.table(columns).take(pa.array(draw().permutation(N)))
    found = look_over(shuffled, infer_schema(shuffled, SchemaRules(time="t")), time="t")
    concern = about(found, "sticks")
    row = shuffled.column("t").to_pylist().index(minutes()[1_000]) + 1
    assert (concern.severity, concern.column) == ("warning", "a")
    assert f"60 rows in a sequence that starts at row {row:,}" in concern.message


def test_channels_of_a_series_are_looked_at_in_order_of_their_assets_and_time_and_may_repeat_or_drift() -> None:
    columns = clean(t=[str(moment) for moment in minutes(N)], asset=["x", "y"] * (N // 2))
    columns["b"] += np.linspace(0, 30, N)
    columns["a"][:300:2] = columns["a"][0]  # of one asset, which shares the table with another
    rows = pa.concat_tables([pa.table(columns), pa.table(clean(t=columns["t"], asset=columns["asset"]))])
    order = np.argsort(np.tile(np.arange(N) % 2, 2), kind="stable").astype(np.int64)
    schema = Schema({"a": "numeric", "b": "numeric"}, ())
    found = look_at_channels(rows, schema, order, np.arange(2 * N) % N == 0, time="t")
    assert [concern.column for concern in found] == ["a"]
    assert "sticks at one value for 150 rows in a sequence that starts at row 1;" in found[0].message


def test_shuffled_or_sorted_rows_have_no_stuck_sensor() -> None:
    columns = clean()
    columns["a"][1_000:1_060] = columns["a"][1_000]
    for order in (draw().permutation(N), np.argsort(columns["a"])):
        assert not any("sticks" in concern.message for concern in looked({"a": columns["a"][order]}))


def test_a_slow_setpoint_is_no_stuck_sensor() -> None:
    steps = np.repeat(draw().normal(size=100), 30)
    assert longest_stretch(steps) is None
    steps[300:900] = steps[300]
    assert longest_stretch(steps) is not None


def test_runs_end_where_a_group_starts() -> None:
    values = draw().normal(size=400)
    values[180:220] = 1.0
    whole, new_group = longest_stretch(values), np.arange(400) % 10 == 0
    assert whole is not None
    assert (whole.start, whole.length) == (180, 40)
    assert longest_stretch(values, new_group) is None


def test_far_off_cells_are_found_and_not_shown() -> None:
    columns = clean()
    columns["a"][[16, 99, 1_203]] = 54_321.0
    columns["a"][99] = -54_987.0
    columns["a"][1_203] = 54_411.5
    concern = about(looked(columns), "usual spread away")
    assert (concern.severity, concern.column) == ("warning", "a")
    assert "row 17 and 2 more" in concern.message
    assert "54" not in concern.message


def test_codes_for_missing_cells_are_found_on_either_side_and_not_shown() -> None:
    columns = clean()
    columns["a"][5:40], columns["b"][9:12] = -999.0, 9999.0
    columns["c"][100:150] = -50.0
    concerns = looked(columns)
    codes = {concern.column: concern for concern in concerns if "One and the same" in concern.message}
    assert {name: code.severity for name, code in codes.items()} == {"a": "warning", "b": "warning", "c": "info"}
    assert "row 6 and 34 more" in codes["a"].message
    assert not any("99" in concern.message for concern in concerns)
    assert not any("usual spread away" in concern.message for concern in concerns)


def test_operating_modes_are_counted_and_the_column_that_names_them_ends_the_matter() -> None:
    rng = draw()
    high = rng.random(N) < 0.3
    columns = {"a": rng.normal(size=N) + 12 * high, "b": rng.lognormal(size=N), "c": rng.normal(size=N) - 9 * high}
    concern = about(looked(columns), "modes")
    assert concern.severity == "warning"
    assert "2 well separated modes (70%, 30%) that differ most in 'a', 'c'" in concern.message
    assert "--by" in concern.message
    named = about(looked({**columns, "machine": np.where(high, "on", "off")}), "modes")
    assert named.severity == "info"
    assert "'machine' tells them apart" in named.message


def test_without_scikit_learn_modes_are_skipped_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
    assert about(looked(clean()), "not looked for").severity == "info"


def test_missing_cells_are_told_by_column_row_and_burst() -> None:
    columns = clean(t=minutes(), rare=np.full(N, np.nan), half=draw().normal(size=N))
    columns["rare"][:20] = np.arange(20) / 7
    columns["half"][draw().random(N) < 0.6] = np.nan
    columns["a"][500:640] = np.nan
    for name in ("a", "b", "c", "half", "rare"):
        columns[name][[2_500, 2_600]] = np.nan
    concerns = looked(columns, time="t")
    assert about(concerns, "'rare' is empty in 99").severity == "warning"
    assert about(concerns, "'half' is empty in").severity == "info"
    assert "140 rows in a sequence that starts at row 501" in about(concerns, "'a' is empty in").message
    assert "row 2,501 and 1 more" in about(concerns, "Every scored column is empty").message


def test_infinities_and_what_float32_cannot_hold_are_told() -> None:
    columns = clean(fine=1e8 + 40 * draw().normal(size=N))
    columns["a"][3], columns["a"][7] = np.inf, 1e300
    concerns = looked(columns)
    assert "row 4 and 1 more" in about(concerns, "infinite").message
    assert (about(concerns, "float32 can tell").column, concerns[0].severity) == ("fine", "problem")


def test_copies_multiples_sums_and_renamed_categories_are_told() -> None:
    rng = draw()
    columns = clean(kind=rng.choice(["x", "y", "z"], N))
    columns |= {"copy": columns["a"].copy(), "fahrenheit": columns["c"] * 1.8 + 32, "sum": columns["a"] - columns["c"]}
    columns["kind2"] = np.char.add(columns["kind"].astype(str), "!")
    concerns = looked(columns)
    assert about(concerns, "'copy' is a copy of 'a'").severity == "info"
    about(concerns, "'fahrenheit' is a multiple of 'c'")
    about(concerns, "'sum' is a sum or difference of 'a', 'c'")
    about(concerns, "'kind2' says the same as 'kind'")


def test_categories_that_look_misspelt_or_empty_are_told_and_not_shown() -> None:
    kinds = np.array(["secret", "other"] * (N // 2), dtype=object)
    kinds[[4, 8]], kinds[20], kinds[30:33] = "Secret ", "oter", "N/A"
    concerns = looked(clean(kind=kinds))
    assert about(concerns, "case or blanks").severity == "warning"
    assert "row 5 and 1 more" in about(concerns, "case or blanks").message
    assert (
        "1 of 5 categories of column 'kind' stand in one row only (row 21)" in about(concerns, "one row only").message
    )
    assert "row 31 and 2 more" in about(concerns, "words for a missing cell").message
    assert not any("ecret" in concern.message for concern in concerns)


def test_numbers_stored_as_text_are_told_and_codes_are_not() -> None:
    rng = draw()
    texts = [f"{value:.1f}".replace(".", ",") for value in rng.normal(20, 3, N)]
    zips = [f"0{value}" for value in rng.integers(1000, 1100, N)]
    concerns = looked(clean(text=texts, zips=zips, measured=[f"{value:.9f}" for value in rng.normal(size=N)]))
    told = {concern.column for concern in concerns if "numbers stored as text" in concern.message}
    assert told == {"text", "measured"}


def test_the_time_column_is_checked_for_order_repeats_and_gaps() -> None:
    times = minutes()
    times[2_000:] = [moment + dt.timedelta(days=2) for moment in times[2_000:]]
    times[10], times[100] = times[11], times[40]
    concerns = looked(clean(t=times), time="t")
    assert "row 101" in about(concerns, "goes back").message
    assert about(concerns, "stands still").severity == "info"
    assert "row 2,001, by up to 2,881 times" in about(concerns, "jumps ahead").message


def test_several_assets_in_one_file_are_suspected_from_equal_times() -> None:
    times = [moment for moment in minutes(N // 2) for _ in range(2)]
    assert "--by" in about(looked(clean(t=times), time="t"), "stands still").message
    names = ["left", "right"] * (N // 2)
    assert not any("stands still" in c.message for c in looked(clean(t=times, asset=names), time="t", by="asset"))


def test_times_as_text_or_missing_are_a_problem_and_mixed_zones_are_named() -> None:
    texts = [moment.isoformat() for moment in minutes()]
    texts[5] = texts[5].replace("+00:00", "+02:00")
    concern = about(looked(clean(t=texts), time="t"), "orders nothing")
    assert concern.severity == "problem"
    assert "mixes time zones" in concern.message
    holes: list[dt.datetime | None] = [*minutes()]
    holes[8] = None
    assert "row 9" in about(looked(clean(t=holes), time="t"), "orders the rows but is empty").message


def test_a_drifting_column_is_told() -> None:
    columns = clean(t=minutes())
    columns["a"] += np.linspace(0, 30, N)
    concern = about(looked(columns, time="t"), "drifts")
    assert (concern.severity, concern.column) == ("warning", "a")
    assert not any("drifts" in other.message for other in looked(clean(t=minutes()), time="t"))


def test_groups_too_few_too_small_or_unequal_are_told() -> None:
    assert about(looked(clean(g=["x", "y"] * (N // 2)), by="g"), "has 2 groups").severity == "problem"
    unequal = ["x"] * (N - 70) + ["y"] * 60 + ["z"] * 10
    assert about(looked(clean(g=unequal), by="g"), "unequal").severity == "info"
    assert f"row {N:,}" in about(looked(clean(g=[*unequal[:-1], "alone"]), by="g"), "one row only").message


@pytest.mark.parametrize(
    ("n", "severity", "rate"), [(12, "problem", "30.0%"), (90, "warning", "1.0%"), (400, "info", "0.1%")]
)
def test_too_few_rows_for_a_usual_alarm_rate_are_told(n: int, severity: str, rate: str) -> None:
    concern = about(looked({"a": draw().normal(size=n)}), "too few")
    assert concern.severity == severity
    assert rate in concern.message


@pytest.mark.parametrize("name", ["label", "is_fault", "isFraud", "Anomaly", "target"])
def test_a_column_that_looks_like_a_label_is_told(name: str) -> None:
    concern = about(looked(clean(**{name: np.arange(N) % 50 == 0})), "looks like a label")
    assert concern.severity == "warning"
    assert "60 rows; name it with --label" in concern.message


@pytest.mark.parametrize("name", ["labelled_by", "default_mode", "classic"])
def test_other_names_are_no_label(name: str) -> None:
    assert not any(
        "label" in concern.message for concern in looked(clean(**{name: np.arange(N) % 50 == 0})) if concern.column
    )


def test_the_gravest_come_first_and_many_columns_of_one_sort_share_a_sentence() -> None:
    columns = {f"c{i}": draw().normal(size=N) * (i + 1) for i in range(12)}
    for cells in columns.values():
        cells[3] = np.inf
    concerns = looked({**columns, "kind": ["x", "X"] * (N // 2)})
    severities = [concern.severity for concern in concerns]
    assert severities == sorted(severities, key=("problem", "warning", "info").index)
    assert sum("infinite" in concern.message for concern in concerns) == 4
    assert "8 more columns" in about(concerns, "like that of 'c0'").message


def test_an_empty_table_is_a_problem_and_a_wrong_name_the_callers_error() -> None:
    rows = pa.table({"a": pa.array([], pa.float64())})
    assert look_over(rows, Schema({"a": "numeric"}, ()))[0].severity == "problem"
    with pytest.raises(SchemaError, match="--time names 'when'"):
        look_over(rows, Schema({"a": "numeric"}, ()), time="when")


def test_the_same_seed_gives_the_same_concerns() -> None:
    rows = pa.table({"a": draw().normal(size=25_000), "b": draw().lognormal(size=25_000)})
    schema = infer_schema(rows)
    assert look_over(rows, schema, seed=3) == look_over(rows, schema, seed=3)


CELLS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "numeric": (pa.float64(), st.floats(width=64)),
    "date": (pa.timestamp("us"), st.datetimes()),
    "boolean": (pa.bool_(), st.booleans()),
    "categorical": (pa.string(), st.text(max_size=3)),
}


@st.composite
def tables(draw_from: st.DrawFn) -> tuple[pa.Table, Schema]:
    n = draw_from(st.integers(1, 40))
    kinds: dict[str, ColumnKind] = {}
    columns = {}
    for i, kind in enumerate(draw_from(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=5))):
        type_, cells = CELLS[kind]
        few = draw_from(st.lists(st.none() | cells, min_size=1, max_size=6))
        columns[f"label{i}"] = pa.array((few * n)[:n], type_)
        kinds[f"label{i}"] = kind  # type: ignore[assignment]
    return pa.table(columns), Schema(kinds, ())


@settings(max_examples=150, deadline=None)
@given(tables(), st.data())
def test_no_small_table_makes_it_raise(drawn: tuple[pa.Table, Schema], data: st.DataObject) -> None:
    rows, schema = drawn
    role = st.none() | st.sampled_from(rows.schema.names)
    for concern in look_over(rows, schema, time=data.draw(role), by=data.draw(role)):
        assert concern.message.endswith(".")
        assert concern.column is None or concern.column in rows.schema.names
