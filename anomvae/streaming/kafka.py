"""How a Kafka cluster is reached, what its errors mean, and whether it is there; for sources, sinks and transactions."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from anomvae.errors import MissingExtraError, SettingError, StreamError
from anomvae.streaming.addresses import Credentials

try:
    from confluent_kafka import (
        OFFSET_BEGINNING,
        TIMESTAMP_NOT_AVAILABLE,
        Consumer,
        KafkaError,
        KafkaException,
        Message,
        Producer,
        TopicPartition,
    )
except ImportError:
    raise MissingExtraError("a stream from or to Kafka", "stream") from None

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anomvae.observability.logs import Log
    from anomvae.streaming.addresses import Address

__all__ = [
    "OFFSET_BEGINNING",
    "TIMESTAMP_NOT_AVAILABLE",
    "Cluster",
    "Consumer",
    "KafkaError",
    "KafkaException",
    "Link",
    "Message",
    "Producer",
    "TopicPartition",
    "open_client",
    "transient",
]

COMMON_OPTIONS = ("security", "sasl")
SECURITY = ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl")
SASL = ("plain", "scram-sha-256", "scram-sha-512")
SLICE_S = 0.5
"""Longest time in the client at a stretch, so that signals are heard."""
PROBE_S = 1.0
"""How often a cluster that is gone is looked for while there is nothing to read or send, in seconds."""
LOGGER = "confluent_kafka"
"""Name of the logger through which the client tells what it does; the composition root decides where that goes."""

TRANSIENT = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001 - the library's names for its own errors begin so
        KafkaError._TRANSPORT,  # noqa: SLF001
        KafkaError._RESOLVE,  # noqa: SLF001
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError._TIMED_OUT_QUEUE,  # noqa: SLF001
        KafkaError._MSG_TIMED_OUT,  # noqa: SLF001
        KafkaError._WAIT_COORD,  # noqa: SLF001
        KafkaError._RETRY,  # noqa: SLF001
        KafkaError._PURGE_QUEUE,  # noqa: SLF001
        KafkaError._PURGE_INFLIGHT,  # noqa: SLF001
        KafkaError._IN_PROGRESS,  # noqa: SLF001
        KafkaError._PREV_IN_PROGRESS,  # noqa: SLF001
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
        KafkaError.CONCURRENT_TRANSACTIONS,
    }
)
REFUSED = frozenset(
    {
        KafkaError._AUTHENTICATION,  # noqa: SLF001
        KafkaError._SSL,  # noqa: SLF001
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError.INCONSISTENT_GROUP_PROTOCOL,
        KafkaError.INVALID_SESSION_TIMEOUT,
    }
)
"""What ends a stream that never began: nobody waits an hour for a mistyped topic. Later it is told, and tried again."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """How to reach a cluster.

    Attributes:
        address: Where it is.
        credentials: Who we are.
        client: Further settings of librdkafka, by its own names, such as `sasl.kerberos.service.name`; what anomvae decides
            itself cannot be set so.
    """

    address: Address
    credentials: Credentials = field(default_factory=Credentials)
    client: Mapping[str, str] = field(default_factory=dict, repr=False)

    def settings(self, decided: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a client.

        Args:
            decided: What the caller decides.

        Raises:
            SettingError: The address asks for what cannot be, or a further setting is one of ours.
        """
        ours = {
            "bootstrap.servers": ",".join(map(str, self.address.hosts)),
            "client.id": "anomvae",
            "log_level": 4,
            "reconnect.backoff.ms": 100,
            "reconnect.backoff.max.ms": 10_000,
            "topic.metadata.refresh.interval.ms": 60_000,
            # Its default drops and forgets every broker once all are down; in librdkafka 2.16 a transaction may then hang.
            "metadata.recovery.strategy": "none",
            **self._security(),
            **decided,
        }
        tunable = {"client.id", "log_level", "reconnect.backoff.ms", "reconnect.backoff.max.ms", *TUNABLE}
        for name in self.client:
            if (name in ours and name not in tunable) or name in NEVER:
                raise SettingError(f"{self.address}: anomvae itself decides the client setting {name!r}; leave it out")
        return {**ours, **self.client}

    def _security(self) -> dict[str, str]:
        address, credentials = self.address, self.credentials
        named = credentials.user is not None
        default = ("sasl_ssl" if named else "ssl") if named or credentials.tls else "plaintext"
        security = address.choice("security", SECURITY, default)
        sasl = security.startswith("sasl") and "sasl.mechanism" not in self.client
        if sasl and (credentials.user is None or credentials.password is None):
            raise SettingError(
                f"{address}: security {security} needs a user and a password; "
                "set ANOMVAE_KAFKA_USER and ANOMVAE_KAFKA_PASSWORD"
            )
        if named and not security.startswith("sasl"):
            raise SettingError(f"{address}: there is a user, but security {security} names none; leave one of them out")
        if credentials.tls and not security.endswith("ssl"):
            raise SettingError(f"{address}: there are TLS files, but security {security} uses none; leave them out")
        if not sasl and "sasl" in address.options:
            raise SettingError(f"{address}: the option sasl means nothing with security {security}; leave it out")
        settings = {"security.protocol": security}
        if sasl:
            settings |= {
                "sasl.mechanism": address.choice("sasl", SASL, "scram-sha-512").upper(),
                "sasl.username": str(credentials.user),
                "sasl.password": str(credentials.password),
            }
        tls = {"ca": credentials.ca_file, "certificate": credentials.cert_file, "key": credentials.key_file}
        settings |= {f"ssl.{name}.location": str(file) for name, file in tls.items() if file is not None}
        if credentials.key_password is not None:
            settings["ssl.key.password"] = credentials.key_password
        return settings


TUNABLE = (
    "metadata.recovery.strategy",
    "topic.metadata.refresh.interval.ms",
    "heartbeat.interval.ms",
    "max.poll.interval.ms",
    "fetch.min.bytes",
    "fetch.wait.max.ms",
    "fetch.max.bytes",
    "max.partition.fetch.bytes",
    "fetch.message.max.bytes",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "linger.ms",
    "batch.size",
    "batch.num.messages",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "message.max.bytes",
    "message.timeout.ms",
    "socket.nagle.disable",
)
"""Settings for which anomvae has a default only."""
NEVER = ("group.protocol", "enable.auto.offset.store", "error_cb", "logger", "on_delivery")


class Link:
    """What is known of the connection: fed by a client's callbacks, read by its owner.

    Args:
        address: The other end, for messages.
        log: Told when the connection goes and comes.
    """

    def __init__(self, address: Address, log: Log) -> None:
        self.up = True
        self._address, self._log = address, log
        self._met = False
        self._fatal: StreamError | None = None
        self._looked_s = 0.0

    def met(self) -> None:
        """The cluster answered."""
        if not self.up:
            self._log.info("kafka connected again", address=str(self._address))
        self.up = self._met = True

    def heed(self, error: KafkaError) -> None:
        """Takes in an error that the client reports. May be called from within its callbacks: never raises."""
        refused = error.code() in REFUSED and not self._met
        if error.fatal() or refused:
            self._fatal = self._fatal or self.gone(error)
        if error.fatal() or refused or error.code() in TRANSIENT | REFUSED:
            if self.up:
                self._log.warning("kafka unreachable", address=str(self._address), error=error.name())
            self.up = False
        else:
            self._log.warning("kafka error", address=str(self._address), error=error.name())

    def look(self, client: Consumer | Producer, topic: str, *, at_once: bool = False) -> None:
        """Asks a cluster that was gone whether it has a topic again: nothing else would tell while nothing is read or sent.

        Args:
            client: Asks, for half a second at most.
            topic: The topic.
            at_once: Whether to ask however short a time ago it was asked last.
        """
        if self.up or (not at_once and time.monotonic() - self._looked_s < PROBE_S):
            return
        self._looked_s = time.monotonic()
        try:
            found = client.list_topics(topic, timeout=SLICE_S).topics.get(topic)
        except KafkaException:
            return
        if found is not None and found.error is None:
            self.met()

    def check(self) -> None:
        """Raises what ended the stream, if something did.

        Raises:
            StreamError: The client cannot go on.
        """
        if self._fatal is not None:
            raise self._fatal

    def gone(self, error: KafkaError) -> StreamError:
        """The sentence of an error that cannot be mended by waiting."""
        return StreamError(f"{self._address}: {_told(error)}; {_advice(error.code())}")


def _told(error: KafkaError) -> str:
    text = " ".join(error.str().split())
    return f"{text[:300]} ({error.name()})"


def _advice(code: int) -> str:
    if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):  # noqa: SLF001
        return "create the topic, or mend its name"
    if code in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL):  # noqa: SLF001
        return "check security, user, password and certificates"
    if code in REFUSED and code not in (KafkaError.INCONSISTENT_GROUP_PROTOCOL, KafkaError.INVALID_SESSION_TIMEOUT):
        return "the cluster's access rules forbid it"
    if code == KafkaError.INCONSISTENT_GROUP_PROTOCOL:
        return "other members of the group are no anomvae; choose another group"
    if code == KafkaError.MSG_SIZE_TOO_LARGE:
        return "raise message.max.bytes, here and at the cluster, or send less"
    return "see to the cluster, then start the stream again"


def transient(error: KafkaError) -> bool:
    """Whether waiting may mend it."""
    return error.code() in TRANSIENT or error.retriable()


Client = TypeVar("Client")


def open_client(make: Callable[..., Client], settings: Mapping[str, Any], link: Link, address: Address) -> Client:
    """A consumer or producer whose errors go to a link and whose log goes to the logger :data:`LOGGER`.

    Raises:
        SettingError: A setting is not known, or a TLS file cannot be used; the message names it, never its value.
    """
    try:
        return make({**settings, "error_cb": link.heed}, logger=logging.getLogger(LOGGER))
    except KafkaException as error:
        text = error.args[0].str() if isinstance(error.args[0], KafkaError) else ""
        named = re.findall(r"[a-z0-9_]+(?:\.[a-z0-9_]+)+", text)
        which = next((name for name in reversed(named) if name in settings), named[-1] if named else None)
        raise SettingError(
            f"{address}: the Kafka client does not take the setting {which or 'it was given'}; check its name and value"
        ) from None
