"""Why a row scores as it does: the columns that add most, what they hold and what was expected."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anomvae.bundle import Column, Manifest
    from anomvae.data.encoding import EncodedRows

    Arrays = Mapping[str, npt.NDArray[np.generic]]

REASON_OUTPUTS = ("contribution", "expected", "expected_category")
FEW = 8


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
        value = pa.string() if self.categorical else pa.float32()
        self.struct = pa.struct(
            [("column", pa.string()), ("contribution", pa.float32()), ("value", value), ("expected", value)]
        )
        self.type = pa.list_(self.struct)

    def write(self, rows: EncodedRows, answers: Arrays) -> pa.ListArray:
        """Reasons of n rows, strongest first.

        Args:
            rows: The encoded rows.
            answers: The outputs of :data:`REASON_OUTPUTS` that the graph has.
        """
        n, k, d = len(rows), self.top, len(self.numeric)
        contribution = np.asarray(answers["contribution"], dtype=np.float32)
        strongest = top_columns(contribution, k)
        row = np.repeat(np.arange(n), k)
        column = strongest.ravel()
        if self.categorical:
            value, expected = self._as_text(rows, answers, row, column, d)
        else:
            at = np.where(column < d, column, 0)
            numbers = rows.numeric[row, at]
            value = pa.array(numbers, mask=np.isnan(numbers))
            expected = pa.array(np.asarray(answers["expected"], dtype=np.float32)[row, at])
        parts = [self._names.take(pa.array(column)), pa.array(contribution[row, column]), value, expected]
        struct = pa.StructArray.from_arrays(parts, fields=list(self.struct))
        offsets = pa.array(np.arange(n + 1, dtype=np.int32) * k)
        return pa.ListArray.from_arrays(offsets, struct, type=self.type)

    def _as_text(
        self,
        rows: EncodedRows,
        answers: Arrays,
        row: npt.NDArray[np.int64],
        column: npt.NDArray[np.int64],
        d: int,
    ) -> tuple[pa.Array, pa.Array]:
        value = np.full(len(row), None, dtype=object)
        expected = np.full(len(row), None, dtype=object)
        is_number = column < d
        if d:
            numbers = rows.numeric[row[is_number], column[is_number]]
            value[is_number] = _number_texts(numbers)
            foreseen = np.asarray(answers["expected"], dtype=np.float32)
            expected[is_number] = _number_texts(foreseen[row[is_number], column[is_number]])
        for j, described in enumerate(self.categorical):
            here = np.flatnonzero(column == d + j)
            words = _words(described)
            value[here] = words[np.clip(rows.categorical[row[here], j], 0, len(words) - 1)]
            expected[here] = words[np.asarray(answers["expected_category"])[row[here], j].astype(np.int64)]
        return pa.array(value, pa.string()), pa.array(expected, pa.string())


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
            return number if math.isfinite(number) else None
        return cell == "true" if kind == "boolean" else cell

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
    left, found, each = contribution.copy(), np.empty((n, k), dtype=np.int64), np.arange(n)
    for rank in range(k):
        found[:, rank] = left.argmax(axis=1)
        left[each, found[:, rank]] = -np.inf
    return found


def _number_texts(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.object_]:
    """Numbers as their shortest text; None where missing."""
    texts = pc.cast(pa.array(numbers, mask=np.isnan(numbers)), pa.string())
    return texts.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _words(column: Column) -> npt.NDArray[np.object_]:
    """Text of each code: the categories, then None for missing and for unknown cells."""
    return np.array([*column.categories, *[None] * (column.n_codes - len(column.categories))], dtype=object)
