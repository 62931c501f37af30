"""HTTP as it comes over the wire: odd, slow, wrong and much at once."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from anomvae.serving.http_front import Target, target_of

if TYPE_CHECKING:
    from anomvae.bundle import Bundle
    from tests.conftest import Serve

NAME = "press one"
SCORE = "/v1/models/press%20one/score"
INFER = "/v2/models/press%20one/infer"
ROW = {"part": "P1", "temperature": 61.5, "pressure": 251e3, "vibration": 1.25, "cooling": True, "material": "steel"}
BODY = json.dumps([ROW]).encode()


def post(path: str, body: bytes = BODY, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def padded(size: int) -> bytes:
    """A body that is as sound, and larger."""
    return BODY + b" " * (size - len(BODY))


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v1/models/a b/score", Target("v1-json", "a b")),
        ("/v2/models/a/versions/3/infer", Target("v2-json", "a", "3")),
        ("/invocations", Target("mlflow")),
        ("/v2/models/a/infer/", None),
        ("/v2/models/a/b/infer", None),
        ("", None),
        ("/", None),
        ("//", None),
        ("/invocations/x", None),
    ],
)
def test_paths_name_what_scores(path: str, target: Target | None) -> None:
    assert target_of(path) == target


@pytest.mark.parametrize(
    "path", [SCORE, "/v1/models/press+one/score", "/v1/models/%70ress%20one/score", "/v1/models/x/score"]
)
def test_a_name_may_be_written_in_percents(wire: Any, path: str) -> None:
    status, _, _ = wire().send(post(path)).answer()
    assert status == (404 if path.startswith(("/v1/models/press+", "/v1/models/x")) else 200)


@pytest.mark.parametrize("sizes", [[10**6], [1], [7] * 1000, [len(BODY) - 1, 1]], ids=["whole", "1", "sevens", "last"])
def test_a_body_may_come_in_chunks(wire: Any, sizes: list[int]) -> None:
    parts, start = [], 0
    for size in sizes:
        part = BODY[start : start + size]
        start += size
        parts += [b"%x\r\n%s\r\n" % (len(part), part)] if part else []
    if rest := BODY[start:]:
        parts.append(b"%x\r\n%s\r\n" % (len(rest), rest))
    head = f"POST {SCORE} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    one = wire().send(head)
    for part in parts:
        one.send(part)
    status, _, body = one.send(b"0\r\n\r\n").answer()
    assert (status, json.loads(body)["answers"][0]["part"]) == (200, "P1")


@pytest.mark.parametrize("size", [len(BODY), 40_000, 900_000])
def test_a_body_may_come_slowly_as_long_as_it_comes(wire: Any, size: int) -> None:
    request = post(SCORE, padded(size))
    one = wire()
    for start in range(0, len(request), len(request) // 5 + 1):
        one.send(request[start : start + len(request) // 5 + 1])
        time.sleep(0.02)
    assert one.answer()[0] == 200


def test_requests_sent_ahead_are_answered_in_order(wire: Any) -> None:
    asked = []
    for number in range(40):
        row = {**ROW, "part": f"P{number}"}
        body = json.dumps([row] * (1 if number % 3 else 50)).encode()
        asked.append(
            post(SCORE, body) if number % 5 else post(SCORE, body, "Expect-Nothing: 1", "Content-Encoding: identity")
        )
        if number % 7 == 0:
            asked.append(get("/nowhere"))
    one = wire().send(b"".join(asked))
    found = []
    for request in asked:
        status, _, body = one.answer()
        assert status == (404 if request.startswith(b"GET") else 200)
        if status == 200:
            found.append(json.loads(body)["answers"][0]["part"])
    assert found == [f"P{number}" for number in range(40)]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post(SCORE, b"{"), 400),
        (post(SCORE, b""), 400),
        (post(SCORE, BODY, "X-Request-Timeout: never"), 400),
        (post(SCORE, BODY, "X-Request-Timeout: nan"), 400),
        (post(SCORE + "?top=1&top=2"), 400),
        (post(SCORE + "?%ff=1"), 400),
        (post(SCORE + "?" + "&".join(f"a{n}=1" for n in range(50))), 400),
        (post("/v1/models/nobody/score"), 404),
        (post("/v1/models/nobody/score", padded(300_000)), 404),
        (post("/v2/models/press%20one/versions/9/infer"), 404),
        (post("/v1/models/%2e%2e/score"), 404),
        (post("/v1/models/a%2Fb/score"), 404),
        (post("/v1/models/%00/score"), 404),
        (post("/v1/models/%ff%fe/score"), 404),
        (post("/" + "x" * 20_000), 404),
        (get("/v1/models/press%20one"), 404),
        (get(SCORE), 405),
        (get("/metrics", "PUT"), 405),
        (get("/metrics", "DELETE"), 405),
        (get("/metrics", "OPTIONS"), 405),
        (get(SCORE, "PATCH"), 405),
        (get("//"), 404),
        (get("/v2/models/press%20one/../press%20one"), 404),
        (get("/docs?" + "x" * 20_000), 200),
    ],
    ids=lambda value: value[:60].decode("latin-1") if isinstance(value, bytes) else str(value),
)
def test_a_connection_is_of_use_after_a_wrong_request(wire: Any, request_: bytes, status: int) -> None:
    one = wire().send(request_)
    found, headers, body = one.answer()
    assert found == status, body
    if status != 200:
        assert isinstance(json.loads(body)["error"], str)
    assert headers.get("connection") != "close"
    assert one.send(post(SCORE)).answer()[0] == 200


@pytest.mark.parametrize("name", ["content-type", "authorization", "traceparent", "accept", "x-request-timeout"])
def test_a_header_that_comes_twice_breaks_nothing(wire: Any, name: str) -> None:
    value = {"content-type": "application/json", "x-request-timeout": "5"}.get(name, "*/*")
    assert wire().send(post(SCORE, BODY, f"{name}: {value}", f"{name}: {value}")).answer()[0] == 200


@pytest.mark.parametrize("sent", [0, 1, 100])
@pytest.mark.parametrize("stated", [200, 100_000])
@pytest.mark.parametrize("path", [SCORE, "/invocations", "/v2/models/press%20one/versions/9/infer"])
def test_who_states_more_than_is_sent_is_not_waited_for(wire: Any, path: str, sent: int, stated: int) -> None:
    one = wire().send(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {stated}\r\n\r\n".encode() + b"[" * sent)
    assert one.answer()[0] == (404 if "versions" in path else 408)
    assert "versions" in path or one.closed()


def test_chunks_that_never_end_are_not_waited_for(wire: Any) -> None:
    head = f"POST {SCORE} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    assert wire().send(head).answer()[0] == 408
    one = wire().send(head + b"5\r\nhello\r\n")
    assert one.answer()[0] == 408


@pytest.mark.parametrize("size", [2 * 2**20, 20 * 2**20])
def test_too_large_a_body_is_refused_before_it_is_read_and_the_connection_ends(wire: Any, size: int) -> None:
    one = wire().send(f"POST {SCORE} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
    status, headers, body = one.answer()
    assert (status, headers["connection"]) == (413, "close")
    assert "larger than 1,048,576 bytes" in json.loads(body)["error"]
    assert one.closed()


def test_bodies_that_arrive_together_are_refused_over_the_permit_which_is_given_back(wire: Any) -> None:
    def shed() -> float:
        told = wire().send(get("/metrics")).answer()[2].decode()
        (line,) = [line for line in told.splitlines() if line.startswith(series)]
        return float(line.rpartition(" ")[2])

    series = f'anomvae_shed_requests_total{{model="{NAME}",reason="bytes"}}'
    before = shed()
    large = post(SCORE, padded(900_000))
    holding = wire().send(large[:-1000])
    time.sleep(0.1)
    status, headers, body = wire().send(large).answer()
    assert (status, "too many bytes" in json.loads(body)["error"]) == (429, True)
    assert int(headers["retry-after"]) >= 1
    assert holding.send(large[-1000:]).answer()[0] == 200
    gone = wire().send(large[:-1000])
    time.sleep(0.1)
    gone.close()
    time.sleep(0.1)
    assert wire().send(large).answer()[0] == 200
    assert shed() == before + 1


def test_a_callers_patience_is_taken_at_its_word(wire: Any) -> None:
    assert wire().send(post(SCORE, BODY, "X-Request-Timeout: 0.0000001")).answer()[0] == 504
    assert wire().send(post(SCORE, BODY, "X-Request-Timeout: 5")).answer()[0] == 200


def test_callers_who_leave_at_any_moment_leave_nothing_behind(wire: Any) -> None:
    request = post(SCORE, json.dumps([ROW] * 500).encode())
    for cut in (1, 30, 100, len(request) // 2, len(request) - 1, len(request)):
        for _ in range(5):
            wire().send(request[:cut]).close()
    assert wire().send(post(SCORE)).answer()[0] == 200
    until = time.monotonic() + 20
    while "anomvae_requests_inflight 0.0" not in (told := wire().send(get("/metrics")).answer()[2].decode()):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert "anomvae_inflight_rows 0.0" in told


def test_a_wrong_token_ends_the_connection(serve: Serve, fitted: Bundle, wire: Any, tmp_path: Any) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-of-sufficient-length")
    daemon = serve(f"press={fitted.folder}", "--tokens-file", tokens, "--grpc-port", "-1")
    one = wire(daemon)
    right = "Authorization: Bearer a-token-of-sufficient-length"
    assert one.send(post("/v1/models/press/score", BODY, right)).answer()[0] == 200
    status, headers, _ = one.send(post("/v1/models/press/score", BODY, "Authorization: Bearer x")).answer()
    assert (status, headers["connection"]) == (401, "close")
    assert one.closed()


def test_many_callers_at_once_get_their_own(wire: Any) -> None:
    wrong: list[str] = []

    def ask(number: int) -> None:
        one = wire()
        for turn in range(50):
            part = f"{number}-{turn}"
            status, _, body = one.send(post(SCORE, json.dumps([{**ROW, "part": part}]).encode())).answer()
            if status != 200 or json.loads(body)["answers"][0]["part"] != part:
                wrong.append(part)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
