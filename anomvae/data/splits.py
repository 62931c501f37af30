"""Which normal rows train, which decide when to stop, and which calibrate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from anomvae.bundle.promise import rows_needed
from anomvae.data.encoding import is_text, text_of
from anomvae.errors import SchemaError, TooFewRowsError

IntArray = npt.NDArray[np.int64]
CalibrationMethod = Literal["cross", "split"]

FOLDS = 5
CROSS_ROWS = 10_000
"""Up to so many normal rows all of them train and calibrate by default; beyond, a fifth held out costs nothing."""
MIN_CROSS_ROWS = 20
MIN_TRAIN_ROWS = 16
STEADY = 2
MAX_VALIDATION_ROWS = 10_000
MAX_CALIBRATION_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class RowSplit:
    """Row numbers of each part, ascending; without overlap, or under folds each part all rows.

    Attributes:
        train: The weights are fitted on these.
        validation: These decide when to stop.
        calibration: The p-values come from these; the network that scores them has never seen them.
        how: What decided.
        column: The column that decided, if one did.
        folds: Fold of each normal row, 0 to K - 1, shape ``(n,)``: every row trains the detector, and is scored for
            calibration by a network that was trained without its fold; None: no row is in two parts.
        apart: Whether a row's group lies whole in one fold, shape ``(n,)``: it is then scored as one of a group not met
            before; None: no row is.
    """

    train: IntArray
    validation: IntArray
    calibration: IntArray
    how: Literal["random", "time", "group"]
    column: str | None
    folds: IntArray | None = None
    apart: npt.NDArray[np.bool_] | None = None

    @property
    def fold_count(self) -> int:
        """K; 0 without folds."""
        return 0 if self.folds is None else int(self.folds.max()) + 1


def calibration_method(asked: Literal["auto", "cross", "split"], n: int, time: str | None = None) -> CalibrationMethod:
    """Which rows calibrate: all of them by folds (`cross`), or a part held out (`split`).

    Args:
        asked: `auto` takes folds up to 10,000 normal rows.
        n: Normal rows.
        time: Column that orders them: the latest then calibrate, for later rows may not vouch for earlier ones.

    Example:
        >>> [calibration_method("auto", n, time) for n, time in ((800, None), (800, "when"), (80_000, None))]
        ['cross', 'split', 'split']
    """
    if time is not None:
        return "split"
    if asked == "auto":
        return "cross" if n <= CROSS_ROWS else "split"
    return asked


def part_sizes(n: int, alarm_rate: float, calibration: CalibrationMethod = "split") -> tuple[int, int, int]:
    """Sizes of the training, validation and calibration parts of n normal rows; with `cross` each is all of them.

    A tenth validates (10 to 10,000 rows). A fifth calibrates (at most 20,000 rows), more where the alarm rate needs more
    (twice the least that supports it, so that the threshold does not rest on one row, while that is under 30 %; the
    least itself up to half of the rows).

    Raises:
        TooFewRowsError: The rows support neither the rate nor a model.
    """
    if not _fits(n, alarm_rate, calibration):
        least, need = rows_needed(alarm_rate), _total_needed(alarm_rate, calibration)
        supported = _rate_supported(n, calibration)
        advice = f"ask for a rate of {supported:.3g} or more, or bring" if supported else "bring"
        beside = " beside those to train" if calibration == "split" else ""
        reason = f"cannot support an alarm rate of {alarm_rate:g}: that takes {least:,} rows to calibrate{beside}"
        if calibration == "cross" and least < MIN_CROSS_ROWS:
            reason = f"are too few to learn from, whatever the alarm rate ({alarm_rate:g} here)"
        raise TooFewRowsError(f"{n:,} normal rows {reason}; {advice} at least {need:,} normal rows", need)
    return (n, n, n) if calibration == "cross" else _sizes(n, alarm_rate)


def split_rows(  # noqa: PLR0913  what divides rows, each with a default
    rows: pa.Table,
    *,
    alarm_rate: float,
    seed: int,
    time: str | None = None,
    by: str | None = None,
    calibration: CalibrationMethod = "split",
    group_rows: int | None = None,
) -> RowSplit:
    """Divides normal rows: by time, by group, or at random; into parts, or into folds.

    By time the earliest rows train, later ones validate and the latest calibrate, as in service. Groups with the rows to
    calibrate for themselves are divided at random like all rows; smaller ones lie whole in one part or fold, so that
    calibration sees them as a network does that has not met them. Repeated rows stay wherever they fall.

    Args:
        rows: The normal rows.
        alarm_rate: Stated alarm rate; decides how many rows calibrate.
        seed: Seed of the draw.
        time: Column that orders the rows.
        by: Column that groups them; with `time` too, time decides.
        calibration: `split` holds out a part; `cross` makes folds, of which there are five, or as many as groups if those
            are fewer and all small. By time it is always split.
        group_rows: Calibration rows that a group takes to calibrate for itself; None: those that the rate takes.

    Raises:
        TooFewRowsError: Too few rows, or too few groups.
        SchemaError: A time column that does not order.

    References:
        Cross-conformal predictors (Vovk, 2015), arXiv:1208.0806
    """
    calibration = calibration_method(calibration, rows.num_rows, time)
    sizes = part_sizes(rows.num_rows, alarm_rate, calibration)
    if calibration == "cross":
        return _in_folds(rows, by, group_rows or rows_needed(alarm_rate), seed)
    if time is not None:
        order = _time_order(rows.column(time), time)
        return _cut(order, sizes, "time", time)
    if by is not None:
        return _by_group(rows.column(by), by, sizes, alarm_rate, seed, group_rows or rows_needed(alarm_rate))
    order = np.random.default_rng([seed, 1]).permutation(rows.num_rows)
    return _cut(order, sizes, "random", None)


def _in_folds(rows: pa.Table, by: str | None, group_rows: int, seed: int) -> RowSplit:
    n = rows.num_rows
    everything = np.arange(n)
    if by is not None:
        folds, apart = _folds_of_groups(rows.column(by), by, group_rows, seed)
        return RowSplit(everything, everything, everything, "group", by, folds, apart if apart.any() else None)
    folds = np.empty(n, dtype=np.int64)
    folds[np.random.default_rng([seed, 1]).permutation(n)] = everything % FOLDS
    return RowSplit(everything, everything, everything, "random", None, folds)


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


def _groups_of(cells: pa.ChunkedArray, seed: int) -> tuple[IntArray, IntArray, list[int]]:
    """Group of each row, rows of each group, and the groups by size, the largest first and equals in any order."""
    text = pc.fill_null(text_of(cells), "")
    codes = pc.index_in(text, pc.unique(text)).to_numpy().astype(np.int64)
    sizes_of = np.bincount(codes)
    groups = np.random.default_rng([seed, 2]).permutation(len(sizes_of))
    return codes, sizes_of, sorted(groups.tolist(), key=lambda group: -int(sizes_of[group]))


def _folds_of_groups(
    cells: pa.ChunkedArray, name: str, group_rows: int, seed: int
) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """Folds in which groups that calibrate for themselves are spread, and the others stay whole; which rows are of those.

    A group whose rows calibrate for themselves is one that the detector knows: its rows are scored by networks that know other rows
    of it. The smaller groups stand for groups to come: theirs are scored by networks that have met none of them; each, the
    largest first, goes to the fold with the fewest rows.
    """
    codes, sizes_of, by_size = _groups_of(cells, seed)
    folds = np.empty(len(codes), dtype=np.int64)
    is_known = sizes_of >= max(FOLDS, group_rows)
    known = np.random.default_rng([seed, 1]).permutation(np.flatnonzero(is_known[codes]))
    folds[known] = np.arange(len(known)) % FOLDS
    whole = [group for group in by_size if not is_known[group]]
    count = (
        FOLDS if len(known) else min(FOLDS, len(whole))
    )  # a group alone is known: all rows together support the rate
    rows_in = np.bincount(folds[known], minlength=count)
    fold_of = np.full(len(by_size), -1, dtype=np.int64)
    for group in whole:
        fold_of[group] = rows_in.argmin()
        rows_in[fold_of[group]] += sizes_of[group]
    folds[~is_known[codes]] = fold_of[codes[~is_known[codes]]]
    left = len(codes) - int(rows_in.max())
    if left < MIN_TRAIN_ROWS:
        raise TooFewRowsError(
            f"without the largest group of {name!r} {left:,} rows are left, and {MIN_TRAIN_ROWS} are needed to learn "
            "how rows of a group not met before score; bring more rows of other groups, or leave --by out",
            len(codes) + MIN_TRAIN_ROWS - left,
        )
    return folds, ~is_known[codes]


def _by_group(
    cells: pa.ChunkedArray, name: str, sizes: tuple[int, int, int], rate: float, seed: int, group_rows: int
) -> RowSplit:
    """Parts in which groups that calibrate for themselves are divided, and the others stay whole."""
    codes, sizes_of, by_size = _groups_of(cells, seed)
    least, n = rows_needed(rate), len(codes)
    is_known = np.floor(sizes_of * (sizes[2] / n)) >= group_rows
    parts = [np.zeros(n, dtype=np.bool_) for _ in sizes]
    draw = np.random.default_rng([seed, 1])
    for group in np.flatnonzero(is_known):
        rows = draw.permutation(np.flatnonzero(codes == group))
        held = math.ceil(len(rows) * sizes[2] / n)
        checked = round(len(rows) * sizes[1] / n)
        for part, taken in zip(parts, np.split(rows, [len(rows) - held - checked, len(rows) - held]), strict=True):
            part[taken] = True
    whole = [group for group in by_size if not is_known[group]]
    if not is_known.any() and len(whole) < 3:  # noqa: PLR2004
        raise TooFewRowsError(f"--by {name!r} has {len(whole)} groups; a split by group takes at least 3", 3)
    for left, small in zip(range(len(whole), 0, -1), whole, strict=True):
        empty = [part for part in (0, 2, 1) if not parts[part].any()]  # every part gets one
        lacking = max(range(3), key=lambda part: sizes[part] - np.count_nonzero(parts[part]))
        parts[empty[0] if empty and left <= len(empty) else lacking][codes == small] = True
    train, _, calibration = (int(np.count_nonzero(part)) for part in parts)
    if calibration < least or train < MIN_TRAIN_ROWS:
        raise TooFewRowsError(
            f"the groups of {name!r} leave {calibration:,} rows to calibrate, an alarm rate of {rate:g} takes {least:,}; "
            "bring more or smaller groups, or ask for a higher rate",
            least,
        )
    found = [np.flatnonzero(part) for part in parts]
    return RowSplit(found[0], found[1], found[2], "group", name)


def _sizes(n: int, alarm_rate: float) -> tuple[int, int, int]:
    least = rows_needed(alarm_rate)
    validation = min(MAX_VALIDATION_ROWS, max(round(0.1 * n), min(10, n // 5)))
    usual = min(round(0.2 * n), max(MAX_CALIBRATION_ROWS, 2 * least))
    calibration = min(max(usual, min(STEADY * least, round(0.3 * n)), least), n // 2)
    return n - validation - calibration, validation, calibration


def _fits(n: int, alarm_rate: float, calibration: CalibrationMethod) -> bool:
    if calibration == "cross":
        return n >= max(MIN_CROSS_ROWS, rows_needed(alarm_rate))
    train, _, held_out = _sizes(n, alarm_rate)
    return held_out >= rows_needed(alarm_rate) and train >= MIN_TRAIN_ROWS


def _total_needed(alarm_rate: float, calibration: CalibrationMethod) -> int:
    if calibration == "cross":
        return max(MIN_CROSS_ROWS, rows_needed(alarm_rate))
    n = 2 * rows_needed(alarm_rate)
    while not _fits(n, alarm_rate, calibration):
        n += max(1, n // 50)
    return n


def _rate_supported(n: int, calibration: CalibrationMethod) -> float | None:
    """The smallest rate n rows support, rounded up to be sayable; None if they support none."""
    for rate in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3):
        if _fits(n, rate, calibration):
            return rate
    return None
