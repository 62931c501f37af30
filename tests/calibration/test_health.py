from __future__ import annotations

import itertools
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.calibration.conformal import p_values
from anomvae.calibration.health import CalibrationHealth
from anomvae.errors import DataFileError, RowError, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Array = npt.NDArray[np.float64]
    Law = Callable[[np.random.Generator, int], Array]

LAWS: dict[str, Law] = {
    "continuous": lambda draw, n: draw.normal(size=n),
    "counts": lambda draw, n: draw.poisson(2.0, n).astype(float),
    "half of them alike": lambda draw, n: np.where(draw.random(n) < 0.5, 0.0, draw.normal(size=n)),
    "rare ones": lambda draw, n: (draw.random(n) < 0.02).astype(float),
}


def streams(law: Law, m: int, rows: int, repeats: int) -> list[CalibrationHealth]:
    """The test after streams of rows that are like the calibration rows, each with calibration rows of its own."""
    draw = np.random.default_rng(m)
    tests = []
    for _ in range(repeats):
        calibration = law(draw, m)
        tests.append(CalibrationHealth.of(calibration))
        tests[-1].update(p_values(law(draw, rows), calibration))
    return tests


def detected_after(m: int, quiet: int, changed: Callable[[Array], Array], seed: int = 0) -> tuple[float, str | None]:
    """Rows from a change to the loss of trust, and the direction that was found."""
    draw = np.random.default_rng([seed, m, quiet])
    calibration = draw.normal(size=m)
    health = CalibrationHealth.of(calibration)
    health.update(p_values(draw.normal(size=quiet), calibration))
    before = health.direction
    assert before is None
    for rows in range(20, 20_020, 20):
        health.update(p_values(changed(draw.normal(size=20)), calibration))
        if not health.is_trusted:
            return rows, health.direction
    return math.inf, None


def urn_probability(levels: tuple[int, ...], m: int) -> float:
    """Probability of levels 1 to m + 1 of rows that are exchangeable with m calibration rows."""
    probability, counts = 1.0, [1] * (m + 1)
    for seen, level in enumerate(levels):
        probability *= counts[level - 1] / (m + 1 + seen)
        counts[level - 1] += 1
    return probability


@pytest.mark.parametrize(("m", "rows"), [(1, 7), (2, 5), (3, 4), (5, 3)])
def test_the_evidence_is_one_on_average_over_everything_that_exchangeable_rows_can_do(m: int, rows: int) -> None:
    """Exact: a martingale where it tests for stranger rows, at most that in all directions."""
    own = np.arange(2.0, m + 2) / (m + 1)
    mean = {"stranger": 0.0, "all": 0.0}
    for levels in itertools.product(range(1, m + 2), repeat=rows):
        p = np.array(levels) / (m + 1)
        for name, known in (("stranger", None), ("all", own)):
            health = CalibrationHealth(m, calibration_p_values=known)
            health.update(p)
            mean[name] += urn_probability(levels, m) * 10.0**health.log_evidence
    assert mean["stranger"] == pytest.approx(1.0, abs=1e-12)
    assert mean["all"] <= 1.0 + 1e-12


@pytest.mark.parametrize("high", [0.05, 0.3, 0.5, 0.8, 0.97])
def test_the_evidence_is_one_at_most_on_average_over_all_that_tied_scores_can_do(high: float) -> None:
    """Exact: four calibration rows and four rows of service, each of two scores."""
    mean = 0.0
    for scores in itertools.product([0.0, 1.0], repeat=8):
        calibration, rows = np.array(scores[:4]), np.array(scores[4:])
        health = CalibrationHealth.of(calibration)
        health.update(p_values(rows, calibration))
        mean += high ** sum(scores) * (1.0 - high) ** (8 - sum(scores)) * 10.0**health.log_evidence
    assert mean <= 1.0


@pytest.mark.parametrize("m", [50, 500, 5000])
@pytest.mark.parametrize("law", LAWS)
def test_trust_in_a_good_calibration_is_hardly_ever_lost_however_long_the_stream(law: str, m: int) -> None:
    tests = streams(LAWS[law], m, 20_000, 25)
    assert sum(not health.is_trusted for health in tests) <= 2  # by an error of 1 %, three of 25 once in 500 times
    assert sum(health.highest_log_evidence >= 0.5 for health in tests) <= 15  # 0.316 of them on average, at most


@pytest.mark.parametrize(("m", "quiet"), [(500, 0), (5000, 0), (50, 20_000), (500, 20_000), (500, 500_000)])
@pytest.mark.parametrize(
    ("changed", "direction", "within"),
    [
        (lambda x: x + 0.3, "stranger", 1500),
        (lambda x: x - 0.3, "more normal", 1500),
        (lambda x: 1.5 * x, "stranger", 1500),
        (lambda x: np.minimum(x, 0.0), None, 300),
        (lambda x: np.full_like(x, 0.2), None, 300),
        (lambda x: 0.5 * x, "more alike", 300),
        (lambda x: np.where(np.arange(len(x)) == 0, 9.0, x), "stranger", 3000),
    ],
    ids=["shifted", "shifted down", "variance grown", "clipped", "stuck", "narrower", "5 % anomalies"],
)
def test_changes_are_found_in_time_also_after_long_quiet(
    m: int, quiet: int, changed: Callable[[Array], Array], direction: str | None, within: int
) -> None:
    rows, found = detected_after(m, quiet, changed)
    assert rows <= within
    assert found is not None
    assert direction in {None, found}


def test_one_percent_more_anomalies_are_found_in_the_end() -> None:
    draw = np.random.default_rng(0)
    calibration = draw.normal(size=5000)
    health = CalibrationHealth.of(calibration)
    health.update(p_values(draw.normal(size=50_000), calibration))
    assert health.is_trusted
    health.update(p_values(np.where(draw.random(50_000) < 0.01, 9.0, draw.normal(size=50_000)), calibration))
    assert health.direction == "stranger"


def burst(every: int) -> list[CalibrationHealth]:
    """20 anomalies in a row among 10,000 rows."""
    draw = np.random.default_rng(0)
    tests = []
    for _ in range(20):
        calibration, rows = draw.normal(size=500), draw.normal(size=10_000)
        rows[7000:7020] = 9.0
        tests.append(CalibrationHealth.of(calibration, every=every))
        tests[-1].update(p_values(rows, calibration))
    return tests


def test_a_fault_of_twenty_rows_costs_the_trust_unless_rows_are_thinned_out() -> None:
    assert not all(health.is_trusted for health in burst(1))
    assert all(health.is_trusted for health in burst(10))


def test_twenty_anomalies_here_and_there_among_ten_thousand_rows_are_borne() -> None:
    draw = np.random.default_rng(1)
    for _ in range(20):
        calibration, rows = draw.normal(size=500), draw.normal(size=10_000)
        rows[draw.choice(10_000, 20, replace=False)] = 9.0
        health = CalibrationHealth.of(calibration)
        health.update(p_values(rows, calibration))
        assert health.is_trusted


def test_rows_that_resemble_their_neighbours_cost_the_trust_unless_they_are_thinned_out() -> None:
    draw = np.random.default_rng(2)
    for every, trusted in ((1, False), (50, True)):
        calibration = draw.normal(size=1000)
        health = CalibrationHealth.of(calibration, every=every)
        noise = draw.normal(size=100_000) * math.sqrt(1.0 - 0.9**2)
        rows = np.array(list(itertools.accumulate(noise, lambda last, fresh: 0.9 * last + fresh)))
        health.update(p_values(rows, calibration))
        assert health.is_trusted is trusted


def test_tied_scores_seem_too_normal_only_to_who_does_not_know_their_ties() -> None:
    draw = np.random.default_rng(3)
    calibration, rows = LAWS["half of them alike"](draw, 500), LAWS["half of them alike"](draw, 20_000)
    p = p_values(rows, calibration)
    ignorant = CalibrationHealth(500, calibration_p_values=np.arange(2.0, 502.0) / 501)
    ignorant.update(p)
    assert ignorant.direction in {"more normal", "more alike"}
    for health in (CalibrationHealth.of(calibration), CalibrationHealth(500)):
        health.update(p)
        assert health.is_trusted


def test_only_stranger_rows_are_found_where_the_calibration_p_values_are_unknown() -> None:
    stranger, tamer = CalibrationHealth(500), CalibrationHealth(500)
    stranger.update(np.full(50, 1 / 501))
    tamer.update(np.full(5000, 1.0))
    assert stranger.direction == "stranger"
    assert tamer.is_trusted


def test_rows_can_be_held_against_the_first_ones_of_service_where_the_calibration_rows_score_otherwise() -> None:
    draw = np.random.default_rng(4)
    calibration = draw.normal(0.3, 1.0, size=2000)  # networks that have seen less find them stranger
    p = p_values(draw.normal(size=21_000), calibration)
    first, rest = p[:1000], p[1000:]
    against_calibration = CalibrationHealth.of(calibration)
    against_calibration.update(rest)
    assert against_calibration.direction == "more normal"
    for health in (CalibrationHealth(2000), CalibrationHealth(1000, calibration_p_values=first)):
        health.update(rest)
        assert health.is_trusted
        health.update(p_values(draw.normal(0.3, 1.0, size=2000), calibration))
        assert health.direction == "stranger"


levels = st.lists(st.integers(1, 21), max_size=60)


@settings(deadline=None)
@given(levels, st.lists(st.integers(0, 60), max_size=5), st.integers(1, 4))
def test_the_pieces_in_which_rows_come_make_no_difference(rows: list[int], cuts: list[int], every: int) -> None:
    p = np.array(rows, dtype=np.float64) / 21
    whole, pieces = (CalibrationHealth.of(np.arange(20.0), every=every) for _ in range(2))
    whole.update(p)
    for piece in np.split(p, sorted(cuts)):
        pieces.update(piece)
    assert pieces.rows == whole.rows == math.ceil(len(p) / every)
    assert pieces.log_evidence == pytest.approx(whole.log_evidence, abs=1e-9)
    assert pieces.highest_log_evidence == pytest.approx(whole.highest_log_evidence, abs=1e-9)
    assert pieces.direction == whole.direction


def test_blocks_within_one_update_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    p = np.random.default_rng(0).integers(1, 502, 5000) / 501
    whole, blocks = CalibrationHealth(500), CalibrationHealth(500)
    whole.update(p)
    monkeypatch.setattr("anomvae.calibration.health.BLOCK", 7)
    blocks.update(p)
    assert blocks.log_evidence == pytest.approx(whole.log_evidence, abs=1e-9)


@settings(deadline=None)
@given(levels, levels, st.booleans(), st.integers(1, 3))
def test_a_stream_goes_on_from_its_state_as_if_it_had_never_stopped(
    before: list[int], after: list[int], ties_known: bool, every: int
) -> None:
    own = np.arange(2.0, 22.0) / 21 if ties_known else None
    health = CalibrationHealth(20, calibration_p_values=own, every=every)
    health.update(np.array(before, dtype=np.float64) / 21)
    restarted = CalibrationHealth.from_state(json.loads(json.dumps(health.state(), allow_nan=False)))
    assert restarted.state() == health.state()
    for each in (health, restarted):
        each.update(np.array(after, dtype=np.float64) / 21)
    assert restarted.state() == health.state()


def test_the_state_does_not_grow_with_the_rows() -> None:
    health = CalibrationHealth.of(np.arange(99.0))
    fresh = health.state()
    health.update(np.linspace(0.01, 1.0, 3000))
    assert health.state().keys() == fresh.keys()
    assert [len(health.state()[key]) for key in ("sums", "log_wealth")] == [9, 9]


def test_the_order_of_rows_counts() -> None:
    p = np.concatenate([np.linspace(0.3, 1.0, 200), np.full(20, 0.01)])
    changed, mixed = CalibrationHealth(99), CalibrationHealth(99)
    changed.update(p)
    mixed.update(np.random.default_rng(0).permutation(p))
    assert changed.log_evidence > mixed.log_evidence + 1.0


def test_p_values_of_a_tail_count_as_the_smallest_and_float32_ones_as_what_they_stand_for() -> None:
    tail, table, single = CalibrationHealth(99), CalibrationHealth(99), CalibrationHealth(99)
    tail.update(np.array([1e-9, 0.5]))
    table.update(np.array([0.01, 0.5]))
    single.update(np.array([0.01, 0.5], dtype=np.float32))
    assert tail.log_evidence == table.log_evidence == pytest.approx(single.log_evidence, abs=1e-6)


def test_a_fresh_test_has_no_evidence_and_no_rows_add_none() -> None:
    health = CalibrationHealth(99)
    health.update(np.array([]))
    assert (health.rows, health.log_evidence, health.is_trusted, health.direction) == (0, 0.0, True, None)


@pytest.mark.parametrize("wrong", [math.nan, 0.0, -0.1, 1.001, math.inf])
def test_what_is_no_p_value_is_refused_by_its_row_and_nothing_is_noted(wrong: float) -> None:
    health = CalibrationHealth(99)
    with pytest.raises(RowError, match=r"1 of 3 p-values, the first of row 2,"):
        health.update(np.array([0.5, wrong, 0.5]))
    assert health.state() == CalibrationHealth(99).state()
    with pytest.raises(RowError, match="2 dimensions"):
        health.update(np.ones((2, 2)))


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"calibration_rows": 0}, "nothing to hold rows against"),
        ({"error": 0.0}, "above 0 and below 1"),
        ({"error": math.nan}, "above 0 and below 1"),
        ({"every": 0}, "one is tested"),
        ({"calibration_p_values": np.array([0.5])}, "have as many p-values"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        CalibrationHealth(**{"calibration_rows": 99, **settings_})


@pytest.mark.parametrize(
    "damage",
    [
        {"sums": [1.0]},
        {"sums": [math.nan] * 5},
        {"log_wealth": None},
        {"log_wealth": [math.nan] * 5},
        {"direction": "sideways"},
        {"rows": -1},
        {"highest": math.inf},
        {"error": 2.0},
        {"every": "often"},
    ],
)
def test_a_damaged_state_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(DataFileError, match="damaged"):
        CalibrationHealth.from_state({**CalibrationHealth(99).state(), **damage})
    with pytest.raises(DataFileError, match="damaged"):
        CalibrationHealth.from_state({})
