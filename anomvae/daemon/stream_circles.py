"""Whether a stream would read what it writes, or write one file twice: refused before anything is opened."""

from __future__ import annotations

import glob
import os
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from anomvae.errors import SettingError
from anomvae.streaming.mqtt import KEY

if TYPE_CHECKING:
    from anomvae.daemon.stream_ends import Where
    from anomvae.streaming.addresses import Address


def refuse_circles(where: Where, progress: Path | None = None) -> None:
    """Refuses what leads from an end of a stream back to its source, and two that write one file.

    Args:
        where: The ends.
        progress: File that remembers how far the stream is.

    Raises:
        SettingError: Names the flag.
    """
    written = set()
    for end, address in where.sinks.items():
        if _leads_back(where.source, address):
            raise SettingError(f"--{end} leads back to --from: what is written there would be read again; name another")
        if address.kind == "file":
            file = Path(address.name).resolve()
            if file in written:
                raise SettingError(f"--{end} names a file that is written already; name another")
            written.add(file)
    if progress is not None and where.source.kind == "file":
        if _names(where.source.name, progress):
            raise SettingError("--progress leads back to --from: it would be read as records; name another file")
        if progress.resolve() in written:
            raise SettingError("--progress names a file that is written already; name another")


def _leads_back(source: Address, sink: Address) -> bool:
    if source.kind != sink.kind or source.hosts != sink.hosts or source.kind == "pipe":
        return False
    if source.kind == "file":
        return _names(source.name, Path(sink.name))
    return _takes(source.name, sink.name) if source.kind == "mqtt" else source.name == sink.name


def _names(name: str, file: Path) -> bool:
    """Whether a path, or a pattern of such, leads to a file, be that there or not."""
    path = Path(name)
    if path.resolve() == file.resolve() or _is_same(path, file):
        return True
    if path.exists():  # and is no pattern
        return False
    if any(_is_same(match, file) for match in glob.glob(name, recursive=True)):  # noqa: PTH207  as the source reads it
        return True
    return any(_would_match(name, way) for way in (file, file.resolve()))


def _would_match(pattern: str, file: Path) -> bool:
    """Whether a pattern would find a file once it is there."""
    folder, last = os.path.split(pattern)
    is_any = last == "**"
    if not (is_any or fnmatch(file.name, last)) or (file.name.startswith(".") and not last.startswith(".")):
        return False
    folders = glob.glob(pattern if is_any else folder or ".", recursive=True)  # noqa: PTH207  as above
    return any(_is_same(found, file.parent) for found in folders)


def _is_same(path: Path | str, other: Path) -> bool:
    try:
        return Path(path).samefile(other)
    except OSError:
        return False


def _takes(topic_filter: str, topic: str) -> bool:
    """Whether an MQTT filter takes a topic, whatever key it may be written with."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for i, level in enumerate(wanted):
        if level == "#":
            return True
        if i >= len(levels) or (level not in ("+", levels[i]) and KEY not in levels[i]):
            return False
    return len(wanted) == len(levels)
