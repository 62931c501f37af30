"""The model card: what a bundle is, for whoever finds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomvae.fitting.settings import PRIVATE_LEAST

if TYPE_CHECKING:
    from anomvae.bundle import Manifest, TrainingRecord


def model_card(manifest: Manifest, record: TrainingRecord, warnings: tuple[str, ...]) -> str:
    """The card as Markdown."""
    calibration, split, origin = manifest.calibration, manifest.split, manifest.provenance
    by = f" by `{split.column}`" if split.column else ""
    lines = [
        f"# {manifest.name}",
        "",
        f"An anomaly detector for tables: a {manifest.model} fitted on {split.train:,} normal rows of `{origin.data}`, "
        f"made {origin.created}.",
        "",
        "## What it promises",
        "",
        f"At most {calibration.alarm_rate:.2%} of normal rows alarm, on average over calibration sets, as long as tomorrow's "
        f"normal rows are like the {calibration.rows:,} it was calibrated on (split conformal; the split was {split.how}{by}). "
        f"{_stored(manifest)}"
        f"The smallest rate these rows support is {calibration.smallest_alarm_rate:.2g}.",
        "",
        f"A row alarms when its `{_deciding(calibration.decision)}` does not exceed the alarm rate. "
        f"At this rate the score's threshold is {calibration.score_threshold:.4g} nats and the reconstruction error's "
        f"{calibration.reconstruction_threshold:.4g}.",
        "",
        "## What it cannot do",
        "",
        "It knows the normal rows it saw. A new operating mode, a new sensor or a slow drift looks strange to it until it is "
        "fitted or calibrated again. It says how strange a row is, not how dangerous.",
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


def _stored(manifest: Manifest) -> str:
    if manifest.split.how != "random" or manifest.prior != "exemplars":
        return ""
    return "Calibration rows may be exemplars; none answered for itself when it was scored. "


def privacy(manifest: Manifest, record: TrainingRecord) -> str:
    """What a bundle holds of its training data, in plain words."""
    has_values = bool(record.parameters.get("model.novelty"))
    facts = "The manifest holds each number column's mean and standard deviation"
    if manifest.private:
        kind = "learnt pseudo-rows" if manifest.prior == "pseudo-rows" else "the prior N(0, I)"
        return (
            f"Fitted with `--private`: {kind} in place of stored rows. No training row is in this bundle, and no value or "
            f"category that fewer than {PRIVATE_LEAST + 1} rows hold. {facts}, and every category that more training rows "
            f"hold{'; the graph holds numbers, and pairs of values, that more rows share' if has_values else ''}. The graph "
            "holds the scores of the calibration rows, and the report says which rows scored highest, by number. This ranks "
            "worse than the default; docs/accuracy.md has the figures. It is not differential privacy: the weights were "
            "fitted on the rows."
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
    return f"{held} {facts}, its range, and every category value seen in training; the report shows the strangest normal rows."


def _deciding(decision: str) -> str:
    names = {"elbo": "p_value", "reconstruction": "p_value_reconstruction"}
    return names.get(decision, "p_value` or `p_value_reconstruction` at half the rate")


def _cell(name: str) -> str:
    return name.replace("|", "\\|").replace("\n", " ")
