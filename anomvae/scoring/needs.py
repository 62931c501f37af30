"""The Arrow types that a detector's columns must have when read from text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from anomvae.bundle import Column, Manifest

_TYPES = {
    "numeric": pa.float64(),
    "date": pa.timestamp("us"),
    "boolean": pa.string(),
    "categorical": pa.string(),
}


def arrow_types(manifest: Manifest) -> dict[str, pa.DataType | None]:
    """Type by column name, so that no inference can see a block of a file otherwise than training saw the whole.

    The time of a series is None: people write it in many ways, and all of a column is needed to tell which.
    """
    types: dict[str, pa.DataType | None] = {column.name: _type(column) for column in manifest.columns}
    return types if manifest.series is None else {**types, manifest.series.time: None}


def _type(column: Column) -> pa.DataType:
    flag = column.is_numeric and column.type == "bool"  # a channel of a series: text has true and false for it
    return pa.bool_() if flag else _TYPES[column.kind]
