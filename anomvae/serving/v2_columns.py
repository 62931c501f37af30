"""Inputs of the Open Inference Protocol that are named after a detector's columns, one column an input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from anomvae.data.encoding import EncodedRows, encode_for
from anomvae.errors import CellError, RequestError, RowError
from anomvae.serving.datatypes import BYTES, LONGEST_NAME, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomvae.bundle import Manifest
    from anomvae.serving.v2_tensors import Tensor


def rows_by_column(manifest: Manifest, tensors: Mapping[str, Tensor]) -> EncodedRows:
    """Encodes one input a column, as a table's rows are encoded.

    Columns may come in any order and with any datatype: `BYTES` for text, dates included; numbers also as text, categories
    also as numbers. The column of the groups may come too, where they have calibrations of their own. Columns that the detector
    knows and does not score may come along and are not read.

    Args:
        manifest: Its columns.
        tensors: By name; shapes ``[n]`` or ``[n, 1]``.

    Raises:
        RequestError: A shape, datatype or cell cannot be read, or a name is not known.
        RowError: Columns are missing, differ in length, or hold what they cannot be.
    """
    needed, group = {column.name for column in manifest.columns}, manifest.calibration.group_column
    known = needed if group is None else needed | {group.name}
    unread = {column.name for column in manifest.left_out}.union(manifest.carried) - known
    for name in tensors:
        if name not in known and name not in unread and needed <= tensors.keys():
            raise RequestError(
                f"input {quoted(name)} is neither a tensor of model {manifest.name!r} nor one of its columns"
            )
    scored = {name: tensor for name, tensor in tensors.items() if name not in unread}
    columns = {name: _column(tensor) for name, tensor in scored.items() if name in known}
    _require_one_length(columns)
    n = len(next(iter(columns.values()), ()))
    for name in scored.keys() - known:  # one may be a column renamed: the error about the missing one names it
        columns.setdefault(name[:LONGEST_NAME], pa.nulls(n))
    try:
        return encode_for(pa.table(columns), manifest)
    except pa.ArrowException:
        raise CellError("a column holds cells that cannot be turned into what the detector expects of it") from None


def _require_one_length(columns: Mapping[str, pa.Array]) -> None:
    lengths = {name: len(cells) for name, cells in columns.items()}
    first, *others = lengths or ("",)
    for name in others:
        if lengths[name] != lengths[first]:
            raise RowError(
                f"input {quoted(name)} has {lengths[name]:,} rows, input {quoted(first)} has {lengths[first]:,}"
            )


def _column(tensor: Tensor) -> pa.Array:
    shape = tensor.shape
    if len(shape) == 0 or shape[1:] not in ((), (1,)):
        raise RowError(f"input {quoted(tensor.name)} has shape {list(shape)}; a column has shape [rows] or [rows, 1]")
    if tensor.datatype == BYTES:
        return _text(tensor)
    cells = tensor.numbers().reshape(-1)
    return pa.array(cells.astype(np.float32) if cells.dtype == np.float16 else cells)


def _text(tensor: Tensor) -> pa.Array:
    cells = tensor.texts()
    try:
        return pa.array([cell.encode() if isinstance(cell, str) else cell for cell in cells], pa.binary()).cast(
            pa.string()
        )
    except (pa.ArrowInvalid, UnicodeEncodeError):
        raise RequestError(f"input {quoted(tensor.name)} holds text that is not UTF-8") from None
