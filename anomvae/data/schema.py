"""What each column of a table is to the detector: inferred, declared, or left out with a reason."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from anomvae.bundle import Column, LeftOut
from anomvae.data.encoding import BOOLEAN_CATEGORIES, is_text, numbers_of, text_of
from anomvae.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anomvae.bundle.manifest import ColumnKind

Declared = Literal["numeric", "date", "boolean", "categorical", "omit"]

MAX_CATEGORIES = 200
"""A text column with more different values is no category unless declared."""
MOST_FLAGS = 256
MIN_ROWS_FOR_IDENTIFIER = 10
ULPS = 4
"""A column whose standard deviation is fewer steps of float32 than this holds nothing that the graph could see."""
PANDAS_INDEX = re.compile(r"__index_level_\d+__")
UNTIDY_NUMBER = r"^[+-]?\d[\d.,'\x{a0}\x{202f} ]*\s*[^\d\s]{0,4}$"
FENCE = 20.0
"""Numbers further from the median than this many interquartile ranges do not set a column's scale."""
ID_NAME = re.compile(r"(^|[\s_\-.])(u?u?id|udi|key|index|serial|row|no|nr|number)$|^id[\s_\-.]|Id$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SchemaRules:
    """How columns are understood.

    Attributes:
        declared: What the user says a column is; overrules every inference.
        drop: Columns to leave out.
        label: Column that marks anomalies.
        time: Column that orders the rows.
        by: Column that groups them.
        keep_constant: Whether columns of one value stay in: a new value in them is then strange.
    """

    declared: Mapping[str, Declared] = field(default_factory=dict)
    drop: Sequence[str] = ()
    label: str | None = None
    time: str | None = None
    by: str | None = None
    keep_constant: bool = False


@dataclass(frozen=True, slots=True)
class Schema:
    """Kinds of the scored columns, in table order, and what was left out.

    Attributes:
        kinds: Kind by column name.
        left_out: The others, with reasons.
    """

    kinds: dict[str, ColumnKind]
    left_out: tuple[LeftOut, ...]


def infer_schema(rows: pa.Table, rules: SchemaRules | None = None) -> Schema:
    """Says what each column is.

    Args:
        rows: The normal rows.
        rules: Declarations and roles.

    Raises:
        SchemaError: A named column is not there, a number column holds text, or nothing is left to learn from.
    """
    rules = rules or SchemaRules()
    check_names(rows.schema.names, rules)
    kinds: dict[str, ColumnKind] = {}
    left_out: list[LeftOut] = []
    for name in rows.schema.names:
        verdict = _understand(rows, name, rules)
        if isinstance(verdict, LeftOut):
            left_out.append(verdict)
        else:
            kinds[name] = verdict
    kinds = _many_flags_as_numbers(rows, kinds, rules)
    if not kinds:
        advice = "drop fewer of them" if rules.drop else "declare what a column is in [columns]"
        raise SchemaError(f"no column is left to learn from: {_reasons(left_out)}; {advice}")
    return Schema(kinds, tuple(left_out))


def _many_flags_as_numbers(rows: pa.Table, kinds: dict[str, ColumnKind], rules: SchemaRules) -> dict[str, ColumnKind]:
    """Leaves 0/1 number columns numbers where there are hundreds: words of a text, pixels, one-hots of a wide category.

    As flags each would have a likelihood of its own to learn; as numbers distances between rows carry.
    """
    flags = [
        name
        for name, kind in kinds.items()
        if kind == "boolean" and name not in rules.declared and not pa.types.is_boolean(rows.schema.field(name).type)
    ]
    return kinds | dict.fromkeys(flags, "numeric") if len(flags) > MOST_FLAGS else kinds


def check_names(names: Sequence[str], rules: SchemaRules) -> None:
    """Refuses names that are not in the table, or twice in it.

    Raises:
        SchemaError: See above.
    """
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise SchemaError(f"column names appear twice: {', '.join(map(repr, twice))}; rename one of each")
    roles = {"--label": rules.label, "--time": rules.time, "--by": rules.by}
    asked = [(option, name) for option, name in roles.items() if name is not None]
    asked += [("--drop", name) for name in rules.drop] + [("[columns]", name) for name in rules.declared]
    for option, name in asked:
        if name not in names:
            raise SchemaError(f"{option} names {name!r}, which is not a column; there are {_listed(names)}")


def describe(rows: pa.Table, kinds: Mapping[str, ColumnKind], train: npt.NDArray[np.int64]) -> tuple[Column, ...]:
    """Facts about the scored columns, from the rows the weights are fitted on and no others.

    Args:
        rows: Normal rows.
        kinds: Kind by column name.
        train: Numbers of the training rows among them.
    """
    positions = pa.array(train)
    return tuple(_describe(rows.column(name).take(positions), name, kind) for name, kind in kinds.items())


def _understand(rows: pa.Table, name: str, rules: SchemaRules) -> ColumnKind | LeftOut:
    if name == rules.label:
        return LeftOut(name, "the label", "label")
    if name == rules.time:
        return LeftOut(name, "orders the rows", "time")
    if name == rules.by:
        return LeftOut(name, "groups the rows", "group")
    if name in rules.drop:
        return LeftOut(name, "dropped on request")
    declared = rules.declared.get(name)
    if declared is None and PANDAS_INDEX.fullmatch(name):
        return LeftOut(name, "the index of a pandas frame", "identifier")
    if declared == "omit":
        return LeftOut(name, "omitted on request")
    if declared is not None:
        return declared
    return _infer(rows.column(name), name, rules)


def _infer(cells: pa.ChunkedArray, name: str, rules: SchemaRules) -> ColumnKind | LeftOut:
    kind = cells.type
    if len(cells) == 0 or cells.null_count == len(cells) or pa.types.is_null(kind):
        return LeftOut(name, "all missing")
    if pa.types.is_boolean(kind):
        return _unless_constant(cells, name, "boolean", rules)
    if pa.types.is_dictionary(kind):
        return _infer_dictionary(pc.cast(cells, kind.value_type), name, rules)
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind):
        return LeftOut(
            name,
            "a date or time: it moves on, so tomorrow's would all be strange (declare it `date` to keep it)",
            "identifier",
        )
    if is_text(kind):
        return _infer_text(cells, name, rules)
    if (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_duration(kind)
    ):
        return _infer_number(cells, name, rules)
    return LeftOut(name, f"of type {kind}, which is no number, category or date")


def _infer_dictionary(cells: pa.ChunkedArray, name: str, rules: SchemaRules) -> ColumnKind | LeftOut:
    """A dictionary is how some writers store any text, and how pandas stores categories of any type."""
    if is_text(cells.type):
        return _infer_text(cells, name, rules)
    distinct = pc.count_distinct(cells, mode="only_valid").as_py()
    if distinct > MAX_CATEGORIES:
        return LeftOut(name, f"a category of {distinct:,} different values (declare it `categorical` to keep it)")
    return _unless_constant(cells, name, "categorical", rules)


def _unless_constant(cells: pa.ChunkedArray, name: str, kind: ColumnKind, rules: SchemaRules) -> ColumnKind | LeftOut:
    if not rules.keep_constant and pc.count_distinct(cells, mode="only_valid").as_py() <= 1:
        return LeftOut(name, "constant")
    return kind


def _infer_number(cells: pa.ChunkedArray, name: str, rules: SchemaRules) -> ColumnKind | LeftOut:
    numbers = numbers_of(cells, name)
    with np.errstate(over="ignore"):
        seen = numbers.astype(np.float32)  # as the graph will see them
    if not np.isfinite(seen).any():
        return LeftOut(name, "all missing" if np.isnan(numbers).all() else "all missing, infinite or beyond float32")
    finite = numbers[np.isfinite(seen)]
    distinct = np.unique(finite)
    if len(distinct) == 1:
        return "numeric" if rules.keep_constant else LeftOut(name, "constant")
    if len(distinct) == 2 and distinct[0] == 0 and distinct[1] == 1 and len(finite) == np.sum(~np.isnan(numbers)):  # noqa: PLR2004
        return "boolean"
    if _is_counter(numbers, distinct, name):
        return LeftOut(name, "a unique identifier: every row has its own number", "identifier")
    if finite.std() < ULPS * float(np.spacing(np.abs(finite).max().astype(np.float32))):
        return LeftOut(name, "varies by less than float32 can tell: subtract a constant from it to keep it")
    return "numeric"


def _is_counter(numbers: npt.NDArray[np.float64], distinct: npt.NDArray[np.float64], name: str) -> bool:
    """Whether whole numbers, all different, count or name the rows rather than measure something."""
    n = len(numbers)
    if n < MIN_ROWS_FOR_IDENTIFIER or len(distinct) < n or not np.all(distinct == np.floor(distinct)):
        return False
    # Compared, not subtracted: differences of unsigned or small integers wrap around.
    in_order = bool(np.all(numbers[1:] > numbers[:-1]) or np.all(numbers[1:] < numbers[:-1]))
    dense = n / (float(distinct[-1]) - float(distinct[0]) + 1) >= 0.5  # noqa: PLR2004  a measurement this dense would repeat
    return in_order or dense or ID_NAME.search(name) is not None


def _infer_text(cells: pa.ChunkedArray, name: str, rules: SchemaRules) -> ColumnKind | LeftOut:
    present = pc.drop_null(cells)
    distinct = pc.count_distinct(present).as_py()
    n = len(present)
    if distinct <= 1:
        return "categorical" if rules.keep_constant else LeftOut(name, "constant")
    _refuse_spoilt_numbers(cells, name, distinct)
    if distinct > 20 and _untidy_share(present) >= 0.8:  # noqa: PLR2004
        return LeftOut(name, "numbers with separators or units: write them plainly, like 1234.5", "identifier")
    if n >= MIN_ROWS_FOR_IDENTIFIER and distinct == n:
        return LeftOut(name, "a unique identifier: every row has its own", "identifier")
    if distinct > MAX_CATEGORIES or (distinct > n / 2 and distinct > 20):  # noqa: PLR2004
        return LeftOut(
            name, f"text with {distinct:,} different values (declare it `categorical` to keep it)", "identifier"
        )
    return "categorical"


def _untidy_share(present: pa.ChunkedArray) -> float:
    """Share of cells that are numbers as people write them: 1 100,5 or 0.31 mm."""
    text = pc.utf8_trim_whitespace(present)
    looks = pc.match_substring_regex(text, UNTIDY_NUMBER)
    has_decimals = pc.match_substring_regex(text, r"\d[.,]\d")
    if (pc.sum(has_decimals).as_py() or 0) < 0.5 * len(present):  # whole numbers with a letter or two name things
        return 0.0
    return float((pc.sum(looks).as_py() or 0) / max(1, len(present)))


def _refuse_spoilt_numbers(cells: pa.ChunkedArray, name: str, distinct: int) -> None:
    """A column that is all numbers but for a few cells is a mistake in the data, not a category."""
    if distinct <= 20:  # noqa: PLR2004  few values, some of them digits: codes
        return
    looks = pc.match_substring_regex(pc.utf8_trim_whitespace(cells), r"^[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?$")
    numeric = pc.sum(looks).as_py() or 0
    present = len(cells) - cells.null_count
    if distinct == present and not pc.any(pc.match_substring_regex(pc.filter(cells, looks), r"\d[.,]\d")).as_py():
        return  # whole numbers and words, all different: identifiers
    if numeric < present and numeric >= 0.8 * present:
        raise SchemaError(
            f"column {name!r} holds numbers but for {present - numeric:,} cells of text, first at row "
            f"{pc.index(looks, False).as_py() + 1}; mend or empty these cells, or leave it out with --drop"
        )


def _describe(cells: pa.ChunkedArray, name: str, kind: ColumnKind) -> Column:
    held = cells.type.value_type if pa.types.is_dictionary(cells.type) else cells.type
    arrow_type, n = str(held), max(1, len(cells))
    if kind in ("boolean", "categorical"):
        text = text_of(cells)
        missing = text.null_count
        if kind == "boolean":
            categories = BOOLEAN_CATEGORIES
        else:
            categories = tuple(sorted(value for value in pc.unique(text).to_pylist() if value is not None))
        code = len(categories) if missing else None
        return Column(name, kind, arrow_type, categories, missing_code=code, missing_share=missing / n)
    origin = _origin(cells, name) if kind == "date" else None
    with np.errstate(over="ignore"):  # facts of what the detector sees: float32, beyond it infinite
        numbers = numbers_of(cells, name, origin).astype(np.float32).astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    usual = _drawn_in(finite) if len(finite) else finite
    return Column(
        name,
        kind,
        arrow_type,
        infinite_is_missing=bool(np.isinf(numbers).any()),
        missing_share=float(np.isnan(numbers).sum()) / n,
        low=float(finite.min()) if len(finite) else None,
        high=float(finite.max()) if len(finite) else None,
        mean=float(usual.mean()) if len(finite) else None,
        std=float(usual.std()) if len(finite) else None,
        origin=origin,
    )


def _drawn_in(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Numbers with those far out moved to a fence: a few typing errors must not set a column's scale."""
    quarter, median, three_quarters = np.quantile(numbers, [0.25, 0.5, 0.75])
    reach = FENCE * (three_quarters - quarter)
    return np.clip(numbers, median - reach, median + reach) if reach > 0 else numbers


def _origin(cells: pa.ChunkedArray, name: str) -> str:
    """The first instant of a date column, at midnight: days counted from it stay small, so float32 tells minutes."""
    try:
        first = pc.min(pc.cast(cells, pa.timestamp("us"), safe=False)).as_py()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise SchemaError(f"column {name!r} is declared `date` and holds cells that are no dates") from None
    return first.replace(hour=0, minute=0, second=0, microsecond=0).isoformat() if first else "1970-01-01T00:00:00"


def _reasons(left_out: Sequence[LeftOut]) -> str:
    shown = [f"{column.name!r} ({column.reason.split(':')[0].split(' (')[0]})" for column in left_out[:5]]
    more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""  # noqa: PLR2004
    return ", ".join(shown) + more if shown else "the table has no columns"


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
