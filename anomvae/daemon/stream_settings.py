"""Settings of a stream: from flags, then environment variables, then a TOML file, then defaults."""

from __future__ import annotations

import difflib
import math
import os
import tomllib
from collections.abc import Mapping  # noqa: TC003  read while running
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from anomvae.daemon.settings import SERVICE_ADDRESS, SERVICE_LINK, LogFormat, parsed_text, told, typed_value
from anomvae.errors import SettingError
from anomvae.streaming.addresses import SECRETS, Credentials

PREFIX = "ANOMVAE_STREAM_"
WEEK_S = 604_800.0
ENDS = ("from", "to", "dead-letter", "events-to")
"""The ends of a stream, as the configuration and the environment call them."""
CREDENTIALS = (*(known.name for known in fields(Credentials)), *(f"{name}_file" for name in SECRETS))
"""Keys of an end's credentials in the configuration."""
_WORDS = {"source": "from", "sink": "to"}
"""Fields that have another name outside: `from` is no name in Python."""
Start = Literal["earliest", "latest"]


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """All that decides how a stream is answered. Every field is a flag, an environment variable and a TOML key.

    The flag of `asset_level` is `--asset-level`, its variable `ANOMVAE_STREAM_ASSET_LEVEL`, its key `asset_level`; `source` is
    `from` there, and `sink` is `to`.

    Attributes:
        credentials: What the configuration says of each end's user, password and certificates, by end.
        kafka: Settings of librdkafka, by its own names.
    """

    model: str = field(default="", metadata=told("A bundle's folder, or a registered model: NAME, NAME@alias, NAME/3."))
    source: str = field(
        default="",
        metadata=told("Where records come from: kafka://HOST:PORT/TOPIC, mqtt[s]://HOST/FILTER, a path, or -."),
    )
    sink: str = field(
        default="", metadata=told("Where answers go: kafka://HOST:PORT/TOPIC, mqtt[s]://HOST/TOPIC, a path, or -.")
    )
    dead_letter: str | None = field(
        default=None,
        metadata=told("Where records go that cannot be answered; without it they are told in the log and skipped."),
    )
    events_to: str | None = field(default=None, metadata=told("Where events go; default: where the answers go."))
    group: str | None = field(
        default=None, metadata=told("Kafka: consumer group; default: anomvae- and the model's name.")
    )
    start: Start | None = field(
        default=None, metadata=told("Kafka: where a group without commits begins: earliest (the default) or latest.")
    )
    exactly_once: bool = field(
        default=False,
        metadata=told("Kafka to Kafka: answers and progress in one transaction, each record answered once."),
    )
    instance: str | None = field(
        default=None,
        metadata=told(
            "With --exactly-once: a name this process keeps over restarts, so that the next one need not wait."
        ),
    )
    client_id: str | None = field(
        default=None,
        metadata=told("MQTT: name of the session; default: anomvae-, the model's name and a digest of the filter."),
    )
    qos: int | None = field(
        default=None, metadata=told("MQTT: 1 (the default), at least once, or 0, at most once.", 0, 1)
    )
    asset_level: int | None = field(
        default=None,
        metadata=told(
            "MQTT: level of the topic that names the asset, from 0, negative from the end; default: all.", -99, 99
        ),
    )
    shared_group: str | None = field(
        default=None, metadata=told("MQTT: name of a shared subscription, among whose clients messages are divided.")
    )
    status_topic: str | None = field(
        default=None, metadata=told("MQTT: topic that tells, retained, whether this client is there (last will).")
    )
    progress: Path | None = field(
        default=None, metadata=told("Files: remembers how far the stream is, so that a restart goes on from there.")
    )
    durable: bool = field(default=False, metadata=told("Files: answers have reached the disk before progress is kept."))
    codec: str = field(default="json", metadata=told("Format of records: json, avro, avro-confluent or arrow."))
    schema: Path | None = field(default=None, metadata=told("File of the Avro schema."))
    asset: str | None = field(default=None, metadata=told("Table models: field that names the asset."))
    time: str | None = field(default=None, metadata=told("Table models: field that holds the time."))
    top: int = field(default=3, metadata=told("Reasons an alarm.", 0, 1000))
    all_reasons: bool = field(default=False, metadata=told("Reasons for every record, not for alarms alone."))
    alarm_rate: float | None = field(
        default=None, metadata=told("Share of normal records that may alarm; default: the model's own.")
    )
    events: bool = field(default=False, metadata=told("Merge consecutive alarms of an asset into events."))
    quiet: int = field(default=5, metadata=told("Events: steps without an alarm that an event outlasts.", 0, 2**31))
    least: int = field(default=1, metadata=told("Events: alarms before one is told.", 1, 2**31))
    announce: bool = field(
        default=True, metadata=told("Events: tell an event when it opens, too, not only when it ends.")
    )
    idle: float | None = field(
        default=None,
        metadata=told(
            "Seconds of silence after which an asset is forgotten, by the records' times; default: ten windows, at least an hour.",
            0,
        ),
    )
    future: float = field(
        default=300.0, metadata=told("Seconds a record's time may lie ahead of its source's own time of it.", 0)
    )
    max_replay: int = field(
        default=2_000_000, metadata=told("Most records of a partition that a restart reads again.", 1, 2**62)
    )
    max_assets: int = field(default=200_000, metadata=told("Most assets of a partition that are remembered.", 1, 2**31))
    batch: int = field(default=4000, metadata=told("Most records taken at a time.", 1, 10_000_000))
    threads: int = field(default=0, metadata=told("Threads that run the model; 0: one a core.", 0, 1024))
    host: str = field(default="127.0.0.1", metadata=told("Address of metrics and health; 0.0.0.0 for all."))
    metrics_port: int | None = field(
        default=None,
        metadata=told("Port of /metrics, /health/live and /health/ready; 0: any free one; default: none.", 0, 65535),
    )
    follow_model: float = field(
        default=30.0,
        metadata=told("How often the reference is looked at for a new version, in seconds; 0: never.", 0, WEEK_S),
    )
    drain_timeout: float = field(
        default=30.0, metadata=told("Longest time to deliver what is at hand when stopping, in seconds.", 0.1, 3600)
    )
    log_format: LogFormat = field(default="json", metadata=told("json: one event a line; text: for terminals."))
    tracking_uri: str | None = field(
        default=None, metadata=told("MLflow tracking server or database; default: MLFLOW_TRACKING_URI.")
    )
    credentials: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    kafka: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Refuses values out of range, and options that would do nothing.

        Raises:
            SettingError: Names the setting and what it may be.
        """
        for name, known in options().items():
            value, low, high = getattr(self, name), known["low"], known["high"]
            if value is not None and low is not None and not low <= value <= high:
                bound = f"{low:g} to {high:,.12g}" if math.isfinite(high) else f"at least {low:g}"
                raise SettingError(f"{flag_of(name)} is {value}; it must be {bound}")
        for name, hint in get_type_hints(StreamSettings).items():
            kinds = [kind for kind in (hint, *get_args(hint)) if get_origin(kind) is Literal]
            if kinds and getattr(self, name) is not None and getattr(self, name) not in get_args(kinds[0]):
                choices = " or ".join(get_args(kinds[0]))
                raise SettingError(f"{flag_of(name)} is {getattr(self, name)!r}; it must be {choices}")
        for name in ("events_to", "quiet", "least", "announce"):
            if not self.events and getattr(self, name) != options()[name]["default"]:
                raise SettingError(
                    f"{flag_of(name)} is about events, which are not asked for; add --events, or leave it out"
                )
        if self.instance is not None and not self.exactly_once:
            raise SettingError(
                "--instance names a process that answers exactly once; add --exactly-once, or leave it out"
            )


def options() -> dict[str, dict[str, Any]]:
    """The fields that are options: help, range and default by name."""
    return {
        known.name: {**known.metadata, "default": known.default} for known in fields(StreamSettings) if known.metadata
    }


def flag_of(name: str) -> str:
    """A field's flag.

    Example:
        >>> flag_of("dead_letter"), flag_of("source")
        ('--dead-letter', '--from')
    """
    return "--" + key_of(name).replace("_", "-")


def key_of(name: str) -> str:
    """A field's key in the configuration."""
    return _WORDS.get(name, name)


def variable_of(name: str) -> str:
    """A field's environment variable."""
    return PREFIX + key_of(name).upper()


def load_stream_settings(
    flags: Mapping[str, Any], environment: Mapping[str, str], config: Path | None = None
) -> StreamSettings:
    """Brings the sources together.

    Args:
        flags: Values by field name, as typed; None: not given.
        environment: Variables.
        config: TOML file; None: the one that `ANOMVAE_STREAM_CONFIG` names, if it does.

    Raises:
        SettingError: A value is no value of its setting, a setting is not known, or an end or the model is not said.
    """
    hints = {name: hint for name, hint in get_type_hints(StreamSettings).items() if name in options()}
    known = {key_of(name): name for name in hints}
    named = environment.get(PREFIX + "CONFIG")
    file = config or (Path(named) if named else None)
    values = _from_file(file, known, hints) if file else {}
    for variable, text in environment.items():
        key = variable.removeprefix(PREFIX).lower()
        if variable.startswith(PREFIX) and key != "config" and not _is_service_link(variable, text):
            if key not in known:
                raise SettingError(f"the environment variable {variable} is no setting{_close(key, known)}")
            hint = hints[known[key]]
            values[known[key]] = Path(text) if Path in get_args(hint) else parsed_text(variable, text, _plain(hint))
    values.update({name: value for name, value in flags.items() if value is not None})
    settings = StreamSettings(**values)
    for name in ("model", "source", "sink"):
        if not getattr(settings, name):
            raise SettingError(f"a stream needs {flag_of(name)}: {options()[name]['help']}")
    return settings


def _is_service_link(variable: str, text: str) -> bool:
    """Whether Kubernetes has set it, for a service named `anomvae-stream`."""
    is_port = variable.endswith("_PORT") and SERVICE_ADDRESS.match(text) is not None
    return is_port or SERVICE_LINK.fullmatch(variable.removeprefix(PREFIX)) is not None


def _from_file(file: Path, known: Mapping[str, str], hints: Mapping[str, Any]) -> dict[str, Any]:
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"the configuration {file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise SettingError(f"the configuration {file} is not TOML; `anomvae stream --help` lists the keys") from None
    values: dict[str, Any] = {}
    for key, value in raw.items():
        name = key.replace("-", "_")
        if name in ("credentials", "kafka"):
            values[name] = _credentials(file, value) if name == "credentials" else _texts(f"[kafka] in {file}", value)
        elif name in known:
            values[known[name]] = typed_value(f"{key} in {file}", value, _plain(hints[known[name]]))
        else:
            raise SettingError(f"{file} has the unknown key {key!r}{_close(name, known)}")
    return values


def _credentials(file: Path, value: Any) -> dict[str, dict[str, str]]:
    if not isinstance(value, dict):
        raise SettingError(f"credentials in {file} must be tables, one an end: [credentials.from]")
    found = {}
    for end, given in value.items():
        if (name := end.replace("_", "-")) not in ENDS:
            raise SettingError(f"{file} has credentials of {end!r}; the ends of a stream are {', '.join(ENDS)}")
        found[name] = _texts(f"[credentials.{end}] in {file}", given)
        for key in found[name]:
            if key not in CREDENTIALS:
                close = difflib.get_close_matches(key, CREDENTIALS, n=1) or CREDENTIALS
                raise SettingError(
                    f"[credentials.{end}] in {file} has the unknown key {key[:60]!r}; it takes {', '.join(close)}"
                )
    return found


def _texts(where: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, (str, int, float)) for item in value.values()):
        raise SettingError(f"{where} must be a table of texts and numbers")
    return {key: str(item).lower() if isinstance(item, bool) else str(item) for key, item in value.items()}


def _plain(hint: Any) -> Any:
    """A hint without None: what an environment variable's text stands for."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return kinds[0] if kinds and get_origin(hint) is not Literal else hint


def _close(name: str, known: Mapping[str, str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else "; `anomvae stream --help` lists them"


def usable_threads(asked: int) -> int:
    """Threads to use: as asked, or one a core that this process may use."""
    return asked or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
