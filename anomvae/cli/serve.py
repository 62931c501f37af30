"""`anomvae serve`: the scoring daemon."""

from __future__ import annotations

import inspect
import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from anomvae.daemon.settings import ServeSettings, flag_of, load_settings, variable_of
from anomvae.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomvae.references import FoundModel


def serve(models: list[str] | None, config: Path | None, **flags: Any) -> None:
    """Serve models over HTTP and gRPC: Open Inference Protocol, named columns, Arrow; with Prometheus metrics.

    Every option is also an environment variable (ANOMVAE_SERVE_PORT) and a key of --config (port). See /docs once it runs.
    """
    settings = load_settings({**flags, "models": tuple(models or ())}, os.environ, config)
    try:
        from anomvae.daemon.lifecycle import run
    except ImportError as error:
        raise MissingExtraError("serving", "serve") from error
    run(settings, _References(settings.tracking_uri))


class _References:
    """References, looked up in folders and the registry."""

    def __init__(self, tracking_uri: str | None) -> None:
        self._tracking_uri = tracking_uri

    def find(self, ref: str) -> FoundModel:
        """See :func:`anomvae.references.find_model`."""
        from anomvae.references import find_model

        return find_model(ref, tracking_uri=self._tracking_uri)

    def challenger(self, ref: str) -> FoundModel | None:
        """See :func:`anomvae.references.find_challenger`."""
        from anomvae.references import find_challenger

        return find_challenger(ref, tracking_uri=self._tracking_uri)


def _command() -> Callable[..., None]:
    """The command with one option a setting, so that none can be forgotten."""
    hints = get_type_hints(ServeSettings)
    parameters = [
        _parameter(
            "models", list[str] | None, typer.Argument(help=_help("models"), metavar="REF...", show_default=False)
        ),
        _parameter(
            "config",
            Path | None,
            typer.Option("--config", help="TOML file with any of these settings.", show_default=False),
        ),
    ]
    for name, hint in hints.items():
        if name == "models":
            continue
        kind = str if get_origin(hint) is Literal else hint
        kind = kind if type(None) in get_args(kind) else kind | None
        flag = f"{flag_of(name)}/--no-{flag_of(name)[2:]}" if hint is bool else flag_of(name)
        option = typer.Option(flag, help=_help(name), show_default=False, metavar=_metavar(hint))
        parameters.append(_parameter(name, kind, option))

    def command(**values: Any) -> None:
        serve(**values)

    command.__doc__ = serve.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameter(name: str, kind: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])


def _help(name: str) -> str:
    known = next(known for known in fields(ServeSettings) if known.name == name)
    default = known.default
    told = (
        ""
        if default is None or default == () or isinstance(default, bool)
        else f" [default: {default:g}]"
        if isinstance(default, float)
        else f" [default: {default}]"
    )
    return f"{known.metadata['help']}{told}"


def _metavar(hint: Any) -> str | None:
    return "json|text" if get_origin(hint) is Literal else None


command = _command()
__all__ = ["command", "serve", "variable_of"]
