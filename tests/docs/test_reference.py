from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import typer.main

import anomvae.errors
from anomvae.cli.app import app
from anomvae.daemon import stream_settings
from anomvae.daemon.settings import ServeSettings, flag_of, variable_of
from anomvae.observability import INSTRUMENTS
from anomvae.observability.stream_metrics import STREAM_INSTRUMENTS
from anomvae.serving.openapi import ERRORS, openapi
from pipelines import reference_streaming
from pipelines.reference import PAGE, page
from pipelines.reference_serving import EVENTS, logged_events

ROOT = Path(__file__).parent.parent.parent


def test_the_reference_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_every_command_option_and_error_stands_in_the_reference() -> None:
    text = PAGE.read_text(encoding="utf-8")
    root = typer.main.get_command(app)

    def walk(command: object, path: str) -> None:
        for name, child in getattr(command, "commands", {}).items():
            walk(child, f"{path} {name}")
        if not getattr(command, "commands", None):
            assert f"`{path}`" in text
            for parameter in command.params:  # type: ignore[attr-defined]
                names = [*parameter.opts, *parameter.secondary_opts]
                for option in names if parameter.param_type_name == "option" else []:
                    assert f"`{option}`" in text, f"{path} {option}"

    walk(root, "anomvae")
    for name in vars(anomvae.errors):
        if name.endswith("Error"):
            assert f"`{name}`" in text


def test_every_setting_of_the_daemon_stands_in_the_reference_by_all_its_names() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for known in fields(ServeSettings):
        assert f"| `{flag_of(known.name)}` | `{variable_of(known.name)}` | `{known.name}` |" in text


def test_every_metric_route_and_status_stands_in_the_reference() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for instrument in INSTRUMENTS:
        assert f"| `{instrument.name}` | {instrument.type} |" in text
    for path, item in openapi((), secured=True)["paths"].items():
        for method in item.keys() & {"get", "post"}:
            assert f"| `{method.upper()} {path}` |" in text
    for status in ERRORS:
        assert f"| {status} |" in text


def test_every_event_that_is_logged_stands_in_the_reference_with_a_meaning() -> None:
    assert logged_events().keys() == EVENTS.keys()


def test_settings_metrics_and_events_of_streams_stand_in_the_reference() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in stream_settings.options():
        flag, variable, key = (
            of(name) for of in (stream_settings.flag_of, stream_settings.variable_of, stream_settings.key_of)
        )
        assert f"| `{flag}` | `{variable}` | `{key}` |" in text
    for instrument in STREAM_INSTRUMENTS:
        assert f"| `{instrument.name}` | {instrument.type} |" in text
    assert reference_streaming.logged_events().keys() == reference_streaming.EVENTS.keys()


def test_every_error_stands_in_the_tree_of_its_module() -> None:
    for name in vars(anomvae.errors):
        if name.endswith("Error"):
            assert name in (anomvae.errors.__doc__ or "")


def test_decisions_are_short() -> None:
    for path in (ROOT / "docs" / "adr").glob("*.md"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 40, path.name
