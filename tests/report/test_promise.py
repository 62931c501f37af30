"""The words of the promise: each case says what holds for it, and nothing that does not."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from anomvae.bundle import Manifest, Recalibration
from anomvae.report import ReportContents, render
from anomvae.report.promise import is_extrapolated, promise

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[..., ReportContents]

THEOREM = "a theorem, for any number of rows"
AVERAGE = "on average over calibration sets"
STABLE = "exact up to the stability of the networks"
CONFIDENT = "with 90 % confidence for these very calibration rows"
ESTIMATE = "It is an estimate, and no theorem stands behind it"
TAIL = "p-values come from a fitted tail"
BOTH = "decide together, by one p-value"
GROUPS = "the rate holds within each"
PER_DAY = "that is 2 alarms a day"
SAID = (THEOREM, AVERAGE, STABLE, CONFIDENT, ESTIMATE, TAIL, BOTH, GROUPS, PER_DAY)


def words(manifest: Manifest) -> str:
    return " ".join(promise(manifest)).replace("\N{NARROW NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {THEOREM, AVERAGE}),
        ({"folds": 5}, {STABLE}),
        ({"confidence": 0.9}, {CONFIDENT}),
        ({"decision": "both"}, {THEOREM, AVERAGE, BOTH}),
        ({"tail": True}, {THEOREM, AVERAGE, TAIL}),
        ({"tail": True, "rate": 1e-4}, {ESTIMATE}),
        ({"tail": True, "rate": 1e-4, "folds": 5}, {ESTIMATE}),
        ({"groups": ("a", "b")}, {THEOREM, AVERAGE, GROUPS}),
        ({"per_day": (2, 100)}, {THEOREM, AVERAGE, PER_DAY}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",  # a set has no order
)
def test_each_promise_says_what_holds_and_nothing_else(
    make_contents: Make, options: dict[str, Any], expected: set[str]
) -> None:
    manifest = make_contents(**options).manifest
    said = words(manifest)
    assert {each for each in SAID if each in said} == expected
    assert "exchangeable" in said
    assert "The smallest rate these rows support" in said
    assert is_extrapolated(manifest.calibration) == (ESTIMATE in expected)


def test_a_confidence_over_folds_covers_the_draw_and_not_the_networks(make_contents: Make) -> None:
    said = words(make_contents(folds=5, confidence=0.9).manifest)
    assert STABLE in said
    assert "The 90 % confidence covers the draw of the rows, not how far the networks differ" in said
    assert THEOREM not in said


def test_a_rate_that_needs_a_tail_because_of_its_confidence_is_an_estimate(make_contents: Make) -> None:
    """1,200 rows count 0.2 % on average, and not with confidence."""
    plain = make_contents(tail=True, rate=0.002).manifest
    sure = make_contents(tail=True, rate=0.002, confidence=0.95).manifest
    assert not is_extrapolated(plain.calibration)
    assert is_extrapolated(sure.calibration)
    assert "too few to count so small a share with 95 % confidence" in words(sure)
    assert "for these very calibration rows" not in words(sure)


def test_a_recalibrated_detector_says_so_first(make_contents: Make) -> None:
    manifest = make_contents().manifest
    again = Recalibration("winter.parquet", "sha256:00", 1300, "2026-05-01T00:00:00+00:00")
    changed = dataclasses.replace(manifest, calibration=dataclasses.replace(manifest.calibration, recalibrated=again))
    assert words(changed).startswith("Calibrated anew on 1,200 normal rows of winter.parquet")
    assert "Calibrated anew" not in words(manifest)


def test_groups_of_a_private_bundle_are_counted_and_not_named(make_contents: Make) -> None:
    plain, private = (
        render(make_contents(groups=("north wing", "south wing"), private=private)) for private in (False, True)
    )
    for name in ("north wing", "south wing"):
        assert name in plain
        assert name not in private
    assert "group 2" in private
    assert "Groups of station" in plain
    assert "station" not in private.replace("pump-station", "")


def test_the_first_screen_of_an_estimate_promises_nothing(make_contents: Make) -> None:
    first = render(make_contents(tail=True, rate=1e-4)).partition('<section id="learned"')[0]
    assert "Estimated alarm rate" in first
    assert "an estimated" in first
    assert "<strong>at most" not in first
    assert ", at most" not in first
    assert "Promised alarm rate" in render(make_contents(tail=True)).partition('<section id="learned"')[0]
