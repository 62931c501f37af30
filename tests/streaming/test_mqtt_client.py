from __future__ import annotations

import base64
import datetime as dt
import hashlib
import ipaddress
import json
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from anomvae.errors import AnomvaeError, SettingError, StreamError
from anomvae.streaming.contracts import Outgoing
from anomvae.streaming.mqtt import BackOff, MqttBroker, MqttPublication, MqttSubscription, MqttTls
from tests.streaming.mosquitto import HOST, free_port, needs_mosquitto, peer, running, scripted, wait_until

pytest.importorskip("paho.mqtt.client")
from anomvae.streaming import mqtt_client
from anomvae.streaming.mqtt_sink import MqttSink
from anomvae.streaming.mqtt_source import MqttSource

if TYPE_CHECKING:
    import io
    from pathlib import Path
    from random import Random

    from anomvae.observability.logs import Log

QUICK = BackOff(0.02, 0.1)
SUBSCRIPTION = MqttSubscription("in/#", "reader")


def at(port: int, **settings: Any) -> MqttBroker:
    return MqttBroker(HOST, port, **{"back_off": QUICK, "patience_s": 10.0, **settings})


def failure(source: MqttSource) -> AnomvaeError | None:
    try:
        source.poll(1, 0.0)
    except AnomvaeError as error:
        return error
    return None


def write_certificate(folder: Path, name: str = HOST) -> tuple[Path, Path]:
    """A certificate that signed itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


def password_line(user: str, password: str) -> str:
    """A line of Mosquitto's password file."""
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"{user}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"


@needs_mosquitto
def test_records_and_answers_pass_through_tls(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    lines = [f"certfile {certificate}", f"keyfile {key}", f"cafile {certificate}", "require_certificate true"]
    with running(tmp_path / "broker", listener=lines) as broker:
        there = at(broker.port, tls=MqttTls(authority=certificate, certificate=certificate, key=key))
        source, sink = MqttSource(there, SUBSCRIPTION), MqttSink(there, MqttPublication("in/{key}"))
        sent = [Outgoing(bytes(3000) + b"%d" % i, key=b"press") for i in range(300)]
        sink.send(sent)
        sink.flush()
        wait_until(lambda: sum(source.lag().values()) == 300, "all have come")
        assert [record.payload for record in source.poll(1000, 1.0).records] == [message.payload for message in sent]
        source.close()
        sink.close()


@needs_mosquitto
def test_a_certificate_that_is_not_trusted_or_not_the_hosts_is_refused_in_one_sentence(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path, "127.0.0.9")
    with running(tmp_path / "broker", listener=[f"certfile {certificate}", f"keyfile {key}"]) as broker:
        with pytest.raises(SettingError, match="give the file of the authority"):
            MqttSource(at(broker.port, tls=MqttTls()), SUBSCRIPTION)
        with pytest.raises(SettingError, match=r"not accepted .*mismatch"):
            MqttSource(at(broker.port, tls=MqttTls(authority=certificate)), SUBSCRIPTION)


def test_a_tls_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no certificate")
    certificate, _ = write_certificate(tmp_path)
    for tls, said in [
        (MqttTls(authority=tmp_path / "none.pem"), r"none\.pem cannot be used for TLS: it is missing"),
        (MqttTls(authority=wrong), r"wrong\.pem cannot be used for TLS: it is not the PEM"),
        (MqttTls(certificate=certificate), rf"{certificate.name} cannot be used for TLS: it is not the PEM"),
    ]:
        with pytest.raises(SettingError, match=said):
            MqttSource(at(1883, tls=tls), SUBSCRIPTION)


@needs_mosquitto
def test_a_wrong_password_is_refused_in_one_sentence_that_does_not_tell_it(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text(password_line("reader", "right"))
    with running(tmp_path / "broker", ["allow_anonymous false", f"password_file {passwords}"]) as broker:
        right, wrong = ({"user": "reader", "password": word} for word in ("right", "wrong"))
        source = MqttSource(at(broker.port, **right), SUBSCRIPTION)
        assert source.healthy
        source.close()
        for there in (at(broker.port, **wrong), at(broker.port)):
            with pytest.raises(SettingError, match=r"check user, password.*") as caught:
                MqttSource(there, SUBSCRIPTION)
            assert "wrong" not in str(caught.value)
            assert "\n" not in str(caught.value)
            with pytest.raises(SettingError, match="check user, password"):
                MqttSink(there, MqttPublication("out"))


def test_no_broker_at_all_is_told_after_the_patience() -> None:
    with pytest.raises(StreamError, match=r"no MQTT broker answers at .* \(connection refused\)"):
        MqttSource(at(free_port(), patience_s=0.5), SUBSCRIPTION)
    with pytest.raises(StreamError, match="no MQTT broker answers"):
        MqttSource(MqttBroker("nowhere.invalid", patience_s=0.5, back_off=QUICK), SUBSCRIPTION)


@needs_mosquitto
def test_a_broker_that_starts_late_is_waited_for(tmp_path: Path) -> None:
    with running(tmp_path / "broker") as broker:
        broker.stop()
        starter = threading.Timer(0.3, broker.start)
        starter.start()
        source = MqttSource(at(broker.port), SUBSCRIPTION)
        starter.join()
        assert source.healthy
        source.close()


@pytest.mark.parametrize("reason", [0x88, 0x89, 0x97, 0x9F, 0x80])
def test_a_busy_broker_is_asked_again(reason: int) -> None:
    with scripted(connack=(reason, reason, 0)) as broker:
        source = MqttSource(at(broker.port), SUBSCRIPTION)
        assert broker.connections == 3
        source.close()


@pytest.mark.parametrize("reason", [0x84, 0x85, 0x86, 0x87, 0x8A, 0x95, 0x9B])
def test_a_refused_connection_is_not_tried_again(reason: int) -> None:
    with scripted(connack=(reason,)) as broker:
        with pytest.raises(SettingError, match=r"refuses the connection: .*; "):
            MqttSource(at(broker.port), SUBSCRIPTION)
        assert broker.connections == 1


@pytest.mark.parametrize("reason", [0x87, 0x8F, 0x97, 0x9E, 0xA2])
def test_a_refused_filter_is_not_tried_again(reason: int) -> None:
    with scripted(suback=reason) as broker:
        with pytest.raises(SettingError, match=r"refuses the subscription: .*; "):
            MqttSource(at(broker.port), SUBSCRIPTION)
        assert broker.connections == 1


def test_less_than_was_asked_for_is_refused() -> None:
    with scripted(suback=0) as broker, pytest.raises(SettingError, match="QoS 0 only"):
        MqttSource(at(broker.port), SUBSCRIPTION)


def test_a_client_that_takes_the_name_ends_the_stream_in_one_sentence() -> None:
    with scripted(goodbye=0x8E) as broker:
        source = MqttSource(at(broker.port), SUBSCRIPTION)
        wait_until(lambda: failure(source) is not None, "the source is told")
        assert isinstance(failure(source), StreamError)
        assert "another client uses this client id" in str(failure(source))
        assert broker.connections == 1
        source.close()


def test_a_broker_that_restarts_is_connected_to_again() -> None:
    with scripted(goodbye=0x8B) as broker:
        source = MqttSource(at(broker.port), SUBSCRIPTION)
        wait_until(lambda: broker.connections >= 3, "it came back")
        assert failure(source) is None
        source.close()


class NotedBackOff(BackOff):
    """Notes after how many failures it is asked for a pause."""

    attempts: ClassVar[list[int]] = []

    def pause_s(self, attempt: int, random: Random) -> float:
        self.attempts.append(attempt)
        return BackOff.pause_s(self, attempt, random) / 1000.0


@pytest.mark.parametrize(("longest_s", "attempts"), [(60.0, [1, 2, 3, 4]), (1e-6, [0, 0, 0, 0])])
def test_pauses_grow_unless_a_connection_has_stood(longest_s: float, attempts: list[int]) -> None:
    NotedBackOff.attempts.clear()
    with scripted(goodbye=0x8B) as broker:
        source = MqttSource(at(broker.port, back_off=NotedBackOff(1e-6, longest_s)), SUBSCRIPTION)
        wait_until(lambda: len(NotedBackOff.attempts) >= 4, "it was lost often enough")
        source.close()
    assert NotedBackOff.attempts[:4] == attempts


@needs_mosquitto
def test_two_readers_of_one_name_slow_down_and_say_so(tmp_path: Path) -> None:
    with running(tmp_path / "broker") as broker:
        sources = [MqttSource(at(broker.port), SUBSCRIPTION) for _ in range(2)]
        wait_until(lambda: any("client id" in str(source.trouble) for source in sources), "they notice")
        for source in sources:
            source.close()


def events(told: io.StringIO) -> list[dict[str, Any]]:
    return [{**json.loads(line), "time": ""} for line in told.getvalue().splitlines()]


@needs_mosquitto
@pytest.mark.parametrize("end", ["source", "sink"])
def test_a_connection_that_goes_and_comes_is_told_once_each(
    tmp_path: Path, log: Log, told: io.StringIO, end: str
) -> None:
    with running(tmp_path / "broker") as broker:
        there = at(broker.port)
        link: MqttSource | MqttSink
        link = MqttSource(there, SUBSCRIPTION, log) if end == "source" else MqttSink(there, MqttPublication("out"), log)
        for _ in range(2):
            broker.stop()
            wait_until(lambda: link.trouble == "connection refused", "several attempts have failed")
            broker.start()
            wait_until(lambda: link.healthy, "it is back")
        link.close()
    named = {"client_id": "reader"} if end == "source" else {}
    lost = {"level": "warning", "event": "mqtt unreachable", "address": f"{HOST}:{broker.port}", **named}
    found = [{**event, "reason": "", "time": ""} for event in events(told)]
    back = {**lost, "level": "info", "event": "mqtt connected again"}
    assert found == [{**each, "time": "", "reason": ""} for each in (lost, back) * 2]
    assert events(told)[0]["reason"] in ("connection lost", "server shutting down")


@needs_mosquitto
def test_a_fight_for_a_client_id_is_told_with_its_likely_cause(tmp_path: Path, log: Log, told: io.StringIO) -> None:
    with running(tmp_path / "broker") as broker:
        sources = [MqttSource(at(broker.port), SUBSCRIPTION, log) for _ in range(2)]
        wait_until(lambda: "another client uses the client id" in told.getvalue(), "it is told")
        for source in sources:
            source.close()
    lost = [event for event in events(told) if event["event"] == "mqtt unreachable"]
    assert lost[0]["reason"] == "connection lost", "once is chance"
    assert {event["client_id"] for event in lost} == {"reader"}


def test_a_stop_ends_the_wait_for_the_first_connection() -> None:
    stopping = threading.Event()
    threading.Timer(0.3, stopping.set).start()
    began_s = time.monotonic()
    there = at(free_port(), patience_s=30.0)
    source = MqttSource(there, SUBSCRIPTION, stopping=stopping.is_set)
    sink = MqttSink(there, MqttPublication("out"), stopping=stopping.is_set)
    assert not source.healthy
    source.close()
    sink.close()
    assert time.monotonic() - began_s < 10.0


def test_a_connection_that_never_speaks_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_client, "CONNECT_S", 0.2)
    with socket.create_server((HOST, 0)) as mute, pytest.raises(StreamError, match="does not speak MQTT"):
        MqttSource(at(mute.getsockname()[1], patience_s=1.5), SUBSCRIPTION)


@needs_mosquitto
def test_closing_while_the_broker_is_away_does_not_hang(tmp_path: Path) -> None:
    with running(tmp_path / "broker") as broker, peer(broker.port) as publisher:
        source = MqttSource(at(broker.port, back_off=BackOff(60.0, 60.0)), SUBSCRIPTION)
        publisher.publish("in/a", b"{}")
        wait_until(lambda: sum(source.lag().values()) == 1, "a record waits")
        broker.stop()
        wait_until(lambda: not source.healthy, "the loss is noticed")
        assert len(source.poll(10, 0.0).records) == 1
        source.close()  # the pause would last a minute
        assert not source.healthy
