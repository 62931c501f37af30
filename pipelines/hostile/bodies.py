"""Bodies for every decoder of the daemon: sound ones, each with marked cells, and ones damaged on purpose."""

from __future__ import annotations

import csv
import io
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from anomvae.serving.exchange import ARROW_STREAM, JSON
from anomvae.serving.messages import ModelInferRequest
from anomvae.serving.v2 import HEADER_LENGTH
from anomvae.serving.v2_messages import CONTENTS
from pipelines.hostile.mutations import MARK, MARK_DIGITS, as_text, chance, mutate_bytes, mutate_document, odd_value

if TYPE_CHECKING:
    import random

MOST_ROWS = 6
SOUND_SHARE, BYTES_SHARE = 0.1, 0.2
_DATATYPES = ("FP32", "FP64", "FP16", "INT64", "INT32", "UINT64", "UINT8", "BOOL", "BYTES", "BF16")
_DTYPES = {
    "FP32": "<f4", "FP64": "<f8", "FP16": "<f2", "INT64": "<i8", "INT32": "<i4", "UINT64": "<u8", "UINT8": "u1", "BOOL": "?",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Body:
    """A request to a decoder.

    Attributes:
        content: Its bytes.
        headers: By lower-case name.
        query: Options of the query.
    """

    content: bytes
    headers: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)


def body_of(kind: str, draw: random.Random) -> Body:
    """A body of a kind: one in ten sound, the others damaged in form, in bytes, or both.

    Args:
        kind: One of :data:`KINDS`.
        draw: Decides everything.
    """
    make = KINDS[kind]
    share = draw.random()
    body: Body = make(draw, share >= SOUND_SHARE + BYTES_SHARE)
    if share >= SOUND_SHARE and (share < SOUND_SHARE + BYTES_SHARE or chance(draw, BYTES_SHARE) / 2):
        other: Body = make(draw, False)  # noqa: FBT003  as above
        headers = dict(body.headers)
        if kind == "mlflow-csv" and chance(draw, 0.7):  # else most would be refused as no UTF-8
            damaged = mutate_bytes(draw, body.content, other.content).decode("utf-8", "replace")
            return Body(damaged.encode(), headers)
        if HEADER_LENGTH in headers and chance(draw, 0.3):
            headers[HEADER_LENGTH] = str(
                draw.choice((0, 1, len(body.content), len(body.content) + 1, "-1", "٣", "9" * 30, "", " 5"))
            )
        return Body(mutate_bytes(draw, body.content, other.content), headers, body.query)
    return body


def _record(draw: random.Random) -> dict[str, Any]:
    return {
        "part": f"{MARK}{draw.randrange(10_000)}",
        "temperature": draw.choice((61.5, 60, float(MARK_DIGITS + "25"), None)),
        "pressure": draw.choice((251_000.0, None, int(MARK_DIGITS))),
        "vibration": draw.choice((1.25, 0, float("0." + MARK_DIGITS))),
        "cooling": draw.choice((True, False, None)),
        "material": draw.choice(("steel", "brass", None, f"{MARK}{draw.randrange(100)}")),
        "oiled": draw.choice(("2024-03-01T12:00:00", "2024-05-05", None)),
    }


def _records(draw: random.Random) -> list[dict[str, Any]]:
    return [_record(draw) for _ in range(draw.randrange(1, MOST_ROWS))]


def _options(draw: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if chance(draw, 0.3):
        found["top"] = draw.choice((0, 1, 3, 100))
    if chance(draw, 0.3):
        found["alarm_rate"] = draw.choice((0.05, 0.2, 0.5))
    return found


def _score_headers(draw: random.Random, content_type: str) -> dict[str, str]:
    accept = draw.choice((*[None, JSON, ARROW_STREAM, "*/*", "text/html, */*;q=0.1"] * 5, "q=;,/;*", "a/b;q=9", "\x00"))
    return {"content-type": content_type} | ({} if accept is None else {"accept": accept})


def _score_query(draw: random.Random) -> dict[str, str]:
    if chance(draw, 0.9):
        return {}
    return {
        draw.choice(("top", "alarm_rate", "alarm_rate", "tip")): draw.choice(
            ("1", "0.1", MARK, "nan", "1e-400", "9" * 5000, "")
        )
    }


def _columns_of(records: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [record[name] for record in records] for name in records[0]}


def _as_json(draw: random.Random, document: Any, damaged: bool) -> bytes:
    return as_text(draw, mutate_document(draw, document) if damaged else document)


def score_json(draw: random.Random, damaged: bool) -> Body:
    """For `/v1/models/{name}/score`."""
    records, options = _records(draw), _options(draw)
    document = draw.choice(({"records": records, **options}, {"columns": _columns_of(records), **options}, records))
    return Body(_as_json(draw, document, damaged), _score_headers(draw, JSON), _score_query(draw))


def invocations(draw: random.Random, damaged: bool) -> Body:
    """For `/invocations`, in JSON."""
    records = _records(draw)
    names = list(records[0])
    scored = [name for name in names if name != "part"]
    lists = [[record[name] for name in scored] for record in records]
    document: dict[str, Any] = draw.choice(
        (
            {"dataframe_split": {"columns": names, "data": [[record[name] for name in names] for record in records]}},
            {"dataframe_split": {"columns": scored, "data": lists, "index": list(range(len(lists)))}},
            {"dataframe_records": records},
            {"instances": draw.choice((records, lists))},
            {"inputs": draw.choice((_columns_of(records), lists))},
        )
    )
    if chance(draw, 0.3):
        document = {**document, "params": _options(draw)}
    return Body(_as_json(draw, document, damaged), {"content-type": JSON})


def csv_text(draw: random.Random, damaged: bool) -> Body:
    """For `/invocations`, in CSV."""
    records = _records(draw)
    lines = [list(records[0]), *(["" if cell is None else str(cell) for cell in record.values()] for record in records)]
    if damaged:
        for _ in range(draw.choice((1, 2, 3))):
            line = draw.choice(lines[draw.choice((0, 1, 1, 1)) :])
            place = draw.randrange(max(1, len(line)))
            line[place : place + draw.choice((*[1] * 12, 0, 2))] = [str(odd_value(draw))[:9000]] * draw.choice(
                (*[1] * 12, 0, 2)
            )
    sink = io.StringIO()
    style: Any = draw.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_MINIMAL))
    writer = csv.writer(
        sink,
        delimiter=draw.choice("," * 20 + ";\t"),
        quoting=style,
        lineterminator=draw.choice(("\n", "\n", "\r\n", "\r")),
    )
    writer.writerows(lines)
    text = draw.choice((*[""] * 10, "\ufeff", "\n", "#\n")) + sink.getvalue()
    return Body(text.encode(draw.choice(("utf-8",) * 20 + ("utf-16",)), "replace"), {"content-type": "text/csv"})


def _tensors(draw: random.Random) -> list[tuple[str, str, list[int], list[Any]]]:
    """Inputs of a sound request: name, datatype, shape, cells."""
    n_rows = draw.randrange(1, MOST_ROWS)
    if chance(draw, 0.5):
        numbers: list[Any] = [draw.choice((61.5, 0.0, None, float(MARK_DIGITS))) for _ in range(4 * n_rows)]
        codes: list[Any] = [draw.randrange(2) for _ in range(2 * n_rows)]
        found = [
            ("numeric", draw.choice(("FP32", "FP64")), [n_rows, 4], numbers),
            ("categorical", "INT64", [n_rows, 2], codes),
        ]
        if chance(draw, 0.2):
            found.append(("alarm_rate", "FP32", [1], [0.2]))
        return found
    records = [_record(draw) for _ in range(n_rows)]
    kinds = {"temperature": "FP64", "pressure": "FP32", "vibration": "FP64", "cooling": "BYTES", "material": "BYTES"}
    columns = _columns_of(records)
    columns["cooling"] = [None if cell is None else str(cell).lower() for cell in columns["cooling"]]
    names = [name for name in columns if name != "part" or chance(draw, 0.2)]
    return [(name, kinds.get(name, "BYTES"), [n_rows], columns[name]) for name in names]


def _asked(draw: random.Random) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    if chance(draw, 0.3):
        asked["id"] = "a-1"
    if chance(draw, 0.5):
        names = draw.sample(("score", "p_value", "alarm"), draw.randrange(1, 4))
        asked["outputs"] = [{"name": name, "parameters": {"binary_data": chance(draw, 0.5)}} for name in names]
    if chance(draw, 0.3):
        asked["parameters"] = draw.choice(({"alarm_rate": 0.2}, {"timeout": 10**6}, {"binary_data_output": True}))
    return asked


def infer_json(draw: random.Random, damaged: bool) -> Body:
    """For `/v2/models/{name}/infer`, tensors in JSON."""
    inputs = [
        {"name": name, "datatype": datatype, "shape": shape, "data": cells}
        for name, datatype, shape, cells in _tensors(draw)
    ]
    return Body(_as_json(draw, {"inputs": inputs, **_asked(draw)}, damaged), {"content-type": JSON})


def _raw(datatype: str, cells: list[Any]) -> bytes:
    if datatype == "BYTES":
        texts = [b"" if cell is None else str(cell).encode() for cell in cells]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    return np.array([np.nan if cell is None else cell for cell in cells]).astype(_DTYPES[datatype]).tobytes()


def infer_binary(draw: random.Random, damaged: bool) -> Body:
    """For `/v2/models/{name}/infer`, tensors as bytes after the JSON."""
    inputs, parts = [], []
    for name, datatype, shape, cells in _tensors(draw):
        stated: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if chance(draw, 0.8):
            parts.append(_raw(datatype, cells))
            stated["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            stated["data"] = cells
        inputs.append(stated)
    if damaged and parts and chance(draw, 0.5):  # the JSON stays sound, the bytes change under it
        parts[draw.randrange(len(parts))] = mutate_bytes(draw, draw.choice(parts), draw.choice(parts))
        damaged = chance(draw, 0.3)
    text = _as_json(draw, {"inputs": inputs, **_asked(draw)}, damaged)
    return Body(text + b"".join(parts), {HEADER_LENGTH: str(len(text))})


def infer_message(draw: random.Random, damaged: bool) -> Body:
    """For gRPC."""
    tensors, asked = _tensors(draw), _asked(draw)
    request = ModelInferRequest(model_name="press", id=asked.get("id", ""))
    typed = chance(draw, 0.5)
    for name, datatype, shape, cells in tensors:
        one = request.inputs.add(name=name, datatype=datatype, shape=shape)
        if damaged and chance(draw, 0.4):
            one.datatype = draw.choice(_DATATYPES)
        if damaged and chance(draw, 0.4):
            del one.shape[:]
            one.shape.extend(draw.choice(([], [0], [-1], [2**62, 4], [len(cells), 1], [1, 2, 3], [10**12])))
        if damaged and chance(draw, 0.1):
            one.name = draw.choice(("numeric", "alarm_rate", "", "x" * 3000, "part"))
        raw = _raw(datatype, cells)
        if typed:
            texts = [b"" if cell is None else str(cell).encode() for cell in cells]
            filled = texts if datatype == "BYTES" else [float("nan") if cell is None else cell for cell in cells]
            getattr(one.contents, CONTENTS[datatype]).extend(filled)
        else:
            request.raw_input_contents.append(mutate_bytes(draw, raw, raw) if damaged and chance(draw, 0.3) else raw)
    for output in asked.get("outputs", ()):
        request.outputs.add(name=output["name"] if not damaged or chance(draw, 0.8) else "scores")
    if chance(draw, 0.3):
        key, choice, value = draw.choice(_PARAMETERS)
        setattr(request.parameters[key], choice, value)
    return Body(request.SerializeToString())


_PARAMETERS = (
    ("alarm_rate", "double_param", 0.2), ("alarm_rate", "double_param", float("nan")), ("alarm_rate", "string_param", MARK),
    ("timeout", "int64_param", 10**6), ("timeout", "int64_param", -(2**63)), ("timeout", "uint64_param", 2**64 - 1),
    ("alarm_rate", "double_param", 1e-320), ("binary_data_output", "bool_param", True), ("alarm_rate", "bool_param", True),
)  # fmt: skip


def arrow_stream(draw: random.Random, damaged: bool) -> Body:
    """For `/v1/models/{name}/score`, as an Arrow stream."""
    table = pa.table({name: _arrow_column(draw, cells, damaged) for name, cells in _columns_of(_records(draw)).items()})
    if damaged and chance(draw, 0.3):
        name = draw.choice(table.column_names)
        table = draw.choice(
            (
                table.drop([name]),
                table.append_column(name, table[name]),
                table.rename_columns([*table.column_names[:-1], "\u00e9" * 80]),
            )
        )
    if chance(draw, 0.2):
        table = pa.concat_tables([table] * draw.choice((0, 2, 5)) or [table.slice(0, 0)])
    options = pa.ipc.IpcWriteOptions(compression=draw.choice((None, None, "lz4", "zstd")))
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=options) as stream:
        stream.write_table(table, max_chunksize=draw.choice((1, 2, 100)))
    return Body(sink.getvalue(), _score_headers(draw, ARROW_STREAM), _score_query(draw))


def _arrow_column(draw: random.Random, cells: list[Any], damaged: bool) -> pa.Array:
    """A column, of another type than it should have now and then."""
    kinds = {type(cell) for cell in cells} - {type(None)}
    column = pa.array([None if cell is None else float(cell) for cell in cells] if kinds & {int, float} else cells)
    if chance(draw, 0.5 if damaged else 0.1):
        wanted = draw.choice(_ARROW_TYPES)
        try:
            return column.cast(wanted, safe=False)
        except pa.ArrowException:
            plain = [None] * len(cells)
            return pa.array(plain if chance(draw, 0.5) else [[cell] for cell in column.to_pylist()])
    return column.dictionary_encode() if chance(draw, 0.1) else column


_ARROW_TYPES = (
    *(
        pa.int8(),
        pa.uint64(),
        pa.float16(),
        pa.float32(),
        pa.decimal128(38, 3),
        pa.decimal256(70, -3),
        pa.bool_(),
        pa.null(),
    ),
    *(
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.binary_view(),
        pa.date32(),
        pa.date64(),
        pa.time64("ns"),
    ),
    *(
        pa.timestamp("ns", "UTC"),
        pa.timestamp("s"),
        pa.timestamp("us", "Nowhere/Land"),
        pa.duration("s"),
        pa.month_day_nano_interval(),
    ),
    *(
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.float64()),
        pa.run_end_encoded(pa.int32(), pa.string()),
    ),
)


def packed(draw: random.Random, damaged: bool) -> Body:
    """A body behind a `Content-Encoding`."""
    how = draw.choice(("gzip", "deflate"))
    plain = score_json(draw, damaged).content
    if chance(draw, 0.2):
        plain = plain[:400] * 10_000
    squeeze = zlib.compressobj(wbits=31 if how == "gzip" else 15)
    return Body(squeeze.compress(plain) + squeeze.flush(), {"content-encoding": how})


KINDS = {
    "v2-json": infer_json,
    "v2-binary": infer_binary,
    "v1-json": score_json,
    "v1-arrow": arrow_stream,
    "mlflow-json": invocations,
    "mlflow-csv": csv_text,
    "grpc": infer_message,
    "packed": packed,
}
"""What makes the bodies of each decoder."""
