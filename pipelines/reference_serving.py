"""The parts of docs/reference.md that are about the daemon: settings, routes, methods, statuses, metrics, events."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import anomvae
import anomvae.errors
from anomvae.daemon.settings import ServeSettings, flag_of, variable_of
from anomvae.observability import INSTRUMENTS
from anomvae.serving.grpc_front import OPEN_METHODS, GrpcFront
from anomvae.serving.openapi import ERRORS, openapi
from anomvae.serving.status import status_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from anomvae.observability import Instrument

PACKAGE = Path(anomvae.__file__).parent
LEVELS = ("info", "warning", "error")

AT_THE_DOOR = {
    408: "The headers did not arrive in `header_timeout` seconds; the connection is closed.",
    431: "Request line and headers are larger than `max_header_kb`, or there are more than 100 headers.",
    499: "The caller went away before it was answered: no answer, but a metric.",
}
"""Statuses that no route gives."""

METHODS = {
    "ServerLive": "Whether the process answers.",
    "ServerReady": "Whether all models are loaded and requests taken.",
    "ModelReady": "Whether a model takes requests.",
    "ServerMetadata": "Name, version and extensions of the daemon.",
    "ModelMetadata": "Inputs and outputs of a model.",
    "ModelConfig": "A model's configuration, as Triton's clients read it.",
    "ModelInfer": "Scores tensors, raw or typed.",
    "RepositoryIndex": "Models and their states.",
    "RepositoryModelLoad": "Looks at the model's reference now, and loads what it names.",
    "Check": "gRPC's own health check, for the whole daemon or the service.",
}

EVENTS = {
    "serving": "It listens and is ready.",
    "draining": "It was told to stop: readiness is off, requests are still taken for `requests_s`.",
    "stopped": "All that was accepted is answered, or the deadline has passed.",
    "model loaded": "A version passed its self-test; `apart_from_cpu` is the largest relative difference on another device.",
    "model reloaded": "A version went into service in place of the one before.",
    "reload refused": "The newest version is not fit to serve, or wants other columns; the one before stays.",
    "reference not found": "The reference could not be looked up: registry away, folder gone; the version in service stays.",
    "shadow ended": "The challenger is no more: its alias is gone, or it was promoted.",
    "not started": "The daemon could not start; the reason is also the last line, as for any command.",
    "reload failed": "An error while a reference was looked at or a new version was run; the version in service stays, the next look tries again.",
    "category codes changed": "The new version knows other categories or dates: callers that send codes must read them anew.",
    "note": "What the registry has to say, such as that there is no champion yet.",
    "challenger in shadow": "A version with the alias `challenger` is scored in shadow from now on.",
    "no shadow": "The challenger cannot be scored in shadow.",
    "execution provider fell back": "The model does not run on the provider asked for first.",
    "execution provider failed to load the model": "The provider refused the graph; the CPU takes it.",
    "tokens reloaded": "The tokens file was read again.",
    "tokens not reloaded": "The tokens file is wrong; the tokens before stay valid.",
    "open to everyone": "It listens beyond this machine without tokens; `--tokens-file` names who may ask.",
    "request failed": "A request failed through no fault of the caller's.",
}


def settings() -> str:
    """Every setting of the daemon by all its names."""
    rows = ["| flag | variable | key | value | default | meaning |", "|---|---|---|---|---|---|"]
    hints = get_type_hints(ServeSettings)
    rows += [
        f"| `{flag_of(known.name)}` | `{variable_of(known.name)}` | `{known.name}` "
        f"| {'list' if known.name == 'models' else kind_of(hints[known.name], known.metadata)} "
        f"| {written_default(known.default)} | {known.metadata['help']} |"
        for known in dataclasses.fields(ServeSettings)
    ]
    return "\n".join(rows) + "\n"


def kind_of(hint: Any, known: Mapping[str, Any]) -> str:
    """What a setting's value may be, by its type and range."""
    words = {bool: "flag", int: "whole number", float: "number", str: "text", Path: "file"}
    kinds = [kind for kind in (hint, *get_args(hint)) if kind in words]
    low, high = known["low"], known["high"]
    if low is None:
        return words[kinds[0]] if kinds else " or ".join(f"`{choice}`" for choice in get_args(hint))
    return f"{_written(low)} to {_written(high)}" if high < float("inf") else f"at least {_written(low)}"


def _written(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{number:g}"


def written_default(value: Any) -> str:
    """A setting's default as the page has it."""
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def routes() -> str:
    """Every HTTP route, with its tag and what it answers."""
    rows = ["| route | token | meaning | answers |", "|---|---|---|---|"]
    for path, item in openapi((), secured=True)["paths"].items():
        for method in ("get", "post"):
            operation = item.get(method)
            if operation is None:
                continue
            token = "no" if operation.get("security") == [] else "yes"
            codes = ", ".join(sorted(operation["responses"]))
            rows.append(f"| `{method.upper()} {path}` | {token} | {operation['summary']} | {codes} |")
    return "\n".join(rows) + "\n"


def grpc_methods() -> str:
    """Every gRPC method, with its messages."""
    rows = ["| method | token | meaning |", "|---|---|---|"]
    services = GrpcFront(service=None).answers  # type: ignore[arg-type]  # only its names are read
    rows += [
        f"| `{service}/{name}` | {'no' if name in OPEN_METHODS else 'yes'} | {METHODS[name]} |"
        for service, answers in services.items()
        for name in answers
    ]
    return "\n".join(rows) + "\n"


def statuses() -> str:
    """Every status by what leads to it."""
    causes: dict[tuple[int, str], list[str]] = {}
    for error in (*_errors(), asyncio.CancelledError):
        status = status_of(BaseException.__new__(error))
        causes.setdefault((status.http, status.grpc), []).append(f"`{error.__name__}`")
    known = {http: (grpc, names) for (http, grpc), names in causes.items()}
    rows = ["| HTTP | gRPC | meaning | errors |", "|---|---|---|---|"]
    for http in sorted({*ERRORS, *AT_THE_DOOR}):
        grpc, names = known.get(http, ("", []))
        meaning = ERRORS.get(http) or AT_THE_DOOR[http]
        rows.append(f"| {http} | {f'`{grpc}`' if grpc else ''} | {meaning} | {', '.join(names)} |")
    return "\n".join(rows) + "\n"


def _errors() -> list[type[anomvae.errors.AnomvaeError]]:
    return [
        value
        for value in vars(anomvae.errors).values()
        if isinstance(value, type) and issubclass(value, anomvae.errors.AnomvaeError)
    ]


def metrics_table(instruments: Iterable[Instrument]) -> str:
    """Metrics, and the buckets of the histograms among them."""
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    buckets: dict[tuple[float, ...], list[str]] = {}
    for instrument in instruments:
        labels = ", ".join(f"`{label}`" for label in instrument.labels)
        rows.append(f"| `{instrument.name}` | {instrument.type} | {labels} | {instrument.help} |")
        if instrument.buckets:
            buckets.setdefault(instrument.buckets, []).append(f"`{instrument.name}`")
    rows += ["", "| histogram | upper edges of its buckets |", "|---|---|"]
    rows += [
        f"| {', '.join(names)} | {', '.join(f'{edge:g}' for edge in edges)}, +Inf |" for edges, names in buckets.items()
    ]
    return "\n".join(rows) + "\n"


def events_table(meanings: Mapping[str, str], found: Mapping[str, list[tuple[str, tuple[str, ...]]]]) -> str:
    """Events of the log."""
    rows = ["| event | level | fields | meaning |", "|---|---|---|---|"]
    for name, meaning in meanings.items():
        levels = [level for level in LEVELS if level in {level for level, _ in found[name]}]
        fields = dict.fromkeys(field for _, fields in found[name] for field in fields)
        rows.append(f"| `{name}` | {', '.join(levels)} | {', '.join(f'`{field}`' for field in fields)} | {meaning} |")
    return "\n".join(rows) + "\n"


def logged_events() -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    """What the code of the daemon logs: levels and fields by event, as its calls of the log say."""
    found: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for package in ("daemon", "serving"):
        files = [file for file in (PACKAGE / package).glob("*.py") if not file.name.startswith("stream")]
        for file in sorted(files):
            for level, event, fields in log_calls(ast.parse(file.read_text(encoding="utf-8"))):
                found.setdefault(event, []).append((level, fields))
    return found


def log_calls(tree: ast.AST) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Level, event and names of the fields of every call of a log."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS):
            continue
        owner = ast.unparse(node.func.value)
        if not owner.endswith("log") or not node.args:
            continue
        texts = [part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant)]
        fields = tuple(keyword.arg for keyword in node.keywords if keyword.arg)
        for text in texts:
            yield node.func.attr, str(text), fields


def sections() -> list[str]:
    """The sections, in their order."""
    return [
        "## Settings of `anomvae serve`\n\nFlags overrule variables, variables overrule the file of `--config` (or "
        "`ANOMVAE_SERVE_CONFIG`), the file overrules defaults. A list in a variable is separated by blanks; a key may be "
        "written with dashes.\n",
        settings(),
        '## HTTP routes\n\nAn error\'s body is `{"error": "one sentence"}`. The daemon\'s own `/openapi.json` and `/docs` '
        "know the columns of what it serves. 408, 431 and, with too many connections, 503 come before any route.\n",
        routes(),
        "## gRPC methods\n",
        grpc_methods(),
        "## Statuses\n",
        statuses(),
        "## Metrics\n\n`model` is the name served under, empty where no served model was named. `protocol` is `v2-json`, "
        "`v2-binary`, `v1-json`, `v1-arrow`, `mlflow`, `grpc` or `other`. `code` is the HTTP status or the name of gRPC's. "
        "`process_*` and `python_*` come on top.\n",
        metrics_table(INSTRUMENTS),
        "## Log events\n\nOne JSON object a line on standard error: `time`, `level`, `event`, then the fields. More than ten "
        "equal events a second are counted in `suppressed`. Warnings of libraries come with a field `logger`.\n",
        events_table(EVENTS, logged_events()),
    ]
