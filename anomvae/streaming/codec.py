"""Payloads as rows: JSON objects, Avro records, Arrow streams."""

from __future__ import annotations

import base64
import datetime as dt
import io
import json
import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args

import orjson
import pyarrow as pa

from anomvae.errors import MissingExtraError, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Row = dict[str, Any]
    Decode = Callable[[bytes], Row]

PayloadFormat = Literal["json", "avro", "avro-confluent", "arrow"]
Cause = Literal["format", "columns", "cells", "time", "asset", "graph"]
"""Why a record cannot be answered: no such payload, a column that is not there, a cell that cannot be, no time, no asset, or that
the graph fails on it."""

CAUSES: tuple[Cause, ...] = get_args(Cause)
EMPTY = "the payload is empty"
NO_JSON = "the payload is not JSON"
TOO_DEEP = "the payload is JSON that is nested too deep to be read"
TOO_LARGE = "the payload holds a whole number beyond 1.8e308, which is too large to be read"
NO_OBJECT = "the payload is JSON, but no object of cells by column name"
NO_AVRO = "the payload is no Avro record of the schema"
NO_CONFLUENT = "the payload does not begin with the magic byte and the schema's number, as Confluent's wire format does"
NO_ARROW = "the payload is no Arrow IPC stream"
MOST_ROWS = 100_000
"""Rows of an Arrow payload: a few hundred bytes may claim billions."""
MANY_ROWS = f"the payload holds more than {MOST_ROWS:,} rows; send fewer at a time"
LEAST_WHOLE, MOST_WHOLE, LONGEST_WHOLE = -(2**63), 2**64 - 1, 20
_CONFLUENT_HEAD = 5


class Bad(NamedTuple):
    """A record, or a row of one, that cannot be answered.

    Attributes:
        record: Position of the record in its batch.
        cause: The sort of reason.
        reason: What is wrong, as a sentence without values.
    """

    record: int
    cause: Cause
    reason: str


class Decoded(NamedTuple):
    """The rows of a batch of payloads.

    Attributes:
        rows: Cells by column name.
        record: Position of each row's record in the batch.
        part: Number of each row within its record, from 0; None: a record is a row.
        bad: Records that hold none.
    """

    rows: list[Row]
    record: Sequence[int]
    part: list[int] | None
    bad: list[Bad]


class Codec(Protocol):
    """Reads payloads."""

    def decode(self, payloads: Sequence[bytes]) -> Decoded:
        """Rows of payloads, in order; those that cannot be read are named and hold up no others."""
        ...


class JsonCodec:
    """One JSON object a payload. `NaN`, which Python writes and JSON does not know, is read as a missing number.

    Example:
        >>> JsonCodec().decode([b'{"a": 1}', b"[2]"]).bad
        [Bad(record=1, cause='format', reason='the payload is JSON, but no object of cells by column name')]
    """

    def decode(self, payloads: Sequence[bytes]) -> Decoded:
        """See :class:`Codec`."""
        try:
            rows = list(map(orjson.loads, payloads))
        except orjson.JSONDecodeError:
            return _one_by_one(payloads, _json_object)
        if {dict}.issuperset(map(type, rows)):
            return Decoded(rows, range(len(rows)), None, [])
        return _one_by_one(payloads, _json_object)


class AvroCodec:
    """One Avro record a payload, written with the schema of a file.

    Args:
        schema: JSON text of the schema.
        confluent: Whether a magic byte 0 and the schema's number, four bytes, stand before each record. The number is not looked
            at: all records must have been written with this schema.

    Raises:
        SettingError: It is no Avro schema of a record.
        MissingExtraError: fastavro is not installed.
    """

    def __init__(self, schema: str, *, confluent: bool = False) -> None:
        try:
            import fastavro
        except ImportError as error:
            raise MissingExtraError("reading Avro", "stream") from error
        try:
            self._schema = fastavro.parse_schema(json.loads(schema))
        except Exception as error:
            raise SettingError("the schema file holds no Avro schema; write its JSON there") from error
        if not isinstance(self._schema, dict) or self._schema.get("type") not in ("record", "error"):
            raise SettingError("the Avro schema is none of a record; its fields must be the columns")
        self._read = fastavro.schemaless_reader
        self._confluent = confluent

    def decode(self, payloads: Sequence[bytes]) -> Decoded:
        """See :class:`Codec`."""
        return _one_by_one(payloads, self._record)

    def _record(self, payload: bytes) -> Row:
        if self._confluent:
            if len(payload) < _CONFLUENT_HEAD or payload[0] != 0:
                raise ValueError(NO_CONFLUENT)
            payload = payload[_CONFLUENT_HEAD:]
        stream = io.BytesIO(payload)
        try:
            row = self._read(stream, self._schema, None)
        except Exception:  # noqa: BLE001  whatever a wrong byte leads to
            raise ValueError(NO_AVRO) from None
        if not isinstance(row, dict) or stream.tell() != len(payload):
            raise ValueError(NO_AVRO)
        return row


class ArrowCodec:
    """An Arrow IPC stream a payload, of up to 100,000 rows."""

    def decode(self, payloads: Sequence[bytes]) -> Decoded:
        """See :class:`Codec`."""
        rows: list[Row] = []
        records: list[int] = []
        parts: list[int] = []
        bad: list[Bad] = []
        for i, payload in enumerate(payloads):
            try:
                with pa.ipc.open_stream(payload) as stream:
                    table = stream.read_all()
                if table.num_rows > MOST_ROWS:
                    bad.append(Bad(i, "format", MANY_ROWS))
                    continue
                found = table.to_pylist()
            except Exception:  # noqa: BLE001  Arrow's classes, and those of values that Python cannot hold
                bad.append(Bad(i, "format", NO_ARROW if payload else EMPTY))
                continue
            rows += found
            records += [i] * len(found)
            parts += range(len(found))
        return Decoded(rows, records, parts, bad)


def make_codec(name: str, schema: Path | None = None) -> Codec:
    """The codec of a format.

    Args:
        name: One of :data:`PayloadFormat`.
        schema: The Avro schema's file.

    Raises:
        SettingError: There is no such format, or its schema is not there.
        MissingExtraError: A package that it needs is not installed.
    """
    formats = get_args(PayloadFormat)
    if name not in formats:
        raise SettingError(f"the format is {name!r}; it must be one of {', '.join(formats)}")
    if not name.startswith("avro"):
        if schema is not None:
            raise SettingError(f"a schema file is given, and the format {name!r} has none; it belongs to avro")
        return JsonCodec() if name == "json" else ArrowCodec()
    if schema is None:
        raise SettingError(f"the format {name!r} needs the file of the Avro schema")
    try:
        text = schema.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"the Avro schema {schema} cannot be read") from error
    return AvroCodec(text, confluent=name == "avro-confluent")


def as_json(value: Any) -> bytes:
    """A message as JSON; numbers that are not finite are null, bytes are Base64, decimals and times are text."""
    return orjson.dumps(value, default=_plain)


def _plain(cell: Any) -> Any:
    if isinstance(cell, Decimal):
        return str(cell)
    if isinstance(cell, dt.timedelta):
        return cell.total_seconds()
    return base64.b64encode(cell).decode() if isinstance(cell, (bytes, bytearray)) else str(cell)


def _one_by_one(payloads: Sequence[bytes], decode: Decode) -> Decoded:
    rows: list[Row] = []
    records: list[int] = []
    bad: list[Bad] = []
    for i, payload in enumerate(payloads):
        try:
            rows.append(decode(payload))
            records.append(i)
        except ValueError as error:
            bad.append(Bad(i, "format", str(error) if payload else EMPTY))
    return Decoded(rows, records, None, bad)


def _json_object(payload: bytes) -> Row:
    try:
        row = orjson.loads(payload)
    except orjson.JSONDecodeError:
        row = _lenient(payload)
    if type(row) is not dict:
        raise ValueError(NO_OBJECT)
    return row


def _lenient(payload: bytes) -> Any:
    """JSON with `NaN` and infinities, as Python's own reader takes it."""
    try:
        row = json.loads(payload.decode("utf-8-sig"), parse_int=_whole)
        orjson.dumps(row)  # what cannot be written again, as half a surrogate pair, cannot be answered
    except _TooLargeError:
        raise ValueError(TOO_LARGE) from None
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except TypeError as error:  # the class of what cannot be written, whose text alone tells why
        raise ValueError(TOO_DEEP if "ecursion" in str(error) else NO_JSON) from None
    except ValueError:
        raise ValueError(NO_JSON) from None
    return row


class _TooLargeError(ValueError):
    """A whole number is beyond what 64 bits can hold, floating-point or not."""


def _whole(digits: str) -> int | float:
    """A whole number as the quick reader has it: of 64 bits, or else a floating-point number."""
    if math.isinf(number := float(digits)):
        raise _TooLargeError
    if len(digits) <= LONGEST_WHOLE and LEAST_WHOLE <= (whole := int(digits)) <= MOST_WHOLE:
        return whole
    return number
