"""Where runs and models are tracked: by default a SQLite file in the working folder, so no server is needed."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from anomvae.errors import TrackingError

DEFAULT_DATABASE = "mlflow.db"

_SQLITE = "sqlite:///"
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def choose_tracking_uri(tracking_uri: str | None = None) -> str:
    """The tracking URI in force: the argument, else `MLFLOW_TRACKING_URI`, else SQLite in the working folder.

    A relative SQLite path becomes absolute, so that the answer holds from any working folder.

    Args:
        tracking_uri: What the caller asked for, if anything.

    Example:
        >>> choose_tracking_uri("sqlite:////srv/mlflow.db")
        'sqlite:////srv/mlflow.db'
        >>> choose_tracking_uri("http://tracking:5000/")
        'http://tracking:5000'
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or _SQLITE + DEFAULT_DATABASE
    path = sqlite_path(uri)
    if path is None:
        return uri.rstrip("/") if "://" in uri else uri
    query = uri.partition("?")[2]
    return f"{_SQLITE}{path.absolute()}" + (f"?{query}" if query else "")


def sqlite_path(uri: str) -> Path | None:
    """The file behind a SQLite URI, or None when the URI is something else.

    Example:
        >>> sqlite_path("sqlite:///runs/mlflow.db").name
        'mlflow.db'
        >>> sqlite_path("http://tracking:5000") is None
        True
    """
    if not uri.startswith(_SQLITE):
        return None
    path = uri.removeprefix(_SQLITE).partition("?")[0]
    return Path(path) if path and path != ":memory:" else None


def shown_uri(uri: str) -> str:
    """The URI as messages may show it: without user name and password.

    Example:
        >>> shown_uri("https://me:secret@tracking:5000/mlflow")
        'https://tracking:5000/mlflow'
    """
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def local_folder(location: str) -> Path | None:
    """The folder an artifact location names on this machine, or None when it lies elsewhere.

    Example:
        >>> local_folder("file:///srv/my%20runs").name
        'my runs'
        >>> local_folder("mlflow-artifacts:/1/models") is None
        True
    """
    if re.match(r"^[a-zA-Z][\w+.-]+:", location) is None:
        return Path(location)
    return Path(unquote(urlsplit(location).path)) if location.startswith("file:") else None


def check_address(uri: str, timeout_s: float) -> None:
    """Checks that a database server listens before MLflow tries it: MLflow would try for minutes.

    Args:
        uri: A tracking URI; anything but a database server passes, HTTP servers included.
        timeout_s: Longest wait, in seconds.

    Raises:
        TrackingError: Nothing listens there.
    """
    parts = urlsplit(uri)
    port = _DATABASE_PORTS.get(parts.scheme.partition("+")[0])
    if port is None or not parts.hostname:
        return
    try:
        socket.create_connection((parts.hostname, parts.port or port), timeout=timeout_s).close()
    except OSError as error:
        raise TrackingError(silence_of(uri)) from error


def silence_of(uri: str) -> str:
    """The sentence for a server that does not answer."""
    return f"the tracking server {shown_uri(uri)} does not answer: start it, or check the address and the network"
