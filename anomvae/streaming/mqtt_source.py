"""Records from an MQTT 5 broker, at least once."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import TYPE_CHECKING, Any

from paho.mqtt.subscribeoptions import SubscribeOptions

from anomvae.streaming.contracts import Delivery, Origin, Place, Progress, Record
from anomvae.streaming.mqtt_client import Link, Session
from anomvae.streaming.mqtt_receipts import Receipts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from paho.mqtt.client import Client, MQTTMessage
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

    from anomvae.observability.logs import Log
    from anomvae.streaming.contracts import Headers
    from anomvae.streaming.mqtt import MqttBroker, MqttSubscription

TOPIC_HEADER = "mqtt_topic"
"""Header that names the topic a record came by."""


class MqttSource:
    """Reads a filter of topics with a session that outlives connections; see :class:`~anomvae.streaming.contracts.Source`.

    A message is acknowledged to the broker by :meth:`commit` and not before: what was not answered when the process or the
    connection died comes again. Within the process such a message is known again and keeps its number (see
    :class:`~anomvae.streaming.mqtt_receipts.Receipts`). The broker holds back what exceeds `receive_maximum` messages;
    of one that does not (some do not), and at QoS 0, nothing more is read from the connection once more records wait here.

    The filter is the one partition, and offsets are numbers of this process, from 0; what tells records apart is a digest of
    topic and payload. MQTT keeps no log: nothing can be
    replayed, so after a start windows fill anew, and answers say so (`filling`) until they have. A record's key is its topic,
    or one level of it; its headers are :data:`TOPIC_HEADER` and the message's user properties. Messages that the broker
    retained before the subscription are not read: they are the last values of a past time.

    Args:
        broker: Where it is.
        subscription: What is read.
        log: Told when the connection goes and comes; None: nobody is.
        stopping: Whether the stream has been told to stop, for which the first connection is waited for no longer.

    Raises:
        SettingError: The broker refuses the connection or the filter, or its certificate is not trusted.
        StreamError: No broker answered in time.
    """

    def __init__(
        self,
        broker: MqttBroker,
        subscription: MqttSubscription,
        log: Log | None = None,
        stopping: Callable[[], bool] | None = None,
    ) -> None:
        self._subscription = subscription
        self._place = Place(subscription.topic_filter, 0)
        self._told = False
        self._answered = 0
        self._queue: deque[Record] = deque()
        self._receipts = Receipts()
        session = Session(
            client_id=subscription.client_id,
            expiry_s=subscription.session_expiry_s,
            receive_maximum=subscription.receive_maximum,
            status_topic=subscription.status_topic,
        )
        self._link = Link(broker, session, self, log, stopping)
        self._link.open()

    def poll(self, most: int, wait_s: float) -> Delivery:
        """Up to `most` records, or none after about `wait_s` seconds.

        Raises:
            StreamError: The broker refuses to go on; a lost connection is made again.
        """
        assigned = {} if self._told else {self._place: Progress(answered=0, replay_from=0)}
        with self._link.changed:
            if self._told:  # the assignment need not wait for a record
                self._link.changed.wait_for(lambda: self._queue or self._link.failed, wait_s)
            full = not self.may_read()
            records = [self._queue.popleft() for _ in range(min(most, len(self._queue)))]
        self._link.check()
        self._told = True
        if full:
            self._link.wake()
        return Delivery(records=records, assigned=assigned)

    def commit(self, progress: Mapping[Place, Progress]) -> None:
        """Acknowledges what was answered to the broker, as soon as the network takes it."""
        mine = progress.get(self._place)
        if mine is not None and mine.answered > self._answered:
            self._answered = mine.answered
            self._link.wake()

    def lag(self) -> Mapping[Place, int]:
        """Records that wait here; what the broker holds back is not known."""
        return {self._place: len(self._queue)}

    @property
    def healthy(self) -> bool:
        """Whether it is connected."""
        return self._link.connected

    @property
    def trouble(self) -> str | None:
        """Why it is not connected."""
        return self._link.trouble

    def close(self) -> None:
        """Acknowledges what was committed and leaves; the broker keeps the session and the messages to come."""
        self._link.close()

    # What follows is called by the network thread.

    def prepare(self, client: Client) -> None:
        """Hangs callbacks on a client."""
        client.on_message, client.on_subscribe = self._on_message, self._on_subscribe

    def connected(self, client: Client, session_present: bool, properties: Properties) -> None:  # noqa: ARG002
        """Subscribes, also where the session should know it: a broker may have forgotten."""
        self._receipts.connected(session_present=session_present)
        wishes = SubscribeOptions(qos=self._subscription.qos, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        client.subscribe(self._subscription.subscribed, options=wishes)

    def turn(self, client: Client) -> None:
        """Acknowledges what was answered."""
        self._receipts.answer(self._answered)
        for mid in self._receipts.due():
            client.ack(mid, 1)

    def may_read(self) -> bool:
        """Whether the queue is within its bound: a broker that keeps to the receive maximum is always read, and heard to live."""
        return len(self._queue) <= self._subscription.receive_maximum

    def _on_subscribe(
        self, _client: Client, _: Any, _mid: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        reason = reasons[0]
        if reason.is_failure:
            self._link.refused("the subscription", reason)
        elif reason.value < self._subscription.qos:
            self._link.fail("the MQTT broker grants QoS 0 only, by which records would get lost; allow QoS 1 there")
        else:
            self._link.ready()

    def _on_message(self, _client: Client, _: Any, message: MQTTMessage) -> None:
        topic, payload = message.topic, bytes(message.payload)
        digest = hashlib.blake2b(topic.encode() + b"\0" + payload, digest_size=16).digest()
        if message.qos:
            offset = self._receipts.received(message.mid, digest, repeated=message.dup)
        else:
            offset = self._receipts.number()
        if offset is None:
            return
        record = Record(
            payload=payload,
            origin=Origin(self._place.topic, self._place.partition, offset),
            key=self._subscription.key_of(topic).encode(),
            headers=_headers(topic, message.properties),
            digest=digest,
        )
        with self._link.changed:
            self._queue.append(record)
            self._link.changed.notify_all()
        if not self.may_read():  # what comes again may stand before the answer to the subscription
            self._link.ready()


def _headers(topic: str, properties: Properties | None) -> Headers:
    given: list[tuple[str, str]] = getattr(properties, "UserProperty", [])
    return ((TOPIC_HEADER, topic.encode()), *((name, value.encode()) for name, value in given))
