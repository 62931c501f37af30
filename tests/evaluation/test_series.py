"""The evaluation of series as a whole."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from anomvae.errors import SchemaError, SettingError
from anomvae.evaluation.ranges import EventSettings, LabelledSteps
from anomvae.evaluation.series import SeriesSettings, duration_words, evaluate_series
from anomvae.evaluation.vus import volume_under_surface

if TYPE_CHECKING:
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]

MINUTES = SeriesSettings(EventSettings(alarms_per_day=20.0, step_s=60.0))


def two_pumps(n: int = 1_000) -> tuple[FloatArray, LabelledSteps]:
    """Scores of two pumps with a fault each and one without, a step a minute; each pump swings at its own period."""
    draw = np.random.default_rng(0)
    anomalous = np.zeros((3, n), dtype=bool)
    anomalous[0, 400:460] = anomalous[1, 700:705] = anomalous[1, 900:960] = True
    series = np.repeat([2, 5, 7], n)
    channel = np.concatenate([np.sin(np.arange(n) * 2 * np.pi / period) for period in (40, 60, 90)])
    score = draw.normal(size=3 * n) + 2.5 * anomalous.ravel()
    return score, LabelledSteps(anomalous.ravel(), series, np.tile(np.arange(n) * 60.0, 3), channel)


def test_ranking_is_scikit_learns_and_the_mean_volume_of_the_series() -> None:
    score, steps = two_pumps()
    found = evaluate_series(score, None, steps)
    assert found.auroc == pytest.approx(roc_auc_score(steps.anomalous, score))
    assert found.average_precision == pytest.approx(average_precision_score(steps.anomalous, score))
    parts = {2: (slice(0, 1_000), 40), 5: (slice(1_000, 2_000), 60)}
    each = {
        code: volume_under_surface(score[own], steps.anomalous[own], period) for code, (own, period) in parts.items()
    }
    assert found.vus_by_series == each
    assert found.vus.pr == pytest.approx((each[2].pr + each[5].pr) / 2)
    assert (found.series, found.series_ranked, found.buffer_steps) == (3, 2, 60.0)
    assert found.verdict is None


def test_series_can_be_ranked_together() -> None:
    score, steps = two_pumps()
    found = evaluate_series(score, None, steps, replace(MINUTES, volume="pooled"))
    assert found.vus == volume_under_surface(score, steps.anomalous, 60, series=steps.series)
    assert found.vus_by_series == {}


def test_the_longest_buffer_is_the_given_the_period_or_a_hundred() -> None:
    score, steps = two_pumps()
    assert evaluate_series(score, None, steps, replace(MINUTES, buffer_steps=12)).buffer_steps == 12
    assert evaluate_series(score, None, replace(steps, channel=None)).buffer_steps == 100


def test_the_order_of_the_rows_does_not_matter() -> None:
    score, steps = two_pumps()
    alarm = score > 2
    shuffled = np.random.default_rng(1).permutation(len(steps))
    assert evaluate_series(score[shuffled], alarm[shuffled], steps.take(shuffled), MINUTES) == evaluate_series(
        score, alarm, steps, MINUTES
    )


def test_the_budget_and_the_verdicts_are_told_apart() -> None:
    score, steps = two_pumps()
    found = evaluate_series(score, score > 1.5, steps, replace(MINUTES, alarm_rate=0.05))
    assert found.at_budget.false_events <= 20 * found.at_budget.normal_days
    assert found.verdict is not None
    assert found.verdict.false_events > found.at_budget.false_events
    assert found.verdict.false_alarm_rate == pytest.approx(np.mean(score[~steps.anomalous] > 1.5))
    assert found.threshold > 1.5
    again = evaluate_series(score, score > found.threshold, steps, MINUTES)
    assert again.verdict == again.at_budget == found.at_budget


def test_a_larger_budget_finds_no_less() -> None:
    score, steps = two_pumps()
    recalls = [
        evaluate_series(score, None, steps, SeriesSettings(EventSettings(budget, step_s=60.0))).at_budget.detected
        for budget in (0.0, 1.0, 5.0, 50.0, 500.0)
    ]
    assert recalls == sorted(recalls)
    assert recalls[-1] == 3


def test_steps_without_a_score_never_alarm_and_count_as_least_strange() -> None:
    score, steps = two_pumps()
    unscored, least = score.copy(), score.copy()
    unscored[395:470], least[395:470] = np.nan, -1e9
    found = evaluate_series(unscored, np.ones(len(steps), dtype=bool), steps, MINUTES)
    same = evaluate_series(least, None, steps, MINUTES)
    assert found.unscored == 75
    assert found.verdict is not None
    assert [missed.series for missed in found.verdict.undetected] == [2]
    assert found.verdict.false_alarm_rate == 1.0
    assert (found.auroc, found.average_precision, found.vus) == (same.auroc, same.average_precision, same.vus)
    assert "75 without a score" in found.headline()


def test_measures_are_numbers_by_name() -> None:
    score, steps = two_pumps()
    found = evaluate_series(score, score > 2, steps, replace(MINUTES, alarm_rate=0.02))
    metrics = found.as_metrics()
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert {"vus_pr", "vus_roc", "event_recall", "event_recall_at_budget", "alarms_per_day", "alarm_rate"} <= set(
        metrics
    )
    assert metrics["ranges"] == 3
    assert metrics["event_recall"] == found.verdict.recall if found.verdict else False
    bare = evaluate_series(score, None, steps, MINUTES).as_metrics()
    assert "event_recall" not in bare
    assert "alarm_rate" not in bare


def test_tables_have_a_cell_for_each_heading() -> None:
    score, steps = two_pumps()
    found = evaluate_series(score, score > 2, steps, replace(MINUTES, alarm_rate=0.02))
    assert found.detection_columns() == ("measure", "at 20 alarms a day", "verdicts at 2.00%")
    assert all(len(row) == 3 for row in found.detection_rows() + found.ranking_rows())
    assert found.headline() == "3,000 steps of 3 series: 125 anomalous in 3 ranges, 2,875 normal"
    assert ("ranges found", "3 of 3 (100.00%)", "3 of 3 (100.00%)") in found.detection_rows()
    bare = evaluate_series(score, None, steps, MINUTES)
    assert bare.detection_columns() == ("measure", "at 20 alarms a day")
    assert all(len(row) == 2 for row in bare.detection_rows())


def test_nothing_is_told_by_the_day_in_a_unit_that_nobody_knows() -> None:
    score, steps = two_pumps()
    settings = SeriesSettings(EventSettings(0.0, renewal_s=600.0), unit="units of 't'")
    found = evaluate_series(score, score > 2, steps, settings)
    assert found.at_budget.false_events == 0
    assert found.verdict is not None
    rows = {row[0]: row[1:] for row in found.detection_rows()}
    assert rows["delay, median, units of 't'"][1] == f"{found.verdict.delay_median_s:.4g}"
    a_thousand = 1_000 * found.verdict.false_events / found.verdict.normal_steps
    assert rows["false events per 1,000 normal steps"] == ("0.00", f"{a_thousand:.2f}")
    assert not any("day" in name for name in rows)
    metrics = found.as_metrics()
    assert metrics["false_events_per_1000_steps"] == pytest.approx(a_thousand)
    assert metrics["delay_median"] == found.verdict.delay_median_s
    assert not any(name.endswith(("_s", "_s_at_budget", "days")) or "per_day_" in name for name in metrics)


def test_a_budget_of_less_than_an_alarm_is_none() -> None:
    score, steps = two_pumps()
    found = [
        evaluate_series(score, None, steps, replace(MINUTES, events=EventSettings(a_day))) for a_day in (0.4, 20.0)
    ]
    assert [each.allowed_events for each in found] == [0, int(20 * found[0].at_budget.normal_days)]
    assert found[0].at_budget.false_events == 0


@pytest.mark.parametrize("label", [True, False])
def test_labels_of_one_kind_are_refused(label: bool) -> None:
    steps = LabelledSteps(np.full(10, label), np.zeros(10, dtype=np.int64))
    with pytest.raises(SchemaError, match="marks no"):
        evaluate_series(np.arange(10.0), None, steps, MINUTES)


def test_lengths_that_differ_are_refused() -> None:
    score, steps = two_pumps()
    with pytest.raises(SchemaError, match="2,999 scores and 3,000"):
        evaluate_series(score[1:], None, steps, MINUTES)
    with pytest.raises(SchemaError, match="10 verdicts and 3,000"):
        evaluate_series(score, np.ones(10, dtype=bool), steps, MINUTES)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(SettingError, match="buffer_steps"):
        SeriesSettings(buffer_steps=-1)
    with pytest.raises(SettingError, match="volume"):
        SeriesSettings(volume="median")  # type: ignore[arg-type]


def test_durations_are_told_in_their_unit() -> None:
    told = [duration_words(seconds) for seconds in (None, 0.0, 59.9, 60.0, 5_400.0, 86_400.0 * 2.5)]
    assert told == ["-", "0.0 s", "59.9 s", "1.0 min", "1.5 h", "2.5 d"]
