"""A rate that a request asks for is the detector's own, one its calibration rows support, or refused in words."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.bundle.promise import DECISIONS
from anomvae.calibration import Budget, CalibrationRows, calibrate
from anomvae.errors import SettingError, TooFewRowsError
from anomvae.scoring.rates import SMALLEST, asked_rate, require_supported

if TYPE_CHECKING:
    from anomvae.bundle import Bundle, Manifest

ANY_DECISION = st.sampled_from(DECISIONS)


def deciding(bundle: Bundle, decision: Any) -> Manifest:
    manifest = bundle.manifest
    return dataclasses.replace(manifest, calibration=dataclasses.replace(manifest.calibration, decision=decision))


@settings(deadline=None)
@given(ANY_DECISION, st.floats())
def test_any_number_is_supported_or_refused_in_words(fitted: Bundle, decision: str, rate: float) -> None:
    try:
        require_supported(deciding(fitted, decision), rate)
    except (SettingError, TooFewRowsError):
        return
    assert 0 < rate < 1


@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize("rate", [5e-324, 1e-300, math.nextafter(SMALLEST, 0)])
def test_a_rate_that_no_number_of_rows_supports_is_refused_first(fitted: Bundle, decision: str, rate: float) -> None:
    for refuse in (require_supported, asked_rate):
        with pytest.raises(SettingError, match="more calibration rows than can be"):
            refuse(deciding(fitted, decision), rate)
        with pytest.raises(TooFewRowsError):
            refuse(deciding(fitted, decision), SMALLEST)


def test_the_detectors_own_rate_is_no_rate_of_the_request(fitted: Bundle) -> None:
    manifest = fitted.manifest
    assert asked_rate(manifest, None) is None
    assert asked_rate(manifest, manifest.calibration.alarm_rate) is None
    other = manifest.calibration.alarm_rate * 2
    assert asked_rate(manifest, other) == other


def calibrated(bundle: Bundle, m: int, *, group: Any = None, **more: Any) -> Manifest:
    """The manifest with a calibration of m drawn rows."""
    draw = np.random.default_rng(m)
    asked = {"decision": more.pop("decision", "elbo"), "tail": more.pop("tail", False)}
    rows = CalibrationRows(draw.normal(size=m), draw.normal(size=m), group)
    facts = calibrate(rows, Budget.of(**{"alarm_rate": 0.05, **more}), by="site", **asked).facts
    return dataclasses.replace(bundle.manifest, calibration=facts)


@pytest.mark.parametrize("decision", DECISIONS)
def test_the_smallest_rate_is_supported_and_the_number_named_for_a_smaller_one_suffices(
    fitted: Bundle, decision: str
) -> None:
    manifest = calibrated(fitted, 200, decision=decision)
    require_supported(manifest, 1 / 201)
    with pytest.raises(
        TooFewRowsError, match=r"takes 999 calibration rows, 'press' was calibrated on 200;.* 0\.005"
    ) as caught:
        require_supported(manifest, 0.001)
    require_supported(calibrated(fitted, caught.value.rows_needed, decision=decision), 0.001)


def test_with_groups_the_smallest_of_their_tables_decides(fitted: Bundle) -> None:
    group = ["a"] * 200 + ["b"] * 60 + ["c"] * 15 + ["d"] * 10
    manifest = calibrated(fitted, 285, group=group)
    assert [found.rows for found in manifest.calibration.groups] == [200, 60]
    require_supported(manifest, 1 / 61)
    with pytest.raises(
        TooFewRowsError, match="takes 99 calibration rows, the smallest group of 'press' was calibrated on 60"
    ):
        require_supported(manifest, 0.01)


def test_a_confidence_takes_more_rows_and_a_tail_fewer(fitted: Bundle) -> None:
    sure, tail = calibrated(fitted, 400, confidence=0.9), calibrated(fitted, 400, tail=True)
    assert sure.calibration.smallest_alarm_rate > 2 / 401
    for manifest in (sure, tail):
        require_supported(manifest, manifest.calibration.smallest_alarm_rate)
    with pytest.raises(TooFewRowsError) as caught:
        require_supported(sure, 0.001)
    assert 1_500 < caught.value.rows_needed < 5_000
    require_supported(tail, 0.0001)
    with pytest.raises(TooFewRowsError, match="takes 999 calibration rows"):
        require_supported(tail, 1e-5)


def test_a_detector_of_format_1_whose_scores_each_had_half_the_rate_needs_twice_the_rows(fitted: Bundle) -> None:
    before = dataclasses.replace(fitted.manifest.calibration, decision="either", rows=99, smallest_alarm_rate=0.02)
    manifest = dataclasses.replace(fitted.manifest, calibration=before)
    require_supported(manifest, 0.02)
    with pytest.raises(TooFewRowsError, match="takes 199 calibration rows, 'press' was calibrated on 99"):
        require_supported(manifest, 0.01)
