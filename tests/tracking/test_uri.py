"""Where tracking goes, and what is said when it cannot."""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from anomvae.errors import TrackingError
from anomvae.tracking.database import make_database
from anomvae.tracking.session import open_session
from anomvae.tracking.uri import choose_tracking_uri, shown_uri


def test_the_argument_goes_before_the_environment_and_that_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_tracking_uri() == f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert choose_tracking_uri() == "http://tracking:5000"
    assert choose_tracking_uri("sqlite:///other.db") == f"sqlite:///{Path.cwd() / 'other.db'}"


def test_passwords_are_never_shown() -> None:
    assert shown_uri("postgresql://me:secret@db:5432/mlflow") == "postgresql://db:5432/mlflow"
    with pytest.raises(TrackingError) as caught, open_session("http://me:secret@127.0.0.1:9"):
        pass
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("server", ["http://127.0.0.1:9", "postgresql://127.0.0.1:9/mlflow"])
def test_a_server_that_is_down_is_told_at_once(server: str) -> None:
    start = time.monotonic()
    with pytest.raises(TrackingError, match="does not answer"), open_session(server, write=True):
        pass
    assert time.monotonic() - start < 10


def test_a_server_that_keeps_silent_is_given_up_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start, server = time.monotonic(), f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(TrackingError, match="does not answer"), open_session(server, timeout_s=1):
            pass
        assert time.monotonic() - start < 5


def test_what_the_user_set_is_left_alone(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    with open_session(uri):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "2"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("these are notes, not a database\n" * 9)
    with pytest.raises(TrackingError, match="is not a SQLite file"), open_session(f"sqlite:///{tmp_path / 'notes.db'}"):
        pass


def test_a_damaged_database_is_told_at_once(uri: str, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.db"
    content = (tmp_path / "mlflow.db").read_bytes()
    damaged.write_bytes(content[:1000] + b"\xff" * (len(content) - 1000))
    start = time.monotonic()
    with pytest.raises(TrackingError), open_session(f"sqlite:///{damaged}"):
        pass
    assert time.monotonic() - start < 10


def test_reading_makes_no_database(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="there is no tracking database"), open_session():
        pass
    assert not Path("mlflow.db").exists()


@pytest.mark.parametrize("place", ["/proc/anomvae/mlflow.db", "/dev/null/mlflow.db"])
def test_a_place_that_cannot_be_written_is_told(place: str) -> None:
    with pytest.raises(TrackingError, match="cannot be"), open_session(f"sqlite:///{place}", write=True):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o555)
    database = f"sqlite:///{tmp_path}/shut/m.db"
    with pytest.raises(TrackingError, match="not writable"), open_session(database, write=True):
        pass


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="is a folder"), open_session(f"sqlite:///{tmp_path}"):
        pass


def test_a_locked_database_is_told(uri: str, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackingError, match="locked"), open_session(uri, write=True):
            pass


def test_an_interrupted_first_use_leaves_no_half_made_database(tmp_path: Path) -> None:
    path = tmp_path / "new.db"

    def interrupted(uri: str) -> None:
        with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
            database.execute("CREATE TABLE half_of_them (id INTEGER)")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_database(path, interrupted)
    assert list(tmp_path.glob("*new*")) + list(tmp_path.glob(".mlflow-*")) == []


def test_of_two_first_users_the_later_one_spares_the_earlier_ones_database(tmp_path: Path) -> None:
    path = tmp_path / "new.db"

    def fill(uri: str, table: str) -> None:
        with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
            database.execute(f"CREATE TABLE {table} (id INTEGER)")

    def slow(uri: str) -> None:
        fill(uri, "later")
        make_database(path, lambda other: fill(other, "earlier"))

    make_database(path, slow)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("earlier",)]


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    with open_session(f"sqlite:///{tmp_path / 'empty.db'}", write=True) as session:
        assert session.client.get_experiment("0").name == "Default"


def test_an_error_of_our_own_is_not_dressed_up_as_mlflows(uri: str) -> None:
    with pytest.raises(ZeroDivisionError), open_session(uri):
        _ = 1 / 0
