from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomvae.errors import SettingError
from anomvae.streaming.mqtt import (
    FORBIDDEN,
    BackOff,
    MqttBroker,
    MqttPublication,
    MqttSubscription,
    MqttTls,
    session_name,
)


@given(attempt=st.integers(0, 10_000), seed=st.integers(0, 99))
def test_pauses_double_up_to_the_longest_and_jitter_takes_at_most_half(attempt: int, seed: int) -> None:
    full = min(30.0, 0.5 * 2.0 ** min(attempt, 20))
    assert full / 2 <= BackOff(0.5, 30.0).pause_s(attempt, random.Random(seed)) <= full


@given(key=st.binary(max_size=50))
def test_no_key_makes_a_topic_that_nothing_can_be_written_to(key: bytes) -> None:
    topic = MqttPublication("alarms/{key}/now").topic_of(key)
    assert topic.startswith("alarms/")
    assert not set(topic) & set("+#\0")


@given(name=st.text(max_size=20), times=st.integers(1, 5_000))
def test_no_key_makes_a_topic_for_which_a_broker_ends_the_connection(name: str, times: int) -> None:
    topic = MqttPublication("{key}/now").topic_of((name * times).encode("utf-8", "replace"))
    assert FORBIDDEN.search(topic) is None
    assert not topic.startswith("$")
    assert len(topic.encode()) <= 4_100
    assert topic.count("/") <= 33


def test_different_keys_have_different_topics() -> None:
    publication = MqttPublication("alarms/{key}")
    keys = [
        b"a+",
        b"a#",
        b"a%2B",
        b"a",
        b"a/b",
        b"-+",
        b"$a",
        b"%24a",
        b"a\x01",
        b"x" * 5000,
        b"x" * 5001,
        b"/" * 99,
        b"/" * 98,
    ]
    assert len({publication.topic_of(key) for key in keys}) == len(keys)


def test_a_message_without_a_key_has_a_dash_for_it() -> None:
    assert MqttPublication("alarms/{key}").topic_of(None) == "alarms/-"


def test_a_fixed_topic_is_the_same_for_all() -> None:
    assert MqttPublication("alarms").topic_of(b"press") == "alarms"


@pytest.mark.parametrize(
    ("level", "key"),
    [
        (None, "plant/press/t"),
        (0, "plant"),
        (1, "press"),
        (-1, "t"),
        (-3, "plant"),
        (3, "plant/press/t"),
        (-4, "plant/press/t"),
    ],
)
def test_a_level_of_the_topic_is_the_key(level: int | None, key: str) -> None:
    assert MqttSubscription("plant/#", "reader", asset_level=level).key_of("plant/press/t") == key


def test_a_group_reads_through_a_shared_subscription() -> None:
    assert MqttSubscription("plant/#", "reader", group="scorers").subscribed == "$share/scorers/plant/#"


def test_a_password_is_not_shown() -> None:
    given = {"user": "me", "password": "secret"}
    assert "secret" not in repr(MqttBroker("localhost", **given))  # type: ignore[arg-type]


@pytest.mark.parametrize("topic_filter", ["a", "a/b", "#", "+", "a/+/b/#", "/a", "$SYS/broker", "+/+"])
def test_a_good_filter_is_taken(topic_filter: str) -> None:
    assert MqttSubscription(topic_filter, "reader").subscribed == topic_filter


@pytest.mark.parametrize(
    "topic_filter", ["", "a#", "a/b#", "#/a", "a/#/b", "a+/b", "+a", "a\0b", "$share/scorers/a", "a" * 70_000]
)
def test_a_bad_filter_is_refused(topic_filter: str) -> None:
    with pytest.raises(SettingError, match="MQTT"):
        MqttSubscription(topic_filter, "reader")


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        (MqttBroker, {"host": ""}, "needs a host"),
        (MqttBroker, {"host": "b", "port": 0}, "port"),
        (MqttBroker, {"host": "b", "port": 65536}, "port"),
        (MqttBroker, {"host": "b", "password": "x"}, "without a user"),
        (MqttBroker, {"host": "b", "keepalive_s": 0}, "keep-alive"),
        (MqttTls, {"key": Path("key.pem")}, "without its certificate"),
        (BackOff, {"first_s": 0.0}, "pause"),
        (BackOff, {"first_s": 2.0, "most_s": 1.0}, "pause"),
        (MqttSubscription, {"topic_filter": "a", "client_id": ""}, "client id"),
        (MqttSubscription, {"topic_filter": "a", "client_id": "r", "qos": 2}, "QoS 0 or 1"),
        (MqttSubscription, {"topic_filter": "a", "client_id": "r", "group": "a/b"}, "shared"),
        (MqttSubscription, {"topic_filter": "a", "client_id": "r", "group": ""}, "shared"),
        (MqttSubscription, {"topic_filter": "a", "client_id": "r", "receive_maximum": 0}, "receive maximum"),
        (MqttSubscription, {"topic_filter": "a", "client_id": "r", "session_expiry_s": -1}, "expiry"),
        (MqttSubscription, {"topic_filter": "a", "client_id": "r", "status_topic": "s/#"}, "status topic"),
        (MqttPublication, {"topic": "a/#"}, "topic to write to"),
        (MqttPublication, {"topic": ""}, "topic to write to"),
        (MqttPublication, {"topic": "a/{asset}"}, "placeholder"),
        (MqttPublication, {"topic": "a", "in_flight": 0}, "in flight"),
        (MqttPublication, {"topic": "a", "queued": 0}, "wait"),
        (MqttPublication, {"topic": "a", "give_up_s": 0.0}, "undeliverable"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_sentence(kind: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=re.escape(said)) as caught:
        kind(**settings)
    assert "\n" not in str(caught.value)


def test_a_session_keeps_its_name_and_another_filter_has_another() -> None:
    assert session_name("anomvae-pumps", "a/+") == session_name("anomvae-pumps", "a/+")
    names = {
        session_name(name, topics) for name in ("anomvae-pumps", "anomvae-fans") for topics in ("a/+", "b/+", "a/#")
    }
    assert len(names) == 6
