"""Parts of a page that a job writes between markers, so that several jobs can share the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def find_section(page: str, name: str) -> str:
    """The section of a page, markers included; empty where the page has none.

    Args:
        page: The page's text.
        name: Name in the markers `<!-- NAME:start -->` and `<!-- NAME:end -->`.
    """
    opening, closing = _markers(name)
    start, end = page.find(opening), page.find(closing)
    return "" if start < 0 or end < start else page[start : end + len(closing)]


def with_section(page: str, name: str, text: str) -> str:
    """The page with a section's text replaced, or added at its end."""
    opening, closing = _markers(name)
    section = f"{opening}\n{text.strip()}\n{closing}"
    old = find_section(page, name)
    return page.replace(old, section) if old else f"{page.rstrip()}\n\n{section}\n"


def write_section(path: Path, name: str, text: str, title: str = "") -> None:
    """Replaces a section of a page on disk; the rest of the page stays as it is.

    Args:
        path: The page.
        name: Of the section.
        text: What it shall hold.
        title: Heading of the page, where there is no such page yet.

    Raises:
        FileNotFoundError: There is no such page, and no title to begin it with.
    """
    page = f"# {title}\n" if title and not path.exists() else path.read_text()
    path.write_text(with_section(page, name, text))


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}:start -->", f"<!-- {name}:end -->"
