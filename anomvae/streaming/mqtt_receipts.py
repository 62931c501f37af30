"""Which received messages the broker is still owed an acknowledgement for, across connections."""

from __future__ import annotations

from typing import NamedTuple


class Receipt(NamedTuple):
    """A message that is not acknowledged yet.

    Attributes:
        offset: Number of its record.
        digest: Of topic and payload.
    """

    offset: int
    digest: bytes


class Receipts:
    """Numbers messages as they come and says which may be acknowledged.

    Packet identifiers mean something only within a connection: an acknowledgement that was not sent on the connection that
    brought the message is void, and the broker brings the message again on the next one, marked as repeated and with the same
    identifier [MQTT-4.4.0-1]. Such a message keeps its number, so that it is neither scored twice nor forgotten when it is
    answered; it counts as the same only while its acknowledgement is owed (the broker must not give its identifier to another
    until then) and if topic and payload are the same. In doubt it is a new message: at least once, never less.
    """

    def __init__(self) -> None:
        self._next = 0
        self._answered = 0
        self._current: dict[int, Receipt] = {}
        self._former: dict[int, Receipt] = {}

    def connected(self, *, session_present: bool) -> None:
        """A new connection stands; without the session the broker knows nothing of what it sent before."""
        self._former = self._former | self._current if session_present else {}
        self._current = {}

    def number(self) -> int:
        """The next number: for a message that wants no acknowledgement."""
        self._next += 1
        return self._next - 1

    def received(self, mid: int, digest: bytes, *, repeated: bool) -> int | None:
        """Takes note of a message.

        Args:
            mid: Its packet identifier.
            digest: Of topic and payload.
            repeated: Whether the broker marked it as sent before (DUP).

        Returns:
            Number of its record; None: its record has come before, on another connection.
        """
        if not repeated:  # brokers begin with what they repeat: what has not come again by now never will
            self._former = {}
        former = self._former.pop(mid, None)
        known = former is not None and former.digest == digest
        receipt = former if known and former is not None else Receipt(self.number(), digest)
        self._current.pop(mid, None)
        self._current[mid] = receipt
        return None if known else receipt.offset

    def answer(self, before: int) -> None:
        """All records numbered below `before` have been answered."""
        self._answered = max(self._answered, before)

    def due(self) -> list[int]:
        """Packet identifiers to acknowledge now, in the order the messages came [MQTT-4.6.0-2]; each is named once."""
        mids = []
        for mid, receipt in self._current.items():
            if receipt.offset >= self._answered:
                break
            mids.append(mid)
        for mid in mids:
            del self._current[mid]
        return mids
