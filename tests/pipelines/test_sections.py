from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.sections import find_section, with_section, write_section

if TYPE_CHECKING:
    from pathlib import Path

PAGE = "# Page\n\nbefore\n\n<!-- a:start -->\nold\n<!-- a:end -->\n\nafter\n"


def test_a_section_is_replaced_and_the_rest_of_the_page_stays() -> None:
    assert with_section(PAGE, "a", "new\n") == PAGE.replace("old", "new")


def test_a_section_that_is_not_there_yet_comes_last() -> None:
    page = with_section(PAGE, "b", "text")
    assert page.startswith(PAGE.rstrip())
    assert page.endswith("\n\n<!-- b:start -->\ntext\n<!-- b:end -->\n")


def test_a_section_can_be_carried_over_to_a_page_that_is_written_anew() -> None:
    kept = find_section(PAGE, "a")
    assert kept.startswith("<!-- a:start -->")
    assert "old" in kept
    assert kept.endswith("<!-- a:end -->")
    assert not find_section(PAGE, "b")


def test_writing_twice_leaves_one_section(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    for text in ("first", "second"):
        write_section(path, "b", text)
    assert path.read_text().count("<!-- b:start -->") == 1
    assert "second" in path.read_text()
    assert "first" not in path.read_text()
