from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from anomvae.bundle import Column
from anomvae.evaluation import faults
from anomvae.evaluation.faults import Faulty, NumberColumn, category_faults, number_faults, partners, shift_sizes
from anomvae.evaluation.resolution import Resolution

FLOW = Column("flow", "numeric", "double", low=0.0, high=20.0, mean=10.0, std=2.0)
STATE = Column("state", "categorical", "string", categories=("off", "on", "service"), missing_code=3)


class Table:
    """Rows of two numbers and a category."""

    def __init__(self, numeric: npt.ArrayLike, categorical: npt.ArrayLike) -> None:
        self.numeric = np.asarray(numeric, dtype=np.float32)
        self.categorical = np.asarray(categorical, dtype=np.int64)


def rows(n: int = 200) -> Table:
    draw = np.random.default_rng(0)
    return Table(draw.normal([10, 12], [2, 2], (n, 2)), draw.integers(0, 3, (n, 1)))


def of_flow(table: Table, sizes: tuple[float, ...] = (1.0,), partner: int | None = 1) -> dict[str, Faulty]:
    column = NumberColumn(FLOW, 0, Resolution.of(table.numeric[:, 0]), partner)
    there = np.flatnonzero(np.isfinite(table.numeric[:, 0]))
    found = number_faults(table, column, there, sizes, np.random.default_rng(1))
    return {each.fault: each for each in found}


def test_a_shift_is_so_many_standard_deviations_either_way() -> None:
    table = rows()
    found = of_flow(table)["shift"]
    moved = found.cells - table.numeric[found.of, 0]
    assert np.abs(moved) == pytest.approx(2.0, abs=1e-5)
    assert found.variant is not None
    assert (moved > 0).tolist() == (found.variant == found.variants.index("up")).tolist()
    assert np.bincount(found.variant).tolist() == [100, 100]


def test_the_same_rows_carry_every_size_the_same_way() -> None:
    table = rows()
    column = NumberColumn(FLOW, 0, Resolution(), None)
    found = list(number_faults(table, column, np.arange(200), (0.5, 4.0), np.random.default_rng(1)))
    small, large = (each for each in found if each.fault == "shift")
    assert small.of.tolist() == large.of.tolist()
    assert np.asarray(small.variant).tolist() == np.asarray(large.variant).tolist()


def test_a_stepped_column_is_shifted_by_whole_steps_at_least_one() -> None:
    column = NumberColumn(FLOW, 0, Resolution(0.0, 1.0))
    assert shift_sizes(column, (0.1, 0.5, 0.8, 2.0)) == [0.5, 1.0, 2.0]
    table = Table(np.round(rows().numeric), np.zeros((200, 1)))
    for found in of_flow(table, (0.3,)).values():
        if found.fault in ("shift", "spike", "noise", "gain", "stuck"):
            assert np.round(found.cells) == pytest.approx(found.cells), found.fault


def test_a_spike_lies_half_a_range_outside_the_range_of_training() -> None:
    assert sorted(np.unique(of_flow(rows())["spike"].cells)) == pytest.approx([-10.0, 30.0])


def test_a_gain_doubles_or_halves_the_distance_from_the_mean() -> None:
    table = rows()
    found = of_flow(table)["gain"]
    ratio = (found.cells - 10.0) / (table.numeric[found.of, 0].astype(float) - 10.0)
    assert sorted(np.unique(ratio.round(6))) == [0.5, 2.0]


def test_noise_has_three_standard_deviations() -> None:
    table = rows(4000)
    found = of_flow(table)["noise"]
    assert (found.cells - table.numeric[found.of, 0]).std() == pytest.approx(6.0, rel=0.05)


def test_unit_errors_are_dealt_out_evenly_and_are_what_they_are_called() -> None:
    table = rows(600)
    found = of_flow(table)["unit"]
    assert found.variant is not None
    assert np.bincount(found.variant).tolist() == [100] * len(faults.UNITS)
    celsius = found.variant == found.variants.index("fahrenheit")
    was = table.numeric[found.of, 0].astype(float)
    assert found.cells[celsius] == pytest.approx(was[celsius] * 9 / 5 + 32)
    inches = found.variant == found.variants.index("x25.4")
    assert found.cells[inches] == pytest.approx(was[inches] * 25.4)


def test_swapped_cells_change_places() -> None:
    table = rows()
    found = of_flow(table)["swapped"]
    assert found.cells == pytest.approx(table.numeric[found.of, 1])
    assert found.other == pytest.approx(table.numeric[found.of, 0])


def test_a_stuck_cell_shows_a_value_that_the_column_holds_and_not_its_own() -> None:
    table = Table(np.random.default_rng(0).integers(0, 3, (200, 2)), np.zeros((200, 1)))
    found = of_flow(table)["stuck"]
    assert set(found.cells) <= {0.0, 1.0, 2.0}
    assert (found.cells != table.numeric[found.of, 0]).all()
    assert 0 < len(found.of) < 200


def test_missing_cells_take_no_part_and_come_back_in_no_fault() -> None:
    table = rows()
    table.numeric[::2, 0] = np.nan
    table.numeric[1::4, 1] = np.inf
    for fault, found in of_flow(table).items():
        assert (found.of % 2 == 1).all(), fault
        assert np.isnan(found.cells).all() == (fault == "missing")
    assert (of_flow(table)["swapped"].of % 4 == 3).all()


def test_a_column_without_a_spread_has_the_faults_that_need_none() -> None:
    column = NumberColumn(Column("constant", "numeric", "double", mean=10.0, std=0.0), 0, Resolution())
    found = {each.fault for each in number_faults(rows(), column, np.arange(200), (1.0,), np.random.default_rng(0))}
    assert found == {"stuck", "unit", "missing"}


def test_dates_have_no_units() -> None:
    date = Column("serviced", "date", "date32", low=0.0, high=99.0, mean=10.0, std=2.0, origin="2026-01-01")
    column = NumberColumn(date, 0, Resolution())
    found = {each.fault for each in number_faults(rows(), column, np.arange(200), (1.0,), np.random.default_rng(0))}
    assert "unit" not in found
    assert "shift" in found


def of_state(table: Table, column: Column = STATE) -> dict[str, Faulty]:
    there = np.flatnonzero(table.categorical[:, 0] < len(column.categories))
    return {each.fault: each for each in category_faults(table, 0, column, there, np.random.default_rng(1))}


def test_a_wrong_category_is_another_known_one_each_as_likely() -> None:
    table = rows(3000)
    found = of_state(table)["wrong"]
    was = table.categorical[found.of, 0]
    assert len(found.of) == 3000
    assert (found.cells != was).all()
    counts = np.bincount(found.cells[was == 1], minlength=3)
    assert counts[1] == 0
    assert counts[0] == pytest.approx(counts[2], rel=0.2)


def test_unseen_and_missing_are_the_codes_of_the_manifest() -> None:
    found = of_state(rows())
    assert set(found["unseen"].cells) == {STATE.unknown_code}
    assert set(found["missing"].cells) == {STATE.missing_code}
    never_missing = Column("state", "categorical", "string", categories=("off", "on", "service"))
    assert set(of_state(rows(), never_missing)["missing"].cells) == {never_missing.unknown_code}


def test_a_flag_has_no_value_never_seen_and_its_wrong_value_is_the_other_one() -> None:
    flag = Column("open", "boolean", "bool", categories=("false", "true"))
    table = Table(np.zeros((200, 0)), np.arange(200)[:, None] % 2)
    found = of_state(table, flag)
    assert "unseen" not in found
    assert (found["wrong"].cells == 1 - table.categorical[found["wrong"].of, 0]).all()


def test_a_column_is_swapped_with_the_one_whose_values_pass_in_it() -> None:
    def number(mean: float, std: float, kind: str = "numeric") -> Column:
        return Column("x", kind, "double", mean=mean, std=std)  # type: ignore[arg-type]

    air, process, wear, date = number(300, 2), number(310, 1.5), number(108, 63), number(301, 2, "date")
    assert partners([air, process, wear, date, number(5, 0)]) == [1, 0, 0, None, None]
    assert partners([air]) == [None]
