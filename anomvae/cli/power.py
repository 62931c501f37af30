"""`anomvae power`: what a detector notices, measured without labels."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomvae.cli.console import err, escape, out, table, warn
from anomvae.cli.options import AlarmRate, Data, Model, TrackingUri
from anomvae.errors import MissingExtraError, SchemaError, SettingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from anomvae.bundle import Manifest
    from anomvae.data.encoding import EncodedRows
    from anomvae.evaluation.power import Alarms
    from anomvae.evaluation.power_result import ColumnPower, PowerResult
    from anomvae.scoring import Scorer

MOST_LINES = 50
"""Columns a table shows, hardest first; JSON has all."""


def power(
    data: Data,
    model: Model,
    label: Annotated[
        str | None,
        typer.Option(
            "--label",
            help="Column that marks anomalies, which are then left out; default: the model's, if the data have it.",
            show_default=False,
        ),
    ] = None,
    alarm_rate: AlarmRate = None,
    rows: Annotated[int, typer.Option("--rows", help="Most normal rows that faults are put into.")] = 300,
    seed: Annotated[int, typer.Option("--seed", help="Seed of every draw.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Measure what a detector notices, without labels: faults are put into normal rows it was not fitted on."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("`anomvae power`", "train") from error
    from anomvae.detector import find_bundle
    from anomvae.evaluation.power import measure_power
    from anomvae.evaluation.power_result import PowerSettings
    from anomvae.evaluation.power_words import flattery, sentences
    from anomvae.scoring import Scorer

    scorer = Scorer(find_bundle(model, tracking_uri=tracking_uri))
    scorer.check_alarm_rate(alarm_rate)
    rate = scorer.manifest.calibration.alarm_rate if alarm_rate is None else alarm_rate
    settings = PowerSettings(rate, rows=rows, seed=seed)
    taken = _normal_rows(data, scorer.manifest, label)
    with err().status("putting faults into normal rows"):
        found = measure_power(
            _alarms(scorer, taken.rows, alarm_rate),
            taken.rows.numeric,
            taken.rows.categorical,
            scorer.manifest.columns,
            settings,
        )
    warnings = [warning for warning in (taken.warning, flattery(found)) if warning]
    for warning in warnings:
        warn(warning)
    if as_json:
        more = {"notes": list(taken.notes), "warnings": warnings, "says": sentences(found)}
        typer.echo(json.dumps(found.as_dict() | more, indent=2))
        return
    _show(found, taken.notes)


@dataclass(frozen=True, slots=True)
class _Taken:
    """The rows that faults are put into, and what to say of them."""

    rows: EncodedRows
    notes: tuple[str, ...]
    warning: str | None


def _normal_rows(data: str, manifest: Manifest, label: str | None) -> _Taken:
    """The normal rows of the data that the detector was not fitted on."""
    import numpy as np

    from anomvae.data.encoding import encode_for
    from anomvae.data.labels import read_labels
    from anomvae.data.reading import open_rows
    from anomvae.scoring.needs import arrow_types

    source = open_rows(data, types=arrow_types(manifest))
    rows = source.table()
    encoded = encode_for(rows, manifest)
    name = label or _label_of(manifest, rows)
    labels = read_labels(rows, name)
    taken, notes, warning = labels.normal, [], None
    if name is not None:
        left_out = len(taken) - int(taken.sum())
        notes.append(f"Column {name!r} marks {int(taken.sum()):,} rows as normal; the other {left_out:,} are left out.")
        if not taken.any():
            raise SchemaError(
                f"the label column {name!r} marks no row of {data} as normal; faults are put into normal rows"
            )
    digest, again = source.digest(), manifest.calibration.recalibrated
    if again is not None and digest == again.digest:
        warning = (
            f"the model was calibrated on {data}: these rows alarm as often as stated by construction; rows that neither the "
            "fit nor the calibration had tell more"
        )
    if digest == manifest.provenance.digest:
        taken = taken & ~_seen(data, manifest)
        warning = (
            f"the model was fitted on {data} itself: faults are put into its {int(taken.sum()):,} calibration rows, whose alarm "
            "rate is as stated by construction; rows that the fit did not have tell more"
        )
    return _Taken(encoded.take(np.flatnonzero(taken)), tuple(notes), warning)


def _label_of(manifest: Manifest, rows: pa.Table) -> str | None:
    """The label column of the fit, if the rows have it."""
    labels = [column.name for column in manifest.left_out if column.role == "label"]
    return next((name for name in labels if name in rows.schema.names), None)


def _seen(data: str, manifest: Manifest) -> npt.NDArray[np.bool_]:
    """Which rows of the fit's own data it has learnt from.

    Raises:
        SettingError: All of them, or that cannot be told.
    """
    from anomvae.data.comparison import rows_learnt_from

    advice = "give normal rows that the fit did not have"
    knows_all = manifest.split.how == "random" and manifest.prior != "normal"
    if knows_all or manifest.calibration.method == "cross":
        raise SettingError(
            f"{data} is what the model was fitted on, and the model knows all of its normal rows, calibration rows among "
            f"them: {advice}"
        )
    seen = rows_learnt_from(data, manifest)
    if seen is None:
        raise SettingError(
            f"{data} is what the model was fitted on, and which of its rows it learnt from cannot be worked out; {advice}"
        )
    return seen


def _alarms(scorer: Scorer, rows: EncodedRows, alarm_rate: float | None) -> Alarms:
    """Verdicts of faulty rows, on every core."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    size = scorer.session.chunk_rows

    def alarms(
        numeric: npt.NDArray[np.float32], categorical: npt.NDArray[np.int64], of: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        faulty = replace(rows.take(of), numeric=numeric, categorical=categorical)
        parts = [faulty.take(slice(start, start + size)) for start in range(0, len(of), size)]
        with ThreadPoolExecutor(scorer.threads, thread_name_prefix="power") as pool:
            found = list(pool.map(lambda part: scorer.answers(part, ["alarm"], alarm_rate)["alarm"], parts))
        return np.concatenate(found).astype(bool)

    return alarms


def _show(found: PowerResult, notes: Sequence[str]) -> None:
    from anomvae.evaluation.faults import CATEGORICAL_FAULTS, NUMERIC_FAULTS
    from anomvae.evaluation.power_words import FAULT_WORDS, FEW, basis, blind_spots, meaning

    console = out()
    for line in (*notes, *basis(found)):
        console.print(escape(line))
    shifted = [column for column in found.numbers if column.shift is not None]
    if shifted:
        console.print(_shift_table(shifted))
    for title, shown, faults in (
        ("share caught of other faults in numbers", found.numbers, NUMERIC_FAULTS),
        ("share caught of faults in categories", found.categories, CATEGORICAL_FAULTS),
    ):
        if shown:
            console.print(_fault_table(title, shown, faults))
    console.print(escape("; ".join(f"{fault}: {FAULT_WORDS[fault]}" for fault in found.faults)))
    if found.has_few:
        console.print(escape(FEW))
    for line in (*blind_spots(found), *meaning(found)):
        console.print()
        console.print(escape(line))


def _shift_table(columns: Sequence[ColumnPower]) -> Any:
    """Shifts, hardest to catch first."""
    from anomvae.evaluation.power_result import BLIND_STD
    from anomvae.evaluation.power_words import shift_words

    at = f"at {BLIND_STD:g} std"
    headings = ("column", "half of the time", "9 times in 10", at, "rows")
    lines = []
    for column in columns:
        if column.shift is None:
            continue
        shift = column.shift
        each = (shift_words(shift.half, shift), shift_words(shift.ninety, shift), f"{shift.at(BLIND_STD):.0%}")
        lines.append((column.name, *each, f"{column.rows:,}"))
    title = "smallest shift caught, std (95 % interval)"
    return table(_cut(title, lines), headings, lines[:MOST_LINES], right=(at, "rows"))


def _fault_table(title: str, columns: Sequence[ColumnPower], faults: Sequence[str]) -> Any:
    """Shares caught of other faults."""
    shown = [fault for fault in faults if any(fault in column.faults for column in columns)]
    lines = [
        (
            column.name,
            *(_cell(column, fault) for fault in shown),
            f"{column.rows:,}",
        )
        for column in columns
    ]
    return table(_cut(title, lines), ("column", *shown, "rows"), lines[:MOST_LINES], right=(*shown, "rows"))


def _cell(column: ColumnPower, fault: str) -> str:
    if fault not in column.faults:
        return ""
    return f"{column.faults[fault].share:.0%}{'*' if column.rests_on_few(fault) else ''}"


def _cut(title: str, lines: Sequence[object]) -> str:
    return (
        title
        if len(lines) <= MOST_LINES
        else f"{title}: {MOST_LINES} hardest of {len(lines):,} columns, --json has all"
    )
