"""How a text file is written: its encoding, and for CSV its delimiter and header."""

from __future__ import annotations

import codecs
import csv
import io
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import pyarrow as pa

from anomvae.data.source import damage_reported, refuse_repeated_names
from anomvae.errors import DataFileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
"""Compressions of text files by their first bytes."""

_UTF16_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?([eE][+-]?\d+)?")
_CHUNK_BYTES = 1 << 20
_SNIFF_CHARS = 1 << 20
_SNIFF_ROWS = 100
_DELIMITERS = "\t;|,"
"""Least likely to stand inside a cell first."""


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text file, however encoded and compressed.

    Attributes:
        path: The file.
        name: As the user named it.
        encoding: `utf-8`, `utf-16` or `cp1252`.
        compression: `gzip`, `bz2`, `zstd` or None.
        n_quotes: Number of double quotes in it.
        is_empty: Whether it holds no text at all.
    """

    path: Path
    name: str
    encoding: str
    compression: str | None
    n_quotes: int
    is_empty: bool

    def open(self) -> pa.NativeFile:
        """Its text as UTF-8 bytes, unpacked on the way."""
        stream = _unpacked(self.path, self.compression)
        return stream if self.encoding == "utf-8" else pa.transcoding_input_stream(stream, self.encoding, "utf-8")

    def open_text(self) -> io.TextIOWrapper:
        """Its text, line ends as they are, without a byte order mark."""
        return io.TextIOWrapper(self.open(), encoding="utf-8-sig", newline="")


@dataclass(frozen=True, slots=True)
class CsvDialect:
    """How a CSV file is written.

    Attributes:
        delimiter: What parts the cells.
        names: Column names, one a cell of a row; unnamed columns are called `column_3`, counted from 1.
        spare: Unnamed columns at the right edge: artefacts of trailing delimiters unless they hold something.
        header_lines: Lines up to and with the header.
        has_rows: Whether rows follow the header.
    """

    delimiter: str
    names: tuple[str, ...]
    spare: tuple[str, ...]
    header_lines: int
    has_rows: bool


def examine_text(path: Path, name: str) -> TextFile:
    """Finds how a file is encoded, by looking at all of it.

    Args:
        path: The file.
        name: As the user named it.

    Raises:
        DataFileError: It is not text, in no encoding we know, or its compression is damaged.
    """
    with path.open("rb") as file:
        head = file.read(4)
    compression = next((kind for magic, kind in COMPRESSIONS.items() if head.startswith(magic)), None)
    with damage_reported(name, compression or "text"), _unpacked(path, compression) as stream:
        first = stream.read(2)
        is_wide = first in _UTF16_BOMS
        candidates = {"utf-16": codecs.getincrementaldecoder("utf-16")()} if is_wide else _narrow_decoders()
        chunk, n_quotes, is_empty = first, 0, not first
        while chunk:
            if b"\0" in chunk and not is_wide:
                raise DataFileError(f"{name} is not text but holds binary data; give CSV, JSON lines, Parquet or Arrow")
            n_quotes += chunk.count(b'"')
            candidates = {key: decoder for key, decoder in candidates.items() if _decodes(decoder, chunk)}
            chunk = stream.read(_CHUNK_BYTES)
        candidates = {key: decoder for key, decoder in candidates.items() if _decodes(decoder, b"", final=True)}
    if not candidates:
        raise DataFileError(f"{name} is text in no encoding that can be read; save it as UTF-8")
    return TextFile(path, name, next(iter(candidates)), compression, n_quotes, is_empty)


def sniff_csv(file: TextFile) -> CsvDialect:
    """Finds delimiter and header from the first rows.

    Args:
        file: The text.

    Raises:
        DataFileError: It holds blanks only, or a quoted cell that never ends.
        SchemaError: Two columns have the same name.
    """
    with damage_reported(file.name, "text"), file.open_text() as stream:
        text = stream.read(_SNIFF_CHARS)
    is_whole = len(text) < _SNIFF_CHARS
    stated = _stated_delimiter(text)
    start = text.index("\n") + 1 if stated and "\n" in text else 0
    text = text[start:]
    delimiter = stated or max(_DELIMITERS, key=lambda candidate: _fitness(text, candidate, is_whole=is_whole))
    rows, header_lines = _first_rows(text, delimiter, is_whole=is_whole)
    if not rows:
        raise DataFileError(f"{file.name} holds no header and no rows; give a file with both")
    if file.n_quotes % 2:
        _refuse_open_quote(file, delimiter)
    if _is_data(rows[0]):
        raise DataFileError(f"{file.name} seems to have no header row: its first row holds only numbers; add the names")
    names, n_named = _names(rows[0], rows[1:])
    below = islice(io.StringIO(text, newline=""), header_lines, None)
    has_rows = not is_whole or any(line.strip() for line in below)
    refuse_repeated_names(names, file.name)
    return CsvDialect(delimiter, names, names[n_named:], header_lines + bool(start), has_rows)


def _unpacked(path: Path, compression: str | None) -> pa.NativeFile:
    stream = pa.OSFile(str(path))
    return stream if compression is None else pa.CompressedInputStream(stream, compression)


def _narrow_decoders() -> dict[str, codecs.IncrementalDecoder]:
    return {key: codecs.getincrementaldecoder(key)() for key in ("utf-8", "cp1252")}


def _decodes(decoder: codecs.IncrementalDecoder, chunk: bytes, *, final: bool = False) -> bool:
    try:
        decoder.decode(chunk, final)
    except UnicodeDecodeError:
        return False
    return True


def _stated_delimiter(text: str) -> str | None:
    """The delimiter that a first line such as `sep=;` states, as Excel writes and reads it."""
    line = text[:8].splitlines()[0].strip() if text.strip() else ""
    return line[-1] if line.lower().startswith("sep=") and len(line) == len("sep=;") else None


def _fitness(text: str, delimiter: str, *, is_whole: bool) -> tuple[bool, float, int]:
    """How well a delimiter explains the first rows: more than one column, and as many in each row as in the header."""
    rows, _ = _first_rows(text, delimiter, is_whole=is_whole)
    if not rows:
        return False, 0.0, 0
    header, width = rows[0], _width(rows[0])
    agreeing = sum(len(row) in (len(header), width) or _width(row) <= width <= len(row) for row in rows[1:])
    share = agreeing / (len(rows) - 1) if len(rows) > 1 else 1.0
    return len(header) > 1, share, 0 if len(rows) > 1 else len(header)


def data_rows(file: TextFile, delimiter: str, *, strict: bool = False) -> Iterator[list[str]]:
    """Rows under the header that are not blank, slowly: to find the row that is wrong.

    Raises:
        csv.Error: The text is no CSV.
    """
    with file.open_text() as stream:
        rows = csv.reader(stream, delimiter=delimiter, strict=strict)
        yield from islice((row for row in rows if any(cell.strip() for cell in row)), 1, None)


def _refuse_open_quote(file: TextFile, delimiter: str) -> None:
    """Refuses a file whose last quoted cell never ends: it would swallow all rows that follow."""
    number = 0
    try:
        for number, _ in enumerate(data_rows(file, delimiter, strict=True), start=1):  # noqa: B007  the one after it is bad
            pass
    except csv.Error as error:
        if "unexpected end" not in str(error):
            return
        message = f"{file.name} opens a quote in row {number + 1} that never closes; mend that row"
        raise DataFileError(message) from None


def _first_rows(text: str, delimiter: str, *, is_whole: bool) -> tuple[list[list[str]], int]:
    """The first rows that are not blank, and the number of lines up to and with the first of them."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[list[str]] = []
    header_lines = 0
    try:
        for row in islice((row for row in reader if any(cell.strip() for cell in row)), _SNIFF_ROWS + 1):
            header_lines = header_lines or reader.line_num
            rows.append(row)
    except csv.Error:
        pass  # a cell of more than 128 KiB: what came before it will do
    is_cut = not is_whole and len(rows) <= _SNIFF_ROWS
    return (rows[:-1] if is_cut and len(rows) > 1 else rows), header_lines


def _is_data(header: list[str]) -> bool:
    """Whether a header is a row of data: only numbers, not all of them whole (years name columns, too)."""
    cells = [cell.strip() for cell in header if cell.strip()]
    numbers = [cell for cell in cells if _NUMBER.fullmatch(cell)]
    return bool(cells) and len(numbers) == len(cells) and any("." in cell or "," in cell for cell in numbers)


def _names(header: list[str], rows: list[list[str]]) -> tuple[tuple[str, ...], int]:
    """Column names for rows as wide as they are, and how many of them the header gives."""
    n_named = _width(header)
    width = len(header)
    if rows:
        lengths = [len(row) for row in rows]
        usual = max(set(lengths), key=lengths.count)
        only_blanks_beyond = all(_width(row) <= width for row in rows)
        if n_named <= usual < width or (usual > width and only_blanks_beyond):
            width = usual
    cells = [*header, *[""] * width][:width]
    return tuple(cell.strip().lstrip("\ufeff") or f"column_{i}" for i, cell in enumerate(cells, start=1)), n_named


def _width(row: list[str]) -> int:
    """Number of cells up to the last that is not blank."""
    return max((i for i, cell in enumerate(row, start=1) if cell.strip()), default=0)
