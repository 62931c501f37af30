"""CSV as people write it: delimiters, encodings, decimal marks, dates, and what is wrong with a file."""

from __future__ import annotations

import codecs
import csv
import datetime as dt
import gzip
import io
import math
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomvae.data.csv_dialect import examine_text, sniff_csv
from anomvae.data.reading import open_rows
from anomvae.data.text_cells import MISSING_WORDS
from anomvae.errors import CellError, DataFileError, SchemaError

if TYPE_CHECKING:
    from pathlib import Path

    from anomvae.data.source import RowSource

FLOAT, TEXT = pa.float64(), pa.string()


def write(folder: Path, content: str | bytes, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(folder: Path, content: str | bytes, types: dict[str, pa.DataType] | None = None) -> pa.Table:
    return open_rows(write(folder, content), types=types).table()


def streamed(source: RowSource) -> dict[str, list[object]]:
    columns: dict[str, list[object]] = {name: [] for name in source.schema.names}
    for batch in source.batches():
        for name in columns:
            columns[name] += batch.column(name).to_pylist()
    return columns


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_and_quotes_are_honoured(tmp_path: Path, delimiter: str) -> None:
    text = f'a{delimiter}b\n1{delimiter}"x,;|\ty"\n2{delimiter}"said ""no"""\n'
    assert rows_of(tmp_path, text).to_pydict() == {"a": [1, 2], "b": ["x,;|\ty", 'said "no"']}


def test_decimal_commas_beside_semicolons_are_no_delimiter(tmp_path: Path) -> None:
    table = rows_of(tmp_path, "Weight, kg;Height, cm\n1,5;2,5\n3,25;4,0\n")
    assert table.to_pydict() == {"Weight, kg": [1.5, 3.25], "Height, cm": [2.5, 4.0]}


def test_a_file_of_one_column_is_one_column(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "x\n1,5\n2,5\n").to_pydict() == {"x": [1.5, 2.5]}


def test_the_delimiter_that_excel_states_is_believed(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "sep=;\r\na;b\r\n1;2\r\n").to_pydict() == {"a": [1], "b": [2]}


@pytest.mark.parametrize(
    "content",
    [
        codecs.BOM_UTF8 + "größe,b\n1,µ\n".encode(),
        "größe,b\n1,µ\n".encode(),
        "größe,b\n1,µ\n".encode("cp1252"),
        "größe,b\n1,µ\n".encode("utf-16"),
        codecs.BOM_UTF16_BE + "größe,b\n1,µ\n".encode("utf-16-be"),
        gzip.compress("größe,b\r\n1,µ\r\n".encode()),
    ],
    ids=["utf-8 with mark", "utf-8", "cp1252", "utf-16 little", "utf-16 big", "gzip"],
)
def test_every_common_encoding_is_read(tmp_path: Path, content: bytes) -> None:
    assert rows_of(tmp_path, content).to_pydict() == {"größe": [1], "b": ["µ"]}
    assert rows_of(tmp_path, content, {"größe": FLOAT}).to_pydict() == {"größe": [1.0], "b": ["µ"]}


def test_the_encoding_is_decided_by_the_whole_file(tmp_path: Path) -> None:
    path = write(tmp_path, b"a,b\n" + b"1,plain\n" * 400_000 + b"2,gr\xf6\xdfe\n")
    assert examine_text(path, "rows.csv").encoding == "cp1252"


def test_a_character_on_the_border_of_two_blocks_is_still_utf_8(tmp_path: Path) -> None:
    path = write(tmp_path, b"ab" + b"x" * ((1 << 20) - 1) + "é\n".encode())
    assert examine_text(path, "rows.csv").encoding == "utf-8"


def test_every_word_for_missing_is_a_missing_cell(tmp_path: Path) -> None:
    body = "".join(f"{word},{word}, {word} ,1\n" for word in MISSING_WORDS)
    expected: list[object] = [None] * len(MISSING_WORDS)
    for types in (None, {"number": FLOAT, "text": TEXT, "blanks": FLOAT}):
        table = rows_of(tmp_path, "number,text,blanks,one\n1.5,x, 2 ,1\n" + body, types)
        assert table.column("number").to_pylist() == [1.5, *expected]
        assert table.column("text").to_pylist() == ["x", *expected]
        assert table.column("blanks").to_pylist() == [2, *expected]


@pytest.mark.parametrize("types", [None, {"a": FLOAT}])
def test_infinities_are_numbers(tmp_path: Path, types: dict[str, pa.DataType] | None) -> None:
    cells = rows_of(tmp_path, "a,b\ninf,1\n-inf,1\nInfinity,1\n-Infinity,1\n1e3,1\n", types).column("a").to_pylist()
    assert cells == [math.inf, -math.inf, math.inf, -math.inf, 1000.0]


@pytest.mark.parametrize("types", [None, {"a": FLOAT, "b": TEXT}])
@pytest.mark.parametrize(
    "content",
    [
        "\n\na,b\n\n1,x\n   \n2,y\n\n",
        "a,b,\n1,x,\n2,y,\n",
        "a,b\n1,x,\n2,y,\n",
        "a,b,,\n1,x\n2,y\n",
        " a , b \r\n1,x\r\n2,y\r\n",
        "a,b\n1,x\n2,y\n,,,,\n",
    ],
    ids=["blank lines", "trailing delimiter", "only in rows", "only in header", "blanks in header", "delimiters only"],
)
def test_untidy_edges_do_not_break_a_file(tmp_path: Path, content: str, types: dict[str, pa.DataType] | None) -> None:
    assert rows_of(tmp_path, content, types).to_pydict() == {"a": [1, 2], "b": ["x", "y"]}


def test_unnamed_columns_are_named_by_their_place(tmp_path: Path) -> None:
    assert rows_of(tmp_path, ",b,\n1,2,3\n4,5,6\n").schema.names == ["column_1", "b", "column_3"]


def test_a_header_may_break_lines_within_quotes(tmp_path: Path) -> None:
    assert rows_of(tmp_path, '"a\nunit",b\n1,"two\nlines"\n').to_pydict() == {"a\nunit": [1], "b": ["two\nlines"]}


@pytest.mark.parametrize("content", ["a,b", "a,b\n", "a,b\r\n\r\n"])
@pytest.mark.parametrize("types", [None, {"a": FLOAT}])
def test_a_header_alone_is_a_source_of_no_rows(
    tmp_path: Path, content: str, types: dict[str, pa.DataType] | None
) -> None:
    source = open_rows(write(tmp_path, content), types=types)
    assert source.schema.names == ["a", "b"]
    assert sum(batch.num_rows for batch in source.batches()) == source.table().num_rows == 0


NUMBERS = [
    ("a;b\n1,5;x\n2,25;y\n", [1.5, 2.25]),
    ("a\tb\n-1,5\tx\n2,25e3\ty\n", [-1.5, 2250.0]),
    ("a;b\n1.234,50;x\n2;y\n", [1234.5, 2.0]),
    ("a;b\n1.234.567;x\n2;y\n", [1234567.0, 2.0]),
    ('a,b\n"1,234.50",x\n2,y\n', [1234.5, 2.0]),
    ('a,b\n"1,234,567",x\n2,y\n', [1234567.0, 2.0]),
    ("a;b\n1.234;0,5\n12.345;0,25\n", [1234.0, 12345.0]),
    ('a,b\n"1,234",0.5\n"12,345",0.25\n', [1234.0, 12345.0]),
    ("a;b\n1,234;x\n12,345;y\n", [1.234, 12.345]),
    ("a;b\n1.234;x\n12.345;y\n", [1.234, 12.345]),
    ("a;b\n0.123;1,5\n0.456;1,5\n", [0.123, 0.456]),
]


@pytest.mark.parametrize(("content", "expected"), NUMBERS)
def test_numbers_are_read_the_same_with_and_without_known_types(
    tmp_path: Path, content: str, expected: list[float]
) -> None:
    path = write(tmp_path, content)
    inferred = open_rows(path).table()
    types = {name: FLOAT for name in inferred.schema.names if inferred.schema.field(name).type == FLOAT}
    assert inferred.column("a").to_pylist() == expected
    assert open_rows(path, types=types).table().column("a").to_pylist() == expected


def test_a_number_that_can_be_read_in_two_ways_stays_text_or_is_refused(tmp_path: Path) -> None:
    content = "a\tb\n7\tx\n1,234\ty\n"
    assert rows_of(tmp_path, content).column("a").to_pylist() == ["7", "1,234"]
    with pytest.raises(CellError, match=r"column 'a' of .*rows.csv .* two ways, first at row 2") as caught:
        rows_of(tmp_path, content, {"a": FLOAT})
    assert "1,234" not in str(caught.value)


def test_a_file_that_begins_to_group_thousands_late_is_read_on(tmp_path: Path) -> None:
    n = 600_000
    path = write(tmp_path, "a,b\n" + "0.5,xxxx\n" * n + '"1,234.5",y\n' + "2.5,z\n")
    cells = [cell for batch in open_rows(path, types={"a": FLOAT}).batches() for cell in batch.column("a").to_pylist()]
    assert cells == [0.5] * n + [1234.5, 2.5]


def test_a_column_of_numbers_but_for_one_stays_text(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "a,b\n1,1\n2,2\nsecret,3\n").schema.types == [TEXT, pa.int64()]


@pytest.mark.parametrize("n_before", [0, 4, 900_000])
def test_text_among_numbers_is_refused_by_row_and_never_quoted(tmp_path: Path, n_before: int) -> None:
    path = write(tmp_path, "a,b\n\n" + "1.5,x\n" * n_before + "Secret7,x\n" + "2,x\n" * 5)
    with pytest.raises(CellError, match=rf"column 'a' of {path} .* first at row {n_before + 1};") as caught:
        streamed(open_rows(path, types={"a": FLOAT, "b": TEXT}))
    assert "Secret7" not in str(caught.value)


def test_columns_without_a_known_type_stay_text(tmp_path: Path) -> None:
    table = rows_of(tmp_path, "a,b,c\n1,2,2024-01-01\n", {"a": FLOAT})
    assert table.to_pydict() == {"a": [1.0], "b": ["2"], "c": ["2024-01-01"]}


DAY = dt.date(2024, 12, 31)
DATES = [
    ("2024-12-31", DAY),
    ("31.12.2024", DAY),
    ("31/12/2024", DAY),
    ("12/31/2024", DAY),
    ("2024-12-31 06:07:08", dt.datetime(2024, 12, 31, 6, 7, 8)),  # noqa: DTZ001  files hold local times
    ("31.12.2024 6:07", dt.datetime(2024, 12, 31, 6, 7)),  # noqa: DTZ001
    ("31.12.2024 06:07:08", dt.datetime(2024, 12, 31, 6, 7, 8)),  # noqa: DTZ001
    ("12/31/2024 06:07", dt.datetime(2024, 12, 31, 6, 7)),  # noqa: DTZ001
]


@pytest.mark.parametrize(("cell", "expected"), DATES)
def test_dates_in_common_forms_are_dates(tmp_path: Path, cell: str, expected: dt.date) -> None:
    path = write(tmp_path, f"when,b\n{cell},1\n,2\n")
    inferred = open_rows(path).table()
    assert inferred.column("when").to_pylist() == [expected, None]
    known = open_rows(path, types={"when": inferred.schema.field("when").type}).table()
    assert known.column("when").to_pylist() == [expected, None]


@pytest.mark.parametrize("cells", [("01/02/2024", "03/04/2024"), ("31.02.2024", "01.02.2024"), ("1.5.2024", "soon")])
def test_what_may_be_another_date_or_none_stays_text(tmp_path: Path, cells: tuple[str, str]) -> None:
    path = write(tmp_path, "when,b\n{},1\n{},2\n".format(*cells))
    assert open_rows(path).table().column("when").to_pylist() == list(cells)
    with pytest.raises(CellError, match="column 'when' of") as caught:
        open_rows(path, types={"when": pa.timestamp("s")}).table()
    assert not any(cell in str(caught.value) for cell in cells)


def test_ragged_rows_are_refused_by_number(tmp_path: Path) -> None:
    for types in (None, {"a": FLOAT}):
        with pytest.raises(DataFileError, match=r"row 3 of .*rows.csv has 3 cells where the header has 2") as caught:
            rows_of(tmp_path, "a,b\n1,2\n\n3,4\nSecret7,6,7\n", types)
        assert "Secret7" not in str(caught.value)


def test_a_quote_that_never_closes_is_refused_rather_than_swallowing_the_rest(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="opens a quote in row 2 that never closes"):
        rows_of(tmp_path, 'a,b\n1,x\n2,"y\n3,z\n')
    assert rows_of(tmp_path, 'a,b\n1,5" pipe\n').to_pydict() == {"a": [1], "b": ['5" pipe']}


def test_repeated_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="more than one column named 'a'"):
        rows_of(tmp_path, "a,b, a \n1,2,3\n")


def test_blanks_alone_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="no header and no rows"):
        rows_of(tmp_path, "\n  \n\n")


def test_a_packed_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, gzip.compress(b"a,b\n1,2\n" * 10_000)[:-20], "rows.csv.gz")
    with pytest.raises(DataFileError, match=r"rows.csv.gz is damaged, cut off"):
        open_rows(path)


def test_a_cell_longer_than_most_files_is_a_cell(tmp_path: Path) -> None:
    content = "a,b\n1," + "x" * 900_000 + "\n2,y\n"
    assert rows_of(tmp_path, content).column("a").to_pylist() == [1, 2]
    assert rows_of(tmp_path, content, {"a": FLOAT}).column("a").to_pylist() == [1.0, 2.0]
    with pytest.raises(DataFileError, match="a row of several megabytes"):
        rows_of(tmp_path, "a,b\n1," + "x" * 3_000_000 + "\n2,y\n", {"a": FLOAT})


def test_a_time_of_day_cannot_be_asked_for(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "a,b\n10:00:00,1\n").schema.types == [pa.time32("s"), pa.int64()]
    with pytest.raises(CellError, match=r"column 'a' of .* cannot be read as time32"):
        rows_of(tmp_path, "a,b\n10:00:00,1\n", {"a": pa.time32("s")})


def test_the_dialect_says_what_was_found(tmp_path: Path) -> None:
    dialect = sniff_csv(examine_text(write(tmp_path, "\na;b;\n1;2;\n"), "rows.csv"))
    assert (dialect.delimiter, dialect.names, dialect.spare) == (";", ("a", "b", "column_3"), ("column_3",))
    assert (dialect.header_lines, dialect.has_rows) == (2, True)


DIALECTS = [(",", "."), (";", ","), ("\t", ","), ("|", ".")]
CELL = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")) | st.sampled_from('",;|\t\n '), max_size=8)
ROW = st.tuples(st.none() | st.floats(allow_nan=False, width=32), CELL)


@pytest.mark.parametrize(("delimiter", "mark"), DIALECTS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=8))
def test_tables_survive_the_way_through_any_dialect(
    tmp_path: Path, delimiter: str, mark: str, rows: list[tuple[float | None, str]]
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(["number", "text", "half"])
    half = f"0{mark}5"
    for number, cell in rows:
        writer.writerow(["" if number is None else repr(number).replace(".", mark), cell, half])
    table = rows_of(tmp_path, text.getvalue().encode(), {"number": FLOAT, "text": TEXT, "half": FLOAT})
    stripped = [cell.strip() for _, cell in rows]
    assert table.column("number").to_pylist() == [number for number, _ in rows]
    assert table.column("text").to_pylist() == [None if cell in MISSING_WORDS else cell for cell in stripped]
    assert table.column("half").to_pylist() == [0.5] * len(rows)
