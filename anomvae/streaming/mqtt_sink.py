"""Messages to an MQTT 5 broker, at least once."""

from __future__ import annotations

from collections import OrderedDict, deque
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from paho.mqtt.packettypes import PacketTypes

from anomvae.streaming.mqtt import FORBIDDEN, LONGEST_TOPIC, MOST_IN_FLIGHT
from anomvae.streaming.mqtt_client import Link, Session, new_properties

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from paho.mqtt.client import Client
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

    from anomvae.observability.logs import Log
    from anomvae.streaming.contracts import Headers, Outgoing
    from anomvae.streaming.mqtt import MqttBroker, MqttPublication

LARGEST_PACKET = 268_435_455
"""Bytes of the largest packet that the protocol knows."""
LARGEST_HEADER = 9
"""Bytes of a packet before its topic and beside topic, properties and payload: type, length, packet identifier."""


class Letter(NamedTuple):
    """A message with its address."""

    topic: str
    message: Outgoing


class MqttSink:
    """Writes with QoS 1; see :class:`~anomvae.streaming.contracts.Sink`.

    What the broker has not acknowledged when a connection breaks is sent again, in order, on the next one: nothing is lost, and
    a message may come twice. A broker that is away is waited for as long as it takes; one that is there and acknowledges
    nothing for long (a message is larger than it takes) is not. Headers become user properties.

    Args:
        broker: Where it is.
        publication: Where to, and how much at a time.
        log: Told when the connection goes and comes; None: nobody is.
        stopping: Whether the stream has been told to stop, for which the first connection is waited for no longer.

    Raises:
        SettingError: The broker refuses the connection, or its certificate is not trusted.
        StreamError: No broker answered in time.
    """

    def __init__(
        self,
        broker: MqttBroker,
        publication: MqttPublication,
        log: Log | None = None,
        stopping: Callable[[], bool] | None = None,
    ) -> None:
        self._publication = publication
        self._waiting: deque[Letter] = deque()
        self._unacknowledged: OrderedDict[int, Letter] = OrderedDict()
        self._window = publication.in_flight
        self._largest = LARGEST_PACKET
        self._moved_s = monotonic()
        self._told = False
        self._link = Link(broker, Session(client_id=publication.client_id), self, log, stopping)
        self._link.open()

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Queues messages, in order; blocks while too many wait.

        Raises:
            StreamError: One cannot be delivered, or the broker refuses one that was sent before.
        """
        for message in messages:
            topic = self._publication.topic_of(message.key)
            if len(topic.encode()) > LONGEST_TOPIC:
                self._link.fail(f"an MQTT topic with its key exceeds {LONGEST_TOPIC} bytes; shorten the asset names")
            if self._outstanding() >= self._publication.queued:
                self._link.wake()
                self._wait(lambda: self._outstanding() < self._publication.queued)
            self._check()
            with self._link.changed:
                if not self._outstanding():
                    self._moved_s = monotonic()
                self._waiting.append(Letter(topic, message))
        self._link.wake()

    def flush(self) -> None:
        """Waits until the broker has acknowledged all that was sent.

        Raises:
            StreamError: It refuses a message, or is there and acknowledges none for too long.
        """
        self._wait(lambda: not self._outstanding())
        self._check()

    @property
    def healthy(self) -> bool:
        """Whether it is connected."""
        return self._link.connected

    @property
    def trouble(self) -> str | None:
        """Why it is not connected."""
        return self._link.trouble

    def close(self) -> None:
        """Flushes and leaves; what has failed before is not told again."""
        try:
            if not self._told:
                self.flush()
        finally:
            self._link.close()

    def _outstanding(self) -> int:
        return len(self._waiting) + len(self._unacknowledged)

    def _wait(self, until: Callable[[], bool]) -> None:
        """Waits for a condition, a failure or a broker that is there and acknowledges nothing for too long."""
        with self._link.changed:
            while not (until() or self._link.failed):
                since_s = max(self._moved_s, self._link.unreached_s)
                left_s = since_s + self._publication.give_up_s - monotonic()
                if left_s <= 0.0:
                    why = f" ({self._link.trouble})" if self._link.trouble else ""
                    self._link.fail(
                        f"the MQTT broker acknowledged nothing for {self._publication.give_up_s:g} seconds{why}; "
                        "what was not acknowledged is not delivered"
                    )
                else:
                    self._link.changed.wait(left_s)

    def _check(self) -> None:
        self._told = self._link.failed
        self._link.check()

    # What follows is called by the network thread.

    def prepare(self, client: Client) -> None:
        """Hangs callbacks on a client."""
        client.on_publish = self._on_publish

    def connected(self, client: Client, session_present: bool, properties: Properties) -> None:  # noqa: ARG002
        """Queues again what the last connection left unacknowledged."""
        with self._link.changed:
            self._waiting.extendleft(reversed(self._unacknowledged.values()))
            self._unacknowledged.clear()
        theirs: int = getattr(properties, "ReceiveMaximum", MOST_IN_FLIGHT)
        self._window = min(self._publication.in_flight, theirs)
        self._largest = getattr(properties, "MaximumPacketSize", LARGEST_PACKET)
        if getattr(properties, "MaximumQoS", 2) < 1:
            self._link.fail("the MQTT broker takes QoS 0 only, by which answers would get lost; allow QoS 1 there")
        self._link.ready()

    def turn(self, client: Client) -> None:
        """Sends what waits, as far as the broker takes it."""
        while self._waiting and len(self._unacknowledged) < self._window and not self._link.failed:
            letter = self._waiting[0]
            properties = _properties(letter.message.headers)
            size = LARGEST_HEADER + len(letter.topic.encode()) + len(letter.message.payload)
            size += 1 if properties is None else len(properties.pack())  # type: ignore[no-untyped-call]
            if size > self._largest and letter.message.brief is not None:
                self._waiting[0] = Letter(letter.topic, letter.message.brief)
                continue
            if size > self._largest:
                self._link.fail(
                    f"an MQTT message of {size} bytes exceeds the {self._largest} that the broker takes; let it take more"
                )
                return
            sent = client.publish(
                letter.topic, letter.message.payload, qos=1, retain=self._publication.retain, properties=properties
            )
            with self._link.changed:
                self._unacknowledged[sent.mid] = self._waiting.popleft()

    def may_read(self) -> bool:
        """Whether acknowledgements may come: always."""
        return True

    def _on_publish(
        self, _client: Client, _: Any, mid: int, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._link.refused("a message", reason)
            return
        with self._link.changed:
            if self._unacknowledged.pop(mid, None) is not None:
                self._moved_s = monotonic()
                self._link.changed.notify_all()


def _properties(headers: Headers) -> Properties | None:
    if not headers:
        return None
    properties = new_properties(PacketTypes.PUBLISH)
    properties.UserProperty = [(_text(name.encode()), _text(value)) for name, value in headers]
    return properties


def _text(value: bytes) -> str:
    """Bytes as text that the protocol can carry."""
    text = FORBIDDEN.sub("\ufffd", value.decode("utf-8", "replace"))
    return text if len(text.encode()) <= LONGEST_TOPIC else text.encode()[:LONGEST_TOPIC].decode("utf-8", "ignore")
