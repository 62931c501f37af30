"""How far a partition is, as a commit keeps it: the offset is the record to answer next, the metadata where to replay from."""

from __future__ import annotations

import json

from anomvae.streaming.contracts import Progress

VERSION = 1
"""Of the metadata. A later version that cannot be read by rule of this one counts as none."""


def metadata_of(progress: Progress) -> str:
    """What a commit says beside its offset.

    Example:
        >>> metadata_of(Progress(answered=120, replay_from=56))
        '{"v":1,"replay_from":56}'
    """
    return json.dumps({"v": VERSION, "replay_from": progress.replay_from}, separators=(",", ":"))


def progress_of(offset: int, metadata: str | None, lookback: int = 0) -> tuple[Progress, bool]:
    """What a commit means.

    Args:
        offset: The committed offset.
        metadata: What was committed with it; nothing where another tool moved the group's offsets, or the broker keeps none.
        lookback: Records to go back where the metadata says nothing.

    Returns:
        The progress, and whether the metadata could be read.

    Example:
        >>> progress_of(120, '{"v":1,"replay_from":56}')
        (Progress(answered=120, replay_from=56), True)
        >>> progress_of(120, None, lookback=50)
        (Progress(answered=120, replay_from=70), False)
    """
    try:
        said = json.loads(metadata or "")
        replay_from = said["replay_from"] if said["v"] == VERSION else None
    except (ValueError, TypeError, KeyError):
        replay_from = None
    if type(replay_from) is not int or replay_from < 0:
        return Progress(offset, max(0, offset - lookback)), False
    return Progress(offset, min(offset, replay_from)), True
