"""Whose fault an error is, as HTTP and gRPC say it: the one table."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from anomvae.errors import (
    AnomvaeError,
    DeadlineError,
    InputError,
    OverloadedError,
    RequestTooLargeError,
    SlowRequestError,
    StoppingError,
    UnauthorizedError,
    UnknownModelError,
)

MAX_MESSAGE_CHARACTERS = 1000
"""What gRPC sends beside an answer has a limit of its own, beyond which the caller learns nothing."""


class Status(NamedTuple):
    """How an error is told.

    Attributes:
        http: HTTP status code.
        grpc: Name of the gRPC status.
        message: One sentence, without data, of bounded length.
    """

    http: int
    grpc: str
    message: str


_TABLE: tuple[tuple[type[BaseException], int, str], ...] = (
    (UnauthorizedError, 401, "UNAUTHENTICATED"),
    (UnknownModelError, 404, "NOT_FOUND"),
    (RequestTooLargeError, 413, "OUT_OF_RANGE"),
    (SlowRequestError, 408, "DEADLINE_EXCEEDED"),
    (InputError, 400, "INVALID_ARGUMENT"),
    (OverloadedError, 429, "RESOURCE_EXHAUSTED"),
    (StoppingError, 503, "UNAVAILABLE"),
    (DeadlineError, 504, "DEADLINE_EXCEEDED"),
    (asyncio.CancelledError, 499, "CANCELLED"),
)


def status_of(error: BaseException) -> Status:
    """The status of an error; what was not foreseen is an internal error that tells its type alone.

    Example:
        >>> status_of(UnknownModelError("no such model")).http
        404
    """
    for kind, http, grpc in _TABLE:
        if isinstance(error, kind):
            return Status(http, grpc, _cut(str(error)) or "the caller went away")
    if isinstance(error, AnomvaeError):
        return Status(500, "INTERNAL", _cut(str(error)))
    return Status(500, "INTERNAL", f"an error of the daemon itself ({type(error).__name__}); its log tells more")


def _cut(sentence: str) -> str:
    return sentence if len(sentence) <= MAX_MESSAGE_CHARACTERS else sentence[: MAX_MESSAGE_CHARACTERS - 3] + "..."
