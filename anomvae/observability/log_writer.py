"""Lines on their way to a stream whose reader may have stopped reading: nobody who logs waits for it."""

from __future__ import annotations

import atexit
import os
import select
import time
from collections import deque
from threading import Condition, Thread
from typing import TextIO

MAX_LINES = 10_000
"""Most lines that wait; at some 300 characters each, 3 MB."""
LINES_AT_ONCE = 100
PATIENCE_S = 0.5
"""How long a flush waits for a reader."""


def writer_of(stream: TextIO, max_lines: int = MAX_LINES) -> DirectWriter | QueuedWriter:
    """What writes lines to a stream: at once where that cannot block, through a queue where it can.

    Args:
        stream: A file of the operating system, such as standard error, or one in memory.
        max_lines: Most lines that wait in the queue.
    """
    try:
        return QueuedWriter(stream, stream.fileno(), max_lines)
    except (OSError, ValueError, AttributeError):  # it is in memory
        return DirectWriter(stream)


class DirectWriter:
    """Writes to a stream in memory."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def put(self, line: str) -> bool:
        """Writes a line; one that the stream does not take is lost."""
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # the stream is closed
            pass
        return True

    def flush(self) -> None:
        """Nothing waits."""


class QueuedWriter:
    """Writes to a file descriptor, in order, on a thread of its own that no exit waits for.

    Past the stream's own buffer, whose lock a thread held up in it would keep when the interpreter wants to end.

    Args:
        stream: Where to.
        descriptor: Its file descriptor.
        max_lines: Most lines that wait.
    """

    def __init__(self, stream: TextIO, descriptor: int, max_lines: int) -> None:
        self._stream, self._descriptor, self._max_lines = stream, descriptor, max_lines
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._lines: deque[str] = deque()
        self._changed = Condition()
        self._is_writing = False
        self._thread: Thread | None = None

    def put(self, line: str) -> bool:
        """Has a line written soon; False: too many wait, and it is dropped."""
        with self._changed:
            if len(self._lines) >= self._max_lines:
                return False
            self._lines.append(line)
            if self._thread is None:
                self._thread = Thread(target=self._write_forever, name="log", daemon=True)
                self._thread.start()
                atexit.register(self.flush)
            self._changed.notify_all()
        return True

    def flush(self) -> None:
        """Waits until all lines are written, but not long."""
        until = time.monotonic() + PATIENCE_S
        with self._changed:
            while (self._lines or self._is_writing) and (left_s := until - time.monotonic()) > 0:
                self._changed.wait(left_s)

    def _write_forever(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                while not self._lines:
                    self._changed.wait()
                lines = [self._lines.popleft() for _ in range(min(LINES_AT_ONCE, len(self._lines)))]
                self._is_writing = True
            text = "".join(line + "\n" for line in lines)
            self._write(text.encode(self._encoding, "backslashreplace"))

    def _write(self, content: bytes) -> None:
        left = memoryview(content)
        while left and not self._stream.closed:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # somebody has made the terminal one that does not block
                select.select((), (self._descriptor,), ())
            except OSError:  # the reader is gone
                return
