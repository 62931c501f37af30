"""What calibrations attain, against simulation; and folds held against one another."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest

from anomvae.bundle import Calibration
from anomvae.calibration import Budget, CalibrationRows, calibrate, p_values
from anomvae.report import ReportContents, ScoredRows, render
from anomvae.report.rate_table import RateLine, rate_lines
from anomvae.report.rates import Steps, checked_rows, crossed_p_values
from anomvae.report.uniformity import uniformity

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomvae.report.contents import FloatArray, IntArray

    Make = Callable[..., ReportContents]


def facts(m: int, rate: float, **more: object) -> Calibration:
    return dataclasses.replace(Calibration("split", m, rate, 1 / (m + 1), "elbo", 0.0, 0.0), **more)  # type: ignore[arg-type]


def rows_of(score: FloatArray, fold: IntArray | None = None, error: FloatArray | None = None) -> ScoredRows:
    n = len(score)
    p, empty = np.ones(n), np.zeros((n, 1))
    return ScoredRows(score, score if error is None else error, p, p, p, p < 0, empty, empty, fold)


@pytest.mark.parametrize(("rows", "rate"), [(999, 0.01), (200, 0.05), (99, 0.01)])
def test_the_rate_in_service_lies_within_its_interval_95_times_of_100(rows: int, rate: float) -> None:
    rng = np.random.default_rng(2)
    beyond = int(np.floor(rate * (rows + 1) + 1e-9))
    thresholds = np.sort(rng.random((4000, rows)), axis=1)[:, rows - beyond]
    low, high = Steps.of(facts(rows, rate)).interval(rate)
    assert np.mean((1 - thresholds >= low) & (1 - thresholds <= high)) == pytest.approx(0.95, abs=0.015)


def test_too_few_rows_never_alarm_and_a_rate_of_one_always_does() -> None:
    assert Steps.plain(50).interval(0.01) == (0.0, 0.0)
    assert Steps.plain(50).interval(1.0) == (1.0, 1.0)
    assert Steps.plain(0).interval(0.5) == (0.0, 0.0)


@pytest.mark.parametrize("decision", ["elbo", "both"])
@pytest.mark.parametrize("confidence", [None, 0.9])
def test_new_rows_alarm_within_what_chance_allows(decision: str, confidence: float | None) -> None:
    """Over draws of both, the share of alarms lies in the interval 95 times of 100, or more where that is a bound."""
    draw, m, n, rate = np.random.default_rng(5), 300, 200, 0.05
    budget, inside = Budget(rate, confidence=confidence), 0
    for _ in range(400):
        common = draw.normal(size=(2, m + n))
        score, error = common[0], 0.6 * common[0] + 0.8 * common[1]
        made = calibrate(CalibrationRows(score[:m], error[:m]), budget, decision=decision)  # type: ignore[arg-type]
        found = made.tables.verdicts(score[m:], error[m:], rate).alarm.mean()
        low, high = Steps.of(made.facts).chance(n, rate)
        inside += bool(low[0] <= found <= high[0])
    exact = confidence is None or decision == "elbo"
    assert 0.93 * 400 <= inside <= (0.99 if exact else 1.0) * 400


def test_groups_attain_what_their_own_rows_allow() -> None:
    draw = np.random.default_rng(0)
    group = ["a"] * 150 + ["b"] * 350
    made = calibrate(CalibrationRows(draw.normal(size=500), draw.normal(size=500), group), Budget(0.01), by="g")
    low, high = Steps.of(made.facts).attained(0.01)
    assert low == high == pytest.approx(0.3 * 1 / 151 + 0.7 * 3 / 351)
    assert Steps.of(made.facts).smallest == pytest.approx(1 / 151)


def test_crossed_p_values_hold_each_fold_against_the_others_alone() -> None:
    draw = np.random.default_rng(1)
    score, fold = draw.normal(size=60), np.arange(60) % 3
    found = crossed_p_values(rows_of(score, fold), "elbo")
    for each in range(3):
        assert found[fold == each] == pytest.approx(p_values(score[fold == each], score[fold != each]), rel=1e-6)
    assert (crossed_p_values(rows_of(score), "elbo") == 1.0).all()
    assert (crossed_p_values(rows_of(score, np.zeros(60, dtype=np.int64)), "elbo") == 1.0).all()


def test_crossed_p_values_of_both_scores_take_their_dependence_into_account() -> None:
    draw = np.random.default_rng(1)
    score, fold = draw.normal(size=4000), np.arange(4000) % 4
    same = crossed_p_values(rows_of(score, fold), "both")
    apart = crossed_p_values(rows_of(score, fold, draw.normal(size=4000)), "both")
    for found in (same, apart):
        assert np.mean(found <= 0.05) == pytest.approx(0.05, abs=0.012)


def test_folds_whose_networks_score_apart_leave_the_band_though_pooled_they_look_even(make_contents: Make) -> None:
    contents = make_contents(folds=5, rows=(0, 0, 3000))
    honest = contents.calibration
    assert honest.fold is not None
    lifted = dataclasses.replace(honest, score=honest.score + 1.5 * (honest.fold - 2))
    apart = dataclasses.replace(contents, calibration=lifted)

    def out(asked: ReportContents) -> int:
        parts = checked_rows(asked)
        return sum(not part.expected(0.05)[0] <= part.alarms(0.05).value <= part.expected(0.05)[1] for part in parts)

    assert out(contents) == 0
    assert out(apart) >= 2
    assert np.mean(crossed_p_values(lifted, "elbo") <= 0.05) == pytest.approx(0.05, abs=0.02)


def test_calibration_rows_are_never_held_against_themselves(make_contents: Make) -> None:
    crossed, split = make_contents(folds=5), make_contents()
    assert [part.name for part in checked_rows(crossed)] == [f"fold {n}" for n in range(1, 6)]
    assert sum(len(part.p) for part in checked_rows(crossed)) == 1200
    assert all(part.steps.rows == 960 for part in checked_rows(crossed))
    (validation,) = checked_rows(split)
    assert np.array_equal(validation.p, split.validation.p_value_verdict)
    unknown = dataclasses.replace(crossed, calibration=dataclasses.replace(crossed.calibration, fold=None))
    assert checked_rows(unknown) == ()


def line_at(contents: ReportContents, rate: str) -> RateLine:
    return next(line for line in rate_lines(contents) if line.rate.replace("\N{NARROW NO-BREAK SPACE}", " ") == rate)


def test_rates_that_rows_cannot_support_or_tell_are_grey_and_say_why(make_contents: Make) -> None:
    few, many = make_contents(rows=(500, 300, 600)), make_contents(rows=(500, 9000, 12000))
    assert line_at(few, "0.1 %").why_not.startswith("never alarms: 600 rows reach")
    assert line_at(few, "0.5 %").why_not.startswith("300 validation rows cannot tell: 1.5 should alarm")
    assert line_at(few, "5 %").why_not == ""
    assert str(line_at(few, "5 %").strip).startswith("<svg")
    assert {line.why_not for line in rate_lines(many)} == {""}
    html = render(few)
    assert html.count(' grey"') == 2
    assert ' grey"' not in render(many)


def test_shares_found_stand_beside_their_intervals(make_contents: Make) -> None:
    contents = make_contents(rows=(500, 1000, 1999))
    p = np.linspace(0.0005, 0.9995, 1000)
    validation = dataclasses.replace(contents.validation, p_value_verdict=p)
    line = line_at(dataclasses.replace(contents, validation=validation), "5 %")
    assert line.alarms == "50 of 1,000"
    assert line.interval.startswith("3.7 to 6.5")
    assert line.allowed.startswith("4.1 to 6")


def test_even_p_values_run_within_the_band_and_uneven_ones_do_not(make_contents: Make) -> None:
    contents = make_contents(rows=(500, 1000, 3000))
    even, low_end = uniformity(checked_rows(contents), contents.manifest.calibration)
    assert "Are p-values even" in even.title
    assert "where alarms live" in low_end.title
    assert "<polygon" in even.svg
    assert "nan" not in even.svg
    few = dataclasses.replace(contents.validation, p_value_verdict=contents.validation.p_value_verdict**2)
    drawn = uniformity(checked_rows(dataclasses.replace(contents, validation=few)), contents.manifest.calibration)
    assert drawn[0].svg != even.svg
    (part,) = checked_rows(dataclasses.replace(contents, validation=few))
    assert part.alarms(0.1).value > 2 * part.expected(0.1)[1]


def test_a_crossed_report_draws_a_line_for_each_fold_and_none_for_validation_rows(make_contents: Make) -> None:
    crossed, split = render(make_contents(folds=5)), render(make_contents())
    assert crossed.count('class="line fold"') == 10
    assert split.count('class="line fold"') == 0
    assert "validation row" not in crossed
    assert "Pooled, the folds would look even whatever they are" in crossed
    assert "Pooled" not in split
