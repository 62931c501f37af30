"""Times of rows in the unit of the step that a detector of series was fitted with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anomvae.data.encoding import NUMBER_TYPE, is_text
from anomvae.data.step import TimeUnit
from anomvae.data.times import read_times
from anomvae.errors import SchemaError

if TYPE_CHECKING:
    from anomvae.bundle import SeriesFacts

MICROS_A_SECOND = 1e6


def with_fitted_times(rows: pa.Table, facts: SeriesFacts) -> pa.Table:
    """Rows with times as a detector takes them: numbers since 1970 as timestamps where it was fitted on those.

    Args:
        rows: At least the column of the time.
        facts: The detector's.

    Raises:
        SchemaError: The rows have numbers and the fit had instants, or the other way round, and nobody can turn the one into
            the other.
    """
    cells = rows.column(facts.time)
    was_text = "string" in facts.time_type
    if is_text(cells.type) and not was_text:
        cells = _numbers_of(cells)
    is_count = _is_number(cells.type)
    if is_count == facts.counts_time or was_text or not len(cells):
        return rows
    if is_count:
        return rows.set_column(rows.schema.names.index(facts.time), facts.time, _timestamps(cells, facts))
    if is_text(cells.type) or pa.types.is_timestamp(cells.type) or pa.types.is_date(cells.type):
        raise SchemaError(
            f"the time column {facts.time!r} holds dates or timestamps, and the model's step of {facts.step} counts numbers; "
            "write the time as the numbers that the fit had, or fit on timestamps"
        )
    return rows  # a type that is no time is refused where it is read


def _timestamps(cells: pa.ChunkedArray, facts: SeriesFacts) -> pa.ChunkedArray:
    times = read_times(cells, facts.time)
    unit = TimeUnit.of(times, cells.type, facts.time)
    if unit.per_second is None:
        raise SchemaError(
            f"the time column {facts.time!r} holds numbers of an unknown unit, and the model's step of {facts.step} goes by "
            "timestamps; write timestamps, or seconds or milliseconds since 1970"
        )
    micros = np.round(times * (MICROS_A_SECOND / unit.per_second)).astype(np.int64)
    return pa.chunked_array([pa.array(micros, pa.timestamp("us"))])


def _numbers_of(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text as numbers, or as it is where a cell is none."""
    try:
        return pc.cast(pc.utf8_trim_whitespace(text), pa.float64())
    except pa.ArrowInvalid:
        return text


def _is_number(kind: pa.DataType) -> bool:
    return NUMBER_TYPE.fullmatch(str(kind)) is not None
