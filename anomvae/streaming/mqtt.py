"""What is set of an MQTT 5 connection: the broker, what is read there and what is written; nothing here needs paho-mqtt."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING
from urllib.parse import quote

from anomvae.errors import SettingError

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

PORT, TLS_PORT = 1883, 8883
LONGEST_TOPIC = 65535
"""Bytes of UTF-8 that a topic may have."""
MOST_IN_FLIGHT = 65535
"""The largest receive maximum the protocol can state."""
KEY = "{key}"
_LONGEST_KEY = 1_000
"""Bytes of a topic that a key may make up."""
_MOST_LEVELS = 32
"""Levels of a topic that a key may make up; brokers refuse topics of too many."""
FORBIDDEN = re.compile(
    "[\0-\x1f\x7f-\x9f\ufdd0-\ufdef"
    + "".join(f"{chr(at)}{chr(at + 1)}" for at in range(0xFFFE, 0x110000, 0x10000))
    + "]"
)
"""Characters for which a broker may end the connection [MQTT-1.5.4]: control characters and what Unicode calls none."""
_SIGNS = re.compile(f"[%+#]|{FORBIDDEN.pattern}|^[$]")
NO_KEY = "-"
"""Stands in a topic for the key of a message that has none."""


@dataclass(frozen=True, slots=True)
class BackOff:
    """Pauses between attempts to connect.

    They double up to the longest, and chance shortens each to half at the least, so that many clients do not come back to a
    restarted broker at once.

    Attributes:
        first_s: Pause after the first failure, seconds.
        most_s: The longest pause, seconds.
    """

    first_s: float = 0.5
    most_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0.0 < self.first_s <= self.most_s:
            raise SettingError(
                "the first pause between attempts to connect must be above 0 and at most the longest one"
            )

    def pause_s(self, attempt: int, random: Random) -> float:
        """Seconds to wait after a number of failures in a row.

        Args:
            attempt: Failures before this one.
            random: Draws the jitter.

        Example:
            >>> import random
            >>> 4.0 <= BackOff(1.0, 30.0).pause_s(3, random.Random()) <= 8.0
            True
        """
        return min(self.most_s, self.first_s * 2.0 ** min(attempt, 60)) * random.uniform(0.5, 1.0)


@dataclass(frozen=True, slots=True)
class MqttTls:
    """How a connection is encrypted and who it trusts; the broker's certificate and name are always checked.

    Attributes:
        authority: File of the certificates to trust (PEM); None: those the system trusts.
        certificate: File of the client's own certificate (PEM), where the broker asks for one.
        key: File of its private key (PEM); None: it lies in `certificate`.
    """

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if self.key is not None and self.certificate is None:
            raise SettingError("a TLS key was given without its certificate; give both")


@dataclass(frozen=True, slots=True)
class MqttBroker:
    """Where the broker is and how to get in.

    Attributes:
        host: Name or address.
        port: Port; the usual ones are `PORT`, and `TLS_PORT` with TLS.
        user: Name to log in with, if any.
        password: Its password; never shown.
        tls: How to encrypt; None: not at all.
        keepalive_s: After so many silent seconds each side asks whether the other is still there.
        patience_s: How long to go on trying at the start, when no connection has stood yet, seconds; later without end.
        back_off: Pauses between attempts.
    """

    host: str
    port: int = PORT
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: MqttTls | None = None
    keepalive_s: int = 30
    patience_s: float = 30.0
    back_off: BackOff = field(default_factory=BackOff)

    def __post_init__(self) -> None:
        if not self.host:
            raise SettingError("an MQTT broker needs a host, as in mqtt://host:1883/filter")
        if not 0 < self.port < 2**16:
            raise SettingError(f"an MQTT broker's port must be within 1 to 65535, not {self.port}")
        if self.password is not None and self.user is None:
            raise SettingError("an MQTT password was given without a user; give both")
        if not 1 <= self.keepalive_s < 2**16:
            raise SettingError("an MQTT keep-alive must be within 1 to 65535 seconds")

    @property
    def address(self) -> str:
        """Host and port, for messages."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class MqttSubscription:
    """What is read from a broker.

    Attributes:
        topic_filter: Filter of topics; `+` stands for one level, a last `#` for any number.
        client_id: Name of the session, which the broker keeps across connections: it must stay the same from run to run, be no
            other client's, and change when the filter does (a session remembers its old filters).
        group: Name of a shared subscription: the messages are divided among all clients that name it; None: each gets all.
        qos: 1: messages come at least once; 0: they come at most once, and none while this client is away.
        receive_maximum: Most messages that are under way unanswered; the broker holds back the others.
        session_expiry_s: How long the broker keeps the session, and messages for it, while this client is away; seconds.
        asset_level: Level of the topic, counted from 0, that becomes the key of a record (the asset); negative: from the end;
            None, or a topic with fewer levels: the whole topic does.
        status_topic: Topic that tells, retained, whether this client is there: ``{"status": "online"}``, and ``"offline"`` once
            it left or died (last will); None: none does.
    """

    topic_filter: str
    client_id: str
    group: str | None = None
    qos: int = 1
    receive_maximum: int = 1000
    session_expiry_s: int = 86_400
    asset_level: int | None = None
    status_topic: str | None = None

    def __post_init__(self) -> None:
        _check_filter(self.topic_filter)
        if not self.client_id:
            raise SettingError(
                "reading from MQTT needs a client id that stays the same from run to run: the broker keeps its messages by it"
            )
        if self.group is not None and (not self.group or any(sign in self.group for sign in "/+#")):
            raise SettingError("the name of an MQTT shared subscription must not be empty or hold '/', '+' or '#'")
        if self.qos not in {0, 1}:
            raise SettingError(f"MQTT is read with QoS 0 or 1, not {self.qos}; 1 means at least once")
        if not 1 <= self.receive_maximum <= MOST_IN_FLIGHT:
            raise SettingError(f"the MQTT receive maximum must be within 1 to {MOST_IN_FLIGHT}")
        if not 0 <= self.session_expiry_s < 2**32:
            raise SettingError("the MQTT session expiry must be within 0 to 4294967295 seconds")
        if self.status_topic is not None:
            check_topic(self.status_topic, "status topic")

    @property
    def subscribed(self) -> str:
        """The filter as the broker is asked for it."""
        return self.topic_filter if self.group is None else f"$share/{self.group}/{self.topic_filter}"

    def key_of(self, topic: str) -> str:
        """The key of a message's record.

        Example:
            >>> MqttSubscription("plant/+/values", "reader", asset_level=1).key_of("plant/press 7/values")
            'press 7'
        """
        if self.asset_level is None:
            return topic
        levels = topic.split("/")
        inside = -len(levels) <= self.asset_level < len(levels)
        return levels[self.asset_level] if inside else topic


@dataclass(frozen=True, slots=True)
class MqttPublication:
    """What is written to a broker, with QoS 1.

    Attributes:
        topic: Where to; `{key}` is replaced by the message's key (the asset), and by `-` where it has none. In a key, `+`, `#`,
            `%`, a first `$` and control characters are written as in URLs; of one with more than 1,000 bytes or 32 levels
            the beginning stands there, with a digest of the whole.
        client_id: Name at the broker; empty: the broker gives one.
        retain: Whether the broker keeps the last message of each topic for later subscribers.
        in_flight: Most messages unacknowledged at a time; the broker's own limit counts if it is lower.
        queued: Most messages unacknowledged or waiting; `send` blocks at that.
        give_up_s: Messages that wait so long for a broker that is there, without any being acknowledged, are held undeliverable;
            seconds. One that is away is waited for.
    """

    topic: str
    client_id: str = ""
    retain: bool = False
    in_flight: int = 1000
    queued: int = 10_000
    give_up_s: float = 300.0

    def __post_init__(self) -> None:
        check_topic(self.topic.replace(KEY, NO_KEY), "topic to write to")
        if "{" in self.topic.replace(KEY, NO_KEY):
            raise SettingError("the only placeholder in an MQTT topic is {key}, the asset")
        if not 1 <= self.in_flight <= MOST_IN_FLIGHT:
            raise SettingError(f"MQTT messages in flight must be within 1 to {MOST_IN_FLIGHT}")
        if self.queued < 1:
            raise SettingError("at least one MQTT message must be allowed to wait")
        if self.give_up_s <= 0.0:
            raise SettingError("the time after which MQTT messages are held undeliverable must be above 0 seconds")

    def topic_of(self, key: bytes | None) -> str:
        """The topic of a message.

        Example:
            >>> MqttPublication("alarms/{key}").topic_of(b"press #7")
            'alarms/press %237'
        """
        if KEY not in self.topic:
            return self.topic
        if not key:
            return self.topic.replace(KEY, NO_KEY)
        name = _SIGNS.sub(lambda sign: quote(sign[0], safe=""), key.decode("utf-8", "replace"))
        if len(name.encode()) > _LONGEST_KEY or name.count("/") >= _MOST_LEVELS:
            name = (
                f"{name[:200].replace('/', '%2F')}%~{blake2b(key, digest_size=8).hexdigest()}"  # no other has a lone %
            )
        return self.topic.replace(KEY, name)


def session_name(name: str, topic_filter: str) -> str:
    """A client id that is the same from run to run, and another for another filter.

    Args:
        name: What the session is for.
        topic_filter: What it subscribes to.

    Example:
        >>> session_name("anomvae-pumps", "plant/+/values")
        'anomvae-pumps-1c108576'
    """
    return f"{name}-{blake2b(topic_filter.encode(), digest_size=4).hexdigest()}"


def check_topic(topic: str, what: str) -> None:
    """Refuses topics that nothing can be written to.

    Raises:
        SettingError: It is empty, too long, or holds wildcards.
    """
    if not topic or any(sign in topic for sign in "+#\0") or len(topic.encode()) > LONGEST_TOPIC:
        raise SettingError(
            f"an MQTT {what} must have 1 to {LONGEST_TOPIC} bytes and no '+', '#' or NUL, which stand in filters alone"
        )


def _check_filter(topic_filter: str) -> None:
    if not topic_filter or "\0" in topic_filter or len(topic_filter.encode()) > LONGEST_TOPIC - 300:
        raise SettingError("an MQTT filter must not be empty, as in mqtt://host:1883/plant/+/values")
    if topic_filter.startswith("$share/"):
        raise SettingError(
            "give the group of an MQTT shared subscription as an option, and the filter without '$share/'"
        )
    *levels, last = topic_filter.split("/")
    if (
        "#" in "".join(levels)
        or ("#" in last and last != "#")
        or any("+" in at and at != "+" for at in [*levels, last])
    ):
        raise SettingError(
            "in an MQTT filter '+' and '#' stand for whole levels, and '#' only at the end: plant/+/values/#"
        )
