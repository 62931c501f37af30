"""Sentences on comparisons."""

from __future__ import annotations

import pytest

from anomvae.evaluation import Comparison, Difference, Ranking
from anomvae.evaluation.verdicts import does_as_well, interval, points, sentence

AHEAD, ALIKE, BEHIND = Difference(0.04, 0.02, 0.06), Difference(0.004, -0.008, 0.016), Difference(-0.03, -0.05, -0.01)


def told(auroc: Difference, precision: Difference, scarce: int = 90) -> str:
    return sentence("1-NN", Comparison(Ranking(0.9, 0.8), auroc, precision), scarce)


def test_a_simpler_detector_that_does_as_well_is_named_with_the_interval() -> None:
    assert told(ALIKE, ALIKE) == (
        "1-NN does as well here: difference in AUROC +0.4 points, 95 % interval -0.8 to +1.6; "
        "in average precision +0.4 points, 95 % interval -0.8 to +1.6; a simpler detector may be enough."
    )


@pytest.mark.parametrize(("auroc", "precision"), [(BEHIND, BEHIND), (BEHIND, ALIKE), (ALIKE, BEHIND)])
def test_one_that_does_better_is_said_to(auroc: Difference, precision: Difference) -> None:
    assert told(auroc, precision).startswith("1-NN does better here: ")
    assert told(auroc, precision).endswith("a simpler detector is enough here.")


def test_one_that_does_worse_is_not_recommended() -> None:
    assert told(AHEAD, AHEAD).startswith("This detector does better than 1-NN: difference in AUROC +4.0 points")
    assert "enough" not in told(AHEAD, AHEAD)


def test_measures_that_disagree_are_told_apart() -> None:
    one = told(ALIKE, AHEAD)
    assert one.startswith("1-NN does as well by AUROC (difference +0.4 points")
    assert "this detector does better by average precision (difference +4.0 points" in one
    assert one.endswith("where AUROC counts, a simpler detector may be enough.")
    other = told(AHEAD, BEHIND)
    assert other.startswith("1-NN does better by average precision (difference -3.0 points")
    assert "this detector does better by AUROC (difference +4.0 points" in other


def test_an_interval_that_says_little_is_called_wide() -> None:
    wide = Difference(0.02, -0.06, 0.11)
    assert "12 rows of the rarer kind cannot rule out a lead of 11.0 points" in told(wide, ALIKE, scarce=12)
    assert "wide" not in told(ALIKE, ALIKE)
    assert "wide" not in told(BEHIND, ALIKE)


def test_only_a_lead_by_both_measures_is_a_lead() -> None:
    parts = (AHEAD, ALIKE, BEHIND)
    leads = [
        (auroc, precision)
        for auroc in parts
        for precision in parts
        if not does_as_well(Comparison(Ranking(0.9, 0.8), auroc, precision))
    ]
    assert leads == [(AHEAD, AHEAD)]


def test_an_end_near_zero_keeps_its_sign() -> None:
    assert interval(Difference(0.02, 0.0002, 0.04)) == ("+2.00", "+0.02", "+4.00")
    assert interval(Difference(0.02, 0.0, 0.04)) == ("+2.0", "+0.0", "+4.0")
    assert interval(Difference(0.001, -0.002, 0.004)) == ("+0.10", "-0.20", "+0.40")
    assert points(-0.00001) == "+0.0"
