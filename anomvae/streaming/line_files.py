"""Lines of files, read in an order that a later process can repeat, whatever has been added meanwhile."""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from anomvae.errors import DataFileError, StreamError
from anomvae.streaming.file_progress import Piece, Remembered, Seen, mark_of

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from io import FileIO
    from pathlib import Path

    from anomvae.streaming.contracts import Progress

LONGEST_LINE = 64 << 20
"""Bytes of a line: what is longer is no record."""
BLOCK = 1 << 20


class Lines:
    """Parts blocks of bytes into whole lines.

    Args:
        name: Of what is read, for the sentence about a line that has no end.
        line: Number of the first line.
    """

    def __init__(self, name: str, line: int = 0) -> None:
        self._name, self._line = name, line
        self._rest: list[bytes] = []

    def feed(self, block: bytes) -> list[bytes]:
        """Lines that end in the next block.

        Raises:
            StreamError: One is too long.
        """
        head, newline, rest = block.rpartition(b"\n")
        if newline:
            lines = b"".join([*self._rest, head]).split(b"\n")
            self._line += len(lines)
            self._rest = [rest] if rest else []
            return lines
        self._rest.append(block)
        if sum(map(len, self._rest)) > LONGEST_LINE:
            raise StreamError(f"line {self._line + 1:,} of {self._name} is longer than 64 MiB; is it JSON lines?")
        return []

    @property
    def rest(self) -> bytes:
        """The line that has not ended yet."""
        return b"".join(self._rest)


class _Chunk(NamedTuple):
    """Lines that were read at once: a piece, the number of its first line, whether its last has ended, the file's mark behind it."""

    piece: Piece
    line: int
    has_ended: bool
    mark: str


class LineFiles:
    """Whole lines of files.

    First come the pieces that were read before, in the order in which they were, then what has been added since, by the order
    of the files. So numbers of lines keep their meaning when a file grows that is not the last.

    Args:
        name: Path or pattern, for sentences.
        files: The files, in order.
        known: What was read before; None: nothing.
        grows: Whether the files may still be written: a last line that is neither ended nor JSON is then left for the next
            start, and what was read can be told.

    Raises:
        DataFileError: Files that were read are there no longer, or are others by now.
    """

    def __init__(self, name: str, files: Sequence[Path], known: Remembered | None = None, *, grows: bool) -> None:
        self._name, self._files, self._grows = name, files, grows
        self._known = [] if known is None else known.pieces
        self._line = 0 if known is None else known.line
        self._begin = [] if known is None else list(known.files)
        """Files that were opened, with what was read of them before the first chunk."""
        self._at = [seen.end for seen in self._begin] + [0] * (len(files) - len(self._begin))
        self._chunks: deque[_Chunk] = deque()
        if [seen.path for seen in self._begin] != list(map(str, files[: len(self._begin)])):
            raise DataFileError(
                f"the files read before are no longer the first of {name}; bring them back, or remove the progress file to begin "
                "with the first line there is"
            )
        for path, seen in zip(files, self._begin, strict=False):
            _check(path, seen)

    def read(self) -> Generator[list[bytes]]:
        """Lines, some at a time.

        Raises:
            StreamError: A file cannot be read on, or a line is too long.
        """
        for piece in self._known:
            yield from self._read(piece.file, piece.start, piece.end)
        for number, at in enumerate(self._at):
            yield from self._read(number, at, None)

    def remember(self, progress: Progress) -> Remembered:
        """What a later process must know to go on; lines before `progress.replay_from` are not asked for again.

        What was read beyond the lines answered is left out, so that whoever commits has read all the pieces that are known.
        """
        chunks = self._chunks
        while len(chunks) > 1 and chunks[1].line <= progress.replay_from:
            piece, _, _, mark = chunks.popleft()
            self._begin[piece.file] = self._begin[piece.file]._replace(end=piece.end, mark=mark)
        files, joins = list(self._begin), False
        pieces: list[Piece] = []
        for piece, line, has_ended, mark in chunks:
            if line >= progress.answered:
                break
            files[piece.file] = files[piece.file]._replace(end=piece.end, mark=mark)
            if joins and (pieces[-1].file, pieces[-1].end) == (piece.file, piece.start):
                pieces[-1] = pieces[-1]._replace(end=piece.end)
            else:
                pieces.append(piece)
            joins = has_ended
        return Remembered(progress, files, chunks[0].line if chunks else self._line, pieces)

    def _read(self, number: int, start: int, stop: int | None) -> Generator[list[bytes]]:
        path, lines, at = self._files[number], Lines(self._name, self._line), start
        try:
            with path.open("rb", buffering=0) as file:
                if number == len(self._begin):
                    self._begin.append(Seen(str(path), 0, mark_of(file, 0)))
                file.seek(start)
                while block := file.read(BLOCK if stop is None else min(BLOCK, stop - at)):
                    at += len(block)
                    if found := lines.feed(block):
                        self._note(file, number, at - len(lines.rest), found, has_ended=True)
                        yield found
                if stop is not None and at < stop:
                    raise StreamError(f"{path} has lost lines that were answered; it was cut short while it was read")
                if (rest := lines.rest) and not (stop is None and self._grows and not is_json(rest)):
                    self._note(file, number, at, [rest], has_ended=False)
                    yield [rest]
        except OSError as error:
            raise StreamError(f"{path} cannot be read on: {error.strerror or 'the system refuses'}") from error

    def _note(self, file: FileIO, number: int, end: int, lines: list[bytes], *, has_ended: bool) -> None:
        if self._grows:
            start = end - sum(map(len, lines)) - len(lines) + (not has_ended)
            self._chunks.append(_Chunk(Piece(number, start, end), self._line, has_ended, mark_of(file, end)))
        self._line += len(lines)


def is_json(line: bytes) -> bool:
    """Whether a line is one JSON value, `NaN` included."""
    try:
        json.loads(line)  # which knows NaN
    except (ValueError, RecursionError):
        return False
    return True


def _check(path: Path, seen: Seen) -> None:
    """Whether a file still begins with what was read of it."""
    try:
        with path.open("rb") as file:
            is_same = mark_of(file, seen.end) == seen.mark
    except OSError as error:
        raise DataFileError(f"{path} cannot be read: {error.strerror or 'the system refuses'}") from error
    if not is_same:
        raise DataFileError(
            f"{path} is no longer the file that was read before: it was replaced, or cut short; if all of the old one is "
            "answered, remove the progress file to begin with the first line there is"
        )
