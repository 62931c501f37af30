"""A SQLite tracking database: looked at before MLflow opens it, and made in one step where there is none."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from anomvae.errors import TrackingError
from anomvae.tracking.uri import sqlite_path

if TYPE_CHECKING:
    from collections.abc import Callable

_MAGIC = b"SQLite format 3\x00"


def check_database(uri: str, *, write: bool) -> None:
    """Checks a SQLite file before MLflow opens it: MLflow would try a hopeless file again for minutes.

    Args:
        uri: An absolute tracking URI; anything but SQLite passes.
        write: Whether it shall be written: it may then be missing, and its folder is made.

    Raises:
        TrackingError: The file is missing, no database, locked, or cannot be written.
    """
    path = sqlite_path(uri)
    if path is None:
        return
    try:
        if path.is_dir():
            raise TrackingError(f"the tracking database {path} is a folder; name a file")
        if not path.exists() or not path.stat().st_size:
            _check_new(path, write=write)
        else:
            _check_existing(path, write=write)
    except OSError as error:
        raise TrackingError(f"the tracking database {path} cannot be opened: {error.strerror or error}") from error
    except sqlite3.Error as error:
        raise TrackingError(f"the tracking database {path} cannot be used: {error}") from error


def make_database(path: Path, fill: Callable[[str], object]) -> None:
    """Makes a database that is either whole or not there: one interrupted among its migrations could never be used.

    Args:
        path: Where it shall lie; an empty file there counts as none.
        fill: Has MLflow make its tables in the database of a URI.

    Raises:
        TrackingError: The folder cannot be written.
    """
    if path.exists() and path.stat().st_size:
        return
    try:
        staging = Path(tempfile.mkdtemp(prefix=".mlflow-", dir=path.parent))
    except OSError as error:
        raise TrackingError(f"the tracking database {path} cannot be made: {error.strerror or error}") from error
    try:
        fill(f"sqlite:///{staging / 'tables.db'}")
        with (
            closing(sqlite3.connect(staging / "tables.db")) as filled,
            closing(sqlite3.connect(staging / "db")) as copy,
        ):
            filled.backup(copy)
        _put(staging / "db", path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _put(ready: Path, path: Path) -> None:
    """Moves a finished database to its place, unless another process has put one there in the meantime."""
    try:
        os.link(ready, path)
    except OSError:  # taken, or a file system without links
        if not path.exists() or not path.stat().st_size:
            ready.replace(path)


def _check_new(path: Path, *, write: bool) -> None:
    if not write:
        raise TrackingError(
            f"there is no tracking database at {path}: fit a model first, or name the one that holds it "
            "(MLFLOW_TRACKING_URI or the tracking URI option)"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise TrackingError(f"the tracking database {path} cannot be made: the folder is not writable")


def _check_existing(path: Path, *, write: bool) -> None:
    with path.open("rb") as stream:
        magic = stream.read(len(_MAGIC))
    if magic != _MAGIC:
        raise TrackingError(f"{path} is not a tracking database: it is not a SQLite file; name another one")
    if not write:
        return
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=5)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.rollback()
