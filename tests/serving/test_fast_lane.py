"""The fast lane answers as the long way does; what it cannot take, it leaves to it."""

from __future__ import annotations

import gzip
import json
import re
import socket
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from anomvae.serving.fast_lane import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = "/v1/models/press/score"
RECORD = {
    "part": "P1",
    "temperature": 61.5,
    "pressure": 251_000.0,
    "vibration": 1.25,
    "cooling": True,
    "material": "steel",
}
TENSORS = {
    "inputs": [
        {"name": "numeric", "shape": [1, 3], "datatype": "FP32", "data": [61.5, 251000.0, 1.25]},
        {"name": "categorical", "shape": [1, 2], "datatype": "INT64", "data": [1, 0]},
    ]
}
BODIES = [
    (PATH, json.dumps([RECORD])),
    (PATH, json.dumps({"records": [RECORD] * 3, "top": 1, "alarm_rate": 0.1})),
    (PATH, json.dumps({"columns": {name: [cell] for name, cell in RECORD.items()}})),
    (PATH, json.dumps([{**RECORD, "temperature": "warm"}])),
    (PATH, json.dumps([{"temperature": 1}])),
    (PATH, "no json"),
    (PATH, ""),
    ("/v2/models/press/infer", json.dumps(TENSORS)),
    ("/v2/models/press/infer", json.dumps({**TENSORS, "outputs": [{"name": "nothing"}]})),
    ("/v2/models/press/infer", json.dumps({"inputs": []})),
    ("/invocations", json.dumps({"dataframe_records": [RECORD]})),
    ("/invocations", json.dumps({"rows": []})),
]


@pytest.fixture
def client(served: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=30) as client:
        yield client


@pytest.fixture
def port(served: Any) -> int:
    return int(served.url.rpartition(":")[2])


def request(path: str, body: str | bytes, *headers: str, version: str = "1.1", stated: int | None = None) -> bytes:
    content = body.encode() if isinstance(body, str) else body
    size = len(content) if stated is None else stated
    lines = [f"POST {path} HTTP/{version}", "Host: x", f"Content-Length: {size}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def exchange(port: int, *sent: bytes, answers: int = 1, pause_s: float = 0.0) -> list[tuple[int, bytes, bytes]]:
    """Sends pieces over one connection; status, headers and body of each answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for piece in sent:
            connection.sendall(piece)
            time.sleep(pause_s)
        found: list[tuple[int, bytes, bytes]] = []
        data = b""
        while len(found) < answers:
            received = connection.recv(65_536)
            if not received:
                break
            data += received
            while (head := re.match(rb"HTTP/1\.1 (\d+).*?\r\n\r\n", data, re.DOTALL)) is not None:
                size = int(re.search(rb"content-length: (\d+)", head[0])[1])  # type: ignore[index]
                if len(data) < head.end() + size:
                    break
                found.append((int(head[1]), head[0], data[head.end() : head.end() + size]))
                data = data[head.end() + size :]
        return found


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_the_lane_and_the_long_way_give_the_same_answer(port: int, path: str, body: str) -> None:
    ((status, headers, lane),) = exchange(port, request(path, body))
    chunked = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    content = body.encode()
    chunked += (b"%x\r\n" % len(content) + content + b"\r\n" if content else b"") + b"0\r\n\r\n"
    ((long_status, long_headers, long_way),) = exchange(port, chunked)
    assert (status, lane) == (long_status, long_way)

    def kinds(head: bytes) -> set[bytes]:
        return set(re.findall(rb"\r\n([a-z-]+: (?:application|close)[^\r]*)", head))

    assert kinds(headers) == kinds(long_headers)


def test_pipelined_requests_are_answered_in_order_whichever_way_they_go(port: int) -> None:
    parts = [{**RECORD, "part": f"P{number}"} for number in range(6)]
    sent = [
        request(PATH, json.dumps([parts[0]])),
        request(PATH, json.dumps([parts[1]])),
        request(PATH + "?top=1", json.dumps([parts[2]])),
        b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n",
        request(PATH, json.dumps([parts[4]])),
        request(PATH, gzip.compress(json.dumps([parts[5]]).encode()), "Content-Encoding: gzip"),
    ]
    found = exchange(port, b"".join(sent), answers=6)
    assert [status for status, _, _ in found] == [200] * 6
    told = [json.loads(body) for _, _, body in found]
    assert told[3] == {"live": True}
    assert [answer["answers"][0]["part"] for answer in told if "answers" in answer] == ["P0", "P1", "P2", "P4", "P5"]


def test_a_body_that_comes_in_pieces_is_put_together(port: int) -> None:
    whole = request(PATH, json.dumps([RECORD] * 20))
    pieces = [whole[start : start + 700] for start in range(0, len(whole), 700)]
    ((status, _, body),) = exchange(port, *pieces, pause_s=0.01)
    assert status == 200
    assert len(json.loads(body)["answers"]) == 20


def test_what_only_the_long_way_knows_still_works(port: int) -> None:
    body = json.dumps([RECORD])
    assert exchange(port, request(PATH, json.dumps([RECORD] * (MAX_BYTES // len(body) + 2))))[0][0] == 200
    assert exchange(port, request(PATH, gzip.compress(body.encode()), "Content-Encoding: gzip"))[0][0] == 200
    assert exchange(port, request("/v1/models/pre%73s/score", body))[0][0] == 200
    assert exchange(port, request("/v1/models/nobody/score", body))[0][0] == 404
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        content = body.encode()
        connection.sendall(request(PATH, b"", "Expect: 100-continue", stated=len(content)))
        assert b" 100 " in connection.recv(1000)
        connection.sendall(content)
        assert b" 200 " in connection.recv(10_000)


@pytest.mark.parametrize(
    ("version", "header", "closes"),
    [("1.1", "X: y", False), ("1.1", "Connection: close", True), ("1.0", "X: y", True)],
)
def test_the_connection_is_kept_or_closed_as_asked(port: int, version: str, header: str, closes: bool) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request(PATH, json.dumps([RECORD]), header, version=version))
        first = connection.recv(65_536)
        assert (b"connection: close" in first) is closes
        if closes:
            assert connection.recv(10) == b""
        else:
            connection.sendall(request(PATH, json.dumps([RECORD])))
            assert b" 200 " in connection.recv(65_536)


def test_answers_are_as_long_as_they_say_and_dated(port: int) -> None:
    ((_, headers, body),) = exchange(port, request(PATH, json.dumps([RECORD])))
    assert re.search(rb"date: \w{3}, \d\d \w{3} \d{4}", headers)
    assert json.loads(body)


def test_a_caller_who_leaves_costs_nothing_more_and_is_counted(serve: Any, fitted: Any) -> None:
    daemon = serve(f"press={fitted.folder}", "--max-inflight-rows", "10")
    port = int(daemon.url.rpartition(":")[2])
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(request(PATH, json.dumps([RECORD] * 10)))
    with httpx.Client(base_url=daemon.url) as client:  # the permit is whole again
        for _ in range(20):
            reply = client.post(PATH, json=[RECORD] * 10)
            if reply.status_code == 200:
                break
            time.sleep(0.05)
        assert reply.status_code == 200
        assert "anomvae_inflight_rows 0.0" in client.get("/metrics").text


def test_a_body_that_never_ends_is_given_up(serve: Any, fitted: Any) -> None:
    daemon = serve(f"press={fitted.folder}", "--body-timeout", "0.3")
    port = int(daemon.url.rpartition(":")[2])
    ((status, _, body),) = exchange(port, request(PATH, "[", stated=100))
    assert status == 408
    assert b"did not arrive within 0.3 seconds" in body
