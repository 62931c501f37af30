"""Callers of the daemon: honest ones who check every answer, and those who vanish, dawdle, stammer or lie."""

from __future__ import annotations

import http.client
import io
import json
import random
import socket
import threading
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pyarrow as pa

from anomvae.serving.exchange import ARROW_STREAM, JSON
from anomvae.serving.messages import INFERENCE, ModelInferRequest, ModelInferResponse
from anomvae.serving.v2 import HEADER_LENGTH
from pipelines.hostile.bodies import KINDS, body_of
from pipelines.hostile.mutations import chance
from pipelines.hostile.pool import OUTPUTS
from pipelines.hostile.press import NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipelines.hostile.daemon import WatchedDaemon
    from pipelines.hostile.pool import Pool, Tally

    Asked = tuple[str, bytes, dict[str, str]]

SCORE, INFER, INVOCATIONS = f"/v1/models/{NAME}/score", f"/v2/models/{NAME}/infer", "/invocations"
PATHS = {"v2-json": INFER, "v2-binary": INFER, "v1-json": SCORE, "v1-arrow": SCORE, "packed": SCORE}
PATIENCE_S = 60.0
SIZES = (1, 1, 1, 2, 7, 40, 300)
BULK, BULK_SHARE = 3000, 0.02
HOSTILE_PAUSE_S = 0.05
REFUSED = (400, 413)
_DTYPES = {"score": np.dtype("<f4"), "p_value": np.dtype("<f4"), "alarm": np.dtype("?")}


class Caller(threading.Thread):
    """A caller who asks until told to stop.

    Args:
        kind: One of :data:`HONEST` or :data:`HOSTILE`.
        seed: Decides what is asked.
        daemon: Asked.
        pool: Rows to ask about.
        tally: Told what came of it.
        token: That the daemon wants.
    """

    def __init__(self, kind: str, seed: int, daemon: WatchedDaemon, pool: Pool, tally: Tally, token: str) -> None:
        super().__init__(name=kind, daemon=True)
        self.kind, self.port, self.grpc_address, self.pool, self.tally = kind, daemon.port, daemon.grpc, pool, tally
        self.draw = random.Random(seed)  # noqa: S311  not for secrets
        self.headers = {"authorization": f"Bearer {token}"}
        self.stopping = threading.Event()
        self.pause_s = 0.0 if kind in HONEST else HOSTILE_PAUSE_S
        self._connection: http.client.HTTPConnection | None = None
        self._channel: grpc.Channel | None = None

    def run(self) -> None:
        """Asks again and again; ends once the door is closed."""
        ask = {**HONEST, **HOSTILE}[self.kind]
        while not self.stopping.is_set():
            try:
                ask(self)
            except ConnectionRefusedError:
                if not self.tally.told.is_set():
                    self.tally.missed(self.kind, "refused before it was told to stop")
                break  # never accepted
            except grpc.RpcError as error:
                told, code = self.tally.told.is_set(), error.code()
                if told and code is grpc.StatusCode.CANCELLED:
                    self.tally.turned_away += 1
                elif not (told and code is grpc.StatusCode.UNAVAILABLE):
                    self.tally.missed(self.kind, code.name)
                break
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                if self.kind in HONEST or not self.tally.told.is_set():
                    self.tally.missed(self.kind, f"{type(error).__name__} {error}")
            self.stopping.wait(self.pause_s)
        self._drop()
        if self._channel is not None:
            self._channel.close()

    def some_rows(self) -> list[int]:
        """Rows to ask about: mostly few, now and then many."""
        size = BULK if chance(self.draw, BULK_SHARE) else self.draw.choice(SIZES)
        start = self.draw.randrange(len(self.pool))
        return [(start + step) % len(self.pool) for step in range(size)]

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of an answer; the connection is kept where it may be."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
            self._connection.connect()
        self._connection.request("POST", path, body, {**self.headers, **headers})
        reply = self._connection.getresponse()
        content, told = reply.read(), {name.lower(): value for name, value in reply.getheaders()}
        if reply.will_close:
            self._drop()
        return reply.status, content, told

    def stub(self) -> Any:
        """The gRPC method."""
        if self._channel is None:
            self._channel = grpc.insecure_channel(self.grpc_address, [("grpc.max_receive_message_length", -1)])
        return self._channel.unary_unary(
            f"/{INFERENCE}/ModelInfer",
            request_serializer=ModelInferRequest.SerializeToString,
            response_deserializer=ModelInferResponse.FromString,
        )

    def raw(self) -> socket.socket:
        """A connection without manners."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def head(self, path: str, size: int) -> bytes:
        """The head of a request."""
        lines = [
            f"POST {path} HTTP/1.1",
            "Host: x",
            f"Content-Length: {size}",
            f"Authorization: {self.headers['authorization']}",
        ]
        return "\r\n".join([*lines, "Content-Type: application/json", "", ""]).encode()

    def records(self, rows: list[int]) -> bytes:
        """Rows as people send them."""
        return json.dumps({"records": [self.pool.records[row] for row in rows], "top": 1}).encode()

    def asked(
        self, path: str, rows: list[int], body: bytes, headers: dict[str, str]
    ) -> tuple[bytes, dict[str, str]] | None:
        """An honest answer's body and headers; None where there is none, which is noted."""
        status, content, told = self.post(path, body, headers)
        if status == http.HTTPStatus.OK:
            return content, told
        self.tally.failed.append(f"{self.kind}: status {status} for {len(rows)} rows: {content[:200]!r}")
        return None

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _json(caller: Caller) -> None:
    rows = caller.some_rows()
    _check_people(caller, rows, caller.asked(SCORE, rows, caller.records(rows), {"content-type": JSON}))


def _check_people(caller: Caller, rows: list[int], found: tuple[bytes, dict[str, str]] | None) -> None:
    if found is None:
        return
    told = json.loads(found[0])
    answers = told.get("answers", told.get("predictions"))
    right = [answer["part"] for answer in answers] == [caller.pool.records[row]["part"] for row in rows]
    scores, alarms = ([answer[name] for answer in answers] for name in ("score", "alarm"))
    right = right and caller.pool.people_are_right(rows, scores, alarms, told.get("version"))
    caller.tally.answered(caller.kind, len(rows), right=right, named=told.get("version"))


def _invocations(caller: Caller) -> None:
    rows = caller.some_rows()
    body = json.dumps({"dataframe_records": [caller.pool.records[row] for row in rows]}).encode()
    _check_people(caller, rows, caller.asked(INVOCATIONS, rows, body, {"content-type": JSON}))


def _arrow(caller: Caller) -> None:
    rows = caller.some_rows()
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, caller.pool.table.schema) as stream:
        stream.write_table(caller.pool.table.take(rows))
    found = caller.asked(SCORE, rows, sink.getvalue(), {"content-type": ARROW_STREAM})
    if found is not None:
        table = pa.ipc.open_stream(found[0]).read_all()
        named = table.schema.metadata[b"anomvae.version"].decode()
        alarms = table["alarm"].to_numpy(zero_copy_only=False)
        right = caller.pool.people_are_right(rows, table["score"].to_numpy(), alarms, named)
        right = right and table["part"].to_pylist() == [caller.pool.records[row]["part"] for row in rows]
        caller.tally.answered(caller.kind, len(rows), right=right, named=named)


def _encoded(caller: Caller, rows: list[int]) -> Any:
    """Rows as tensors; both versions encode them alike."""
    version = next(iter(caller.pool.versions.values()))
    return version.encoded.take(np.array(rows))


def _v2_json(caller: Caller) -> None:
    rows = caller.some_rows()
    encoded = _encoded(caller, rows)
    numbers = [None if cell != cell else cell for cell in encoded.numeric.ravel().tolist()]  # noqa: PLR0124  NaN
    inputs = [
        {"name": "numeric", "datatype": "FP32", "shape": encoded.numeric.shape, "data": numbers},
        {
            "name": "categorical",
            "datatype": "INT64",
            "shape": encoded.categorical.shape,
            "data": encoded.categorical.ravel().tolist(),
        },
    ]
    body = json.dumps({"inputs": inputs, "outputs": [{"name": name} for name in OUTPUTS]}).encode()
    found = caller.asked(INFER, rows, body, {"content-type": JSON})
    if found is not None:
        told = json.loads(found[0])
        arrays = {one["name"]: np.array(one["data"], _DTYPES[one["name"]]) for one in told["outputs"]}
        right = caller.pool.tensors_are_right(rows, arrays, told["model_version"])
        caller.tally.answered(caller.kind, len(rows), right=right, named=told["model_version"])


def _v2_binary(caller: Caller) -> None:
    rows = caller.some_rows()
    encoded = _encoded(caller, rows)
    parts = [encoded.numeric.tobytes(), encoded.categorical.tobytes()]
    inputs = [
        {"name": name, "datatype": datatype, "shape": cells.shape, "parameters": {"binary_data_size": len(part)}}
        for name, datatype, cells, part in zip(
            ("numeric", "categorical"), ("FP32", "INT64"), (encoded.numeric, encoded.categorical), parts, strict=True
        )
    ]
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in OUTPUTS]
    text = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
    found = caller.asked(INFER, rows, text + b"".join(parts), {HEADER_LENGTH: str(len(text))})
    if found is not None:
        content, headers = found
        end = int(headers[HEADER_LENGTH])
        told, at, arrays = json.loads(content[:end]), end, {}
        for one in told["outputs"]:
            size = one["parameters"]["binary_data_size"]
            arrays[one["name"]] = np.frombuffer(content[at : at + size], _DTYPES[one["name"]])
            at += size
        right = caller.pool.tensors_are_right(rows, arrays, told["model_version"])
        caller.tally.answered(caller.kind, len(rows), right=right, named=told["model_version"])


def _message(caller: Caller, rows: list[int]) -> Any:
    encoded = _encoded(caller, rows)
    request = ModelInferRequest(model_name=NAME)
    for name, datatype, cells in (("numeric", "FP32", encoded.numeric), ("categorical", "INT64", encoded.categorical)):
        request.inputs.add(name=name, datatype=datatype, shape=cells.shape)
        request.raw_input_contents.append(cells.tobytes())
    for name in OUTPUTS:
        request.outputs.add(name=name)
    return request


def _grpc(caller: Caller) -> None:
    rows = caller.some_rows()
    metadata = tuple(caller.headers.items())
    found = caller.stub()(_message(caller, rows), timeout=PATIENCE_S, metadata=metadata)
    raws = zip(found.outputs, found.raw_output_contents, strict=True)
    arrays = {one.name: np.frombuffer(raw, _DTYPES[one.name]) for one, raw in raws}
    right = caller.pool.tensors_are_right(rows, arrays, found.model_version)
    caller.tally.answered(caller.kind, len(rows), right=right, named=found.model_version)


def _vanish_halfway(caller: Caller) -> None:
    body = caller.records(caller.some_rows())
    with caller.raw() as connection:
        connection.sendall(caller.head(SCORE, len(body)) + body[: len(body) // 2])
    caller.tally.counted(caller.kind, 0, (0,))


def _vanish_after(caller: Caller) -> None:
    body = caller.records(caller.some_rows())
    with caller.raw() as connection:
        connection.sendall(caller.head(SCORE, len(body)) + body)
    caller.tally.counted(caller.kind, 0, (0,))


def _dawdle(caller: Caller) -> None:
    """Sends a sound body in pieces."""
    rows = [caller.draw.randrange(len(caller.pool))]
    body = caller.records(rows)
    with caller.raw() as connection:
        connection.sendall(caller.head(SCORE, len(body)))
        for start in range(0, len(body), 60):
            connection.sendall(body[start : start + 60])
            caller.stopping.wait(0.1)
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        if reply.status == http.HTTPStatus.OK:
            _check_people(caller, rows, (reply.read(), {}))
        else:
            caller.tally.counted(caller.kind, reply.status, ())


def _never_end(caller: Caller) -> None:
    """Sends a body that does not arrive in time."""
    with caller.raw() as connection:
        connection.sendall(caller.head(SCORE, 1000) + b"[")
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        caller.tally.counted(caller.kind, reply.status, (408,))


def _stammer(caller: Caller) -> None:
    """Sends damaged bodies."""
    kind = caller.draw.choice([kind for kind in KINDS if kind != "grpc"])
    body = body_of(kind, caller.draw)
    headers = {name: value for name, value in body.headers.items() if value.isascii() and value.isprintable() and value}
    status, _, _ = caller.post(PATHS.get(kind, INVOCATIONS), body.content, headers)
    caller.tally.counted(caller.kind, status, (200, *REFUSED, 504))  # 504: the damage may have left it a moment to live


def _too_large(caller: Caller) -> None:
    with caller.raw() as connection:
        connection.sendall(caller.head(SCORE, 10**9) + b"[" * 1000)
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        caller.tally.counted(caller.kind, reply.status, (413,))


def _lie(caller: Caller) -> None:
    """Shows a token that is none."""
    wrong = caller.draw.choice(
        ({"authorization": "Bearer wrong-and-of-some-length"}, {"authorization": "Basic eA=="}, {"authorization": ""})
    )
    status, _, _ = caller.post(SCORE, caller.records([0]), {"content-type": JSON, **wrong})
    caller.tally.counted(caller.kind, status, (401,))


def _cancel(caller: Caller) -> None:
    """Takes a call back."""
    call = caller.stub().future(
        _message(caller, caller.some_rows()), timeout=PATIENCE_S, metadata=tuple(caller.headers.items())
    )
    caller.stopping.wait(caller.draw.choice((0.0, 0.0005, 0.002)))
    call.cancel()
    caller.tally.counted(caller.kind, 0, (0,))


HONEST: dict[str, Callable[[Caller], None]] = {
    "json": _json,
    "invocations": _invocations,
    "arrow": _arrow,
    "v2 json": _v2_json,
    "v2 binary": _v2_binary,
    "grpc": _grpc,
}
HOSTILE: dict[str, Callable[[Caller], None]] = {
    "vanishes halfway": _vanish_halfway,
    "vanishes after": _vanish_after,
    "slow body": _dawdle,
    "endless body": _never_end,
    "damaged body": _stammer,
    "too large": _too_large,
    "wrong token": _lie,
    "cancelled call": _cancel,
}
