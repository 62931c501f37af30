"""What the checks say of good detectors and of bad ones."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest

from anomvae.report import ReportContents, render
from anomvae.report.trust import Check, checks
from anomvae.vae.diagnostics import LatentUse

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[..., ReportContents]


def named(contents: ReportContents, words: str) -> Check:
    return next(check for check in checks(contents) if words in check.claim)


def test_a_sound_detector_passes_every_check(labelled_contents: ReportContents) -> None:
    assert {check.level for check in checks(labelled_contents)} == {"good"}
    assert "checks hold" in render(labelled_contents)


@pytest.mark.parametrize(("rows", "level"), [(60, "bad"), (400, "look"), (2000, "good")])
def test_calibration_rows_must_carry_the_stated_rate(make_contents: Make, rows: int, level: str) -> None:
    assert named(make_contents(rows=(500, 300, rows)), "Enough calibration rows").level == level


def test_held_out_rows_that_alarm_too_often_break_the_promise(labelled_contents: ReportContents) -> None:
    alarm = np.arange(800) < 40
    validation = dataclasses.replace(labelled_contents.validation, alarm=alarm)
    check = named(dataclasses.replace(labelled_contents, validation=validation), "Held-out rows")
    assert check.level == "bad"
    assert "40 of 800 validation rows" in check.finding


def test_what_cannot_be_checked_is_not_called_good(make_contents: Make) -> None:
    assert named(make_contents(rows=(500, 0, 1200)), "Held-out rows").level == "open"


def test_rows_that_score_otherwise_later_are_noticed(labelled_contents: ReportContents) -> None:
    validation = dataclasses.replace(labelled_contents.validation, score=labelled_contents.validation.score + 2)
    check = named(dataclasses.replace(labelled_contents, validation=validation), "look alike")
    assert check.level == "look"
    assert "conditions may have changed over time" in check.finding


def test_rows_learnt_by_heart_are_noticed(labelled_contents: ReportContents) -> None:
    train = dataclasses.replace(labelled_contents.train, score=labelled_contents.train.score - 9)
    assert named(dataclasses.replace(labelled_contents, train=train), "knows new normal rows").level == "look"


def test_training_that_ended_while_still_falling_is_noticed(labelled_contents: ReportContents) -> None:
    curves = {"step": [1.0, 2, 3, 4, 5, 6], "validation_loss": [9.0, 8, 7, 6, 5, 4]}
    record = dataclasses.replace(labelled_contents.record, curves=curves)
    assert named(dataclasses.replace(labelled_contents, record=record), "settled").level == "look"


def test_an_unused_latent_space_is_noticed(labelled_contents: ReportContents) -> None:
    contents = dataclasses.replace(labelled_contents, latent_use=LatentUse(np.full(4, 0.001), 0.0, np.zeros(4)))
    assert named(contents, "latent space").level == "look"


def test_missed_anomalies_are_noticed_and_without_labels_nothing_is_claimed(
    labelled_contents: ReportContents, unlabelled_contents: ReportContents
) -> None:
    assert labelled_contents.labelled is not None
    quiet = dataclasses.replace(labelled_contents.labelled, alarm=np.zeros(60, dtype=np.bool_))
    assert named(dataclasses.replace(labelled_contents, labelled=quiet), "labelled anomalies").level == "look"
    assert not any("labelled" in check.claim for check in checks(unlabelled_contents))
