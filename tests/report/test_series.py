"""The report of a fitted series detector: what it shows of a planted fault, and that it is one whole file."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import warnings
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from anomvae.bundle import Calibration, Column, LeftOut, Manifest, Provenance, SeriesFacts, Split, TrainingRecord
from anomvae.data.concerns import Concern
from anomvae.data.series import read_sequences
from anomvae.report.series import render_series
from anomvae.report.series_contents import CALIBRATION, VALIDATION, CheckedSteps, JudgedSteps, SeriesReport
from anomvae.report.series_look import (
    Explainer,
    asset_traces,
    channel_shares,
    strange_stretches,
    usual_contribution,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from anomvae.data.series import Sequences
    from anomvae.data.windows import Windows

    Make = Callable[..., SeriesReport]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NASTY = "<script>alert('x')</script> & \"quoted\""
STEPS, WINDOW, ODD = 200, 16, slice(150, 160)


def rows_of(columns: Sequence[str], assets: Sequence[str], *, start_s: float = 1.6e9) -> pa.Table:
    """Rows of each asset, a minute apart with one gap, that the last channel of the first asset leaves for ten steps."""
    rng = np.random.default_rng(0)
    parts = []
    for place, asset in enumerate(assets):
        values = rng.normal(10.0 * (place + 1), 1.0, (STEPS, len(columns)))
        if place == 0:
            values[ODD, -1] -= 30.0
        times = start_s + 60.0 * (np.arange(STEPS) + 500.0 * (np.arange(STEPS) >= 60))
        cells = {name: values[:, j] for j, name in enumerate(columns)}
        parts.append(pa.table({"when": times, "pump": [asset] * STEPS, **cells}))
    return pa.concat_tables(parts)


def medians_of(sequences: Sequences) -> npt.NDArray[np.float64]:
    """Median of each asset's finite values, 0 without any, shape ``(a, d)``."""
    values = np.where(np.isfinite(sequences.values), sequences.values.astype(np.float64), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of channels without a value
        found = [np.nanmedian(values[sequences.asset == asset], axis=0) for asset in range(len(sequences.assets))]
    medians: npt.NDArray[np.float64] = np.nan_to_num(np.stack(found))
    return medians


def pretender(windows: Windows, names: Sequence[str]) -> Mapping[str, Any]:
    """A detector that expects each asset's median, with a deviation of 1, and adds half the squared distance."""
    sequences = windows.sequences
    series = np.clip(windows.encoded().series.astype(np.float64), -1e6, 1e6)
    expected = np.broadcast_to(medians_of(sequences)[sequences.asset[windows.starts]][:, None], series.shape)
    contribution = np.nan_to_num(0.5 * (series - expected) ** 2)
    every = {
        "step_contribution": contribution,
        "step_expected": expected,
        "step_deviation": np.ones_like(series),
    }
    return {name: every[name] for name in names}


def judged_of(sequences: Sequences, threshold: float = 20.0) -> JudgedSteps:
    """Verdicts of the pretender, of the last two thirds of each asset's steps."""
    values = sequences.values.astype(np.float64)
    score = np.nansum(0.5 * (values - medians_of(sequences)[sequences.asset]) ** 2, axis=1)
    place = np.concatenate([np.arange((sequences.asset == a).sum()) for a in range(len(sequences.assets))])
    score[(sequences.row < 0) | (place < 60)] = np.nan
    alarm = np.nan_to_num(score, nan=0.0) > threshold
    part = np.where(place < 60, -1, (place >= 100).astype(int)).astype(np.int8)
    p = np.where(np.isnan(score), np.nan, 1.0 / (1.0 + np.nan_to_num(score)))
    limits = np.full(len(sequences.assets), threshold)
    return JudgedSteps(sequences, score, p, alarm, limits, part, (VALIDATION, CALIBRATION))


def calibration_of(threshold: float, rows: int, effective: int | None) -> Calibration:
    return Calibration("split", rows, 0.05, 0.01, "elbo", threshold, 1.0, effective_rows=effective, block=4, by="pump")


def curves_of(member: str) -> dict[str, list[float]]:
    step = np.arange(1.0, 30.0)
    return {
        f"{member}_step": step.tolist(),
        f"{member}_train_loss": (5 / step).tolist(),
        f"{member}_validation_loss": (6 / step).tolist(),
    }


def contents_of(  # noqa: PLR0913  each a way a fit may differ
    *,
    columns: Sequence[str] = ("flow", "pressure", "temperature"),
    assets: Sequence[str] = ("north", "south", "west"),
    name: str = "pumps",
    time_type: str = "timestamp[us]",
    start_s: float = 1.6e9,
    threshold: float = 20.0,
    judged: Callable[[JudgedSteps], JudgedSteps] = lambda judged: judged,
    told: tuple[str, ...] = (),
) -> SeriesReport:
    """Contents as a fit would gather them, of a pretended detector."""
    channels = tuple(Column(each, "numeric", "double") for each in columns)
    rows = rows_of(columns, assets, start_s=start_s)
    by = "pump" if len(assets) > 1 else None
    sequences = read_sequences(rows, time="when", columns=channels, window=WINDOW, asset=by)
    verdicts = judged(judged_of(sequences, threshold))
    explainer = Explainer(pretender, WINDOW)
    usual = usual_contribution(verdicts, explainer)
    traces, more = asset_traces(verdicts)
    facts = SeriesFacts(
        "when", by, "string", tuple(assets) if by else (), WINDOW, 1, 60.0, 2, time_type=time_type,
        batch=calibration_of(threshold, 300, 40),
    )  # fmt: skip
    manifest = Manifest(
        name, "series", "vae", channels, (LeftOut("note", "text; a series is scored on numbers"),),
        Split("time", "when", 180, 120, 300), calibration_of(threshold + 1.0, 280, 30),
        Provenance("pumps.parquet", "sha256:" + "ab" * 32, len(rows), 0, "2026-03-01T09:05:00+00:00", 12.5, {"anomvae": "1.0"}),
        latent=4, series=facts,
    )  # fmt: skip

    def checked(words: str, part: int) -> CheckedSteps:
        steps = np.flatnonzero((verdicts.part == part) & np.isfinite(verdicts.p_value))
        return CheckedSteps(words, verdicts.p_value[steps], sequences.sequence[steps], sequences.asset[steps])

    return SeriesReport(
        manifest,
        TrainingRecord({"effort": "quick"}, {"fit_seconds": 12.5}, {**curves_of("row"), **curves_of("window")}, {}),
        strange_stretches(verdicts, explainer, usual),
        traces,
        more,
        channel_shares(verdicts, explainer, usual),
        (checked("steps of a whole series", 0), checked("newest steps", 0)),
        checked("calibration steps", 1),
        sequences.assets,
        (Concern("warning", "when", "Time 'when' jumps ahead at row 61."),),
        told,
    )


class Structure(HTMLParser):
    """What opens and closes, ids, links and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.ids: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in {"meta", "link", "br", "wbr"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += re.sub(r"\s+", " ", data)


def whole(html: str) -> bool:
    """Whether the page came to its end, balanced, and no number went wrong in a drawing."""
    structure = Structure(html)
    numbers = [
        value or ""
        for tag, attributes in structure.seen
        for name, value in attributes.items()
        if name in {"x", "y", "d", "points", "width", "height", "x1", "y1", "cx", "cy", "viewbox", "style"}
    ]
    broken = [each for each in numbers if re.search(r"nan|inf", each)]
    return html.endswith("</html>\n") and not structure.wrong and not structure.open and not broken


@pytest.fixture(scope="module")
def contents() -> SeriesReport:
    return contents_of()


@pytest.fixture(scope="module")
def page(contents: SeriesReport) -> str:
    return render_series(contents)


def test_the_first_card_says_which_asset_which_channel_which_way_and_when(page: str) -> None:
    card = Structure(page.partition('<figure class="card stretch')[2].partition("</figure>")[0]).text
    assert "north" in card
    assert "Mostly temperature (100 %), below what was expected, by up to" in card
    first, last = (60 * (each + 500) + 1.6e9 for each in (ODD.start, ODD.stop - 1))
    for at in (first, last):
        clock = np.datetime64(int(at), "s").item().strftime("%H:%M:%S")
        assert clock in card
    assert "10 of 48 steps alarm" in card


def test_rows_of_a_stretch_name_the_values_it_draws(contents: SeriesReport) -> None:
    rows = rows_of(("flow", "pressure", "temperature"), ("north", "south", "west"))
    for stretch in contents.stretches:
        there = stretch.row > 0
        held = rows.take(pa.array(stretch.row[there] - 1))
        assert set(held["pump"].to_pylist()) == {stretch.asset}
        assert np.allclose(held["temperature"].to_numpy(), stretch.observed[there, 2], rtol=1e-6)
        assert np.array_equal(held["when"].to_numpy(), stretch.time_s[there])


def test_both_calibrations_stand_with_their_thresholds_and_what_their_steps_are_worth(page: str) -> None:
    promise = Structure(page.partition('<section id="promise"')[2].partition("</section>")[0]).text
    for said in ("as about 40 independent ones", "300", "280", "20", "21", "newest step of a window", "95 % interval"):
        assert said in promise


def test_curves_of_both_members_are_drawn(page: str) -> None:
    training = Structure(page.partition('<section id="training"')[2].partition("</section>")[0]).text
    assert training.count("Best validation loss") == 2
    assert "convolutional VAE of windows" in training


def test_the_page_says_that_it_is_as_private_as_the_data(page: str) -> None:
    assert "draw values of the data: keep the report where the data may be kept" in Structure(page).text


def test_warnings_come_before_every_figure() -> None:
    html = render_series(contents_of(told=("flow & pressure drift",)))
    assert html.index("flow &amp; pressure drift") < html.index('class="tile"') < html.index("<svg")


def test_the_file_asks_nothing_of_any_network(page: str) -> None:
    assert not re.search(r"""(?:src|href|action|data)\s*=\s*["']?\s*(?:https?:|//)""", page, re.IGNORECASE)
    assert not re.search(r"url\(|@import|<script|<iframe|<object|<link[^>]+stylesheet", page, re.IGNORECASE)
    assert "default-src 'none'" in page


def test_links_have_targets_drawings_speak_and_heads_have_scopes(page: str) -> None:
    structure = Structure(page)
    assert len(structure.ids) == len(set(structure.ids))
    assert {each["href"] for tag, each in structure.seen if tag == "a"} <= {f"#{each}" for each in structure.ids}
    drawings = [each for tag, each in structure.seen if tag == "svg"]
    assert drawings
    assert all(each.get("role") == "img" and each.get("aria-label") for each in drawings)
    assert all(each.get("scope") in {"col", "row"} for tag, each in structure.seen if tag == "th")


def test_the_same_contents_give_the_same_text(contents: SeriesReport, page: str) -> None:
    assert render_series(contents) == page


def test_names_are_text_and_never_markup() -> None:
    html = render_series(contents_of(columns=(NASTY, "b"), assets=(NASTY, "other"), name=NASTY, told=(NASTY,)))
    assert "<script" not in html
    assert NASTY in Structure(html).text
    assert whole(html)


def without_scores(judged: JudgedSteps) -> JudgedSteps:
    nothing = np.full_like(judged.score, np.nan)
    return dataclasses.replace(judged, score=nothing, p_value=nothing, alarm=np.zeros_like(judged.alarm))


def without_thresholds(judged: JudgedSteps) -> JudgedSteps:
    return dataclasses.replace(judged, threshold=np.full_like(judged.threshold, np.nan))


def with_one_score(judged: JudgedSteps) -> JudgedSteps:
    score = np.full_like(judged.score, np.nan)
    place = int(np.flatnonzero(np.isfinite(judged.score))[-1])
    score[place] = 1.0
    return dataclasses.replace(judged, score=score, alarm=np.zeros_like(judged.alarm))


def with_wild_values(judged: JudgedSteps) -> JudgedSteps:
    values = judged.sequences.values.copy()
    values[:, 0], values[150, 1], values[151, 1] = np.nan, np.inf, 3e38
    return dataclasses.replace(judged, sequences=dataclasses.replace(judged.sequences, values=values))


@pytest.mark.parametrize(
    "options",
    [
        {"judged": without_scores},
        {"judged": without_thresholds},
        {"judged": with_one_score},
        {"judged": with_wild_values},
        {"threshold": 1e9},
        {"threshold": -1.0},
        {"assets": ("",)},
        {"assets": tuple(f"pump {each}" for each in range(40))},
        {"columns": ("only",)},
        {"columns": tuple(f"sensor_with_a_rather_long_name_{each}" for each in range(60))},
        {"time_type": "double", "start_s": 0.0},
        {"time_type": "string"},
        {"start_s": -3e11},
    ],
    ids=lambda change: "-".join(
        f"{name}-{getattr(value, '__name__', type(value).__name__)}" for name, value in change.items()
    ),
)
def test_whatever_was_judged_the_page_is_whole(options: dict[str, Any]) -> None:
    assert whole(render_series(contents_of(**options)))


def test_sixty_channels_of_forty_assets_stay_below_two_megabytes() -> None:
    columns, assets = tuple(f"sensor_{each}" for each in range(60)), tuple(f"pump {each}" for each in range(40))
    assert len(render_series(contents_of(columns=columns, assets=assets)).encode()) < 2_000_000


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_draws_it_without_an_error(page: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    quiet = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
    told = ("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--enable-logging=stderr")
    command = [str(CHROMIUM), "--headless", *quiet, *told, f"--user-data-dir={tmp_path / 'profile'}", "--log-level=0"]
    shown = subprocess.run(
        [*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    assert "CONSOLE" not in shown.stderr
    assert shown.stdout.count("<svg") == page.count("<svg")
