"""The Python API with a detector of series."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

import anomvae
from anomvae.errors import SettingError
from tests.streamed import WINDOW, pump_table, pumps

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anomvae.bundle import Bundle
    from anomvae.detector import Detector


@pytest.fixture(scope="module")
def detector() -> Detector:
    return anomvae.load(pumps().folder)


def test_a_frame_of_series_is_answered_row_for_row_with_its_index(detector: Detector) -> None:
    frame = pump_table(40, seed=4).to_pandas().sample(frac=1.0, random_state=0)
    answers = detector.score(frame, top=1, past_only=True)
    assert answers.index.equals(frame.index)
    filling = answers["reason"] == "filling"
    assert filling.sum() == 2 * (WINDOW - 1)
    assert answers["score"].isna().equals(filling)
    assert not answers["alarm"][filling].any()
    assert {len(reasons) for reasons in answers["reasons"][filling]} == {0}
    assert {len(reasons) for reasons in answers["reasons"][~filling]} == {1}
    assert detector.score(frame)["reason"].isna().all()


def test_a_fit_with_a_window_gives_a_detector_of_series() -> None:
    made = anomvae.fit(
        pump_table(150), time="when", by="machine", window=8, alarm_rate=0.1, members="row", training={"max_steps": 2}
    )
    assert made.manifest.kind == "series"
    answers = made.score(pump_table(20, seed=1), stride=4)
    assert np.isfinite(answers["score"]).all()


def test_a_batch_of_arrow_is_a_table_too(detector: Detector) -> None:
    table = pump_table(40, seed=4).combine_chunks()
    assert detector.score_arrow(table.to_batches()[0]).equals(detector.score_arrow(table))


@pytest.mark.parametrize(
    "ask",
    [
        lambda detector, rows: detector.latent(rows),
        lambda detector, rows: detector.contributions(rows),
        lambda detector, rows: detector.sample(3),
        lambda detector, rows: detector.decode(np.zeros((1, 2))),
        lambda detector, rows: detector.interpolate(rows, rows),
        lambda detector, rows: detector.traverse(rows, 0),
    ],
)
def test_what_only_rows_have_is_refused_in_a_sentence(
    detector: Detector, ask: Callable[[Detector, pd.DataFrame], Any]
) -> None:
    with pytest.raises(SettingError, match="scores series; only `score` is for those"):
        ask(detector, pump_table(1, assets=("A",)).to_pandas())


def test_false_discovery_rates_are_for_rows(detector: Detector) -> None:
    with pytest.raises(SettingError, match="fdr takes rows that do not depend"):
        detector.score(pump_table(40), fdr=0.1)


def test_windows_are_for_series(fitted: Bundle) -> None:
    for asked in ({"past_only": True}, {"stride": 2}):
        with pytest.raises(SettingError, match="past_only and stride are for series"):
            anomvae.load(fitted.folder).score(pd.DataFrame({"temperature": [1.0]}), **asked)


def test_a_saved_copy_answers_alike(detector: Detector, tmp_path: Path) -> None:
    rows = pump_table(40, seed=4)
    assert anomvae.load(detector.save(tmp_path / "copy")).score_arrow(rows).equals(detector.score_arrow(rows))
