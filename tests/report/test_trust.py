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
    p = np.where(np.arange(800) < 40, 0.005, 0.5)
    validation = dataclasses.replace(labelled_contents.validation, p_value_verdict=p)
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


def test_folds_stand_in_for_validation_rows_where_there_are_none(make_contents: Make) -> None:
    contents = make_contents(folds=5)
    kept = named(contents, "Held-out rows")
    assert kept.level == "good"
    assert "Fold by fold" in kept.finding
    assert named(contents, "in every fold").level == "good"
    assert not any("by heart" in check.finding or "learnt from" in check.claim for check in checks(contents))
    unknown = dataclasses.replace(contents, calibration=dataclasses.replace(contents.calibration, fold=None))
    assert named(unknown, "Held-out rows").level == "open"


def test_folds_whose_networks_score_apart_are_noticed(make_contents: Make) -> None:
    contents = make_contents(folds=5, rows=(0, 0, 3000))
    rows = contents.calibration
    assert rows.fold is not None
    apart = dataclasses.replace(
        contents, calibration=dataclasses.replace(rows, score=rows.score + 8.0 * (rows.fold == 2))
    )
    assert named(apart, "in every fold").level == "look"
    assert named(apart, "Held-out rows").level == "look"
    assert "networks score unlike" in named(apart, "Held-out rows").finding


@pytest.mark.parametrize(("hits", "level"), [(15, "good"), (18, "bad")])
def test_the_draw_of_the_calibration_rows_counts_as_chance_too(make_contents: Make, hits: int, level: str) -> None:
    """Of 800 rows at 1 %: a binomial would end at 14, with 1,200 calibration rows 16 are still chance."""
    contents = make_contents()
    p = np.where(np.arange(800) < hits, 0.005, 0.5)
    validation = dataclasses.replace(contents.validation, p_value_verdict=p)
    assert named(dataclasses.replace(contents, validation=validation), "Held-out rows").level == level


def test_an_extrapolated_rate_is_worth_a_look(make_contents: Make) -> None:
    check = named(make_contents(tail=True, rate=1e-4), "Enough calibration rows")
    assert check.level == "look"
    assert "estimate without guarantee" in check.finding


def test_blind_columns_are_named_near_the_top_where_power_was_measured(make_contents: Make) -> None:
    measured, unmeasured = make_contents(power=True), make_contents()
    check = named(measured, "gross fault")
    assert check.level == "look"
    assert measured.power is not None
    assert measured.power.blind[0] in check.finding
    assert f"{len(measured.power.blind)} columns" in check.finding
    first, _, rest = render(measured).partition('<section id="learned"')
    assert measured.power.blind[0] in first
    assert 'href="#power"' in first
    assert '<section id="power"' in rest
    assert 'id="power"' not in render(unmeasured)
    assert 'href="#power"' not in render(unmeasured)
    seeing = dataclasses.replace(measured.power, columns=measured.power.columns[:1])
    assert named(dataclasses.replace(measured, power=seeing), "gross fault").level == "good"


def test_the_threshold_of_the_smallest_group_is_the_one_that_rests_on_few(make_contents: Make) -> None:
    few = named(make_contents(groups=("a", "a", "a", "a", "b")), "Enough calibration rows")
    assert few.level == "look"
    assert "strangest 2 of the smallest group" in few.finding
    assert "group" not in named(make_contents(), "Enough calibration rows").finding


def test_a_confidence_leaves_less_to_chance_than_was_promised(make_contents: Make) -> None:
    finding = named(make_contents(confidence=0.95, rows=(500, 5000, 700)), "Held-out rows").finding
    assert "by chance" not in finding
    assert "by chance" in named(make_contents(), "Held-out rows").finding
