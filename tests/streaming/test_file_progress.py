"""Progress in files: no line is lost or answered twice, however files grow, and files that were replaced are not taken for others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomvae.errors import DataFileError, OutputError
from anomvae.streaming import line_files
from anomvae.streaming.contracts import Place, Progress, Record
from anomvae.streaming.files import LineSource

if TYPE_CHECKING:
    from pathlib import Path


def test_progress_is_remembered_beside_the_file(tmp_path: Path) -> None:
    path, progress = tmp_path / "day.jsonl", tmp_path / "progress.json"
    path.write_bytes(b"".join(b"%d\n" % i for i in range(10)))
    source = LineSource(str(path), progress=progress)
    source.poll(4, 0.0)
    source.commit({Place(str(path), 0): Progress(4, 2), Place("other", 0): Progress(9, 9)})
    source.close()
    again = LineSource(str(path), progress=progress)
    delivery = again.poll(3, 0.0)
    assert delivery.assigned == {Place(str(path), 0): Progress(4, 2)}
    assert [record.payload for record in [*delivery.records, *again.poll(10, 0.0).records]] == [
        b"%d" % i for i in range(2, 10)
    ]
    again.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["day.jsonl", "progress.json"]


def test_progress_of_another_source_is_refused(tmp_path: Path) -> None:
    path, progress = tmp_path / "day.jsonl", tmp_path / "progress.json"
    path.write_bytes(b"1\n")
    for content in ('{"source": "other", "answered": 1, "replay_from": 0}', "{}", "nonsense"):
        progress.write_text(content)
        with pytest.raises(DataFileError):
            LineSource(str(path), progress=progress)


def test_progress_that_does_not_tell_files_apart_is_refused(tmp_path: Path) -> None:
    """As it was kept before files were known again."""
    path, progress = tmp_path / "day.jsonl", tmp_path / "progress.json"
    path.write_bytes(b"1\n2\n")
    progress.write_bytes(orjson.dumps({"source": str(path), "answered": 1, "replay_from": 1, "files": [str(path)]}))
    with pytest.raises(DataFileError, match="remove it to begin with the first line"):
        LineSource(str(path), progress=progress)


def run(
    name: object, progress: Path, most: int = 3, *, behind: int = 0, commits: int = 1000
) -> tuple[list[bytes], list[bytes]]:
    """Lines that one run of a stream reads again, and those that it answers: it commits when it has polled the next, and may die.

    The last `behind` lines must always be read again.
    """
    place, source = Place(str(name), 0), LineSource(str(name), progress=progress)
    again: list[bytes] = []
    found: list[bytes] = []
    pending: list[Record] = []
    answered = 0
    while True:
        delivery = source.poll(most, 0.0)
        if place in delivery.assigned:
            answered = delivery.assigned[place].answered
        if pending and commits:
            commits -= 1
            found += [record.payload for record in pending]
            end = pending[-1].origin.offset + 1
            source.commit({place: Progress(end, max(0, end - behind))})
        if delivery.ended or not commits:
            break
        again += [record.payload for record in delivery.records if record.origin.offset < answered]
        pending = [record for record in delivery.records if record.origin.offset >= answered]
    source.close()
    return again, found


def answer(name: object, progress: Path, *, behind: int = 0) -> list[bytes]:
    """Lines that a stream answers in one run."""
    return run(name, progress, behind=behind)[1]


def numbered(first: int, last: int) -> list[bytes]:
    return [b'{"n":%d}' % n for n in range(first, last)]


def append(path: Path, lines: list[bytes]) -> None:
    with path.open("ab") as file:
        file.write(b"".join(line + b"\n" for line in lines))


def test_progress_in_a_pattern_is_refused_when_the_files_read_are_gone_and_goes_on_in_new_ones(tmp_path: Path) -> None:
    pattern, progress = tmp_path / "day-*.jsonl", tmp_path / "progress.json"
    days = [tmp_path / f"day-{i}.jsonl" for i in range(4)]
    append(days[1], numbered(0, 2))
    append(days[2], numbered(2, 4))
    assert answer(pattern, progress) == numbered(0, 4)
    append(days[3], numbered(4, 5))
    assert answer(pattern, progress) == numbered(4, 5)
    days[0].write_bytes(b"early\n")
    with pytest.raises(DataFileError, match="no longer the first"):
        LineSource(str(pattern), progress=progress)
    days[0].unlink()
    days[1].unlink()
    with pytest.raises(DataFileError, match="no longer the first"):
        LineSource(str(pattern), progress=progress)


@pytest.mark.parametrize("behind", [0, 4, 1000])
def test_a_file_that_is_not_the_last_may_grow_and_no_line_is_lost_or_answered_twice(
    tmp_path: Path, behind: int
) -> None:
    pattern, progress = tmp_path / "d*.jsonl", tmp_path / "progress.json"
    first, second = tmp_path / "d1.jsonl", tmp_path / "d2.jsonl"
    append(first, numbered(0, 100))
    append(second, numbered(100, 200))
    assert answer(pattern, progress, behind=behind) == numbered(0, 200)
    append(first, numbered(200, 210))
    append(second, numbered(210, 215))
    assert answer(pattern, progress, behind=behind) == numbered(200, 215)
    append(first, numbered(215, 220))
    append(tmp_path / "d3.jsonl", numbered(220, 225))
    assert answer(pattern, progress, behind=behind) == numbered(215, 225)
    assert answer(pattern, progress, behind=behind) == []


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6), st.booleans()), max_size=12),
    st.tuples(st.integers(1, 40), st.integers(1, 7), st.integers(0, 9), st.integers(1, 3)),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_files_grow_and_runs_end_every_line_is_answered_once_and_windows_see_what_came_before_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[tuple[int, int, bool]],
    sizes: tuple[int, int, int, int],
) -> None:
    """A step adds lines to one of three files, the last of them perhaps not ended; a run answers them, and may die on its way."""
    block, most, behind, commits = sizes
    monkeypatch.setattr(line_files, "BLOCK", block)
    pattern, progress = tmp_path / "f*", tmp_path / "progress.json"
    progress.unlink(missing_ok=True)
    contents = [b"", b"", b""]
    seen: list[bytes] = []
    n = 0
    for number, count, is_ended in [*steps, (0, 1, True)]:
        if contents[number] and not contents[number].endswith(b"\n"):
            contents[number] += b"\n"
        contents[number] += b"\n".join(numbered(n, n + count)) + (b"\n" if is_ended else b"")
        n += count
        for i, content in enumerate(contents):
            (tmp_path / f"f{i}").write_bytes(content)
        again, found = run(pattern, progress, most, behind=behind, commits=commits)
        assert again == seen[len(seen) - len(again) :]
        seen += found
    again, found = run(pattern, progress, most, behind=behind)
    assert again == seen[len(seen) - len(again) :]
    if all(is_ended for _, _, is_ended in steps):  # else lines that only end the one before count among those behind
        assert len(again) == min(behind, len(seen))
    assert sorted([*seen, *found]) == sorted(numbered(0, n))


def test_a_replaced_file_is_refused_whatever_its_length(tmp_path: Path) -> None:
    path, progress = tmp_path / "day.jsonl", tmp_path / "progress.json"
    append(path, numbered(0, 100))
    assert answer(path, progress) == numbered(0, 100)
    for lines in (numbered(1000, 1300), numbered(0, 99), [*numbered(0, 99), b'{"n":00}', *numbered(100, 300)], []):
        path.unlink()
        append(path, lines)
        with pytest.raises(DataFileError, match=r"replaced, or cut short; .* remove the progress file"):
            LineSource(str(path), progress=progress)
    path.unlink()
    append(path, numbered(0, 110))
    assert answer(path, progress) == numbered(100, 110)


def test_a_long_stream_remembers_little_and_reads_no_more_of_it_again_than_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_files, "BLOCK", 100)
    pattern, progress = tmp_path / "d*.jsonl", tmp_path / "progress.json"
    for turn in range(30):
        for day in (1, 2):
            append(tmp_path / f"d{day}.jsonl", numbered(100 * turn, 100 * turn + 20))
        answer(pattern, progress, behind=5)
    assert progress.stat().st_size < 1000
    source = LineSource(str(pattern), progress=progress)
    assert source.poll(1, 0.0).records[0].origin.offset == 30 * 40 - 5
    source.close()


def test_two_at_once_do_not_share_a_progress_file(tmp_path: Path) -> None:
    path, progress = tmp_path / "day.jsonl", tmp_path / "progress.json"
    append(path, numbered(0, 10))
    source = LineSource(str(path), progress=progress)
    for answered in (3, 6):
        with pytest.raises(OutputError, match="another process of anomvae writes"):
            LineSource(str(path), progress=progress)
        source.poll(3, 0.0)
        source.commit({Place(str(path), 0): Progress(answered, answered)})
    with pytest.raises(OutputError, match="another process of anomvae writes"):
        LineSource(str(path), progress=progress)
    source.close()
    assert answer(path, progress) == numbered(6, 10)


def test_a_start_that_answers_nothing_leaves_no_progress_file(tmp_path: Path) -> None:
    path, progress = tmp_path / "day.jsonl", tmp_path / "progress.json"
    path.write_bytes(b"")
    assert answer(path, progress) == []
    assert not progress.exists()
    with pytest.raises(OutputError, match="cannot be written"):
        LineSource(str(path), progress=tmp_path / "no" / "progress.json")
    with pytest.raises(OutputError, match="is no file"):
        LineSource(str(path), progress=tmp_path)


def test_a_line_still_being_written_is_left_for_the_next_start(tmp_path: Path) -> None:
    pattern, progress = tmp_path / "day-*.jsonl", tmp_path / "progress.json"
    first, last = tmp_path / "day-1.jsonl", tmp_path / "day-2.jsonl"
    for path in (first, last):
        path.write_bytes(b'{"a":1}\n{"a":')
    assert answer(pattern, progress) == [b'{"a":1}'] * 2
    for path in (first, last):
        path.write_bytes(b'{"a":1}\n{"a":NaN}')
    assert answer(pattern, progress) == [b'{"a":NaN}'] * 2
    append(first, [b"", b'{"a":3}'])
    assert answer(pattern, progress) == [b'{"a":3}']
