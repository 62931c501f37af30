"""How far a stream is in its files, kept in a file of its own, so that a restart goes on from there."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import orjson

from anomvae.errors import DataFileError, OutputError, StreamError
from anomvae.streaming.contracts import Progress
from anomvae.streaming.file_locks import take

if TYPE_CHECKING:
    from io import FileIO

FORMAT = 2
_EDGE = 4096
"""Bytes at either end of what was read of a file, by which it is known again."""


class Seen(NamedTuple):
    """A file that was opened.

    Attributes:
        path: Its name.
        end: Bytes of it that were read; behind the last of them a line begins.
        mark: What tells these bytes from others.
    """

    path: str
    end: int
    mark: str


class Piece(NamedTuple):
    """Whole lines of a file that were read at one time.

    Attributes:
        file: Number of the file among those that were opened.
        start: Its first byte.
        end: The byte behind its last.
    """

    file: int
    start: int
    end: int


class Remembered(NamedTuple):
    """How far a stream is in its files, and in which order it read what it may have to read again.

    Attributes:
        progress: Lines answered, and from which to read again.
        files: What was opened, in order.
        line: Number of the first line of the first piece.
        pieces: What was read, in order; earlier lines are left out.
    """

    progress: Progress
    files: list[Seen]
    line: int
    pieces: list[Piece]


def mark_of(file: BinaryIO | FileIO, end: int) -> str:
    """A digest of the first and the last few thousand of so many bytes of a file; where it stands, it stays."""
    at = file.tell()
    file.seek(0)
    first = file.read(min(_EDGE, end)) or b""
    file.seek(max(0, end - _EDGE))
    last = file.read(min(_EDGE, end)) or b""
    file.seek(at)
    return blake2b(b"%d " % end + first + last, digest_size=16).hexdigest()


class ProgressFile:
    """The file that remembers, for this process alone until it is closed.

    Args:
        path: The file; it is made if it is not there, and taken away again if nothing was written.
        source: Name of the source whose progress it keeps.

    Raises:
        OutputError: It cannot be written, or another process has it.
    """

    def __init__(self, path: Path, source: str) -> None:
        self._path, self._source = path, source
        try:
            if path.exists() and not path.is_file():
                raise OutputError(f"{path} is no file and cannot keep the progress; name one, or one to be made")
            self._handle = _taken(path)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or 'the system refuses'}") from error

    def read(self) -> Remembered | None:
        """What it remembers; None: nothing yet.

        Raises:
            DataFileError: It remembers another source, or cannot be understood.
        """
        try:
            content = self._path.read_bytes()
            if not content:
                return None
            found = json.loads(content)
            if found["source"] != self._source:
                raise DataFileError(
                    f"{self._path} remembers how far another source is; name another file, or remove it"
                )
            if found.get("format") != FORMAT:
                raise DataFileError(
                    f"{self._path} is of another version of anomvae, and does not tell this one how far the stream is; remove it "
                    "to begin with the first line there is"
                )
            return Remembered(
                Progress(int(found["answered"]), int(found["replay_from"])),
                [Seen(str(path), int(end), str(mark)) for path, end, mark in found["files"]],
                int(found["line"]),
                [Piece(int(file), int(start), int(end)) for file, start, end in found["pieces"]],
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataFileError(
                f"{self._path} does not say how far the stream is; name another file, or remove it"
            ) from error

    def write(self, now: Remembered) -> None:
        """Remembers, all or nothing.

        Raises:
            StreamError: It cannot be written.
        """
        content = orjson.dumps(
            {
                "format": FORMAT,
                "source": self._source,
                "answered": now.progress.answered,
                "replay_from": now.progress.replay_from,
                "files": [list(seen) for seen in now.files],
                "line": now.line,
                "pieces": [list(piece) for piece in now.pieces],
            }
        )
        staging: str | None = None
        handle = -1
        try:
            handle, staging = tempfile.mkstemp(prefix=f".{self._path.name}-", dir=self._path.parent)
            with open(handle, "wb", closefd=False) as file:
                file.write(content)
            take(handle, self._path)
            Path(staging).replace(self._path)
        except OSError as error:
            if staging is not None:
                os.close(handle)
                with suppress(OSError):
                    Path(staging).unlink()
            raise StreamError(f"{self._path} cannot be written: {error.strerror or 'the system refuses'}") from error
        os.close(self._handle)
        self._handle = handle

    def close(self) -> None:
        """Lets others have it."""
        if self._handle < 0:
            return
        with suppress(OSError):
            if not os.fstat(self._handle).st_size:
                self._path.unlink()
        os.close(self._handle)
        self._handle = -1


def _taken(path: Path) -> int:
    """The file behind a name, opened and taken; one that has just been replaced behind our back is opened again."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            take(handle, path)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
