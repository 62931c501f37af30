"""Which rows train, validate and calibrate: no overlap, enough of each, and refusals that say what would do."""

from __future__ import annotations

import datetime as dt
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.bundle.promise import rows_needed
from anomvae.calibration import threshold
from anomvae.data.splits import (
    CROSS_ROWS,
    FOLDS,
    MAX_CALIBRATION_ROWS,
    MAX_VALIDATION_ROWS,
    MIN_CROSS_ROWS,
    MIN_TRAIN_ROWS,
    RowSplit,
    calibration_method,
    part_sizes,
    split_rows,
)
from anomvae.errors import SchemaError, TooFewRowsError

RATES = st.sampled_from([0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 0.5]) | st.floats(5e-4, 0.9)


def table(n: int, **columns: object) -> pa.Table:
    return pa.table({"x": np.arange(n, dtype=float), **columns})


def parts_of(split: RowSplit) -> list[set[int]]:
    return [set(part.tolist()) for part in (split.train, split.validation, split.calibration)]


def assert_whole(split: RowSplit, n: int) -> None:
    train, validation, calibration = parts_of(split)
    assert train | validation | calibration == set(range(n))
    assert len(split.train) + len(split.validation) + len(split.calibration) == n
    for part in (split.train, split.validation, split.calibration):
        assert (np.diff(part) > 0).all()


@given(st.integers(0, 200_000), RATES)
def test_the_parts_support_the_rate_or_the_refusal_names_a_number_of_rows_that_does(n: int, rate: float) -> None:
    try:
        train, validation, calibration = part_sizes(n, rate)
    except TooFewRowsError as refusal:
        too_few, n = n, refusal.rows_needed
        train, validation, calibration = part_sizes(n, rate)
        assert n > too_few
    assert train + validation + calibration == n
    assert train >= MIN_TRAIN_ROWS
    assert min(train, validation, calibration) > 0
    assert validation <= MAX_VALIDATION_ROWS
    assert calibration <= max(MAX_CALIBRATION_ROWS, 2 * rows_needed(rate))
    threshold(np.zeros(calibration), rate)  # not refused


@settings(deadline=None, max_examples=50)
@given(RATES)
def test_more_rows_than_suffice_suffice_too(rate: float) -> None:
    with pytest.raises(TooFewRowsError) as caught:
        part_sizes(0, rate)
    needed = caught.value.rows_needed
    for more in range(needed, needed + 300):
        part_sizes(more, rate)


@given(st.integers(1, 3000), st.sampled_from([0.001, 0.01, 0.05]))
def test_a_rate_that_a_refusal_advises_is_accepted(n: int, rate: float) -> None:
    try:
        part_sizes(n, rate)
    except TooFewRowsError as refusal:
        message, needed = str(refusal), refusal.rows_needed
        advice = re.search(r"ask for a rate of ([0-9.]+) or more", message)
        if advice:
            part_sizes(n, float(advice[1]))
        assert f"{rate:g}" in message
        assert f"at least {needed:,} normal rows" in message


@pytest.mark.parametrize(("rate", "least"), [(0.01, 99), (0.001, 999), (0.05, 19), (0.5, 1), (0.9, 1)])
def test_rows_to_calibrate_follow_from_the_rate(rate: float, least: int) -> None:
    assert rows_needed(rate) == least
    threshold(np.zeros(least), rate)


def test_usual_tables_keep_seven_tenths_to_train() -> None:
    assert part_sizes(10_000, 0.01) == (7000, 1000, 2000)
    assert part_sizes(1_000_000, 0.01) == (970_000, 10_000, 20_000)


@settings(deadline=None, max_examples=30)
@given(st.integers(250, 1500), st.integers(0, 1000))
def test_a_random_split_covers_every_row_once(n: int, seed: int) -> None:
    split = split_rows(table(n), alarm_rate=0.01, seed=seed)
    assert_whole(split, n)
    assert (split.how, split.column) == ("random", None)
    assert tuple(map(len, parts_of(split))) == part_sizes(n, 0.01)


def test_a_random_split_follows_its_seed_alone() -> None:
    one, again = (split_rows(table(500), alarm_rate=0.01, seed=3) for _ in range(2))
    other = split_rows(table(500), alarm_rate=0.01, seed=4)
    assert parts_of(one) == parts_of(again)
    assert parts_of(one) != parts_of(other)


def times(values: np.ndarray) -> dict[str, pa.Array]:
    start = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    return {
        "integers": pa.array(values),
        "floats": pa.array(values / 7.0),
        "instants": pa.array([start + dt.timedelta(seconds=int(value)) for value in values]),
        "dates": pa.array([(start + dt.timedelta(days=int(value))).date() for value in values]),
    }


@pytest.mark.parametrize("kind", ["integers", "floats", "instants", "dates"])
def test_by_time_the_earliest_rows_train_and_the_latest_calibrate(kind: str) -> None:
    values = np.random.default_rng(0).permutation(600)
    split = split_rows(table(600, when=times(values)[kind]), alarm_rate=0.01, seed=0, time="when")
    assert_whole(split, 600)
    assert (split.how, split.column) == ("time", "when")
    assert values[split.train].max() < values[split.validation].min()
    assert values[split.validation].max() < values[split.calibration].min()


def test_by_time_the_seed_does_not_matter_and_ties_keep_their_order() -> None:
    rows = table(600, when=pa.array(np.arange(600) // 7))
    splits = [split_rows(rows, alarm_rate=0.01, seed=seed, time="when") for seed in (0, 1)]
    assert parts_of(splits[0]) == parts_of(splits[1])
    assert splits[0].train.tolist() == list(range(len(splits[0].train)))


def test_time_decides_where_groups_are_named_too() -> None:
    rows = table(600, when=np.arange(600)[::-1], asset=np.arange(600) % 5)
    assert split_rows(rows, alarm_rate=0.01, seed=0, time="when", by="asset").how == "time"


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (pa.array([None, *range(599)]), "1 empty cells"),
        (pa.array([np.nan, *range(599)], from_pandas=False), "not a number"),
        (pa.array([f"moment {i}" for i in range(600)]), "orders nothing"),
        (pa.array([True, False] * 300), "orders nothing"),
    ],
)
def test_a_time_column_that_does_not_order_every_row_is_refused(cells: pa.Array, message: str) -> None:
    with pytest.raises(SchemaError, match=message) as caught:
        split_rows(table(600, when=cells), alarm_rate=0.01, seed=0, time="when")
    assert "'when'" in str(caught.value)
    assert "moment" not in str(caught.value)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 150), min_size=3, max_size=40), st.sampled_from([0.02, 0.05, 0.2]), st.integers(0, 99))
def test_small_groups_lie_in_one_part_and_groups_that_calibrate_for_themselves_in_all(
    sizes: list[int], rate: float, seed: int
) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    n = len(groups)
    rows = table(n, asset=pa.array([f"pump {group}" for group in groups]))
    try:
        split = split_rows(rows, alarm_rate=rate, seed=seed, by="asset")
    except TooFewRowsError as refusal:
        needed = refusal.rows_needed
        assert needed == rows_needed(rate) or needed > n
        return
    assert_whole(split, n)
    assert (split.how, split.column) == ("group", "asset")
    wanted = part_sizes(n, rate)[2]
    for group, size in enumerate(sizes):
        held = [int((groups[part] == group).sum()) for part in (split.train, split.validation, split.calibration)]
        if size * wanted // n >= rows_needed(rate):
            assert held[2] >= rows_needed(rate)
            assert held[0] > 0
        else:
            assert sorted(held)[:2] == [0, 0]
    assert len(split.train) >= MIN_TRAIN_ROWS
    threshold(np.zeros(len(split.calibration)), rate)
    again = split_rows(rows, alarm_rate=rate, seed=seed, by="asset")
    assert parts_of(split) == parts_of(again)


def test_many_groups_come_near_the_usual_sizes() -> None:
    split = split_rows(table(2000, asset=np.arange(2000) // 20), alarm_rate=0.01, seed=0, by="asset")
    wanted = part_sizes(2000, 0.01)
    for part, size in zip(parts_of(split), wanted, strict=True):
        assert abs(len(part) - size) <= 40


@pytest.mark.parametrize("kind", ["strings", "integers", "dictionary", "with nulls"])
def test_groups_may_be_of_any_type(kind: str) -> None:
    names = [None if kind == "with nulls" and i % 6 == 0 else i % 6 for i in range(600)]
    cells = pa.array(names)
    if kind in ("strings", "dictionary"):
        cells = pa.array([f"asset {name}" for name in names])
    if kind == "dictionary":
        cells = cells.dictionary_encode()
    split = split_rows(table(600, asset=cells), alarm_rate=0.02, seed=0, by="asset")
    assert_whole(split, 600)
    members = [{names[i] for i in part} for part in parts_of(split)]
    assert sum(map(len, members)) == 6


def test_two_groups_are_too_few_and_three_are_not() -> None:
    with pytest.raises(TooFewRowsError, match="takes at least 3") as caught:
        split_rows(table(600, asset=np.arange(600) % 2), alarm_rate=0.01, seed=0, by="asset")
    assert caught.value.rows_needed == 3
    assert_whole(split_rows(table(600, asset=np.arange(600) % 3), alarm_rate=0.01, seed=0, by="asset"), 600)


def test_groups_too_coarse_to_calibrate_are_refused_with_the_rows_it_takes() -> None:
    asset = np.array([0] * 200 + [1] * 70 + [2] * 60)
    with pytest.raises(TooFewRowsError, match="takes 99") as caught:
        split_rows(table(330, asset=asset), alarm_rate=0.01, seed=0, by="asset")
    assert caught.value.rows_needed == 99


def assert_crossed(split: RowSplit, n: int) -> np.ndarray:
    """Every row in every part, and in one fold."""
    for part in (split.train, split.validation, split.calibration):
        assert part.tolist() == list(range(n))
    assert split.folds is not None
    assert split.folds.shape == (n,)
    assert sorted(set(split.folds.tolist())) == list(range(split.fold_count))
    return split.folds


@settings(deadline=None, max_examples=40)
@given(st.integers(MIN_CROSS_ROWS, 2000), st.integers(0, 1000))
def test_random_folds_hold_every_row_once_and_differ_by_one_row_at_most(n: int, seed: int) -> None:
    split = split_rows(table(n), alarm_rate=0.05, seed=seed, calibration="cross")
    folds = assert_crossed(split, n)
    assert (split.how, split.column, split.fold_count) == ("random", None, FOLDS)
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= 1
    assert n - sizes.max() >= MIN_TRAIN_ROWS


def test_random_folds_follow_their_seed_alone() -> None:
    one, again, other = (
        split_rows(table(300), alarm_rate=0.05, seed=seed, calibration="cross").folds for seed in (3, 3, 4)
    )
    assert np.array_equal(one, again)  # type: ignore[arg-type]
    assert not np.array_equal(one, other)  # type: ignore[arg-type]


def test_rows_that_are_held_out_are_in_no_fold() -> None:
    split = split_rows(table(300), alarm_rate=0.05, seed=0)
    assert (split.folds, split.fold_count) == (None, 0)


@given(st.integers(0, 5000), RATES)
def test_with_folds_as_many_rows_as_calibrate_suffice(n: int, rate: float) -> None:
    needed = max(MIN_CROSS_ROWS, rows_needed(rate))
    if n >= needed:
        assert part_sizes(n, rate, "cross") == (n, n, n)
        threshold(np.zeros(n), rate)  # not refused
        return
    with pytest.raises(TooFewRowsError) as caught:
        part_sizes(n, rate, "cross")
    assert caught.value.rows_needed == needed
    assert f"at least {needed:,} normal rows" in str(caught.value)
    assert needed <= _needed_by_split(rate)
    advice = re.search(r"ask for a rate of ([0-9.]+) or more", str(caught.value))
    if advice:
        part_sizes(n, float(advice[1]), "cross")


def _needed_by_split(rate: float) -> int:
    with pytest.raises(TooFewRowsError) as caught:
        part_sizes(0, rate)
    return caught.value.rows_needed


def test_folds_that_are_refused_for_few_rows_say_what_is_wanting() -> None:
    with pytest.raises(TooFewRowsError, match=r"takes 99 rows to calibrate; ask for a rate of 0\.02 or more"):
        part_sizes(60, 0.01, "cross")
    with pytest.raises(TooFewRowsError, match=r"19 normal rows are too few to learn from.*at least 20 normal rows"):
        part_sizes(19, 0.3, "cross")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 150), min_size=1, max_size=40), st.sampled_from([0.01, 0.02, 0.2]), st.integers(0, 99))
def test_small_groups_lie_in_one_fold_and_groups_that_calibrate_for_themselves_in_many(
    sizes: list[int], rate: float, seed: int
) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    n = len(groups)
    rows = table(n, asset=pa.array([f"pump {group}" for group in groups]))
    try:
        split = split_rows(rows, alarm_rate=rate, seed=seed, by="asset", calibration="cross")
    except TooFewRowsError as refusal:
        needed = refusal.rows_needed
        assert needed > n
        return
    folds = assert_crossed(split, n)
    assert (split.how, split.column) == ("group", "asset")
    known = np.array(sizes) >= max(FOLDS, rows_needed(rate))
    assert split.fold_count == (FOLDS if known.any() else min(FOLDS, len(sizes)))
    for group in np.flatnonzero(~known):
        assert len(set(folds[groups == group].tolist())) == 1
    assert np.array_equal(np.zeros(n, dtype=bool) if split.apart is None else split.apart, ~known[groups])
    spread = np.bincount(folds[known[groups]], minlength=split.fold_count)
    assert spread.max() - spread.min() <= 1
    in_fold = np.bincount(folds)
    assert in_fold.max() <= n / split.fold_count + max(sizes)
    assert n - in_fold.max() >= MIN_TRAIN_ROWS


def test_many_groups_make_folds_of_about_one_size() -> None:
    split = split_rows(
        table(2000, asset=np.arange(2000) // 20), alarm_rate=0.01, seed=0, by="asset", calibration="cross"
    )
    assert np.bincount(assert_crossed(split, 2000)).tolist() == [400] * FOLDS


def test_two_small_groups_make_two_folds_and_one_group_is_divided_as_rows_are() -> None:
    split = split_rows(table(60, asset=np.arange(60) % 2), alarm_rate=0.02, seed=0, by="asset", calibration="cross")
    assert split.fold_count == 2
    assert split.apart is not None
    split = split_rows(table(60, asset=np.zeros(60)), alarm_rate=0.02, seed=0, by="asset", calibration="cross")
    assert np.bincount(assert_crossed(split, 60)).tolist() == [12] * FOLDS
    assert split.apart is None


def test_a_group_that_leaves_nothing_to_learn_from_is_refused() -> None:
    asset = np.array([0] * 90 + [1] * 10)
    message = "without the largest group of 'asset' 10 rows are left, and 16"
    with pytest.raises(TooFewRowsError, match=message) as caught:
        split_rows(table(100, asset=asset), alarm_rate=0.01, seed=0, by="asset", calibration="cross")
    more = caught.value.rows_needed
    assert more == 106
    asset = np.array([0] * 90 + [1] * (more - 90))
    split_rows(table(more, asset=asset), alarm_rate=0.01, seed=0, by="asset", calibration="cross")


def test_rows_in_time_are_never_folded_lest_later_ones_vouch_for_earlier_ones() -> None:
    rows = table(600, when=np.arange(600))
    split = split_rows(rows, alarm_rate=0.01, seed=0, time="when", calibration="cross")
    assert (split.how, split.folds) == ("time", None)
    assert split.train.max() < split.calibration.min()


@pytest.mark.parametrize(
    ("asked", "n", "time", "method"),
    [
        ("auto", CROSS_ROWS, None, "cross"),
        ("auto", CROSS_ROWS + 1, None, "split"),
        ("auto", 100, "when", "split"),
        ("cross", 10 * CROSS_ROWS, None, "cross"),
        ("split", 100, None, "split"),
    ],
)
def test_auto_takes_folds_where_holding_rows_out_would_cost(asked: str, n: int, time: str | None, method: str) -> None:
    assert calibration_method(asked, n, time) == method  # type: ignore[arg-type]


def test_what_a_group_takes_to_calibrate_for_itself_decides_which_stay_whole() -> None:
    """A rate that a tail stands for takes few rows, a table of a group's own takes what it always does."""
    asset = np.repeat(np.arange(8), 60)
    spread = split_rows(table(480, asset=asset), alarm_rate=0.02, seed=0, by="asset", calibration="cross")
    whole = split_rows(table(480, asset=asset), alarm_rate=0.02, seed=0, by="asset", calibration="cross", group_rows=99)
    assert spread.apart is None
    assert whole.apart is not None
    assert whole.apart.all()
    assert whole.folds is not None
    assert all(len(set(whole.folds[asset == group].tolist())) == 1 for group in range(8))
