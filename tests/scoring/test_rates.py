"""A rate that a request asks for is the detector's own, one its calibration rows support, or refused in words."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.bundle.promise import DECISION_SHARES
from anomvae.errors import SettingError, TooFewRowsError
from anomvae.scoring.rates import SMALLEST, asked_rate, require_supported

if TYPE_CHECKING:
    from anomvae.bundle import Bundle, Manifest

DECISIONS = st.sampled_from(sorted(DECISION_SHARES))


def deciding(bundle: Bundle, decision: Any) -> Manifest:
    manifest = bundle.manifest
    return dataclasses.replace(manifest, calibration=dataclasses.replace(manifest.calibration, decision=decision))


@settings(deadline=None)
@given(DECISIONS, st.floats())
def test_any_number_is_supported_or_refused_in_words(fitted: Bundle, decision: str, rate: float) -> None:
    try:
        require_supported(deciding(fitted, decision), rate)
    except (SettingError, TooFewRowsError):
        return
    assert 0 < rate < 1


@pytest.mark.parametrize("decision", sorted(DECISION_SHARES))
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
