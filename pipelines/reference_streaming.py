"""The parts of docs/reference.md that are about streams: settings, metrics, events."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from anomvae.daemon.stream_settings import StreamSettings, flag_of, key_of, options, variable_of
from anomvae.observability.stream_metrics import STREAM_INSTRUMENTS
from pipelines.reference_serving import PACKAGE, events_table, kind_of, log_calls, metrics_table, written_default

if TYPE_CHECKING:
    from pathlib import Path

EVENTS = {
    "streaming": "It is connected and about to answer; `sinks` by their flags, `status` where metrics and health are.",
    "partitions changed": "Partitions came to this process, or went to another.",
    "draining": "It was told to stop: what is at hand is answered, delivered and committed.",
    "drain timed out": "Source or sink did not let it leave within `--drain-timeout`; what is not committed comes again. Exit code 1.",
    "mqtt unreachable": "A connection to an MQTT broker was lost, or cannot be had, with the `reason`; told once an outage.",
    "mqtt connected again": "It is back.",
    "stream stopped": "It was told to, and all that was answered is committed.",
    "stream ended": "The source has no more records: a file, or standard input.",
    "stream failed": "Source or sink, or who read standard output, is gone for good; what is not committed comes again. Says what was answered, as `stream ended` does.",
    "stream not started": "It could not start; the reason is also the last line, as for any command.",
    "record skipped": "A record cannot be answered, and there is no `--dead-letter`.",
    "batch aborted": "A transaction came to nothing; its records come again.",
    "transaction aborted": "The same, with the cluster's word for it.",
    "transaction left open": "The cluster was away when the stream stopped; it ends the transaction by itself.",
    "kafka unreachable": "The connection is lost, or was never there; it is tried again.",
    "kafka connected again": "The cluster answers again.",
    "kafka error": "The client reports something that does not keep it from going on.",
    "commit without replay offset": "Another tool has moved the group's offsets: windows fill anew, or from `lookback` records before.",
    "log begins anew": "The topic was made anew, and is read from its beginning.",
    "records have left the log": "Retention took records before they were read.",
    "model reloaded": "A version went into service in place of the one before.",
    "reload refused": "The newest version is not fit, or wants other columns; the one before stays.",
    "reload failed": "A version could not be loaded for a reason that may pass; the next look tries again.",
    "reference not found": "The reference could not be looked up; the version in service stays.",
    "note": "What the registry has to say, such as that there is no champion yet.",
}


def settings() -> str:
    """Every setting of a stream by all its names."""
    rows = ["| flag | variable | key | value | default | meaning |", "|---|---|---|---|---|---|"]
    hints = get_type_hints(StreamSettings)
    rows += [
        f"| `{flag_of(name)}` | `{variable_of(name)}` | `{key_of(name)}` | {kind_of(_plain(hints[name]), known)} "
        f"| {written_default(known['default'] or None)} | {known['help']} |"
        for name, known in options().items()
    ]
    return "\n".join(rows) + "\n"


def _plain(hint: Any) -> Any:
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return hint if get_origin(hint) is Literal or not kinds else kinds[0]


def logged_events() -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    """What the code of streams logs: levels and fields by event."""
    found: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    files: list[Path] = [*(PACKAGE / "daemon").glob("stream*.py"), *(PACKAGE / "streaming").glob("*.py")]
    for file in sorted(files):
        for level, event, fields in log_calls(ast.parse(file.read_text(encoding="utf-8"))):
            found.setdefault(event, []).append((level, fields))
    return found


def sections() -> list[str]:
    """The sections, in their order."""
    return [
        "## Settings of `anomvae stream`\n\nFlags overrule variables, variables overrule the file of `--config` (or "
        "`ANOMVAE_STREAM_CONFIG`), the file overrules defaults. The chapter on [streaming](streaming.md) tells how they go "
        "together, and where passwords come from.\n",
        settings(),
        "## Metrics of `anomvae stream`\n\nWith `--metrics-port`; `process_*` and `python_*` come on top.\n",
        metrics_table(STREAM_INSTRUMENTS),
        "## Log events of `anomvae stream`\n\nAs those of the daemon: one JSON object a line on standard error.\n",
        events_table(EVENTS, logged_events()),
    ]
