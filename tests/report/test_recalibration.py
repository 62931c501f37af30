"""The page of a recalibrated bundle."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from anomvae.bundle import Calibration, Manifest, Recalibration
from anomvae.calibration import Budget, Calibrated, CalibrationRows, calibrate
from anomvae.report import ReportContents, render_recalibration

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[..., ReportContents]


def again(make_contents: Make, budget: Budget, **options: object) -> tuple[Manifest, Calibration, Calibrated]:
    """Manifest and both calibrations of a detector that was calibrated again."""
    manifest = make_contents(folds=5).manifest
    draw = np.random.default_rng(0)
    group = [f"site <{at % 3}>" for at in range(2000)] if options.get("by") else None
    made = calibrate(CalibrationRows(draw.normal(size=2000), draw.gamma(2, size=2000), group), budget, **options)  # type: ignore[arg-type]
    rows = Recalibration("winter & spring.parquet", "sha256:" + "ab" * 32, 2100, "2026-05-01T08:00:00+00:00")
    facts = dataclasses.replace(made.facts, recalibrated=rows)
    return dataclasses.replace(manifest, calibration=facts), manifest.calibration, made


def text_of(html: str) -> str:
    plain = re.sub(r"<[^>]+>", " ", html.partition("</style>")[2])
    return re.sub(r"\s+", " ", plain.replace("\N{NARROW NO-BREAK SPACE}", "_")).replace("_", " ")


def test_it_says_what_was_promised_and_what_is_now(make_contents: Make) -> None:
    manifest, before, made = again(make_contents, Budget(0.02, confidence=0.9))
    text = text_of(render_recalibration(manifest, before, made))
    for said in (
        "at most 1 % of normal rows alarm at most 2 % of normal rows alarm",
        "cross-conformal, 5 networks, 1,200 rows split conformal, anew on 2,000 rows",
        "on average 90 % confidence",
        "winter &amp; spring.parquet",
        f"{before.score_threshold:.3g} {manifest.calibration.score_threshold:.3g}",
        "1 May 2026, 08:00 UTC",
    ):
        assert said in text


def test_it_draws_no_uniformity_of_the_rows_that_calibrated(make_contents: Make) -> None:
    html = render_recalibration(*again(make_contents, Budget(0.01)))
    assert "even by" not in html
    assert "Are p-values even" not in html
    assert "<svg" not in html
    assert "as stated by construction" in html


def test_tails_and_groups_are_shown_where_there_are_any(make_contents: Make) -> None:
    bare = text_of(render_recalibration(*again(make_contents, Budget(0.01))))
    full = text_of(render_recalibration(*again(make_contents, Budget(0.01), tail=True, by="site")))
    for said in ("Tail of the score", "Groups of site", "site &lt;2&gt;", "3 groups have thresholds of their own"):
        assert said in full
        assert said not in bare


@pytest.mark.parametrize(
    ("rate", "tail", "words"), [(1e-4, True, "extrapolated by a tail"), (0.002, False, "strangest 4 of")]
)
def test_what_rests_on_little_is_warned_of(make_contents: Make, rate: float, tail: bool, words: str) -> None:
    html = render_recalibration(*again(make_contents, Budget(rate), tail=tail))
    assert words in html.partition('id="changes"')[0]
    assert "read first" not in render_recalibration(*again(make_contents, Budget(0.01)))


def test_a_bundle_of_the_first_format_can_be_what_was_before(make_contents: Make) -> None:
    manifest, before, made = again(make_contents, Budget(0.01))
    old = dataclasses.replace(before, decision="either", method="split", folds=0)
    assert "either score, at half of the rate each" in render_recalibration(manifest, old, made)


def test_it_is_one_whole_file_without_script_or_request(make_contents: Make) -> None:
    html = render_recalibration(*again(make_contents, Budget(0.01), tail=True, by="site"))
    assert html.startswith("<!doctype html>")
    assert html.endswith("</html>\n")
    assert not re.search(r"<script|<iframe|url\(|@import", html)
    assert len(re.findall(r"<main>", html)) == len(re.findall(r"</main>", html)) == 1
    assert html == render_recalibration(*again(make_contents, Budget(0.01), tail=True, by="site"))
