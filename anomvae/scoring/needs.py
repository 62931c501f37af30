"""The Arrow types that a detector's columns must have when read from text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from anomvae.bundle import Manifest

_TYPES = {
    "numeric": pa.float64(),
    "date": pa.timestamp("us"),
    "boolean": pa.string(),
    "categorical": pa.string(),
}


def arrow_types(manifest: Manifest) -> dict[str, pa.DataType]:
    """Type by column name, so that no inference can see a block of a file otherwise than training saw the whole."""
    return {column.name: _TYPES[column.kind] for column in manifest.columns}
