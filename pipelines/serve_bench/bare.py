"""The least a server can do: parse the JSON, call ONNX Runtime inline, answer. No batching, no validation, no metrics."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import orjson

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

OUTPUTS = ["score", "alarm"]
HEADERS = [(b"content-type", b"application/json")]

options, only_wanted = ort.SessionOptions(), ort.RunOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 3
only_wanted.only_execute_path_to_fetches = True
session = ort.InferenceSession(os.environ["ANOMVAE_BENCH_GRAPH"], options, providers=["CPUExecutionProvider"])


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Answers every request as if it were `POST /v2/models/NAME/infer`."""
    if scope["type"] != "http":
        return
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message["body"])
        more = message["more_body"]
    tensor = orjson.loads(b"".join(parts))["inputs"][0]
    rows = np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
    score, alarm = session.run(OUTPUTS, {"numeric": rows}, only_wanted)
    shape = [len(rows)]
    body = orjson.dumps(
        {
            "model_name": "bare",
            "outputs": [
                {"name": "score", "datatype": "FP32", "shape": shape, "data": score},
                {"name": "alarm", "datatype": "BOOL", "shape": shape, "data": alarm},
            ],
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, length]})
    await send({"type": "http.response.body", "body": body})
