"""JSON lines in files and pipes: the source and the sinks that need no broker."""

from __future__ import annotations

import glob
import os
import select
from contextlib import suppress
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from anomvae.errors import DataFileError, OutputError, StreamError
from anomvae.streaming.contracts import Delivery, Origin, Place, Progress, Record
from anomvae.streaming.file_locks import take
from anomvae.streaming.file_progress import ProgressFile
from anomvae.streaming.line_files import BLOCK, LineFiles, Lines, is_json

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from anomvae.streaming.contracts import Outgoing


class LineSource:
    """Reads lines of files, one after the other, or of a pipe; see :class:`~anomvae.streaming.contracts.Source`.

    All files are one partition, so that assets go on from one to the next; a record's offset is the number of its line, from 0,
    counted through. Blank lines are no records. Of a pipe, whose lines are numbered anew by each process, records have digests.

    With `progress`, a start goes on behind the lines that were answered: files may have grown, any of them, and others may have
    come behind them; what is new is read behind what was read before. A last line of a file that is neither ended nor JSON is
    still being written then, and left for the next start.

    Args:
        name: Path or pattern, such as `day-*.jsonl`, whose files are read in the order of their names; `-`: standard input.
        progress: File that remembers how far the stream is; None: it begins at the beginning. No other process may use it at
            the same time.
        pipe: What is read instead of standard input.

    Raises:
        DataFileError: There is no such file, it is a pipe or a folder, `progress` is of other files, or files that were read are
            there no longer or were replaced.
        OutputError: `progress` cannot be written, or another process uses it.
    """

    def __init__(self, name: str, *, progress: Path | None = None, pipe: BinaryIO | None = None) -> None:
        self._name, self._pipe = name, pipe
        files = None if name == "-" else _files(name)
        kept = self._progress = None if progress is None else ProgressFile(progress, name)
        try:
            known = None if kept is None else kept.read()
            self._files = None if files is None else LineFiles(name, files, known, grows=kept is not None)
        except BaseException:
            if kept is not None:
                kept.close()
            raise
        self._told: Progress | None = Progress(0, 0) if known is None else known.progress
        self._skip = self._told.replay_from
        self._line = 0 if known is None else known.line
        self._blocks = self._read_pipe() if self._files is None else self._files.read()
        self._lines: Iterator[bytes] = iter(())
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
                if not self._next_lines():
                    break
                continue
            first, self._line = self._line, self._line + len(lines)
            name, skip, piped = self._name, self._skip, self._files is None
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
        if self._progress is not None and self._files is not None and found is not None:
            self._progress.write(self._files.remember(found))

    def lag(self) -> Mapping[Place, int]:
        """Nothing: the lines that lie ahead are not known."""
        return {}

    @property
    def healthy(self) -> bool:
        """Whether it can be read: else it would have ended."""
        return True

    def close(self) -> None:
        """Closes the files."""
        self._blocks.close()
        if self._progress is not None:
            self._progress.close()

    def _next_lines(self) -> bool:
        """Whole lines of what comes next, or the end; False: nothing has come yet."""
        try:
            lines = next(self._blocks)
        except StopIteration:
            self._ended = True
            return True
        self._lines = iter(lines or ())
        return lines is not None

    def _read_pipe(self) -> Generator[list[bytes] | None]:
        """Lines, some at a time; None while there are none."""
        pipe, lines = 0 if self._pipe is None else self._pipe.fileno(), Lines(self._name)
        while True:
            ready, _, _ = select.select([pipe], [], [], self._wait_s)
            if not ready:
                yield None
                continue
            try:
                block = os.read(pipe, BLOCK)
            except OSError as error:
                raise StreamError(f"the input cannot be read: {error.strerror or 'the system refuses'}") from error
            if not block:
                break
            yield lines.feed(block)
        if rest := lines.rest:
            yield [rest]


class FileSink:
    """Appends messages to a file, one a line; see :class:`~anomvae.streaming.contracts.Sink`.

    The file is this process's alone until it is closed. A last line that a crash cut short is taken away first; what it said is
    answered again.

    Args:
        path: The file, or a device such as `/dev/null`; it is made if it is not there.
        durable: Whether a flush also waits for the disk.

    Raises:
        OutputError: It cannot be opened, is a pipe or a folder, or another process writes it.
    """

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self._path, self._durable, self._unsynced = path, durable, False
        try:
            self._file = _appended(path)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or 'the system refuses'}") from error

    def send(self, messages: Sequence[Outgoing]) -> None:
        """See :class:`~anomvae.streaming.contracts.Sink`."""
        if messages:
            _do(self._path, lambda: self._file.write(_lines(messages)))
            self._unsynced = self._durable

    def flush(self) -> None:
        """See :class:`~anomvae.streaming.contracts.Sink`."""
        _do(self._path, self._file.flush)
        if self._unsynced:
            _do(self._path, lambda: os.fsync(self._file.fileno()))
            self._unsynced = False

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
        if file.exists() and not file.is_file() and not file.is_dir():
            raise DataFileError(
                f"{file} is a pipe or a device, and no file; for what comes through a pipe write --from -"
            )
        if not os.access(file, os.R_OK) or file.is_dir():
            raise DataFileError(
                f"{file} is a folder or cannot be read; name a file of JSON lines, or a pattern of such"
            )
    return found


def _appended(path: Path) -> BinaryIO:
    """A file opened to append lines, taken and mended, or a device."""
    is_device = path.is_char_device()
    if path.exists() and not path.is_file() and not is_device:
        raise OutputError(f"{path} is a pipe or a folder, and no file; to write through a pipe write - in its place")
    file = path.open("ab", buffering=BLOCK)
    try:
        if not is_device:
            take(file.fileno(), path)
            _mend(path)
    except BaseException:
        file.close()
        raise
    return file


def _digest(number: int, line: bytes) -> bytes:
    return blake2b(b"%d " % number + line, digest_size=16).digest()


def _mend(path: Path) -> None:
    """Ends the last line, or takes it away where it was cut short."""
    with path.open("r+b") as file:
        start = size = file.seek(0, os.SEEK_END)
        tail = b""
        while start and b"\n" not in tail:
            before, start = start, max(0, start - BLOCK)
            file.seek(start)
            tail = file.read(before - start) + tail
        last = tail.rpartition(b"\n")[2]
        if not last:
            return
        if is_json(last):
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
        else:
            file.truncate(size - len(last))
