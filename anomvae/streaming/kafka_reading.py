"""How a Kafka topic is read: group, start, sessions, and how much is fetched ahead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from anomvae.errors import SettingError
from anomvae.streaming.kafka import COMMON_OPTIONS

if TYPE_CHECKING:
    from anomvae.streaming.addresses import Address

SOURCE_OPTIONS = (*COMMON_OPTIONS, "group", "start", "lookback", "session_timeout")
START = ("earliest", "latest")


@dataclass(frozen=True, slots=True)
class Reading:
    """How a topic is read.

    Attributes:
        group: The consumer group: its members share the partitions, and their commits are kept under its name.
        start: Where a partition without a commit begins: `earliest` or `latest`.
        lookback: Records to replay where a commit does not say from where (another tool has moved the group's offsets).
        session_timeout_s: How long the group waits for a member that went silent, in seconds.
    """

    group: str
    start: Literal["earliest", "latest"] = "earliest"
    lookback: int = 0
    session_timeout_s: float = 45.0

    @classmethod
    def of(cls, address: Address, group: str) -> Reading:
        """As the address says.

        Args:
            address: A source's address, with options `group`, `start`, `lookback` and `session_timeout` (seconds).
            group: The group, if the address names none.

        Raises:
            SettingError: An option is not known, or out of range.
        """
        address.allow(SOURCE_OPTIONS, "a Kafka source")
        start: Any = address.choice("start", START, "earliest")
        lookback = address.number("lookback", 0, 0, 2**40)
        if lookback != int(lookback):
            raise SettingError(f"{address}: the option lookback must be a whole number of records")
        session_timeout_s = address.number("session_timeout", 45.0, 0.5, 3600)
        return cls(address.options.get("group", group), start, int(lookback), session_timeout_s)

    def settings(self) -> dict[str, Any]:
        """The consumer's settings, by librdkafka's names."""
        session_ms = int(self.session_timeout_s * 1000)
        return {
            "group.id": self.group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",  # only where an offset has left the log: starts are given by number
            "isolation.level": "read_committed",
            "enable.partition.eof": True,  # by which alone one knows that no record, but marks of transactions, are left
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": session_ms,
            "heartbeat.interval.ms": max(100, min(3000, session_ms // 5)),
            "max.poll.interval.ms": max(300_000, session_ms),
            "queued.max.messages.kbytes": 32 * 1024,
            "fetch.max.bytes": 16 * 2**20,
            "max.partition.fetch.bytes": 4 * 2**20,
        }
