"""JSON lines in files and pipes: the source and the sinks that need no broker."""

from __future__ import annotations

import glob
import json
import os
import select
import tempfile
from contextlib import suppress
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import orjson

from anomvae.errors import DataFileError, OutputError, StreamError
from anomvae.streaming.contracts import Delivery, Origin, Place, Progress, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from anomvae.streaming.contracts import Outgoing

LONGEST_LINE = 64 << 20
"""Bytes of a line: what is longer is no record."""
_BLOCK = 1 << 20


class LineSource:
    """Reads lines of files, one after the other, or of a pipe; see :class:`~anomvae.streaming.contracts.Source`.

    All files are one partition, so that assets go on from one to the next; a record's offset is the number of its line, from 0,
    counted through. Blank lines are no records. Of a pipe, whose lines are numbered anew by each process, records have digests.

    With `progress`, a start goes on behind the lines that were answered: files may have grown, and others may have come behind
    them. A last line that is neither ended nor JSON is still being written then, and left for the next start.

    Args:
        name: Path or pattern, such as `day-*.jsonl`, whose files are read in the order of their names; `-`: standard input.
        progress: File that remembers how far the stream is; None: it begins at the beginning.
        pipe: What is read instead of standard input.

    Raises:
        DataFileError: There is no such file, `progress` is of other files, or files that were read are there no longer.
    """

    def __init__(self, name: str, *, progress: Path | None = None, pipe: BinaryIO | None = None) -> None:
        self._name = name
        self._files = [] if name == "-" else _files(name)
        self._pipe = pipe
        self._progress = progress
        known, opened = (None, []) if progress is None else _read_progress(progress, name)
        if progress is not None and opened != list(map(str, self._files[: len(opened)])):
            raise DataFileError(
                f"{progress} counts the lines of files that are no longer the first of {name}; bring them back, or remove it "
                "to begin with the first line there is"
            )
        self._told: Progress | None = known or Progress(0, 0)
        self._skip, self._least = self._told.replay_from, self._told.answered
        self._opened = 0
        self._blocks = self._read()
        self._lines: Iterator[bytes] = iter(())
        self._rest: list[bytes] = []
        self._line = 0
        self._wait_s = 0.0
        self._ended = False

    def poll(self, most: int, wait_s: float) -> Delivery:
        """See :class:`~anomvae.streaming.contracts.Source`.

        Raises:
            StreamError: A file cannot be read on, has lost lines that were answered, or a line is too long.
        """
        told, self._told = self._told, None
        assigned = {} if told is None else {Place(self._name, 0): told}
        self._wait_s = wait_s
        records: list[Record] = []
        while not records and not self._ended:
            lines = list(islice(self._lines, most))
            if not lines:
                if not self._next_block():
                    break
                continue
            first, self._line = self._line, self._line + len(lines)
            name, skip, piped = self._name, self._skip, not self._files
            records = [
                Record(line, Origin(name, 0, number), digest=_digest(number, line) if piped else None)
                for number, line in enumerate(lines, first)
                if number >= skip and not line.isspace() and line
            ]
        return Delivery(records, assigned, (), ended=self._ended and not records)

    def commit(self, progress: Mapping[Place, Progress]) -> None:
        """Writes progress to its file, if there is one.

        Raises:
            StreamError: It cannot be written.
        """
        found = progress.get(Place(self._name, 0))
        if self._progress is not None and found is not None:
            opened = list(map(str, self._files[: self._opened]))
            _write_progress(self._progress, self._name, found, opened)

    def lag(self) -> Mapping[Place, int]:
        """Nothing: the lines that lie ahead are not known."""
        return {}

    @property
    def healthy(self) -> bool:
        """Whether it can be read: else it would have ended."""
        return True

    def close(self) -> None:
        """Closes the file."""
        self._blocks.close()

    def _next_block(self) -> bool:
        """Whole lines of what comes next; False: nothing has come yet."""
        block = next(self._blocks, None)
        if block is None:
            if self._progress is not None and self._rest and not _is_json(b"".join(self._rest)):
                self._rest = []
            self._ended = not self._rest
            if self._ended and self._line < self._least:
                raise StreamError(
                    f"{self._name} has {self._line:,} lines, and {self._least:,} of it were answered before; if it was begun anew, "
                    f"remove {self._progress}"
                )
            self._lines, self._rest = iter(self._rest and [b"".join(self._rest)]), []
            return bool(not self._ended)
        if not block:
            return False
        head, newline, rest = block.rpartition(b"\n")
        if newline:
            self._lines = iter(b"".join([*self._rest, head]).split(b"\n"))
            self._rest = [rest] if rest else []
        else:
            self._rest.append(rest)
            if sum(map(len, self._rest)) > LONGEST_LINE:
                raise StreamError(f"line {self._line + 1:,} of {self._name} is longer than 64 MiB; is it JSON lines?")
        return True

    def _read(self) -> Generator[bytes]:
        """Blocks of bytes; empty ones while a pipe has none. Every file ends its last line."""
        if not self._files:
            yield from self._read_pipe()
        for path in self._files:
            self._opened += 1
            last = b"\n"
            try:
                with path.open("rb", buffering=0) as file:
                    while block := file.read(_BLOCK):
                        yield block
                        last = block[-1:]
            except OSError as error:
                raise StreamError(f"{path} cannot be read on: {error.strerror or 'the system refuses'}") from error
            if last != b"\n" and path is not self._files[-1]:
                yield b"\n"

    def _read_pipe(self) -> Generator[bytes]:
        pipe = 0 if self._pipe is None else self._pipe.fileno()
        while True:
            ready, _, _ = select.select([pipe], [], [], self._wait_s)
            if not ready:
                yield b""
            elif block := os.read(pipe, _BLOCK):
                yield block
            else:
                return


class FileSink:
    """Appends messages to a file, one a line; see :class:`~anomvae.streaming.contracts.Sink`.

    A last line that a crash cut short is taken away first; what it said is answered again.

    Args:
        path: The file; it is made if it is not there.
        durable: Whether a flush also waits for the disk.

    Raises:
        OutputError: It cannot be opened.
    """

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self._path, self._durable = path, durable
        try:
            if path.exists():
                _mend(path)
            self._file = path.open("ab", buffering=_BLOCK)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or 'the system refuses'}") from error

    def send(self, messages: Sequence[Outgoing]) -> None:
        """See :class:`~anomvae.streaming.contracts.Sink`."""
        if messages:
            _do(self._path, lambda: self._file.write(_lines(messages)))

    def flush(self) -> None:
        """See :class:`~anomvae.streaming.contracts.Sink`."""
        _do(self._path, self._file.flush)
        if self._durable:
            _do(self._path, lambda: os.fsync(self._file.fileno()))

    @property
    def healthy(self) -> bool:
        """Whether it can be written: else the stream would have ended."""
        return True

    def close(self) -> None:
        """Writes what is left and closes the file."""
        _do(self._path, self._file.close)


class PipeSink:
    """Writes messages to a pipe, one a line; see :class:`~anomvae.streaming.contracts.Sink`.

    Args:
        pipe: Standard output, for instance.
    """

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe

    def send(self, messages: Sequence[Outgoing]) -> None:
        """See :class:`~anomvae.streaming.contracts.Sink`.

        Raises:
            BrokenPipeError: Nobody reads any more.
            StreamError: It cannot be written.
        """
        if messages:
            _do("the output", lambda: self._pipe.write(_lines(messages)))

    def flush(self) -> None:
        """See :class:`~anomvae.streaming.contracts.Sink`.

        Raises:
            BrokenPipeError: Nobody reads any more.
            StreamError: It cannot be written.
        """
        _do("the output", self._pipe.flush)

    @property
    def healthy(self) -> bool:
        """Whether somebody may read."""
        return True

    def close(self) -> None:
        """Writes what is left; the pipe belongs to others."""
        with suppress(BrokenPipeError):
            self._pipe.flush()


def _do(where: Path | str, action: Callable[[], object]) -> None:
    try:
        action()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StreamError(f"{where} cannot be written on: {error.strerror or 'the system refuses'}") from error


def _lines(messages: Sequence[Outgoing]) -> bytes:
    return b"".join([b"%b\n" % message.payload for message in messages])


def _files(name: str) -> list[Path]:
    path = Path(name)
    found = [path] if path.exists() else sorted(Path(match) for match in glob.glob(name, recursive=True))  # noqa: PTH207
    if not found:
        raise DataFileError(f"there is no file {name}")
    for file in found:
        if not os.access(file, os.R_OK) or file.is_dir():
            raise DataFileError(
                f"{file} is a folder or cannot be read; name a file of JSON lines, or a pattern of such"
            )
    return found


def _read_progress(path: Path, name: str) -> tuple[Progress | None, list[str]]:
    """How far the stream is, and the files that were opened for that."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["source"] != name:
            raise DataFileError(f"{path} remembers how far another source is; name another file, or remove it")
        progress, opened = Progress(int(found["answered"]), int(found["replay_from"])), list(found["files"])
    except FileNotFoundError:
        return None, []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFileError(f"{path} does not say how far the stream is; name another file, or remove it") from error
    return progress, opened


def _write_progress(path: Path, name: str, progress: Progress, opened: Sequence[str]) -> None:
    content = orjson.dumps(
        {"source": name, "answered": progress.answered, "replay_from": progress.replay_from, "files": opened}
    )
    staging: str | None = None
    try:
        handle, staging = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with open(handle, "wb") as file:  # noqa: PTH123  a handle has no path
            file.write(content)
        Path(staging).replace(path)
    except OSError as error:
        if staging is not None:
            with suppress(OSError):
                Path(staging).unlink()
        raise StreamError(f"{path} cannot be written: {error.strerror or 'the system refuses'}") from error


def _digest(number: int, line: bytes) -> bytes:
    return blake2b(b"%d " % number + line, digest_size=16).digest()


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)  # which knows NaN
    except (ValueError, RecursionError):
        return False
    return True


def _mend(path: Path) -> None:
    """Ends the last line, or takes it away where it was cut short."""
    with path.open("r+b") as file:
        start = size = file.seek(0, os.SEEK_END)
        tail = b""
        while start and b"\n" not in tail:
            before, start = start, max(0, start - _BLOCK)
            file.seek(start)
            tail = file.read(before - start) + tail
        last = tail.rpartition(b"\n")[2]
        if not last:
            return
        if _is_json(last):
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
        else:
            file.truncate(size - len(last))
