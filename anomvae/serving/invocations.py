"""MLflow's scoring protocol: what `mlflow models serve` understands, and answers as it gives them."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa
import pyarrow.csv as pacsv

from anomvae.data.encoding import encode_for
from anomvae.data.text_cells import clean
from anomvae.errors import CellError, RequestError, RequestTooLargeError
from anomvae.serving.answers import Answering
from anomvae.serving.cells import layout_of
from anomvae.serving.exchange import Decoded
from anomvae.serving.given import GivenTable
from anomvae.serving.records import parse_json, read_columns, read_records
from anomvae.serving.wishes import MAX_ROWS, OPTIONS, Wishes, read_wishes, refuse_too_many, refuse_unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anomvae.data.encoding import EncodedRows
    from anomvae.serving.exchange import Headers
    from anomvae.serving.given import Given
    from anomvae.serving.model import ServedModel

    Rows = tuple[EncodedRows, Given]

CSV = "text/csv"
_CONSTANT = {"NaN": None, "Infinity": math.inf, "-Infinity": -math.inf}
_CONSTANTS = (b"NaN", b"Infinity")
FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")


def decode_invocations(model: ServedModel, body: bytes, headers: Headers, *, max_rows: int = MAX_ROWS) -> Decoded:
    """Decodes a request to `/invocations`.

    Args:
        model: The model asked.
        body: JSON with one of :data:`FORMS` and maybe `params`, or CSV with a header.
        headers: `content-type` tells CSV from JSON.
        max_rows: Most rows.

    Raises:
        RequestError: The body is not of this form.
        RequestTooLargeError: It holds too many rows.
        RowError: The rows do not fit the detector.
        SettingError: A parameter is out of range.
        TooFewRowsError: The calibration rows do not support the alarm rate.
    """
    kind = headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if kind == CSV:
        wishes = read_wishes(model, {}, {})
        rows, given = _read_csv(model, body, max_rows)
    else:
        document = _parse(body)
        wishes = _read_params(model, document)
        form = next(form for form in FORMS if form in document)
        rows, given = _READERS[form](model, document[form], max_rows)
    answering = Answering(model, wishes, rows, given)
    return Decoded(rows, wishes.outputs(model), answering.predictions, "mlflow", wishes.alarm_rate)


def _parse(body: bytes) -> Any:
    """A body as JSON; also with the `NaN` and `Infinity` that MLflow's clients write, a NaN being a missing cell."""
    try:
        return parse_json(body)
    except RequestTooLargeError:
        raise
    except RequestError:
        if not any(word in body for word in _CONSTANTS):
            raise
    try:
        document = json.loads(body, parse_constant=_CONSTANT.get)
        orjson.dumps(document)  # what it holds comes back in the answers: it must be able to
    except (ValueError, TypeError, RecursionError):
        raise RequestError(
            "the body is not JSON, not even with NaN for missing numbers, or holds a whole number beyond 64 bits, text that "
            "is no Unicode, or lists too deep; see /docs for its forms"
        ) from None
    return document


def _read_params(model: ServedModel, document: Any) -> Wishes:
    if not isinstance(document, dict) or sum(form in document for form in FORMS) != 1:
        raise RequestError(f"the body must be an object with one of {', '.join(FORMS)}")
    refuse_unknown(document, (*FORMS, "params"), "the body")
    params = document.get("params")
    if params is None:
        params = {}
    if not isinstance(params, dict):
        raise RequestError(f"params is no object; it may hold {' and '.join(OPTIONS)}")
    refuse_unknown(params, OPTIONS, "params")
    return read_wishes(model, params, {})


def _read_split(model: ServedModel, frame: Any, max_rows: int) -> Rows:
    key = "dataframe_split"
    if not isinstance(frame, dict) or not {"columns", "data"} <= frame.keys():
        raise RequestError(f"{key} must be an object with columns and data")
    refuse_unknown(frame, ("columns", "index", "data"), key)
    names, data = frame["columns"], frame["data"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RequestError(f"columns of {key} is no list of names")
    if len(set(names)) < len(names):
        raise RequestError(f"columns of {key} names a column twice")
    if not isinstance(data, list):
        raise RequestError(f"data of {key} is no list of rows")
    index = frame.get("index")
    if index is not None and (not isinstance(index, list) or len(index) != len(data)):
        raise RequestError(f"index of {key} is no list of as many entries as data has rows")
    return _read_lists(model, data, names, f"data of {key}", max_rows)


def _read_records(model: ServedModel, records: Any, max_rows: int) -> Rows:
    return read_records(model, records, "dataframe_records", max_rows)


def _read_instances(model: ServedModel, rows: Any, max_rows: int) -> Rows:
    if isinstance(rows, list) and rows and isinstance(rows[0], list):
        return _read_lists(model, rows, _scored_names(model), "instances", max_rows)
    return read_records(model, rows, "instances", max_rows)


def _read_inputs(model: ServedModel, rows: Any, max_rows: int) -> Rows:
    if isinstance(rows, list):
        return _read_lists(model, rows, _scored_names(model), "inputs", max_rows)
    return read_columns(model, rows, "inputs", max_rows)


_READERS: Mapping[str, Callable[[ServedModel, Any, int], Rows]] = {
    "dataframe_split": _read_split,
    "dataframe_records": _read_records,
    "instances": _read_instances,
    "inputs": _read_inputs,
}


def _scored_names(model: ServedModel) -> list[str]:
    return [column.name for column in model.manifest.columns]


def _read_lists(model: ServedModel, rows: list[Any], names: list[str], key: str, max_rows: int) -> Rows:
    """Rows that are lists of cells, in the order of names."""
    refuse_too_many(len(rows), max_rows)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, list) or len(row) != len(names):
            raise RequestError(f"row {number:,} of {key} is no list of {len(names):,} cells, one a column")
    columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    return read_columns(model, columns, key, max_rows)


def _read_csv(model: ServedModel, body: bytes, max_rows: int) -> Rows:
    """A CSV body: commas, a header, all cells as text until the encoding reads them."""
    _require_utf8(body)
    names = _csv_names(body)
    damaged: list[int] = []

    def note(row: pacsv.InvalidRow) -> str:
        damaged.append((row.number or 2) - 1)  # the header is the first
        return "error"

    try:
        table = pacsv.read_csv(
            pa.BufferReader(body),
            read_options=pacsv.ReadOptions(use_threads=False, block_size=max(1 << 20, len(body) + 1)),
            parse_options=pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except (pa.ArrowException, OSError, ValueError):  # the message may quote cells
        where = f"row {damaged[0]:,} does not have a cell for each of the {len(names):,} columns" if damaged else ""
        raise RequestError(f"the body is not CSV: {where or 'it is damaged, or not in UTF-8'}") from None
    if table.column_names != names:
        raise RequestError("the header cannot be read without doubt; quote names that hold commas or quotes")
    refuse_too_many(table.num_rows, max_rows)
    layout = layout_of(model)
    wanted = [name for name in names if name in layout.read or name in layout.carried]
    cleaned = {name: clean(table.column(name).combine_chunks()) for name in wanted}
    held = pa.table({**{name: pa.nulls(table.num_rows) for name in names if name not in cleaned}, **cleaned})
    try:
        return encode_for(held, model.manifest), GivenTable(held)
    except pa.ArrowException:
        raise CellError("the rows hold cells that their columns cannot be") from None


def _require_utf8(body: bytes) -> None:
    """Refuses other encodings before Arrow reads rows: where it cannot hand on a damaged one, it writes to standard error."""
    try:
        pa.array([body], pa.large_binary()).cast(pa.large_string())
    except pa.ArrowException:
        raise RequestError("the body is not CSV in UTF-8") from None


def _csv_names(body: bytes) -> list[str]:
    """Names of the header."""
    head = body[: 1 << 20].decode("utf-8-sig", errors="replace")
    try:
        names = next(csv.reader(io.StringIO(head)), [])
    except csv.Error:
        names = []
    if not names or "\ufffd" in head.split("\n", 1)[0]:
        raise RequestError("the body is not CSV in UTF-8 with a header")
    if len(set(names)) < len(names):
        raise RequestError("the header names a column twice")
    return names
