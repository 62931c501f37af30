"""What looks wrong in a table of supposedly normal rows, before a detector is fitted on it."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from anomvae.data.categories import category_concerns, same_categories
from anomvae.data.concerns import (
    EPOCH,
    SAMPLE_ROWS,
    Concern,
    Table,
    codes_of,
    listed,
    missing_concerns,
    rows_where,
    stretch_from,
    times,
)
from anomvae.data.encoding import is_text, numbers_of, text_of
from anomvae.data.labels import read_labels
from anomvae.data.schema import SchemaRules, check_names
from anomvae.data.sequence import group_concerns, sequence_of, time_concerns
from anomvae.data.shapes import exact_relations, far_off, find_modes, lone_codes, longest_stretch, usual_spread
from anomvae.data.splits import calibration_method, part_sizes
from anomvae.errors import CellError, SchemaError, TooFewRowsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from anomvae.data.concerns import BoolArray, IntArray, Severity
    from anomvae.data.schema import Schema

__all__ = ["Concern", "label_concerns", "look_at_channels", "look_over"]

FloatArray = npt.NDArray[np.float64]

MOST_ALIKE = 4
"""Concerns of one sort; further columns share one sentence."""
MOST_FLOAT32 = float(np.finfo(np.float32).max)
LABEL_NAME = re.compile(
    r"(^|[\W_])(labels?|targets?|class|anomal\w*|abnormal|is_?normal|outliers?|fault\w*|failures?|failed|"
    r"defect\w*|attacks?|fraud\w*|ground_?truth|changepoint)($|[\W_])",
    re.IGNORECASE,
)


def look_over(
    rows: pa.Table, schema: Schema, *, time: str | None = None, by: str | None = None, seed: int = 0
) -> list[Concern]:
    """Looks for what would spoil a fit or a calibration: dirt, stuck sensors, modes, drift, labels left in, and more.

    Cheap looks read every row, a column at a time; comparisons between columns read a sample of 20,000 rows.

    Args:
        rows: Rows supposed to be normal; row numbers in the answers count these.
        schema: What their columns are.
        time: Column that orders the rows.
        by: Column that groups them.
        seed: Seed of the samples.

    Returns:
        Problems first, then warnings, then infos.

    Raises:
        SchemaError: `time` or `by` is not a column.
    """
    check_names(rows.schema.names, SchemaRules(time=time, by=by))
    if rows.num_rows == 0:
        return [Concern("problem", None, "The table has no rows; bring some.")]
    in_time, order, new_group = sequence_of(rows, time, by)
    draw = np.random.default_rng([seed, 10])
    sample = np.sort(draw.permutation(rows.num_rows)[:SAMPLE_ROWS]).astype(np.int64)
    table = Table(rows, schema, time, by, order, new_group, in_time, sample)
    found = [*_few_rows(table), *label_concerns(rows, schema.kinds), *time_concerns(table), *group_concerns(table)]
    numbers: dict[str, FloatArray] = {}
    found += [*_rows(table), *_columns(table, numbers), *_modes(table, numbers, seed)]
    return _gravest_first(found)


def look_at_channels(
    rows: pa.Table, schema: Schema, order: IntArray, new_asset: BoolArray, *, time: str, seed: int = 0
) -> list[Concern]:
    """Looks for what would spoil a fit of a series in its columns: dirt, stuck sensors, copies.

    How the rows lie in time, what modes they hold and what looks like a label, others say.

    Args:
        rows: Rows supposed to be normal; row numbers in the answers count these.
        schema: What their columns are: the channels as they were understood, and the others as left out.
        order: Row numbers sorted by asset and time, shape ``(n,)``.
        new_asset: Where in that order an asset begins, shape ``(n,)``.
        time: Column of the time.
        seed: Seed of the samples.

    Returns:
        Problems first, then warnings, then infos.
    """
    draw = np.random.default_rng([seed, 10])
    sample = np.sort(draw.permutation(rows.num_rows)[:SAMPLE_ROWS]).astype(np.int64)
    table = Table(rows, schema, time, None, order, new_asset, None, sample)
    return _gravest_first(_columns(table, {}))


def _columns(table: Table, numbers: dict[str, FloatArray]) -> list[Concern]:
    """Concerns about columns, one by one and beside each other; leaves a sample of the numbers of each."""
    by_sort: dict[str, list[Concern]] = defaultdict(list)
    for name, kind in table.schema.kinds.items():
        looks = _numeric(table, name, numbers) if kind in ("numeric", "date") else category_concerns(table, name)
        for sort, concern in looks:
            by_sort[sort].append(concern)
    for left_out in table.schema.left_out:
        if left_out.role == "identifier" and is_text(table.rows.column(left_out.name).type):
            by_sort["text"] += [concern for sort, concern in category_concerns(table, left_out.name) if sort == "text"]
    by_sort["relation"] += [*_relations(table, numbers), *same_categories(table)]
    return [concern for concerns in by_sort.values() for concern in _at_most(concerns)]


def _gravest_first(concerns: list[Concern]) -> list[Concern]:
    return sorted(concerns, key=lambda concern: ("problem", "warning", "info").index(concern.severity))


def _at_most(concerns: list[Concern]) -> list[Concern]:
    """The gravest few of one sort, and one sentence for the other columns."""
    concerns = _gravest_first(concerns)
    if len(concerns) <= MOST_ALIKE + 1:
        return concerns
    rest = concerns[MOST_ALIKE:]
    names = listed([str(concern.column) for concern in rest])
    text = f"{len(rest)} more columns give a concern like that of {concerns[0].column!r}: {names}."
    return [*concerns[:MOST_ALIKE], Concern(rest[0].severity, None, text)]


def _few_rows(table: Table) -> Iterator[Concern]:
    severities: tuple[tuple[float, Severity], ...] = ((0.3, "problem"), (0.01, "warning"), (0.001, "info"))
    for rate, severity in severities:
        try:
            part_sizes(table.n, rate, calibration_method("auto", table.n, table.time))
        except TooFewRowsError as error:
            yield Concern(
                severity,
                None,
                f"{table.n:,} rows are too few for an alarm rate of {rate:.1%}, which takes {error.rows_needed:,}; "
                "bring more, or bear more alarms.",
            )
            return


def label_concerns(rows: pa.Table, names: Iterable[str]) -> Iterator[Concern]:
    """Concerns about columns that look like labels that nobody named as such.

    Args:
        rows: Rows supposed to be normal.
        names: Columns to look at.
    """
    for name in names:
        if not LABEL_NAME.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)):
            continue
        cells = rows.column(name)
        values = pc.count_distinct(cells, mode="only_valid").as_py()
        try:
            marked = f"marks {int(read_labels(rows, name).anomalous.sum()):,} rows"
            advice = "name it with --label, or leave it out with --drop if it is none"
        except SchemaError:
            marked, advice = f"has {values} values", "leave it out with --drop if it is one"
        if values == 2:  # noqa: PLR2004
            yield Concern("warning", name, f"Column {name!r} looks like a label and {marked}; {advice}.")


def _rows(table: Table) -> Iterator[Concern]:
    """Repeated rows and empty rows, over the scored columns."""
    if not table.schema.kinds:
        return
    digests = np.zeros(table.n, dtype=np.uint64)
    empty = np.ones(table.n, dtype=bool)
    most_levels = 0
    for name, kind in table.schema.kinds.items():
        cells = _cells(table, name) if kind in ("numeric", "date") else codes_of(text_of(table.rows.column(name)))[0]
        if cells is None:
            continue
        missing = np.isnan(cells) if cells.dtype == np.float64 else cells < 0
        empty &= missing
        bits = np.where(missing, 0.0, cells + 0.0).view(np.uint64) ^ missing.astype(np.uint64)
        digests = (digests ^ bits) * np.uint64(0x9E3779B97F4A7C15)
        digests ^= digests >> np.uint64(29)
        if kind == "numeric":
            most_levels = max(most_levels, len(np.unique(cells[table.sample])))
    if empty.any():
        yield Concern("warning", None, f"Every scored column is empty in {rows_where(empty)}; leave such rows out.")
    repeats = np.ones(table.n, dtype=bool)
    repeats[np.unique(digests, return_index=True)[1]] = False
    repeats &= ~empty
    share = float(repeats.mean())
    if share < 0.01:  # noqa: PLR2004
        return
    text = f"Rows repeat earlier ones in {rows_where(repeats)} ({share:.1%}); they stay, since calibration needs them"
    continuous = most_levels > 0.5 * len(np.unique(digests[table.sample]))
    if share >= 0.1 and continuous and table.time is None and table.by is None:  # noqa: PLR2004
        advice = "a random split puts copies on both sides, which flatters the detector: give --time or --by"
        yield Concern("warning", None, f"{text}, but {advice}.")
    else:
        yield Concern("info", None, f"{text}.")


def _numeric(table: Table, name: str, numbers: dict[str, FloatArray]) -> Iterator[tuple[str, Concern]]:
    cells = _cells(table, name)
    if cells is None:
        text = f"Column {name!r} is declared a number but holds text; mend these cells or declare it `categorical`."
        yield "text", Concern("problem", name, text)
        return
    infinite = np.abs(cells) > MOST_FLOAT32
    if infinite.any():
        text = f"Column {name!r} is infinite or beyond float32 in {rows_where(infinite)}; such cells count as missing."
        yield "infinite", Concern("warning", name, text)
        cells = np.where(infinite, np.nan, cells)
    yield from missing_concerns(table, name, np.isnan(cells))
    ordered = np.sort(cells[~np.isnan(cells)])
    for code, usual in lone_codes(ordered).items():
        where = rows_where(cells == code)
        text = f"One and the same value stands far outside the rest of column {name!r} in {where}"
        if usual:
            yield "code", Concern("warning", name, f"{text}, and is a usual code for missing; empty these cells.")
        else:
            text += "; if it means missing, empty these cells, if a state such as off, add a column that says so"
            yield "code", Concern("info", name, f"{text}.")
        cells = np.where(cells == code, np.nan, cells)
        ordered = ordered[ordered != code]
    numbers[name] = cells[table.sample]
    if len(ordered) == 0 or ordered[0] == ordered[-1]:
        return
    mean, std = float(ordered.mean()), float(ordered.std())
    if std < 1e-6 * abs(mean) and table.schema.kinds[name] == "numeric":
        text = f"The values of column {name!r} differ by less than float32 can tell; subtract a constant from it first."
        yield "float32", Concern("problem", name, text)
    far = far_off(ordered)
    if far is not None:
        where, spreads = rows_where((cells < far.low) | (cells > far.high)), times(far.spreads)
        text = f"Column {name!r} lies up to {spreads} its usual spread away in {where}; mend or drop these if wrong."
        yield "far", Concern("warning", name, text)
    if table.schema.kinds[name] == "numeric":
        yield from _course(table, name, cells, ordered)


def _course(table: Table, name: str, cells: FloatArray, ordered: FloatArray) -> Iterator[tuple[str, Concern]]:
    """Stuck stretches and drift."""
    course = cells[table.order]
    stuck = longest_stretch(course, table.new_group)
    levels = len(np.unique(ordered[:: max(1, len(ordered) // SAMPLE_ROWS)]))
    if stuck is not None and levels >= 10 and (table.time or not _is_sorted(course)):  # noqa: PLR2004
        more = f", and {stuck.others:,} more such runs" if stuck.others else ""
        stretch = stretch_from(table, stuck.start, stuck.length)
        text = f"Column {name!r} sticks at one value for {stretch}{more}; see if it froze."
        yield "stuck", Concern("warning" if table.time else "info", name, text)
    if table.in_time is None:
        return
    fifth = table.n // 5
    in_time = cells[table.in_time]
    first, last = (np.sort(part[~np.isnan(part)]) for part in (in_time[:fifth], in_time[table.n - fifth :]))
    if min(len(first), len(last)) < 20:  # noqa: PLR2004
        return
    spread = max(usual_spread(first), usual_spread(last))
    shift = abs(float(np.median(last)) - float(np.median(first)))
    if shift > 2.0 * spread > 0.0:
        text = f"Column {name!r} drifts: its last fifth in time lies {times(shift / spread)} its spread from the first"
        yield (
            "drift",
            Concern("warning", name, f"{text}; use its change instead of its level, or only rows like today's."),
        )


def _relations(table: Table, numbers: dict[str, FloatArray]) -> Iterator[Concern]:
    names = [name for name in numbers if table.schema.kinds[name] == "numeric"]
    if not names:
        return
    for relation in exact_relations(np.column_stack([numbers[name] for name in names])):
        name, others = names[relation.column], [names[other] for other in relation.others]
        what = "a copy" if relation.copy else "a multiple" if len(others) == 1 else "a sum or difference"
        text = f"Column {name!r} is {what} of {listed(others)}{table.sampled}; the score counts it twice: --drop one."
        yield Concern("info", name, text)


def _modes(table: Table, numbers: dict[str, FloatArray], seed: int) -> Iterator[Concern]:
    names = [name for name in numbers if table.schema.kinds[name] == "numeric"]
    if not names:
        return
    try:
        modes = find_modes(np.column_stack([numbers[name] for name in names]), seed)
    except ImportError:
        yield Concern(
            "info", None, "Operating modes were not looked for, which needs the extra 'train' (scikit-learn)."
        )
        return
    if modes is None:
        return
    shares = ", ".join(f"{share:.0%}" for share in modes.shares)
    differ = listed([names[column] for column in modes.columns[:3]])
    seen = f" (in a sample of {len(modes.rows):,} rows)" if len(modes.rows) < table.n else ""
    text = f"The rows fall into {len(modes.shares)} well separated modes ({shares}) that differ most in {differ}{seen}"
    known = modes.mode_of >= 0
    for name, kind in sorted(table.schema.kinds.items() | ({(table.by, "categorical")} if table.by else set())):
        if kind in ("boolean", "categorical"):
            cells = table.rows.column(name).take(pa.array(table.sample[modes.rows[known]]))
            codes = codes_of(pc.fill_null(text_of(cells), ""))[0]
            joint = np.bincount(codes * len(modes.shares) + modes.mode_of[known])
            joint = np.pad(joint, (0, -len(joint) % len(modes.shares))).reshape(-1, len(modes.shares))
            if joint.max(axis=1).sum() > 0.95 * known.sum():
                yield Concern("info", None, f"{text}; column {name!r} tells them apart, so nothing need be done.")
                return
    yield Concern("warning", None, f"{text}; if these are operating states, add a column that names them, or use --by.")


def _cells(table: Table, name: str) -> FloatArray | None:
    origin = EPOCH if table.schema.kinds[name] == "date" else None
    try:
        return numbers_of(table.rows.column(name), name, origin).astype(np.float64)
    except CellError:
        return None


def _is_sorted(course: FloatArray) -> bool:
    steps = np.diff(course[~np.isnan(course)])
    up, down = int((steps > 0).sum()), int((steps < 0).sum())
    return min(up, down) < 0.05 * max(up, down)
