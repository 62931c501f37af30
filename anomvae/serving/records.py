"""JSON for people: named columns in; scores, verdicts and reasons out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from anomvae.errors import RequestError
from anomvae.serving.answers import Answering
from anomvae.serving.cells import layout_of, refuse_nested
from anomvae.serving.exchange import JSON, Decoded
from anomvae.serving.given import GivenColumns, GivenRecords
from anomvae.serving.wishes import (
    MAX_ROWS,
    OPTIONS,
    answer_type,
    read_wishes,
    refuse_large_json,
    refuse_too_many,
    refuse_unknown,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomvae.data.encoding import EncodedRows
    from anomvae.serving.exchange import Headers
    from anomvae.serving.given import Given
    from anomvae.serving.model import ServedModel

_KEYS = ("records", "columns", *OPTIONS)
_FORMS = '{"records": [{column: cell, ...}, ...]} or {"columns": {column: [cell, ...], ...}}'


def decode_score(
    model: ServedModel, body: bytes, headers: Headers, query: Mapping[str, str], *, max_rows: int = MAX_ROWS
) -> Decoded:
    """Decodes a JSON request to `/v1/models/{name}/score`.

    The body holds `records`, `columns`, or is a bare list of records. `top` (reasons a row, 3 unless said) and `alarm_rate`
    stand in the body or in the query.

    Args:
        model: The model asked.
        body: JSON.
        headers: `accept` chooses JSON, the default, or an Arrow stream for the answer.
        query: `top`, `alarm_rate`.
        max_rows: Most rows.

    Raises:
        RequestError: The body is not JSON, or not of this form.
        RequestTooLargeError: It holds too many rows.
        RowError: The rows do not fit the detector.
        SettingError: An option is out of range.
        TooFewRowsError: The calibration rows do not support the alarm rate.
    """
    document = parse_json(body)
    if isinstance(document, list):
        document = {"records": document}
    if not isinstance(document, dict):
        raise RequestError(f"the body is no object; send {_FORMS}")
    refuse_unknown(document, _KEYS, "the body")
    if ("records" in document) == ("columns" in document):
        both = "both records and columns" if "records" in document else "neither records nor columns"
        raise RequestError(f"the body holds {both}; send {_FORMS}")
    media_type = answer_type(headers, JSON)
    wishes = read_wishes(model, document, query)
    if "records" in document:
        rows, given = read_records(model, document["records"], "records", max_rows)
    else:
        rows, given = read_columns(model, document["columns"], "columns", max_rows)
    answering = Answering(model, wishes, rows, given)
    return Decoded(rows, wishes.outputs(model), answering.as_asked(media_type), "v1-json", wishes.alarm_rate)


def parse_json(body: bytes) -> Any:
    """A body as JSON.

    Raises:
        RequestError: It is not; says where, not what.
        RequestTooLargeError: It would take too long to find out.
    """
    refuse_large_json(len(body))
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if not body.strip():
            raise RequestError(f"the body is empty; send {_FORMS}") from None
        raise RequestError(
            f"the body is not JSON, or holds a number or text that JSON cannot, at line {error.lineno}, "
            f"column {error.colno}; note that a missing number is null, not NaN"
        ) from None


def read_records(model: ServedModel, records: Any, key: str, max_rows: int) -> tuple[EncodedRows, Given]:
    """Encodes a list of records.

    Args:
        model: The model asked.
        records: What the body holds.
        key: Where it holds it, for messages.
        max_rows: Most rows.

    Raises:
        RequestError: It is no list of objects.
        RequestTooLargeError: It is too long.
        RowError: The rows do not fit the detector.
    """
    if not isinstance(records, list):
        raise RequestError(f"{key} is no list; it must be a list of objects, one a row")
    refuse_too_many(len(records), max_rows)
    if not set(map(type, records)) <= {dict}:
        row = next(row for row, record in enumerate(records, start=1) if not isinstance(record, dict))
        raise RequestError(f"row {row:,} of {key} is no object; each row is an object of cells by column name")
    layout, given = layout_of(model), GivenRecords(records)
    for name in layout.carried:
        refuse_nested(given.cells(name), name)
    return layout.encode_records(records), given


def read_columns(model: ServedModel, columns: Any, key: str, max_rows: int) -> tuple[EncodedRows, Given]:
    """Encodes columns of cells.

    Args:
        model: The model asked.
        columns: What the body holds.
        key: Where it holds it, for messages.
        max_rows: Most rows.

    Raises:
        RequestError: It is no object of lists, or these are of several lengths.
        RequestTooLargeError: They are too long.
        RowError: The rows do not fit the detector.
    """
    if not isinstance(columns, dict):
        raise RequestError(f"{key} is no object; it must hold a list of cells by column name")
    for name, cells in columns.items():
        if not isinstance(cells, list):
            raise RequestError(f"column {named(model, name)} of {key} is no list of cells")
    lengths = {name: len(cells) for name, cells in columns.items()}
    if len(set(lengths.values())) > 1:
        short, long = min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)
        raise RequestError(
            f"the columns of {key} differ in length: {named(model, short)} holds {lengths[short]:,} cells, "
            f"{named(model, long)} {lengths[long]:,}"
        )
    refuse_too_many(max(lengths.values(), default=0), max_rows)
    layout = layout_of(model)
    for name in layout.carried:
        refuse_nested(columns.get(name, ()), name)
    return layout.encode_columns(columns), GivenColumns(columns)


def named(model: ServedModel, name: str) -> str:
    """A column's name for a message."""
    return repr(name) if name in layout_of(model).scored or len(name) <= _LONGEST_NAME else "of a very long name"


_LONGEST_NAME = 100
