"""The page: contents in, one self-contained HTML file out."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from anomvae.report import curves, histograms, latent, wording
from anomvae.report.measures import Share, normal_rows, ranking
from anomvae.report.power import power_section
from anomvae.report.promise import headline, how, is_extrapolated, promise
from anomvae.report.rate_table import group_lines, rate_axis, rate_lines
from anomvae.report.rates import checked_rows
from anomvae.report.tables import alarm_share, column_lines, meter, separating, strange_lines, strip_axis
from anomvae.report.tails import tail_figures, tail_notes
from anomvae.report.templates import filled
from anomvae.report.trust import checks
from anomvae.report.uniformity import uniformity

if TYPE_CHECKING:
    from anomvae.bundle import Calibration, Manifest
    from anomvae.calibration import TailFit
    from anomvae.report.contents import ReportContents, ScoredRows
    from anomvae.report.svg import Figure

_MOST_COLUMNS = 30
_MOST_WARNINGS = 6
_MOST_GROUPS = 20


def render(contents: ReportContents) -> str:
    """The report as one HTML file: no script, no request, readable offline; the same contents give the same text.

    It shows the names of columns, and values of cells where `contents` holds them (`strangest`, categories, ranges):
    it is as private as they are.

    Args:
        contents: All that it shows.
    """
    return filled("template.html", **_facts(contents))


def _facts(contents: ReportContents) -> dict[str, Any]:
    """All that the template names."""
    manifest = contents.manifest
    crossed = manifest.calibration.method == "cross"
    held_out = contents.calibration if crossed else normal_rows(contents.validation, contents.calibration)
    on_train = not len(held_out.score)
    columns = column_lines(contents, contents.train if on_train else held_out)
    found = checks(contents)
    return {
        "kind": "report",
        "manifest": manifest,
        "record": contents.record,
        **calibration_facts(manifest, contents.tails),
        **_found_rates(contents),
        "estimated": is_extrapolated(manifest.calibration),
        "amount": headline(manifest.calibration).removesuffix(" of normal rows alarm"),
        "held": _held(contents),
        "created": wording.instant(manifest.provenance.created),
        "fit_time": wording.duration(manifest.provenance.fit_seconds),
        "digest": manifest.provenance.digest.removeprefix("sha256:")[:12],
        "warnings": contents.warnings[:_MOST_WARNINGS],
        "more_warnings": contents.warnings[_MOST_WARNINGS:],
        "checks": found,
        "good": sum(check.level == "good" for check in found),
        "doubt": _doubt(found),
        "split": _split_sentence(manifest),
        "split_bar": _split_bar(manifest),
        "rule": alarm_rule(manifest.calibration),
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
        "power": None if contents.power is None else power_section(contents.power),
        "strangest": strange_lines(contents.strangest),
        "training": curves.training_curves(contents.record.curves),
        "drawn": _drawn(contents),
        "scores": _score_figures(contents),
        "latents": _latent_figures(contents, held_out),
        "ranking": _ranking_figures(contents, held_out),
        "command": f"anomvae score DATA --model {shlex.quote(manifest.name)}",
    }


def calibration_facts(manifest: Manifest, tails: tuple[TailFit, TailFit] | None) -> dict[str, Any]:
    """What the section on the promise names, less what was found on rows."""
    facts = manifest.calibration
    return {
        "calibration": facts,
        "private": manifest.private,
        "crossed": facts.method == "cross",
        "promise": promise(manifest),
        "how": how(facts),
        "tails": tail_figures(tails, facts),
        "tail_notes": tail_notes(tails, facts),
        "groups": group_lines(facts, named=not manifest.private),
        "groups_note": _groups_note(facts),
        "most_groups": _MOST_GROUPS,
    }


def _found_rates(contents: ReportContents) -> dict[str, Any]:
    """What was found of the promise, on rows that the p-values have not seen."""
    lines = rate_lines(contents)
    return {
        "uniformity": uniformity(checked_rows(contents), contents.manifest.calibration),
        "rates": lines,
        "drawn_rates": any(line.strip or line.why_not for line in lines),
        "rate_axis": rate_axis(),
    }


def _groups_note(facts: Calibration) -> str:
    """How many groups have thresholds of their own, and what becomes of the others."""
    own, pooled = len(facts.groups), facts.groups_pooled
    has = {0: "No group has rows enough for thresholds of its own", 1: "1 group has thresholds of its own"}
    lacks = {0: "none has too few rows", 1: "1 has too few rows and shares those of all"}
    return (
        f"{has.get(own, f'{own:,} groups have thresholds of their own')}; "
        f"{lacks.get(pooled, f'{pooled:,} have too few rows and share those of all')}. Groups never seen share those of all."
    )


def _held(contents: ReportContents) -> dict[str, str]:
    """The tile of what was found on rows that the threshold did not see."""
    what, parts = "Held-out rows that alarmed", checked_rows(contents)
    if not parts:
        lacking = "no validation rows" if contents.manifest.calibration.method == "split" else "no folds"
        return {"what": what, "figure": "n/a", "so": lacking}
    shares = [part.alarms(contents.manifest.calibration.alarm_rate) for part in parts]
    if len(shares) == 1:
        so = f"{shares[0].hits:,} of {wording.count(shares[0].n, 'validation row')}"
        return {"what": what, "figure": wording.share(shares[0].value), "so": so}
    low, high = min(each.value for each in shares), max(each.value for each in shares)
    return {
        "what": "Fold by fold alarmed",
        "figure": wording.between((low, high)),
        "so": f"{len(shares)} folds, each against the others",
    }


def _doubt(found: tuple[Any, ...]) -> str:
    """The worst level among the checks."""
    levels = {check.level for check in found}
    return next((level for level in ("bad", "look", "open") if level in levels), "good")


def _split_sentence(manifest: Manifest) -> str:
    """How the rows were divided, in one sentence or two."""
    split, facts = manifest.split, manifest.calibration
    by = f" by {split.column}" if split.column else ""
    if facts.method == "cross":
        whole = f", small groups{by} whole," if split.how == "group" else " at random"
        return (
            f"Every row trains and calibrates. The rows were divided{whole} into {wording.count(facts.folds, 'fold')}; beside the "
            "detector, which learnt from all of them, a network for each fold learnt from the others and scored its rows."
        )
    said = {
        "random": "Rows were divided at random.",
        "time": f"Rows were divided in time order{by}: the latest calibrate.",
        "group": f"Rows were divided, small groups{by} whole; groups with the rows to calibrate for themselves are on all sides.",
    }[split.how]
    return (
        said
        if facts.rows == split.calibration
        else f"{said} The p-values come from {wording.count(facts.rows, 'row')}."
    )


def _drawn(contents: ReportContents) -> str:
    """Which parts are shown by fewer rows than they have."""
    split = contents.manifest.split
    if contents.manifest.calibration.method == "cross":
        shown, rows = len(contents.calibration.score), split.calibration
        return f"{shown:,} of {rows:,}" if shown < rows else ""
    parts = (
        ("train", len(contents.train.score), split.train),
        ("validation", len(contents.validation.score), split.validation),
        ("calibration", len(contents.calibration.score), split.calibration),
    )
    return ", ".join(f"{name} {shown:,} of {rows:,}" for name, shown, rows in parts if shown < rows)


def _split_bar(manifest: Manifest) -> list[tuple[str, int, float, str]]:
    """Parts of the split: style, rows, percent, and what they are for."""
    split = manifest.split
    parts = [
        ("train", split.train, "fit the weights"),
        ("validation", split.validation, "decide when to stop"),
        ("calibration", split.calibration, "set the threshold; the weights never saw them"),
        ("labelled", split.labelled, "labelled anomalies: only to evaluate"),
    ]
    if manifest.calibration.method == "cross":
        use = "fit the weights, and set the threshold by networks that never saw them"
        parts[:3] = [("calibration", split.calibration, use)]
    total = max(1, sum(rows for _, rows, _ in parts))
    return [(name, rows, 100 * rows / total, use) for name, rows, use in parts if rows or name != "labelled"]


def alarm_rule(calibration: Calibration) -> str:
    """When a row alarms."""
    score = f"its score is above {wording.limit(calibration.score_threshold)} nats"
    error = f"its reconstruction error is above {wording.limit(calibration.reconstruction_threshold)}"
    own = ", or above those of its group" if calibration.groups else ""
    if calibration.decision != "both":
        return (score if calibration.decision == "elbo" else error) + own.replace("those", "that")
    return f"{score} or {error}{own}"


def _score_figures(contents: ReportContents) -> list[Figure]:
    """Both scores and both p-values."""
    facts = contents.manifest.calibration
    parts = [("train", contents.train), ("validation", contents.validation), ("calibration", contents.calibration)]
    crossed = facts.method == "cross"
    parts = parts[2:] if crossed else parts
    if contents.labelled is not None:
        parts.append(("labelled", contents.labelled))

    names = {"labelled": "labelled anomalies", "calibration": "normal rows" if crossed else "calibration"}

    def strips(name: str) -> list[histograms.Part]:
        return [
            histograms.Part(names.get(key, key), key, getattr(rows, name), key != "labelled") for key, rows in parts
        ]

    unit = "reconstruction error, scaled units"
    score = histograms.score_strips("Score", "score, nats", strips("score"), wording.reachable(facts.score_threshold))
    error = histograms.score_strips(
        "Reconstruction error", unit, strips("reconstruction_error"), wording.reachable(facts.reconstruction_threshold)
    )
    figures = [
        _idle(score) if facts.decision == "reconstruction" else score,
        _idle(error) if facts.decision == "elbo" else error,
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
    crossed = contents.manifest.calibration.method == "cross"
    return latent.latent_picture(held_out if crossed else normal_rows(contents.train, held_out), contents.labelled)


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
