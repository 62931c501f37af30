"""What looks wrong in columns of categories: misspelt ones, words for a missing cell, numbers as text, twins."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from anomvae.data.concerns import Concern, codes_of, missing_concerns, rows_where
from anomvae.data.encoding import is_text, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomvae.data.concerns import Table

IntArray = npt.NDArray[np.int64]

EMPTY_WORDS = frozenset(["", "-", "--", ".", "?", "#n/a", "n/a", "na", "nan", "nil", "null", "missing"])
NUMBER = re.compile(r"\s*[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?\s*")


def category_concerns(table: Table, name: str) -> Iterator[tuple[str, Concern]]:
    """Concerns about one column's categories, by sort."""
    codes, values = codes_of(text_of(table.rows.column(name)))
    yield from missing_concerns(table, name, codes < 0)
    counts = np.bincount(codes[codes >= 0], minlength=len(values))
    if is_text(table.rows.column(name).type) and (concern := _numbers_as_text(name, values, counts)) is not None:
        yield "text", concern
        return
    words = [code for code, value in enumerate(values) if value.strip().lower() in EMPTY_WORDS]
    if words:
        text = (
            f"Column {name!r} holds words for a missing cell in {rows_where(np.isin(codes, words))}; empty these cells."
        )
        yield "words", Concern("info", name, text)
    forms: dict[str, list[int]] = defaultdict(list)
    for code, value in enumerate(values):
        forms[" ".join(value.lower().split())].append(code)
    alike = [code for same in forms.values() for code in same[1:]]
    if alike:
        text = f"{len(alike):,} categories of column {name!r} differ from others only in case or blanks"
        yield "alike", Concern("warning", name, f"{text}, in {rows_where(np.isin(codes, alike))}; spell them alike.")
    once = np.flatnonzero(counts == 1)
    if len(once) and table.n >= 100:  # noqa: PLR2004
        text = f"{len(once):,} of {len(values):,} categories of column {name!r} stand in one row only"
        yield (
            "once",
            Concern("info", name, f"{text} ({rows_where(np.isin(codes, once))}); see whether they are misspelt."),
        )


def same_categories(table: Table) -> Iterator[Concern]:
    """Categories that part the rows just as an earlier column does."""
    seen: dict[bytes, str] = {}
    for name, kind in table.schema.kinds.items():
        if kind in ("numeric", "date"):
            continue
        cells = pc.fill_null(text_of(table.rows.column(name).take(pa.array(table.sample))), "")
        codes = codes_of(cells)[0]  # numbered by first appearance: equal where the partition is
        counts = np.bincount(codes)
        if len(counts) < 2 or np.sort(counts)[:-1].sum() < 5:  # noqa: PLR2004
            continue
        other = seen.setdefault(codes.tobytes(), name)
        if other != name:
            text = (
                f"Column {name!r} says the same as {other!r} under other names or none{table.sampled}; consider --drop."
            )
            yield Concern("info", name, text)


def _numbers_as_text(name: str, values: list[str], counts: IntArray) -> Concern | None:
    """A concern if nearly all of many different texts are numbers, but no codes with leading zeros and no counters."""
    numeric = [NUMBER.fullmatch(value) is not None for value in values]
    zeros = sum(bool(re.match(r"\s*0\d", value)) for value in values)
    counter = counts.max(initial=0) <= 1 and all(value.strip().isdigit() for value in values)
    if len(values) <= 20 or sum(numeric) < 0.95 * len(values) or zeros or counter:  # noqa: PLR2004
        return None
    return Concern(
        "warning", name, f"Column {name!r} holds numbers stored as text; declare it `numeric` or mend the file."
    )
