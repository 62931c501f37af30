"""The requests that are measured: bodies made before, answers read back once to see that they are right."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa

from pipelines.serve_bench.subject import OUTPUTS, Scores

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    from pipelines.serve_bench.subject import Subject

JSON = {"Content-Type": "application/json"}
HEADER_LENGTH = "Inference-Header-Content-Length"
WANTED = [{"name": name} for name in OUTPUTS]
SINGLES = 64
"""Different single rows that are sent in turn."""


@dataclass(frozen=True, slots=True)
class Request:
    """A kind of request.

    Attributes:
        name: `json`, `binary`, `arrow`, `arrow-float` or `grpc`.
        path: Where it is posted.
        headers: Its headers.
        bodies: Bodies sent in turn: the i-th holds the rows from i times `n_rows` on.
        n_rows: Rows in a body.
        read: Reads an answer's body, and its headers by lower-case name.
    """

    name: str
    path: str
    headers: dict[str, str]
    bodies: tuple[bytes, ...]
    n_rows: int
    read: Callable[[bytes, Mapping[str, str]], Scores]


def single_v2(subject: Subject) -> Request:
    """Single rows as JSON of the Open Inference Protocol."""
    bodies = tuple(_v2_json(subject.rows[row : row + 1]) for row in range(SINGLES))
    return Request("json", _v2_path(subject), JSON, bodies, 1, _read_v2_json)


def single_mlflow(subject: Subject) -> Request:
    """Single rows for `/invocations`; reasons are switched off."""
    bodies = tuple(_split_json(subject, subject.rows[row : row + 1]) for row in range(SINGLES))
    return Request("json", "/invocations", JSON, bodies, 1, _read_predictions)


def inputs_mlflow(subject: Subject, n_rows: int) -> Request:
    """Rows as a plain array for `/invocations`, the form that costs MLflow least."""
    starts = range(SINGLES) if n_rows == 1 else (0,)
    bodies = tuple(_inputs_json(subject.rows[start : start + n_rows]) for start in starts)
    return Request("json", "/invocations", JSON, bodies, n_rows, _read_predicted_arrays)


def bulk_mlflow(subject: Subject, n_rows: int) -> Request:
    """Many rows for `/invocations`."""
    return Request(
        "json", "/invocations", JSON, (_split_json(subject, subject.rows[:n_rows]),), n_rows, _read_predictions
    )


def bulk_json(subject: Subject, n_rows: int) -> Request:
    """Many rows as JSON of the Open Inference Protocol."""
    return Request("json", _v2_path(subject), JSON, (_v2_json(subject.rows[:n_rows]),), n_rows, _read_v2_json)


def bulk_binary(subject: Subject, n_rows: int) -> Request:
    """Many rows in the protocol's binary tensor extension, both ways."""
    tensor = _numeric(subject.rows[:n_rows]) | {"parameters": {"binary_data_size": n_rows * subject.rows.shape[1] * 4}}
    outputs = [wanted | {"parameters": {"binary_data": True}} for wanted in WANTED]
    header = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
    body = header + subject.rows[:n_rows].tobytes()
    return Request("binary", _v2_path(subject), headers, (body,), n_rows, _read_v2_binary)


def bulk_arrow(subject: Subject, n_rows: int, type_: pa.DataType) -> Request:
    """Many rows as an Arrow stream of one batch; all five answers come back, no reasons."""
    columns = {name: pa.array(cells, type_) for name, cells in zip(subject.columns, subject.rows.T, strict=True)}
    batch = pa.record_batch({name: cells.slice(0, n_rows) for name, cells in columns.items()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    media = "application/vnd.apache.arrow.stream"
    name = "arrow" if type_ == pa.float64() else "arrow-float"
    body = sink.getvalue().to_pybytes()
    headers = {"Content-Type": media, "Accept": media}
    return Request(name, f"/v1/models/{subject.name}/score?top=0", headers, (body,), n_rows, _read_arrow)


def bulk_grpc(subject: Subject, n_rows: int) -> Request:
    """Many rows as raw tensors in a ModelInferRequest; no HTTP request, though of the same kind."""
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferRequest(model_name=subject.name)
    message.inputs.add(name="numeric", datatype="FP32", shape=[n_rows, subject.rows.shape[1]])
    for name in OUTPUTS:
        message.outputs.add(name=name)
    message.raw_input_contents.append(subject.rows[:n_rows].tobytes())
    return Request("grpc", "", {}, (message.SerializeToString(),), n_rows, _read_grpc)


def _v2_path(subject: Subject) -> str:
    return f"/v2/models/{subject.name}/infer"


def _numeric(rows: npt.NDArray[np.float32]) -> dict[str, Any]:
    return {"name": "numeric", "shape": list(rows.shape), "datatype": "FP32"}


def _v2_json(rows: npt.NDArray[np.float32]) -> bytes:
    tensor = _numeric(rows) | {"data": np.ascontiguousarray(rows).reshape(-1)}
    return orjson.dumps({"inputs": [tensor], "outputs": WANTED}, option=orjson.OPT_SERIALIZE_NUMPY)


def _split_json(subject: Subject, rows: npt.NDArray[np.float32]) -> bytes:
    body = {"dataframe_split": {"columns": subject.columns, "data": np.ascontiguousarray(rows)}, "params": {"top": 0}}
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _inputs_json(rows: npt.NDArray[np.float32]) -> bytes:
    return orjson.dumps({"inputs": np.ascontiguousarray(rows)}, option=orjson.OPT_SERIALIZE_NUMPY)


def _scores(score: Any, alarm: Any) -> Scores:
    return Scores(np.array(score, np.float64).reshape(-1), np.array(alarm, np.bool_).reshape(-1))


def _read_v2_json(body: bytes, headers: Mapping[str, str]) -> Scores:
    del headers
    found = {output["name"]: output["data"] for output in orjson.loads(body)["outputs"]}
    return _scores(found["score"], found["alarm"])


def _read_v2_binary(body: bytes, headers: Mapping[str, str]) -> Scores:
    place = int(headers[HEADER_LENGTH.lower()])
    found = {}
    for output in orjson.loads(body[:place])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        found[output["name"]] = body[place : place + size]
        place += size
    return _scores(np.frombuffer(found["score"], np.float32), np.frombuffer(found["alarm"], np.bool_))


def _read_arrow(body: bytes, headers: Mapping[str, str]) -> Scores:
    del headers
    table = pa.ipc.open_stream(body).read_all()
    return _scores(table["score"].to_pylist(), table["alarm"].to_pylist())


def _read_predictions(body: bytes, headers: Mapping[str, str]) -> Scores:
    del headers
    rows = orjson.loads(body)["predictions"]
    return _scores([row["score"] for row in rows], [row["alarm"] for row in rows])


def _read_predicted_arrays(body: bytes, headers: Mapping[str, str]) -> Scores:
    del headers
    found = orjson.loads(body)["predictions"]
    return _scores(found["score"], found["alarm"])


def _read_grpc(body: bytes, headers: Mapping[str, str]) -> Scores:
    del headers
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferResponse.FromString(body)
    found = {output.name: raw for output, raw in zip(message.outputs, message.raw_output_contents, strict=True)}
    return _scores(np.frombuffer(found["score"], np.float32), np.frombuffer(found["alarm"], np.bool_))
