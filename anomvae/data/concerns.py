"""What the looks at a table share: the concern they return, the table they read, and the words for rows and columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from anomvae.data.shapes import longest_stretch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomvae.data.schema import Schema

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Severity = Literal["info", "warning", "problem"]

SAMPLE_ROWS = 20_000
"""Rows for the looks that compare columns with each other."""
EPOCH = "1970-01-01T00:00:00"


@dataclass(frozen=True, slots=True)
class Concern:
    """One thing that looks wrong.

    Attributes:
        severity: `problem`: a fit fails or means little; `warning`: dirt or wrong settings; `info`: good to know.
        column: The column it is about; None: the table.
        message: One sentence: what, where (rows count from 1), what to do. It holds no data value.
    """

    severity: Severity
    column: str | None
    message: str


@dataclass(frozen=True, slots=True)
class Table:
    """What every look shares.

    Attributes:
        rows: The normal rows.
        schema: What their columns are.
        time: Column that orders the rows.
        by: Column that groups them.
        order: Row positions in sequence: within groups by time, or as in the file.
        new_group: Where in sequence a group starts, shape ``(n,)``; None without groups.
        in_time: Row positions by time alone; None without a time that orders.
        sample: Row positions for the costly looks.
    """

    rows: pa.Table
    schema: Schema
    time: str | None
    by: str | None
    order: IntArray
    new_group: BoolArray | None
    in_time: IntArray | None
    sample: IntArray

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.rows.num_rows)

    @property
    def sampled(self) -> str:
        """What to add to a sentence seen in the sample only; empty if that is every row."""
        return f" (seen in a sample of {SAMPLE_ROWS:,} rows)" if self.n > SAMPLE_ROWS else ""


def missing_concerns(table: Table, name: str, missing: BoolArray) -> Iterator[tuple[str, Concern]]:
    """Concerns about a column that is mostly empty, or empty in a burst, by sort."""
    share = float(missing.mean())
    if share > 0.5:  # noqa: PLR2004
        severity: Severity = "warning" if share > 0.95 else "info"  # noqa: PLR2004
        text = f"Column {name!r} is empty in {share:.1%} of the rows; --drop it unless that itself means something."
        yield "missing", Concern(severity, name, text)
        return
    burst = longest_stretch(np.where(missing, 1.0, np.nan)[table.order], table.new_group) if share else None
    if burst is not None:
        stretch = stretch_from(table, burst.start, burst.length)
        text = f"Column {name!r} is empty in {stretch}; see whether its source was down."
        yield "burst", Concern("warning" if table.time else "info", name, text)


def codes_of(text: pa.Array | pa.ChunkedArray) -> tuple[IntArray, list[str]]:
    """Codes by first appearance, -1 where missing, and the texts."""
    if isinstance(text, pa.ChunkedArray):
        text = text.combine_chunks()
    if isinstance(text, pa.ChunkedArray):
        text = pa.concat_arrays(text.chunks)
    encoded = text.dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, encoded.dictionary.to_pylist()


def rows_where(mask: BoolArray) -> str:
    """The first row of a mask, counted from 1, and how many more."""
    first, more = int(np.argmax(mask)) + 1, int(mask.sum()) - 1
    return f"row {first:,}" if more == 0 else f"row {first:,} and {more:,} more"


def stretch_from(table: Table, start: int, length: int) -> str:
    """How long a stretch in sequence is, and the row it starts at."""
    row = int(table.order[start]) + 1
    return f"{length:,} rows in a sequence that starts at row {row:,}"


def times(ratio: float) -> str:
    """A ratio in words."""
    return f"{ratio:,.0f} times" if ratio < 1e6 else "over a million times"  # noqa: PLR2004


def listed(names: list[str], most: int = 5) -> str:
    """The first few names, and how many more."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
