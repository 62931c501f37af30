"""Other calibrations for a series detector: on other normal rows, to another promise. The weights stay."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from anomvae.bundle import write_bundle
from anomvae.bundle.folder import GRAPH, RECORD
from anomvae.calibration import CalibrationRows, calibrate
from anomvae.data.sequences import interval_words
from anomvae.data.series import sequences_for
from anomvae.errors import BundleError, TooFewRowsError
from anomvae.export.calibration_graph import scoring_digest
from anomvae.export.graph import recalibrated_graph
from anomvae.export.series_graph import export_batch_calibration
from anomvae.fitting.series_card import series_card
from anomvae.report import render_recalibration
from anomvae.scoring.series import BATCH_GRAPH, SeriesScoring
from anomvae.vae.series import memory_of

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    import numpy.typing as npt
    import pyarrow as pa

    from anomvae.bundle import Bundle, Calibration, Manifest, Recalibration
    from anomvae.calibration import Budget, Calibrated
    from anomvae.data.series import Sequences
    from anomvae.scoring.series import StepAnswers


def recalibrate_series(  # noqa: PLR0913  all that another calibration takes
    bundle: Bundle,
    rows: pa.Table,
    budget: Budget,
    *,
    decision: Literal["elbo", "reconstruction", "both"],
    tail: bool,
    source: Recalibration,
    out: Path,
) -> tuple[Bundle, str, int, float]:
    """Calibrates newest steps and steps of whole series anew, and writes the detector as another bundle.

    Args:
        bundle: The detector.
        rows: Normal rows that it was not fitted on.
        budget: What may alarm.
        decision: What gives the verdict.
        tail: Whether to extrapolate.
        source: Where the rows came from.
        out: Folder of the new bundle.

    Returns:
        The bundle; the digest of the graph's scoring part; the rows that calibrated; the share of them that the old
        calibration would have had alarm.

    Raises:
        TooFewRowsError: No sequence is as long as a window, or the rows cannot support the budget.
    """
    manifest = bundle.manifest
    if manifest.series is None:
        raise BundleError(f"{manifest.name!r} is no detector of series")
    scoring = SeriesScoring(bundle)
    sequences = sequences_for(rows, manifest)
    online, batch = (scoring.steps(rows, sequences, past_only=past_only) for past_only in (True, False))
    if not len(online.steps):
        apart = interval_words(sequences)
        raise TooFewRowsError(
            f"no sequence of the rows is as long as a window of {manifest.series.window:,} steps"
            f"{'' if apart is None else f' ({apart})'}; bring longer ones",
            manifest.series.window,
        )
    made = [
        calibrate(
            _rows(manifest, sequences, part, past_only=past_only),
            budget,
            decision=decision,
            tail=tail,
            by=manifest.calibration.by,
        )
        for part, past_only in ((online, True), (batch, False))
    ]
    facts = [replace(each.facts, recalibrated=source) for each in made]
    series = replace(manifest.series, batch=facts[1])
    changed = replace(manifest, calibration=facts[0], series=series)
    written, digest = _write(bundle, changed, made[0], made[1], out)
    alarms = np.count_nonzero(online.answers["alarm"]) / len(online.steps)
    return written, digest, len(online.steps), float(alarms)


def _rows(manifest: Manifest, sequences: Sequences, part: StepAnswers, *, past_only: bool) -> CalibrationRows:
    names = None
    if manifest.calibration.by is not None:
        names = [sequences.assets[asset] for asset in sequences.asset[part.steps]]
    score, error = (_wide(part.answers[name]) for name in ("score", "reconstruction_error"))
    memory = 1.0 if manifest.series is None else memory_of(manifest.series.window, past_only=past_only)
    return CalibrationRows(
        score, error, names, sequences.asset_type, segment=sequences.sequence[part.steps], memory=memory
    )


def _whole(bundle: Bundle) -> Calibration | None:
    return None if bundle.manifest.series is None else bundle.manifest.series.batch


def _wide(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    return values.astype(np.float64)


def _write(bundle: Bundle, manifest: Manifest, online: Calibrated, batch: Calibrated, out: Path) -> tuple[Bundle, str]:
    calibration = manifest.calibration
    old = bundle.graph.read_bytes()
    graph = recalibrated_graph(old, online.tables, calibration.alarm_rate)
    digest = scoring_digest(graph)
    if digest != scoring_digest(old):
        raise AssertionError("the scoring part of the graph changed")
    record = bundle.read_record()
    record = replace(
        record,
        parameters={**record.parameters, "alarm_rate": calibration.alarm_rate, "decision": calibration.decision}
        | {"calibration": "recalibrated"},
        metrics={
            **record.metrics,
            "score_threshold": calibration.score_threshold,
            "reconstruction_threshold": calibration.reconstruction_threshold,
            "effective_rows": float(calibration.effective_rows or 0),
        },
        evaluation={},
    )
    files = {name: (bundle.folder / name).read_bytes() for name in manifest.files}
    files |= {
        GRAPH: graph,
        BATCH_GRAPH: export_batch_calibration(batch.tables, calibration.alarm_rate),
        RECORD: record.to_json().encode(),
        "card.md": series_card(manifest, record, ()).encode(),
        "report.html": render_recalibration(manifest, bundle.manifest.calibration, online, _whole(bundle)).encode(),
    }
    return write_bundle(out, manifest, files), digest
