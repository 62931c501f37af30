"""Conditions under which an asset is off, as people write them: `rpm < 10 or state == 'idle'`."""

from __future__ import annotations

import ast
import difflib
import math
import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from anomvae.data.encoding import FALSE_WORDS, TRUE_WORDS
from anomvae.data.times import NUMBER
from anomvae.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

BoolArray = npt.NDArray[np.bool_]
Reading = Literal["number", "flag", "text"]

LONGEST = 2_000
"""Characters of a condition."""
_TOKEN = re.compile(
    r"(?P<name>`[^`]+`)|(?P<text>'[^']*'|\"[^\"]*\")|(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)|"
    r"(?P<word>[^\W\d]\w*)|(?P<sign><=|>=|==|!=|[<>()+-])|(?P<space>\s+)|(?P<other>.)",
    re.DOTALL,
)
_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_SIGNS: dict[type[ast.AST], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip


class Cells(Protocol):
    """What a condition reads: the cells of a table's column, or the one of a record."""

    def read(self, name: str, reading: Reading) -> Any:
        """Numbers (NaN where missing or none), flags as 1 and 0 likewise, or text (None where missing or none)."""
        ...


@dataclass(frozen=True, slots=True)
class Field:
    """A column."""

    name: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A column or number beside another, or a column beside a text."""

    left: Field | float
    sign: str
    right: Field | float | str
    reading: Reading

    def holds(self, cells: Cells) -> tuple[Any, Any]:
        """Where it is known to hold, and where it is known not to."""
        left, right = (cells.read(side.name, self.reading) if isinstance(side, Field) else side
                       for side in (self.left, self.right))  # fmt: skip
        known = _known(left) & _known(right)
        return known & _COMPARE[self.sign](left, right), known & _COMPARE[_OPPOSITE[self.sign]](left, right)


@dataclass(frozen=True, slots=True)
class Joined:
    """Conditions joined by `and` or `or`, by Kleene's logic: what is missing matters only where the others do not decide."""

    both: bool
    parts: tuple[Condition, ...]

    def holds(self, cells: Cells) -> tuple[Any, Any]:
        """Where it is known to hold, and where it is known not to."""
        yes, no = self.parts[0].holds(cells)
        for part in self.parts[1:]:
            also, not_also = part.holds(cells)
            yes, no = (yes & also, no | not_also) if self.both else (yes | also, no & not_also)
        return yes, no


@dataclass(frozen=True, slots=True)
class Negated:
    """The opposite of a condition."""

    part: Condition

    def holds(self, cells: Cells) -> tuple[Any, Any]:
        """Where it is known to hold, and where it is known not to."""
        yes, no = self.part.holds(cells)
        return no, yes


Condition = Comparison | Joined | Negated


@dataclass(frozen=True, slots=True)
class OffCondition:
    """A condition under which an asset is off; it does not hold where a cell that decides it is missing.

    Attributes:
        text: As it was written.
        condition: As it was understood.
        columns: The columns it reads, in order of appearance; they need not be scored.
    """

    text: str
    condition: Condition
    columns: tuple[str, ...]

    def check(self, rows: pa.Table) -> None:
        """Refuses a condition that a table cannot answer.

        Raises:
            SettingError: A column is not there, or none of its cells can be compared as the condition does.
        """
        self._require(rows.schema.names)
        for name, reading in sorted(_readings(self.condition)):
            if len(rows) > rows.column(name).null_count and not _known(_Columns(rows).read(name, reading)).any():
                kind = {"number": "a number", "flag": "true or false", "text": "text"}[reading]
                raise SettingError(
                    f"--off {self.text!r} compares {name!r} with {kind}, and none of its cells ({rows.column(name).type}) "
                    "is one"
                )

    def of_table(self, rows: pa.Table | pa.RecordBatch) -> BoolArray:
        """Rows in which it holds, shape ``(n,)``.

        Raises:
            SettingError: A column is not there.
        """
        self._require(rows.schema.names)
        return np.asarray(self.condition.holds(_Columns(rows))[0], dtype=np.bool_)

    def of_record(self, record: Mapping[str, object]) -> bool:
        """Whether it holds in one record; a field that is not there counts as missing."""
        return bool(self.condition.holds(_Record(record))[0])

    def _require(self, names: Sequence[str]) -> None:
        for name in self.columns:
            if name not in names:
                alike = difflib.get_close_matches(name, names, 1)
                hint = f"did you mean {alike[0]!r}?" if alike else "write names with blanks or signs in `backticks`"
                raise SettingError(f"--off {self.text!r} names {name!r}, which is not a column; {hint}")


def parse_off(text: str) -> OffCondition:
    """Understands a condition.

    Columns are plain words or stand in backticks. They compare (`<`, `<=`, `>`, `>=`, `==`, `!=`) with numbers and with
    one another, as equal or not with quoted text, `true` and `false`; a column alone is true where it holds a flag that is.
    `and`, `or`, `not` and parentheses join.

    Raises:
        SettingError: It is no such condition.

    Example:
        >>> idle = parse_off("`Motor speed` < 10 and not state == 'test'")
        >>> idle.columns, idle.of_record({"Motor speed": 3.5, "state": "run"})
        (('Motor speed', 'state'), True)
    """
    found = _Parser(text).parse()
    columns = tuple(dict.fromkeys(name for name, _ in _readings(found)))
    if not columns:
        raise SettingError(f"--off {text!r} names no column; write for instance 'rpm < 10'")
    return OffCondition(text, found, columns)


class _Parser:
    """One condition: tokens give way to placeholders that Python's own parser takes, whatever a column is called."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._values: dict[str, Field | str | bool] = {}

    def parse(self) -> Condition:
        if len(self._text) > LONGEST:
            raise SettingError(f"--off is longer than {LONGEST:,} characters")
        try:
            tree = ast.parse("".join(self._token(token) for token in _TOKEN.finditer(self._text)).strip(), mode="eval")
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            raise self._wrong(
                "cannot be read as a condition; write for instance \"rpm < 10 or state == 'idle'\""
            ) from None
        return self._condition(tree.body)

    def _token(self, token: re.Match[str]) -> str:
        kind, text = token.lastgroup, token.group()
        if kind == "other":
            raise self._wrong(
                f"has a sign at place {token.start() + 1} that means nothing here; there are < <= > >= == != and or not ( )"
            )
        if kind in ("sign", "number"):
            return f" {text} "
        if kind == "space" or text in ("and", "or", "not"):
            return f" {' ' if kind == 'space' else text} "
        value: Field | str | bool = text[1:-1] if kind == "text" else Field(text.strip("`"))
        if kind == "word" and text.lower() in ("true", "false"):
            value = text.lower() == "true"
        self._values[f"v{len(self._values)}"] = value
        return f" v{len(self._values) - 1} "

    def _condition(self, node: ast.expr) -> Condition:
        if isinstance(node, ast.BoolOp):
            return Joined(isinstance(node.op, ast.And), tuple(self._condition(part) for part in node.values))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return Negated(self._condition(node.operand))
        if isinstance(node, ast.Compare):
            sides = [self._side(side) for side in (node.left, *node.comparators)]
            signs = [self._sign(sign) for sign in node.ops]
            pairs = [self._pair(*pair) for pair in zip(sides, signs, sides[1:], strict=False)]
            return pairs[0] if len(pairs) == 1 else Joined(both=True, parts=tuple(pairs))
        side = self._side(node)
        if not isinstance(side, Field):
            raise self._wrong("has a value that is compared with nothing")
        return Comparison(side, "==", 1.0, "flag")

    def _pair(self, left: Field | str | float | bool, sign: str, right: Field | str | float | bool) -> Comparison:
        if not isinstance(left, Field) and isinstance(right, Field):
            turned = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
            left, sign, right = right, turned.get(sign, sign), left
        if not isinstance(left, Field):
            raise self._wrong("compares two values; one side must be a column")
        if not isinstance(right, (str, bool)):
            return Comparison(left, sign, right, "number")
        if sign not in ("==", "!="):
            raise self._wrong(f"orders {left.name!r} by a text or a flag; these are equal (==) or not (!=)")
        return Comparison(left, sign, right, "text") if isinstance(right, str) else (
            Comparison(left, sign, float(right), "flag")
        )  # fmt: skip

    def _side(self, node: ast.expr) -> Field | str | float | bool:
        if isinstance(node, ast.Name):
            return self._values[node.id]
        negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            node = node.operand
        if not isinstance(node, ast.Constant) or not isinstance(node.value, (int, float)):
            raise self._wrong("may hold comparisons joined by and, or and not, and nothing else: no sums, no functions")
        number = _as_number(node.value)
        if not math.isfinite(number):
            raise self._wrong("has a number that is too large")
        return -number if negative else number

    def _sign(self, sign: ast.cmpop) -> str:
        if type(sign) not in _SIGNS:
            raise self._wrong("may compare by < <= > >= == and != alone")
        return _SIGNS[type(sign)]

    def _wrong(self, what: str) -> SettingError:
        return SettingError(f"--off {self._text!r} {what}")


class _Record:
    """The cells of one record."""

    def __init__(self, record: Mapping[str, object]) -> None:
        self._record = record

    def read(self, name: str, reading: Reading) -> Any:
        return _READ[reading](self._record.get(name))


class _Columns:
    """The cells of a table; numbers by the column, all else by what :class:`_Record` makes of each different value."""

    def __init__(self, rows: pa.Table | pa.RecordBatch) -> None:
        self._rows = rows

    def read(self, name: str, reading: Reading) -> npt.NDArray[Any]:
        cells = self._rows.column(name)
        kind = cells.type
        if reading == "number" and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            return np.asarray(pc.cast(cells, pa.float64(), safe=False)).astype(np.float64)
        if pa.types.is_null(kind) or pa.types.is_nested(kind):
            codes, different = np.zeros(len(cells), dtype=np.int64), [None]
        else:
            cells = pc.cast(cells, kind.value_type) if pa.types.is_dictionary(kind) else cells
            different = [*cells.unique().drop_null().to_pylist(), None]
            found = pc.index_in(cells, cells.unique().drop_null(), skip_nulls=True)
            codes = np.asarray(pc.fill_null(found, len(different) - 1)).astype(np.int64)
        values = [_READ[reading](value) for value in different]
        return np.array(values, dtype=object if reading == "text" else np.float64)[codes]


def _as_number(value: object) -> float:
    """A cell as a number; NaN: it is missing, or none."""
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()) is None:
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]  # of decimals too
    except (TypeError, ValueError):
        return math.nan
    except OverflowError:
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]  # a whole number


def _as_flag(value: object) -> float:
    """A cell as 1 or 0; NaN: it is missing, or no flag."""
    if isinstance(value, str):
        word = value.strip().lower()
        return 1.0 if word in TRUE_WORDS else 0.0 if word in FALSE_WORDS else math.nan
    number = _as_number(value)
    return number if number in {0.0, 1.0} else math.nan


def _as_text(value: object) -> str | None:
    """A cell as text, whole numbers without a decimal point; None: it is missing, or none."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return None if math.isnan(value) else str(int(value)) if value.is_integer() else repr(value)
    return str(value) if isinstance(value, int) else None


_READ: dict[Reading, Callable[[object], Any]] = {"number": _as_number, "flag": _as_flag, "text": _as_text}


_NONE = np.array(None, dtype=object)


def _known(side: Any) -> Any:
    """Where a side is not missing: NaN differs from itself, and None is None."""
    if isinstance(side, np.ndarray):
        return np.not_equal(side, _NONE) if side.dtype == object else ~np.isnan(side)
    return side is not None and side == side  # noqa: PLR0124


def _readings(condition: Condition) -> list[tuple[str, Reading]]:
    """Columns a condition reads and how, in order of appearance."""
    if isinstance(condition, Comparison):
        return [(side.name, condition.reading) for side in (condition.left, condition.right) if isinstance(side, Field)]
    parts = condition.parts if isinstance(condition, Joined) else (condition.part,)
    return [reading for part in parts for reading in _readings(part)]
