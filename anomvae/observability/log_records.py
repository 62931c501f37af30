"""What libraries log, told through the product's own log, without the values that their texts may hold."""

from __future__ import annotations

import logging
import re
import traceback
from contextlib import contextmanager
from pathlib import PurePath
from typing import TYPE_CHECKING

from anomvae.observability.log_values import exception_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anomvae.observability.logs import Log

LIBRARIES = ("uvicorn", "grpc", "asyncio")
MAX_FRAMES = 8
"""Innermost calls told of an exception."""

KAFKA_TEMPLATE = "%s [%s] %s"
"""How confluent-kafka tells what librdkafka says: the kind of event, the client's name, and a text."""
KAFKA_EVENT = re.compile(r"[A-Z][A-Z0-9_]*")
BEFORE_VALUES = re.compile(r"[^\n(<\[{'\"=%]*")
"""The start of a text that a library has put together itself: up to where a value could begin."""


@contextmanager
def library_records(log: Log, names: Sequence[str] = LIBRARIES) -> Iterator[None]:
    """While it lasts, warnings and errors of libraries go through the log, and nowhere else.

    A record becomes an event named as its message begins, with the fields `logger` and, of an exception, `error` (its
    type) and `calls` (file, line and function, innermost last). Arguments of the record, texts of exceptions and source
    lines are left out: they may hold data. Of what the Kafka client says, its kind of event is told, such as `Kafka client: FAIL`.

    Args:
        log: Where to.
        names: Loggers of the standard library's `logging`, with all below them.
    """
    handler = _Handler(log)
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)


class _Handler(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, object] = {"logger": record.name}
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            fields |= {"error": error, "calls": _calls(error)}
        self._log.write("error" if record.levelno >= logging.ERROR else "warning", _event(record), fields)


def _event(record: logging.LogRecord) -> str:
    """The template of a record, without its arguments; of a text that had no arguments, its beginning."""
    template: object = record.msg
    if isinstance(template, BaseException):
        return exception_name(template)
    if not isinstance(template, str):
        return type(template).__name__
    if template == KAFKA_TEMPLATE and isinstance(record.args, tuple):
        kind = KAFKA_EVENT.fullmatch(str(record.args[0]))
        return f"Kafka client: {kind.group()}" if kind else "Kafka client"
    if record.args:
        return template.partition("\n")[0]
    found = BEFORE_VALUES.match(template)
    return (found.group().rstrip(" :,") if found else "") or "library message"


def _calls(error: BaseException) -> list[str]:
    calls = list(traceback.walk_tb(error.__traceback__))[-MAX_FRAMES:]
    return [f"{PurePath(frame.f_code.co_filename).name}:{line} {frame.f_code.co_name}" for frame, line in calls]
