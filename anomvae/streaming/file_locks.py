"""Files that one process alone may write at a time."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from anomvae.errors import OutputError

if TYPE_CHECKING:
    from pathlib import Path


def take(handle: int, path: Path) -> None:
    """Takes an open file for this process, until the handle is closed. Where the system knows no such locks, nothing happens.

    Args:
        handle: Descriptor of the open file.
        path: Its name, for the sentence.

    Raises:
        OutputError: Another process has it.
    """
    if sys.platform == "win32":
        return
    import fcntl

    try:
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
    except OSError:  # a file system without locks
        return
    raise OutputError(f"another process of anomvae writes {path}; stop that one, or name another file")
