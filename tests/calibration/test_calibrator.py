"""From a budget to tables: what is refused, with which number, what groups get, and what the manifest says of it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.bundle import Calibration
from anomvae.bundle.promise import DECISIONS
from anomvae.calibration import Budget, Calibrated, CalibrationRows, calibrate, conditional_p_values, fit_tail
from anomvae.calibration.calibrator import MOST_GROUPS, rows_it_takes
from anomvae.calibration.tail import SMALLEST_SHARE
from anomvae.errors import SettingError, TooFewRowsError

FLOAT32 = 3e-7


def normal_rows(m: int, seed: int = 0, **more: Any) -> CalibrationRows:
    draw = np.random.default_rng([m, seed])
    score = 20 * draw.normal(size=m)
    return CalibrationRows(score, 0.3 * score + 10 * draw.normal(size=m), **more)


def alarms_at_all(found: Calibrated, alarm_rate: float, group: int = -1) -> bool:
    """Whether the strangest row there can be alarms."""
    strange = np.array([1e9])
    return bool(found.tables.verdicts(strange, strange, alarm_rate, np.array([group])).alarm[0])


RATES = st.one_of(st.sampled_from([0.01, 0.05, 0.1, 0.001, 0.5, 1 / 3]), st.floats(0.002, 0.9))


@settings(deadline=None)
@given(RATES, st.sampled_from(DECISIONS))
def test_a_budget_is_refused_with_the_number_that_it_takes_and_that_number_suffices(rate: float, decision: Any) -> None:
    refused_with_the_number_it_takes(rate, decision, None)


@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize(("rate", "confidence"), [(0.3, 0.9), (0.02, 0.5), (0.01, 0.95)])
def test_so_is_one_with_a_confidence(rate: float, decision: Any, confidence: float) -> None:
    refused_with_the_number_it_takes(rate, decision, confidence)


def refused_with_the_number_it_takes(rate: float, decision: Any, confidence: float | None) -> None:
    budget = Budget.of(rate, confidence=confidence)
    with pytest.raises(TooFewRowsError) as caught:
        calibrate(normal_rows(0), budget, decision=decision)
    needed = caught.value.rows_needed
    assert needed == rows_it_takes(budget, decision)
    found = calibrate(normal_rows(needed), budget, decision=decision)
    assert found.facts.smallest_alarm_rate <= rate * (1 + 1e-6)
    assert alarms_at_all(found, rate)
    with pytest.raises(TooFewRowsError, match=rf"{needed - 1:,} calibration rows .* at least {needed:,}"):
        calibrate(normal_rows(needed - 1), budget, decision=decision)


def test_the_refusal_says_what_was_promised_and_what_can_be_done() -> None:
    with pytest.raises(TooFewRowsError, match=r"an alarm rate of 0\.01 with 95 % confidence.*--tail"):
        calibrate(normal_rows(99), Budget.of(0.01, confidence=0.95))
    with pytest.raises(TooFewRowsError, match=r"an alarm rate of 2\.3e-05: it takes at least 43,199"):
        calibrate(normal_rows(99), Budget.of(alarms_per_day=2, rows_per_day=86_400))


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")])
def test_what_is_no_share_of_rows_is_no_budget(rate: float) -> None:
    with pytest.raises(SettingError, match="a share of rows"):
        Budget.of(rate)
    with pytest.raises(SettingError, match="a share of rows"):
        calibrate(normal_rows(1000), Budget(rate))


def test_a_decision_that_there_is_not_is_refused() -> None:
    with pytest.raises(SettingError, match="decision is 'either'; it must be one of elbo, reconstruction, both"):
        calibrate(normal_rows(100), Budget.of(0.1), decision="either")  # type: ignore[arg-type]


@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"confidence": 0.9},
        {"alarms_per_day": 50.0, "rows_per_day": 1000.0, "alarm_rate": None},
    ],
)
def test_the_manifest_says_what_was_asked_for_and_what_is_kept(decision: Any, more: dict[str, Any]) -> None:
    budget = Budget.of(**{"alarm_rate": 0.05, **more})
    rows = normal_rows(600)
    facts = calibrate(rows, budget, decision=decision).facts
    assert (facts.method, facts.rows, facts.folds, facts.decision) == ("split", 600, 0, decision)
    assert (facts.alarm_rate, facts.confidence) == (0.05, budget.confidence)
    assert (facts.alarms_per_day, facts.rows_per_day) == (budget.alarms_per_day, budget.rows_per_day)
    assert (facts.by, facts.groups, facts.groups_pooled, facts.tail, facts.recalibrated) == (None, (), 0, None, None)
    if budget.confidence is None:
        assert facts.smallest_alarm_rate == pytest.approx(1 / 601)
    elif decision == "both":
        assert facts.smallest_alarm_rate == pytest.approx(2 * conditional_p_values(600, 0.95)[0])
    else:
        assert facts.smallest_alarm_rate == pytest.approx(conditional_p_values(600, 0.9)[0])
    alarms = (rows.score > facts.score_threshold, rows.reconstruction > facts.reconstruction_threshold)
    verdict = {"elbo": alarms[0], "reconstruction": alarms[1], "both": alarms[0] | alarms[1]}[decision]
    assert verdict.sum() <= 0.05 * 601
    if budget.confidence is None:
        assert verdict.sum() >= 0.05 * 601 - 3


def test_rows_of_folds_are_said_to_be() -> None:
    facts = calibrate(normal_rows(200), Budget.of(0.05), folds=5).facts
    assert (facts.method, facts.folds) == ("cross", 5)


@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("group", [None, ["a"] * 200 + ["b"] * 40 + ["c"] * 3])
@pytest.mark.parametrize(
    "spoil",
    ["nothing", "error constant", "score constant", "both constant", "some infinite", "some no number", "few values"],
)
def test_the_manifest_can_be_written_whatever_the_scores(
    spoil: str, group: list[str] | None, tail: bool, decision: Any
) -> None:
    rows = normal_rows(243)
    score, error = rows.score.astype(np.float64), rows.reconstruction.astype(np.float64)
    if "constant" in spoil:
        for part, name in ((score, "score"), (error, "error")):
            part[:] = 1.0 if name in spoil or "both" in spoil else part
    elif spoil == "few values":
        score, error = score.round(-1), error.round(-1)
    elif "some" in spoil:
        score[::20] = error[5::20] = np.inf if spoil == "some infinite" else np.nan
    found = calibrate(CalibrationRows(score, error, group), Budget.of(0.05), decision=decision, tail=tail, by="line")
    text = json.dumps(dataclasses.asdict(found.facts), allow_nan=False)
    assert Calibration.from_raw(json.loads(text)) == found.facts
    for value in (score, error):
        assert np.isfinite(found.tables.verdicts(value, value, 0.05).p_value_verdict).all()


def grouped(sizes: dict[str | None, int], seed: int = 0) -> CalibrationRows:
    """Rows in groups, mixed; each group scores higher than the one before."""
    names = np.concatenate([np.full(size, number) for number, size in enumerate(sizes.values())])
    np.random.default_rng(seed).shuffle(names)
    rows = normal_rows(len(names), seed)
    known = list(sizes)
    return CalibrationRows(rows.score + 100.0 * names, rows.reconstruction, [known[number] for number in names])


@pytest.mark.parametrize("decision", DECISIONS)
def test_a_group_whose_rows_support_the_rate_gets_a_table_of_its_own(decision: Any) -> None:
    rows = grouped({"small": 18, "exactly": 19, "large": 300, "tiny": 1, "": 40, None: 25})
    found = calibrate(rows, Budget.of(0.05), decision=decision, by="line")
    facts, names = found.facts, np.array([name or "" for name in rows.group or ()])
    assert [(group.name, group.rows) for group in facts.groups] == [("large", 300), ("exactly", 19)]
    assert (facts.by, facts.groups_pooled, facts.rows) == ("line", 2, 403)
    assert facts.smallest_alarm_rate == pytest.approx(1 / 20)
    for number, group in enumerate(facts.groups):
        own = names == group.name
        alone = calibrate(
            CalibrationRows(rows.score[own], rows.reconstruction[own]), Budget.of(0.05), decision=decision
        )
        assert group.score_threshold == alone.facts.score_threshold
        assert group.reconstruction_threshold == alone.facts.reconstruction_threshold
        new = normal_rows(50, 9)
        asked = found.tables.verdicts(new.score + 200, new.reconstruction, 0.05, np.full(50, number))
        np.testing.assert_array_equal(
            asked.alarm, alone.tables.verdicts(new.score + 200, new.reconstruction, 0.05).alarm
        )
        assert not asked.pooled.any()


def test_groups_without_a_table_are_held_against_the_rows_of_all() -> None:
    rows = grouped({"large": 300, "small": 15, "tiny": 10})
    found = calibrate(rows, Budget.of(0.05), by="line")
    everyone = calibrate(CalibrationRows(rows.score, rows.reconstruction), Budget.of(0.05)).facts
    assert found.facts.score_threshold == everyone.score_threshold
    assert found.tables.rows.tolist() == [300, 325]
    assert (found.facts.rows, found.facts.groups_pooled) == (325, 2)
    assert found.facts.smallest_alarm_rate == pytest.approx(1 / 301)


def test_groups_of_fewer_rows_than_may_be_named_have_no_table() -> None:
    rows = dataclasses.replace(grouped({"large": 300, "small": 10}), smallest_group=11)
    found = calibrate(rows, Budget.of(0.2), by="line")
    assert [group.name for group in found.facts.groups] == ["large"]


def test_where_no_group_has_enough_rows_all_are_held_together() -> None:
    rows = grouped({"a": 15, "b": 15, "c": 15})
    found = calibrate(rows, Budget.of(0.05), by="line")
    assert (found.facts.groups, found.facts.groups_pooled, found.facts.by) == ((), 3, "line")
    assert not found.tables.has_groups
    assert found.facts.group_column is None


def test_a_confidence_takes_more_rows_of_each_group() -> None:
    sizes: dict[str | None, int] = {"a": 19, "b": 120}
    assert len(calibrate(grouped(sizes), Budget.of(0.05), by="x").facts.groups) == 2
    found = calibrate(grouped(sizes), Budget.of(0.05, confidence=0.9), by="x")
    assert [group.name for group in found.facts.groups] == ["b"]
    assert found.facts.smallest_alarm_rate == pytest.approx(conditional_p_values(120, 0.9)[0])


def test_only_so_many_groups_get_tables_of_their_own_the_largest_first() -> None:
    sizes = [3 if number % 2 else 2 for number in range(MOST_GROUPS + 10)]
    names = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
    scores = np.arange(len(names), dtype=np.float32)
    facts = calibrate(CalibrationRows(scores, scores, names), Budget.of(0.4), by="x").facts
    assert len(facts.groups) == MOST_GROUPS
    assert facts.groups_pooled == 10
    rows = [group.rows for group in facts.groups]
    assert rows == sorted(rows, reverse=True)
    assert sum(rows) == sum(sorted(sizes, reverse=True)[:MOST_GROUPS])


def test_the_smallest_rate_is_one_at_which_rows_of_every_group_can_alarm() -> None:
    """Also with a tail, which the pooled rows alone have."""
    rows = grouped({"a": 300, "b": 120, "c": 90})
    for tail in (False, True):
        found = calibrate(rows, Budget.of(0.01), by="x", tail=tail)
        smallest = found.facts.smallest_alarm_rate
        assert smallest == pytest.approx(1 / 121)
        assert [group.name for group in found.facts.groups] == ["a", "b"]
        for group in (-1, 0, 1):
            assert alarms_at_all(found, smallest, group)
        assert not alarms_at_all(found, smallest * 0.99, 1)
    below = calibrate(rows, Budget.of(0.001), by="x", tail=True)  # no group supports that rate
    assert below.facts.groups == ()
    assert below.facts.smallest_alarm_rate == pytest.approx(SMALLEST_SHARE / 511)


@pytest.mark.parametrize("decision", DECISIONS)
def test_a_tail_supports_rates_that_the_rows_do_not_and_says_how_far(decision: Any) -> None:
    rows = normal_rows(400)
    budget = Budget.of(0.0005)
    with pytest.raises(TooFewRowsError):
        calibrate(rows, budget, decision=decision)
    found = calibrate(rows, budget, decision=decision, tail=True)
    facts, reach = found.facts, SMALLEST_SHARE * (2 if decision == "both" else 1)
    assert facts.smallest_alarm_rate == pytest.approx(reach / 401)
    assert found.tails is not None
    assert facts.tail is not None
    for record, fit, scores in zip(facts.tail, found.tails, (rows.score, rows.reconstruction), strict=True):
        assert fit == fit_tail(scores)
        assert (record.threshold, record.scale, record.shape, record.exceedances) == (
            fit.threshold,
            fit.scale,
            fit.shape,
            fit.exceedances,
        )
        assert (record.ks, record.ks_p) == (fit.ks, fit.ks_p)
    assert alarms_at_all(found, facts.smallest_alarm_rate)
    limits = (facts.score_threshold, facts.reconstruction_threshold)
    for side, scores in ((0, rows.score), (1, rows.reconstruction)):
        if decision == DECISIONS[1 - side]:
            continue
        assert limits[side] >= scores.max()
        new = np.full((2, 2), -1e3)
        new[side] = limits[side] - 0.5, limits[side] + 0.5
        verdicts = found.tables.verdicts(new[0], new[1], 0.0005)
        assert verdicts.alarm.tolist() == [False, True]
        assert verdicts.tail[1]


@pytest.mark.parametrize("decision", DECISIONS)
def test_a_tail_has_an_end_and_the_number_of_rows_that_reaches_further_suffices(decision: Any) -> None:
    with pytest.raises(TooFewRowsError, match="not even by a tail") as caught:
        calibrate(normal_rows(60), Budget.of(1e-5), decision=decision, tail=True)
    needed = caught.value.rows_needed
    calibrate(normal_rows(needed), Budget.of(1e-5), decision=decision, tail=True)
    with pytest.raises(TooFewRowsError):
        calibrate(normal_rows(needed - 1), Budget.of(1e-5), decision=decision, tail=True)


def test_a_tail_that_too_few_rows_are_there_to_fit_is_refused() -> None:
    with pytest.raises(TooFewRowsError, match="at least 50") as caught:
        calibrate(normal_rows(3), Budget.of(0.001), tail=True)
    calibrate(normal_rows(caught.value.rows_needed), Budget.of(0.001), tail=True)


def test_a_rate_beyond_the_rows_is_refused_where_no_tail_can_be_fitted_to_what_decides() -> None:
    rows = normal_rows(200)
    flat = CalibrationRows(rows.score, np.ones(200))
    budget = Budget.of(0.001)
    assert calibrate(flat, budget, tail=True).facts.smallest_alarm_rate == pytest.approx(SMALLEST_SHARE / 201)
    with pytest.raises(TooFewRowsError, match="at least 999; a tail cannot be fitted"):
        calibrate(flat, budget, decision="reconstruction", tail=True)
    supported = calibrate(flat, Budget.of(0.05), decision="reconstruction", tail=True)
    assert supported.facts.smallest_alarm_rate == pytest.approx(1 / 201)


def test_with_a_confidence_the_tail_begins_at_the_bound() -> None:
    rows = normal_rows(400)
    sure, plain = (calibrate(rows, Budget.of(0.05, confidence=level), tail=True) for level in (0.9, None))
    strange = np.array([rows.score.max() + 1, rows.score.max() + 100])
    higher, lower = (found.tables.verdicts(strange, strange, 0.05).p_value for found in (sure, plain))
    assert (higher > lower).all()
    assert higher[0] <= np.float32(conditional_p_values(400, 0.9)[0])


def test_with_a_confidence_the_rate_holds_for_these_very_rows_that_often() -> None:
    """The share of normal rows beyond the threshold, known here, is above the rate in at most a tenth of calibrations."""
    draw, rate = np.random.default_rng(0), 0.1
    kept: dict[float | None, list[bool]] = {None: [], 0.9: []}
    for _ in range(150):
        scores = draw.random(100)  # uniform: a threshold t is exceeded by 1 - t
        for confidence, found in kept.items():
            facts = calibrate(CalibrationRows(scores, scores), Budget.of(rate, confidence=confidence)).facts
            found.append(1 - facts.score_threshold <= rate)
    assert np.mean(kept[0.9]) >= 0.85
    assert np.mean(kept[None]) < 0.75


def test_rows_are_worth_no_more_than_the_memory_of_their_scores_allows() -> None:
    draw = np.random.default_rng(0)
    score, error = draw.normal(size=(2, 1000))
    found = [
        calibrate(
            CalibrationRows(score, error, segment=np.zeros(1000, dtype=np.int64), memory=memory), Budget(0.05)
        ).facts
        for memory in (1.0, 40.0, 5000.0)
    ]
    worth = [facts.effective_rows or 0 for facts in found]
    assert worth[0] > 300
    assert worth[1:] == [25, 1]
    assert found[0].score_threshold < found[1].score_threshold


def test_a_group_has_no_table_of_its_own_where_the_memory_of_its_scores_leaves_it_too_few_rows() -> None:
    draw = np.random.default_rng(1)
    score, error = draw.normal(size=(2, 1200))
    names, segment = ["A"] * 600 + ["B"] * 600, np.repeat([0, 1], 600)
    few, many = (
        calibrate(CalibrationRows(score, error, names, segment=segment, memory=memory), Budget(0.05), by="asset").facts
        for memory in (50.0, 20.0)
    )
    assert (few.groups, few.effective_rows) == ((), 24)
    assert [group.name for group in many.groups] == ["A", "B"]
