"""How rows follow each other: their order, the column that holds the time, and the groups."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from anomvae.data.concerns import EPOCH, Concern, codes_of, rows_where, times
from anomvae.data.encoding import is_text, numbers_of, text_of
from anomvae.errors import CellError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomvae.data.concerns import Severity, Table

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

ZONE = re.compile(r"(Z|[+-]\d\d:?\d\d)\s*$")


def sequence_of(rows: pa.Table, time: str | None, by: str | None) -> tuple[IntArray | None, IntArray, BoolArray | None]:
    """Row positions by time alone, row positions in sequence, and where in sequence groups start."""
    instants = None if time is None else _instants(rows.column(time))
    in_time = None if instants is None else np.argsort(instants, kind="stable").astype(np.int64)
    order = np.arange(rows.num_rows) if in_time is None else in_time
    if by is None:
        return in_time, order, None
    groups = codes_of(text_of(rows.column(by)))[0]
    if in_time is not None:
        order = order[np.argsort(groups[order], kind="stable")]
    return in_time, order, np.concatenate([[True], np.diff(groups[order]) != 0])


def time_concerns(table: Table) -> Iterator[Concern]:
    """Concerns about the column that orders the rows: holes, order, repeats and gaps."""
    name = table.time
    if name is None:
        return
    cells = table.rows.column(name)
    if cells.null_count:
        where = rows_where(np.asarray(pc.is_null(cells)))
        yield Concern(
            "problem", name, f"Column {name!r} orders the rows but is empty in {where}; fill or drop these rows."
        )
    instants = _instants(cells)
    if instants is None:
        yield Concern(
            "problem", name, f"Column {name!r} is {cells.type} and orders nothing{_zones(cells)}; make it a timestamp."
        )
        return
    first = np.zeros(table.n, dtype=bool) if table.new_group is None else table.new_group.copy()
    first[0] = True
    steps = np.where(first, np.nan, _changes(instants[table.order]))
    in_file = np.argsort(table.order, kind="stable")
    back = _changes(instants) < 0
    if table.by is not None:
        back &= np.diff(np.cumsum(first)[in_file], prepend=-1) == 0
    if back.any():
        yield Concern("info", name, f"Time {name!r} goes back at {rows_where(back)}; a fit sorts the rows by it.")
    same = (steps == 0)[in_file]
    if same.any():
        advice = "look for repeats" if table.by else "if several assets share the table, name them with --by"
        severity: Severity = "warning" if same.mean() > 0.01 else "info"  # noqa: PLR2004
        yield Concern(
            severity, name, f"Time {name!r} stands still at {rows_where(same)} ({same.mean():.1%}); {advice}."
        )
    with np.errstate(over="ignore"):
        usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else np.inf
    gap = (steps > 10.0 * usual)[in_file]
    if 0 < gap.mean() < 0.05:  # noqa: PLR2004  more often than that, the steps are irregular by nature
        longest = times(float(np.nanmax(steps)) / usual)
        text = f"Time {name!r} jumps ahead at {rows_where(gap)}, by up to {longest} the usual step"
        yield Concern("info", name, f"{text}; see whether rows are lost.")


def group_concerns(table: Table) -> Iterator[Concern]:
    """Concerns about the column that groups the rows: holes, and groups too few, too small or unequal."""
    if table.by is None:
        return
    codes, groups = codes_of(text_of(table.rows.column(table.by)))
    sizes = np.bincount(codes[codes >= 0], minlength=1)
    if (codes < 0).any():
        yield Concern(
            "warning",
            table.by,
            f"Column {table.by!r} groups the rows but is empty in {rows_where(codes < 0)}; fill it.",
        )
    if len(groups) < 3 and table.time is None:  # noqa: PLR2004
        yield Concern(
            "problem", table.by, f"Column {table.by!r} has {len(groups)} groups; a split by group takes 3; bring more."
        )
    single = np.flatnonzero(sizes == 1)
    if len(groups) > 1 and len(single):
        where = rows_where(np.isin(codes, single))
        yield Concern(
            "warning", table.by, f"{len(single):,} of {len(groups):,} groups have one row only ({where}); merge them."
        )
    elif len(groups) > 1 and sizes.max() > 20 * sizes.min():
        yield Concern(
            "info",
            table.by,
            f"The groups of {table.by!r} are very unequal: the largest has {sizes.max() / table.n:.1%} of the rows, "
            f"the smallest {sizes.min():,} rows; the small ones are judged by the pooled calibration.",
        )


def _changes(instants: FloatArray) -> FloatArray:
    """Steps from the one before, NaN at the first and between equal infinities."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.diff(instants, prepend=np.nan)


def _zones(cells: pa.ChunkedArray) -> str:
    if not is_text(cells.type):
        return ""
    zones = {found.group(1) if (found := ZONE.search(value)) else None for value in codes_of(cells)[1]}
    return " and mixes time zones" if len(zones) > 1 else ""


def _instants(cells: pa.ChunkedArray) -> FloatArray | None:
    """Times as numbers, NaN where missing; None if they order nothing."""
    kind = cells.type
    try:
        if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
            return numbers_of(cells, "time", EPOCH).astype(np.float64)
        if pa.types.is_time(kind):
            cells = pc.cast(cells, pa.int32() if pa.types.is_time32(kind) else pa.int64())
        if pa.types.is_boolean(cells.type) or is_text(cells.type) or pa.types.is_dictionary(cells.type):
            return None
        return numbers_of(cells, "time").astype(np.float64)
    except (CellError, pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
