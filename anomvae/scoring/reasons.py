"""Why a row scores as it does: the columns that add most, what they hold and what was expected."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from anomvae.data.encoding import text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anomvae.bundle import Column, Manifest
    from anomvae.data.encoding import EncodedRows

    Arrays = Mapping[str, npt.NDArray[np.generic]]

REASON_OUTPUTS = ("contribution", "expected", "expected_category")
FEW = 8
_FLAGS: dict[Any, bool] = {"true": True, "false": False}
_FEW_CELLS = 64
"""Up to so many numbers are turned to their shortest text one by one; Arrow takes longer to start."""


class Picks(NamedTuple):
    """The strongest columns of some rows, before they are turned to Arrow; arrays of shape ``(n, k)``.

    Attributes:
        column: Positions among the scored columns.
        contribution: Nats.
        value: What the row holds: a number, or a category's code.
        expected: What was expected: a number, or a category's code.
    """

    column: npt.NDArray[np.int64]
    contribution: npt.NDArray[np.float32]
    value: npt.NDArray[np.float32]
    expected: npt.NDArray[np.float32]


class ReasonWriter:
    """Writes the reasons of rows as one Arrow column.

    With numbers alone, `value` and `expected` are numbers; where a detector has categories too they are text, since one
    Arrow column has one type. Numbers are float32: just what the detector saw.

    Args:
        manifest: Columns.
        top: Reasons a row.
    """

    def __init__(self, manifest: Manifest, top: int) -> None:
        self.numeric, self.categorical = manifest.numeric, manifest.categorical
        self.top = min(top, len(manifest.columns))
        self._names = pa.array([column.name for column in manifest.scored], pa.string())
        self._name_list = self._names.to_pylist()
        self._natural_words = [_natural_words(column) for column in self.categorical]
        value = pa.string() if self.categorical else pa.float32()
        self.struct = pa.struct(
            [("column", pa.string()), ("contribution", pa.float32()), ("value", value), ("expected", value)]
        )
        self.type = pa.list_(self.struct)

    def pick(self, rows: EncodedRows, answers: Arrays) -> Picks:
        """The strongest columns of n rows.

        Args:
            rows: The encoded rows.
            answers: The outputs of :data:`REASON_OUTPUTS` that the graph has.
        """
        contribution = np.asarray(answers["contribution"], dtype=np.float32)
        column = top_columns(contribution, self.top)
        held, foreseen = rows.numeric, answers.get("expected")
        if self.categorical:
            codes = np.asarray(answers["expected_category"])
            held = np.concatenate([held, rows.categorical.astype(np.float32)], axis=1)
            foreseen = codes if foreseen is None else np.concatenate([foreseen, codes], axis=1)
        at = column + (np.arange(len(column)) * contribution.shape[1])[:, None]
        return Picks(
            column,
            contribution.ravel().take(at),
            held.ravel().take(at),
            np.asarray(foreseen, dtype=np.float32).ravel().take(at),
        )

    def write(self, picks: Sequence[Picks], rows: pa.RecordBatch | None = None) -> pa.ListArray:
        """The reasons of all rows picked, in order.

        Args:
            picks: Of all the rows.
            rows: The rows as they came, to name categories that training never saw; without them these are None.
        """
        if not picks:
            return pa.array([], self.type)
        column, contribution, value, expected = (np.concatenate(part).ravel() for part in zip(*picks, strict=True))
        n = len(column) // self.top if self.top else sum(len(part.column) for part in picks)
        if self.categorical:
            cells = [self._as_text(value, column, rows), self._as_text(expected, column, None)]
        else:
            cells = [pa.array(value, mask=np.isnan(value)), pa.array(expected)]
        parts = [self._names.take(pa.array(column)), pa.array(contribution), *cells]
        struct = pa.StructArray.from_arrays(parts, fields=list(self.struct))
        offsets = pa.array(np.arange(n + 1, dtype=np.int32) * self.top)
        return pa.ListArray.from_arrays(offsets, struct, type=self.type)

    def natural(self, picks: Picks, rows: pa.RecordBatch | None = None) -> list[list[dict[str, Any]]]:
        """The reasons of all rows picked as JSON should say them: the same as :func:`natural_reasons` of :meth:`write`.

        It makes no Arrow arrays of few reasons, which for a single row would take longer than all the rest.

        Args:
            picks: Of all the rows.
            rows: The rows as they came, to name categories that training never saw; without them these are None.
        """
        if not self.top:
            return [[] for _ in picks.column]
        column = picks.column.ravel()
        contribution = [float(f"{nats:.7g}") for nats in picks.contribution.ravel().tolist()]
        value = self._natural_cells(picks.value.ravel(), column, rows)
        expected = self._natural_cells(picks.expected.ravel(), column, None)
        if not self.categorical:  # Arrow's numbers hold a missing cell as null, but no expectation is ever missing
            value = [None if cell == "nan" else cell for cell in value]
        names = self._name_list
        flat = [
            {"column": names[at], "contribution": nats, "value": held, "expected": foreseen}
            for at, nats, held, foreseen in zip(column.tolist(), contribution, value, expected, strict=True)
        ]
        return [flat[start : start + self.top] for start in range(0, len(flat), self.top)]

    def _natural_cells(
        self, cells: npt.NDArray[np.float32], column: npt.NDArray[np.int64], rows: pa.RecordBatch | None
    ) -> list[Any]:
        """Numbers as numbers, flags as booleans, codes as words; None where missing, text where JSON has no number."""
        if not self.categorical:
            return [_sayable(float(f"{cell:.7g}")) for cell in cells.tolist()]
        d, words = len(self.numeric), self._natural_words
        natural = [
            (None if math.isnan(cell) else _sayable(cell)) if at < d else words[at - d][int(cell)]
            for at, cell in zip(column.tolist(), _shortest(cells), strict=True)
        ]
        if rows is None:
            return natural
        unknown = np.array([described.unknown_code for described in self.categorical])
        is_code = np.flatnonzero(column >= d)
        strange = is_code[cells[is_code] == unknown[column[is_code] - d]]
        for j in np.unique(column[strange] - d).tolist():
            described, here = self.categorical[j], strange[column[strange] == d + j]
            texts = text_of(rows.column(described.name).take(pa.array(here // self.top))).to_pylist()
            for at, text in zip(here.tolist(), texts, strict=True):
                natural[at] = _FLAGS.get(text, text) if described.kind == "boolean" else text
        return natural

    def _as_text(
        self, cells: npt.NDArray[np.float32], column: npt.NDArray[np.int64], rows: pa.RecordBatch | None
    ) -> pa.Array:
        """Numbers as their shortest text, codes as their words; None where missing."""
        texts = np.full(len(cells), None, dtype=object)
        d = len(self.numeric)
        is_number = column < d
        numbers = cells[is_number]
        shortest = pc.cast(pa.array(numbers, mask=np.isnan(numbers)), pa.string())
        texts[is_number] = shortest.to_numpy(zero_copy_only=False)
        for j, described in enumerate(self.categorical):
            here = np.flatnonzero(column == d + j)
            words = _words(described)
            codes = cells[here].astype(np.int64)
            texts[here] = words[np.clip(codes, 0, len(words) - 1)]
            strange = here[codes == described.unknown_code]
            if rows is not None and len(strange):
                texts[strange] = text_of(rows.column(described.name).take(pa.array(strange // self.top))).to_pylist()
        return pa.array(texts, pa.string())


def natural_reasons(manifest: Manifest) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    """A function that turns a row's reasons, as Arrow holds them, into what people and JSON expect.

    Numbers are numbers and flags are flags, also in a detector with categories, whose Arrow column holds text.
    """
    kinds = {column.name: column.kind for column in manifest.columns}

    def natural(cell: Any, kind: str) -> Any:
        if cell is None:
            return None
        if kind in ("numeric", "date"):
            number = float(cell) if isinstance(cell, str) else float(f"{cell:.7g}")
            return number if math.isfinite(number) else str(number)  # JSON has no infinity
        return _FLAGS.get(cell, cell) if kind == "boolean" else cell

    def convert(reasons: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {
                "column": reason["column"],
                "contribution": float(f"{reason['contribution']:.7g}"),
                "value": natural(reason["value"], kinds[reason["column"]]),
                "expected": natural(reason["expected"], kinds[reason["column"]]),
            }
            for reason in reasons
        ]

    return convert


def top_columns(contribution: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    """Positions of the k largest entries of each row, largest first; the leftmost wins a tie.

    Args:
        contribution: Shape ``(n, columns)``.
        k: At most `columns`.

    Returns:
        Shape ``(n, k)``.
    """
    n = len(contribution)
    if k > FEW:
        order: npt.NDArray[np.int64] = np.argsort(-contribution, axis=1, kind="stable")[:, :k]
        return order
    # A few passes of argmax are several times faster than a partial sort of short rows.
    left, found, start = contribution.copy(), np.empty((n, k), dtype=np.int64), np.arange(n) * contribution.shape[1]
    flat = left.ravel()
    for rank in range(k):
        strongest = left.argmax(axis=1)
        found[:, rank] = strongest
        flat[start + strongest] = -np.inf
    return found


def _words(column: Column) -> npt.NDArray[np.object_]:
    """Text of each code: the categories, then None for missing and for unknown cells."""
    return np.array([*column.categories, *[None] * (column.n_codes - len(column.categories))], dtype=object)


def _natural_words(column: Column) -> list[Any]:
    """What JSON says of each code."""
    return [_FLAGS.get(word, word) if column.kind == "boolean" else word for word in _words(column).tolist()]


def _shortest(cells: npt.NDArray[np.float32]) -> list[float]:
    """Each number as the double nearest to its shortest float32 text: 0.1 rather than 0.10000000149."""
    if len(cells) <= _FEW_CELLS:
        return [float(str(cell)) for cell in cells]
    return pc.cast(pc.cast(pa.array(cells), pa.string()), pa.float64()).to_pylist()  # type: ignore[no-any-return]


def _sayable(number: float) -> float | str:
    """A number, or its name where JSON has none."""
    return number if math.isfinite(number) else str(number)
