"""What commands print with: people on standard error, answers on standard output."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable

WIDTH_OF_FILES = 110


def out() -> Console:
    """Standard output; a steady width where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else WIDTH_OF_FILES, highlight=False)


def err() -> Console:
    """Standard error."""
    return Console(stderr=True, width=None if sys.stderr.isatty() else WIDTH_OF_FILES, highlight=False)


def complain(message: str) -> None:
    """One line on standard error."""
    line = " ".join(message.split())
    sys.stderr.write(f"error: {line}\n")


def warn(message: str) -> None:
    """A warning on standard error."""
    err().print(f"[yellow]warning:[/yellow] {escape(message)}", soft_wrap=True)


def escape(text: Any) -> str:
    """Text that rich must not read as markup."""
    from rich.markup import escape as rich_escape

    return rich_escape(str(text))


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]], right: Iterable[str] = ()) -> Table:
    """A plain table.

    Args:
        title: Stands above it.
        columns: Headings.
        rows: Cells, turned to text.
        right: Headings of the columns to align right.
    """
    from rich import box

    drawn = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        drawn.add_column(column, justify="right" if column in set(right) else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(escape(cell) for cell in row))
    return drawn
