"""Where a stream comes from and goes to, as one writes it on the command line; secrets come another way."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import unquote

from anomvae.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

Kind = Literal["kafka", "mqtt", "file", "pipe"]
End = Literal["from", "to", "dead-letter", "events-to"]

SCHEMES: dict[str, Kind] = {"kafka": "kafka", "mqtt": "mqtt", "mqtts": "mqtt", "file": "file"}
PORTS = {"kafka": 9092, "mqtt": 1883, "mqtts": 8883}
SHAPES: dict[Kind, str] = {
    "kafka": "kafka://HOST:PORT[,HOST:PORT]/TOPIC",
    "mqtt": "mqtt[s]://[USER@]HOST[:PORT]/FILTER",
    "file": "a path, or file:///PATH",
    "pipe": "-",
}
_SCHEMED = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_SECRET = re.compile(r"pass(word)?|secret|token|pwd|api_?key", re.IGNORECASE)


class Host(NamedTuple):
    """A server of a cluster.

    Attributes:
        name: Name or number; IPv6 in brackets.
        port: Port.
    """

    name: str
    port: int

    def __str__(self) -> str:
        return f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Address:
    """One end of a stream.

    Attributes:
        kind: What lies there.
        name: Name of the topic, the filter, the path; empty for standard input or output.
        hosts: Servers to ask first; none for files.
        tls: Whether the scheme asks for TLS (`mqtts`).
        user: User name, if the address has one.
        options: What stands behind the question mark, by name.
    """

    kind: Kind
    name: str = ""
    hosts: tuple[Host, ...] = ()
    tls: bool = False
    user: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """As logs and errors show it: without user and options."""
        if self.kind in ("file", "pipe"):
            return self.name or "-"
        scheme = "mqtts" if self.kind == "mqtt" and self.tls else self.kind
        return f"{scheme}://{','.join(map(str, self.hosts))}/{self.name}"

    def allow(self, known: Collection[str], what: str) -> None:
        """Refuses options that would do nothing.

        Args:
            known: Names that mean something here.
            what: What takes them, for the message; as in `a Kafka source`.

        Raises:
            SettingError: The address has another one.
        """
        for name in self.options:
            if _SECRET.search(name):
                raise SettingError(f"{self} has a secret among its options; {_secrets(self.kind)}")
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"it takes {', '.join(sorted(known)) or 'none'}"
                raise SettingError(f"{self}: {what} knows no option {name[:60]!r}; {hint}")

    def choice(self, name: str, among: Collection[str], default: str) -> str:
        """An option that is one of a few words.

        Raises:
            SettingError: It is none of them.
        """
        value = self.options.get(name, default)
        if value not in among:
            raise SettingError(f"{self}: the option {name} must be one of {', '.join(among)}")
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """An option that is a number.

        Raises:
            SettingError: It is none, or out of range.
        """
        text = self.options.get(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise SettingError(f"{self}: the option {name} must be a number from {low:g} to {high:g}")
        return value


def parse_address(text: str) -> Address:
    """Reads an address.

    Args:
        text: `kafka://host:port[,host:port]/topic[?group=...]`, `mqtt[s]://[user@]host[:port]/filter[?...]`, a path,
            `file:///path[?...]`, or `-` for standard input or output. In names and options, `%xx` stands for a byte; a
            plain path is taken as it is.

    Raises:
        SettingError: It is none of these, or holds a password; the message shows neither user nor password.

    Example:
        >>> parse_address("kafka://a:9092,b/plant?group=press").hosts
        (Host(name='a', port=9092), Host(name='b', port=9092))
        >>> parse_address("mqtts://broker/plant/+/press/#").name
        'plant/+/press/#'
        >>> parse_address("-").kind
        'pipe'
    """
    if text == "-":
        return Address("pipe")
    match = _SCHEMED.fullmatch(text)
    if match is None:
        if not text or "\0" in text:
            raise SettingError("an address of a stream is empty; give a path, kafka://..., mqtt://... or - for a pipe")
        return Address("file", text)
    scheme, rest = match[1].lower(), match[2]
    kind = SCHEMES.get(scheme)
    if kind is None:
        raise SettingError(f"a stream cannot come from or go to {scheme}://; it may be kafka, mqtt, mqtts or file")
    rest, _, query = rest.partition("?")
    authority, _, name = rest.partition("/")
    user, hosts = _authority(authority, scheme, kind)
    name = unquote(name if kind != "file" else f"/{name}")
    _check_name(kind, name)
    return Address(kind, name, hosts, scheme == "mqtts", user, _options(query, kind))


def _authority(text: str, scheme: str, kind: Kind) -> tuple[str | None, tuple[Host, ...]]:
    user_part, at, servers = text.rpartition("@")
    if ":" in user_part:
        raise SettingError(f"an address of {kind} holds a password; {_secrets(kind)}")
    if kind == "file":
        if servers not in ("", "localhost") or at:
            raise SettingError(f"file:// takes no host; write {SHAPES[kind]}")
        return None, ()
    hosts = []
    for server in servers.split(","):
        match = _HOST.fullmatch(server)
        if match is None or not 0 < int(match[2] or PORTS[scheme]) <= 65535:  # noqa: PLR2004
            raise SettingError(f"an address of {kind} names no server, or not as it should; write {SHAPES[kind]}")
        hosts.append(Host(match[1], int(match[2] or PORTS[scheme])))
    if kind == "mqtt" and len(hosts) > 1:
        raise SettingError(f"an address of mqtt takes one server; write {SHAPES[kind]}")
    return (unquote(user_part) if at else None), tuple(hosts)


def _check_name(kind: Kind, name: str) -> None:
    if kind == "kafka" and (not _TOPIC.fullmatch(name) or name in (".", "..")):
        raise SettingError(
            f"an address of kafka names no topic, or none that can be: letters, digits and ._- are; write {SHAPES[kind]}"
        )
    if kind == "mqtt" and (not name or "\0" in name):
        raise SettingError(f"an address of mqtt names no filter; write {SHAPES[kind]}")
    if kind == "file" and (name == "/" or "\0" in name):
        raise SettingError(f"an address of a file names none; write {SHAPES[kind]}")


def _options(query: str, kind: Kind) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, is_, value = part.partition("=")
        name = unquote(name).replace("-", "_")
        if not is_ or not name or not value:
            raise SettingError(f"an option in an address of {kind} is not written as name=value")
        if name in options:
            raise SettingError(f"an address of {kind} has the option {name[:60]!r} twice")
        options[name] = unquote(value)
    return options


def _secrets(kind: str) -> str:
    return f"set the environment variable {variables_of(kind)[0]}PASSWORD, or `password_file` in the configuration file"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are to a broker, and whom we trust. Never part of an address, never shown.

    Attributes:
        user: User name.
        password: Its password.
        ca_file: Certificates of the authorities to trust (PEM); None: those of the system.
        cert_file: Our own certificate (PEM).
        key_file: Its private key (PEM).
        key_password: The password of that key.
    """

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    key_password: str | None = field(default=None, repr=False)

    @property
    def tls(self) -> bool:
        """Whether any of it is of use under TLS only."""
        return self.ca_file is not None or self.cert_file is not None


SECRETS = ("password", "key_password")


def variables_of(kind: str, end: End | None = None) -> tuple[str, ...]:
    """How the environment variables of an end begin, the most particular last.

    Example:
        >>> variables_of("kafka", "dead-letter")
        ('ANOMVAE_KAFKA_', 'ANOMVAE_DEAD_LETTER_')
    """
    particular = () if end is None else (f"ANOMVAE_{end.upper().replace('-', '_')}_",)
    return (f"ANOMVAE_{kind.upper()}_", *particular)


def read_credentials(
    address: Address, environment: Mapping[str, str], config: Mapping[str, str] | None = None, end: End | None = None
) -> Credentials:
    """Gathers what the address does not say.

    The variable `ANOMVAE_KAFKA_PASSWORD` (`..._MQTT_...`) holds for every end of that kind, `ANOMVAE_FROM_PASSWORD`,
    `ANOMVAE_TO_PASSWORD` and `ANOMVAE_DEAD_LETTER_PASSWORD` for one; so for every field of :class:`Credentials`. Of secrets,
    `..._PASSWORD_FILE` names a file that holds it. Variables come before the configuration, a user in the address before both.

    Args:
        address: The end.
        environment: Variables.
        config: The configuration's values for this end, by field name or `password_file`, `key_password_file`.
        end: Which end it is.

    Raises:
        SettingError: A file is missing, a certificate lacks its key, or the configuration has an unknown key.
    """
    names = [known.name for known in fields(Credentials)]
    keys = names + [f"{name}_file" for name in SECRETS]
    config = config or {}
    for key in config:
        if key not in keys:
            close = difflib.get_close_matches(key, keys, n=1)
            raise SettingError(
                f"the configuration of {address} has the unknown key {key[:60]!r}; it takes {close or keys}"
            )
    found: dict[str, str] = dict(config)
    for prefix in variables_of(address.kind, end):
        given = {key: environment[prefix + key.upper()] for key in keys if environment.get(prefix + key.upper())}
        for name in SECRETS:  # the nearer word counts, however it is put
            if given.keys() & {name, f"{name}_file"}:
                found = {key: value for key, value in found.items() if key not in (name, f"{name}_file")}
        found.update(given)
    for name in SECRETS:
        if file := found.pop(f"{name}_file", None):
            found[name] = _secret(file, address)
    values = {name: Path(value) if name.endswith("_file") else value for name, value in found.items()}
    credentials = Credentials(**values)  # type: ignore[arg-type]  # the names decide the types
    if address.user is not None:
        credentials = replace(credentials, user=address.user)
    _check_files(credentials, address)
    return credentials


def _secret(file: str, address: Address) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise SettingError(f"the password file for {address}, {file}, cannot be read") from None


def _check_files(credentials: Credentials, address: Address) -> None:
    for name in ("ca_file", "cert_file", "key_file"):
        file: Path | None = getattr(credentials, name)
        if file is not None and not file.is_file():
            raise SettingError(f"the {name} for {address}, {file}, is not a file")
    if (credentials.cert_file is None) != (credentials.key_file is None):
        raise SettingError(f"cert_file and key_file for {address} go together; give both, or neither")
