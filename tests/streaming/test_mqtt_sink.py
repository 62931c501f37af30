from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from anomvae.errors import StreamError
from anomvae.streaming.contracts import Outgoing
from anomvae.streaming.mqtt import BackOff, MqttBroker, MqttPublication
from tests.streaming.mosquitto import HOST, needs_mosquitto, peer, running, scripted, wait_until, wired

pytest.importorskip("paho.mqtt.client")
from anomvae.streaming.mqtt_sink import MqttSink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.streaming.mosquitto import Mosquitto

QUICK = BackOff(0.02, 0.1)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with running(tmp_path / "broker") as it:
        yield it


def open_sink(port: int, topic: str = "out/{key}", **wishes: Any) -> MqttSink:
    return MqttSink(MqttBroker(HOST, port, back_off=QUICK), MqttPublication(topic, **wishes))


def messages(count: int, start: int = 0, key: bytes | None = b"press") -> list[Outgoing]:
    return [Outgoing(b"%d" % (start + i), key=key) for i in range(count)]


@needs_mosquitto
def test_messages_come_in_order_by_topic_with_headers(broker: Mosquitto) -> None:
    sink = open_sink(broker.port)
    with peer(broker.port, "out/#") as reader:
        sink.send([Outgoing(b"1", b"press #7", (("origin", b"in/a"), ("reason", b"\xff"))), Outgoing(b"2")])
        sink.send(messages(500))
        sink.flush()
        first, second, *rest = reader.hear(502)
    assert first == ("out/press %237", b"1", (("origin", "in/a"), ("reason", "�")))
    assert second == ("out/-", b"2", ())
    assert [heard.payload for heard in rest] == [b"%d" % i for i in range(500)]
    assert sink.healthy
    sink.close()


@needs_mosquitto
def test_a_retained_message_is_there_for_who_comes_later(broker: Mosquitto) -> None:
    sink = open_sink(broker.port, "last", retain=True)
    sink.send(messages(3))
    sink.close()
    with peer(broker.port, "last") as late:
        assert late.hear(1)[0].payload == b"2"


@needs_mosquitto
def test_nothing_is_lost_when_the_broker_restarts_while_messages_are_under_way(broker: Mosquitto) -> None:
    with peer(broker.port, "out/#") as reader:
        sink = open_sink(broker.port, queued=200)
        done = threading.Event()

        def disturb() -> None:
            for _ in range(4):
                if done.wait(0.1):
                    return
                broker.restart()

        disturber = threading.Thread(target=disturb)
        disturber.start()
        try:
            for start in range(0, 6000, 50):
                sink.send(messages(50, start))
            sink.flush()
        finally:
            done.set()
            disturber.join()
        sink.close()
        seen: set[int] = set()
        while len(seen) < 6000:
            seen |= {int(heard.payload) for heard in reader.hear(1)}
    assert seen == set(range(6000))


@needs_mosquitto
def test_nothing_is_lost_or_out_of_order_when_connections_are_cut(broker: Mosquitto) -> None:
    with wired(broker.port) as wire, peer(broker.port, "out/#") as reader:
        sink = open_sink(wire.port, in_flight=30)
        for start in range(0, 3000, 100):
            sink.send(messages(100, start))
            wait_until(lambda: sink._unacknowledged or not sink._outstanding(), "some are under way")
            wire.cut()
        sink.close()
        wait_until(lambda: sink.healthy is False, "it has left")
        seen = [int(heard.payload) for heard in reader.hear(3000)]
        while set(seen) != set(range(3000)):
            seen.append(int(reader.hear(1)[0].payload))
    firsts = list(dict.fromkeys(seen))
    assert firsts == sorted(firsts)  # repeats aside, an asset's answers keep their order


@pytest.mark.parametrize("swallow", [1, 3, 5])
def test_what_was_not_acknowledged_is_sent_again_in_order_on_the_next_connection(swallow: int) -> None:
    with scripted(swallow=swallow) as broker:
        sink = open_sink(broker.port, in_flight=5)
        sink.send(messages(12))
        sink.flush()
        sink.close()
        first, second = broker.payloads
    assert first == [b"%d" % i for i in range(swallow)]
    assert second == [b"%d" % i for i in range(12)]


@needs_mosquitto
def test_never_more_in_flight_than_the_broker_takes(tmp_path: Path) -> None:
    with running(tmp_path / "broker", ["max_inflight_messages 7"]) as broker:
        sink = open_sink(broker.port)
        assert sink._window == 7
        sink.send(messages(300))
        most = 0
        while sink._outstanding():
            most = max(most, len(sink._unacknowledged))
        sink.close()
    assert most <= 7


def test_sending_blocks_while_too_many_wait() -> None:
    with scripted(puback=None) as broker:
        sink = open_sink(broker.port, queued=10, give_up_s=0.3)
        sink.send(messages(10))
        with pytest.raises(StreamError, match=r"acknowledged nothing for 0\.3 seconds"):
            sink.send(messages(1))
        with pytest.raises(StreamError, match="acknowledged nothing"):
            sink.flush()
        sink.close()


@needs_mosquitto
def test_a_broker_that_stays_away_is_waited_for_as_long_as_it_takes(broker: Mosquitto) -> None:
    sink = open_sink(broker.port, give_up_s=0.5)
    with peer(broker.port, "out/#") as reader:
        broker.stop()
        sink.send(messages(1))
        back = threading.Timer(2.0, broker.start)
        back.start()
        sink.flush()
        back.join()
        assert sink.healthy
        assert reader.hear(1)[0].payload == b"0"
    sink.close()


@needs_mosquitto
def test_a_topic_that_may_not_be_written_to_fails_the_flush_in_one_sentence(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic write allowed\n")
    with running(tmp_path / "broker", [f"acl_file {rules}"]) as broker:
        sink = open_sink(broker.port, "{key}")
        sink.send(messages(1, key=b"allowed"))
        sink.flush()
        sink.send(messages(1, key=b"forbidden"))
        with pytest.raises(StreamError, match=r"refuses a message: not authorized; check user"):
            sink.flush()
        sink.close()


@needs_mosquitto
def test_a_message_larger_than_the_broker_takes_fails_in_one_sentence(tmp_path: Path) -> None:
    with running(tmp_path / "broker", ["max_packet_size 2000"]) as broker:
        sink = open_sink(broker.port)
        sink.send([Outgoing(bytes(1900), key=b"a")])
        sink.flush()
        sink.send([Outgoing(bytes(2000), key=b"a")])
        with pytest.raises(StreamError, match="exceeds the 2000 that the broker takes"):
            sink.flush()
        sink.close()


@needs_mosquitto
def test_a_message_larger_than_the_brokers_limit_of_payloads_fails(tmp_path: Path) -> None:
    with running(tmp_path / "broker", ["message_size_limit 1000"]) as broker:
        sink = open_sink(broker.port, give_up_s=1.0)
        sink.send([Outgoing(bytes(2000), key=b"a")])
        with pytest.raises(StreamError, match="a message is too large"):
            sink.flush()
        sink.close()


@pytest.mark.parametrize("reason", [0x97, 0x87, 0x90, 0x99, 0x80])
def test_every_refused_message_fails_the_flush(reason: int) -> None:
    with scripted(puback=reason) as broker:
        sink = open_sink(broker.port)
        sink.send(messages(3))
        with pytest.raises(StreamError, match=r"refuses a message: .*; "):
            sink.flush()
        sink.close()


def test_no_subscriber_is_no_failure() -> None:
    with scripted(puback=0x10) as broker:
        sink = open_sink(broker.port)
        sink.send(messages(3))
        sink.flush()
        sink.close()


def test_closing_tells_a_failure_that_nobody_has_heard_of() -> None:
    with scripted(puback=0x97) as broker:
        sink = open_sink(broker.port)
        sink.send(messages(3))
        with pytest.raises(StreamError, match="quota exceeded"):
            sink.close()


@needs_mosquitto
def test_a_topic_too_long_for_the_protocol_fails(broker: Mosquitto) -> None:
    sink = open_sink(broker.port, f"{'a' * 65_000}/{{key}}")
    with pytest.raises(StreamError, match="65535 bytes"):
        sink.send([Outgoing(b"", key=b"a" * 800)])
    sink.close()


@needs_mosquitto
def test_no_key_and_no_header_ends_the_connection(broker: Mosquitto) -> None:
    sink = open_sink(broker.port, "{key}", give_up_s=10.0)
    headers = (("a", b"\0\x01"), ("b", b"x" * 70_000), ("c", "\uffff".encode()))
    keys = [b"press\x01", b"$SYS/press", b"x" * 70_000, b"/" * 500, "\uffff".encode(), b"\n"]
    with peer(broker.port, "#") as reader:
        sink.send([Outgoing(b"%d" % i, key, headers) for i, key in enumerate(keys)])
        sink.flush()
        assert sorted(heard.payload for heard in reader.hear(len(keys))) == [b"%d" % i for i in range(len(keys))]
    sink.close()


@needs_mosquitto
def test_of_a_message_larger_than_the_broker_takes_its_brief_form_is_sent(tmp_path: Path) -> None:
    with running(tmp_path / "small", ["max_packet_size 2000"]) as broker:
        sink = open_sink(broker.port, "out")
        with peer(broker.port, "out") as reader:
            sink.send([Outgoing(b"1"), Outgoing(b"x" * 5_000, brief=Outgoing(b"brief")), Outgoing(b"2")])
            sink.flush()
            assert [heard.payload for heard in reader.hear(3)] == [b"1", b"brief", b"2"]
        sink.close()
