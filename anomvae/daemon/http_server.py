"""uvicorn, with an own door: connections are accepted here, so that none is lost when the door closes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import uvicorn

from anomvae.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator

AT_ONCE = 64
PAUSE_S = 0.1
HANDSHAKE_S = 10.0
MOST_OPENINGS = 256
"""Connections that may be in their handshake at once."""


def listen(host: str, port: int, backlog: int = 2048) -> socket.socket:
    """A listening socket.

    Args:
        host: Address; with a colon, of IPv6.
        port: 0: any free one.
        backlog: Connections the system keeps waiting.

    Raises:
        SettingError: The address is not here, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise SettingError(f"cannot listen on {host}:{port}: {error.strerror or 'no such address'}") from None
    listener.settimeout(0.0)
    return listener


class HttpServer(uvicorn.Server):
    """Accepts connections itself and leaves signals to the daemon.

    An event loop's own server closes connections that it has taken from the system's queue and not yet looked at. Here the
    queue is emptied, then the door is closed, and whoever came in is answered.

    Args:
        config: uvicorn's, loaded.
        listener: A listening socket; closed when the server stops.
    """

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config)
        self.servers = []
        self._listener = listener
        self._openings: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Opens the door."""
        del sockets  # the listener is the server's own
        await self.lifespan.startup()
        self._open_door()
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Closes the door behind those who are in, and answers them."""
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        while self._accept():
            pass
        self._listener.close()
        if self._openings:
            await asyncio.wait(self._openings, timeout=HANDSHAKE_S)
        await super().shutdown(sockets)

    def _open_door(self) -> None:
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> int:
        """Lets some of those in who wait; how many."""
        loop = asyncio.get_running_loop()
        for count in range(AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return count
            except OSError:  # no more files, say: leave the rest in the queue for a moment
                loop.remove_reader(self._listener.fileno())
                loop.call_later(PAUSE_S, self._open_door)
                return 0
            connection.settimeout(0.0)
            if len(self._openings) >= MOST_OPENINGS:  # handshakes that do not come
                connection.close()
                continue
            task = loop.create_task(self._open(connection))
            self._openings.add(task)
            task.add_done_callback(self._openings.discard)
        return AT_ONCE

    async def _open(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        timeout_s = HANDSHAKE_S if self.config.ssl else None
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(
                self._protocol, connection, ssl=self.config.ssl, ssl_handshake_timeout=timeout_s
            )
        except (OSError, asyncio.CancelledError):  # gone, or no handshake
            connection.close()

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn itself makes it
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            _loop=asyncio.get_running_loop(),
        )
