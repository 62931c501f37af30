from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomvae.errors import SettingError
from anomvae.streaming.addresses import Address, Credentials, End, Host, parse_address, read_credentials

if TYPE_CHECKING:
    from pathlib import Path

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=12)
SECRET = "hunter2"  # noqa: S105
HOSTS = st.builds(Host, NAMES | st.sampled_from(["[::1]", "127.0.0.1", "kafka-0.kafka.svc"]), st.integers(1, 65535))


@given(
    hosts=st.lists(HOSTS, min_size=1, max_size=4),
    topic=st.from_regex(r"[A-Za-z0-9_-]{1,30}", fullmatch=True),
    group=st.text(min_size=1),
)
def test_an_address_of_kafka_is_read_as_it_was_written(hosts: list[Host], topic: str, group: str) -> None:
    text = f"kafka://{','.join(map(str, hosts))}/{topic}"
    address = parse_address(f"{text}?group={quote(group, safe='')}&security=ssl")
    assert address == Address("kafka", topic, tuple(hosts), options={"group": group, "security": "ssl"})
    assert str(address) == text


@given(filter_=st.text(min_size=1).filter(lambda text: "\0" not in text), user=NAMES, tls=st.booleans())
def test_an_address_of_mqtt_is_read_as_it_was_written(filter_: str, user: str, tls: bool) -> None:
    scheme, port = ("mqtts", 8883) if tls else ("mqtt", 1883)
    address = parse_address(f"{scheme}://{user}@broker/{quote(filter_, safe='/#+$')}")
    assert address == Address("mqtt", filter_, (Host("broker", port),), tls, user)


@pytest.mark.parametrize("name", ["records.jsonl", "/var/in?put.jsonl", "./a%20b", "C:\\data\\x.jsonl", "kafka"])
def test_a_path_is_taken_as_it_is(name: str) -> None:
    assert parse_address(name) == Address("file", name)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("-", Address("pipe")),
        ("file:///var/a%20b.jsonl", Address("file", "/var/a b.jsonl")),
        ("file://localhost/var/a", Address("file", "/var/a")),
        ("KAFKA://h/t", Address("kafka", "t", (Host("h", 9092),))),
        ("mqtt://h:1884//absolute/#", Address("mqtt", "/absolute/#", (Host("h", 1884),))),
        ("mqtt://h/what%3F?client-id=a", Address("mqtt", "what?", (Host("h", 1883),), options={"client_id": "a"})),
    ],
)
def test_other_ways_to_write_one(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("http://h/t", "http://"),
        ("kafka://h", "no topic"),
        ("kafka:///t", "no server"),
        ("kafka://h:0/t", "no server"),
        ("kafka://h:70000/t", "no server"),
        ("kafka://h,/t", "no server"),
        ("kafka://h/t/u", "no topic"),
        ("kafka://h/..", "no topic"),
        ("kafka://h/t?group", "name=value"),
        ("kafka://h/t?group=", "name=value"),
        ("kafka://h/t?group=a&group=b", "twice"),
        ("mqtt://a,b/t", "one server"),
        ("mqtt://a", "no filter"),
        ("file://elsewhere/t", "no host"),
        ("file:///", "names none"),
    ],
)
def test_what_is_no_address_is_refused_with_a_sentence(text: str, says: str) -> None:
    with pytest.raises(SettingError, match=says):
        parse_address(text)


@pytest.mark.parametrize("scheme", ["kafka", "mqtt", "mqtts"])
def test_a_password_in_an_address_is_refused_and_not_shown(scheme: str) -> None:
    with pytest.raises(SettingError, match="PASSWORD") as refused:
        parse_address(f"{scheme}://plant:hunter2@host/t")
    assert "hunter2" not in str(refused.value)
    assert "plant" not in str(refused.value)


@pytest.mark.parametrize("name", ["password", "sasl_password", "secret", "token", "pwd"])
def test_a_password_among_the_options_is_refused_and_not_shown(name: str) -> None:
    address = parse_address(f"kafka://host/t?{name}=hunter2")
    with pytest.raises(SettingError, match="ANOMVAE_KAFKA_PASSWORD") as refused:
        address.allow(("group",), "a source")
    assert "hunter2" not in str(refused.value)


def test_an_unknown_option_is_refused_with_the_nearest() -> None:
    with pytest.raises(SettingError, match=r"'grupo'.*did you mean group"):
        parse_address("kafka://h/t?grupo=a").allow(("group", "start"), "a source")


def test_users_options_and_secrets_are_not_shown() -> None:
    address = parse_address("mqtts://plant@h/t?client_id=x")
    assert str(address) == "mqtts://h:8883/t"
    shown = repr(Credentials("u", "hunter2", key_password="hunter3"))  # noqa: S106
    assert "hunter" not in shown


@pytest.mark.parametrize(
    ("environment", "config", "end", "password"),
    [
        ({}, {}, None, None),
        ({"ANOMVAE_KAFKA_PASSWORD": "all"}, {}, "from", "all"),
        ({"ANOMVAE_KAFKA_PASSWORD": "all", "ANOMVAE_FROM_PASSWORD": "one"}, {}, "from", "one"),
        ({"ANOMVAE_KAFKA_PASSWORD": "all", "ANOMVAE_FROM_PASSWORD": "one"}, {}, "to", "all"),
        ({"ANOMVAE_DEAD_LETTER_PASSWORD": "dead"}, {}, "dead-letter", "dead"),
        ({"ANOMVAE_MQTT_PASSWORD": "other kind"}, {"password": "config"}, "from", "config"),
        ({"ANOMVAE_KAFKA_PASSWORD": "all"}, {"password": "config"}, "from", "all"),
        ({"ANOMVAE_KAFKA_PASSWORD": ""}, {"password": "config"}, "from", "config"),
        ({"ANOMVAE_KAFKA_PASSWORD": "all"}, {"password_file": "missing"}, "from", "all"),
    ],
)
def test_the_nearest_word_about_a_secret_counts(
    environment: dict[str, str], config: dict[str, str], end: End | None, password: str | None
) -> None:
    assert read_credentials(parse_address("kafka://h/t"), environment, config, end).password == password


def test_a_secret_may_lie_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n", encoding="utf-8")
    address = parse_address("kafka://h/t")
    assert read_credentials(address, {"ANOMVAE_KAFKA_PASSWORD_FILE": str(file)}).password == SECRET
    assert read_credentials(address, {}, {"password_file": str(file)}).password == SECRET


def test_a_user_in_the_address_comes_first() -> None:
    environment = {"ANOMVAE_MQTT_USER": "variable"}
    assert read_credentials(parse_address("mqtt://plant@h/t"), environment).user == "plant"
    assert read_credentials(parse_address("mqtt://h/t"), environment).user == "variable"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"ca_file": "/no/such/ca.pem"}, "ca_file.*not a file"),
        ({"password_file": "/no/such/password"}, "cannot be read"),
        ({"pasword": "hunter2"}, "unknown key 'pasword'.*password"),
    ],
)
def test_credentials_that_cannot_be_are_refused(config: dict[str, str], says: str) -> None:
    with pytest.raises(SettingError, match=says) as refused:
        read_credentials(parse_address("kafka://h/t"), {}, config)
    assert "hunter2" not in str(refused.value)


def test_a_certificate_goes_with_its_key(tmp_path: Path) -> None:
    file = tmp_path / "cert.pem"
    file.write_text("", encoding="utf-8")
    with pytest.raises(SettingError, match="go together"):
        read_credentials(parse_address("kafka://h/t"), {}, {"cert_file": str(file)})
    both: Any = {"cert_file": str(file), "key_file": str(file)}
    assert read_credentials(parse_address("kafka://h/t"), {}, both).cert_file == file


@pytest.mark.parametrize("text", ["middle", "", "-5", "11", "nan"])
def test_an_option_that_should_be_a_number_and_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="a number from 0 to 10"):
        Address("kafka", "t", (Host("h", 1),), options={"n": text}).number("n", 1, 0, 10)
