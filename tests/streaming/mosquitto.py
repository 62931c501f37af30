"""A real Mosquitto on a free port of the loopback, a wire before it that can be cut, and a client to look on with."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import socket
import struct
import subprocess
import threading
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes

from anomvae.streaming.mqtt_client import new_properties

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from paho.mqtt.properties import Properties

PROGRAM = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
HOST = "127.0.0.1"
PATIENCE_S = 30.0

needs_mosquitto = pytest.mark.skipif(PROGRAM is None, reason="mosquitto is not installed")


def free_port() -> int:
    """A port of the loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], object], what: str) -> None:
    """Waits for a condition, and fails the test if it does not come."""
    by_s = monotonic() + PATIENCE_S
    while not true():
        assert monotonic() < by_s, f"waited in vain until {what}"
        sleep(0.01)


class Mosquitto:
    """A broker with persistence.

    Args:
        folder: Empty folder for its files.
        listener: Lines of configuration that follow the listener's: TLS.
        options: Further lines of configuration.
    """

    def __init__(self, folder: Path, options: Sequence[str] = (), listener: Sequence[str] = ()) -> None:
        self.port = free_port()
        self._folder = folder
        self._config = folder / "mosquitto.conf"
        self._process: subprocess.Popen[bytes] | None = None
        anonymous = [] if any("allow_anonymous" in line for line in options) else ["allow_anonymous true"]
        lines = [
            *(["user root"] if os.geteuid() == 0 else []),
            "persistence true",
            f"persistence_location {folder}/",
            "autosave_interval 0",
            "max_queued_messages 0",
            "max_inflight_messages 0",
            *anonymous,
            *options,
            f"listener {self.port} {HOST}",
            *listener,
        ]
        self._config.write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        """Starts it and waits until it listens."""
        assert PROGRAM is not None
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([PROGRAM, "-c", str(self._config)], stdout=log, stderr=log)
        wait_until(self._listens, "mosquitto listens")

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> None:
        """Ends it: by SIGTERM it writes its database first, by SIGKILL it does not."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(sign)
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def restart(self, sign: signal.Signals = signal.SIGTERM) -> None:
        """Ends it and starts it again with what it had written."""
        self.stop(sign)
        self.start()

    def save(self) -> None:
        """Makes it write its database now."""
        assert self._process is not None
        database = self._folder / "mosquitto.db"
        before = database.stat().st_mtime_ns if database.exists() else 0
        self._process.send_signal(signal.SIGUSR1)
        wait_until(lambda: database.exists() and database.stat().st_mtime_ns > before, "the database is written")
        sleep(0.05)

    @property
    def log(self) -> str:
        """What it has said."""
        return (self._folder / "log").read_text(errors="replace")

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"mosquitto ended: {self.log}"
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=1.0):
            return True
        return False


@contextlib.contextmanager
def running(folder: Path, options: Sequence[str] = (), listener: Sequence[str] = ()) -> Iterator[Mosquitto]:
    """A broker for the time of a block."""
    folder.mkdir(parents=True, exist_ok=True)
    broker = Mosquitto(folder, options, listener)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


class Wire:
    """Forwards connections to a port, until it is cut.

    Args:
        port: Where to.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server((HOST, 0))
        self.port = int(self._server.getsockname()[1])
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """Breaks all connections, whatever is under way; new ones are taken."""
        ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Cuts for good."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection((HOST, self._target), timeout=PATIENCE_S)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            self._ends += [near, far]
            thread = threading.Thread(target=self._forward, args=(near, far), daemon=True)
            self._threads.append(thread)
            thread.start()

    @staticmethod
    def _forward(near: socket.socket, far: socket.socket) -> None:
        """Both ways; the end of one way ends that way alone, so that last words arrive."""

        def one_way(source: socket.socket, sink: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(1 << 14):
                    sink.sendall(data)
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)

        back = threading.Thread(target=one_way, args=(far, near), daemon=True)
        back.start()
        one_way(near, far)
        back.join()
        near.close()
        far.close()


@contextlib.contextmanager
def wired(port: int) -> Iterator[Wire]:
    """A wire for the time of a block."""
    wire = Wire(port)
    try:
        yield wire
    finally:
        wire.close()


class Heard(NamedTuple):
    """A message as a plain client received it."""

    topic: str
    payload: bytes
    headers: tuple[tuple[str, str], ...]


class Peer:
    """A plain paho client with a session of its own: publishes, and collects what it subscribed to.

    Args:
        port: The broker's.
        topic_filter: What to collect.
        name: Client id.
    """

    def __init__(self, port: int, topic_filter: str | None = None, name: str = "peer") -> None:
        self._heard: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        self._filter, self._subscribed = topic_filter, threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, name, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_connect, self._client.on_subscribe = self._on_connect, lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(0.1, 0.1)  # type: ignore[arg-type]
        self._client.max_inflight_messages_set(1000)
        self._client.connect(HOST, port, clean_start=False, properties=_lasting())
        self._client.loop_start()
        assert self._subscribed.wait(PATIENCE_S)

    def publish(
        self, topic: str, *payloads: bytes, retain: bool = False, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Publishes with QoS 1 and waits for the acknowledgements."""
        properties = new_properties(PacketTypes.PUBLISH)
        if headers:
            properties.UserProperty = list(headers)
        sent = [self._client.publish(topic, payload, 1, retain, properties) for payload in payloads]
        wait_until(lambda: all(info._published for info in sent), "the broker has what was published")

    def heard(self) -> list[Heard]:
        """What came since it was last asked."""
        return [self._heard.get() for _ in range(self._heard.qsize())]

    def hear(self, count: int) -> list[Heard]:
        """Waits until a number of messages came."""
        return [self._heard.get(timeout=PATIENCE_S) for _ in range(count)]

    def close(self) -> None:
        """Leaves."""
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: Client, *_: Any) -> None:
        if self._filter is None:
            self._subscribed.set()
        else:
            client.subscribe(self._filter, qos=1)

    def _on_message(self, _client: Client, _: Any, message: MQTTMessage) -> None:
        headers = tuple(getattr(message.properties, "UserProperty", ()))
        self._heard.put(Heard(message.topic, bytes(message.payload), headers))


@contextlib.contextmanager
def peer(port: int, topic_filter: str | None = None, name: str = "peer") -> Iterator[Peer]:
    """A plain client for the time of a block."""
    client = Peer(port, topic_filter, name)
    try:
        yield client
    finally:
        client.close()


def _lasting() -> Properties:
    properties = new_properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3600
    return properties


class Script:
    """A broker that answers each connection by what a test wants, to show what Mosquitto cannot be made to do.

    Args:
        connack: Reason codes for the connections, one after the other; the last one goes for all further ones.
        suback: Reason code for subscriptions.
        puback: Reason code for messages; None: they are not acknowledged.
        goodbye: Reason code to disconnect with after a subscription; None: it stays.
        swallow: Messages of the first connection that are not acknowledged; then it hangs up.

    Attributes:
        connections: How many there have been.
        payloads: Payloads of the messages of each connection.
    """

    def __init__(
        self,
        connack: Sequence[int] = (0,),
        suback: int = 1,
        puback: int | None = 0,
        goodbye: int | None = None,
        swallow: int = 0,
    ) -> None:
        self.connections, self._swallow = 0, swallow
        self.payloads: list[list[bytes]] = []
        self._connack, self._suback, self._puback, self._goodbye = connack, suback, puback, goodbye
        self._server = socket.create_server((HOST, 0))
        self.port = int(self._server.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(PATIENCE_S)

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self._server.accept()
            except OSError:
                return
            with line, contextlib.suppress(OSError):
                self._converse(line)

    def _converse(self, line: socket.socket) -> None:
        goes_on = True
        while goes_on and (head := line.recv(1)):
            body = _packet_body(line)
            kind = head[0] >> 4
            if kind == 1:
                goes_on = self._accept(line)
            elif kind == 3:
                goes_on = self._take(line, body)
            elif kind == 8:
                goes_on = self._subscribe(line, body)

    def _accept(self, line: socket.socket) -> bool:
        reason = self._connack[min(self.connections, len(self._connack) - 1)]
        self.connections += 1
        self.payloads.append([])
        line.sendall(bytes([0x20, 3, 0, reason, 0]))
        return reason == 0

    def _take(self, line: socket.socket, body: bytes) -> bool:
        topic = int.from_bytes(body[:2])
        self.payloads[-1].append(body[5 + topic :])  # no properties: one byte of length
        if self.connections == 1 and self._swallow:
            return len(self.payloads[-1]) < self._swallow
        if self._puback is not None:
            line.sendall(bytes([0x40, 4, *body[2 + topic : 4 + topic], self._puback, 0]))
        return True

    def _subscribe(self, line: socket.socket, body: bytes) -> bool:
        line.sendall(bytes([0x90, 4, *body[:2], 0, self._suback]))
        if self._goodbye is not None:
            line.sendall(bytes([0xE0, 2, self._goodbye, 0]))
        return self._goodbye is None


def _packet_body(line: socket.socket) -> bytes:
    """What follows the first byte of a packet, its length aside."""
    size, shift, byte = 0, 0, 128
    while byte >= 128:
        (byte,) = line.recv(1)
        size, shift = size + ((byte & 127) << shift), shift + 7
    return line.recv(size, socket.MSG_WAITALL)


@contextlib.contextmanager
def scripted(**answers: Any) -> Iterator[Script]:
    """A scripted broker for the time of a block."""
    script = Script(**answers)
    try:
        yield script
    finally:
        script.close()
