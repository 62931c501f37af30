"""A stream never reads what it writes, and writes no file twice."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from anomvae.daemon.stream_ends import read_addresses
from anomvae.daemon.stream_settings import StreamSettings
from anomvae.errors import SettingError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of a day and of an hour, a link to the folder, and one to a file."""
    monkeypatch.chdir(tmp_path)
    for name in ("gl/a/b", "out"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("gl/1.jsonl", "gl/a/b/2.jsonl", "odd[1].jsonl"):
        (tmp_path / name).write_text("")
    (tmp_path / "link").symlink_to("gl")
    (tmp_path / "one").symlink_to("gl/1.jsonl")
    os.link(tmp_path / "gl/1.jsonl", tmp_path / "hard")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "sink", "circle"),
    [
        ("gl/*.jsonl", "gl/verdicts.jsonl", True),
        ("gl/*.jsonl", "./gl/../gl/verdicts.jsonl", True),
        ("gl/*.jsonl", "link/verdicts.jsonl", True),
        ("link/*.jsonl", "gl/verdicts.jsonl", True),
        ("gl/*.jsonl", "one", True),
        ("gl/*.jsonl", "hard", True),
        ("gl/1.jsonl", "hard", True),
        ("gl/*.jsonl", "gl/verdicts.json", False),
        ("gl/*.jsonl", "gl/.verdicts.jsonl", False),
        ("gl/*.jsonl", "out/verdicts.jsonl", False),
        ("gl/*.jsonl", "gl/a/verdicts.jsonl", False),
        ("gl/**/*.jsonl", "gl/a/verdicts.jsonl", True),
        ("gl/**/*.jsonl", "gl/verdicts.jsonl", True),
        ("gl/**", "gl/a/b/verdicts", True),
        ("gl/**", "out/verdicts", False),
        ("gl/?/b/*", "gl/a/b/verdicts", True),
        ("*", "verdicts", True),
        ("none/*", "none/verdicts", False),
        ("odd[1].jsonl", "odd1.jsonl", False),
        ("odd[1].jsonl", "odd[1].jsonl", True),
    ],
)
def test_what_a_pattern_finds_or_would_find_is_not_written(folder: Path, source: str, sink: str, circle: bool) -> None:
    for values in (
        {"sink": sink},
        {"sink": "-", "dead_letter": sink},
        {"sink": "-", "events": True, "events_to": sink},
        {"sink": "-", "progress": folder / sink},
    ):
        asked = StreamSettings(**{"model": "m", "source": source, **values})  # type: ignore[arg-type]  # as flags come
        if circle:
            with pytest.raises(SettingError, match="leads back to --from"):
                read_addresses(asked)
        else:
            read_addresses(asked)
