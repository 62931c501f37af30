"""Words of a body that an error may repeat: names, shapes and options, never cells."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa

from anomvae.serving.messages import ModelInferRequest
from anomvae.serving.v2 import HEADER_LENGTH

if TYPE_CHECKING:
    from pipelines.hostile.bodies import Body


def names_in(kind: str, body: Body) -> list[str]:
    """Names of columns and tensors in a body, shapes and options: the words of it that an error may repeat."""
    found: set[str] = set()
    try:
        if kind == "grpc":
            message = ModelInferRequest.FromString(body.content)
            found |= {one.name for one in (*message.inputs, *message.outputs)}
        elif kind == "v1-arrow":
            with pa.ipc.open_stream(body.content) as stream:
                found |= set(stream.schema.names)
        elif kind == "mlflow-csv":
            first = next(csv.reader(io.StringIO(body.content.decode("utf-8-sig", "replace"))), [])
            found |= set(first)
        elif kind != "packed":
            length = body.headers.get(HEADER_LENGTH)
            _collect([orjson.loads(body.content if length is None else body.content[: int(length)])], found)
    except (ValueError, pa.ArrowException, OSError, csv.Error):
        pass  # nothing in it has a name
    except Exception as error:
        if type(error).__name__ != "DecodeError":
            raise
    return sorted(found, key=len, reverse=True)


_TOLD = ("shape", "alarm_rate", "top", "name", "columns")
"""No cells either: what an error may also repeat."""


def _collect(document: Any, found: set[str]) -> None:
    """Keys of a document, its tensors' names, a frame's columns, and what is told besides."""
    waiting = [document]
    while waiting:
        node = waiting.pop()
        waiting += node.values() if isinstance(node, dict) else node
        for key, value in node.items() if isinstance(node, dict) else ():
            found.add(key)
            if key in _TOLD:
                told = value if isinstance(value, list) else [value]
                found.update(str(cell) for cell in told if isinstance(cell, str | int | float))
        waiting = [node for node in waiting if isinstance(node, dict | list)]
