"""What a table of timed rows is as sequences of steps: sorted, without repeats, cut at gaps, between assets and while off."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from anomvae.data.cadence import Cadence, default_gap
from anomvae.data.encoding import codes_of, encode, group_names
from anomvae.data.fitted_times import with_fitted_times
from anomvae.data.off import parse_off
from anomvae.data.step import TimedRows, TimeUnit, stated_step
from anomvae.data.times import read_times
from anomvae.errors import ColumnMismatchError, SchemaError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anomvae.bundle import Column, Manifest, SeriesFacts
    from anomvae.data.off import OffCondition

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

UNEVEN = 0.1
"""A step is uneven if it lies further than this share of a step from a whole number of steps."""


class Fate(enum.IntEnum):
    """What becomes of a row."""

    STEP = 0
    """It is a step of a sequence."""
    REPEATED = 1
    """It falls within half a step of the row before it, which stands for both."""
    OFF = 2
    """Its asset is off; the sequence ends with it."""


@dataclass(frozen=True, slots=True)
class Course:
    """How the rows of a table lie in time.

    Attributes:
        backward: Rows earlier than the row of their asset before them, shape ``(n,)``; sorting mended that.
        gap: Rows with which a sequence begins anew after a gap longer than may be missing in one piece, shape ``(n,)``.
        longest_gap: The longest of those gaps, in steps; 0 without.
        missing: Steps missing within sequences.
        uneven: Share of steps further than a tenth of a step from a whole number of them.
        median_s: Median interval between neighbouring rows of an asset; None: no asset has two.
    """

    backward: BoolArray
    gap: BoolArray
    longest_gap: float
    missing: int
    uneven: float
    median_s: float | None


@dataclass(frozen=True, slots=True)
class Sequences:
    """A table's rows laid out on steps of equal length, one sequence after the other; n rows, m steps, s sequences.

    Attributes:
        values: Raw units, NaN where missing and in missing steps, float32, shape ``(m, d)``.
        row: Row number of each step, counted from 0 in the table as it came; -1: the step is missing; shape ``(m,)``.
        asset: Number of each step's asset among `assets`, shape ``(m,)``.
        sequence: Number of each step's sequence, ascending, shape ``(m,)``.
        step: Position of each row among the steps, -1 for rows that are none, shape ``(n,)``.
        fate: What became of each row, as :class:`Fate`, int8, shape ``(n,)``.
        order: Row numbers sorted by asset and time, stable, shape ``(n,)``.
        time_s: Times of the rows, as :func:`~anomvae.data.times.read_times` reads them, shape ``(n,)``.
        asset_of_row: Number of each row's asset, shape ``(n,)``.
        assets: Names of the assets, in order of appearance; one without a name where no column tells them apart.
        asset_type: Arrow type by which their column's cells are read as text.
        columns: Names of the channels.
        cadence: Length of a step, and what gap may be.
        course: How the rows lie in time.
        unit: That of `time_s` and of the cadence.
    """

    values: npt.NDArray[np.float32]
    row: IntArray
    asset: IntArray
    sequence: IntArray
    step: IntArray
    fate: npt.NDArray[np.int8]
    order: IntArray
    time_s: FloatArray
    asset_of_row: IntArray
    assets: tuple[str, ...]
    asset_type: str
    columns: tuple[str, ...]
    cadence: Cadence
    course: Course
    unit: TimeUnit

    def __len__(self) -> int:
        return len(self.row)

    @property
    def begin(self) -> IntArray:
        """Positions of the steps with which sequences begin, shape ``(s,)``."""
        return np.flatnonzero(np.diff(self.sequence, prepend=-1))

    @property
    def length(self) -> IntArray:
        """Steps in each sequence, shape ``(s,)``."""
        return np.diff(np.append(self.begin, len(self)))

    @property
    def rows_of_asset(self) -> IntArray:
        """Rows of each asset, whatever became of them, shape ``(a,)``."""
        return np.bincount(self.asset_of_row, minlength=len(self.assets))

    def to_rows(self, of_steps: FloatArray) -> FloatArray:
        """Values of steps as values of the rows, NaN for rows that are no steps.

        Args:
            of_steps: Shape ``(m, ...)``.
        """
        of_rows = np.full((len(self.step), *of_steps.shape[1:]), np.nan)
        of_rows[self.row[self.row >= 0]] = of_steps[self.row >= 0]
        return of_rows

    def reasons(self, answered: BoolArray) -> list[str | None]:
        """Why each row has no score: `repeated`, `off`, or `filling` where no window reaches; None: it has one.

        Args:
            answered: Steps that have a score, shape ``(m,)``.
        """
        code = np.where(self.fate == Fate.STEP, 1, self.fate + 1)
        code[self.row[answered & (self.row >= 0)]] = 0
        words = (None, "filling", "repeated", "off")
        return [words[place] for place in code.tolist()]


def read_sequences(  # noqa: PLR0913  what lays rows out, each with a default but the first three
    rows: pa.Table,
    *,
    time: str,
    columns: Sequence[Column],
    window: int,
    asset: str | None = None,
    cadence: Cadence | None = None,
    every_s: float | None = None,
    off: OffCondition | None = None,
) -> Sequences:
    """Lays rows out as sequences.

    Rows are sorted by asset and time. A row within half a step of the one before it is repeated and left out; a missing step
    is a step of NaN; more missing steps in one piece than an eighth of a window begin a new sequence. A row while off is
    left out and ends its sequence, whatever its distance from the row before.

    Args:
        rows: At least the columns named here; the order of rows and other columns do not matter.
        time: Column of the time.
        columns: The channels, all of them numbers.
        window: Steps a window.
        asset: Column whose values tell sequences apart; None: all rows are one asset's.
        cadence: That of a fitted detector; None: from `every_s`, with the gap usual for the window.
        every_s: Length of a step, seconds, or in the unit of the times where nobody knows it; None: the median interval between
            neighbouring rows of an asset, over all assets.
        off: Condition under which an asset is off.

    Raises:
        SchemaError: The time orders nothing, an asset is empty, a channel is no number, or no step can be inferred.
        SettingError: The condition or the step cannot be.
        ColumnMismatchError: Columns are missing.
        CellError: A channel holds text.
    """
    needed = [column.name for column in columns] + [name for name in (time, asset) if name is not None]
    require_names(rows.schema.names, needed, () if off is None else off.columns)
    times = read_times(rows.column(time), time)
    unit = TimeUnit.of(times, rows.column(time).type, time)
    asset_of_row, assets, asset_type = _read_assets(rows, asset)
    numbers = encode(rows, [_channel(column) for column in columns]).numeric
    is_off = np.zeros(rows.num_rows, dtype=np.bool_) if off is None else off.of_table(rows)
    order = np.lexsort((times, asset_of_row)).astype(np.int64)  # stable
    median = median_interval(times[order], asset_of_row[order])
    if cadence is None:
        timed = TimedRows(rows.column(time), time, asset, times, asset_of_row, numbers, order)
        gap = default_gap(window)
        step_s = timed.usual_step(median) if every_s is None else stated_step(every_s, unit, median, gap)
        cadence = Cadence(step_s, gap)

    places = order[~is_off[order]]
    off_before = np.cumsum(is_off[order])[~is_off[order]]
    begins = (np.diff(asset_of_row[places], prepend=-1) != 0) | (np.diff(off_before, prepend=0) != 0)
    kept, starts, missing = cadence.place_all(times[places], begins)
    steps, starts, missing = places[kept], starts[kept], missing[kept]
    fate = np.full(rows.num_rows, Fate.REPEATED, dtype=np.int8)
    fate[is_off], fate[steps] = Fate.OFF, Fate.STEP

    position = np.cumsum(1 + missing) - 1
    of_step = np.repeat(np.arange(len(steps)), 1 + missing)  # the row at or after each step
    row = np.full(len(of_step), -1, dtype=np.int64)
    row[position] = steps
    values = np.full((len(of_step), len(columns)), np.nan, dtype=np.float32)
    values[position] = numbers[steps]
    step = np.full(rows.num_rows, -1, dtype=np.int64)
    step[steps] = position
    return Sequences(
        values=values,
        row=row,
        asset=asset_of_row[steps][of_step],
        sequence=(np.cumsum(starts) - 1)[of_step],
        step=step,
        fate=fate,
        order=order,
        time_s=times,
        asset_of_row=asset_of_row,
        assets=assets,
        asset_type=asset_type,
        columns=tuple(column.name for column in columns),
        cadence=cadence,
        course=_course(times, asset_of_row, steps, starts & ~begins[kept], starts, cadence.step_s, median),
        unit=unit,
    )


def sequences_for(rows: pa.Table, manifest: Manifest) -> Sequences:
    """Lays rows out as a detector of series takes them.

    Args:
        rows: At least the channels, the time, the asset's column if there is one, and the columns that tell when it is off.
        manifest: The detector's.

    Raises:
        InputError: As of :func:`read_sequences`; and the detector is none of series.
    """
    facts = manifest.series
    if facts is None:
        raise SettingError(f"the model {manifest.name!r} scores tables, not series")
    require_names(rows.schema.names, _own_columns(manifest), known_columns(manifest))
    return read_sequences(
        with_fitted_times(rows, facts),
        time=facts.time,
        columns=manifest.columns,
        window=facts.window,
        asset=facts.asset,
        cadence=Cadence(facts.step_s, facts.longest_gap),
        off=None if facts.off is None else parse_off(facts.off),
    )


def times_for(rows: pa.Table, facts: SeriesFacts) -> Sequences:
    """Lays rows out as a detector of series takes them by time and asset alone, without channels.

    Args:
        rows: At least the time, and the asset's column if there is one.
        facts: The detector's.

    Raises:
        SchemaError: As of :func:`read_sequences`.
    """
    return read_sequences(
        with_fitted_times(rows, facts),
        time=facts.time,
        columns=(),
        window=facts.window,
        asset=facts.asset,
        cadence=Cadence(facts.step_s, facts.longest_gap),
    )


def median_interval(times_s: FloatArray, assets: IntArray) -> float | None:
    """Median interval between neighbouring rows of the same asset, over all assets; None: no asset has two rows.

    Args:
        times_s: Ascending within each asset, shape ``(n,)``.
        assets: Asset of each row, equal ones side by side, shape ``(n,)``.

    Example:
        >>> median_interval(np.array([0.0, 1.0, 2.1, 0.0, 5.0]), np.array([0, 0, 0, 1, 1]))
        1.1
    """
    intervals = np.diff(times_s)[np.diff(assets) == 0]
    if not len(intervals):
        return None
    finest = 4.0 * float(np.spacing(np.abs(times_s).max()))
    return round(float(np.median(intervals)), -math.ceil(math.log10(finest)))  # what doubles of this size still tell


def asset_numbers(sequences: Sequences, rows: pa.Table, column: Column | None) -> IntArray:
    """Number that a detector gives each asset of a table, or each group where assets are those; shape ``(a,)``.

    Args:
        sequences: Of the table.
        rows: The table.
        column: The column of the assets with the detector's own as categories (`SeriesFacts.asset_column`, or the
            calibration's `group_column`): others get its unknown code; None: all get 0.
    """
    if column is None or not len(sequences.asset_of_row):
        return np.zeros(len(sequences.assets), dtype=np.int64)
    _, first = np.unique(sequences.asset_of_row, return_index=True)
    return codes_of(rows.column(column.name).take(pa.array(first)), column)


def known_columns(manifest: Manifest) -> tuple[str, ...]:
    """Columns that mean something to a detector: what it scores, what tells time, asset, group and off, what it leaves out."""
    group = manifest.calibration.by
    left_out = [column.name for column in manifest.left_out]
    return tuple(dict.fromkeys([*_own_columns(manifest), *left_out, *([] if group is None else [group])]))


def require_names(present: Sequence[str], needed: Sequence[str], known: Iterable[str]) -> None:
    """Refuses rows that lack a column.

    Args:
        present: Columns of the rows.
        needed: Those they must have.
        known: Others that mean something; the rest may be a needed one by another name.

    Raises:
        ColumnMismatchError: Names the missing.
    """
    missing = [name for name in needed if name not in present]
    if missing:
        told = {*needed, *known}
        raise ColumnMismatchError(missing, [name for name in present if name not in told])


def _own_columns(manifest: Manifest) -> list[str]:
    """Columns without which a detector can't do: those it scores, the time, the asset, and what tells when it is off."""
    names = [column.name for column in manifest.columns]
    if (facts := manifest.series) is None:
        return names
    off = () if facts.off is None else parse_off(facts.off).columns
    return [*names, *(name for name in (facts.time, facts.asset, *off) if name is not None)]


def _channel(column: Column) -> Column:
    if not column.is_numeric:
        raise SchemaError(
            f"column {column.name!r} is {column.kind}; a series is scored on numbers: leave it out with --drop"
        )
    return column


def _read_assets(rows: pa.Table, name: str | None) -> tuple[IntArray, tuple[str, ...], str]:
    if name is None:
        return np.zeros(rows.num_rows, dtype=np.int64), ("",), "string"
    cells = rows.column(name).combine_chunks() if rows.column(name).num_chunks != 1 else rows.column(name).chunk(0)
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    different = cells.unique()
    names, kind = group_names(different)
    assets = tuple(dict.fromkeys(asset for asset in names if asset is not None))
    number = {asset: i for i, asset in enumerate(assets)} | {None: -1}
    found = pc.index_in(cells, value_set=different).to_numpy(zero_copy_only=False)
    numbers = np.array([number[asset] for asset in names], dtype=np.int64)[found]
    if (numbers < 0).any():
        first = int(np.argmax(numbers < 0)) + 1
        raise SchemaError(
            f"the asset column {name!r} has {int((numbers < 0).sum()):,} empty cells, first at row {first:,}; fill or drop "
            "these rows: rows of different assets make no sequence"
        )
    return numbers, assets, kind


def _course(  # noqa: PLR0913, PLR0917  all that is known of the rows' places
    times: FloatArray,
    asset_of_row: IntArray,
    steps: IntArray,
    after_gap: BoolArray,
    starts: BoolArray,
    step_s: float,
    median_s: float | None,
) -> Course:
    in_file = np.argsort(asset_of_row, kind="stable")
    backward, gap = np.zeros((2, len(times)), dtype=np.bool_)
    backward[in_file[1:]] = (np.diff(times[in_file]) < 0) & (np.diff(asset_of_row[in_file]) == 0)
    gap[steps[after_gap]] = True
    apart = np.diff(times[steps], prepend=np.nan) / step_s
    within = apart[~starts]
    whole = np.maximum(np.floor(within + 0.5), 1.0)
    return Course(
        backward,
        gap,
        longest_gap=float(apart[after_gap].max(initial=0.0)),
        missing=int((whole - 1.0).sum()),
        uneven=float((np.abs(within - whole) > UNEVEN).mean()) if len(within) else 0.0,
        median_s=median_s,
    )
