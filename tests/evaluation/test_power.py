from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

from anomvae.bundle import Column
from anomvae.errors import SettingError, TooFewRowsError
from anomvae.evaluation.power import SIZES, measure_power, thinned
from anomvae.evaluation.power_result import PowerResult, PowerSettings
from anomvae.evaluation.power_words import flattery, sentences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.evaluation.power import Alarms

    Floats = npt.NDArray[np.float32]
    Ints = npt.NDArray[np.int64]
    Bools = npt.NDArray[np.bool_]


def number(name: str) -> Column:
    return Column(name, "numeric", "double", low=-4.0, high=4.0, mean=0.0, std=1.0)


COLUMNS = (
    number("guarded"),
    Column("state", "categorical", "string", categories=("off", "on"), missing_code=2),
    number("ignored"),
    number("one_sided"),
    Column("mode", "categorical", "string", categories=("a", "b", "c")),
)


def normal_rows(n: int = 400, seed: int = 0) -> tuple[Floats, Ints]:
    """Numbers of N(0, 1); the state is always `on`, the mode anything."""
    draw = np.random.default_rng(seed)
    return draw.normal(size=(n, 3)).astype(np.float32), np.stack([np.ones(n, int), draw.integers(0, 3, n)], axis=1)


def limits(numeric: Floats, categorical: Ints, of: Ints) -> Bools:
    """A detector by hand: limits on two columns, and the state must be `on`; a missing number is fine."""
    with np.errstate(invalid="ignore"):
        beyond = (np.abs(numeric[:, 0]) > 4) | (numeric[:, 2] > 4)
    return np.asarray(beyond | (categorical[:, 0] != 1), dtype=np.bool_)


def measured(alarms: Alarms = limits, *, columns: Sequence[Column] = COLUMNS, **settings: float) -> PowerResult:
    numeric, categorical = normal_rows()
    return measure_power(alarms, numeric, categorical, columns, PowerSettings(**{"alarm_rate": 0.01, **settings}))  # type: ignore[arg-type]


def test_a_limit_on_a_column_is_found_where_it_lies() -> None:
    guarded = measured().columns[0]
    assert guarded.shift is not None
    assert guarded.shift.half.size == pytest.approx(4.0, rel=0.1)
    assert guarded.shift.half.low < 4.0 < (guarded.shift.half.high or math.inf)
    assert guarded.shift.ninety.size == pytest.approx(5.3, rel=0.1)  # 4 + the 90 % quantile of N(0, 1)
    assert guarded.faults["spike"].share == 1.0
    assert guarded.faults["missing"].share == 0.0
    assert guarded.faults["stuck"].share == 0.0
    # noise of 3 std on top of 1: P(|N(0, 10)| > 4)
    assert guarded.faults["noise"].share == pytest.approx(math.erfc(4 / math.sqrt(20)), abs=0.07)


def test_blind_columns_are_those_that_the_detector_does_not_look_at() -> None:
    result = measured()
    assert result.blind == ("ignored", "mode")
    said = " ".join(sentences(result))
    assert "'ignored'" in said
    assert "'mode'" in said
    assert "'guarded'" not in said
    assert result.columns[3].blind_side == "down"
    assert "'one_sided'" in said


def test_no_column_is_called_blind_where_none_is() -> None:
    def all_seeing(numeric: Floats, categorical: Ints, of: Ints) -> Bools:
        was, codes = normal_rows()
        return np.asarray((numeric != was[of]).any(axis=1) | (categorical != codes[of]).any(axis=1), dtype=np.bool_)

    result = measured(all_seeing)
    assert result.blind == ()
    assert "No column is blind." in sentences(result)
    assert all(share.share == 1.0 for column in result.columns for share in column.faults.values())
    assert result.median_shift("half") == SIZES[0]


def test_a_fault_changes_one_column_of_the_row_it_was_made_from_or_two_that_change_places() -> None:
    was, codes = normal_rows()
    changed: set[tuple[int, ...]] = set()

    def watch(numeric: Floats, categorical: Ints, of: Ints) -> Bools:
        cells = np.hstack([numeric != was[of], categorical != codes[of]])
        changed.update(tuple(np.flatnonzero(row).tolist()) for row in cells)
        return np.zeros(len(of), dtype=bool)

    measured(watch)
    single = {each for each in changed if len(each) == 1}
    assert single == {(at,) for at in range(5)}
    assert all(set(each) <= {0, 1, 2} for each in changed - single)  # numbers alone are swapped
    assert () in changed  # the rows as they are, asked for the false-alarm level


def test_rows_that_alarm_untouched_are_told_and_warned_of() -> None:
    def nervous(numeric: Floats, categorical: Ints, of: Ints) -> Bools:
        return np.asarray(of % 4 == 0, dtype=np.bool_)

    result = measured(nervous)
    assert result.untouched.share == pytest.approx(0.25, abs=0.06)
    assert result.flattered
    assert "flattered" in (flattery(result) or "")
    assert flattery(measured()) is None
    assert set(result.blind) == {column.name for column in COLUMNS}  # alarms that no fault raised catch nothing


def test_the_same_seed_gives_the_same_figures_and_another_one_others() -> None:
    assert measured(rows=60).as_dict() == measured(rows=60).as_dict()
    assert measured(rows=60).as_dict() != measured(rows=60, seed=1).as_dict()


def test_metrics_are_few_and_finite_also_where_nothing_is_caught() -> None:
    metrics = measured(lambda numeric, categorical, of: np.zeros(len(of), dtype=bool)).as_metrics()
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["power_shift_half_median"] == 16.0
    assert metrics["power_blind_columns"] == 5.0
    assert metrics["power_caught_wrong"] == 0.0
    assert measured().as_metrics()["power_caught_wrong"] == 0.5


def test_a_table_without_numbers_has_no_shifts() -> None:
    _, categorical = normal_rows()
    columns = [column for column in COLUMNS if not column.is_numeric]
    result = measure_power(
        lambda numeric, codes, of: codes[:, 0] != 1,
        np.empty((400, 0), dtype=np.float32),
        categorical,
        columns,
        PowerSettings(0.01),
    )
    assert "power_shift_half_median" not in result.as_metrics()
    assert result.blind == ("mode",)


def test_everything_goes_into_json_with_intervals_and_rows() -> None:
    found = json.loads(json.dumps(measured().as_dict(), allow_nan=False))
    guarded = found["columns"][0]
    assert guarded["shift"]["caught_half_of_the_time"]["std"] == pytest.approx(4.0, rel=0.1)
    assert guarded["faults"]["unit"]["by"]["x0.001"]["share"] == 0.0
    for size in guarded["shift"]["sizes"]:
        assert size["low"] <= size["share"] <= size["high"]
        assert size["rows"] == size["up"]["rows"] + size["down"]["rows"] == 300
    ignored = found["columns"][2]
    assert ignored["blind"]
    assert ignored["shift"]["caught_half_of_the_time"] == {"std": None, "low": 16.0, "high": None}


def test_a_column_that_is_mostly_missing_is_not_measured_and_named() -> None:
    numeric, categorical = normal_rows()
    numeric[10:, 0] = np.nan
    result = measure_power(limits, numeric, categorical, COLUMNS, PowerSettings(0.01))
    assert result.columns[0].rows == 0
    assert result.columns[0].shift is None
    assert "guarded" not in result.blind
    assert any("Not measured" in sentence and "'guarded'" in sentence for sentence in sentences(result))


@pytest.mark.parametrize("width", [5, 60, 400])
def test_wide_tables_stay_within_the_budget(width: int) -> None:
    columns = [number(f"x{at}") for at in range(width)]
    rows, sizes = thinned(columns, 300, 100_000)
    assert rows * (len(sizes) + 7) * width <= 100_000
    assert rows >= 20
    assert 8.0 in sizes


def test_faulty_rows_are_counted() -> None:
    asked = []

    def count(numeric: Floats, categorical: Ints, of: Ints) -> Bools:
        asked.append(len(of))
        return np.zeros(len(of), dtype=bool)

    result = measured(count, rows=50)
    assert result.rows == 50
    assert result.faulty_rows == sum(asked) - 50


def test_too_few_rows_are_refused() -> None:
    numeric, categorical = normal_rows(19)
    with pytest.raises(TooFewRowsError, match="19 normal rows are too few"):
        measure_power(limits, numeric, categorical, COLUMNS, PowerSettings(0.01))
    with pytest.raises(SettingError, match="rows is 19"):
        PowerSettings(0.01, rows=19)
    with pytest.raises(SettingError, match="budget_rows"):
        PowerSettings(0.01, budget_rows=0)
