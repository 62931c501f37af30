"""The first half of a fit of a series: rows read, laid out on steps, divided in order of time, and scaled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from anomvae.bundle import Column, LeftOut
from anomvae.data.health import label_concerns
from anomvae.data.labels import read_labels
from anomvae.data.modes import mode_concerns
from anomvae.data.off import parse_off
from anomvae.data.reading import open_rows
from anomvae.data.schema import Schema, check_names, describe, infer_schema
from anomvae.data.sequences import sequence_concerns
from anomvae.data.series import Fate, Sequences, read_sequences
from anomvae.data.windows import windows_of
from anomvae.errors import DataFileError, SchemaError, SettingError, TooFewRowsError
from anomvae.vae.series import SeriesPreparation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anomvae.bundle.manifest import ColumnKind
    from anomvae.data.concerns import Concern
    from anomvae.data.source import RowSource
    from anomvae.data.windows import Windows
    from anomvae.fitting.settings import FitSettings

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

TRAIN_SHARE, VALIDATION_SHARE = 0.7, 0.1
TRAIN, VALIDATION, CALIBRATION = 0, 1, 2
AMPLE_STEPS = 100
"""Training steps a channel from which more of them change scores little: the steps that calibrated then train too."""
FEW = 16
"""Fewer held-out windows tell nothing of normal ones."""
LEAST_STEPS = 16
"""Steps an asset takes for a scaling of its own."""
LEAST_SPREAD = 0.1
"""Of what is usual among the assets: one that hardly moved in training is given this much."""
TINY = 1e-6


@dataclass(frozen=True, slots=True)
class PreparedSeries:
    """A series ready to fit on.

    Attributes:
        name: Where the rows came from, as the user named it.
        digest: Digest of the data.
        n_rows: Rows read.
        schema: Kinds and what was left out.
        columns: Facts about the channels, from the training steps alone.
        sequences: The normal rows, laid out.
        part: What each step does: `TRAIN`, `VALIDATION` or `CALIBRATION`, shape ``(m,)``.
        centre: Of each asset and, last, of assets not met before, raw units, shape ``(a + 1, d)``.
        spread: Likewise, above 0.
        time_type: Arrow type of the time column's cells.
        labelled: Rows labelled as anomalous, left out of the sequences.
        concerns: What stands out.
        taught: Steps that train whatever their part, shape ``(m,)``; None: those of the part `TRAIN`.
    """

    name: str
    digest: str
    n_rows: int
    schema: Schema
    columns: tuple[Column, ...]
    sequences: Sequences
    part: npt.NDArray[np.int8]
    centre: FloatArray
    spread: FloatArray
    time_type: str
    labelled: int
    concerns: tuple[Concern, ...]
    taught: BoolArray | None = None

    def preparation(self) -> SeriesPreparation:
        """The scaling of each asset."""
        return SeriesPreparation(
            torch.from_numpy(self.centre.astype(np.float32)), torch.from_numpy(self.spread.astype(np.float32))
        )

    def all_for_training(self) -> PreparedSeries:
        """The same with all steps scaled by and trained on; those that validated still are looked at."""
        part = np.where(self.part == VALIDATION, VALIDATION, TRAIN).astype(np.int8)
        centre, spread = _scaling(self.sequences, part)
        return replace(self, part=part, centre=centre, spread=spread, taught=np.ones(len(part), dtype=np.bool_))

    def windows(self, window: int, part: int, *, whole: bool) -> Windows:
        """Windows whose newest step, or all of whose steps, lie in a part of the rows."""
        every = windows_of(self.sequences, window)
        if part == TRAIN and self.taught is not None:
            return every
        chosen = self.part[every.newest] == part
        if whole:
            chosen &= self.part[every.starts] == part
        return every.take(chosen)

    def observed(self, windows: Windows) -> Windows:
        """Those whose newest step holds a value."""
        return windows.take(_has_value(self.sequences)[windows.newest])

    def steps(self, part: int) -> IntArray:
        """Steps of a part that have a row."""
        has_row = self.sequences.row >= 0
        if part == TRAIN and self.taught is not None:
            return np.flatnonzero(has_row)
        return np.flatnonzero((self.part == part) & has_row)


def prepare_series(data: Any, settings: FitSettings) -> PreparedSeries:
    """Reads and prepares the rows of a fit of a series.

    The first 70 % of each asset's steps train, the next 10 % validate, and the latest 20 % calibrate.

    Args:
        data: File, folder, glob, or a pandas or Arrow table.
        settings: With `window` and `time`.

    Raises:
        DataFileError: The data cannot be read or are empty.
        SchemaError: Nothing can be learnt from them.
        TooFewRowsError: No asset has rows enough for a window.
    """
    window, time = settings.window, settings.time
    if window is None or time is None:
        raise SettingError("a series is fitted with a window and a time: state --window and --time")
    read = read_rows(data, settings)
    schema, sequences = read.channels, lay_out(read, settings)
    part = parts_of(sequences)
    train_rows = np.sort(sequences.row[(part == TRAIN) & (sequences.row >= 0)])
    refuse_too_short(sequences, part, settings)
    columns = tuple(
        replace(column, type=str(read.normal.schema.field(column.name).type))
        for column in describe(read.normal, schema.kinds, train_rows)
    )
    centre, spread = _scaling(sequences, part)
    concerns = [
        *label_concerns(read.normal, read.schema.kinds),
        *sequence_concerns(sequences, window, time=time, asset=settings.by, off=settings.off),
        *mode_concerns(sequences, part == TRAIN, part == CALIBRATION, window, asset=settings.by),
    ]
    return PreparedSeries(
        read.source.name,
        read.source.digest(),
        read.n_rows,
        schema,
        columns,
        sequences,
        part,
        centre,
        spread,
        str(read.normal.schema.field(time).type),
        read.labelled,
        tuple(concerns),
    )


@dataclass(frozen=True, slots=True)
class ReadRows:
    """Rows as they were read, and what their columns are.

    Attributes:
        source: Where they came from.
        n_rows: Rows read.
        normal: Those that are not labelled as anomalous.
        labelled: How many are.
        schema: What every column is.
        channels: The same with all left out that is no number.
    """

    source: RowSource
    n_rows: int
    normal: pa.Table
    labelled: int
    schema: Schema
    channels: Schema


def read_rows(data: Any, settings: FitSettings) -> ReadRows:
    """Reads the rows of a series, and says which columns are its channels.

    Args:
        data: File, folder, glob, or a pandas or Arrow table.
        settings: Name the columns.

    Raises:
        DataFileError: The data cannot be read or are empty.
        SchemaError: Columns are not there, or none is a number.
    """
    source = open_rows(data)
    check_names(source.schema.names, settings.rules)
    rows = source.table()
    if rows.num_rows == 0:
        raise DataFileError(f"{source.name} has no rows")
    labels = read_labels(rows, settings.label)
    normal = rows if labels.normal.all() else rows.take(pa.array(np.flatnonzero(labels.normal)))
    schema = infer_schema(normal, settings.rules)
    return ReadRows(source, rows.num_rows, normal, int(labels.anomalous.sum()), schema, _channels(schema))


def lay_out(read: ReadRows, settings: FitSettings) -> Sequences:
    """The normal rows on steps of equal length.

    Args:
        read: The rows.
        settings: With `window` and `time`.

    Raises:
        SchemaError: The time orders nothing, or an asset is empty.
        SettingError: The condition of `off` cannot be, or no cell can be compared as it does.
        CellError: A channel holds text.
    """
    off = None if settings.off is None else parse_off(settings.off)
    if off is not None:
        off.check(read.normal)
    types = read.normal.schema
    return read_sequences(
        read.normal,
        time=settings.time or "",
        columns=[Column(name, kind, str(types.field(name).type)) for name, kind in read.channels.kinds.items()],
        window=settings.window or 0,
        asset=settings.by,
        every_s=settings.every_s,
        off=off,
    )


def _channels(schema: Schema) -> Schema:
    """The columns that are numbers; flags count as such, text and dates are left out."""
    kinds: dict[str, ColumnKind] = {
        name: "numeric" for name, kind in schema.kinds.items() if kind in ("numeric", "boolean")
    }
    other = [
        LeftOut(name, f"{kind}; a series is scored on numbers")
        for name, kind in schema.kinds.items()
        if name not in kinds
    ]
    if not kinds:
        raise SchemaError("no column of numbers is left to score; a series takes at least one channel")
    return replace(schema, kinds=kinds, left_out=(*schema.left_out, *other))


def parts_of(sequences: Sequences) -> npt.NDArray[np.int8]:
    """What each step does, shape ``(m,)``: the earliest of each asset train, the latest calibrate; missing steps go with their neighbours."""
    part = np.empty(len(sequences), dtype=np.int8)
    for asset in range(len(sequences.assets)):
        steps = np.flatnonzero(sequences.asset == asset)
        share = np.arange(len(steps)) / max(1, len(steps))
        part[steps] = (share >= TRAIN_SHARE).astype(np.int8) + (share >= TRAIN_SHARE + VALIDATION_SHARE)
    return part


def trains_on_all(settings: FitSettings, steps: int, channels: int) -> bool:
    """Whether the detector that is kept is trained on all steps, those that calibrate too.

    Args:
        settings: Of the fit.
        steps: Steps with a row that train before calibration.
        channels: Columns that are scored.
    """
    return settings.calibration == "auto" and steps >= AMPLE_STEPS * channels


def _scaling(sequences: Sequences, part: npt.NDArray[np.int8]) -> tuple[FloatArray, FloatArray]:
    """Centre and spread of each asset's training and validation steps, then of all assets' together."""
    values, known = sequences.values.astype(np.float64), part != CALIBRATION
    values = np.where(np.isfinite(values), values, np.nan)
    whole_centre, whole_spread, _ = _moments(values[known])
    within = [_moments(values[known & (sequences.asset == asset)]) for asset in range(len(sequences.assets))]
    usual = _usual_spread(within, whole_spread)
    usual = np.where(usual > 0, usual, np.where(whole_spread > 0, whole_spread, 1.0))
    usual = np.maximum(usual, TINY * np.abs(whole_centre))
    whole_spread = np.maximum(whole_spread, LEAST_SPREAD * usual)
    centres, spreads = [], []
    for centre, spread, count in within:
        own = count >= LEAST_STEPS
        centres.append(np.where(own, centre, whole_centre))
        spreads.append(np.where(own, np.maximum(spread, LEAST_SPREAD * usual), whole_spread))
    return np.array([*centres, whole_centre]), np.array([*spreads, whole_spread])


def _usual_spread(within: list[tuple[FloatArray, FloatArray, IntArray]], whole: FloatArray) -> FloatArray:
    """Median spread of each channel among the assets that have values enough of it; that of all together where none has."""
    spreads = np.array([np.where(count >= LEAST_STEPS, spread, np.nan) for _, spread, count in within])
    known = np.isfinite(spreads).any(axis=0)
    usual = whole.copy()
    usual[known] = np.nanmedian(spreads[:, known], axis=0)
    return usual


def _moments(values: FloatArray) -> tuple[FloatArray, FloatArray, IntArray]:
    """Mean and standard deviation of each column, NaN cells left out, 0 where there are none; and how many there are."""
    count = np.isfinite(values).sum(axis=0)
    centre = np.nansum(values, axis=0) / np.maximum(count, 1)
    spread = np.sqrt(np.nansum((values - centre) ** 2, axis=0) / np.maximum(count, 1))
    return np.where(count > 0, centre, 0.0), spread, count


def refuse_too_short(sequences: Sequences, part: npt.NDArray[np.int8], settings: FitSettings) -> None:
    """Refuses rows of which no window can train, or none calibrate.

    Raises:
        TooFewRowsError: Says which, and what to do.
    """
    window = settings.window or 0
    if settings.off is not None and (sequences.fate == Fate.OFF).all():
        raise TooFewRowsError(
            f"the condition --off {settings.off!r} holds in every row, so none is left to learn from; see whether it says "
            "what it should",
            window,
        )
    every = windows_of(sequences, window)
    inside = (part[every.starts] == TRAIN) & (part[every.newest] == TRAIN)
    steps = int((sequences.fate == Fate.STEP).sum())
    if not inside.any():
        need = int(np.ceil(window / TRAIN_SHARE)) + 1
        off = int((sequences.fate == Fate.OFF).sum())
        raise TooFewRowsError(
            f"no stretch of training rows is as long as a window of {window:,} steps: the longest sequence has "
            f"{int(sequences.length.max(initial=0)):,} of {steps:,} steps{f', --off left {off:,} rows out' if off else ''}; state a shorter --window, or bring sequences of at "
            f"least {need:,} steps",
            need,
        )
    seen = _has_value(sequences)
    if not seen[every.newest[inside]].any():
        raise TooFewRowsError("the training rows hold no value in any channel; bring rows that do", LEAST_STEPS)
    if not (seen & (part == CALIBRATION))[every.newest].any():
        raise TooFewRowsError(
            f"no window of {window:,} steps ends in the latest {1 - TRAIN_SHARE - VALIDATION_SHARE:.0%} of an asset's rows, "
            "which calibrate: gaps cut them into sequences shorter than that; state a shorter --window, or bring longer "
            "sequences",
            window,
        )


def _has_value(sequences: Sequences) -> BoolArray:
    """Steps that hold a value in some channel, shape ``(m,)``."""
    has_value: BoolArray = ~np.asarray(np.isnan(sequences.values).all(axis=1))
    return has_value


def thinned(windows: Windows, most: int) -> Windows:
    """At most so many windows, evenly spread."""
    if len(windows) <= most:
        return windows
    return windows.take(np.linspace(0, len(windows) - 1, most).astype(np.int64))


def problems(concerns: Iterable[Concern]) -> list[str]:
    """The concerns that people should read, gravest first."""
    return [concern.message for concern in concerns if concern.severity != "info"]
