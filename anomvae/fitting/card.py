"""The model card: what a bundle is, for whoever finds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomvae.fitting.settings import PRIVATE_LEAST
from anomvae.report.promise import promise
from anomvae.report.wording import count, limit

if TYPE_CHECKING:
    from anomvae.bundle import Manifest, TrainingRecord

_DECIDING = {
    "elbo": "p_value",
    "reconstruction": "p_value_reconstruction",
    "both": "p_value_verdict",
    "either": "p_value` or `p_value_reconstruction",
}


def model_card(manifest: Manifest, record: TrainingRecord, warnings: tuple[str, ...]) -> str:
    """The card as Markdown."""
    split, origin = manifest.split, manifest.provenance
    lines = [
        f"# {manifest.name}",
        "",
        f"An anomaly detector for tables: a {manifest.model} fitted on {split.train:,} normal rows of `{origin.data}`, "
        f"made {origin.created}.",
        "",
        "## What it promises",
        "",
        *(f"- {_plain(sentence)}" for sentence in promise(manifest)),
        *_how_divided(manifest),
        "",
        _rule(manifest),
        "",
        "## What it cannot do",
        "",
        "It knows the normal rows it saw. A new operating mode, a new sensor or a slow drift looks strange to it until it is "
        "fitted or calibrated again. It says how strange a row is, not how dangerous.",
        *_blind(manifest, record),
        "",
        "## Privacy",
        "",
        privacy(manifest, record),
        "",
        "## Columns",
        "",
        "| column | kind | missing in training |",
        "|---|---|---|",
        *(f"| {_cell(column.name)} | {column.kind} | {column.missing_share:.1%} |" for column in manifest.columns),
        "",
    ]
    if manifest.left_out:
        lines += ["Left out:", ""]
        lines += [f"- {_cell(column.name)}: {column.reason}" for column in manifest.left_out]
        lines += [""]
    if record.evaluation:
        lines += ["## Evaluation", "", "| measure | value |", "|---|---|"]
        lines += [f"| {name} | {value:.4g} |" for name, value in record.evaluation.items()]
        lines += [""]
    if warnings:
        lines += ["## Warnings", "", *(f"- {warning}" for warning in warnings), ""]
    lines += ["## Provenance", "", f"- data digest: `{origin.digest}`", f"- seed: {origin.seed}"]
    lines += [f"- {package} {version}" for package, version in origin.versions.items()]
    return "\n".join(lines) + "\n"


def _how_divided(manifest: Manifest) -> list[str]:
    """How the fit divided its rows, where that decides what the promise rests on."""
    calibration, split = manifest.calibration, manifest.split
    if calibration.recalibrated is not None:
        return []
    by = f" by `{split.column}`" if split.column else ""
    how = {"random": "at random", "time": f"in time order{by}", "group": f"so that small groups stay whole{by}"}[
        split.how
    ]
    if calibration.method == "cross":
        return [f"- The folds were made {how}."]
    stored = ""
    if split.how == "random" and manifest.prior == "exemplars":
        stored = " Calibration rows may be exemplars; none answered for itself when it was scored."
    return [f"- The rows were divided {how}.{stored}"]


def _rule(manifest: Manifest) -> str:
    """When a row alarms."""
    calibration = manifest.calibration
    score = f"score's threshold is {limit(calibration.score_threshold)} nats"
    error = f"reconstruction error's {limit(calibration.reconstruction_threshold)}"
    shown = {"elbo": score, "reconstruction": error.replace("'s ", "'s threshold is ")}
    groups = " Groups with a calibration of their own have thresholds of their own." if calibration.groups else ""
    return (
        f"A row alarms when its `{_DECIDING[calibration.decision]}` does not exceed the alarm rate. At this rate the "
        f"{shown.get(calibration.decision, f'{score} and the {error}')}.{groups}"
    )


def _blind(manifest: Manifest, record: TrainingRecord) -> list[str]:
    """What a measurement of power found, where there was one and its thresholds still stand."""
    blind, rows = record.metrics.get("power_blind_columns"), record.metrics.get("power_rows")
    if blind is None or rows is None or manifest.calibration.recalibrated is not None:
        return []
    put = f"faults were put into {int(rows):,} normal rows, one column at a time"
    if blind:
        columns = f"{int(blind):,} of {count(len(manifest.columns), 'column')}"
        return [
            "",
            f"It is blind to {columns}: {put}, and there even gross ones mostly went by. The report says which.",
        ]
    return ["", f"It is blind to no column as far as gross faults go: {put}. Small faults go by all the same."]


def privacy(manifest: Manifest, record: TrainingRecord) -> str:
    """What a bundle holds of its training data, in plain words."""
    has_values = bool(record.parameters.get("model.novelty"))
    facts = "The manifest holds each number column's mean and standard deviation"
    calibration = manifest.calibration
    groups = (
        f" It names the groups of `{calibration.by}` that have thresholds of their own." if calibration.groups else ""
    )
    if manifest.private:
        kind = "learnt pseudo-rows" if manifest.prior == "pseudo-rows" else "the prior N(0, I)"
        return (
            f"Fitted with `--private`: {kind} in place of stored rows. No training row is in this bundle, and no value or "
            f"category that fewer than {PRIVATE_LEAST + 1} rows hold. {facts}, and every category that more training rows "
            f"hold{'; the graph holds numbers, and pairs of values, that more rows share' if has_values else ''}. The graph "
            "holds the scores of the calibration rows, and the report says which rows scored highest, by number. This ranks "
            "worse than the default; docs/accuracy.md has the figures. It is not differential privacy: the weights were "
            f"fitted on the rows.{groups}"
        )
    seen = "with the values, and pairs of values, of columns in which most repeat, rare ones too"
    held = {
        "exemplars": f"**This bundle holds training data**: {manifest.exemplars:,} normal rows are stored in the graph and in "
        f"the weights as exemplars{f', {seen}' if has_values else ''}. Treat it as you treat the data, or fit with "
        "`--private`.",
        "pseudo-rows": "The prior's pseudo-rows are learnt: no whole training row is stored.",
        "normal": "The prior is N(0, I): no training row is stored.",
    }[manifest.prior]
    if has_values and manifest.prior != "exemplars":
        held += f" **The graph holds training data** all the same, {seen}."
    return f"{held} {facts}, its range, and every category value seen in training; the report shows the strangest normal rows.{groups}"


def _plain(sentence: str) -> str:
    """A sentence of the report, with spaces that can be searched for."""
    return sentence.replace("\N{NARROW NO-BREAK SPACE}", " ")


def _cell(name: str) -> str:
    return name.replace("|", "\\|").replace("\n", " ")
