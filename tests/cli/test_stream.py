"""`anomvae stream` as its user runs it: a filter between pipes, a service between files, and what it says of bad options."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import anomvae
from tests.streamed import (
    WINDOW,
    Streaming,
    answers,
    assert_same,
    expected,
    lines,
    pump_rows,
    pumps,
    until,
)

if TYPE_CHECKING:
    from anomvae.bundle import Bundle
    from tests.conftest import Cli


def test_as_a_filter_it_answers_every_line_as_the_whole_table_is_answered_and_ends_with_its_input() -> None:
    rows = pump_rows(60, strange_from=100)
    with Streaming("--model", pumps().folder, "--from", "-", "--to", "-") as stream:
        out = stream.filtered(lines(rows))
        assert stream.process.wait(60) == 0
    found = answers(out)
    assert [answer["i"] for answer in found] == list(range(120))
    assert_same(found, expected(rows))
    assert sum(answer.get("reason") == "filling" for answer in found) == 2 * (WINDOW - 1)
    assert found[110]["alarm"]
    assert found[110]["reasons"][0]["column"] == "flow"
    assert {"machine", "when", "i", "event_id", "model_version", "latency_s"} <= found[110].keys()


def test_the_filter_says_so_and_leaves_with_1_when_its_reader_is_gone() -> None:
    with Streaming("--model", pumps().folder, "--from", "-", "--to", "-") as stream:
        stream.wait_for("streaming")
        assert stream.process.stdout is not None
        stream.process.stdout.close()
        stream.write(lines(pump_rows(20)))
        assert stream.process.wait(30) == 1
        assert stream.wait_for("stream failed")["reason"].startswith("nobody reads standard output")


def test_logs_go_to_standard_error_and_hold_no_values(tmp_path: Path) -> None:
    rows = [*pump_rows(20), {"machine": "A", "when": "2023-11-14T22:14:00", "flow": "s3cret", "heat": 1.0}]
    (tmp_path / "in.jsonl").write_bytes(lines(rows) + b"s3cret is no JSON\n")
    with Streaming(
        "--model", pumps().folder, "--from", tmp_path / "in.jsonl", "--to", tmp_path / "out.jsonl"
    ) as stream:
        assert stream.process.wait(60) == 0
        ended = stream.wait_for("stream ended")
    assert (ended["records"], ended["dead"]) == (42, 2)
    skipped = [event for event in stream.events if event["event"] == "record skipped"]
    assert [event["offset"] for event in skipped] == [40, 41]
    assert "'flow'" in skipped[0]["reason"]
    assert "s3cret" not in json.dumps(stream.events)


def test_dead_letters_come_with_their_reason_and_events_beside_the_answers(cli: Cli, tmp_path: Path) -> None:
    rows = pump_rows(60, strange_from=80)
    (tmp_path / "in.jsonl").write_bytes(b"no JSON\n" + lines(rows))
    ended = cli("stream", "--model", pumps().folder, "--from", "in.jsonl", "--to", "out.jsonl", "--dead-letter",
                "dead.jsonl", "--events", "--quiet", 3, "--least", 2)  # fmt: skip
    assert ended.code == 0, ended.err
    (dead,) = answers((tmp_path / "dead.jsonl").read_bytes())
    assert (dead["offset"], dead["payload"], dead["error"]) == (0, "no JSON", "the payload is not JSON")
    found = answers((tmp_path / "out.jsonl").read_bytes())
    events = [each for each in found if each.get("kind") == "event"]
    assert len(found) == 120 + len(events)
    assert {event["event"] for event in events} == {"open", "closed"}
    last = [event for event in events if event["event"] == "closed"][-2:]
    assert {event["asset"] for event in last} == {"A", "B"}
    assert {event["ended_by"] for event in last} == {"stream"}
    assert all(event["reasons"][0]["column"] == "flow" for event in last)


def test_events_go_where_events_to_says(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(lines(pump_rows(60, strange_from=80)))
    ended = cli("stream", "--model", pumps().folder, "--from", "in.jsonl", "--to", "out.jsonl", "--events", "--events-to",
                "events.jsonl", "--no-announce")  # fmt: skip
    assert ended.code == 0, ended.err
    assert len(answers((tmp_path / "out.jsonl").read_bytes())) == 120
    assert {event["event"] for event in answers((tmp_path / "events.jsonl").read_bytes())} == {"closed"}


def test_a_table_model_answers_rows_and_names_asset_and_time_where_told(
    cli: Cli, fitted: Bundle, tmp_path: Path
) -> None:
    from anomvae.scoring import Scorer
    from tests.conftest import mixed_table

    table = mixed_table(50, 3)
    (tmp_path / "in.jsonl").write_bytes(lines({**row, "at": i, "i": i} for i, row in enumerate(table.to_pylist())))
    ended = cli("stream", "--model", fitted.folder, "--from", "in.jsonl", "--to", "out.jsonl", "--asset", "part", "--time",
                "at", "--all-reasons", "--top", 1)  # fmt: skip
    assert ended.code == 0, ended.err
    found, scored = answers((tmp_path / "out.jsonl").read_bytes()), Scorer(fitted).score(table).to_pylist()
    for answer, row in zip(found, scored, strict=True):
        assert abs(answer["score"] - row["score"]) <= 1e-5 * max(1.0, abs(row["score"]))
        assert answer["alarm"] == row["alarm"]
        assert len(answer["reasons"]) == 1
    assert len({answer["event_id"] for answer in found}) == 50


def test_a_stated_alarm_rate_counts_and_one_that_cannot_be_is_refused(cli: Cli, fitted: Bundle, tmp_path: Path) -> None:
    from tests.conftest import mixed_table

    (tmp_path / "in.jsonl").write_bytes(lines(mixed_table(200, 4).to_pylist()))
    ended = cli("stream", "--model", fitted.folder, "--from", "in.jsonl", "--to", "out.jsonl", "--alarm-rate", 0.5)
    assert ended.code == 0, ended.err
    assert 60 <= sum(answer["alarm"] for answer in answers((tmp_path / "out.jsonl").read_bytes())) <= 140
    ended = cli("stream", "--model", fitted.folder, "--from", "in.jsonl", "--to", "-", "--alarm-rate", 1e-6)
    assert ended.code == 2
    assert "calibration rows" in ended.err


def test_after_a_kill_it_goes_on_where_its_progress_says_with_the_same_windows(tmp_path: Path) -> None:
    rows, progress = pump_rows(200, strange_from=300), tmp_path / "progress.json"
    into, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    options = ("--model", pumps().folder, "--from", into, "--to", out, "--progress", progress)
    into.write_bytes(lines(rows[:150]))
    with Streaming(*options) as stream:
        assert stream.process.wait(60) == 0
    into.write_bytes(lines(rows))
    with Streaming(*options) as stream:
        assert stream.process.wait(60) == 0
        assert stream.wait_for("stream ended")["records"] == 250
    found = answers(out.read_bytes())
    assert [answer["i"] for answer in found] == list(range(400))
    assert_same(found, expected(rows))


def test_sigterm_answers_what_is_at_hand_and_the_status_tells_of_it_all(tmp_path: Path) -> None:
    rows = pump_rows(30)
    with Streaming(
        "--model", pumps().folder, "--from", "-", "--to", tmp_path / "out.jsonl", "--metrics-port", 0
    ) as stream:
        url = stream.url
        stream.write(lines(rows))
        until(lambda: stream.metric("anomvae_stream_records_total") == 60, "all records")
        assert stream.metric("anomvae_stream_assets") == 2
        assert stream.metric("anomvae_stream_healthy") == 1
        for route in ("/health", "/health/live", "/health/ready", "/v2/health/ready"):
            assert httpx.get(url + route).json() == {"ok": True}
        assert httpx.get(url + "/nothing").status_code == 404
        assert httpx.head(url + "/metrics").content == b""
        assert stream.stop(signal.SIGTERM) == 0
        assert stream.wait_for("draining")["signal"] == "SIGTERM"
        assert stream.wait_for("stream stopped")["records"] == 60
    assert len(answers((tmp_path / "out.jsonl").read_bytes())) == 60


def test_the_second_signal_ends_it_at_once() -> None:
    """While nobody reads the answers, the first one cannot come to an end."""
    with Streaming("--model", pumps().folder, "--from", "-", "--to", "-") as stream:
        stream.wait_for("streaming")
        stream.write(lines(pump_rows(250)))
        stream.process.send_signal(signal.SIGTERM)
        stream.wait_for("draining")
        assert stream.stop(signal.SIGTERM) == -signal.SIGTERM


def test_time_to_drain_is_bounded() -> None:
    with Streaming("--model", pumps().folder, "--from", "-", "--to", "-", "--drain-timeout", 0.3) as stream:
        stream.wait_for("streaming")
        stream.write(lines(pump_rows(250)))
        assert stream.stop(signal.SIGINT) == 1
        stream.wait_for("drain timed out")


def test_settings_come_from_flags_before_variables_before_the_file(cli: Cli, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "in.jsonl").write_bytes(lines(pump_rows(40, strange_from=60)))
    (tmp_path / "stream.toml").write_text(
        f'model = "{pumps().folder}"\nfrom = "in.jsonl"\nto = "other.jsonl"\ntop = 1\nall-reasons = true\n'
    )
    monkeypatch.setenv("ANOMVAE_STREAM_TOP", "2")
    monkeypatch.setenv("ANOMVAE_STREAM_SERVICE_HOST", "10.0.0.1")
    ended = cli("stream", "--config", "stream.toml", "--to", "out.jsonl")
    assert ended.code == 0, ended.err
    found = answers((tmp_path / "out.jsonl").read_bytes())
    assert {len(answer["reasons"]) for answer in found if answer["score"] is not None} == {2}
    assert not (tmp_path / "other.jsonl").exists()


def closed(redirection: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A stream to whom a shell has closed a standard stream."""
    command = shlex.join(
        [sys.executable, "-m", "anomvae", "stream", "--model", *map(str, (pumps().folder, *arguments))]
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(anomvae.__file__).parents[1])}
    shell = ["sh", "-c", f"{command} {redirection}"]
    return subprocess.run(shell, capture_output=True, text=True, timeout=60, env=environment, check=False)


def test_a_standard_stream_that_is_closed_is_told_in_one_sentence() -> None:
    for redirection, sentence in (
        ("<&-", "--from is -, and standard input is closed"),
        (">&-", "--to is -, and standard output is closed"),
    ):
        ended = closed(redirection, "--from", "-", "--to", "-")
        assert ended.returncode == 2
        assert ended.stderr.splitlines()[-1].startswith(f"error: {sentence}")


def test_without_standard_error_it_answers_all_the_same_and_nothing_is_logged_into_its_files(tmp_path: Path) -> None:
    rows, (into, out) = pump_rows(20), (tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    into.write_bytes(lines(rows) + b"no JSON\n")
    assert closed("<&- >&- 2>&-", "--from", into, "--to", out).returncode == 0
    assert [answer["i"] for answer in answers(out.read_bytes())] == list(range(40))
    assert closed("2>&-", "--from", tmp_path / "none", "--to", out).returncode == 2


def test_two_processes_on_the_same_files_do_not_run_at_once(cli: Cli, tmp_path: Path) -> None:
    into, out, progress = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "progress.json"
    into.write_bytes(lines(pump_rows(20)))
    with Streaming("--model", pumps().folder, "--from", "-", "--to", out) as stream:
        stream.wait_for("streaming")
        ended = cli("stream", "--model", pumps().folder, "--from", into, "--to", out, "--progress", progress)
        assert ended.code == 2
        assert ended.err.splitlines()[-1].startswith(f"error: another process of anomvae writes {out}")
        assert stream.end() == 0
    ended = cli("stream", "--model", pumps().folder, "--from", into, "--to", out, "--progress", progress)
    assert ended.code == 0, ended.err
    assert len(answers(out.read_bytes())) == 40


WRONG = [
    ((), "a stream needs --model"),
    (("--model", "m", "--to", "-"), "a stream needs --from"),
    (("--from", "ftp://a/b"), "a stream cannot come from or go to ftp://"),
    (("--from", "in.jsonl", "--to", "./in.jsonl"), "--to leads back to --from"),
    (("--from", "kafka://a/t", "--to", "kafka://a/t"), "--to leads back to --from"),
    (("--from", "mqtt://a/x/+/#", "--to", "mqtt://a/x/{key}/y"), "--to leads back to --from"),
    (("--from", "*.jsonl", "--to", "out.jsonl"), "--to leads back to --from"),
    (("--from", "in*", "--to", "out.jsonl", "--dead-letter", "./indeed"), "--dead-letter leads back to --from"),
    (("--from", "in*", "--to", "out.jsonl", "--progress", "in.progress"), "--progress leads back to --from"),
    (("--from", "in.jsonl", "--to", "out.jsonl", "--progress", "out.jsonl"), "--progress names a file that is written"),
    (("--from", "/dev/null", "--to", "out.jsonl"), "/dev/null is a pipe or a device, and no file"),
    (("--to", "out.jsonl", "--dead-letter", "out.jsonl"), "--dead-letter names a file that is written already"),
    (("--exactly-once",), "--exactly-once is for streams from Kafka, and this one comes from standard input"),
    (
        ("--from", "kafka://a/t", "--exactly-once"),
        "--exactly-once is from Kafka to Kafka, all on one cluster, and --to leads",
    ),
    (("--from", "kafka://a/t", "--instance", "x"), "add --exactly-once"),
    (("--qos", "1"), "--qos is for streams from MQTT"),
    (("--group", "g"), "--group is for streams from Kafka"),
    (("--progress", "p"), "--progress is for streams from files"),
    (("--codec", "avro", "--schema", "s"), "files and pipes are read as lines of JSON"),
    (("--from", "kafka://a/t", "--codec", "xml"), "json, avro, avro-confluent, arrow"),
    (("--durable",), "nothing is written to one"),
    (("--quiet", "3"), "--quiet is about events"),
    (("--events-to", "e"), "--events-to is about events"),
    (("--top", "-1"), "--top is -1"),
    (("--follow-model", "1e10"), "--follow-model is 10000000000.0; it must be 0 to 604,800"),
    (("--start", "middle"), "--start is 'middle'; it must be earliest or latest"),
    (("--log-format", "xml"), "--log-format is 'xml'"),
    (("--from", "kafka://u:s3cret@a/t"), "holds a password"),
    (("--from", "kafka://a/t?group=x", "--group", "y"), "group stands in the address and among the options"),
    (("--from", "mqtt://a/t", "--shared-group", "g"), "name each with --client-id"),
    (("--from", "mqtts://a/t?frob=1"), "knows no option 'frob'"),
    (("--asset", "machine"), "--asset is for models of tables"),
    (("--config", "none.toml"), "cannot be read"),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG, ids=[sentence[:40] for _, sentence in WRONG])
def test_what_cannot_be_is_refused_in_one_sentence(cli: Cli, arguments: tuple[str, ...], sentence: str) -> None:
    Path("in.jsonl").write_bytes(b"")
    given = dict(zip(arguments[::2], arguments[1::2], strict=False)) if len(arguments) > 1 else {}
    usual = {"--model": str(pumps().folder), "--from": "-", "--to": "-"}
    if arguments and arguments[0] != "--model":
        arguments = (
            *arguments,
            *(word for name, value in usual.items() if name not in arguments for word in (name, value)),
        )
    ended = cli("stream", *arguments)
    assert ended.code == 2, (given, ended.err)
    last = ended.err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert sentence in last
    assert "s3cret" not in ended.err


CONFIGS = [
    ("tops = 3", "unknown key 'tops'; did you mean top?"),
    ("top = 'three'", "top in bad.toml must be a whole number"),
    ("[credentials.sideways]\nuser = 'x'", "credentials of 'sideways'"),
    ("[credentials.from]\npasword = 's3cret'", "unknown key 'pasword'"),
    (
        "[credentials.to]\npasword = 's3cret'",
        "[credentials.to] in bad.toml has the unknown key 'pasword'; it takes password",
    ),
    ("[credentials.dead-letter]\nxyz = 's3cret'", "unknown key 'xyz'; it takes user, password, ca_file"),
    ("[kafka]\n'linger.ms' = 3", "no end of the stream is Kafka"),
    ("top =", "is not TOML"),
]


@pytest.mark.parametrize(("text", "sentence"), CONFIGS, ids=[text[:20] for text, _ in CONFIGS])
def test_a_bad_configuration_is_refused_by_name(cli: Cli, text: str, sentence: str) -> None:
    Path("bad.toml").write_text(text)
    source = "kafka://localhost:1/t" if "from" in text else "-"
    ended = cli("stream", "--config", "bad.toml", "--model", pumps().folder, "--from", source, "--to", "-")
    assert ended.code == 2
    assert sentence in ended.err
    assert "s3cret" not in ended.err


def test_an_unknown_variable_is_refused_by_name(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMVAE_STREAM_TOPS", "3")
    ended = cli("stream", "--model", pumps().folder, "--from", "-", "--to", "-")
    assert ended.code == 2
    assert "ANOMVAE_STREAM_TOPS is no setting; did you mean top?" in ended.err
