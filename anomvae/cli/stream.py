"""`anomvae stream`: the streaming scoring service."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from anomvae.daemon.stream_settings import StreamSettings, flag_of, load_stream_settings, options
from anomvae.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomvae.references import FoundModel

METAVARS = {
    "model": "REF",
    "source": "SOURCE",
    "sink": "SINK",
    "dead_letter": "SINK",
    "events_to": "SINK",
    "codec": "json|avro|avro-confluent|arrow",
    "log_format": "json|text",
    "start": "earliest|latest",
}


def stream(config: Path | None, **flags: Any) -> None:
    """Score a stream: records from Kafka, MQTT, files or standard input in, answers out, alarms with their reasons.

    Every option is also an environment variable (ANOMVAE_STREAM_DEAD_LETTER) and a key of --config (dead_letter). Passwords
    come by environment (ANOMVAE_KAFKA_PASSWORD) or --config alone. SIGTERM answers what is at hand, commits and leaves.
    """
    _fill_closed()
    settings = load_stream_settings(flags, os.environ, config)
    try:
        from anomvae.daemon.streaming import run_stream
    except ImportError as error:
        raise MissingExtraError("streaming", "stream") from error

    def find(ref: str) -> FoundModel:
        from anomvae.references import find_model

        return find_model(ref, tracking_uri=settings.tracking_uri)

    run_stream(settings, find, os.environ)


def _fill_closed() -> None:
    """Lets nothing else take the place of a standard stream that was closed: a file there would be written by whoever warns.

    What would be logged to a closed standard error goes nowhere.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the least that is free: this one
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  open as long as the process


def _command() -> Callable[..., None]:
    """The command with one option a setting, so that none can be forgotten."""
    hints = get_type_hints(StreamSettings)
    help_ = "TOML file with any of these settings, and with credentials."
    parameters = [
        _parameter("config", Path | None, typer.Option("--config", help=help_, show_default=False)),
    ]
    for name, known in options().items():
        hint = hints[name]
        kinds = [kind for kind in (get_args(hint) or (hint,)) if kind is not type(None)]
        kind = str if get_origin(hint) is Literal or get_origin(kinds[0]) is Literal else kinds[0]
        flag = f"{flag_of(name)}/--no-{flag_of(name)[2:]}" if hint is bool else flag_of(name)
        names = (flag, "-m") if name == "model" else (flag,)
        option = typer.Option(*names, help=_help(known), show_default=False, metavar=METAVARS.get(name))
        parameters.append(_parameter(name, kind | None, option))

    def command(**values: Any) -> None:
        stream(**values)

    command.__doc__ = stream.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameter(name: str, kind: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])


def _help(known: dict[str, Any]) -> str:
    default = known["default"]
    if default is None or default == "" or isinstance(default, bool):
        return str(known["help"])
    return (
        f"{known['help']} [default: {default:,g}]"
        if isinstance(default, (int, float))
        else (f"{known['help']} [default: {default}]")
    )


command = _command()
__all__ = ["command", "stream"]
