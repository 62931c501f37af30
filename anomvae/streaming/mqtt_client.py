"""One lasting link to an MQTT 5 broker over any number of connections, on a network thread of its own."""

from __future__ import annotations

import contextlib
import json
import os
import random
import selectors
import socket
import ssl
import threading
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from anomvae.errors import AnomvaeError, SettingError, StreamError
from anomvae.streaming.mqtt_outages import LOST, Outages
from anomvae.streaming.mqtt_reasons import ADVICE, PASSING
from anomvae.streaming.mqtt_tls import tls_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from paho.mqtt.reasoncodes import ReasonCode

    from anomvae.observability.logs import Log
    from anomvae.streaming.mqtt import MqttBroker

CONNECT_S = 10.0
"""Longest wait for a connection, its handshake or its acknowledgement."""
TURN_S = 0.5
"""Longest sleep of the network thread."""
GOODBYE_S = 3.0
"""Longest time that leaving in good order may take."""


@dataclass(frozen=True, slots=True)
class Session:
    """What a link is to the broker.

    Attributes:
        client_id: Its name; empty: the broker gives one.
        expiry_s: How long the broker keeps the session while the link is down; 0: every connection begins a new one.
        receive_maximum: Most messages the broker may send without an acknowledgement; None: as many as it likes.
        status_topic: Topic that tells, retained, whether the link is up.
    """

    client_id: str
    expiry_s: int = 0
    receive_maximum: int | None = None
    status_topic: str | None = None


class Endpoint(Protocol):
    """What is done over a link; every method is called by the network thread, which alone touches the client."""

    def prepare(self, client: Client) -> None:
        """A connection is about to be made with this client: hang callbacks on it."""
        ...

    def connected(self, client: Client, session_present: bool, properties: Properties) -> None:
        """The broker accepted the connection; `session_present`: it still has the session."""
        ...

    def turn(self, client: Client) -> None:
        """Something may have changed: send what there is to send."""
        ...

    def may_read(self) -> bool:
        """Whether there is room for another message."""
        ...


class Link:
    """Keeps a connection to the broker, and makes it anew when it breaks, with growing pauses.

    Each connection has a client of its own, so that nothing half-done of the last one leaks into the next.

    Args:
        broker: Where it is.
        session: Who the link is.
        endpoint: What is done over it.
        log: Told when the connection goes and comes, once each; None: nobody is.
        stopping: Whether the stream has been told to stop; None: it never is.

    Attributes:
        changed: Guards what the network thread shares with the caller's, and tells of changes.
        connected: Whether a connection stands.
        trouble: Why the last connection or attempt ended.
        unreached_s: When an attempt to connect failed last, by `time.monotonic`.

    Raises:
        SettingError: A file for TLS cannot be used.
    """

    def __init__(
        self,
        broker: MqttBroker,
        session: Session,
        endpoint: Endpoint,
        log: Log | None = None,
        stopping: Callable[[], bool] | None = None,
    ) -> None:
        self.changed = threading.Condition()
        self.connected = False
        self.trouble: str | None = None
        self.unreached_s = 0.0
        self._outages = Outages(broker.address, session.client_id, log)
        self._stopping = stopping or (lambda: False)
        self._broker, self._session, self._endpoint = broker, session, endpoint
        self._tls = None if broker.tls is None else tls_context(broker.tls)
        self._random = random.Random()  # noqa: S311  jitter
        self._accepted = self._ready = False
        self._failure: AnomvaeError | None = None
        self._leaving = threading.Event()
        self._wake_in, self._wake_out = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.settimeout(0.0)
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    def open(self) -> None:
        """Starts, and returns once the endpoint is :meth:`ready`, or the stream has been told to stop.

        Raises:
            SettingError: The broker refuses what it is asked, or its certificate is not trusted.
            StreamError: No broker answered in time.
        """
        self._thread.start()
        give_up_s = monotonic() + self._broker.patience_s
        with self.changed:
            while not (self._ready or self.failed or self._stopping()) and (left_s := give_up_s - monotonic()) > 0.0:
                self.changed.wait(min(TURN_S, left_s))
            ready = self._ready
        if not ready and (self.failed or not self._stopping()):
            why = f" ({self.trouble})" if self.trouble else ""
            self.fail(
                f"no MQTT broker answers at {self._broker.address}{why}; check the address and whether it runs",
                StreamError,
            )
            self.close()
            self.check()

    def ready(self) -> None:
        """The endpoint has all it needs; what the broker refuses from now on is not the caller's mistake."""
        with self.changed:
            self._ready = True
            self.changed.notify_all()

    def fail(self, sentence: str, kind: type[AnomvaeError] | None = None) -> None:
        """Gives up for good; the first reason counts.

        Args:
            sentence: What :meth:`check` raises.
            kind: Class of it; None: the caller's mistake at the start, the stream's later.
        """
        with self.changed:
            if self._failure is None:
                self._failure = (kind or (StreamError if self._ready else SettingError))(sentence)
            self._leaving.set()
            self.changed.notify_all()
        self.wake()

    def refused(self, what: str, reason: ReasonCode) -> None:
        """Gives up since the broker said no.

        Args:
            what: What it refuses, to complete "the broker refuses ...".
            reason: Its reason.
        """
        advice = ADVICE.get(reason.value, "see the broker's log")
        self.fail(f"the MQTT broker at {self._broker.address} refuses {what}: {str(reason).lower()}; {advice}")

    @property
    def failed(self) -> bool:
        """Whether it was given up."""
        return self._failure is not None

    def check(self) -> None:
        """Raises the reason why it was given up, if it was."""
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args)

    def wake(self) -> None:
        """Makes the network thread take a turn soon."""
        with contextlib.suppress(OSError):  # full: it will wake anyway; closed: it has left
            self._wake_in.send(b"\0")

    def close(self) -> None:
        """Sends what the endpoint still has to send, says goodbye and ends the network thread."""
        self._leaving.set()
        self.wake()
        self._thread.join(GOODBYE_S + CONNECT_S)
        self._wake_in.close()
        self._wake_out.close()

    def _run(self) -> None:
        attempt = 0
        try:
            while not self._leaving.is_set():
                began_s = monotonic()
                accepted = self._connection()
                stood = accepted and monotonic() - began_s >= self._broker.back_off.most_s
                attempt = 0 if stood else attempt + 1
                self.trouble = self._outages.reason(self.trouble, accepted=accepted, stood=stood)
                if not accepted:
                    self.unreached_s = monotonic()
                if self._leaving.is_set():
                    return
                self._outages.away(self.trouble)
                self._leaving.wait(self._broker.back_off.pause_s(attempt, self._random))
        except Exception as error:  # noqa: BLE001  whoever waits for this thread must learn that it is gone
            self.fail(f"the link to the MQTT broker broke with {type(error).__name__}", StreamError)

    def _connection(self) -> bool:
        """Makes one connection and serves it to its end; whether it was accepted."""
        self._accepted = False
        client = self._client()
        try:
            clean = self._session.expiry_s == 0
            client.connect(
                self._broker.host,
                self._broker.port,
                self._broker.keepalive_s,
                clean_start=clean,
                properties=self._properties(),
            )
            self._serve(client)
        except ssl.SSLCertVerificationError as error:
            self.trouble = f"its certificate is not accepted: {error.verify_message}"
            if not self._ready:
                self.fail(
                    f"the certificate of the MQTT broker at {self._broker.address} is not accepted "
                    f"({error.verify_message}); give the file of the authority that signed it"
                )
        except (OSError, UnicodeError) as error:  # UnicodeError: what is no host name at all
            self.trouble = (getattr(error, "strerror", None) or type(error).__name__).lower()
        finally:
            self._dropped(client)
        return self._accepted

    def _client(self) -> Client:
        broker, topic = self._broker, self._session.status_topic
        client = Client(
            CallbackAPIVersion.VERSION2, self._session.client_id, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True
        )
        client.connect_timeout = CONNECT_S
        client.max_inflight_messages_set(0)  # the sink counts, and knows the broker's limit
        client.username, client.password = broker.user, broker.password
        if self._tls is not None:
            client.tls_set_context(self._tls)
        if topic is not None:
            client.will_set(topic, _status("offline"), qos=1, retain=True)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_socket_open = lambda *given: given[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.on_socket_register_write = lambda *_: None  # else it would write at once, packet by packet
        self._endpoint.prepare(client)
        return client

    def _properties(self) -> Properties:
        properties = new_properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = self._session.expiry_s
        if self._session.receive_maximum is not None:
            properties.ReceiveMaximum = self._session.receive_maximum
        return properties

    def _serve(self, client: Client) -> None:
        give_up_s = monotonic() + CONNECT_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_out, selectors.EVENT_READ)
            watched: tuple[Any, int] = (None, 0)
            while (sock := client.socket()) is not None:
                if self._accepted:
                    self._endpoint.turn(client)
                elif monotonic() > give_up_s:
                    self.trouble = "it does not speak MQTT in time"
                    return
                if self._leaving.is_set():
                    self._goodbye(client)
                    return
                if client.want_write():
                    client.loop_write()
                    if client.socket() is None:
                        return
                reads = self._endpoint.may_read()
                watched = _watch(
                    selector,
                    watched,
                    (sock, reads * selectors.EVENT_READ + client.want_write() * selectors.EVENT_WRITE),
                )
                ready = {key.fileobj for key, _ in selector.select(0.0 if reads and _pending(sock) else TURN_S)}
                if self._wake_out in ready:
                    _drain(self._wake_out)
                if reads and (sock in ready or _pending(sock)):
                    _confirm_at_once(sock)
                    client.loop_read()
                client.loop_misc()

    def _goodbye(self, client: Client) -> None:
        """Leaves in good order, and waits until the broker has read the last word."""
        sock = client.socket()
        if not self._accepted or sock is None:
            return
        by_s = monotonic() + GOODBYE_S
        with socket.socket(fileno=os.dup(sock.fileno())) as line:  # paho closes its own at once
            self._say(client, "offline")
            client.disconnect()
            with selectors.DefaultSelector() as selector:
                selector.register(line, selectors.EVENT_WRITE)
                while client.socket() is not None and monotonic() < by_s:
                    selector.select(TURN_S)
                    client.loop_write()
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_WR)
                while (left_s := by_s - monotonic()) > 0.0:
                    line.settimeout(left_s)
                    if not line.recv(1 << 16):
                        break

    def _say(self, client: Client, status: str) -> None:
        if self._session.status_topic is not None:
            client.publish(self._session.status_topic, _status(status), qos=0, retain=True)

    def _dropped(self, client: Client) -> None:
        sock = client.socket()
        if sock is not None:
            sock.close()
        with self.changed:
            self.connected = False
            self.changed.notify_all()

    def _on_connect(
        self, client: Client, _: Any, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self.trouble = str(reason).lower()
            if reason.value not in PASSING:
                self.refused("the connection", reason)
            return
        with self.changed:
            self.connected = self._accepted = True
            self.trouble = None
        self._outages.back()
        self._say(client, "online")
        self._endpoint.connected(client, flags.session_present, properties or new_properties(PacketTypes.CONNACK))

    def _on_disconnect(
        self, _client: Client, _: Any, flags: DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        theirs = flags.is_disconnect_packet_from_server
        self.trouble = self.trouble or (str(reason).lower() if theirs else LOST)
        if theirs and reason.value not in PASSING:
            self.refused("to go on", reason)


def new_properties(packet: int) -> Properties:
    """Empty properties of a type of packet."""
    return Properties(packet)  # type: ignore[no-untyped-call]


def _status(status: str) -> bytes:
    return json.dumps({"status": status}).encode()


def _watch(selector: selectors.BaseSelector, watched: tuple[Any, int], wanted: tuple[Any, int]) -> tuple[Any, int]:
    """Makes a selector wait for a socket's wanted events instead of the watched ones."""
    if watched != wanted:
        if watched[1]:
            selector.unregister(watched[0])
        if wanted[1]:
            selector.register(*wanted)
    return wanted


def _pending(sock: Any) -> bool:
    """Whether TLS holds decrypted bytes that no selector sees."""
    pending: Callable[[], int] | None = getattr(sock, "pending", None)
    return pending is not None and pending() > 0


def _confirm_at_once(sock: Any) -> None:
    """Makes Linux confirm what comes without its pause of 40 ms; the setting holds for a moment only.

    For so long a broker that uses Nagle's algorithm holds back all acknowledgements of a batch but the first.
    """
    if hasattr(socket, "TCP_QUICKACK"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _drain(sock: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        sock.recv(4096)
