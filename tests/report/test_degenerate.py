"""Whatever a fit brings forth, the report shows it: nothing in it may raise, warn or break the page."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from anomvae.bundle import Column
from anomvae.report import Reason, ReportContents, ScoredRows, StrangeRow, render
from anomvae.vae.diagnostics import LatentUse

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[..., ReportContents]


def whole(html: str) -> bool:
    """Whether the page came to its end and no number went wrong on the way."""
    return html.endswith("</html>\n") and "nan%" not in html and "inf%" not in html and '"nan' not in html


def same(rows: ScoredRows, **values: float) -> ScoredRows:
    """Rows whose named answers are all one value."""
    return dataclasses.replace(rows, **{name: np.full_like(getattr(rows, name), x) for name, x in values.items()})


def everywhere(contents: ReportContents, **values: float) -> ReportContents:
    """Contents whose named answers are all one value in every part."""
    parts: dict[str, Any] = {
        name: same(getattr(contents, name), **values) for name in ("train", "validation", "calibration")
    }
    if contents.labelled is not None:
        parts["labelled"] = same(contents.labelled, **values)
    return dataclasses.replace(contents, **parts)


@pytest.mark.parametrize(
    "options",
    [
        {"rows": (40, 0, 19)},
        {"rows": (3, 1, 1), "labelled": 1},
        {"rows": (3, 1, 1), "labelled": 0, "latent": 1},
        {"rows": (20, 0, 0), "labelled": 0},
        {"rows": (0, 0, 0), "labelled": 0},
        {"rows": (2, 0, 0), "labelled": 2, "latent": 7},
        {"checks": 0},
        {"checks": 1},
        {"latent": 0},
        {"latent": 1},
        {"latent": 2},
        {"latent": 64},
        {"rate": 0.0001},
        {"rate": 0.5, "decision": "both"},
        {"columns": (Column("only", "numeric", "double"),)},
        {
            "columns": (
                Column("a" * 300, "numeric", "double"),
                Column("\N{GREEK SMALL LETTER MU}" * 90, "boolean", "bool"),
            )
        },
        {"columns": (Column("when", "date", "date32", low=1e12, high=1e13, origin="2024-01-01"),)},
        {"warnings": tuple(f"Warning {at}." for at in range(20))},
    ],
    ids=str,
)
def test_thin_and_odd_fits_are_reported(make_contents: Make, options: dict[str, Any]) -> None:
    assert whole(render(make_contents(**options)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -3.0, 1e300, -1e300, 1e-300])
@pytest.mark.parametrize("labelled", [0, 20])
def test_scores_that_are_all_one_value_are_reported(make_contents: Make, value: float, labelled: int) -> None:
    contents = make_contents(rows=(30, 20, 20), labelled=labelled)
    assert whole(render(everywhere(contents, score=value, reconstruction_error=value, contribution=value)))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e300])
@pytest.mark.parametrize("latent", [1, 2, 5])
def test_latent_means_that_are_all_one_value_are_reported(make_contents: Make, value: float, latent: int) -> None:
    assert whole(render(everywhere(make_contents(latent=latent, rows=(30, 20, 20)), latent=value)))


@pytest.mark.parametrize("value", [np.nan, 0.0, 1.0])
def test_p_values_that_are_all_one_value_are_reported(make_contents: Make, value: float) -> None:
    assert whole(
        render(everywhere(make_contents(), p_value=value, p_value_reconstruction=value, p_value_verdict=value))
    )


def test_a_few_broken_rows_among_good_ones_are_counted_and_said(labelled_contents: ReportContents) -> None:
    score = labelled_contents.validation.score.copy()
    score[:3] = [np.nan, np.inf, -np.inf]
    html = render(
        dataclasses.replace(
            labelled_contents, validation=dataclasses.replace(labelled_contents.validation, score=score)
        )
    )
    assert "3 normal rows got no finite score" in html
    assert "Rows without a finite score, not drawn: validation 3" in html


def test_a_few_far_anomalies_do_not_squash_the_normal_rows_and_are_counted(labelled_contents: ReportContents) -> None:
    assert labelled_contents.labelled is not None
    score = labelled_contents.labelled.score.copy()
    score[:5] = 1e7
    html = render(
        dataclasses.replace(labelled_contents, labelled=dataclasses.replace(labelled_contents.labelled, score=score))
    )
    assert re.search(r"in the outlined bars: .*labelled anomalies \d+ \(up to 1.10⁷\)", html)
    assert "threshold 18.3" in html


@pytest.mark.parametrize(
    "curves",
    [
        {},
        {"train_loss": [3.0, 2.0]},
        {"validation_loss": [3.0, 2.0], "epoch": [1.0, 2.0]},
        {"step": [1.0, 2.0], "train_loss": [float("nan")] * 2, "validation_loss": [float("inf"), 2.0]},
        {"step": [5.0], "train_loss": [1.0], "validation_loss": [1.0]},
        {"step": [1.0, 2.0, 3.0], "train_loss": [1e300, 1.0, 1.0], "validation_loss": [-1e300, 1.0, 1.0]},
    ],
)
def test_curves_in_any_state_are_reported(labelled_contents: ReportContents, curves: dict[str, list[float]]) -> None:
    record = dataclasses.replace(labelled_contents.record, curves=curves)
    assert whole(render(dataclasses.replace(labelled_contents, record=record)))


@pytest.mark.parametrize("threshold", [np.inf, np.nan, -1e9, 1e9])
def test_thresholds_out_of_reach_are_reported(labelled_contents: ReportContents, threshold: float) -> None:
    manifest = labelled_contents.manifest
    calibration = dataclasses.replace(
        manifest.calibration, score_threshold=threshold, reconstruction_threshold=threshold
    )
    changed = dataclasses.replace(manifest, calibration=calibration)
    assert whole(render(dataclasses.replace(labelled_contents, manifest=changed)))


def test_strange_rows_without_reasons_values_or_finite_scores_are_reported(labelled_contents: ReportContents) -> None:
    rows = (
        StrangeRow(0, "train", float("inf"), 0.0, (Reason("a", float("inf"), None, None),)),
        StrangeRow(1, "labelled", float("nan"), float("nan"), ()),
        StrangeRow(2, "calibration", -4.0, 1.0, (Reason("b" * 400, -2.0, "v" * 5000, "<e>"), Reason("c", 0.0, "", ""))),
    )
    html = render(dataclasses.replace(labelled_contents, strangest=rows))
    assert whole(html)
    assert "v" * 100 not in html
    assert "missing" in html
    assert "expected &lt;e&gt;" in html


def test_reasons_and_all_else_add_up_to_the_score(labelled_contents: ReportContents) -> None:
    row = StrangeRow(0, "train", 10.0, 0.01, (Reason("a", 4.0, "1", "2.123456"), Reason("b", 2.5, "x", "y")))
    html = render(dataclasses.replace(labelled_contents, strangest=(row,)))
    assert "all else" in html
    assert "3.50 nats" in html
    assert "expected 2.123<" in html


def test_parts_of_which_only_some_rows_were_drawn_are_said(make_contents: Make) -> None:
    contents = make_contents()
    split = dataclasses.replace(contents.manifest.split, train=90_000)
    html = render(dataclasses.replace(contents, manifest=dataclasses.replace(contents.manifest, split=split)))
    assert "rows drawn at random: train 2,400 of 90,000." in html


@pytest.mark.parametrize("active", [[], [0.0], [np.nan, 1.0], [1e300, 0.2], [0.0] * 200])
def test_any_use_of_the_latent_space_is_reported(labelled_contents: ReportContents, active: list[float]) -> None:
    kl = np.array(active, dtype=np.float64)
    use = LatentUse(kl, 0.5, kl)
    assert whole(render(dataclasses.replace(labelled_contents, latent_use=use)))


def test_odd_dates_versions_and_settings_are_shown_as_they_are(labelled_contents: ReportContents) -> None:
    provenance = dataclasses.replace(
        labelled_contents.manifest.provenance, created="some day", versions={}, digest="", fit_seconds=float("nan")
    )
    manifest = dataclasses.replace(labelled_contents.manifest, provenance=provenance, left_out=())
    record = dataclasses.replace(labelled_contents.record, parameters={}, metrics={}, evaluation={})
    html = render(dataclasses.replace(labelled_contents, manifest=manifest, record=record))
    assert whole(html)
    assert "some day" in html
