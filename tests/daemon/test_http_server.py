"""The door of the HTTP server: who is let in is answered, and who is not can tell."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
import time

import pytest
import uvicorn

from anomvae.daemon.http_server import HttpServer, listen, turn_newcomers_away

LOOPBACK = "127.0.0.1"
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

linux = pytest.mark.skipif(sys.platform != "linux", reason="packet filters on sockets are Linux's")


class SlowToClose(socket.socket):
    """A listener whose process is held up between its last look at the queue and the closing."""

    def close(self) -> None:
        if self.fileno() >= 0:
            time.sleep(0.1)
        super().close()


async def _app(scope: object, receive: object, send: object) -> None:
    del scope, receive
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": b"ok"})  # type: ignore[operator]


def _ask_again_and_again(port: int, fates: list[str]) -> None:
    """Asks with a new connection each time until the door is closed; notes what became of each request that was sent."""
    while True:
        try:
            connection = socket.create_connection((LOOPBACK, port), timeout=10)
        except OSError as error:
            fates.append(type(error).__name__)
            return
        with connection:
            try:
                connection.sendall(REQUEST)
                answer = connection.recv(1000)
            except OSError as error:
                answer = type(error).__name__.encode()
        if not answer.startswith(b"HTTP/1.1 200"):
            fates.append(f"let in and not answered: {answer!r}")
            return


async def _serve_and_stop(server: HttpServer, port: int, callers: int) -> list[str]:
    fates: list[str] = []
    serving = asyncio.create_task(server.serve())
    threads = [threading.Thread(target=_ask_again_and_again, args=(port, fates)) for _ in range(callers)]
    for thread in threads:
        thread.start()
    await asyncio.sleep(0.3)
    server.should_exit = True
    await serving
    for thread in threads:
        await asyncio.to_thread(thread.join, 20)
        assert not thread.is_alive()
    return fates


@linux
def test_nobody_who_was_let_in_is_left_without_an_answer() -> None:
    listener = listen(LOOPBACK, 0)
    slow = SlowToClose(listener.family, listener.type, fileno=listener.detach())
    slow.settimeout(0.0)
    config = uvicorn.Config(_app, lifespan="off", log_config=None, access_log=False)
    config.load()
    fates = asyncio.run(_serve_and_stop(HttpServer(config, slow), slow.getsockname()[1], callers=4))
    assert fates == ["ConnectionRefusedError"] * 4


@linux
@pytest.mark.parametrize("host", [LOOPBACK, "::1"])
def test_newcomers_are_turned_away_while_those_in_the_queue_are_kept(host: str) -> None:
    try:
        listener = listen(host, 0)
    except Exception:  # noqa: BLE001
        pytest.skip(f"{host} is not here")
    port = listener.getsockname()[1]
    with listener, socket.create_connection((host, port), timeout=5) as early:
        assert turn_newcomers_away(listener)
        with pytest.raises(TimeoutError):
            socket.create_connection((host, port), timeout=0.3)
        accepted, _ = listener.accept()
        with accepted, contextlib.suppress(BlockingIOError):
            accepted.settimeout(5)
            early.sendall(b"x")
            assert accepted.recv(1) == b"x"
            listener.accept()
            pytest.fail("a newcomer came in")


def test_a_system_without_packet_filters_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with listen(LOOPBACK, 0) as listener:
        assert not turn_newcomers_away(listener)
        with socket.create_connection((LOOPBACK, listener.getsockname()[1]), timeout=5):
            listener.accept()[0].close()


def test_a_socket_that_takes_no_filter_says_so() -> None:
    listener = listen(LOOPBACK, 0)
    listener.close()
    assert not turn_newcomers_away(listener)
