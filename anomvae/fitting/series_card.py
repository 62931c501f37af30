"""The model card of a series detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anomvae.bundle import Calibration, Manifest, SeriesFacts, TrainingRecord


def series_card(manifest: Manifest, record: TrainingRecord, warnings: tuple[str, ...]) -> str:
    """The card as Markdown."""
    facts, split, origin = manifest.series, manifest.split, manifest.provenance
    if facts is None or facts.batch is None:
        raise ValueError("the manifest is of no series")
    assets = (
        "one sequence" if facts.asset is None else f"{len(facts.assets):,} assets told apart by `{_cell(facts.asset)}`"
    )
    forecast = ", a linear forecast of each step" if "explained_by_the_past" in record.metrics else ""
    of_windows = f"a convolutional VAE of windows{forecast} and the distance from known windows"
    judges = {
        "both": f"an exemplar VAE of single steps, {of_windows}, averaged",
        "row": "an exemplar VAE of single steps",
        "window": of_windows,
    }
    windows = ""
    if facts.exemplar_windows:
        windows = f"{facts.exemplar_windows:,} windows of {facts.window:,} steps, which are the fit's data scaled, "
    lines = [
        f"# {manifest.name}",
        "",
        f"An anomaly detector for series: windows of {facts.window:,} steps of {_cell(facts.step)} over {len(manifest.columns):,} "
        f"channels, {assets}; {judges[facts.members]}; fitted on {facts.refitted_on or split.train:,} normal steps of `{origin.data}`, made "
        f"{origin.created}.",
        "",
        "## What it promises",
        "",
        f"- Newest step, judged by its past (streams, `--past-only`): {_promise(manifest.calibration)}",
        f"- Steps of a whole series, judged by all windows that cover them: {_promise(facts.batch)}",
        f"- {_parts(manifest, facts)} Steps that resemble their neighbours count for fewer independent ones.",
        "",
        "## What it cannot do",
        "",
        "It knows the normal operation it saw. A new operating mode, a new sensor or a slow drift looks strange to it until it "
        "is fitted again. Its score is measured in spreads of normal steps, not in nats, and compares with that of no other "
        "detector. An asset not met before is scaled by all assets together and held against the pooled table, which "
        "promises nothing for it. It says how strange a step is, not how dangerous.",
        "",
        "## Privacy",
        "",
        f"The bundle stores {manifest.exemplars:,} training steps, which are training data in all but name, {windows}"
        "and the mean and spread of every channel of every asset.",
        "",
        "## Channels",
        "",
        "| channel | missing in training |",
        "|---|---|",
        *(f"| {_cell(column.name)} | {column.missing_share:.1%} |" for column in manifest.columns),
        "",
    ]
    if manifest.left_out:
        lines += ["Left out:", "", *(f"- {_cell(column.name)}: {column.reason}" for column in manifest.left_out), ""]
    if warnings:
        lines += ["## Warnings", "", *(f"- {warning}" for warning in warnings), ""]
    lines += ["## Training", "", f"Took {record.metrics['fit_seconds']:.1f} s.", ""]
    return "\n".join(lines)


def _parts(manifest: Manifest, facts: SeriesFacts) -> str:
    """Which steps trained and which calibrate."""
    split, anew = manifest.split, manifest.calibration.recalibrated
    earliest = f"The earliest {split.train:,} steps trained"
    found = f"{earliest}, the next {split.validation:,} chose when to stop, the latest {split.calibration:,} calibrate."
    if facts.refitted_on is not None:
        found = (
            f"{earliest} a first network, the next {split.validation:,} chose when it was to stop, and the latest "
            f"{split.calibration:,}, which it had not seen, calibrate as it scored them. The network that is kept was then "
            f"trained on all {facts.refitted_on:,} steps."
        )
    if anew is None:
        return found
    return (
        f"{found} That calibration counts no longer: {anew.rows:,} rows of `{_cell(anew.data)}` calibrate in its place."
    )


def _promise(calibration: Calibration) -> str:
    worth = (
        "" if calibration.effective_rows is None else f", worth about {calibration.effective_rows:,} independent ones"
    )
    groups = f"; {len(calibration.groups):,} assets have tables of their own" if calibration.by else ""
    return (
        f"at most {calibration.alarm_rate:.2%} of normal steps alarm on average, by {calibration.rows:,} calibration steps"
        f"{worth}{groups}."
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'").replace("\n", " ")
