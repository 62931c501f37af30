"""uvicorn, with an own door: connections are accepted here, so that none is lost when the door closes."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
import sys
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
DOORWAY_S = 0.2
"""How long those who had begun to come in are waited for once the door closes, in seconds: a round trip or two."""
_SO_ATTACH_FILTER = 26
_NO_NEWCOMERS = (
    (0x30, 0, 0, 13),  # the flags of TCP's header
    (0x54, 0, 0, 0x12),  # of these SYN and ACK
    (0x15, 0, 1, 0x02),  # a SYN alone
    (0x06, 0, 0, 0),  # is dropped
    (0x06, 0, 0, 0xFFFFFFFF),  # all else comes in
)
"""A packet filter in classic BPF (instruction, jump if true, jump if false, operand)."""


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


def turn_newcomers_away(listener: socket.socket) -> bool:
    """Drops the packets that would open further connections; those that are being opened may go on.

    A listener that is closed resets what the system has accepted for it and it has not yet taken, and between a last look at
    the queue and the closing others may come. They send their packet again, by then to a closed door, and know that they
    were not let in: they may try another daemon without asking anything twice.

    Args:
        listener: A listening TCP socket.

    Returns:
        Whether the system can do it; Linux can.
    """
    if sys.platform != "linux":
        return False
    code = ctypes.create_string_buffer(b"".join(struct.pack("@HBBI", *step) for step in _NO_NEWCOMERS))
    try:
        program = struct.pack("@HP", len(_NO_NEWCOMERS), ctypes.addressof(code))
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError:
        return False
    return True


class HttpServer(uvicorn.Server):
    """Accepts connections itself and leaves signals to the daemon.

    An event loop's own server closes connections that it has taken from the system's queue and not yet looked at. Here
    newcomers are turned away first, then the queue is emptied, then the door is closed, and whoever came in is answered.

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
        if turn_newcomers_away(self._listener):
            await asyncio.sleep(DOORWAY_S)
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
