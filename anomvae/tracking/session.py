"""One conversation with MLflow: quiet, quick to give up, and with errors that are sentences."""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomvae.errors import AnomvaeError, MissingExtraError, TrackingError
from anomvae.tracking.database import check_database, make_database
from anomvae.tracking.uri import (
    check_address,
    choose_tracking_uri,
    shown_uri,
    silence_of,
    sqlite_path,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["MlflowException", "Session", "artifact_root", "error_code", "is_missing", "open_session"]

_QUIET = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",  # it would copy the working folder's uv files into the model
}
_CHATTY = ("mlflow", "alembic", "sqlalchemy", "urllib3")
_FOREIGN = frozenset(
    {"mlflow", "alembic", "sqlalchemy", "sqlite3", "requests", "urllib3", "botocore", "google", "azure"}
)
_HTTP_REFUSED = ("UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED")

_lock = threading.RLock()


@contextmanager
def _environment(values: Mapping[str, str], *, override: bool) -> Iterator[None]:
    """Sets environment variables for a while; without `override` those already set are left alone."""
    changed = {name: value for name, value in values.items() if override or name not in os.environ}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


try:
    # Plant and hospital data: a fit does not report to MLflow's makers, unless the user asks for it.
    with _environment({"MLFLOW_DISABLE_TELEMETRY": "true"}, override=False):
        import mlflow
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
except ImportError as missing:
    raise MissingExtraError("tracking with MLflow", "mlflow") from missing


@dataclass(frozen=True, slots=True)
class Session:
    """An open conversation.

    Attributes:
        client: MLflow's client, bound to the URI.
        uri: The tracking URI in force, absolute.
    """

    client: MlflowClient
    uri: str


@contextmanager
def open_session(tracking_uri: str | None = None, *, write: bool = False, timeout_s: float = 8.0) -> Iterator[Session]:
    """Opens a conversation with the tracking server or database; inside, MLflow neither prints nor waits for minutes.

    MLflow is set up by environment variables only; they are set for the while, and back afterwards. Whatever of
    `MLFLOW_HTTP_REQUEST_MAX_RETRIES` and `MLFLOW_HTTP_REQUEST_TIMEOUT` the user has set stays.

    Args:
        tracking_uri: See `choose_tracking_uri`.
        write: Whether runs or models will be written; a SQLite file is then made where there is none.
        timeout_s: Longest wait for the first answer, in seconds.

    Raises:
        TrackingError: Nothing answers, the database is unusable, or anything else went wrong in MLflow.
        MissingExtraError: A database is to be used where only `mlflow-skinny` is installed.
    """
    uri = choose_tracking_uri(tracking_uri)
    if sqlite_path(uri) is not None and importlib.util.find_spec("sqlalchemy") is None:  # mlflow-skinny lacks it
        raise MissingExtraError("tracking in a database without a server", "mlflow")
    check_database(uri, write=write)
    check_address(uri, timeout_s)
    with _lock, ExitStack() as stack:
        stack.enter_context(_environment(_QUIET, override=True))
        stack.enter_context(_silence())
        stack.enter_context(_sentences(uri))
        stack.enter_context(_as_default(uri))
        client = _first_answer(uri, timeout_s)
        patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
        stack.enter_context(_environment(patience, override=False))
        yield Session(client, uri)


def error_code(error: MlflowException) -> str:
    """MLflow's own code of an error, such as `RESOURCE_DOES_NOT_EXIST`."""
    return str(error.error_code)


def is_missing(error: MlflowException) -> bool:
    """Whether MLflow says that what was asked for does not exist."""
    return error_code(error) in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")


def _first_answer(uri: str, timeout_s: float) -> MlflowClient:
    """A client whose server has answered once; a fresh database gets its tables here."""
    settings = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(1, round(timeout_s))),
    }
    database = sqlite_path(uri)
    # Else MLflow makes a folder `mlruns` in the working folder, whichever folder the database lies in.
    root = {"_MLFLOW_SERVER_ARTIFACT_ROOT": str(artifact_root(database))} if database else {}
    with _environment(settings, override=False), _environment(root, override=True):
        if database is not None:
            make_database(database, _ask)
        return _ask(uri)


def _ask(uri: str) -> MlflowClient:
    client = MlflowClient(tracking_uri=uri)
    client.search_experiments(max_results=1)
    return client


def artifact_root(database: Path) -> Path:
    """Where the artifacts of a SQLite database go: `mlruns`, next to it."""
    return database.parent / "mlruns"


@contextmanager
def _as_default(uri: str) -> Iterator[None]:
    """Makes the URI MLflow's own default: its registry asks the default, whatever its client is bound to."""
    with _environment({"MLFLOW_TRACKING_URI": uri}, override=True):
        before = mlflow.get_tracking_uri()
        if before == uri:
            yield
            return
        mlflow.set_tracking_uri(uri)  # the caller's program had set another one
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps MLflow's log lines and warnings, and those of what it stands on, from the user's terminal."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for name in _CHATTY:
            warnings.filterwarnings("ignore", module=rf"{name}\b")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _sentences(uri: str) -> Iterator[None]:
    """Turns what MLflow and what it stands on raise into a `TrackingError` with one sentence."""
    try:
        yield
    except AnomvaeError:
        raise
    except Exception as error:
        foreign = type(error).__module__.partition(".")[0] in _FOREIGN
        if not foreign and not isinstance(error, OSError | ImportError):
            raise
        raise TrackingError(_sentence(uri, error)) from error


def _sentence(uri: str, error: Exception) -> str:
    where, text = shown_uri(uri), str(error)
    if "database schema" in text or "locate revision" in text:
        return (
            f"the tracking database {where} was made by another version of MLflow than the one installed: take a "
            f"copy, then run `mlflow db upgrade {where}`, or install the MLflow that made it"
        )
    if isinstance(error, MlflowException) and error_code(error) in _HTTP_REFUSED:
        return f"the tracking server {where} refuses access: check MLFLOW_TRACKING_USERNAME and its companions"
    if isinstance(error, ImportError):
        return f"tracking at {where} needs a package that is not installed: {error.name}"
    if where.startswith("http") and _is_unreachable(error):
        return silence_of(uri)
    reason = text.strip().splitlines()[0][:300] if text.strip() else type(error).__name__
    return f"tracking at {where} failed: {reason.replace(uri, where)}"


def _is_unreachable(error: BaseException | None) -> bool:
    """Whether no HTTP answer came: MLflow wraps what `requests` raised, or quotes it."""
    while error is not None:
        if type(error).__name__ in ("ConnectionError", "ConnectTimeout", "ReadTimeout", "MaxRetryError"):
            return True
        if "failed with timeout" in str(error) or "Max retries exceeded" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
