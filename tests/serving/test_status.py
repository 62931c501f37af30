"""Every error has a status, and none tells what it should not."""

from __future__ import annotations

import asyncio
import inspect

import grpc
import pytest

from anomvae import errors
from anomvae.serving.status import status_of

NEED_MORE = {"ColumnMismatchError": (["a"], []), "MissingExtraError": ("this", "that"), "TooFewRowsError": ("few", 3)}
KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.AnomvaeError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_of_ours_has_a_status_that_says_whose_fault_it_is(kind: type[errors.AnomvaeError]) -> None:
    arguments = NEED_MORE.get(kind.__name__, ("one clear sentence",))
    status = status_of(kind(*arguments))
    assert 400 <= status.http < 600
    assert grpc.StatusCode[status.grpc] is not grpc.StatusCode.OK
    assert status.message
    assert (status.http < 500) == issubclass(kind, (errors.InputError, errors.OverloadedError))


@pytest.mark.parametrize(
    ("error", "http", "name"),
    [
        (errors.UnauthorizedError("no"), 401, "UNAUTHENTICATED"),
        (errors.UnknownModelError("no"), 404, "NOT_FOUND"),
        (errors.RequestTooLargeError("no"), 413, "OUT_OF_RANGE"),
        (errors.RequestError("no"), 400, "INVALID_ARGUMENT"),
        (errors.OverloadedError("no"), 429, "RESOURCE_EXHAUSTED"),
        (errors.StoppingError("no"), 503, "UNAVAILABLE"),
        (errors.DeadlineError("no"), 504, "DEADLINE_EXCEEDED"),
        (asyncio.CancelledError(), 499, "CANCELLED"),
        (errors.ScoringError("no"), 500, "INTERNAL"),
    ],
)
def test_callers_are_told_by_the_codes_their_libraries_know(error: BaseException, http: int, name: str) -> None:
    assert status_of(error)[:2] == (http, name)


def test_what_was_not_foreseen_tells_its_type_alone() -> None:
    status = status_of(KeyError("a cell's content"))
    assert (status.http, status.grpc) == (500, "INTERNAL")
    assert "KeyError" in status.message
    assert "cell" not in status.message


def test_a_message_is_of_bounded_length() -> None:
    for error in (errors.RequestError("x" * 100_000), errors.ScoringError("x" * 100_000)):
        assert len(status_of(error).message) == 1000
