"""The ends of a stream, opened as its settings say: Kafka, MQTT, files and pipes."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anomvae.daemon.stream_circles import refuse_circles
from anomvae.daemon.stream_settings import flag_of
from anomvae.errors import MissingExtraError, SettingError
from anomvae.streaming.addresses import parse_address, read_credentials
from anomvae.streaming.files import FileSink, LineSource, PipeSink
from anomvae.streaming.letters import LetterLines
from anomvae.streaming.mqtt import MqttBroker, MqttPublication, MqttSubscription, MqttTls, session_name
from anomvae.streaming.pump import Sinks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anomvae.daemon.stream_settings import StreamSettings
    from anomvae.observability import Log
    from anomvae.streaming.addresses import Address, End
    from anomvae.streaming.contracts import Sink, Source, Transaction
    from anomvae.streaming.kafka import Cluster
    from anomvae.streaming.kafka_transaction import KafkaTransaction

MQTT_OPTIONS = ("client_id", "keepalive")
SUBSCRIPTION_OPTIONS = (
    *MQTT_OPTIONS,
    "qos",
    "group",
    "asset_level",
    "status_topic",
    "session_expiry",
    "receive_maximum",
)
PUBLICATION_OPTIONS = (*MQTT_OPTIONS, "retain")
OF_KIND = {
    "kafka": ("group", "start", "exactly_once", "instance"),
    "mqtt": ("client_id", "qos", "asset_level", "shared_group", "status_topic"),
    "file": ("progress",),
}
"""Settings that mean something for one kind of source alone."""
_KINDS = {"kafka": "from Kafka", "mqtt": "from MQTT", "file": "from files", "pipe": "from standard input"}


@dataclass(slots=True)
class Ends:
    """An open source and open sinks.

    Attributes:
        source: Where records come from.
        sinks: Where messages go.
        transaction: As the sinks have it, to be closed.
    """

    source: Source
    sinks: Sinks
    transaction: KafkaTransaction | None = None

    def close(self) -> None:
        """Leaves every end in good order; one that fails to does not keep the others from it."""
        first: BaseException | None = None
        closing: list[Any] = [self.source, *_once(self.sinks.all)] if self.transaction is None else []
        closing += [] if self.transaction is None else [self.transaction, self.source]
        for end in closing:
            try:
                end.close()
            except Exception as error:  # noqa: BLE001  told once all are closed
                first = first or error
        if first is not None:
            raise first


class Where(NamedTuple):
    """The addresses of a stream.

    Attributes:
        source: Where records come from.
        answers: Where answers go.
        dead_letters: Where dead letters go.
        events: Where events go, if not beside the answers.
    """

    source: Address
    answers: Address
    dead_letters: Address | None
    events: Address | None

    @property
    def sinks(self) -> dict[End, Address]:
        """Sinks by their flag's name."""
        found: dict[End, Address | None] = {
            "to": self.answers,
            "dead-letter": self.dead_letters,
            "events-to": self.events,
        }
        return {end: address for end, address in found.items() if address is not None}


def read_addresses(settings: StreamSettings) -> Where:
    """Reads the addresses, and refuses what cannot go together, before anything is opened.

    Raises:
        SettingError: An address is none, goes in a circle, or an option does not belong to it.
    """
    where = Where(
        parse_address(settings.source),
        parse_address(settings.sink),
        None if settings.dead_letter is None else parse_address(settings.dead_letter),
        None if settings.events_to is None else parse_address(settings.events_to),
    )
    for kind, names in OF_KIND.items():
        for name in names:
            given = getattr(settings, name)
            if given is not None and given is not False and where.source.kind != kind:  # 0 is given too
                raise SettingError(
                    f"{flag_of(name)} is for streams {_KINDS[kind]}, and this one comes {_KINDS[where.source.kind]}; leave it out"
                )
    if settings.durable and all(address.kind != "file" for address in where.sinks.values()):
        raise SettingError("--durable is about files, and nothing is written to one; leave it out")
    if settings.codec != "json" and where.source.kind in ("file", "pipe"):
        raise SettingError(f"--codec {settings.codec} is for Kafka and MQTT: files and pipes are read as lines of JSON")
    if settings.kafka and all(address.kind != "kafka" for address in (where.source, *where.sinks.values())):
        raise SettingError("[kafka] in the configuration sets the Kafka client, and no end of the stream is Kafka")
    refuse_circles(where, settings.progress)
    _refuse_closed(where)
    if settings.exactly_once:
        _refuse_other_clusters(where)
    return where


def _refuse_closed(where: Where) -> None:
    """Standard streams that were closed at the start, as by `<&-`, are none in Python."""
    if where.source.kind == "pipe" and sys.stdin is None:
        raise SettingError("--from is -, and standard input is closed; open it, or name another source")
    for end, address in where.sinks.items():
        if address.kind == "pipe" and sys.stdout is None:
            raise SettingError(f"--{end} is -, and standard output is closed; open it, or name another sink")


def _refuse_other_clusters(where: Where) -> None:
    for end, address in where.sinks.items():
        if address.kind != "kafka" or set(address.hosts) != set(where.answers.hosts):
            raise SettingError(
                f"--exactly-once is from Kafka to Kafka, all on one cluster, and --{end} leads elsewhere; leave --exactly-once "
                "out (answers may then come twice after a crash, with the same event_id), or change the address"
            )


class Opener:
    """Opens the ends of a stream.

    Args:
        settings: How.
        environment: Variables that hold credentials.
        name: Of the model, for names that must stay the same from run to run.
        log: Told when connections go and come.
        stopping: Whether the stream has been told to stop, for which no first connection is waited for; None: it never is.
    """

    def __init__(
        self,
        settings: StreamSettings,
        environment: Mapping[str, str],
        name: str,
        log: Log,
        stopping: Callable[[], bool] | None = None,
    ) -> None:
        self._settings, self._environment, self._log = settings, environment, log
        self._stopping = stopping
        self._name = "anomvae-" + "".join(sign if sign.isalnum() or sign in "._-" else "-" for sign in name)

    def open(self, where: Where) -> Ends:
        """Opens all; what was opened is closed again where one cannot be.

        Raises:
            SettingError: An address or its credentials cannot be used.
            StreamError: A broker does not answer.
            DataFileError: There is no such file to read.
            OutputError: A file cannot be written.
        """
        opened: list[Source | Sink | Transaction] = []

        def keep(end: Any) -> Any:
            opened.append(end)
            return end

        try:
            if self._settings.exactly_once:
                return self._transactional(where, keep)
            sinks = {end: keep(self._sink(end, address)) for end, address in where.sinks.items()}
            source = keep(self._source(where.source))
        except BaseException:
            for end in reversed(opened):
                with suppress(Exception):
                    end.close()  # type: ignore[union-attr]  # a transaction has one too
            raise
        return Ends(source, Sinks(sinks["to"], sinks.get("dead-letter"), sinks.get("events-to")))

    def _transactional(self, where: Where, keep: Callable[[Any], Any]) -> Ends:
        from anomvae.streaming.kafka_source import KafkaSource
        from anomvae.streaming.kafka_transaction import KafkaTransaction

        reading = self._reading(where.source)
        source = keep(KafkaSource(self._cluster("from", where.source), reading, self._log))
        cluster = self._cluster("to", where.answers)
        transaction = keep(KafkaTransaction(source, cluster, self._log, self._settings.instance))
        sinks = {end: transaction.sink(address.name) for end, address in where.sinks.items()}
        both = Sinks(sinks["to"], sinks.get("dead-letter"), sinks.get("events-to"), transaction)
        return Ends(source, both, transaction)

    def _source(self, address: Address) -> Source:
        if address.kind == "kafka":
            reading = self._reading(address)
            from anomvae.streaming.kafka_source import KafkaSource

            return KafkaSource(self._cluster("from", address), reading, self._log)
        if address.kind == "mqtt":
            subscription = self._subscription(address)
            broker = self._broker("from", address)
            with _extra("a stream from or to MQTT"):
                from anomvae.streaming.mqtt_source import MqttSource

            return MqttSource(broker, subscription, self._log, self._stopping)
        address.allow((), "a file")
        if address.kind == "pipe" and self._settings.progress is not None:
            raise SettingError("--progress is for files: standard input cannot be read again; leave it out")
        return LineSource("-" if address.kind == "pipe" else address.name, progress=self._settings.progress)

    def _sink(self, end: End, address: Address) -> Sink:
        if address.kind == "kafka":
            from anomvae.streaming.kafka_sink import KafkaSink

            return KafkaSink.open(self._cluster(end, address), self._log)
        if address.kind == "mqtt":
            publication = self._publication(address)
            broker = self._broker(end, address)
            with _extra("a stream from or to MQTT"):
                from anomvae.streaming.mqtt_sink import MqttSink

            return MqttSink(broker, publication, self._log, self._stopping)
        address.allow((), "a file")
        is_pipe = address.kind == "pipe"
        sink = PipeSink(sys.stdout.buffer) if is_pipe else FileSink(Path(address.name), durable=self._settings.durable)
        return LetterLines(sink) if end == "dead-letter" else sink

    def _cluster(self, end: End, address: Address) -> Cluster:
        from anomvae.streaming.kafka import Cluster

        credentials = read_credentials(address, self._environment, self._settings.credentials.get(end), end)
        return Cluster(address, credentials, self._settings.kafka)

    def _reading(self, address: Address) -> Any:
        from anomvae.streaming.kafka_reading import Reading

        stated = {"group": self._settings.group, "start": self._settings.start}
        given = {name: value for name, value in stated.items() if value is not None}
        return Reading.of(replace(address, options=_joined(address, given)), self._name)

    def _broker(self, end: End, address: Address) -> MqttBroker:
        credentials = read_credentials(address, self._environment, self._settings.credentials.get(end), end)
        if credentials.tls and not address.tls:
            raise SettingError(
                f"{address}: there are TLS files, and mqtt:// uses none; write mqtts://, or leave them out"
            )
        if credentials.key_password is not None:
            raise SettingError(f"{address}: the key for MQTT must not be encrypted; leave its password out")
        if credentials.password is not None and credentials.user is None:
            raise SettingError(f"{address}: there is a password without a user; set ANOMVAE_MQTT_USER too")
        tls = MqttTls(credentials.ca_file, credentials.cert_file, credentials.key_file) if address.tls else None
        (host,) = address.hosts
        return MqttBroker(
            host.name.strip("[]"),
            host.port,
            credentials.user,
            credentials.password,
            tls,
            keepalive_s=int(address.number("keepalive", 30, 1, 65535)),
        )

    def _subscription(self, address: Address) -> MqttSubscription:
        settings = self._settings
        stated = {
            "client_id": settings.client_id,
            "qos": settings.qos,
            "group": settings.shared_group,
            "asset_level": settings.asset_level,
            "status_topic": settings.status_topic,
        }
        given = {name: str(value) for name, value in stated.items() if value is not None}
        asked = replace(address, options=_joined(address, given))
        asked.allow(SUBSCRIPTION_OPTIONS, "an MQTT source")
        options = asked.options
        if "group" in options and "client_id" not in options:
            raise SettingError("--shared-group divides messages among several clients; name each with --client-id")
        level = int(asked.number("asset_level", 0, -99, 99)) if "asset_level" in options else None
        return MqttSubscription(
            address.name,
            options.get("client_id", session_name(self._name, address.name)),
            options.get("group"),
            int(asked.number("qos", 1, 0, 1)),
            int(asked.number("receive_maximum", 1000, 1, 65535)),
            int(asked.number("session_expiry", 86_400, 0, 2**32 - 1)),
            level,
            options.get("status_topic"),
        )

    def _publication(self, address: Address) -> MqttPublication:
        address.allow(PUBLICATION_OPTIONS, "an MQTT sink")
        retain = address.choice("retain", ("true", "false"), "false") == "true"
        return MqttPublication(address.name, address.options.get("client_id", ""), retain)


class _extra:  # noqa: N801  reads as a statement
    """Says which extra lacks."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, ImportError):
            raise MissingExtraError(self._what, "stream") from None


def _joined(address: Address, given: Mapping[str, str]) -> dict[str, str]:
    """Options of an address and of flags, of which none may be stated twice in two ways."""
    for name, value in given.items():
        if address.options.get(name, value) != value:
            raise SettingError(
                f"{address}: {name} stands in the address and among the options, and differs; leave one out"
            )
    return {**address.options, **given}


def _once(sinks: list[Sink]) -> list[Sink]:
    return list({id(sink): sink for sink in sinks}.values())
