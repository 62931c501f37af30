from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError

from anomvae.errors import SettingError, StreamError
from anomvae.observability.logs import Log
from anomvae.streaming.addresses import Credentials, parse_address
from anomvae.streaming.kafka import Cluster, Link, transient

ADDRESS = parse_address("kafka://a:1,b:2/t")
NAMED = Credentials("plant", "hunter2")


def cluster(query: str, credentials: Credentials) -> Cluster:
    return Cluster(parse_address(f"kafka://a:1,b:2/t{query}"), credentials)


@pytest.mark.parametrize(
    ("query", "credentials", "expected"),
    [
        ("", Credentials(), {"security.protocol": "plaintext"}),
        ("", Credentials(ca_file=Path("ca.pem")), {"security.protocol": "ssl", "ssl.ca.location": "ca.pem"}),
        (
            "",
            NAMED,
            {
                "security.protocol": "sasl_ssl",
                "sasl.mechanism": "SCRAM-SHA-512",
                "sasl.username": "plant",
                "sasl.password": "hunter2",
            },
        ),
        (
            "?security=sasl_plaintext&sasl=plain",
            NAMED,
            {
                "security.protocol": "sasl_plaintext",
                "sasl.mechanism": "PLAIN",
                "sasl.username": "plant",
                "sasl.password": "hunter2",
            },
        ),
        (
            "?security=ssl",
            Credentials(cert_file=Path("c"), key_file=Path("k"), key_password="p"),  # noqa: S106
            {
                "security.protocol": "ssl",
                "ssl.certificate.location": "c",
                "ssl.key.location": "k",
                "ssl.key.password": "p",
            },
        ),
    ],
)
def test_security_follows_from_the_address_and_the_credentials(
    query: str, credentials: Credentials, expected: dict[str, Any]
) -> None:
    settings = cluster(query, credentials).settings({})
    assert {name: value for name, value in settings.items() if name.startswith(("security", "sasl", "ssl"))} == expected
    assert settings["bootstrap.servers"] == "a:1,b:2"


@pytest.mark.parametrize(
    ("query", "credentials", "says"),
    [
        ("?security=sasl_ssl", Credentials(), "needs a user and a password"),
        ("?security=sasl_ssl", Credentials("plant"), "needs a user and a password"),
        ("?security=plaintext", NAMED, "names none"),
        ("?security=sasl_plaintext", Credentials("plant", "hunter2", Path("ca")), "TLS files"),
        ("?security=tls", Credentials(), "must be one of plaintext, ssl"),
        ("?sasl=plain", Credentials(), "sasl means nothing"),
        ("?sasl=md5", NAMED, "must be one of plain, scram"),
    ],
)
def test_contradictions_are_refused_without_showing_secrets(query: str, credentials: Credentials, says: str) -> None:
    with pytest.raises(SettingError, match=says) as refused:
        cluster(query, credentials).settings({})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["bootstrap.servers", "enable.idempotence", "group.protocol", "error_cb", "security.protocol"]
)
def test_what_anomvae_decides_cannot_be_set_beside_it(name: str) -> None:
    with pytest.raises(SettingError, match="itself decides"):
        Cluster(ADDRESS, client={name: "x"}).settings({"enable.idempotence": True})


def test_further_settings_of_the_client_are_passed_on() -> None:
    settings = Cluster(ADDRESS, client={"linger.ms": "1", "sasl.kerberos.service.name": "kafka"}).settings(
        {"linger.ms": 50}
    )
    assert (settings["linger.ms"], settings["sasl.kerberos.service.name"]) == ("1", "kafka")


@pytest.mark.parametrize("code", [KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT])
def test_a_connection_that_goes_and_comes_is_told_once_each(code: int) -> None:
    told = io.StringIO()
    link = Link(ADDRESS, Log(told))
    seen = []
    for answered in (False, False, False, True, True):
        if answered:
            link.met()
        else:
            link.heed(KafkaError(code))
        link.check()
        seen.append(link.up)
    assert seen == [False, False, False, True, True]
    assert [line.split('"event":"')[1].split('"')[0] for line in told.getvalue().splitlines()] == [
        "kafka unreachable",
        "kafka connected again",
    ]


def test_a_fatal_error_ends_the_stream() -> None:
    link = Link(ADDRESS, Log(io.StringIO()))
    link.met()
    link.heed(KafkaError(KafkaError._FATAL, "it is\nover", fatal=True))
    with pytest.raises(StreamError, match=r"kafka://a:1,b:2/t: it is over \(_FATAL\)"):
        link.check()


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (KafkaError._AUTHENTICATION, "check security, user, password"),
        (KafkaError._SSL, "certificates"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "create the topic"),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, "access rules"),
        (KafkaError.INCONSISTENT_GROUP_PROTOCOL, "another group"),
    ],
)
def test_a_refusal_ends_a_stream_that_never_began_and_no_other(code: int, advice: str) -> None:
    began, never = (Link(ADDRESS, Log(io.StringIO())) for _ in range(2))
    began.met()
    began.heed(KafkaError(code))
    assert not began.up
    began.check()
    never.heed(KafkaError(code))
    with pytest.raises(StreamError, match=advice):
        never.check()


def test_what_waiting_may_mend() -> None:
    assert transient(KafkaError(KafkaError._TIMED_OUT))
    assert transient(KafkaError(KafkaError.UNKNOWN, retriable=True))
    assert not transient(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))
