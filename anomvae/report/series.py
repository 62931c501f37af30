"""The report of a fitted series detector: contents in, one self-contained HTML file out."""

from __future__ import annotations

import shlex
from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from anomvae.report import curves, wording
from anomvae.report.series_axis import Clock
from anomvae.report.series_drawing import stretch_figure
from anomvae.report.series_rates import MOST_ASSETS, MOST_LISTED, asset_rates, evenness, found_rate, strip_axis
from anomvae.report.series_traces import legend, trace_figure
from anomvae.report.templates import filled

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anomvae.bundle import Calibration, Manifest, SeriesFacts
    from anomvae.report.contents import FloatArray
    from anomvae.report.series_contents import AssetTrace, SeriesReport, StrangeStretch
    from anomvae.report.svg import Figure

_MOST_WARNINGS = 6
_MOST_CHANNELS = 30
_MEMBERS = {"row": "exemplar VAE of single steps", "window": "convolutional VAE of windows"}
_BY_PAST = "its past alone (streams)"
_BY_ALL = "all its windows (whole series)"


def render_series(contents: SeriesReport) -> str:
    """The report as one HTML file: no script, no request, readable offline; the same contents give the same text.

    It draws values of the data: it is as private as they are.

    Args:
        contents: All that it shows.
    """
    manifest = contents.manifest
    return filled(
        "series.html",
        kind="report",
        series_css=series_style(),
        manifest=manifest,
        record=contents.record,
        facts=facts_of(manifest),
        created=wording.instant(manifest.provenance.created),
        fit_time=wording.duration(manifest.provenance.fit_seconds),
        digest=manifest.provenance.digest.removeprefix("sha256:")[:12],
        members=members(manifest),
        step=step_length(manifest),
        window_time=window_time(manifest),
        warnings=contents.warnings[:_MOST_WARNINGS],
        more_warnings=contents.warnings[_MOST_WARNINGS:],
        command=f"anomvae score DATA --model {shlex.quote(manifest.name)} --report strange.html",
        **drawn(manifest, contents.stretches, contents.traces),
        more_assets=contents.more_assets,
        shares=contents.shares[:_MOST_CHANNELS],
        more_shares=contents.shares[_MOST_CHANNELS:],
        strange_steps=_strange_steps(contents),
        **_promise(contents),
        concerns=contents.concerns,
        split_bar=_split_bar(manifest),
        training=_training(contents),
        provenance=_provenance(manifest),
        metrics=[(name, wording.number(value)) for name, value in sorted(contents.record.metrics.items())],
    )


def series_style() -> str:
    """What the style sheet of all reports lacks for series."""
    return (files("anomvae.report") / "series.css").read_text(encoding="utf-8")


def facts_of(manifest: Manifest) -> SeriesFacts:
    """How rows become windows."""
    if manifest.series is None:
        raise ValueError("the manifest is of no series")
    return manifest.series


def drawn(manifest: Manifest, stretches: Sequence[StrangeStretch], traces: tuple[AssetTrace, ...]) -> dict[str, Any]:
    """Stretches and traces as the templates name them."""
    clock = clock_of(manifest, _some_times([*stretches, *traces]))
    columns = tuple(column.name for column in manifest.scored)
    return {
        "stretches": [stretch_figure(stretch, columns, clock) for stretch in stretches],
        "traces": [trace_figure(trace, clock) for trace in traces],
        "trace_key": legend(traces),
    }


def clock_of(manifest: Manifest, times_s: FloatArray) -> Clock:
    """How the times of a detector's data are said."""
    facts = facts_of(manifest)
    return Clock.of(facts.time_type, facts.step_s, times_s, facts.time)


def _some_times(parts: Iterable[StrangeStretch | AssetTrace]) -> FloatArray:
    return np.array([float(part.time_s[0]) for part in parts if len(part.time_s)])


def members(manifest: Manifest) -> str:
    """Who judges, in words."""
    facts = facts_of(manifest)
    return " and ".join(_MEMBERS.values()) if facts.members == "both" else _MEMBERS[facts.members]


def step_length(manifest: Manifest) -> str:
    """Length of a step, with its unit where that is known."""
    facts = facts_of(manifest)
    if facts.time_type.startswith(("timestamp", "date")):
        return f"{facts.step_s:g} s"
    return f"{facts.step_s:g} (of {facts.time})"


def window_time(manifest: Manifest) -> str:
    """Length of a window in time."""
    facts = facts_of(manifest)
    length = facts.window * facts.step_s
    instants = facts.time_type.startswith(("timestamp", "date"))
    return f"{wording.duration(length) if instants else wording.number(length)} at {step_length(manifest)} a step"


def _strange_steps(contents: SeriesReport) -> str:
    alarms = any(trace.alarm.any() for trace in contents.traces)
    return "of a held-out step that alarms" if alarms else "of the strangest held-out steps (none alarms)"


def _promise(contents: SeriesReport) -> dict[str, Any]:
    """What was stated and what was found of it."""
    manifest = contents.manifest
    facts = facts_of(manifest)
    both = [(manifest.calibration, "newest step of a window", _BY_PAST)]
    if facts.batch is not None:
        both.append((facts.batch, "step of a whole series", _BY_ALL))
    main = both[-1][0]
    found = found_rate(contents.checks[0], main.alarm_rate)
    tile = {"figure": "n/a", "so": "too few validation steps"}
    if found is not None:
        interval = wording.between((found.low, found.high))
        tile = {"figure": wording.share(found.rate), "so": f"95 % interval {interval}"}
    rates = asset_rates(contents)
    drawings = (
        evenness(steps, calibration) for steps, (calibration, *_) in zip(contents.checks, reversed(both), strict=False)
    )
    return {
        "found": tile,
        "thresholds": [_threshold_tile(calibration, by) for calibration, _, by in reversed(both)],
        "effective": _effective(main),
        "worth": _worth(main),
        "calibrations": [_calibration_line(*each) for each in both],
        "both_thresholds": main.decision != "elbo",
        "rates": rates[: MOST_ASSETS + 1],
        "more_rates": rates[MOST_ASSETS + 1 :],
        "unlisted": max(0, len(contents.assets) - MOST_LISTED),
        "rate_axis": strip_axis(main.alarm_rate),
        "evenness": [figure for figure in drawings if figure is not None],
    }


def _threshold_tile(calibration: Calibration, by: str) -> dict[str, str]:
    what = "Reconstruction threshold" if calibration.decision == "reconstruction" else "Score threshold"
    value = (
        calibration.reconstruction_threshold
        if calibration.decision == "reconstruction"
        else calibration.score_threshold
    )
    how = "by all windows that cover a step" if by == _BY_ALL else "by the past of a step"
    return {
        "what": f"{what}, {'whole series' if by == _BY_ALL else 'streams'}",
        "figure": wording.limit(value),
        "so": how,
    }


def _effective(calibration: Calibration) -> dict[str, str]:
    if calibration.effective_rows is None:
        return {"figure": f"{calibration.rows:,}", "so": "calibration steps"}
    return {"figure": f"{calibration.effective_rows:,}", "so": f"of {calibration.rows:,} calibration steps"}


def _worth(calibration: Calibration) -> str:
    """What effective rows mean here, in a sentence or three."""
    if calibration.effective_rows is None:
        return "Calibration steps were taken as independent of one another."
    alike = calibration.rows / calibration.effective_rows
    said = (
        f"Neighbouring steps resemble one another: the {calibration.rows:,} calibration steps tell as much of how often normal "
        f"steps alarm as about {calibration.effective_rows:,} independent ones would"
    )
    said += f" (each goes with the {round(alike):,} around it)." if alike >= 2.0 else "."  # noqa: PLR2004
    alarming = calibration.alarm_rate * calibration.effective_rows
    few = 5.0
    if alarming < few:
        return (
            f"{said} Of these only about {wording.number(round(alarming, 1))} would alarm at {wording.rate(calibration.alarm_rate)}, "
            "so the rate in service may differ from it by a factor of several: longer series make it steadier."
        )
    return said


def _calibration_line(calibration: Calibration, name: str, by: str) -> dict[str, str]:
    worth = calibration.effective_rows
    return {
        "name": name,
        "by": by,
        "score": wording.limit(calibration.score_threshold),
        "reconstruction": wording.limit(calibration.reconstruction_threshold),
        "rows": f"{calibration.rows:,}",
        "worth": wording.NOTHING if worth is None else f"{worth:,}",
        "smallest": wording.rate(calibration.smallest_alarm_rate),
        "own": f"{len(calibration.groups):,}",
    }


def _split_bar(manifest: Manifest) -> list[tuple[str, int, float, str]]:
    """Parts of the split: style, steps, percent, and what they are for."""
    split = manifest.split
    parts = [
        ("train", split.train, "earliest: fit the weights"),
        ("validation", split.validation, "decide when to stop, and what normal steps score"),
        ("calibration", split.calibration, "latest: set the thresholds"),
    ]
    if split.labelled:
        parts.append(("labelled", split.labelled, "labelled anomalies: left out"))
    total = max(1, sum(steps for _, steps, _ in parts))
    return [(name, steps, 100 * steps / total, use) for name, steps, use in parts]


def _training(contents: SeriesReport) -> list[Figure]:
    """Curves of both members."""
    found = []
    for member, words in _MEMBERS.items():
        recorded = {
            name.removeprefix(f"{member}_"): values
            for name, values in contents.record.curves.items()
            if name.startswith(f"{member}_")
        }
        figure = curves.training_curves(recorded)
        if figure is not None:
            found.append(replace(figure, title=f"Loss during training: {words}"))
    return found


def _provenance(manifest: Manifest) -> list[tuple[str, str]]:
    facts, origin = facts_of(manifest), manifest.provenance
    return [
        ("data", origin.data),
        ("digest of the rows", origin.digest),
        ("rows read", f"{origin.rows:,}"),
        ("time", facts.time),
        ("asset", facts.asset or wording.NOTHING),
        ("off", facts.off or wording.NOTHING),
        ("longest gap within a window, steps", f"{facts.longest_gap:,}"),
        ("stride of windows, steps", f"{facts.stride:,}"),
        ("trained anew on all steps", wording.NOTHING if facts.refitted_on is None else f"{facts.refitted_on:,}"),
        ("steps of the fit stored in the graph", f"{manifest.exemplars:,}"),
        ("windows of the fit stored in the graph", f"{facts.exemplar_windows:,}"),
        ("verdict from", manifest.calibration.decision),
        ("created", origin.created),
        ("seed", f"{origin.seed}"),
        ("bundle format", f"{manifest.format_version}"),
    ]
