from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.streaming.mqtt_receipts import Receipts


@dataclass
class ModelBroker:
    """What the specification lets a broker do with one session: identifiers are the lowest free ones, so that they come
    back as soon as they may.
    """

    receive_maximum: int
    waiting: list[int]
    flying: dict[int, int] = field(default_factory=dict)
    """Identifier to message, in the order first sent."""
    unsent: list[tuple[int, int, bool]] = field(default_factory=list)
    """Written to the connection and not read by the client: identifier, message, repeated."""

    def connect(self) -> None:
        self.unsent = [(mid, message, True) for mid, message in self.flying.items()]

    def send(self) -> None:
        while self.waiting and len(self.flying) < self.receive_maximum:
            mid = next(mid for mid in range(1, self.receive_maximum + 1) if mid not in self.flying)
            self.flying[mid] = self.waiting.pop(0)
            self.unsent.append((mid, self.flying[mid], False))

    def acknowledged(self, mid: int) -> None:
        assert mid in self.flying, "an identifier was acknowledged that is not under way"
        del self.flying[mid]


class Scene:
    """A source's bookkeeping before that broker."""

    def __init__(self, count: int, receive_maximum: int, *, alike: bool) -> None:
        self.broker, self.receipts, self.alike = ModelBroker(receive_maximum, list(range(count))), Receipts(), alike
        self.records: list[int] = []  # by number: the message
        self.answered = 0

    def read(self) -> None:
        self.broker.send()
        if self.broker.unsent:
            mid, message, repeated = self.broker.unsent.pop(0)
            digest = b"same" if self.alike else message.to_bytes(2)
            number = self.receipts.received(mid, digest, repeated=repeated)
            if number is not None:
                assert number == len(self.records)
                self.records.append(message)

    def answer(self) -> None:
        self.answered = len(self.records)

    def turn(self) -> None:
        for mid in self._due():
            self.broker.acknowledged(mid)

    def lose(self) -> None:
        self._due()
        self.connect()

    def connect(self) -> None:
        self.broker.connect()
        self.receipts.connected(session_present=True)

    def _due(self) -> list[int]:
        self.receipts.answer(self.answered)
        mids = self.receipts.due()
        assert not set(mids) & {mid for mid, _, _ in self.broker.unsent}, "acknowledged before it came"
        done = set(self.records[: self.answered])
        assert {self.broker.flying[mid] for mid in mids} <= done, "acknowledged before it was answered"
        return mids


@given(
    steps=st.lists(st.sampled_from(["read", "read", "read", "answer", "turn", "lose", "connect"]), max_size=80),
    receive_maximum=st.integers(1, 4),
    alike=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_every_message_is_answered_whatever_breaks(steps: list[str], receive_maximum: int, alike: bool) -> None:
    count = 12
    scene = Scene(count, receive_maximum, alike=alike)
    for step in ["connect", *steps, "connect", *["read", "answer", "turn"] * 3 * count]:
        getattr(scene, step)()
    assert not scene.broker.flying
    assert not scene.broker.waiting
    assert set(scene.records) == set(range(count))


def test_what_comes_again_unanswered_keeps_its_number_and_is_acknowledged_on_the_new_connection() -> None:
    receipts = Receipts()
    receipts.connected(session_present=False)
    assert [receipts.received(mid, bytes([mid]), repeated=False) for mid in (1, 2, 3)] == [0, 1, 2]
    receipts.connected(session_present=True)
    receipts.answer(2)
    assert receipts.due() == []
    assert [receipts.received(mid, bytes([mid]), repeated=True) for mid in (1, 2, 3)] == [None, None, None]
    assert receipts.due() == [1, 2]
    assert receipts.due() == []
    receipts.answer(3)
    assert receipts.due() == [3]


def test_another_content_under_an_old_identifier_is_a_new_record() -> None:
    receipts = Receipts()
    receipts.connected(session_present=True)
    assert receipts.received(1, b"a", repeated=False) == 0
    receipts.connected(session_present=True)
    assert receipts.received(1, b"b", repeated=True) == 1


def test_a_message_that_is_not_marked_as_repeated_is_new() -> None:
    receipts = Receipts()
    receipts.connected(session_present=True)
    assert receipts.received(1, b"a", repeated=False) == 0
    receipts.connected(session_present=True)
    assert receipts.received(1, b"a", repeated=False) == 1


def test_nothing_is_known_again_once_the_broker_lost_the_session() -> None:
    receipts = Receipts()
    receipts.connected(session_present=True)
    assert receipts.received(1, b"a", repeated=False) == 0
    receipts.connected(session_present=False)
    assert receipts.received(1, b"a", repeated=True) == 1


def test_a_connection_that_breaks_before_all_was_repeated_forgets_nothing() -> None:
    receipts = Receipts()
    receipts.connected(session_present=True)
    for mid in (1, 2):
        receipts.received(mid, b"a", repeated=False)
    receipts.connected(session_present=True)
    assert receipts.received(1, b"a", repeated=True) is None
    receipts.connected(session_present=True)
    assert [receipts.received(mid, b"a", repeated=True) for mid in (1, 2)] == [None, None]


def test_acknowledgements_keep_the_order_of_the_messages() -> None:
    receipts = Receipts()
    receipts.connected(session_present=True)
    for mid in (7, 3, 5):
        receipts.received(mid, b"", repeated=False)
    receipts.answer(3)
    assert receipts.due() == [7, 3, 5]
