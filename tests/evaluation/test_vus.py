"""Volumes under the surface against the package `vus`, its frozen answers, and the definition step by step."""

from __future__ import annotations

from functools import cache
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from anomvae.errors import SchemaError, SettingError
from anomvae.evaluation.vus import find_period, volume_under_surface, volumes_by_series

if TYPE_CHECKING:
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]
    IntArray = npt.NDArray[np.int64]
    BoolArray = npt.NDArray[np.bool_]

WHY_SKIPPED = "the reference package `vus` is not installed: it drags in TensorFlow, and frozen answers stand in"


def marked(n: int, ranges: tuple[tuple[int, int], ...]) -> BoolArray:
    anomalous = np.zeros(n, dtype=bool)
    for first, last in ranges:
        anomalous[first : last + 1] = True
    return anomalous


def waves(anomalous: BoolArray, lift: float) -> FloatArray:
    """Scores without a random draw, many of them equal: two waves, lifted within the ranges."""
    step = np.arange(len(anomalous))
    raw: FloatArray = np.sin(0.7 * step) + 0.5 * np.sin(0.113 * step**1.5) + lift * anomalous
    return np.round(raw, 2)


def drawn(seed: int, n: int, levels: int, share: float) -> tuple[FloatArray, BoolArray]:
    """Scores with ties and ranges of any length, at the borders too."""
    draw = np.random.default_rng(seed)
    anomalous = np.zeros(n, dtype=bool)
    while not anomalous.any() or anomalous.mean() < share:
        first = draw.integers(0, n)
        anomalous[first : first + draw.geometric(0.2)] = True
    anomalous[draw.integers(0, n)] = False
    anomalous[draw.integers(0, n)] |= not anomalous.any()
    return draw.integers(0, levels, n) + levels * 0.3 * anomalous, anomalous


@cache
def reference() -> Any:
    return pytest.importorskip("vus.utils.metrics", reason=WHY_SKIPPED).metricor()


@given(
    st.integers(0, 2**32 - 1),
    st.integers(3, 160),
    st.sampled_from([1, 2, 7, 10_000]),
    st.floats(0.01, 0.6),
    st.integers(0, 17),
    st.sampled_from([2, 13, 25]),
)
@settings(deadline=None, max_examples=80)
def test_volumes_are_those_of_the_reference(
    seed: int, n: int, levels: int, share: float, longest: int, thresholds: int
) -> None:
    score, anomalous = drawn(seed, n, levels, share)
    *_, roc, pr = reference().RangeAUC_volume_opt(anomalous.astype(int), score, longest, thresholds)
    found = volume_under_surface(score, anomalous, longest, thresholds=thresholds)
    assert found.pr == pytest.approx(pr, abs=1e-9)
    assert found.roc == pytest.approx(roc, abs=1e-9)


def test_volumes_at_the_references_number_of_thresholds() -> None:
    score, anomalous = drawn(seed=5, n=400, levels=10_000, share=0.2)
    *_, roc, pr = reference().RangeAUC_volume_opt(anomalous.astype(int), score, 6)
    assert volume_under_surface(score, anomalous, 6) == pytest.approx((pr, roc), abs=1e-9)


@pytest.mark.parametrize(
    ("n", "ranges", "lift", "longest", "pr", "roc"),
    [
        (400, ((100, 139),), 1.0, 20, 0.572646333044, 0.835229568918),
        (400, ((0, 9), (50, 50), (60, 75), (395, 399)), 0.6, 33, 0.405811872267, 0.833071492302),
        (1000, ((200, 260), (270, 280), (700, 700)), 0.3, 100, 0.252799895953, 0.781150578905),
        (120, ((30, 40),), -0.5, 10, 0.097216406861, 0.467872065966),
        (300, ((3, 20), (100, 110), (290, 290)), 2.5, 0, 0.989922480620, 0.998456790123),
        (900, tuple((first, first + 2) for first in range(5, 890, 17)), 0.8, 60, 0.919696211781, 0.970447748301),
    ],
)
def test_volumes_are_the_answers_that_the_reference_once_gave(
    n: int, ranges: tuple[tuple[int, int], ...], lift: float, longest: int, pr: float, roc: float
) -> None:
    anomalous = marked(n, ranges)
    found = volume_under_surface(waves(anomalous, lift), anomalous, longest)
    assert found == pytest.approx((pr, roc), abs=1e-9)


def by_the_book(score: FloatArray, ranges: list[list[tuple[int, int]]], longest: int, thresholds: int) -> FloatArray:
    """The definition range by range, on an axis where series (a list of ranges each, at most 40 steps) lie far apart."""
    n, apart = len(score), 1_000
    axis = [step + apart * (step // 40) for step in range(n)]
    spans = [(axis[first], axis[last]) for own in ranges for first, last in own]
    inside = np.array([any(first <= at <= last for first, last in spans) for at in axis])
    volumes = []
    for length in range(longest + 1):
        label = inside.astype(float)
        for step, at in enumerate(axis):
            beside = [first - at if at < first else at - last for first, last in spans]
            label[step] += sum(sqrt(1 - d / length) for d in beside if 0 < d <= length // 2)
        label = np.minimum(label, 1.0)
        zones = [[spans[0][0] - length // 2, spans[0][1] + length // 2]]
        for first, last in spans[1:]:
            if zones[-1][1] >= first - length // 2:
                zones[-1][1] = last + length // 2
            else:
                zones.append([first - length // 2, last + length // 2])
        points = [(0.0, 0.0, 1.0)]
        for level in np.sort(score)[::-1][np.linspace(0, n - 1, thresholds).astype(int)]:
            alarm = score >= level
            true, positive = np.sum(label[alarm]), inside.sum() + np.sum(label[alarm & ~inside]) / 2
            hits = [any(alarm[step] and low <= at <= high for step, at in enumerate(axis)) for low, high in zones]
            recall = min(true / positive, 1) * np.mean(hits)
            points.append((recall, (alarm.sum() - true) / (n - positive), true / alarm.sum()))
        tpr, fpr, precision = np.array(points).T
        roc = np.sum(np.diff(fpr, append=1) * (np.append(tpr[1:], 1) + tpr) / 2)
        volumes.append((np.sum(np.diff(tpr) * precision[1:]), roc))
    return np.asarray(np.mean(volumes, axis=0))


def test_pooled_series_keep_their_buffers_to_themselves() -> None:
    ranges = [[(0, 2), (17, 19), (26, 26), (39, 39)], [(40, 44), (79, 79)], [(85, 85), (90, 95)]]
    anomalous = marked(110, tuple(one for own in ranges for one in own))
    score, series = waves(anomalous, 0.8), np.arange(110) // 40
    found = volume_under_surface(score, anomalous, 7, series=series, thresholds=30)
    assert found == pytest.approx(by_the_book(score, ranges, 7, 30), abs=1e-12)
    assert found != pytest.approx(volume_under_surface(score, anomalous, 7, thresholds=30), abs=1e-3)


def test_one_code_for_all_steps_is_one_series() -> None:
    score, anomalous = drawn(seed=3, n=300, levels=50, share=0.2)
    whole = volume_under_surface(score, anomalous, 12)
    assert volume_under_surface(score, anomalous, 12, series=np.full(300, 7)) == whole


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 9, 10_000]))
def test_only_the_order_of_the_scores_counts(seed: int, levels: int) -> None:
    score, anomalous = drawn(seed, 120, levels, 0.2)
    assert volume_under_surface(np.exp(score / levels), anomalous, 9) == volume_under_surface(score, anomalous, 9)


def test_a_step_without_a_score_counts_as_least_strange() -> None:
    score, anomalous = drawn(seed=4, n=200, levels=1_000, share=0.2)
    unscored, least = score.copy(), score.copy()
    unscored[:40], least[:40] = np.nan, score.min() - 1
    assert volume_under_surface(unscored, anomalous, 10) == volume_under_surface(least, anomalous, 10)
    assert volume_under_surface(unscored, anomalous, 10) != volume_under_surface(score, anomalous, 10)


def test_without_buffers_the_roc_volume_of_one_step_ranges_is_near_the_plain_area() -> None:
    anomalous = marked(4_000, tuple((at, at) for at in range(50, 4_000, 400)))
    score = waves(anomalous, 1.5)
    found = volume_under_surface(score, anomalous, 0, thresholds=4_000)
    assert found.roc < roc_auc_score(anomalous, score)  # the existence reward squares the recall of one-step ranges
    perfect = anomalous.astype(float)
    assert volume_under_surface(perfect, anomalous, 0) == pytest.approx((1.0, 1.0))


def test_an_alarm_beside_a_range_earns_more_with_a_longer_buffer() -> None:
    anomalous = marked(500, ((200, 220),))
    beside = marked(500, ((221, 226),)).astype(float)
    volumes = [volume_under_surface(beside, anomalous, longest).pr for longest in (0, 10, 20, 40)]
    assert volumes == sorted(volumes)
    assert volumes[-1] > volumes[0] + 0.05


def test_each_series_is_ranked_by_itself_and_has_its_own_buffer() -> None:
    parts = [drawn(seed, 150, 40, 0.2) for seed in (1, 2)]
    score = np.concatenate([parts[0][0], parts[1][0] + 1_000, np.zeros(10)])
    anomalous = np.concatenate([parts[0][1], parts[1][1], np.zeros(10, dtype=bool)])
    series = np.repeat([4, 9, 11], [150, 150, 10])
    found = volumes_by_series(score, anomalous, series, {4: 5, 9: 12, 11: 3})
    each = volume_under_surface(*parts[0], 5), volume_under_surface(*parts[1], 12)
    assert found.by_series == {4: each[0], 9: each[1]}
    assert found.without == (11,)
    assert found.mean == pytest.approx(((each[0].pr + each[1].pr) / 2, (each[0].roc + each[1].roc) / 2))


@pytest.mark.parametrize("label", [True, False])
def test_labels_of_one_kind_cannot_be_ranked(label: bool) -> None:
    one_kind = np.full(20, label)
    with pytest.raises(SchemaError, match="mark no"):
        volume_under_surface(np.arange(20.0), one_kind)
    with pytest.raises(SchemaError, match="no series has both"):
        volumes_by_series(np.arange(20.0), one_kind, np.zeros(20, dtype=np.int64))


@pytest.mark.parametrize(("longest", "thresholds"), [(-1, 250), (10, 1)])
def test_settings_that_make_no_sense_are_refused(longest: int, thresholds: int) -> None:
    with pytest.raises(SettingError, match="at least"):
        volume_under_surface(np.arange(4.0), np.arange(4) == 2, longest, thresholds=thresholds)


def series_with_periods() -> list[FloatArray]:
    t = np.arange(1_500)
    draw = np.random.default_rng(0)
    return [
        np.sin(t * 2 * np.pi / 48),
        np.sin(t * 2 * np.pi / 37) + 0.8 * np.sin(t * 2 * np.pi / 111),
        t * 1.0,
        np.sin(t * 2 * np.pi / 5),
        np.sin(0.113 * t**1.5),
        np.sin(t[:200] * 2 * np.pi / 60),
        draw.normal(size=25_000).cumsum(),
        np.sin(np.arange(30_000) * 2 * np.pi / 70) + draw.normal(size=30_000),
    ]


def test_periods_are_the_answers_that_the_reference_once_gave() -> None:
    assert [find_period(values) for values in series_with_periods()[:6]] == [48, 111, 125, 125, 125, 60]


def test_periods_are_those_of_the_reference() -> None:
    find_length = pytest.importorskip("vus.utils.slidingWindows", reason=WHY_SKIPPED).find_length
    for values in series_with_periods():
        assert find_period(values) == find_length(values)


def test_a_period_survives_missing_values() -> None:
    values = np.sin(np.arange(2_000) * 2 * np.pi / 48)
    values[np.random.default_rng(0).random(2_000) < 0.3] = np.nan
    assert find_period(values) == pytest.approx(48, abs=1)


@pytest.mark.parametrize("values", [np.full(500, np.nan), np.full(500, 3.25), np.array([1.0]), np.zeros(0)])
def test_a_series_without_a_period_gets_the_default(values: FloatArray) -> None:
    assert find_period(values) == 125
