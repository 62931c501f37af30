"""The chapter on streams is true: its commands, settings, options, reasons and fields are those of the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import orjson
import pytest
import yaml

from anomvae.daemon.stream_ends import PUBLICATION_OPTIONS, SUBSCRIPTION_OPTIONS, read_addresses
from anomvae.daemon.stream_settings import StreamSettings, flag_of, load_stream_settings, options
from anomvae.streaming.answers import RESERVED
from anomvae.streaming.codec import CAUSES
from anomvae.streaming.placement import Fate

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "streaming.md").read_text(encoding="utf-8")
FLAGS = {flag_of(name): name for name in options()}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def commands(name: str) -> list[list[str]]:
    lines = "\n".join(blocks("sh")).splitlines()
    found = [line[line.index(f"anomvae {name}") :] for line in lines if f"anomvae {name}" in line]
    return [shlex.split(line, comments=True)[2:] for line in found]


@pytest.mark.parametrize("words", commands("stream"), ids=lambda words: words[3])
def test_a_command_of_the_chapter_says_what_can_be(words: list[str]) -> None:
    flags: dict[str, object] = {}
    while words:
        name = FLAGS[words.pop(0)]
        flags[name] = True if isinstance(options()[name]["default"], bool) else words.pop(0)
    for name in ("metrics_port", "asset_level"):
        flags |= {name: int(str(flags[name]))} if name in flags else {}
    flags |= {"progress": Path(str(flags["progress"]))} if "progress" in flags else {}
    read_addresses(load_stream_settings(flags, {}))


def test_the_replays_of_the_chapter_have_options_that_are(cli: object) -> None:
    import typer.main

    from anomvae.cli.app import app

    command = typer.main.get_command(app).commands["replay"]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    for words in commands("replay"):
        assert {word for word in words if word.startswith("--")} <= known


def test_the_settings_of_the_chapter_are_settings(tmp_path: Path) -> None:
    file = tmp_path / "stream.toml"
    file.write_text(blocks("toml")[0])
    settings = load_stream_settings({}, {}, file)
    read_addresses(settings)
    assert settings.exactly_once
    assert settings.kafka == {"linger.ms": "50"}
    assert set(settings.credentials) == {"from", "to", "dead-letter"}


def test_every_flag_the_chapter_names_is_one() -> None:
    others = {"--past-only", "--off", "--json", "--alarm-rate", "--config", "--no-announce"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) <= set(FLAGS) | others


def test_the_numbers_of_the_chapter_are_the_defaults() -> None:
    settings = StreamSettings()
    found = re.findall(r"`(--[a-z-]+)`[a-z ]*(?:an alarm|without one|seconds|alarms)? ?\((\d+)\)", PAGE)
    assert {flag for flag, _ in found} == {"--future", "--quiet", "--least"}
    for flag, number in found:
        assert getattr(settings, FLAGS[flag]) == float(number)
    assert settings.follow_model == 30.0


def test_every_reason_cause_and_field_stands_in_the_chapter() -> None:
    for word in [fate.name.lower() for fate in Fate if fate is not Fate.STEP] + list(CAUSES) + list(RESERVED):
        assert f"`{word}`" in PAGE, word


def test_every_option_of_an_address_stands_in_the_chapter() -> None:
    pytest.importorskip("confluent_kafka")
    from anomvae.streaming.kafka_reading import SOURCE_OPTIONS
    from anomvae.streaming.kafka_sink import SINK_OPTIONS

    rows = dict(re.findall(r"^\| (`(?:kafka|mqtt)://`.*?) \| (.*) \|$", PAGE, re.MULTILINE))
    told = [set(re.findall(r"`([a-z_]+)`", row.partition(";")[0])) for row in rows.values()]
    assert told == [set(SOURCE_OPTIONS), set(SINK_OPTIONS), set(SUBSCRIPTION_OPTIONS), set(PUBLICATION_OPTIONS)]


def test_the_event_of_the_chapter_has_the_fields_of_an_event() -> None:
    from anomvae.daemon.stream_models import LaneMaker, load_stream_model
    from anomvae.references import find_model
    from anomvae.streaming.contracts import Origin, Record
    from tests.streamed import lines, pump_rows, pumps

    (event,) = (orjson.loads(block) for block in blocks("json"))
    lane = LaneMaker(StreamSettings(events=True), 1).make(load_stream_model(find_model(str(pumps().folder))))
    payloads = lines(pump_rows(60, strange_from=80)).splitlines()
    lane.answer([Record(payload, Origin("t", 0, i)) for i, payload in enumerate(payloads)], None, 2e9)
    closed = orjson.loads(lane.finish().events[0].payload)
    assert list(closed) == list(event)
    assert list(closed["peak"]) == list(event["peak"])
    assert list(closed["reasons"][0]) == list(event["reasons"][0])


def test_the_job_of_the_chapter_is_the_one_that_rules_know() -> None:
    (job,) = yaml.safe_load(blocks("yaml")[0])["scrape_configs"]
    rules = (ROOT / "deploy" / "prometheus" / "rules" / "anomvae-stream.yml").read_text()
    assert set(re.findall(r'job="([\w-]+)"', rules)) == {job["job_name"]}


def test_every_link_of_the_chapter_leads_somewhere() -> None:
    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)", reference, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target, anchor in re.findall(r"\]\(([^)#]+)#?([^)]*)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
        assert not anchor or anchor in anchors, anchor
