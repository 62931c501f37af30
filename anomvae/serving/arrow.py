"""Arrow IPC streams for bulk: whole columns in, whole columns out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anomvae.data.encoding import encode_for, require_columns
from anomvae.errors import CellError, RequestError, RequestTooLargeError
from anomvae.serving.answers import Answering
from anomvae.serving.arrow_messages import declared
from anomvae.serving.cells import layout_of
from anomvae.serving.exchange import ARROW_STREAM, Decoded
from anomvae.serving.given import GivenTable
from anomvae.serving.wishes import MAX_ROWS, answer_type, read_wishes, refuse_too_many

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomvae.data.encoding import EncodedRows
    from anomvae.serving.exchange import Headers
    from anomvae.serving.model import ServedModel

_UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError)
"""What pyarrow raises on damaged streams."""
_NOT_A_STREAM = "the body is not a whole Arrow IPC stream: it is damaged, cut short or something else"
_VIEW_WORDS = 4
"""32-bit words of a cell of a string view; the first is the text's length in bytes."""


@dataclass(frozen=True, slots=True)
class ArrowLimits:
    """What an Arrow stream may grow to. A few bytes can stand for any number of cells.

    Attributes:
        rows: Most rows.
        batches: Most record batches.
        bytes_: Most bytes that compressed buffers, dictionaries and string views may unfold to.
    """

    rows: int = MAX_ROWS
    batches: int = 4096
    bytes_: int = 256 << 20


def decode_score_arrow(
    model: ServedModel,
    body: bytes,
    headers: Headers,
    query: Mapping[str, str],
    *,
    limits: ArrowLimits = ArrowLimits(),
) -> Decoded:
    """Decodes an Arrow IPC stream sent to `/v1/models/{name}/score`.

    Reasons are left out unless `top` asks for them.

    Args:
        model: The model asked.
        body: The stream.
        headers: `accept` chooses an Arrow stream, the default, or JSON for the answer.
        query: `top`, `alarm_rate`.
        limits: What the stream may grow to.

    Raises:
        RequestError: The body is no Arrow stream.
        RequestTooLargeError: It holds, or unfolds to, too much.
        RowError: The rows do not fit the detector.
        SettingError: An option is out of range.
        TooFewRowsError: The calibration rows do not support the alarm rate.
    """
    media_type = answer_type(headers, ARROW_STREAM)
    wishes = read_wishes(model, {}, query, default_top=0)
    table = _needed(model, _read(body, limits), limits)
    rows = _encoded(model, table)
    answering = Answering(model, wishes, rows, GivenTable(table))
    return Decoded(rows, wishes.outputs(model), answering.as_asked(media_type), "v1-arrow", wishes.alarm_rate)


def _read(body: bytes, limits: ArrowLimits) -> pa.Table:
    """The stream's rows, found sound."""
    if body.startswith(b"ARROW1"):
        raise RequestError("the body is an Arrow file; send an Arrow IPC stream (`pyarrow.ipc.new_stream`)")
    buffer = pa.py_buffer(body)
    try:
        stated = declared(buffer)
        refuse_too_many(stated.rows, limits.rows)
        if stated.unfolded_bytes > limits.bytes_:
            raise RequestTooLargeError(f"the stream unfolds to more than {limits.bytes_ >> 20:,} MiB; send it in parts")
        with pa.ipc.open_stream(buffer) as reader:
            _ = reader.schema.names  # raises where one is not UTF-8
            batches: list[pa.RecordBatch] = []
            rows = 0
            for batch in reader:
                rows += batch.num_rows
                refuse_too_many(rows, limits.rows)
                if len(batches) == limits.batches:
                    raise RequestTooLargeError(f"the stream holds over {limits.batches:,} batches; send larger ones")
                batch.validate(full=True)
                batches.append(batch)
            return pa.Table.from_batches(batches, reader.schema)
    except _UNREADABLE:
        raise RequestError(_NOT_A_STREAM) from None


def _needed(model: ServedModel, table: pa.Table, limits: ArrowLimits) -> pa.Table:
    """The scored and carried columns, each in one piece, of types whose cells are single values."""
    layout, names = layout_of(model), table.schema.names
    require_columns(names, layout.manifest.columns)
    wanted = [name for name in names if name in layout.read or name in layout.carried]
    twice = next((name for name in wanted if wanted.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"the stream holds column {twice!r} twice")
    for name in wanted:
        if not _is_plain(table.schema.field(name).type):
            raise CellError(
                f"column {name!r} holds {_kind(table.schema.field(name).type)}; a cell is one number, text, date or flag"
            )
    table = table.select(wanted)
    if sum(_text_bytes(table.column(name)) for name in wanted) > limits.bytes_:
        raise RequestTooLargeError(f"the texts unfold to more than {limits.bytes_ >> 20:,} MiB; send them in parts")
    for place, name in enumerate(wanted):
        if name in layout.read and pa.types.is_string_view(table.column(name).type):  # Arrow takes no rows of views
            table = table.set_column(place, name, pc.cast(table.column(name), pa.large_string()))
    try:
        return table.combine_chunks()
    except _UNREADABLE:
        raise RequestError("the batches of the stream do not go together; send them as one") from None


def _encoded(model: ServedModel, table: pa.Table) -> EncodedRows:
    try:
        return encode_for(table, model.manifest)
    except pa.ArrowException:
        raise CellError(
            "the rows hold cells that their columns cannot be; send numbers, text, dates or flags"
        ) from None


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        held = kind.value_type
        return _is_plain(held) and not pa.types.is_dictionary(held) and not pa.types.is_string_view(held)
    return bool(
        pa.types.is_primitive(kind)  # numbers, flags, dates, times
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
    )


def _kind(kind: pa.DataType) -> str:
    """A type for a message, without names that it may hold."""
    return "lists or structures" if pa.types.is_nested(kind) else "bytes or values of an extension"


def _text_bytes(column: pa.ChunkedArray) -> int:
    """Bytes that texts unfold to, which dictionaries and views hold once and name many times."""
    kind = column.type
    if pa.types.is_string_view(kind):
        return sum(_view_bytes(chunk) for chunk in column.chunks)
    if not pa.types.is_dictionary(kind):
        return 0
    if not (pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)):
        return 0
    lengths = (pc.binary_length(chunk.dictionary).take(chunk.indices) for chunk in column.chunks)
    return sum(pc.sum(pc.cast(length, pa.int64())).as_py() or 0 for length in lengths)


def _view_bytes(views: pa.Array) -> int:
    buffer = views.buffers()[1]
    if buffer is None or not len(views):
        return 0
    words = np.frombuffer(buffer, dtype=np.int32)[
        views.offset * _VIEW_WORDS : (views.offset + len(views)) * _VIEW_WORDS
    ]
    return int(words[::_VIEW_WORDS].clip(min=0).astype(np.int64).sum())
