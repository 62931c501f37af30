"""Ranges, the budget of alarms, and what alarms find."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomvae.errors import SchemaError, SettingError
from anomvae.evaluation import clopper_pearson
from anomvae.evaluation.ranges import EventSettings, LabelledSteps, Range, Timeline, find_ranges

if TYPE_CHECKING:
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]
    IntArray = npt.NDArray[np.int64]
    BoolArray = npt.NDArray[np.bool_]

HOUR = 3_600.0


def flags(text: str) -> BoolArray:
    """`.` is no, anything else is yes; spaces are for the eye."""
    return np.array([sign != "." for sign in text.replace(" ", "")])


def codes(text: str) -> IntArray:
    """The number of the word each letter stands in."""
    return np.repeat(np.arange(len(text.split())), [len(word) for word in text.split()]).astype(np.int64)


def timeline(labels: str, times_s: FloatArray | None = None, **settings: Any) -> Timeline:
    """Steps an hour apart unless times are given; words are series."""
    settings = {"step_s": HOUR, "tolerance_steps": 1, "renewal_s": np.inf} | settings
    return Timeline(LabelledSteps(flags(labels), codes(labels), times_s), EventSettings(**settings))


def test_ranges_never_go_on_into_the_next_series() -> None:
    labels = "X.XX XX..X X XX. ..."
    found = find_ranges(flags(labels), codes(labels))
    assert found.first.tolist() == [0, 2, 4, 8, 9, 10]
    assert found.last.tolist() == [0, 3, 5, 8, 9, 11]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=40))
def test_ranges_cover_the_flagged_steps_and_no_others(steps: list[tuple[int, bool]]) -> None:
    steps = sorted(steps, key=lambda step: step[0])
    series = np.array([code for code, _ in steps], dtype=np.int64)
    flagged = np.array([flag for _, flag in steps], dtype=bool)
    found = find_ranges(flagged, series)
    covered = np.zeros(len(steps), dtype=bool)
    for first, last in zip(found.first, found.last, strict=True):
        assert series[first] == series[last]
        assert not covered[first : last + 1].any()
        assert not (first and flagged[first - 1] and series[first - 1] == series[first])
        covered[first : last + 1] = True
    assert (covered == flagged).all()


def test_a_range_is_found_by_an_alarm_inside_it_and_no_other() -> None:
    steps = timeline("..XXX..XX.  ..XX  XX...")
    found = steps.detect(flags(".X...X...X  X..A  ..AAA"))
    assert (found.ranges, found.detected) == (4, 1)
    assert found.delays_s == (HOUR,)
    assert found.undetected == (
        Range(0, 2 * HOUR, 4 * HOUR),
        Range(0, 7 * HOUR, 8 * HOUR),
        Range(2, 0.0, HOUR),
    )
    assert (found.recall_low, found.recall_high) == clopper_pearson(1, 4)
    assert (found.false_alarms, found.normal_steps) == (7, 10)
    assert found.false_alarm_rate == pytest.approx(0.7)


def test_one_alarm_does_not_make_a_whole_range_of_hits() -> None:
    """What point adjustment would do."""
    steps = timeline("....XXXXXXXX....")
    late, early = flags("...........A...."), flags("....A...........")
    assert steps.detect(late).recall == steps.detect(early).recall == 1.0
    assert steps.detect(late).delay_mean_s == 7 * HOUR
    assert steps.detect(early).delay_mean_s == 0.0


def test_delays_are_told_of_the_detected_ranges() -> None:
    steps = timeline("XXXX....XXXX....XXXX....XXXX....XX......")
    found = steps.detect(flags("A.......A..........A............XX......"))
    assert found.delays_s == (0.0, 0.0, 3 * HOUR, 0.0)
    assert found.delay_median_s == 0.0
    assert found.delay_mean_s == pytest.approx(0.75 * HOUR)
    nothing = steps.detect(flags("." * 40))
    assert nothing.delay_median_s is None
    assert nothing.delay_mean_s is None
    assert "delay_mean_s" not in nothing.as_metrics()
    assert nothing.as_metrics("_x")["event_recall_x"] == 0.0


@pytest.mark.parametrize(
    ("alarm", "slack_steps", "detected"),
    [
        (".....A.... ....", 0, 0),
        (".....A.... ....", 1, 1),
        ("......A... ....", 1, 0),
        ("......A... ....", 2, 1),
        (".......A.. ....", 9, 1),  # inside the second range: only that one
        ("......A... ....", 9, 1),
        ("........A. ....", 9, 1),
        (".........A ....", 9, 1),
        (".......... A...", 99, 0),
    ],
)
def test_slack_ends_with_its_time_with_the_next_range_and_with_the_series(
    alarm: str, slack_steps: int, detected: int
) -> None:
    steps = timeline("..XXX..XX. ....", slack_s=slack_steps * HOUR)
    assert steps.detect(flags(alarm)).detected == detected


def test_an_alarm_in_the_slack_is_no_false_alarm() -> None:
    alarm = flags("...AA...")
    assert timeline(".XX.....").detect(alarm).false_alarms == 2
    assert timeline(".XX.....", slack_s=HOUR).detect(alarm).false_alarms == 1
    recovery = timeline(".XX.....", recovery_s=2 * HOUR)
    assert recovery.detect(alarm).false_alarms == 0
    assert recovery.detect(alarm).detected == 0
    assert recovery.normal.tolist() == flags("A....AAA").tolist()


def test_unscored_steps_are_no_part_of_the_false_alarm_rate() -> None:
    steps = timeline("......XX..")
    found = steps.detect(flags("...A......"), scored=flags("...XXXXXXX"))
    assert found.false_alarm_rate == pytest.approx(1 / 5)
    assert found.normal_days == pytest.approx(8 / 24)


@pytest.mark.parametrize(
    ("alarm", "tolerance_steps", "renewal_s", "events"),
    [
        ("AAAA..XX.... ....", 1, np.inf, 1),
        ("A.A...XX.... ....", 1, np.inf, 2),
        ("A.A...XX.... ....", 2, np.inf, 1),
        (".....AAAA... ....", 9, np.inf, 2),  # broken by the range between
        ("......AA.... ....", 9, np.inf, 0),
        ("...........A A...", 9, np.inf, 2),  # two series
        ("AAAAAA.. ....", 1, 2 * HOUR, 3),
        ("AAAAAA.. ....", 1, 0.1, 6),  # an event never counts more often than it has steps
    ],
)
def test_false_events_are_counted_in_the_normal_part(
    alarm: str, tolerance_steps: int, renewal_s: float, events: int
) -> None:
    labels = "......XX.... ...." if len(alarm) == 17 else "......XX ...."
    steps = timeline(labels, tolerance_steps=tolerance_steps, renewal_s=renewal_s)
    assert steps.count_events(flags(alarm)) == events


def test_alarms_a_day_are_counted_over_the_normal_time_of_all_series() -> None:
    steps = timeline("." * 36 + "X" * 12 + " " + "." * 36, alarms_per_day=2.0)
    assert steps.normal_days == pytest.approx(3.0)
    assert steps.allowed_events == 6
    alarm = np.zeros(84, dtype=bool)
    alarm[[3, 4, 10, 40, 60]] = True
    assert steps.detect(alarm).false_events_per_day == pytest.approx(1.0)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 12)), min_size=4, max_size=50),
    st.integers(1, 3),
    st.sampled_from([1.0, 3.0, np.inf]),
    st.integers(0, 8),
)
def test_the_threshold_is_the_first_from_above_that_breaks_the_budget(
    steps: list[tuple[int, bool, int]], tolerance: int, renewal_steps: float, events: int
) -> None:
    steps = sorted(steps, key=lambda step: step[0])
    series, anomalous, score = (np.array(column) for column in zip(*steps, strict=True))
    score = np.where(score == 0, np.nan, score.astype(float))
    days = max(1, int(np.sum(~anomalous))) / 24
    settings = EventSettings(events / days, HOUR, tolerance, renewal_steps * HOUR)
    line = Timeline(LabelledSteps(anomalous, series), settings)
    found = line.threshold_within_budget(score)
    levels = np.unique(score[line.normal & ~np.isnan(score)])[::-1]
    broken = [level for level in levels if line.count_events(score >= level) > line.allowed_events]
    assert found == (broken[0] if broken else -np.inf)
    assert line.count_events(score > found) <= line.allowed_events or found == -np.inf


def test_without_a_score_nothing_breaks_the_budget() -> None:
    assert timeline("...X").threshold_within_budget(np.full(4, np.nan)) == -np.inf


def test_infinite_scores_alarm_together() -> None:
    score = np.array([np.inf, 0.0, 0.0, np.inf, 5.0])
    assert timeline("....X", alarms_per_day=6.0).threshold_within_budget(score) == np.inf
    assert timeline("....X", alarms_per_day=12.0).threshold_within_budget(score) == -np.inf


def test_alarming_all_the_time_breaks_any_budget_but_one_of_more_alarms_than_steps() -> None:
    always = np.ones(24 * 60)
    for budget in (0.0, 0.1, 1.0, 20.0, 143.0):
        settings = EventSettings(budget, step_s=60.0)
        line = Timeline(LabelledSteps(np.zeros(24 * 60, dtype=bool), np.zeros(24 * 60, dtype=np.int64)), settings)
        assert line.threshold_within_budget(always) == 1.0
        assert line.count_events(always > 0) > 9 * budget


def test_alarms_that_merge_again_at_low_thresholds_do_not_pay() -> None:
    score = np.array([3.0, 1.0, 2.5, 1.0, 2.0, 1.0, 2.2, 1.0])
    steps = timeline("." * 8 + "XX", alarms_per_day=3.0)
    assert steps.allowed_events == 1
    assert steps.threshold_within_budget(np.append(score, [9.0, 0.0])) == 2.5


def test_long_ranges_are_found_by_chance() -> None:
    draw = np.random.default_rng(0)
    labels = " ".join("." * 60 + "X" * 40 + "." * 20 + "XX" for _ in range(400))
    steps = timeline(labels)
    found = steps.detect(draw.random(len(flags(labels))) < 0.03)
    assert found.recall_by_chance == pytest.approx(found.recall, abs=0.04)
    assert 0.3 < found.recall < 0.5


def test_times_say_how_long_steps_are_and_where_alarms_part() -> None:
    times = np.array([0.0, 10.0, 20.0, 31.0, 200.0, 210.0, 220.0])
    steps = timeline(".....XX", times, step_s=None)
    assert steps.step_s == 10.0
    assert steps.count_events(flags("AA.....")) == 1
    assert steps.count_events(flags("...AA..")) == 2
    assert steps.detect(flags("......A")).delays_s == (10.0,)


def test_steps_are_put_in_order_by_series_and_time() -> None:
    draw = np.random.default_rng(0)
    shuffled = draw.permutation(30)
    series, times = np.repeat([3, 1, 2], 10)[shuffled], np.tile(np.arange(10.0), 3)[shuffled]
    steps = LabelledSteps(times > 7, series, times, times + series)
    ordered = steps.take(steps.order())
    assert ordered.times_s is not None
    assert ordered.channel is not None
    assert ordered.series.tolist() == np.repeat([1, 2, 3], 10).tolist()
    assert ordered.times_s.tolist() == np.tile(np.arange(10.0), 3).tolist()
    assert (ordered.anomalous == (ordered.times_s > 7)).all()
    assert (ordered.channel == ordered.times_s + ordered.series).all()
    untimed = LabelledSteps(times > 7, series)
    assert (np.diff(untimed.take(untimed.order()).series) >= 0).all()


def test_steps_out_of_order_are_refused() -> None:
    with pytest.raises(SchemaError, match="not in order"):
        timeline("..X", np.array([0.0, 2.0, 1.0]))
    with pytest.raises(SchemaError, match="not in order"):
        Timeline(LabelledSteps(flags("..X"), np.array([0, 1, 0])), EventSettings(step_s=1.0))


def test_steps_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(SchemaError, match="3 labels and 2 of series"):
        LabelledSteps(flags("..X"), np.array([0, 0]))
    with pytest.raises(SchemaError, match="step 1 has no time"):
        LabelledSteps(flags("..X"), np.zeros(3, dtype=np.int64), np.array([0.0, np.nan, 1.0]))


def test_without_a_range_nothing_can_be_found() -> None:
    with pytest.raises(SchemaError, match="no anomalies"):
        timeline("....").detect(flags("...."))


def test_the_length_of_a_step_must_be_known() -> None:
    with pytest.raises(SettingError, match="have no times"):
        timeline("..X", step_s=None)
    with pytest.raises(SettingError, match="do not tell how long"):
        timeline("..X ..", np.array([1.0, 1.0, 1.0, 5.0, 5.0]), step_s=None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"alarms_per_day": -1.0},
        {"alarms_per_day": np.nan},
        {"slack_s": -1.0},
        {"recovery_s": np.inf},
        {"step_s": 0.0},
        {"tolerance_steps": 0},
        {"renewal_s": 0.0},
        {"renewal_s": np.nan},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(wrong))):
        EventSettings(**wrong)
