"""Another calibration for a detector that is fitted: on other normal rows, to another promise. The weights stay."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from anomvae.bundle import Bundle, Recalibration, write_bundle
from anomvae.bundle.folder import GRAPH, RECORD, refuse_occupied
from anomvae.calibration import Budget, Calibrated, CalibrationRows, calibrate
from anomvae.data.encoding import encode_for, group_names, require_columns
from anomvae.data.labels import read_labels
from anomvae.data.reading import open_rows
from anomvae.data.series import known_columns
from anomvae.errors import BundleError, DataFileError, SchemaError, SettingError
from anomvae.export.calibration_graph import scoring_digest
from anomvae.export.graph import recalibrated_graph
from anomvae.export.parity import check_recalibrated
from anomvae.fitting.card import model_card
from anomvae.fitting.series_recalibration import recalibrate_series
from anomvae.fitting.settings import PRIVATE_LEAST
from anomvae.report import render_recalibration
from anomvae.scoring.needs import arrow_types
from anomvae.scoring.session import GraphSession

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anomvae.bundle import Calibration, Manifest
    from anomvae.data.encoding import EncodedRows
    from anomvae.fitting.settings import Decision

SCORES = ("score", "reconstruction_error")
FIRST_FORMAT = 2
"""The first bundle format whose graphs have the calibration as a part of its own."""


@dataclass(frozen=True, slots=True)
class RecalibrationSettings:
    """What a recalibration is asked for; None: as the detector was calibrated before.

    Attributes:
        alarm_rate: Share of normal rows that may alarm.
        alarms_per_day: The same as a number a day.
        rows_per_day: Normal rows a day.
        confidence: Of the promise for these very rows; 0: on average over such rows.
        tail: Whether rates that the rows cannot support are extrapolated.
        decision: What gives the verdict.
        by: Column whose groups get calibrations of their own; empty: none.
        label: Column that marks anomalies, which do not calibrate.
    """

    alarm_rate: float | None = None
    alarms_per_day: float | None = None
    rows_per_day: float | None = None
    confidence: float | None = None
    tail: bool | None = None
    decision: Decision | None = None
    by: str | None = None
    label: str | None = None

    def budget(self, before: Calibration) -> Budget:
        """What may alarm, where nothing is said as before."""
        confidence = before.confidence if self.confidence is None else self.confidence or None
        if (self.alarm_rate, self.alarms_per_day, self.rows_per_day) != (None, None, None):
            return Budget.of(self.alarm_rate, self.alarms_per_day, self.rows_per_day, confidence)
        if before.alarms_per_day is not None:
            return Budget.of(None, before.alarms_per_day, before.rows_per_day, confidence)
        return Budget.of(before.alarm_rate, None, None, confidence)


@dataclass(frozen=True, slots=True)
class RecalibrationResult:
    """What a recalibration leaves.

    Attributes:
        bundle: The new bundle, written.
        before: The calibration that it replaces.
        scoring_digest: Digest of the graph's scoring part, the same before and after.
        rows: Normal rows that calibrated.
        left_out: Rows that are labelled as anomalies, or not at all.
        would_have_alarmed: Share of the rows that the old calibration would have had alarm, at its own rate.
    """

    bundle: Bundle
    before: Calibration
    scoring_digest: str
    rows: int
    left_out: int
    would_have_alarmed: float


def recalibrate_bundle(data: Any, bundle: Bundle, settings: RecalibrationSettings, out: Path) -> RecalibrationResult:
    """Calibrates a detector on normal rows that it was not fitted on, and writes it as another bundle.

    The graph keeps its scoring part, byte for byte; p-values, thresholds and verdict are made anew.

    Args:
        data: File, folder, glob, or a pandas or Arrow table of normal rows.
        bundle: The detector.
        settings: What to promise.
        out: Folder of the new bundle.

    Raises:
        BundleError: The detector's graph is of format 1.
        DataFileError: The rows are none, or those that the detector was fitted on.
        RowError: They do not fit the detector.
        TooFewRowsError: They cannot support the budget.
        SettingError: The budget is none.
    """
    manifest = bundle.manifest
    _refuse_old(manifest)
    before, by = manifest.calibration, _group_column(manifest, settings)
    budget, decision = settings.budget(before), settings.decision or _decision(before)
    refuse_occupied(out.absolute())
    source = open_rows(data, types=arrow_types(manifest))
    digest = source.digest()
    if digest == manifest.provenance.digest:
        raise DataFileError(
            f"{source.name} holds the rows that {manifest.name!r} was fitted on, which it knows: they alarm less than others; "
            "name normal rows that it has not seen"
        )
    rows = source.table()
    normal = _normal_rows(rows, manifest, settings.label, source.name)
    kept = rows if len(normal) == rows.num_rows else rows.take(pa.array(normal))
    tail = before.tail is not None if settings.tail is None else settings.tail
    told = Recalibration(source.name, digest, rows.num_rows, _now())
    if manifest.series is not None:
        if by != before.by:
            raise SettingError("the assets of a series detector are those of its fit: leave --by out")
        made = recalibrate_series(bundle, kept, budget, decision=decision, tail=tail, source=told, out=out)
        written, scoring, count, alarms = made
        return RecalibrationResult(written, before, scoring, count, rows.num_rows - len(normal), alarms)
    encoded, (groups, by_type) = encode_for(kept, manifest), _groups(kept, by, source.name)
    fewest = PRIVATE_LEAST + 1 if manifest.private else 1
    found = GraphSession(bundle.graph, manifest.width).run_in_chunks(encoded, [*SCORES, "alarm"])
    calibrated = calibrate(
        CalibrationRows(found["score"], found["reconstruction_error"], groups, by_type, fewest),  # type: ignore[arg-type]
        budget,
        decision=decision,
        tail=tail,
        by=by,
    )
    facts = replace(calibrated.facts, recalibrated=told)
    written, scoring = _write(bundle, replace(manifest, calibration=facts), calibrated, encoded, out)
    alarms = np.count_nonzero(found["alarm"]) / len(encoded)
    return RecalibrationResult(written, before, scoring, len(encoded), rows.num_rows - len(encoded), alarms)


def _refuse_old(manifest: Manifest) -> None:
    if manifest.format_version < FIRST_FORMAT:
        raise BundleError(
            f"{manifest.name!r} has bundle format {manifest.format_version}, whose calibration cannot be taken off its graph; "
            "fit it again"
        )


def _write(
    bundle: Bundle, manifest: Manifest, calibrated: Calibrated, rows: EncodedRows, out: Path
) -> tuple[Bundle, str]:
    """The new bundle and the digest of its scoring part."""
    calibration = manifest.calibration
    old = bundle.graph.read_bytes()
    graph = recalibrated_graph(old, calibrated.tables, calibration.alarm_rate)
    scoring = scoring_digest(graph)
    if scoring != scoring_digest(old):
        raise AssertionError("the scoring part of the graph changed")
    check_recalibrated(graph, calibrated.tables, rows, calibration.alarm_rate)
    record = bundle.read_record()
    record = replace(
        record,
        parameters={**record.parameters, "alarm_rate": calibration.alarm_rate, "decision": calibration.decision}
        | {"calibration": "recalibrated"},
        metrics={
            **{
                name: value for name, value in record.metrics.items() if not name.startswith("power_")
            },  # of the old verdict
            "score_threshold": calibration.score_threshold,
            "reconstruction_threshold": calibration.reconstruction_threshold,
        },
        evaluation={},  # of the verdicts before
    )
    files = {name: (bundle.folder / name).read_bytes() for name in manifest.files}
    files |= {
        GRAPH: graph,
        RECORD: record.to_json().encode(),
        "card.md": model_card(manifest, record, ()).encode(),
        "report.html": render_recalibration(manifest, bundle.manifest.calibration, calibrated).encode(),
    }
    return write_bundle(out, manifest, files), scoring


def _decision(before: Calibration) -> Decision:
    return "both" if before.decision == "either" else before.decision


def _group_column(manifest: Manifest, settings: RecalibrationSettings) -> str | None:
    by = manifest.calibration.by if settings.by is None else settings.by or None
    if by is not None and any(column.name == by and column.is_numeric for column in manifest.columns):
        raise SettingError(f"--by names {by!r}, a number that the detector scores; name a column of groups")
    return by


def _normal_rows(rows: pa.Table, manifest: Manifest, label: str | None, name: str) -> np.ndarray[Any, Any]:
    require_columns(rows.schema.names, manifest.columns, known_columns(manifest))
    if label is None:  # the column that marked anomalies at the fit marks them here
        known = [column.name for column in manifest.left_out if column.role == "label"]
        label = next((column for column in known if column in rows.schema.names), None)
    normal = np.flatnonzero(read_labels(rows, label).normal)
    if rows.num_rows == 0:
        raise DataFileError(f"{name} has no rows")
    if not len(normal):
        raise SchemaError(f"the label column {label!r} marks no row of {name} as normal")
    return normal


def _groups(rows: pa.Table, by: str | None, name: str) -> tuple[Sequence[str | None] | None, str]:
    if by is None:
        return None, "string"
    if by not in rows.schema.names:
        raise SchemaError(f"{name} has no column {by!r} for groups; name another with --by, or none with --by ''")
    return group_names(rows.column(by))


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
