"""A connection ends when it should, and only then; one that hangs holds up nobody."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from anomvae.bundle import Bundle
    from tests.conftest import Serve, Serving

NAME = "press one"
SCORE = "/v1/models/press%20one/score"
INFER = "/v2/models/press%20one/infer"
ROW = {"part": "P1", "temperature": 61.5, "pressure": 251e3, "vibration": 1.25, "cooling": True, "material": "steel"}
BODY = json.dumps([ROW]).encode()


def _port(daemon: Serving) -> int:
    return int(daemon.url.rpartition(":")[2])


def post(path: str, body: bytes = BODY, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def padded(size: int) -> bytes:
    """A body that is as sound, and larger."""
    return BODY + b" " * (size - len(BODY))


def test_head_has_the_headers_of_get_and_nothing_more(wire: Any) -> None:
    one = wire().send(get("/v2/health/live", "HEAD"))
    assert one.answer(body=False)[0] == 200
    assert one.send(get("/ping")).answer()[0] == 200


@pytest.mark.parametrize("method", ["BREW", "get", "CONNECT", "G\x00T"])
def test_methods_that_are_none_harm_nobody(wire: Any, method: str) -> None:
    with contextlib.suppress(ConnectionError):
        assert wire().send(get("/metrics", method)).answer()[0] in (400, 405)
    assert wire().send(get("/ping")).answer()[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: 3", "Content-Length: 4"],
        ["Content-Length: -1"],
        ["Content-Length: 1e3"],
        ["Content-Length: 99999999999999999999999999"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: gibberish"],
        ["No colon"],
        ["Bad Name: x"],
    ],
    ids=str,
)
def test_headers_that_contradict_themselves_are_refused(wire: Any, headers: list[str]) -> None:
    one = wire().send("\r\n".join([f"POST {SCORE} HTTP/1.1", "Host: x", *headers]).encode() + b"\r\n\r\nhello")
    assert one.answer()[0] in (400, 408, 413)
    assert one.closed()


def test_who_states_less_than_is_sent_gets_one_answer_and_is_told_that_the_rest_is_no_request(wire: Any) -> None:
    request = post(SCORE).replace(b"Content-Length: %d" % len(BODY), b"Content-Length: 2")
    one = wire().send(request)
    assert one.answer()[0] == 400
    assert one.answer()[0] == 400
    assert one.closed()


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_headers_that_never_end_are_not_waited_for(wire: Any, sent: bytes) -> None:
    one = wire().send(sent)
    assert one.answer()[0] == 408
    assert one.closed()


def test_a_request_that_begins_on_a_used_connection_is_not_waited_for_either(wire: Any) -> None:
    one = wire().send(post(SCORE))
    assert one.answer()[0] == 200
    one.send(b"POST /x HTTP/1.1\r\n")
    assert one.answer()[0] == 408
    assert one.closed()


def test_a_caller_who_asks_first_is_told_to_go_on(wire: Any) -> None:
    head, _, body = post(SCORE, BODY, "Expect: 100-continue").partition(b"\r\n\r\n")
    one = wire().send(head + b"\r\n\r\n")
    assert one.answer()[0] == 100
    assert one.send(body).answer()[0] == 200


def test_one_connection_too_many_is_told_so_and_counted(wire: Any) -> None:
    refused = []
    kept = []
    for _ in range(60):
        one = wire().send(post(SCORE))
        status, headers, _ = one.answer()
        if status == 503:
            refused.append(headers["retry-after"])
            one.close()
        else:
            kept.append(one)
    assert len(kept) <= 40
    assert len(refused) >= 20
    assert wire().send(get("/ping")).answer()[0] == 200  # in a crowd, too, one can see that it lives
    told = wire().send(get("/metrics")).answer()[2].decode()
    (line,) = [
        line
        for line in told.splitlines()
        if line.startswith('anomvae_shed_requests_total{model="",reason="connections"}')
    ]
    assert float(line.rpartition(" ")[2]) >= len(refused)


def test_an_old_client_is_answered_and_left(wire: Any) -> None:
    one = wire().send(post(SCORE).replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert one.answer()[0] == 200
    assert one.closed()


def test_who_wants_to_go_is_let_go(wire: Any) -> None:
    one = wire().send(post(SCORE, BODY, "Connection: close"))
    status, headers, _ = one.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert one.closed()


def test_who_never_shakes_hands_holds_up_nobody(serve: Serve, fitted: Bundle, certificate: Any) -> None:
    import ssl

    cert, key = certificate
    daemon = serve(f"press={fitted.folder}", "--tls-cert", cert, "--tls-key", key, "--max-connections", "10")
    port = _port(daemon)
    silent = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(30)]
    for number, one in enumerate(silent):
        if number % 3 == 0:
            one.sendall(b"GET / HTTP/1.1\r\n\r\n")
    try:
        context = ssl.create_default_context(cafile=str(cert))
        with (
            socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as safe,
        ):
            safe.sendall(get("/ping"))
            assert b" 200 " in safe.recv(4096)
    finally:
        for one in silent:
            one.close()
    assert daemon.stop() == 0


@pytest.fixture
def certificate(tmp_path: Any) -> tuple[Any, Any]:
    import subprocess

    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "1",
    ]
    named = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*made, *named, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key
