"""Which normal rows train, which decide when to stop, and which calibrate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from anomvae.bundle.promise import rows_needed
from anomvae.data.encoding import is_text, text_of
from anomvae.errors import SchemaError, TooFewRowsError

if TYPE_CHECKING:
    IntArray = npt.NDArray[np.int64]

MIN_TRAIN_ROWS = 16
STEADY = 2
MAX_VALIDATION_ROWS = 10_000
MAX_CALIBRATION_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class RowSplit:
    """Row numbers of each part, ascending, without overlap.

    Attributes:
        train: The weights are fitted on these.
        validation: These decide when to stop.
        calibration: The p-values come from these; the model never sees them.
        how: What decided.
        column: The column that decided, if one did.
    """

    train: IntArray
    validation: IntArray
    calibration: IntArray
    how: Literal["random", "time", "group"]
    column: str | None


def part_sizes(n: int, alarm_rate: float) -> tuple[int, int, int]:
    """Sizes of the training, validation and calibration parts of n normal rows.

    A tenth validates (10 to 10,000 rows). A fifth calibrates (at most 20,000 rows), more where the alarm rate needs more
    (twice the least that supports it, so that the threshold does not rest on one row, while that is under 30 %; the
    least itself up to half of the rows).

    Raises:
        TooFewRowsError: The rows support neither the rate nor a model.
    """
    sizes = _sizes(n, alarm_rate)
    if not _fits(n, alarm_rate):
        least, need, supported = rows_needed(alarm_rate), _total_needed(alarm_rate), _rate_supported(n)
        advice = f"ask for a rate of {supported:.3g} or more, or bring" if supported else "bring"
        raise TooFewRowsError(
            f"{n:,} normal rows cannot support an alarm rate of {alarm_rate:g}: that takes {least:,} rows to calibrate "
            f"beside those to train; {advice} at least {need:,} normal rows",
            need,
        )
    return sizes


def split_rows(
    rows: pa.Table, *, alarm_rate: float, seed: int, time: str | None = None, by: str | None = None
) -> RowSplit:
    """Divides normal rows: by time, by group, or at random.

    By time the earliest rows train, later ones validate and the latest calibrate, as in service. By group every group
    lies in one part only, so that calibration sees groups the model has not. Repeated rows stay wherever they fall.

    Args:
        rows: The normal rows.
        alarm_rate: Stated alarm rate; decides how many rows calibrate.
        seed: Seed of the draw.
        time: Column that orders the rows.
        by: Column that groups them; with `time` too, time decides.

    Raises:
        TooFewRowsError: Too few rows, or too few groups.
        SchemaError: A time column that does not order.
    """
    sizes = part_sizes(rows.num_rows, alarm_rate)
    if time is not None:
        order = _time_order(rows.column(time), time)
        return _cut(order, sizes, "time", time)
    if by is not None:
        return _by_group(rows.column(by), by, sizes, alarm_rate, seed)
    order = np.random.default_rng([seed, 1]).permutation(rows.num_rows)
    return _cut(order, sizes, "random", None)


def _cut(order: IntArray, sizes: tuple[int, int, int], how: Literal["random", "time"], column: str | None) -> RowSplit:
    train, validation, _ = sizes
    parts = np.split(order, [train, train + validation])
    return RowSplit(np.sort(parts[0]), np.sort(parts[1]), np.sort(parts[2]), how, column)


def _time_order(cells: pa.ChunkedArray, name: str) -> IntArray:
    if cells.null_count:
        raise SchemaError(f"--time names {name!r}, which has {cells.null_count:,} empty cells; every row needs a time")
    if is_text(cells.type) or not (
        pa.types.is_temporal(cells.type) or pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type)
    ):
        raise SchemaError(f"--time names {name!r}, which is {cells.type} and orders nothing; use dates or numbers")
    if pa.types.is_floating(cells.type) and pc.any(pc.is_nan(cells)).as_py():
        raise SchemaError(f"--time names {name!r}, which has cells that are not a number; every row needs a time")
    order: IntArray = pc.sort_indices(cells).to_numpy().astype(np.int64)  # stable
    return order


def _by_group(cells: pa.ChunkedArray, name: str, sizes: tuple[int, int, int], rate: float, seed: int) -> RowSplit:
    text = pc.fill_null(text_of(cells), "")
    codes = pc.index_in(text, pc.unique(text)).to_numpy()
    sizes_of = np.bincount(codes)
    groups = np.random.default_rng([seed, 2]).permutation(len(sizes_of))
    if len(groups) < 3:  # noqa: PLR2004
        raise TooFewRowsError(f"--by {name!r} has {len(groups)} groups; a split by group takes at least 3", 3)
    train, validation, calibration = sizes
    taken: list[list[int]] = [[], [], []]
    counts, wanted = [0, 0, 0], (train, validation, calibration)
    by_size = sorted(groups, key=lambda group: -int(sizes_of[group]))
    for group in by_size:  # each to the part that still lacks most rows; every part gets one
        empty = [part for part in (0, 2, 1) if not taken[part]]
        left = len(by_size) - sum(map(len, taken))
        lacking = max(range(3), key=lambda part: wanted[part] - counts[part])
        part = empty[0] if empty and left <= len(empty) else lacking
        taken[part].append(int(group))
        counts[part] += int(sizes_of[group])
    least = rows_needed(rate)
    if counts[2] < least or counts[0] < MIN_TRAIN_ROWS:
        raise TooFewRowsError(
            f"the groups of {name!r} leave {counts[2]:,} rows to calibrate, an alarm rate of {rate:g} takes {least:,}; "
            "bring more or smaller groups, or ask for a higher rate",
            least,
        )
    parts = [np.flatnonzero(np.isin(codes, group)) for group in taken]
    return RowSplit(parts[0], parts[1], parts[2], "group", name)


def _sizes(n: int, alarm_rate: float) -> tuple[int, int, int]:
    least = rows_needed(alarm_rate)
    validation = min(MAX_VALIDATION_ROWS, max(round(0.1 * n), min(10, n // 5)))
    usual = min(round(0.2 * n), max(MAX_CALIBRATION_ROWS, 2 * least))
    calibration = min(max(usual, min(STEADY * least, round(0.3 * n)), least), n // 2)
    return n - validation - calibration, validation, calibration


def _fits(n: int, alarm_rate: float) -> bool:
    train, _, calibration = _sizes(n, alarm_rate)
    return calibration >= rows_needed(alarm_rate) and train >= MIN_TRAIN_ROWS


def _total_needed(alarm_rate: float) -> int:
    n = 2 * rows_needed(alarm_rate)
    while not _fits(n, alarm_rate):
        n += max(1, n // 50)
    return n


def _rate_supported(n: int) -> float | None:
    """The smallest rate n rows support, rounded up to be sayable; None if they support none."""
    for rate in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3):
        if _fits(n, rate):
            return rate
    return None
