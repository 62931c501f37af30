"""The page: contents in, one self-contained HTML file out."""

from __future__ import annotations

import shlex
from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined

from anomvae.report import curves, histograms, latent, wording
from anomvae.report.measures import Share, normal_rows, ranking
from anomvae.report.tables import alarm_share, column_lines, meter, rate_lines, separating, strange_lines, strip_axis
from anomvae.report.trust import checks

if TYPE_CHECKING:
    from anomvae.bundle import Calibration, Split
    from anomvae.report.contents import ReportContents, ScoredRows
    from anomvae.report.svg import Figure

_MOST_COLUMNS = 30
_MOST_WARNINGS = 6


def render(contents: ReportContents) -> str:
    """The report as one HTML file: no script, no request, readable offline; the same contents give the same text.

    It shows the names of columns, and values of cells where `contents` holds them (`strangest`, categories, ranges):
    it is as private as they are.

    Args:
        contents: All that it shows.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    for speak in (
        wording.number,
        wording.share,
        wording.count,
        wording.between,
        wording.nats,
        wording.breakable,
        wording.short,
    ):
        environment.filters[speak.__name__] = speak
    template = environment.from_string(_file("template.html"))
    return template.render(css=_file("style.css"), **_facts(contents)).strip() + "\n"


def _file(name: str) -> str:
    return (files("anomvae.report") / name).read_text(encoding="utf-8")


def _facts(contents: ReportContents) -> dict[str, Any]:
    """All that the template names."""
    manifest = contents.manifest
    held_out = normal_rows(contents.validation, contents.calibration)
    on_train = not len(held_out.score)
    columns = column_lines(contents, contents.train if on_train else held_out)
    found = checks(contents)
    return {
        "manifest": manifest,
        "record": contents.record,
        "calibration": manifest.calibration,
        "created": wording.instant(manifest.provenance.created),
        "fit_time": wording.duration(manifest.provenance.fit_seconds),
        "digest": manifest.provenance.digest.removeprefix("sha256:")[:12],
        "warnings": contents.warnings[:_MOST_WARNINGS],
        "more_warnings": contents.warnings[_MOST_WARNINGS:],
        "checks": found,
        "good": sum(check.level == "good" for check in found),
        "doubt": _doubt(found),
        "split": _split_sentence(manifest.split),
        "split_bar": _split_bar(manifest.split),
        "rule": _rule(manifest.calibration),
        "columns": columns[:_MOST_COLUMNS],
        "more_columns": columns[_MOST_COLUMNS:],
        "meter": lambda mean: meter(mean, columns),
        "strip_axis": strip_axis(columns),
        "on_train": on_train,
        "separating": separating(columns),
        "validation": alarm_share(contents.validation),
        "held_out": alarm_share(held_out),
        "found": alarm_share(contents.labelled) if contents.labelled is not None else Share(0, 0),
        "precision": _precision(contents),
        "rates": rate_lines(contents),
        "strangest": strange_lines(contents.strangest),
        "training": curves.training_curves(contents.record.curves),
        "drawn": _drawn(contents),
        "scores": _score_figures(contents),
        "latents": _latent_figures(contents, held_out),
        "ranking": _ranking_figures(contents, held_out),
        "command": f"anomvae score DATA --model {shlex.quote(manifest.name)}",
    }


def _doubt(found: tuple[Any, ...]) -> str:
    """The worst level among the checks."""
    levels = {check.level for check in found}
    return next((level for level in ("bad", "look", "open") if level in levels), "good")


def _split_sentence(split: Split) -> str:
    """How the rows were divided, in one sentence."""
    by = f" by {split.column}" if split.column else ""
    return {
        "random": "Rows were divided at random.",
        "time": f"Rows were divided in time order{by}: the latest calibrate.",
        "group": f"Rows were divided in whole groups{by}, so that no group is on two sides.",
    }[split.how]


def _drawn(contents: ReportContents) -> str:
    """Which parts are shown by fewer rows than they have."""
    split = contents.manifest.split
    parts = (
        ("train", len(contents.train.score), split.train),
        ("validation", len(contents.validation.score), split.validation),
        ("calibration", len(contents.calibration.score), split.calibration),
    )
    return ", ".join(f"{name} {shown:,} of {rows:,}" for name, shown, rows in parts if shown < rows)


def _split_bar(split: Split) -> list[tuple[str, int, float, str]]:
    """Parts of the split: style, rows, percent, and what they are for."""
    parts = [
        ("train", split.train, "fit the weights"),
        ("validation", split.validation, "decide when to stop"),
        ("calibration", split.calibration, "set the threshold; the weights never saw them"),
        ("labelled", split.labelled, "labelled anomalies: only to evaluate"),
    ]
    total = max(1, sum(rows for _, rows, _ in parts))
    return [(name, rows, 100 * rows / total, use) for name, rows, use in parts if rows or name != "labelled"]


def _rule(calibration: Calibration) -> str:
    """When a row alarms."""
    score = f"its score is above {wording.number(calibration.score_threshold)} nats"
    error = f"its reconstruction error is above {wording.number(calibration.reconstruction_threshold)}"
    if calibration.decision == "elbo":
        return score
    return error if calibration.decision == "reconstruction" else f"{score} or {error} (half of the rate each)"


def _score_figures(contents: ReportContents) -> list[Figure]:
    """Both scores and both p-values."""
    facts = contents.manifest.calibration
    parts = [("train", contents.train), ("validation", contents.validation), ("calibration", contents.calibration)]
    if contents.labelled is not None:
        parts.append(("labelled", contents.labelled))

    def strips(name: str, *wanted: str) -> list[histograms.Part]:
        return [
            histograms.Part(
                "labelled anomalies" if key == "labelled" else key, key, getattr(rows, name), key != "labelled"
            )
            for key, rows in parts
            if key in wanted
        ]

    every = ("train", "validation", "calibration", "labelled")
    unit = "reconstruction error, scaled units"
    score = histograms.score_strips("Score", "score, nats", strips("score", *every), facts.score_threshold)
    error = histograms.score_strips(
        "Reconstruction error", unit, strips("reconstruction_error", *every), facts.reconstruction_threshold
    )
    figures = [
        _idle(score) if facts.decision == "reconstruction" else score,
        _idle(error) if facts.decision == "elbo" else error,
        histograms.p_strips("p-values of the score", strips("p_value", "validation", "labelled")),
        histograms.p_strips(
            "p-values of the reconstruction error", strips("p_value_reconstruction", "validation", "labelled")
        ),
    ]
    return [figure for figure in figures if figure is not None]


def _idle(figure: Figure | None) -> Figure | None:
    """The figure of a score that has no say in the verdict, which says so."""
    if figure is None:
        return None
    return replace(figure, caption=f"Not part of the verdict; shown to compare. {figure.caption}")


def _latent_figures(contents: ReportContents, held_out: ScoredRows) -> list[Figure]:
    """Where rows lie and what each dimension tells; a private report draws no row."""
    use = latent.latent_use(contents.latent_use)
    figures = [use] if contents.manifest.private else [_picture(contents, held_out), use]
    return [figure for figure in figures if figure is not None]


def _picture(contents: ReportContents, held_out: ScoredRows) -> Figure | None:
    return latent.latent_picture(normal_rows(contents.train, held_out), contents.labelled)


def _precision(contents: ReportContents) -> str:
    """What share of alarms would be real, were anomalies as rare as they mostly are."""
    if contents.labelled is None or not len(contents.labelled.alarm):
        return ""
    rate, recall, rare = contents.manifest.calibration.alarm_rate, alarm_share(contents.labelled).value, 0.001
    alarms = recall * rare + rate * (1 - rare)
    if recall == 0 or alarms <= 0:
        return ""
    return (
        f"Were 1 row in {1 / rare:,.0f} an anomaly, found as often as here, then about "
        f"{wording.share(recall * rare / alarms)} of alarms would be real: a lower alarm rate makes alarms rarer and "
        "more often right."
    )


def _ranking_figures(contents: ReportContents, held_out: ScoredRows) -> list[Figure]:
    """ROC and precision-recall curves of both scores; none without labels."""
    if contents.labelled is None:
        return []
    both = {
        "elbo": ranking(held_out.score, contents.labelled.score),
        "reconstruction": ranking(held_out.reconstruction_error, contents.labelled.reconstruction_error),
    }
    known = {style: curve for style, curve in both.items() if curve is not None}
    if not known:
        return []
    false_alarms, found = alarm_share(held_out), alarm_share(contents.labelled)
    return [curves.roc(known, false_alarms, found), curves.precision_recall(known, false_alarms, found)]
