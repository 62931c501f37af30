"""What the model card promises, and what it says it cannot do."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from anomvae.bundle import Column, Manifest, Provenance, Recalibration, Split, TrainingRecord
from anomvae.calibration import Budget, CalibrationRows, calibrate
from anomvae.fitting.card import model_card

RATE = Budget(0.01)


def manifest(
    budget: Budget = RATE, *, folds: int = 0, group: bool = False, how: Any = "random", **more: Any
) -> Manifest:
    """Of a detector calibrated on 1,000 rows."""
    draw = np.random.default_rng(0)
    names = [f"site {at % 3}" for at in range(1000)] if group else None
    rows = CalibrationRows(draw.normal(size=1000), draw.gamma(2.0, size=1000), names)
    made = calibrate(rows, budget, by="site" if group else None, folds=folds, **more)
    return Manifest(
        name="pumps",
        kind="table",
        model="vae",
        columns=(Column("flow|rate", "numeric", "double"), Column("state", "categorical", "string")),
        left_out=(),
        split=Split(how, None if how == "random" else "site", 3000, 500, 1000),
        calibration=made.facts,
        provenance=Provenance("pumps.parquet", "sha256:00", 4500, 0, "2026-01-01T00:00:00+00:00", 3.0),
        latent=4,
        prior="exemplars",
        exemplars=350,
    )


def record(**metrics: float) -> TrainingRecord:
    return TrainingRecord({"columns_scored": 2}, metrics, {})


def card(of: Manifest, kept: TrainingRecord | None = None) -> str:
    return model_card(of, record() if kept is None else kept, ())


def test_a_split_card_promises_on_average_and_names_its_threshold() -> None:
    made = manifest()
    text = card(made)
    assert "- At most 1 % of normal rows alarm, on average over calibration sets" in text
    assert "Calibration rows may be exemplars" in text
    assert f"the score's threshold is {made.calibration.score_threshold:.3g} nats." in text
    assert "networks" not in text.partition("## What it cannot do")[0]
    assert "\N{NARROW NO-BREAK SPACE}" not in text


def test_a_crossed_card_claims_no_theorem() -> None:
    promised = card(manifest(folds=5)).partition("## What it cannot do")[0]
    assert "exact up to the stability of the networks" in promised
    assert "The folds were made at random" in promised
    assert "a theorem, for any number of rows" not in promised
    assert "may be exemplars" not in promised


def test_a_confident_card_speaks_of_these_very_rows() -> None:
    promised = card(manifest(Budget(0.01, confidence=0.95)))
    assert "with 95 % confidence for these very calibration rows" in promised
    assert "on average over calibration sets" not in promised


def test_a_budget_in_alarms_a_day_is_said_as_it_was_stated() -> None:
    promised = card(manifest(Budget.of(alarms_per_day=5, rows_per_day=1440)))
    assert "At 1,440 normal rows a day that is 5 alarms a day" in promised
    assert "a day" not in card(manifest())


@pytest.mark.parametrize(("rate", "estimated"), [(1e-4, True), (0.01, False)])
def test_a_card_that_rests_on_a_tail_calls_it_an_estimate(rate: float, estimated: bool) -> None:
    promised = card(manifest(Budget(rate), tail=True))
    assert ("An estimated" in promised) == estimated
    assert ("At most" in promised) != estimated


def test_the_thresholds_are_those_that_decide() -> None:
    texts = {decision: card(manifest(decision=decision)) for decision in ("elbo", "reconstruction", "both")}
    assert "`p_value` does not exceed" in texts["elbo"]
    assert "`p_value_reconstruction` does not exceed" in texts["reconstruction"]
    assert "`p_value_verdict` does not exceed" in texts["both"]
    assert "the reconstruction error's threshold is" in texts["reconstruction"]
    assert "nats and the reconstruction error's" in texts["both"]
    assert "at half the rate" not in texts["both"]


def test_groups_are_counted_and_their_names_said_to_be_in_the_manifest() -> None:
    text = card(manifest(group=True, how="group"))
    assert "3 groups of 'site' have thresholds of their own" in text
    assert "so that small groups stay whole by `site`" in text
    assert "It names the groups of `site`" in text
    assert "groups" not in card(manifest())


def test_a_recalibrated_card_says_so_and_forgets_what_was_measured_before() -> None:
    made = manifest()
    rows = Recalibration("winter.parquet", "sha256:11", 1000, "2026-05-01T00:00:00+00:00")
    again = dataclasses.replace(made, calibration=dataclasses.replace(made.calibration, recalibrated=rows))
    kept = record(power_blind_columns=1.0, power_rows=300.0)
    text = card(again, kept)
    assert "- Calibrated anew on 1,000 normal rows of winter.parquet" in text
    assert "blind" not in text
    assert "blind" in card(made, kept)


@pytest.mark.parametrize(("blind", "words"), [(1.0, "blind to 1 of 2 columns"), (0.0, "blind to no column")])
def test_blind_columns_stand_under_what_it_cannot_do(blind: float, words: str) -> None:
    text = card(manifest(), record(power_blind_columns=blind, power_rows=300.0))
    assert words in text.partition("## What it cannot do")[2].partition("## Privacy")[0]
    assert "300 normal rows" in text
    assert "blind" not in card(manifest())
