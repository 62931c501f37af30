"""A stream put together: brokers at both ends, restarts, new versions, poison, and what it tells of itself."""

from __future__ import annotations

import io
import shutil
import signal
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

from anomvae.daemon.stream_ends import read_addresses
from anomvae.daemon.stream_models import Follower, LaneMaker, counts_unix_time, load_stream_model
from anomvae.daemon.stream_settings import StreamSettings, flag_of, load_stream_settings, options, variable_of
from anomvae.daemon.streaming import Stream, run_stream
from anomvae.errors import BundleError, ModelReferenceError, ScoringError, SettingError, StreamError
from anomvae.observability import Log
from anomvae.observability.stream_metrics import StreamMetrics
from anomvae.references import find_model
from anomvae.streaming.contracts import Delivery, Origin, Place, Progress, Record
from tests.streamed import Streaming, answers, assert_same, expected, lines, pump_rows, pumps, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from anomvae.bundle import Bundle
    from anomvae.references import FoundModel
    from anomvae.streaming.contracts import Outgoing


NOW_S = 2e9
"""When records arrive: after their own times."""


@pytest.fixture
def told() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(told: io.StringIO) -> Log:
    return Log(told, limit_per_s=1000)


def events_of(told: io.StringIO) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in told.getvalue().splitlines()]


def answered_by(stream: Streaming, n: int) -> Callable[[], bool]:
    """Whether a stream has answered so many records."""
    return lambda: stream.metric("anomvae_stream_records_total") == n


# Kafka.


@pytest.fixture(scope="module")
def kafka() -> Iterator[Any]:
    broker = pytest.importorskip("tests.streaming.kafka_broker")
    yield from broker._running(front=True)


def read_all(address: str, topic: str, n: int) -> list[dict[str, Any]]:
    """The values of a topic, of whatever partition, once there are so many."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": address, "group.id": "onlooker", "log_level": 0})
    try:
        places = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, 0) for partition in places])
        found: list[dict[str, Any]] = []

        def look() -> bool:
            came = [message for message in consumer.consume(1000, 0.2) if message.error() is None]
            found.extend(orjson.loads(message.value() or b"null") for message in came)
            return len(found) >= n

        until(look, f"{n} messages, of which there are {len(found)}")
        look()
        return found
    finally:
        consumer.close()


@pytest.mark.parametrize("once", [False, True], ids=["at least once", "exactly once"])
def test_from_kafka_to_kafka_a_restart_goes_on_with_the_same_windows(kafka: Any, once: bool) -> None:
    rows = pump_rows(150, strange_from=200)
    source, sink, dead = kafka.topic(3), kafka.topic(2), kafka.topic(1)
    arguments = ["--model", pumps().folder, "--from", kafka.uri(source, session_timeout=2), "--to", kafka.uri(sink),
                 "--dead-letter", kafka.uri(dead), "--metrics-port", 0]  # fmt: skip
    arguments += ["--exactly-once"] if once else []
    messages = [(orjson.dumps(row), row["machine"].encode()) for row in rows]
    for batch, replayed in ((messages[:140], 0), (messages[140:], 30)):
        kafka.produce(source, [*batch, (b"no JSON", b"A")])
        with Streaming(*arguments) as stream:
            until(answered_by(stream, len(batch) + 1), "all records")
            assert stream.metric("anomvae_stream_replayed_records_total") == pytest.approx(replayed, abs=2)
            assert stream.metric("anomvae_stream_partitions") == 3
            assert (stream.metric("anomvae_stream_transactions_total") > 0) == once
            assert stream.stop(signal.SIGTERM) == 0
    found = read_all(kafka.address, sink, len(rows))
    assert sorted(answer["i"] for answer in found) == list(range(300))
    assert_same(found, expected(rows))
    committed = kafka.committed("anomvae-pumps", source, 3)
    assert sum(offset for offset, _ in committed.values()) == 302


# MQTT.


def test_from_mqtt_to_mqtt_the_topic_names_the_asset(tmp_path: Path) -> None:
    mosquitto = pytest.importorskip("tests.streaming.mosquitto")
    if mosquitto.PROGRAM is None:
        pytest.skip("mosquitto is not installed")
    rows = pump_rows(40, strange_from=60)
    with (
        mosquitto.running(tmp_path / "broker", ["set_tcp_nodelay true"]) as broker,
        mosquitto.peer(broker.port, "answers/#") as reader,
        mosquitto.peer(broker.port, "state/#", "watcher") as watcher,
        Streaming("--model", pumps().folder, "--from", f"mqtt://127.0.0.1:{broker.port}/plant/+/values", "--to",
                  f"mqtt://127.0.0.1:{broker.port}/answers/{{key}}", "--asset-level", 1, "--status-topic",
                  "state/stream", "--events", "--events-to", tmp_path / "events.jsonl") as stream,
    ):  # fmt: skip
        stream.wait_for("streaming")
        for row in rows:
            nameless = {name: cell for name, cell in row.items() if name != "machine"}
            reader.publish(f"plant/{row['machine']}/values", orjson.dumps(nameless))
        heard = reader.hear(len(rows))
        assert stream.stop(signal.SIGTERM) == 0
        states = watcher.hear(2)
    found = [orjson.loads(each.payload) for each in heard]
    assert {each.topic for each in heard} == {"answers/A", "answers/B"}
    assert sorted(answer["i"] for answer in found) == list(range(80))
    assert [answer["machine"] for answer in found] == [rows[answer["i"]]["machine"] for answer in found]
    assert_same(found, expected(rows))
    events = [orjson.loads(line) for line in (tmp_path / "events.jsonl").read_bytes().splitlines()]
    assert {event["asset"] for event in events} == {"A", "B"}
    assert [orjson.loads(each.payload)["status"] for each in states] == ["online", "offline"]


def test_while_a_broker_is_away_at_the_start_health_says_so_and_a_stop_is_heeded(log: Log, told: io.StringIO) -> None:
    mosquitto = pytest.importorskip("tests.streaming.mosquitto")
    asked = settings(source=f"mqtt://127.0.0.1:{mosquitto.free_port()}/plant/+/values", metrics_port=0)
    stream = Stream(asked, find_model, {}, log)
    thread = threading.Thread(target=stream.run)
    thread.start()
    until(lambda: "mqtt unreachable" in told.getvalue(), "the trouble is told")
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"http://127.0.0.1:{stream.port}/health", timeout=5)
    urllib.request.urlopen(f"http://127.0.0.1:{stream.port}/health/live", timeout=5).close()
    stream.stop()
    thread.join(10.0)
    assert not thread.is_alive()
    (lost,) = [event for event in events_of(told) if event["event"] == "mqtt unreachable"]
    assert (lost["reason"], lost["client_id"][:14]) == ("connection refused", "anomvae-pumps-")
    assert events_of(told)[-1]["event"] == "stream stopped"


# Settings and ends.


def settings(**values: Any) -> StreamSettings:
    return StreamSettings(**{"model": str(pumps().folder), "source": "-", "sink": "-", **values})


def test_every_setting_has_a_flag_a_variable_a_key_and_a_sentence() -> None:
    assert flag_of("source") == "--from"
    assert variable_of("dead_letter") == "ANOMVAE_STREAM_DEAD_LETTER"
    for name, known in options().items():
        assert known["help"].endswith("."), name
    assert set(options()) == set(StreamSettings.__dataclass_fields__) - {"credentials", "kafka"}


def test_variables_are_read_by_the_types_of_their_settings(tmp_path: Path) -> None:
    environment = {"MODEL": "m", "FROM": "-", "TO": "-", "IDLE": "60", "EVENTS": "yes", "SCHEMA": "a.avsc", "START": "latest",
                   "METRICS_PORT": "0"}  # fmt: skip
    found = load_stream_settings({}, {f"ANOMVAE_STREAM_{name}": text for name, text in environment.items()})
    assert (found.idle, found.events, found.schema, found.start, found.metrics_port) == (
        60.0,
        True,
        Path("a.avsc"),
        "latest",
        0,
    )
    file = tmp_path / "s.toml"
    file.write_text('model = "m"\nfrom = "-"\nto = "-"\nstart = "latest"\nidle = 5\nprogress = "p"\n[kafka]\n"linger.ms" = 5\n'
                    '[credentials.dead_letter]\nuser = "u"\n')  # fmt: skip
    found = load_stream_settings({}, {"ANOMVAE_STREAM_CONFIG": str(file)})
    assert (found.start, found.idle, found.progress) == ("latest", 5.0, Path("p"))
    assert (found.kafka, found.credentials) == ({"linger.ms": "5"}, {"dead-letter": {"user": "u"}})


def test_settings_never_show_credentials() -> None:
    assert "s3cret" not in repr(settings(credentials={"from": {"password": "s3cret"}}))


@pytest.mark.parametrize(
    ("source", "sink", "circle"),
    [
        ("mqtt://a/x/+", "mqtt://a/x/y", True),
        ("mqtt://a/x/+", "mqtt://a/x/y/z", False),
        ("mqtt://a/x/#", "mqtt://a/x/y/z", True),
        ("mqtt://a/x/+/v", "mqtt://a/{key}/q/v", True),
        ("mqtt://a/x/+/v", "mqtt://b/x/q/v", False),
        ("kafka://a/t", "kafka://a/u", False),
        ("kafka://a/t", "kafka://a:9092/t", True),
        ("-", "-", False),
    ],
)
def test_streams_never_read_what_they_write(source: str, sink: str, circle: bool) -> None:
    asked = settings(source=source, sink=sink)
    if circle:
        with pytest.raises(SettingError, match="leads back to --from"):
            read_addresses(asked)
    else:
        read_addresses(asked)


def test_whether_numbers_are_unix_times_is_what_training_had() -> None:
    manifest = pumps().manifest
    assert counts_unix_time(manifest)
    assert manifest.series is not None
    for kind, is_unix in {"int64": False, "double": False, "string": True, "date32[day]": True}.items():
        assert counts_unix_time(replace(manifest, series=replace(manifest.series, time_type=kind))) == is_unix


# Failures.


def record(row: dict[str, Any], offset: int) -> Record:
    return Record(orjson.dumps(row), Origin("t", 0, offset))


class _Poisoned:
    """A session that fails on windows whose newest flow is above 1e6, whoever comes with them."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, rows: Any, outputs: Any, rate: Any = None) -> Any:
        self.calls += 1
        newest = rows.series[:, -1] if hasattr(rows, "series") else rows.numeric
        if (newest > 1e6).any():
            raise RuntimeError("poison")
        return self._session.run(rows, outputs, rate)


def test_a_record_on_which_the_graph_fails_becomes_a_dead_letter_and_harms_no_other() -> None:
    rows = pump_rows(200)
    rows[250]["flow"] = rows[251]["flow"] = 1e7
    model = load_stream_model(find_model(str(pumps().folder)))
    maker = LaneMaker(settings(all_reasons=True, events=True), threads=2)
    poisoned = replace(model, session=_Poisoned(model.session))  # type: ignore[arg-type]  # a session for all the lane needs
    found = maker.make(poisoned).answer([record(row, i) for i, row in enumerate(rows)], None, NOW_S)
    assert [letter.origin.offset for letter in found.dead] == [250, 251]
    assert {letter.reason for letter in found.dead} == {"the graph fails on this record"}
    assert found.counts.dead == {"graph": 2}
    whole = maker.make(model).answer([record(row, i) for i, row in enumerate(rows)], None, NOW_S)
    told = {answer["i"]: answer for answer in map(payload_of, found.answers)}
    wanted = {answer["i"]: answer for answer in map(payload_of, whole.answers) if answer["i"] not in (250, 251)}
    assert told.keys() == wanted.keys()
    assert all(told[i]["score"] == wanted[i]["score"] and told[i]["reasons"] == wanted[i]["reasons"] for i in told)
    assert found.counts.scored == whole.counts.scored - 2


def test_a_graph_that_fails_on_everything_ends_the_stream() -> None:
    rows = pump_rows(100)
    for row in rows:
        row["flow"] = 1e7
    model = load_stream_model(find_model(str(pumps().folder)))
    poisoned = replace(model, session=_Poisoned(model.session))  # type: ignore[arg-type]  # as above
    with pytest.raises(ScoringError, match="fails on every record"):
        LaneMaker(settings(), threads=1).make(poisoned).answer(
            [record(row, i) for i, row in enumerate(rows)], None, NOW_S
        )


def test_a_table_model_has_its_poison_taken_out_too(fitted: Bundle) -> None:
    from tests.conftest import mixed_table

    rows = mixed_table(40, 5).to_pylist()
    for row in rows:
        row["pressure"] = None
    rows[7]["vibration"] = 1e7
    model = load_stream_model(find_model(str(fitted.folder)))
    poisoned = replace(model, session=_Poisoned(model.session))  # type: ignore[arg-type]  # as above
    found = (
        LaneMaker(settings(), threads=1)
        .make(poisoned)
        .answer([record(row, i) for i, row in enumerate(rows)], None, NOW_S)
    )
    assert [letter.origin.offset for letter in found.dead] == [7]
    assert len(found.answers) == 39


def payload_of(message: Outgoing) -> dict[str, Any]:
    answer: dict[str, Any] = orjson.loads(message.payload)
    return answer


def test_a_stream_that_cannot_start_says_so_in_its_log_and_leaves_nothing_open(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = settings(source=str(tmp_path / "none.jsonl"), sink=str(tmp_path / "out.jsonl"))
    with pytest.raises(Exception, match="there is no file"):
        run_stream(asked, find_model, {})
    (told,) = (orjson.loads(line) for line in capfd.readouterr().err.splitlines())
    assert (told["event"], told["level"]) == ("stream not started", "error")


def test_a_sink_that_is_gone_ends_the_stream_with_an_error_and_nothing_is_committed(
    log: Log, told: io.StringIO, tmp_path: Path
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(lines(pump_rows(20)))
    asked = settings(source=str(source), sink="/dev/full", progress=tmp_path / "progress")
    stream = Stream(asked, find_model, {}, log)
    with pytest.raises(StreamError, match="/dev/full cannot be written on"):
        stream.run()
    assert not (tmp_path / "progress").exists()


# New versions.


class _Scene:
    """A follower of a copy of the pumps' bundle, and what it swaps in."""

    def __init__(self, folder: Path, log: Log, **values: Any) -> None:
        self.folder = folder
        shutil.copytree(pumps().folder, folder)
        self.metrics = StreamMetrics()
        self.swapped: list[Any] = []
        self.trouble: Exception | None = None
        asked = settings(model=str(folder), **values)
        self.maker = LaneMaker(asked, 1)
        found = self.find(str(folder))
        self.follower = Follower(self.find, asked, found, self.maker, self.swapped.append, self.metrics, log)

    def find(self, ref: str) -> FoundModel:
        if self.trouble is not None:
            raise self.trouble
        return find_model(ref)

    def publish(self, **manifest: Any) -> None:
        """Another version in the folder."""
        from anomvae.bundle import read_bundle, write_bundle

        bundle = read_bundle(self.folder)
        files = {name: (self.folder / name).read_bytes() for name in bundle.manifest.files}
        shutil.rmtree(self.folder)
        write_bundle(self.folder, replace(bundle.manifest, **manifest), files)

    def metric(self, name: str) -> float:
        told = self.metrics.render("")[0].decode().splitlines()
        return float(next(line for line in told if line.startswith(name)).rpartition(" ")[2])


@pytest.fixture
def scene(tmp_path: Path, log: Log) -> _Scene:
    return _Scene(tmp_path / "followed", log)


def test_a_new_version_answers_from_the_next_batch_on_with_the_windows_of_the_one_before(scene: _Scene) -> None:
    rows = pump_rows(40)
    records = [record(row, i) for i, row in enumerate(rows)]
    lane = scene.maker.make(load_stream_model(find_model(str(scene.folder))))
    before = [payload_of(message) for message in lane.answer(records[:60], None, NOW_S).answers]
    scene.publish(provenance=replace(pumps().manifest.provenance, seed=99))
    scene.follower.look()
    (new,) = scene.swapped
    new.inherit(lane)
    after = [payload_of(message) for message in new.answer(records[60:], None, NOW_S).answers]
    assert_same([*before, *after], expected(rows))
    assert {answer["model_version"] for answer in before} != {answer["model_version"] for answer in after}
    assert scene.metric('anomvae_stream_model_reloads_total{outcome="loaded"}') == 1


def test_what_does_not_change_is_not_loaded_again(scene: _Scene) -> None:
    for _ in range(3):
        scene.follower.look()
    assert scene.swapped == []


def test_a_version_that_wants_other_columns_is_refused_once_and_the_one_before_goes_on(
    scene: _Scene, told: io.StringIO
) -> None:
    columns = pumps().manifest.columns
    scene.publish(columns=(replace(columns[0], name="speed"), *columns[1:]))
    scene.follower.look()
    scene.follower.look()
    assert scene.swapped == []
    refused = [event for event in events_of(told) if event["event"] == "reload refused"]
    assert len(refused) == 1
    assert "wants other columns" in refused[0]["reason"]
    assert scene.metric("anomvae_stream_model_reload_refused") == 1
    scene.publish(columns=columns)
    scene.follower.look()
    assert scene.metric("anomvae_stream_model_reload_refused") == 0


def test_a_damaged_version_counts_as_refused_until_it_is_mended(scene: _Scene) -> None:
    scene.trouble = BundleError("damaged")
    scene.follower.look()
    assert scene.metric("anomvae_stream_model_reload_refused") == 1
    scene.trouble = None
    scene.follower.look()
    assert scene.metric("anomvae_stream_model_reload_refused") == 0
    assert scene.swapped == []


def test_a_version_of_tables_does_not_follow_one_of_series(scene: _Scene, told: io.StringIO) -> None:
    scene.publish(series=None, kind="table")
    scene.follower.look()
    assert scene.swapped == []
    assert "scores tables" in events_of(told)[-1]["reason"]


def test_a_reference_that_leads_nowhere_is_told_once_and_counted(scene: _Scene, told: io.StringIO) -> None:
    scene.trouble = ModelReferenceError("gone")
    for _ in range(3):
        scene.follower.look()
    assert [event["event"] for event in events_of(told)] == ["reference not found"]
    scene.trouble = None
    scene.follower.look()
    assert scene.metric('anomvae_stream_model_reloads_total{outcome="failed"}') == 1


def test_following_goes_on_after_an_error_that_nobody_foresaw(scene: _Scene, told: io.StringIO) -> None:
    scene.trouble = RuntimeError("boo")
    scene.follower.start(0.01)
    until(lambda: "reload failed" in told.getvalue(), "the error")
    scene.trouble = None
    scene.publish(provenance=replace(pumps().manifest.provenance, seed=7))
    until(lambda: scene.swapped, "the new version")
    scene.follower.stop()


def test_a_running_stream_follows_its_model(tmp_path: Path, log: Log) -> None:
    folder = tmp_path / "model"
    scene = _Scene(folder, log)
    out = tmp_path / "out.jsonl"
    rows = pump_rows(40)
    with Streaming("--model", folder, "--from", "-", "--to", out, "--follow-model", 0.05) as stream:
        stream.wait_for("streaming")
        stream.write(lines(rows[:50]))
        until(lambda: out.exists() and out.read_bytes().count(b"\n") == 50, "the first answers")
        scene.publish(provenance=replace(pumps().manifest.provenance, seed=99))
        stream.wait_for("model reloaded")
        stream.write(lines(rows[50:60]))  # perhaps still the version before: it answers what is awaited already
        until(lambda: out.read_bytes().count(b"\n") == 60, "the next answers")
        stream.write(lines(rows[60:]))
        assert stream.end() == 0
    found = answers(out.read_bytes())
    assert_same(found, expected(rows))
    versions = [answer["model_version"] for answer in found]
    assert len(set(versions[:50])) == 1
    assert versions[79] != versions[0]


# What it tells.


class _Script:
    """A source that gives what it is told to; lag and health are what a test sets."""

    def __init__(self, records: list[Record]) -> None:
        self.records, self.waiting, self.healthy, self.committed = records, {Place("t", 0): 5}, True, 0

    def poll(self, most: int, wait_s: float) -> Delivery:
        records, self.records = self.records[:most], self.records[most:]
        return Delivery(records, {}, (), ended=not records)

    def commit(self, progress: Mapping[Place, Progress]) -> None:
        self.committed += 1

    def lag(self) -> dict[Place, int]:
        return self.waiting

    def close(self) -> None:
        pass


def test_progress_is_told_when_it_is_made_and_while_there_is_none_to_make() -> None:
    from anomvae.daemon.streaming import LAG_EVERY_S, _Watched

    now = [1000.0]
    metrics = StreamMetrics(clock=lambda: now[0])
    script = _Script([])
    watched = _Watched(script, metrics)

    def progress() -> str:
        shown = metrics.render("")[0].decode().splitlines()
        return next(line for line in shown if line.startswith("anomvae_stream_last_progress")).split()[1]

    now[0] = 2000.0
    watched.poll(10, 0.0)
    assert progress() == "1000.0", "records lie there unread"
    assert 'anomvae_stream_lag_records{partition="0"} 5.0' in metrics.render("")[0].decode()
    watched.commit({})
    assert progress() == "2000.0"
    now[0], script.waiting = 3000.0, {}
    watched._told_s -= 2 * LAG_EVERY_S
    watched.poll(10, 0.0)
    assert progress() == "3000.0", "nothing to do is progress"
    now[0], script.healthy = 4000.0, False
    watched._told_s -= 2 * LAG_EVERY_S
    watched.poll(10, 0.0)
    assert progress() == "3000.0", "nobody knows what lies at a broker that is away"


def test_an_aborted_batch_counts_when_it_comes_again_and_not_before(log: Log) -> None:
    from anomvae.daemon.streaming import _Listener
    from anomvae.streaming.lane import Answered
    from anomvae.streaming.pump import Turn

    metrics = StreamMetrics()
    listener = _Listener(metrics, log, is_transactional=True)
    answered = Answered()
    answered.counts.records = answered.counts.scored = 3
    answered.latency_s = np.array([0.1, 0.1, 0.1])
    turn = Turn(answered, 3, 0.0, 0.0, 0.0)
    listener.aborted(3)
    listener.turn(turn)
    assert listener.told()["records"] == 0
    listener.turn(turn)
    assert listener.told()["records"] == 3
    told = metrics.render("")[0].decode()
    assert 'anomvae_stream_records_total{outcome="scored"} 3.0' in told
    assert 'anomvae_stream_transactions_total{outcome="aborted"} 1.0' in told
    assert 'anomvae_stream_transactions_total{outcome="committed"} 1.0' in told
