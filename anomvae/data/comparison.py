"""Which normal rows simpler detectors learn from, and on which rows they are compared with ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from anomvae.data.encoding import encode
from anomvae.data.labels import read_labels
from anomvae.data.reading import open_rows
from anomvae.data.repeats import find_repeats
from anomvae.data.splits import split_rows
from anomvae.errors import InputError, RowError, SchemaError, SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomvae.bundle import Manifest
    from anomvae.data.encoding import EncodedRows
    from anomvae.data.labels import Labels
    from anomvae.data.source import RowSource

    BoolArray = npt.NDArray[np.bool_]

ASK = "name normal rows for the simpler detectors to learn from with --normal DATA"


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """Rows to evaluate on.

    Attributes:
        data: Where they came from, as the user named it.
        rows: All of them, encoded, n rows.
        label: The label column.
        labels: What it says of them.
    """

    data: str
    rows: EncodedRows
    label: str
    labels: Labels


@dataclass(frozen=True, slots=True)
class ComparisonRows:
    """What simpler detectors learn from, and what all detectors are compared on.

    Attributes:
        name: Where the normal rows came from, as the user named it.
        normal: The normal rows to learn from, encoded.
        compared: Which of the evaluated rows are compared on, shape ``(n,)``.
        warnings: Sentences the user must see.
        notes: Sentences the user may want to know.
    """

    name: str
    normal: EncodedRows
    compared: BoolArray
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def comparison_rows(
    evaluated: LabelledRows, manifest: Manifest, normal: str | None, types: Mapping[str, pa.DataType | None]
) -> ComparisonRows:
    """Finds rows to learn from, and leaves out of the comparison what a detector has learnt from.

    Without `normal`, the file that the model was fitted on teaches, if it is still there as it was. Where that is the
    evaluated file, the split of the fit is drawn again: the rows the model learnt from (training and validation) teach,
    the others are compared on. Evaluated normal rows that stand among those learnt from are left out where there are more
    of them than rows like these repeat; in a table of few different rows they stay.

    Args:
        evaluated: The labelled rows.
        manifest: The model's.
        normal: Path of normal rows, as the user named it; None: those of the fit.
        types: Arrow types of the scored columns, to read text formats with.

    Raises:
        SettingError: There are no normal rows to learn from without `normal`, or it names the evaluated rows themselves.
        SchemaError: No row is normal, or nothing is left to compare on.
        RowError: The normal rows do not fit the detector.
        DataFileError: They cannot be read.
    """
    digest = open_rows(evaluated.data, types=types).digest()
    is_fit = digest == manifest.provenance.digest
    knows_all = manifest.split.folds or (manifest.split.how == "random" and manifest.prior != "normal")
    if is_fit and knows_all:
        raise SettingError(
            f"{evaluated.data} is what the model was fitted on, and the model knows all of its normal rows, calibration rows "
            "among them: evaluate labelled rows that the fit did not have"
        )
    seen = rows_learnt_from(evaluated.data, manifest) if is_fit else None
    if normal is not None:
        source = open_rows(normal, types=types)
    else:
        source = open_rows(evaluated.data) if is_fit else _fit_source(manifest)
    if source.digest() != digest:
        learnt = _normal_rows(source, manifest, evaluated.label)
    elif seen is not None:
        learnt = evaluated.rows.take(np.flatnonzero(seen & evaluated.labels.normal))
    else:
        raise SettingError(_same_rows(evaluated.data, source.name, is_fit=is_fit))
    compared = ~evaluated.labels.unknown if seen is None else ~evaluated.labels.unknown & ~seen
    known, told = _known(evaluated, compared, learnt, source.name)
    _refuse_one_class(evaluated, compared & ~known)
    warnings = (_told_of_fit(evaluated.data, told=seen is not None),) if is_fit else ()
    return ComparisonRows(
        name=source.name,
        normal=learnt,
        compared=compared & ~known,
        warnings=warnings + (told if known.any() else ()),
        notes=() if known.any() else told,
    )


def rows_learnt_from(data: str, manifest: Manifest) -> BoolArray | None:
    """Which rows of the fit's own file trained the model or decided when to stop: its split, drawn again.

    Args:
        data: The file, as it was at the fit.
        manifest: The model's.

    Returns:
        Shape ``(n,)``; None where the split does not come out as the manifest has it.
    """
    rows = open_rows(data).table()
    split, calibration = manifest.split, manifest.calibration
    try:
        normal = np.flatnonzero(read_labels(rows, _label_of(manifest)).normal)
        again = split_rows(
            rows.take(pa.array(normal)),
            alarm_rate=calibration.alarm_rate / (2.0 if calibration.decision == "either" else 1.0),
            seed=manifest.provenance.seed,
            time=split.column if split.how == "time" else None,
            by=split.column if split.how == "group" else None,
        )
    except InputError:
        return None
    parts = (again.train, again.validation, again.calibration)
    if tuple(map(len, parts)) != (split.train, split.validation, split.calibration):
        return None
    seen = np.zeros(rows.num_rows, dtype=bool)
    seen[normal[again.train]] = seen[normal[again.validation]] = True
    return seen


def _fit_source(manifest: Manifest) -> RowSource:
    """The file the model was fitted on, if it is there and as it was."""
    name = manifest.provenance.data
    try:
        source = open_rows(name)
        digest = source.digest()
    except InputError:
        raise SettingError(f"the model was fitted on {name}, which is not here; {ASK}") from None
    if digest != manifest.provenance.digest:
        raise SettingError(f"the model was fitted on {name}, which has changed since; {ASK}")
    return source


def _normal_rows(source: RowSource, manifest: Manifest, label: str) -> EncodedRows:
    """The normal rows of a file: all, or those that its label columns call normal."""
    rows = source.table()
    normal = np.ones(rows.num_rows, dtype=bool)
    try:
        for column in dict.fromkeys((label, _label_of(manifest))):
            if column in rows.schema.names:
                normal &= read_labels(rows, column).normal
        encoded = encode(rows, manifest.columns)
    except SchemaError as error:
        raise SchemaError(f"{source.name}: {error}") from None
    except RowError as error:
        raise RowError(f"{source.name}: {error}") from None
    if not normal.any():
        raise SchemaError(f"{source.name} has no normal rows to learn from; {ASK}")
    return encoded.take(np.flatnonzero(normal))


def _known(
    evaluated: LabelledRows, compared: BoolArray, learnt: EncodedRows, name: str
) -> tuple[BoolArray, tuple[str, ...]]:
    """Evaluated normal rows to leave out since they were learnt from, and what to say of rows that repeat."""
    known = np.zeros(len(compared), dtype=bool)
    normal = np.flatnonzero(compared & evaluated.labels.normal)
    repeats = find_repeats(evaluated.rows.take(normal), learnt)
    count, usual = int(repeats.repeated.sum()), f"{repeats.usual:.1%} of those repeat among themselves"
    if count == 0:
        return known, ()
    found = f"{count:,} of {len(normal):,} normal rows to compare on are identical to rows learnt from in {name}"
    if not repeats.are_too_many:
        return known, (f"{found}; since {usual}, they count as fresh rows",)
    known[normal[repeats.repeated]] = True
    return known, (f"{found}, where only {usual}: they look like the same rows and are left out of the comparison",)


def _refuse_one_class(evaluated: LabelledRows, compared: BoolArray) -> None:
    labels = evaluated.labels
    if not (compared & labels.normal).any() or not (compared & labels.anomalous).any():
        kind = "normal rows" if (compared & labels.anomalous).any() else "anomalies"
        raise SchemaError(
            f"without the rows that were learnt from, {evaluated.data} has no {kind} left to compare detectors on; "
            "evaluate labelled rows that no detector has learnt from"
        )


def _label_of(manifest: Manifest) -> str | None:
    """The label column of the fit."""
    return next((column.name for column in manifest.left_out if column.role == "label"), None)


def _same_rows(data: str, normal: str, *, is_fit: bool) -> str:
    if is_fit:
        return (
            f"{data} is what the model was fitted on, and which of its rows it learnt from cannot be worked out; "
            f"{ASK} that are not evaluated"
        )
    return f"--normal {normal} holds the very rows to evaluate, and detectors know what they have learnt; name other normal rows"


def _told_of_fit(data: str, *, told: bool) -> str:
    start = f"the model was fitted on {data} itself: the measures of all its rows include rows it learnt from"
    if told:
        return f"{start}; the comparison leaves these out"
    return f"{start}, and so does the comparison, in favour of this detector"
