"""Lines of files and pipes are records, and answers are lines."""

from __future__ import annotations

import io
import os
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomvae.errors import DataFileError, OutputError, StreamError
from anomvae.streaming import files, line_files
from anomvae.streaming.contracts import Outgoing, Place, Progress, Record, Source
from anomvae.streaming.files import FileSink, LineSource, PipeSink
from anomvae.streaming.pump import Pump, Sinks
from anomvae.streaming.settings import PumpSettings
from tests.streaming.toys import toy_lane


def drain(source: Source, most: int = 3) -> list[Record]:
    found: list[Record] = []
    while not (delivery := source.poll(most, 0.0)).ended:
        assert len(delivery.records) <= most
        found += delivery.records
    assert not delivery.records
    return found


def test_lines_are_records_and_their_numbers_offsets(tmp_path: Path) -> None:
    path = tmp_path / "day.jsonl"
    path.write_bytes(b'{"a": 1}\n\n  \n{"a": 2}\r\n{"a": 3}')
    source = LineSource(str(path))
    found = drain(source)
    assert [(record.origin.offset, orjson.loads(record.payload)["a"]) for record in found] == [(0, 1), (3, 2), (4, 3)]
    assert {record.place for record in found} == {Place(str(path), 0)}
    assert (source.healthy, source.lag()) == (True, {})
    source.close()


def test_files_of_a_pattern_are_one_stream_in_the_order_of_their_names(tmp_path: Path) -> None:
    for day, text in ((2, "c\n"), (1, "a\nb"), (10, "z")):
        (tmp_path / f"day-{day:02}.jsonl").write_text(text)
    found = drain(LineSource(str(tmp_path / "day-*.jsonl")))
    assert [(record.payload, record.origin.offset) for record in found] == [(b"a", 0), (b"b", 1), (b"c", 2), (b"z", 3)]


@given(
    st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=12),
    st.integers(1, 9),
    st.integers(1, 7),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_line_is_lost_or_cut_whatever_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[bytes], block: int, most: int
) -> None:
    monkeypatch.setattr(line_files, "BLOCK", block)
    path = tmp_path / "any.jsonl"
    path.write_bytes(b"\n".join(lines))
    found = drain(LineSource(str(path)), most)
    assert [(record.origin.offset, record.payload) for record in found] == [
        (i, line) for i, line in enumerate(lines) if line.strip()
    ]


def test_a_pipe_gives_what_has_come_and_ends_when_its_writer_does() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as pipe:
        source = LineSource("-", pipe=pipe)
        first = source.poll(10, 0.0)
        assert (first.records, first.ended, first.assigned) == ([], False, {Place("-", 0): Progress(0, 0)})
        os.write(write_end, b'{"a": 1}\n{"a"')
        assert [record.payload for record in source.poll(10, 0.0).records] == [b'{"a": 1}']
        assert source.poll(10, 0.0).records == []
        os.write(write_end, b": 2}\n{")
        assert [record.payload for record in source.poll(10, 1.0).records] == [b'{"a": 2}']
        os.close(write_end)
        assert [record.payload for record in drain(source)] == [b"{"]


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_files, "BLOCK", 8)
    monkeypatch.setattr(line_files, "LONGEST_LINE", 64)
    path = tmp_path / "no.jsonl"
    path.write_bytes(b"x" * 1000)
    with pytest.raises(StreamError, match=r"line 1 of .* is longer"):
        drain(LineSource(str(path)))


def test_files_that_are_not_there_are_refused(tmp_path: Path) -> None:
    for name in ("none.jsonl", "none-*.jsonl", "."):
        with pytest.raises(DataFileError):
            LineSource(str(tmp_path / name))


def test_pipes_and_devices_are_no_files(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for name in (str(fifo), str(tmp_path / "f*"), "/dev/null"):
        with pytest.raises(DataFileError, match="write --from -"):
            LineSource(name)
    for path in (fifo, tmp_path):
        with pytest.raises(OutputError, match="write - in its place"):
            FileSink(path)
    FileSink(fifo.parent / "new.jsonl").close()
    null = [FileSink(Path(os.devnull)) for _ in range(2)]
    for sink in null:
        sink.close()


def test_two_at_once_do_not_append_to_one_file_and_the_second_mends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    sink = FileSink(path)
    path.write_bytes(b'{"half":')
    with pytest.raises(OutputError, match="another process of anomvae writes"):
        FileSink(path)
    assert path.read_bytes() == b'{"half":'
    sink.close()
    FileSink(path).close()
    assert path.read_bytes() == b""


def test_lines_of_a_pipe_have_digests_that_tell_runs_apart(tmp_path: Path) -> None:
    digests = []
    for lines in (b"1\n1\n", b"1\n1\n", b"2\n"):
        path = tmp_path / "pipe"
        path.write_bytes(lines)
        with path.open("rb") as pipe:
            digests.append([record.digest for record in drain(LineSource("-", pipe=pipe))])
    assert digests[0] == digests[1]
    assert len({*digests[0], *digests[2]}) == 3


def test_messages_are_appended_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    for _ in range(2):
        sink = FileSink(path, durable=True)
        sink.send([Outgoing(b'{"a":1}', b"key"), Outgoing(b'{"a":2}')])
        sink.send([])
        sink.flush()
        assert path.read_bytes().endswith(b'{"a":1}\n{"a":2}\n')
        assert sink.healthy
        sink.close()
    assert path.read_bytes() == b'{"a":1}\n{"a":2}\n' * 2


@pytest.mark.parametrize(
    ("left", "mended"),
    [
        (b"", b""),
        (b'{"a":1}\n', b'{"a":1}\n'),
        (b'{"a":1}\n{"a":2', b'{"a":1}\n'),
        (b'{"a":1}\n{"a":2}', b'{"a":1}\n{"a":2}\n'),
        (b'{"a"', b""),
        (b'{"a":1}\n{"a":"' + b"x" * 50, b'{"a":1}\n'),
    ],
)
def test_a_line_that_a_crash_cut_short_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: bytes, mended: bytes
) -> None:
    monkeypatch.setattr(files, "BLOCK", 16)
    path = tmp_path / "out.jsonl"
    path.write_bytes(left)
    FileSink(path).close()
    assert path.read_bytes() == mended


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        FileSink(tmp_path / "no" / "out.jsonl")


class Full(io.BytesIO):
    """A disk that is."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def flush(self) -> None:
        raise self.error


def test_a_full_disk_ends_the_stream_with_a_sentence_and_a_reader_that_went_does_not() -> None:
    with pytest.raises(StreamError, match="the output cannot be written on: No space left"):
        PipeSink(Full(OSError(28, "No space left on device"))).flush()
    with pytest.raises(BrokenPipeError):
        PipeSink(Full(BrokenPipeError())).flush()


def test_a_pipe_gets_lines() -> None:
    pipe = io.BytesIO()
    sink = PipeSink(pipe)
    sink.send([Outgoing(b"1"), Outgoing(b"2")])
    sink.flush()
    sink.close()
    assert (pipe.getvalue(), sink.healthy) == (b"1\n2\n", True)


def test_a_file_is_answered_into_a_file_across_a_crash(tmp_path: Path) -> None:
    source, out, progress = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "progress.json"
    rows = [{"machine": "AB"[i % 2], "when": 1e9 + i // 2, "flow": float(i), "heat": 1.0, "n": i} for i in range(40)]
    source.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))

    def pump(to: Path, where: Path | None) -> tuple[Pump, LineSource, FileSink]:
        sink, rows = FileSink(to), LineSource(str(source), progress=where)
        return Pump(rows, toy_lane(), Sinks(sink), PumpSettings(7, 0.0)), rows, sink

    whole, _, sink = pump(tmp_path / "whole.jsonl", None)
    whole.run()
    sink.close()
    first, started, killed = pump(out, progress)
    for _ in range(3):
        first.turn()
    killed.close()
    started.close()
    second, _, sink = pump(out, progress)
    second.run()
    sink.close()
    found = [orjson.loads(line) for line in out.read_bytes().splitlines()]
    wanted = {answer["n"]: answer for answer in map(orjson.loads, (tmp_path / "whole.jsonl").read_bytes().splitlines())}
    assert {answer["n"] for answer in found} == set(range(40))
    assert all({**answer, "latency_s": 0} == {**wanted[answer["n"]], "latency_s": 0} for answer in found)
