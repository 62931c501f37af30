"""Opening rows: every format gives the same rows, and every wrong file one clear sentence."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from anomvae.data.reading import open_rows
from anomvae.errors import CellError, ColumnMismatchError, DataFileError, SchemaError

if TYPE_CHECKING:
    from collections.abc import Callable

FLOAT, TEXT = pa.float64(), pa.string()
ROWS = pa.table({"x": [1.5, None, 3.0, 4.0], "n": [1, 2, 3, 4], "s": ["a", None, "c", "é"]})


def write_jsonl(table: pa.Table, path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))


def write_stream(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


WRITERS: dict[str, Callable[[pa.Table, Path], object]] = {
    "rows.parquet": pq.write_table,
    "rows.pq": pq.write_table,
    "rows.csv": pacsv.write_csv,
    "rows.tsv": lambda table, path: pacsv.write_csv(table, path, pacsv.WriteOptions(delimiter="\t")),
    "rows.feather": feather.write_feather,
    "rows.arrow": write_stream,
    "rows.ipc": lambda table, path: feather.write_feather(table, path, compression="uncompressed"),
    "rows.jsonl": write_jsonl,
    "rows.json": write_jsonl,
    "rows.unheard": pq.write_table,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows_whole_or_in_batches(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](ROWS, path)
    source = open_rows(path)
    assert source.name == str(path)
    assert source.schema == ROWS.schema
    assert source.table().equals(ROWS)
    assert source.n_rows in (4, None)
    batches = list(source.batches(["s", "x"], batch_rows=3))
    assert [batch.num_rows for batch in batches] == [3, 1]
    assert pa.Table.from_batches(batches).equals(ROWS.select(["s", "x"]))
    assert pa.Table.from_batches(source.batches()).equals(ROWS)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.feather"])
def test_formats_that_say_so_know_their_rows_before_reading(tmp_path: Path, name: str) -> None:
    WRITERS[name](ROWS, tmp_path / name)
    assert open_rows(tmp_path / name).n_rows == 4


@pytest.mark.parametrize("name", WRITERS)
def test_the_digest_of_a_file_is_what_sha256sum_prints(tmp_path: Path, name: str) -> None:
    WRITERS[name](ROWS, tmp_path / name)
    assert open_rows(tmp_path / name).digest() == "sha256:" + hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_a_csv_file_that_is_left_early_leaves_nothing_behind_that_could_end_the_process(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n" + "1.5,2\n" * 50_000)
    code = (
        "import sys\n"
        "from anomvae.data.reading import open_rows\n"
        "import pyarrow as pa\n"
        "next(iter(open_rows('rows.csv', types={'a': pa.float64(), 'b': pa.float64()}).batches(['a'])))\n"
        "sys.exit(2)\n"
    )
    done = [
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False) for _ in range(4)
    ]
    assert [(run.returncode, run.stderr) for run in done] == [(2, b"")] * 4


def test_tables_in_memory_are_rows_too() -> None:
    for data in (ROWS, ROWS.to_batches()[0], ROWS.to_pandas()):
        source = open_rows(data)
        assert source.n_rows == 4
        assert source.table().select(["n"]).equals(ROWS.select(["n"]))
        assert [batch.num_rows for batch in source.batches(batch_rows=3)] == [3, 1]


def test_a_digest_sees_cells_and_not_how_they_are_stored() -> None:
    digest = open_rows(ROWS).digest()
    chunked = pa.Table.from_batches(ROWS.to_batches(max_chunksize=1))
    assert open_rows(chunked).digest() == digest
    assert open_rows(pa.concat_tables([ROWS, ROWS]).slice(4)).digest() == digest
    others = [ROWS.slice(1), ROWS.rename_columns(["x", "n", "t"]), ROWS.take([1, 0, 2, 3])]
    assert len({digest, *(open_rows(other).digest() for other in others)}) == 4


def test_pandas_categories_and_instants_arrive_as_they_are() -> None:
    frame = pd.DataFrame(
        {
            "kind": pd.Series(["a", "b"], dtype="category"),
            "when": pd.to_datetime(["2024-01-01", "2024-01-02"], utc=True),
            "took": pd.to_timedelta([1, 2], unit="s"),
            3: [1, 2],
        },
        index=[7, 8],
    )
    schema = open_rows(frame).schema
    assert schema.names == ["kind", "when", "took", "3"]
    assert pa.types.is_dictionary(schema.field("kind").type)
    assert schema.field("when").type.tz == "UTC"
    assert pa.types.is_duration(schema.field("took").type)


def test_a_pandas_column_of_mixed_types_is_refused_by_name() -> None:
    frame = pd.DataFrame({"fine": [1, 2], "mixed": pd.Series(["Secret7", 1], dtype=object)})
    with pytest.raises(SchemaError, match="column 'mixed' of the DataFrame mixes types") as caught:
        open_rows(frame)
    assert "Secret7" not in str(caught.value)


def test_what_holds_no_rows_is_refused() -> None:
    with pytest.raises(SchemaError, match="not as list"):
        open_rows([[1, 2]])


WITHOUT_PANDAS = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pandas", "torch"):
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
from anomvae.data.reading import open_rows
for path in sys.argv[1:]:
    assert sum(batch.num_rows for batch in open_rows(path).batches()) == 4
    assert open_rows(path).digest() and open_rows(open_rows(path).table()).digest()
"""


def test_reading_needs_neither_pandas_nor_torch(tmp_path: Path) -> None:
    for name, write in WRITERS.items():
        write(ROWS, tmp_path / name)
    subprocess.run([sys.executable, "-c", WITHOUT_PANDAS, *(str(tmp_path / name) for name in WRITERS)], check=True)


def test_nested_columns_stay_in_the_schema(tmp_path: Path) -> None:
    table = pa.table({"a": [1], "a.b": [2], "s": [{"x": 1}], "l": [[1, 2]]})
    for name, write in {"n.parquet": pq.write_table, "n.jsonl": write_jsonl}.items():
        write(table, tmp_path / name)
        source = open_rows(tmp_path / name)
        assert source.table().equals(table)
        assert pa.Table.from_batches(source.batches(["l", "a"])).equals(table.select(["l", "a"]))


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    for name, write in WRITERS.items():
        write(ROWS, tmp_path / name)
        with pytest.raises(ColumnMismatchError, match="lack 'y'"):
            list(open_rows(tmp_path / name).batches(["x", "y"]))


def test_the_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    pq.write_table(ROWS, tmp_path / "rows.parquet")
    assert open_rows("~/rows.parquet").name == "~/rows.parquet"
    assert open_rows("~/*.parquet").n_rows == 4


def parts(folder: Path, tables: dict[str, pa.Table]) -> Path:
    for name, table in tables.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        WRITERS["rows" + path.suffix](table, path)
    return folder


@pytest.mark.parametrize("suffix", ["parquet", "csv", "feather", "jsonl"])
def test_a_folder_is_its_files_sorted_by_path(tmp_path: Path, suffix: str) -> None:
    parts(tmp_path, {f"b.{suffix}": ROWS.slice(2), f"a.{suffix}": ROWS.slice(0, 2)})
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / f".hidden.{suffix}").touch()
    for data in (tmp_path, str(tmp_path / f"*.{suffix}")):
        source = open_rows(data)
        assert source.table().equals(ROWS)
        assert pa.Table.from_batches(source.batches(["n"])).equals(ROWS.select(["n"]))


def test_key_value_folders_become_columns(tmp_path: Path) -> None:
    parts(
        tmp_path, {"year=2024/site=a/x.parquet": ROWS.slice(0, 1), "year=2025/site=b%20c/x.parquet": ROWS.slice(1, 1)}
    )
    for data in (tmp_path, f"{tmp_path}/*/*/*.parquet", f"{tmp_path}/**/*.parquet"):
        table = open_rows(data).table()
        assert table.column("year").to_pylist() == [2024, 2025]
        assert table.column("site").to_pylist() == ["a", "b c"]
        assert [batch.to_pydict() for batch in open_rows(data).batches(["site"])] == [
            {"site": ["a"]},
            {"site": ["b c"]},
        ]


def test_types_that_go_together_are_joined_and_others_named(tmp_path: Path) -> None:
    folder = parts(
        tmp_path / "good", {"a.parquet": pa.table({"x": [1]}), "b.parquet": pa.table({"x": [1.5], "y": ["t"]})}
    )
    assert open_rows(folder).table().to_pydict() == {"x": [1.0, 1.5], "y": [None, "t"]}
    folder = parts(tmp_path / "bad", {"a.parquet": pa.table({"x": [1]}), "b.parquet": pa.table({"x": ["t"]})})
    with pytest.raises(SchemaError, match=r"column 'x' is int64 in some files of .*bad and string in others"):
        open_rows(folder)


def test_known_types_settle_what_csv_files_of_a_folder_would_infer_differently(tmp_path: Path) -> None:
    parts(tmp_path, {"a.csv": pa.table({"x": [1], "s": ["7"]}), "b.csv": pa.table({"x": [1.5], "s": ["t"]})})
    table = open_rows(tmp_path, types={"x": FLOAT, "s": TEXT}).table()
    assert table.to_pydict() == {"x": [1.0, 1.5], "s": ["7", "t"]}


def test_the_digest_of_a_folder_follows_contents_and_not_where_it_lies(tmp_path: Path) -> None:
    one = parts(tmp_path / "one", {"a.parquet": ROWS, "b.parquet": ROWS.slice(1)})
    two = parts(tmp_path / "two", {"b.parquet": ROWS.slice(1), "a.parquet": ROWS})
    swapped = parts(tmp_path / "swapped", {"a.parquet": ROWS.slice(1), "b.parquet": ROWS})
    assert open_rows(one).digest() == open_rows(two).digest() != open_rows(swapped).digest()


def test_a_folder_of_several_kinds_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="holds no data files"):
        open_rows(tmp_path)
    parts(tmp_path, {"a.parquet": ROWS, "b.csv": ROWS})
    with pytest.raises(DataFileError, match="holds CSV and Parquet files; name those of one kind"):
        open_rows(tmp_path)


def jsonl(folder: Path, text: str) -> Path:
    path = folder / "rows.jsonl"
    path.write_text(text)
    return path


def test_json_lines_need_not_have_every_key_nor_one_type(tmp_path: Path) -> None:
    late = '{"x": 1}\n' * 700_000 + '{"x": 2.5, "s": 7}\n\n{"s": "t", "when": "2024-01-01"}'
    source = open_rows(jsonl(tmp_path, late))
    assert source.schema.types == [FLOAT, TEXT, pa.timestamp("s")]
    last = source.table().slice(699_999).to_pylist()
    when = dt.datetime(2024, 1, 1)  # noqa: DTZ001  files hold local times
    assert last == [
        {"x": 1.0, "s": None, "when": None},
        {"x": 2.5, "s": "7", "when": None},
        {"x": None, "s": "t", "when": when},
    ]


def test_json_cells_become_the_types_asked_for(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path, '{"x": "1.5", "s": 3}\n{"x": true, "s": true}\n{"x": null, "s": null}\n{"x": "", "s": "t"}\n'
    )
    table = open_rows(path, types={"x": FLOAT, "s": TEXT}).table()
    assert table.to_pydict() == {"x": [1.5, 1.0, None, None], "s": ["3", "true", None, "t"]}


def test_text_among_json_numbers_is_refused_by_row_and_never_quoted(tmp_path: Path) -> None:
    path = jsonl(tmp_path, '{"x": 1}\n' * 3 + '{"x": "Secret7"}\n')
    with pytest.raises(CellError, match=r"column 'x' of .* first at row 4") as caught:
        open_rows(path, types={"x": FLOAT}).table()
    assert "Secret7" not in str(caught.value)


@pytest.mark.parametrize("line", ['{"x": "Secret7', "[1]", "7", "{'x': 1}"])
def test_a_damaged_json_line_is_named_by_number(tmp_path: Path, line: str) -> None:
    path = jsonl(tmp_path, '{"x": 1}\n\n{"x": 2}\n' + line + "\n")
    with pytest.raises(DataFileError, match=r"line 4 of .*rows.jsonl is no JSON object") as caught:
        open_rows(path).table()
    assert "Secret7" not in str(caught.value)


def test_a_json_array_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="holds a JSON array; write one object a line"):
        open_rows(jsonl(tmp_path, '[{"x": 1}]'))


# Files that are wrong


def test_a_missing_file_and_a_pattern_without_match_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"absent.csv does not exist"):
        open_rows(tmp_path / "absent.csv")
    with pytest.raises(DataFileError, match=r"no file matches .*\*\.parquet"):
        open_rows(f"{tmp_path}/*.parquet")


@pytest.mark.parametrize("name", WRITERS)
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(DataFileError, match="is empty"):
        open_rows(tmp_path / name)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.feather", "rows.arrow"])
@pytest.mark.parametrize("keep", [0.3, 0.5, 0.9])
def test_a_file_cut_off_is_refused(tmp_path: Path, name: str, keep: float) -> None:
    path = tmp_path / name
    WRITERS[name](pa.table({"x": np.arange(20_000) / 7}), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(DataFileError, match=f"{name} is damaged, cut off"):
        open_rows(path).table()


def test_damage_inside_a_parquet_file_is_reported_and_not_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"x": ["Secret7"] * 10_000 + [str(i) for i in range(10_000)]}), path)
    content = bytearray(path.read_bytes())
    content[100:4000] = b"\xff" * 3900
    path.write_bytes(content)
    for read in (lambda source: list(source.batches()), lambda source: source.table()):
        with pytest.raises(DataFileError, match=r"rows.parquet is damaged"):
            read(open_rows(path))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.parquet", b"a,b\n1,2\n", "is named as Parquet but holds text"),
        ("a.feather", b"PAR1....", "is named as Arrow but holds Parquet"),
        ("a.csv", b"PAR1....", "is named as CSV but holds Parquet"),
        ("a.csv", b"PK\x03\x04....", "is named as CSV but holds an Excel workbook"),
        ("a.xlsx", b"PK\x03\x04....", "holds an Excel workbook or zip archive, which cannot be read; save it as"),
        ("a.csv", b"a,b\n1,\x00\n", "is not text but holds binary data"),
        ("a.csv", b"a,b\n1,\x81\n", "is text in no encoding"),
        ("a.unheard", b"a,b\n1,2\n", "is of no known format: its name should end in one of .parquet"),
    ],
)
def test_a_name_that_lies_is_told_so(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataFileError, match=sentence):
        open_rows(tmp_path / name)


def test_a_file_one_may_not_read_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(ROWS, tmp_path / "rows.parquet")

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, whom no file refuses
    with pytest.raises(DataFileError, match="may not be read by this user"):
        open_rows(tmp_path / "rows.parquet")


def test_repeated_names_are_refused_in_every_kind_of_table(tmp_path: Path) -> None:
    table = pa.table([[1], [2], [3]], names=["a", "b", "a"])
    pq.write_table(table, tmp_path / "rows.parquet")
    write_stream(table, tmp_path / "rows.arrow")
    frame = pd.DataFrame([[1, 2, 3]], columns=["a", "b", "a"])
    for data in (tmp_path / "rows.parquet", tmp_path / "rows.arrow", table, frame):
        with pytest.raises(SchemaError, match="more than one column named 'a'"):
            open_rows(data)


MEASURE = """
import resource, sys
import pyarrow as pa, pyarrow.parquet, pyarrow.csv, pyarrow.json, pyarrow.compute
from anomvae.data.reading import open_rows
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = open_rows(sys.argv[1], types={f"c{i}": pa.float64() for i in range(32)})
rows = sum(batch.num_rows for batch in source.batches())
print(rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def added_mb(path: Path, n_rows: int) -> int:
    answer = subprocess.run([sys.executable, "-c", MEASURE, str(path)], check=True, capture_output=True, text=True)
    read, added = answer.stdout.split()
    assert int(read) == n_rows
    return int(added)


def test_a_parquet_file_of_one_row_group_is_read_in_little_memory(tmp_path: Path) -> None:
    n_rows = 500_000
    rng = np.random.default_rng(0)
    table = pa.table({f"c{i}": rng.normal(size=n_rows) for i in range(32)})
    pq.write_table(table, tmp_path / "big.parquet", row_group_size=n_rows)
    assert table.nbytes == 128_000_000
    assert added_mb(tmp_path / "big.parquet", n_rows) < 200


@pytest.mark.parametrize("name", ["big.csv", "big.jsonl"])
def test_text_is_streamed_in_little_memory(tmp_path: Path, name: str) -> None:
    n_rows, path = 200_000, tmp_path / name
    line = (
        ",".join(["0.123456789"] * 32) if name == "big.csv" else json.dumps({f"c{i}": 0.123456789 for i in range(32)})
    )
    head = ",".join(f"c{i}" for i in range(32)) + "\n" if name == "big.csv" else ""
    path.write_text(head + (line + "\n") * n_rows)
    assert path.stat().st_size > 75_000_000
    assert added_mb(path, n_rows) < 200


@pytest.mark.parametrize("when", ["dd/mm", "ms", "iso", "mixed"])
def test_columns_named_without_a_type_are_inferred_from_all_of_a_streamed_file(tmp_path: Path, when: str) -> None:
    """The first block of days alone would not tell day from month."""
    n = 60_000
    days = [f"{1 + i // 2_160:02d}/02/2026 10:{i % 60:02d}" for i in range(n)]
    iso = [f"2026-02-01T00:00:00.{i:06d}" for i in range(n)]
    cells = {"dd/mm": days, "ms": list(range(n)), "iso": iso, "mixed": ["2026-02-01T00:00:00", *iso[1:]]}[when]
    table = pa.table({"x": np.arange(n) / 8, "when": cells, "note": ["some words"] * n})
    pacsv.write_csv(table, tmp_path / "rows.csv")
    whole = open_rows(tmp_path / "rows.csv").table()
    source = open_rows(tmp_path / "rows.csv", types={"x": FLOAT, "when": None, "absent": None})
    assert source.table().column("when").type == whole.column("when").type
    for names in (None, ["when", "x"], ["when"], ["x"]):
        wanted = source.schema.names if names is None else names
        found = pa.Table.from_batches(source.batches(columns=names, batch_rows=1_000))
        assert found.to_pydict() == whole.select(wanted).to_pydict()


def test_a_file_without_rows_has_the_columns_that_are_to_be_inferred(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("when,x\n")
    table = open_rows(tmp_path / "rows.csv", types={"x": FLOAT, "when": None}).table()
    assert (table.schema.names, table.num_rows) == (["when", "x"], 0)
