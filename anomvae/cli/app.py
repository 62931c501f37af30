"""The command `anomvae`: its commands, and what becomes of errors."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import anomvae
from anomvae.cli import calibrate, check, doctor, evaluate, fit, models, power, replay, score, serve, stream
from anomvae.cli.console import complain
from anomvae.errors import AnomvaeError

INTERRUPTED = 130


class _Interrupted(Exception):  # noqa: N818  not an error
    """Ctrl-C outside of training, which takes it itself."""


class _ReaderGone(Exception):  # noqa: N818  not an error
    """Whoever read standard output has seen enough; to a stream, which is to go on, that is an error instead."""


class _Commands(TyperGroup):
    """Brings out what typer would swallow."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _Interrupted from None
        except BrokenPipeError:
            raise _ReaderGone from None


app = typer.Typer(
    name="anomvae",
    cls=_Commands,
    help="Learn what is normal, catch what is not: fit a variational autoencoder on normal rows, calibrate it to the false "
    "alarms you can bear, score new rows with reasons.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("fit")(fit.fit)
app.command("calibrate")(calibrate.calibrate)
app.command("score")(score.score)
app.command("serve")(serve.command)
app.command("stream")(stream.command)
app.command("replay")(replay.replay)
app.command("evaluate")(evaluate.evaluate)
app.command("power")(power.power)
app.command("check")(check.check)
app.command("doctor")(doctor.doctor)
app.add_typer(models.app, name="models")


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"anomvae {anomvae.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command."""


def _drop_output() -> None:
    """What is still buffered for standard output goes nowhere, for nobody reads it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Runs the command line: exit code 0 fine, 1 our fault, 2 the caller's, 130 interrupted.

    An error is one line on standard error; `--debug` adds the traceback. What was not foreseen is named by its type
    alone, since its text may hold data.
    """
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except AnomvaeError as error:
        if debug:
            traceback.print_exc()
        if isinstance(error.__cause__, BrokenPipeError):
            _drop_output()
        complain(str(error))
        sys.exit(error.exit_code)
    except _Interrupted:
        complain("interrupted; what was being written was not finished, and is not there")
        sys.exit(INTERRUPTED)
    except _ReaderGone:
        _drop_output()
        sys.exit(0)
    except Exception as error:  # noqa: BLE001  the last resort, which must not echo data
        if debug:
            traceback.print_exc()
        complain(
            f"an error of anomvae itself ({type(error).__name__}); run again with --debug and report what it prints"
        )
        sys.exit(1)
