"""The first half of a fit: rows read, understood, divided and encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from anomvae.calibration.calibrator import rows_it_takes
from anomvae.data.encoding import EncodedRows, encode, group_names
from anomvae.data.labels import Labels, read_labels
from anomvae.data.reading import open_rows
from anomvae.data.schema import Schema, check_names, describe, infer_schema
from anomvae.data.splits import CalibrationMethod, RowSplit, calibration_method, part_sizes, split_rows
from anomvae.errors import DataFileError, SchemaError, TooFewRowsError
from anomvae.fitting.privacy import private_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.bundle import Column
    from anomvae.fitting.settings import FitSettings

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PreparedData:
    """Rows ready to fit on.

    Attributes:
        name: Where they came from, as the user named it.
        digest: Digest of the data.
        n_rows: Rows read.
        schema: Kinds and what was left out.
        columns: Facts about the scored columns, from training rows alone.
        split: Which normal rows do what, as positions in `normal`.
        normal: The normal rows, encoded.
        normal_rows: Their row numbers in the data.
        labelled: Labelled anomalies, encoded.
        labelled_rows: Their row numbers.
        unlabelled: Rows left out for want of a label.
        group: Group of each normal row, then of each labelled one, as text; None without groups.
        by_type: Arrow type of the groups' column.
    """

    name: str
    digest: str
    n_rows: int
    schema: Schema
    columns: tuple[Column, ...]
    split: RowSplit
    normal: EncodedRows
    normal_rows: IntArray
    labelled: EncodedRows
    labelled_rows: IntArray
    unlabelled: int
    group: tuple[Sequence[str | None], Sequence[str | None]] | None = None
    by_type: str = "string"

    def groups(self, positions: IntArray) -> list[str | None] | None:
        """Groups of normal rows by position; None without groups."""
        return None if self.group is None else [self.group[0][position] for position in positions]


def prepare(data: Any, settings: FitSettings) -> PreparedData:
    """Reads and prepares the rows of a fit.

    Args:
        data: File, folder, glob, or a pandas or Arrow table.
        settings: Roles of columns, alarm rate, seed.

    Raises:
        DataFileError: The data cannot be read or are empty.
        SchemaError: Nothing can be learnt from them.
        TooFewRowsError: They cannot support the alarm rate.
    """
    source = open_rows(data)
    check_names(source.schema.names, settings.rules)
    rows = source.table()
    if rows.num_rows == 0:
        raise DataFileError(f"{source.name} has no rows")
    labels = read_labels(rows, settings.label)
    normal_rows = np.flatnonzero(labels.normal)
    n_normal = _some_normal(normal_rows, labels, settings)
    calibration = calibration_method(settings.calibration, n_normal, settings.time)
    _refuse_too_few(n_normal, settings, calibration)
    everything = len(normal_rows) == rows.num_rows
    normal = rows if everything else rows.take(pa.array(normal_rows))
    schema = infer_schema(normal, settings.rules)
    split = _split(normal, settings, calibration)
    columns = describe(normal, schema.kinds, split.train)
    if settings.private:
        columns = private_columns(columns, normal, split.train)
    labelled_rows = np.flatnonzero(labels.anomalous)
    groups, by_type = None, "string"
    if settings.by is not None:
        names, by_type = group_names(rows.column(settings.by))
        groups = [names[row] for row in normal_rows], [names[row] for row in labelled_rows]
    return PreparedData(
        name=source.name,
        digest=source.digest(),
        n_rows=rows.num_rows,
        schema=schema,
        columns=columns,
        split=split,
        normal=encode(normal, columns),
        normal_rows=normal_rows,
        labelled=encode(rows.take(pa.array(labelled_rows)), columns),
        labelled_rows=labelled_rows,
        unlabelled=int(labels.unknown.sum()),
        group=groups,
        by_type=by_type,
    )


def _split(normal: pa.Table, settings: FitSettings, calibration: CalibrationMethod) -> RowSplit:
    return split_rows(
        normal,
        alarm_rate=settings.least_rate,
        seed=settings.training.seed,
        time=settings.time,
        by=settings.by,
        calibration=calibration,
        group_rows=rows_it_takes(settings.budget, settings.decision),
    )


def _refuse_too_few(n: int, settings: FitSettings, calibration: CalibrationMethod) -> None:
    """Refuses rows that cannot support the budget, in the budget's own words."""
    try:
        part_sizes(n, settings.least_rate, calibration)
    except TooFewRowsError as error:
        budget = settings.budget
        if budget.confidence is None or settings.tail:
            raise
        beside = " to calibrate, beside those to train" if calibration == "split" else ""
        raise TooFewRowsError(
            f"{n:,} normal rows cannot support an alarm rate of {budget.alarm_rate:.2g} with {100 * budget.confidence:g} % "
            f"confidence: that takes {rows_it_takes(budget, settings.decision):,} rows{beside}; bring at least "
            f"{error.rows_needed:,} normal rows, bear more alarms, or leave --confidence out",
            error.rows_needed,
        ) from None


def _some_normal(normal_rows: IntArray, labels: Labels, settings: FitSettings) -> int:
    if len(normal_rows) == 0:
        raise SchemaError(
            f"the label column {settings.label!r} marks no row as normal, and there is nothing else to learn from; "
            f"{int(labels.anomalous.sum()):,} rows are anomalous"
        )
    return len(normal_rows)
