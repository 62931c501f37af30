"""Calibration tables: the guarantee of each decision, exactness against brute force, groups, tails, and odd scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.bundle.promise import DECISIONS
from anomvae.calibration import CalibrationTables, Table, TailParameters, conditional_p_values, joint_p_values, p_values
from anomvae.calibration.calibrator import thresholds
from anomvae.calibration.conformal import raised
from anomvae.calibration.tables import NO_TAIL, conformal_ranks, joint_rank
from anomvae.calibration.tail import LEAST_P

if TYPE_CHECKING:
    from collections.abc import Callable

Scores = npt.NDArray[np.float64]
Pair = tuple[Scores, Scores]

FLOAT32 = 3e-7
"""Relative; p-values are rounded down to the float32 below."""


def one_table(score: Any, error: Any, decision: str = "both", **more: Any) -> CalibrationTables:
    return CalibrationTables.of([Table(np.asarray(score, float), np.asarray(error, float), **more)], decision)


def dependent(kind: str, n: int, draw: np.random.Generator) -> Pair:
    """Two scores of n rows."""
    one, other = 20.0 * draw.normal(size=(2, n))
    if kind == "ties":
        return draw.integers(0, 4, n).astype(float), draw.integers(0, 3, n).astype(float)
    if kind == "constant":
        return np.ones(n), np.ones(n)
    if kind == "heavy tails":
        return draw.standard_cauchy(size=n), draw.standard_cauchy(size=n)
    share, noise, level = SHARES[kind]
    return one, share * one + noise * other + level


SHARES = {
    "none": (0.0, 1.0, 0.0),
    "strong": (1.0, 0.5, 0.0),
    "the same": (1.0, 0.0, 0.0),
    "weak": (0.3, 1.0, 0.0),
    "negative": (-1.0, 0.5, 0.0),
    "opposite": (-1.0, 0.0, 0.0),
    "one constant": (0.0, 0.0, 1.0),
}
KINDS = (*SHARES, "constant", "ties", "heavy tails")
SMOOTH = ("none", "strong", "the same", "weak", "negative", "opposite", "heavy tails")


def left_out(score: Scores, error: Scores, decision: str) -> npt.NDArray[np.float32]:
    """The verdict's p-value of each row against all others: exchangeable rows, whichever is the new one."""
    everyone = np.arange(len(score))
    found = []
    for row in everyone:
        rest = everyone != row
        tables = one_table(score[rest], error[rest], decision)
        found.append(tables.verdicts(score[[row]], error[[row]], 0.5).p_value_verdict[0])
    return np.array(found, dtype=np.float32)


@pytest.mark.parametrize("m", [1, 2, 9, 60])
@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_of_exchangeable_rows_no_more_alarm_than_was_stated(kind: str, decision: str, m: int) -> None:
    """Exact, not on average: of m + 1 rows, each new in turn, at most k have a p-value of at most k / (m + 1)."""
    draw = np.random.default_rng([m, len(kind)])
    for _ in range(3):
        p = left_out(*dependent(kind, m + 1, draw), decision)
        counts = [int((p <= np.float32(k / (m + 1))).sum()) for k in range(1, m + 2)]
        assert all(count <= k for k, count in enumerate(counts, 1))


@pytest.mark.parametrize("kind", SMOOTH)
def test_the_rate_of_both_is_spent_whatever_the_dependence(kind: str) -> None:
    m = 99
    p = left_out(*dependent(kind, m + 1, np.random.default_rng(7)), "both")
    for k in range(1, m + 2):  # without ties a rank is passed by one row at a time, or by two at once
        assert k - 1 <= (p <= np.float32(k / (m + 1))).sum() <= k


@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize("kind", ["negative", "strong", "ties"])
def test_unseen_normal_rows_keep_the_rate(kind: str, decision: str) -> None:
    draw, m, repeats = np.random.default_rng(3), 99, 300
    shares: dict[float, list[float]] = {0.01: [], 0.05: [], 0.2: []}
    for _ in range(repeats):
        score, error = dependent(kind, m + 40, draw)
        tables = one_table(score[:m], error[:m], decision)
        for rate, found in shares.items():
            found.append(float(tables.verdicts(score[m:], error[m:], rate).alarm.mean()))
    for rate, found in shares.items():
        spread = 4 * float(np.std(found)) / math.sqrt(repeats)
        assert np.mean(found) <= rate + spread
        if kind != "ties":
            assert np.mean(found) >= rate - spread


def brute_force(score: Scores, error: Scores, tie: Callable[[Scores, float], npt.NDArray[np.bool_]]) -> float:
    """Full conformal p-value of the last row: the share of all m + 1 rows whose statistic is at most its own."""
    statistic = [min(tie(score, s).sum(), tie(error, e).sum() + 0.5) for s, e in zip(score, error, strict=True)]
    return float(np.mean(np.array(statistic) <= statistic[-1]))


def at_least(scores: Scores, score: float) -> npt.NDArray[np.bool_]:
    return np.asarray(scores >= score)


def ties_or_more(scores: Scores, score: float) -> npt.NDArray[np.bool_]:
    return np.asarray(raised(scores) >= np.float32(score))


def verdict_p(score: Scores, error: Scores) -> float:
    tables = one_table(score[:-1], error[:-1])
    return float(tables.verdicts(score[-1:], error[-1:], 0.5).p_value_verdict[0])


@settings(deadline=None, max_examples=120)
@given(st.integers(1, 14), st.sampled_from(SMOOTH), st.integers(0, 10**6))
def test_both_together_is_full_conformal_prediction_to_the_letter(m: int, kind: str, seed: int) -> None:
    score, error = dependent(kind, m + 1, np.random.default_rng(seed))
    if min(np.diff(np.sort(score)).min(), np.diff(np.sort(error)).min()) < 0.02:
        return  # a tie, which is the next test's
    assert verdict_p(score, error) == pytest.approx(brute_force(score, error, at_least), rel=FLOAT32)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=14))
def test_with_ties_both_together_is_never_smaller_than_full_conformal_prediction(rows: list[tuple[int, int]]) -> None:
    score, error = np.array(rows, dtype=float).T
    assert verdict_p(score, error) >= brute_force(score, error, at_least) * (1 - FLOAT32)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=2, max_size=12), st.sampled_from([1, 100, 1e5])
)
def test_nor_with_rows_that_nearly_tie(rows: list[tuple[int, int]], around: float) -> None:
    """Whether two rows tie may not be transitive: each step here is within the tolerance, two are not."""
    score, error = (around * (1 + 6e-5 * column) for column in np.array(rows, dtype=float).T)
    score, error = score.astype(np.float32).astype(float), error.astype(np.float32).astype(float)
    assert verdict_p(score, error) >= brute_force(score, error, ties_or_more) * (1 - FLOAT32)


PAIRS = st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=1, max_size=40)


@settings(deadline=None, max_examples=120)
@given(PAIRS, PAIRS)
def test_each_score_has_its_conformal_p_value(calibration: list[tuple[float, float]], rows: list[Any]) -> None:
    table, new = np.array(calibration), np.array(rows)
    found = one_table(table[:, 0], table[:, 1]).verdicts(new[:, 0], new[:, 1], 0.5)
    np.testing.assert_allclose(found.p_value, p_values(new[:, 0], table[:, 0]), rtol=FLOAT32)
    np.testing.assert_allclose(found.p_value_reconstruction, p_values(new[:, 1], table[:, 1]), rtol=FLOAT32)


@settings(deadline=None, max_examples=120)
@given(PAIRS)
def test_both_together_lie_between_the_smaller_p_value_and_twice_it(calibration: list[tuple[float, float]]) -> None:
    table = np.array(calibration)
    a, b = (grid.ravel() for grid in np.meshgrid(np.arange(len(table) + 1), np.arange(len(table) + 1)))
    ranks = conformal_ranks(len(table))
    joint, least = joint_p_values(*table.T)[joint_rank(a, b)], ranks[np.minimum(a, b)]
    assert (joint <= np.minimum(1.0, 2.0 * least) + 1e-12).all()
    assert (joint >= 1.0 / (len(table) + 1) - 1e-12).all()
    assert joint.max() == 1.0


TAIL = TailParameters(10.0, 4.0, 0.3, 0.1)


@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize("tails", [(NO_TAIL, NO_TAIL), (TAIL, NO_TAIL), (TAIL, TAIL._replace(shape=-0.2))])
@pytest.mark.parametrize("confidence", [None, 0.9])
def test_a_stranger_row_never_has_a_larger_p_value(
    decision: str, tails: tuple[TailParameters, TailParameters], confidence: float | None
) -> None:
    draw = np.random.default_rng(5)
    ranks = None if confidence is None else conditional_p_values(150, confidence)
    tables = one_table(12 * draw.normal(size=150), draw.integers(-20, 25, 150), decision, by_rank=ranks, tails=tails)
    grid = np.concatenate([np.linspace(-60, 60, 300), [1e3, 1e9, 3e38, np.inf, np.nan]])
    for fixed in (-100.0, 0.0, 15.0, 30.0, 1e6, np.nan):
        still = np.full(len(grid), fixed)
        for one, other in ((grid, still), (still, grid)):
            found = tables.verdicts(one, other, 0.05)
            for p in (found.p_value, found.p_value_reconstruction, found.p_value_verdict):
                assert (np.diff(p) <= 0).all()
                assert (p >= np.float32(LEAST_P)).all()
                assert (p <= 1).all()
            assert (np.diff(found.alarm.astype(int)) >= 0).all()


@pytest.mark.parametrize("decision", DECISIONS)
def test_one_calibration_row_is_enough_to_answer(decision: str) -> None:
    found = one_table([1.0], [1.0], decision).verdicts(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 2.0]), 0.5)
    assert found.p_value_verdict == pytest.approx([1.0, 1.0, 0.5], rel=FLOAT32)
    assert found.alarm.tolist() == [False, False, True]


def test_a_million_calibration_rows_are_not_too_many() -> None:
    m = 10**6
    score, error = dependent("weak", m, np.random.default_rng(0))
    tables = one_table(score, error)
    assert tables.blocks.shape[1] == tables.blocks.shape[0] // 2 == 1000
    new = np.random.default_rng(1).choice(m, 500)
    found = tables.verdicts(score[new], error[new], 0.01)
    np.testing.assert_allclose(found.p_value, p_values(score[new], score), rtol=FLOAT32)
    np.testing.assert_allclose(found.p_value_reconstruction, p_values(error[new], error), rtol=FLOAT32)


def test_without_calibration_rows_everything_is_normal() -> None:
    tables = CalibrationTables.of([Table(np.empty(0), np.empty(0)), Table(np.ones(1), np.ones(1))], "both")
    found = tables.verdicts(np.array([5.0, np.nan]), np.array([5.0, 5.0]), 0.9, np.zeros(2, dtype=np.int64))
    assert found.p_value_verdict.tolist() == found.p_value.tolist() == [1.0, 1.0]
    assert not found.alarm.any()


@pytest.mark.parametrize("decision", DECISIONS)
def test_a_group_is_held_against_its_own_rows_and_others_against_all(decision: str) -> None:
    draw = np.random.default_rng(2)
    parts = [dependent("weak", size, draw) for size in (200, 30, 1, 0)]
    parts[0][0][:] += 50
    everyone = (np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]))
    tables = CalibrationTables.of([*(Table(*part) for part in parts), Table(*everyone)], decision)
    new = dependent("weak", 100, draw)
    alone = [one_table(*part, decision).verdicts(*new, 0.05) for part in (*parts, everyone)]
    for number in (0, 1, 2, 3, 4, 5, -1, -(2**62), 2**62):
        found = tables.verdicts(*new, 0.05, np.full(100, number))
        wanted = alone[number if 0 <= number < 4 else 4]
        for name in ("p_value", "p_value_reconstruction", "p_value_verdict", "alarm", "tail"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
        assert found.pooled.all() == (not 0 <= number < 4)
    mixed = draw.integers(-1, 6, 100)
    found = tables.verdicts(*new, 0.05, mixed)
    each = [alone[number if 0 <= number < 4 else 4].p_value_verdict[row] for row, number in enumerate(mixed)]
    np.testing.assert_array_equal(found.p_value_verdict, each)
    np.testing.assert_array_equal(tables.verdicts(*new, 0.05).p_value_verdict, alone[4].p_value_verdict)
    assert tables.has_groups
    assert tables.rows.tolist() == [200, 30, 1, 0, 231]


def test_each_group_keeps_the_rate_where_all_together_would_not() -> None:
    draw, m = np.random.default_rng(4), 500
    quiet, loud = draw.normal(size=(2, m + 2000)) * np.array([[1.0], [5.0]])
    both = np.concatenate([quiet[:m], loud[:m]])
    tables = CalibrationTables.of([Table(part, part) for part in (quiet[:m], loud[:m], both)], "elbo")
    for number, part in enumerate((quiet, loud)):
        share = tables.verdicts(part[m:], part[m:], 0.05, np.full(2000, number)).alarm.mean()
        assert abs(share - 0.05) < 0.035
    assert tables.verdicts(loud[m:], loud[m:], 0.05).alarm.mean() > 0.08
    assert tables.verdicts(quiet[m:], quiet[m:], 0.05).alarm.mean() == 0


def test_what_cannot_be_scored_is_stranger_than_everything() -> None:
    tables = one_table(np.arange(99.0), np.arange(99.0))
    odd, normal = np.array([np.nan, np.inf, -np.inf]), np.zeros(3)
    found = tables.verdicts(odd, normal, 0.01)
    assert found.p_value == pytest.approx([0.01, 0.01, 1.0], rel=FLOAT32)
    assert found.alarm.tolist() == [True, True, False]
    assert tables.verdicts(normal, odd, 0.02).alarm.tolist() == [True, True, False]


@pytest.mark.parametrize("decision", DECISIONS)
def test_calibration_rows_that_could_not_be_scored_count_as_strange(decision: str) -> None:
    odd = np.array([0.0, 1.0, np.nan, np.inf])
    found = one_table(odd, odd, decision).verdicts(np.array([5.0, np.inf, -5.0]), np.array([5.0, np.inf, -5.0]), 0.5)
    assert found.p_value == pytest.approx([0.6, 0.6, 1.0], rel=FLOAT32)
    assert (found.p_value_verdict >= 0.6 * (1 - FLOAT32)).all()
    assert one_table(odd, np.arange(4.0), decision).verdicts(np.zeros(1), np.zeros(1), 0.5).p_value_verdict[0] == 1


@settings(deadline=None, max_examples=120)
@given(st.integers(1, 2000), st.data())
def test_a_p_value_that_equals_the_rate_alarms_in_float32(m: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, m))
    tables = one_table(np.arange(m) * 10.0, np.arange(m) * 10.0, "elbo")
    just = np.array([(m - k) * 10.0 + 5.0])  # k - 1 calibration rows are stranger
    assert tables.verdicts(just, just, k / (m + 1)).alarm[0]
    assert not tables.verdicts(just, just, k / (m + 1) * (1 - 1e-6)).alarm[0]
    assert not tables.verdicts(just - 10.0, just, k / (m + 1)).alarm[0]


@pytest.mark.parametrize("m", [1, 2, 99, 127, 128, 129, 1000, 4095, 20_000, 99_999])
@pytest.mark.parametrize("decision", DECISIONS)
def test_the_smallest_p_value_is_the_smallest_rate_at_any_size(m: int, decision: str) -> None:
    score = np.arange(m, dtype=np.float32)
    tables = one_table(score, score, decision)
    top = np.array([2.0 * m + 10])
    assert tables.verdicts(top, top, 1 / (m + 1)).alarm[0]
    rounded, exact = tables.by_rank, conformal_ranks(m)
    if decision == "both":
        rounded, exact = tables.by_both, joint_p_values(score, score)
    for k in sorted({1, 2, 3, 7, m // 3 + 1, m // 2 + 1, m}):
        assert (rounded <= np.float32(k / (m + 1))).sum() == (exact <= (k + 0.01) / (m + 1)).sum()


@pytest.mark.parametrize("shape", [-0.6, -0.2, -1e-3, 1e-3, 0.3, 1.5])
def test_a_tail_goes_on_where_the_rows_end(shape: float) -> None:
    draw = np.random.default_rng(6)
    score = np.sort(draw.exponential(5.0, 199))
    u, k = float(score[-21]), 20
    tail = TailParameters(u, 5.0, shape, (k + 1) / 200)
    plain, tables = (one_table(score, score, "elbo", tails=(each, NO_TAIL)) for each in (NO_TAIL, tail))
    top = float(raised(score[-1:])[0])
    grid = np.concatenate([score, np.geomspace(top, top + 500, 400), [np.inf, np.nan]])
    found, without = (each.verdicts(grid, grid, 1e-4) for each in (tables, plain))
    inside = grid <= top
    np.testing.assert_array_equal(found.p_value[inside], without.p_value[inside])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        reached = np.maximum(0.0, 1.0 + shape * (grid - u) / 5.0)
        survival = np.where(np.isfinite(grid), tail.share * reached ** (-1.0 / shape), 0.0)
    wanted = np.maximum(np.minimum(survival, 1 / 200), LEAST_P)
    np.testing.assert_allclose(found.p_value[~inside], wanted[~inside], rtol=2e-3)
    np.testing.assert_array_equal(found.tail, found.p_value_verdict < without.p_value_verdict)
    assert not found.tail[inside].any()
    assert found.tail[-3:].all()
    np.testing.assert_array_equal(found.p_value_reconstruction, without.p_value_reconstruction)
    assert tables.has_tail
    assert not plain.has_tail


def test_a_tail_begins_at_the_p_value_of_its_threshold() -> None:
    """Continuous at the joint: a score just above the threshold has the tail's share as its conformal p-value."""
    score = np.arange(100.0)
    u, exceedances = score[79], 20
    above = one_table(score, score, "elbo").verdicts(np.array([u + 0.5]), np.zeros(1), 0.5).p_value[0]
    assert above == pytest.approx((exceedances + 1) / 101, rel=FLOAT32)
    bare = CalibrationTables.of(
        [Table(score[:80], score[:80], None, (TailParameters(u, 3.0, 0.1, float(above)),) * 2)], "elbo"
    )
    assert bare._survival(np.full((1, 2), u, np.float32), np.zeros(1, dtype=np.int64)) == pytest.approx(above, rel=1e-6)


def test_in_the_tail_both_together_is_twice_the_smaller() -> None:
    draw = np.random.default_rng(8)
    score, error = dependent("weak", 199, draw)
    tail = TailParameters(30.0, 8.0, 0.2, 0.05)
    tables, plain = one_table(score, error, tails=(tail, tail)), one_table(score, error)
    new = np.array([[80.0, 0.0], [0.0, 80.0], [80.0, 300.0], [0.0, 0.0], [40.0, 40.0], [200.0, 200.0]]).T
    found, without = (each.verdicts(new[0], new[1], 0.001) for each in (tables, plain))
    twice = 2 * np.minimum(found.p_value, found.p_value_reconstruction)
    np.testing.assert_array_equal(found.p_value_verdict, np.minimum(without.p_value_verdict, twice))
    np.testing.assert_array_equal(found.tail, found.p_value_verdict < without.p_value_verdict)
    assert found.tail[2]
    assert not found.tail[3]


@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("confidence", [None, 0.8])
def test_without_a_tail_nothing_is_flagged(kind: str, decision: str, confidence: float | None) -> None:
    draw = np.random.default_rng(1)
    for m in (1, 2, 7, 100, 333):
        ranks = None if confidence is None else conditional_p_values(m, confidence)
        tables = one_table(*dependent(kind, m, draw), decision, by_rank=ranks)
        score, error = dependent(kind, 200, draw)
        assert not tables.verdicts(np.append(score, [1e9, np.nan]), np.append(error, [np.nan, 1e9]), 0.1).tail.any()


@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize("kind", [*SMOOTH, "ties", "one constant"])
@pytest.mark.parametrize("rate", [0.005, 0.05, 0.3, 0.95])
@pytest.mark.parametrize("confidence", [None, 0.9])
def test_thresholds_are_where_the_verdict_turns(
    kind: str, decision: str, rate: float, confidence: float | None
) -> None:
    draw = np.random.default_rng(11)
    ranks = None if confidence is None else conditional_p_values(1500, confidence)
    score, error = dependent(kind, 1500, draw)
    if kind == "heavy tails":
        score, error = (np.clip(column, -1e5, 1e5) for column in (score, error))
    score, error = (column.astype(np.float32).astype(float) for column in (score, error))
    table = Table(score, error, ranks)
    limits = thresholds(table, decision, rate)
    tables = CalibrationTables.of([table], decision)
    new = [np.concatenate([part, part[:500] + 3 * draw.normal(size=500)]) for part in (score, error)]
    alarms = tables.verdicts(new[0], new[1], rate).alarm
    above = [part.astype(np.float32) > raised(np.array([limit])) for part, limit in zip(new, limits, strict=True)]
    wanted = {"elbo": above[0], "reconstruction": above[1], "both": above[0] | above[1]}[decision]
    np.testing.assert_array_equal(alarms, wanted)


def test_thresholds_beyond_the_rows_are_the_tails() -> None:
    draw = np.random.default_rng(12)
    score, error = draw.exponential(4.0, 99), draw.exponential(2.0, 99)
    tails = (TailParameters(8.0, 4.0, 0.2, 0.2), TailParameters(4.0, 2.0, -0.1, 0.2))
    table = Table(score, error, None, tails)
    for decision in DECISIONS:
        tables = CalibrationTables.of([table], decision)
        for rate in (0.0101, 0.005, 1e-3, 2e-4):
            by_score, by_error = thresholds(table, decision, rate)
            for side, limit in ((0, by_score), (1, by_error)):
                if decision == DECISIONS[1 - side]:
                    continue
                new = np.zeros((2, 2))
                new[side] = limit * 0.999, limit * 1.001
                assert tables.verdicts(new[0], new[1], rate).alarm.tolist() == [False, True], (decision, rate, side)


def test_a_score_that_never_alarms_has_a_threshold_that_nothing_exceeds() -> None:
    """At the smallest rate of both together the error alone never alarms; the manifest has no infinity."""
    score, error = dependent("none", 99, np.random.default_rng(0))
    by_score, by_error = thresholds(Table(score, error), "both", 0.01)
    assert by_score == score.max()
    assert by_error == float(np.finfo(np.float32).max)
    tables = one_table(score, error)
    assert tables.verdicts(np.array([0.0, 200.0]), np.array([1e9, 0.0]), 0.01).alarm.tolist() == [False, True]


@pytest.mark.parametrize("decision", DECISIONS)
def test_a_rate_a_hair_below_one_has_thresholds_too(decision: str) -> None:
    table = Table(np.arange(3.0), np.arange(3.0))
    assert {*thresholds(table, decision, 1 - 1e-12)} <= {0.0, 1.0}


def test_the_tables_do_not_depend_on_the_order_of_the_rows() -> None:
    score, error = dependent("weak", 300, np.random.default_rng(0))
    order = np.random.default_rng(1).permutation(300)
    one, other = one_table(score, error), one_table(score[order], error[order])
    for name in ("first", "blocks", "by_rank", "by_both"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_decision_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="either"):
        one_table([1.0], [1.0], "either")
