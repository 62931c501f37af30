"""Who may ask, and what a token file must hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anomvae.errors import SettingError, UnauthorizedError
from anomvae.serving.tokens import Tokens, read_tokens

if TYPE_CHECKING:
    from pathlib import Path

ONE, OTHER = "one-token-long-enough", "other-token-long-enough"


def test_without_tokens_everyone_may_ask() -> None:
    tokens = Tokens()
    assert not tokens.wanted
    for header in (None, "", "Bearer x"):
        tokens.check(header)


@pytest.mark.parametrize("header", [f"Bearer {ONE}", f"bearer {OTHER}", f"BEARER  {ONE} "])
def test_each_of_the_tokens_opens(header: str) -> None:
    Tokens([ONE, OTHER]).check(header)


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", ONE, f"Basic {ONE}", f"Bearer {ONE}x", f"Bearer {ONE[:-1]}", f"Bearer {ONE} {ONE}"],
)
def test_nothing_else_opens_and_the_answer_tells_no_token(header: str | None) -> None:
    with pytest.raises(UnauthorizedError) as refused:
        Tokens([ONE, OTHER]).check(header)
    assert ONE not in str(refused.value)


@pytest.mark.parametrize("header", ["Bearer ü" * 9, "Bearer \udcff", "Bearer \x00"])
def test_headers_that_are_no_text_are_refused_like_others(header: str) -> None:
    with pytest.raises(UnauthorizedError):
        Tokens([ONE]).check(header)


def test_tokens_are_replaced_all_at_once() -> None:
    tokens = Tokens([ONE])
    tokens.replace([OTHER])
    tokens.check(f"Bearer {OTHER}")
    with pytest.raises(UnauthorizedError):
        tokens.check(f"Bearer {ONE}")


def test_a_file_holds_a_token_a_line(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_bytes(f"# the plant\r\n{ONE}\r\n\r\n  {OTHER}  \n".encode())
    assert read_tokens(file) == [ONE, OTHER]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no token"),
        (b"# only words\n\n", "holds no token"),
        (f"{ONE}\nshort\n".encode(), "line 2"),
        (f"{ONE} {OTHER}\n".encode(), "line 1"),
        ("ein-schlüssel-der-lang-ist".encode(), "line 1"),
        (b"\xff\xfe\x00", "it is no text"),
    ],
)
def test_a_file_that_is_not_safe_is_refused_without_its_content(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "tokens"
    file.write_bytes(content)
    with pytest.raises(SettingError, match=said) as refused:
        read_tokens(file)
    assert "short" not in str(refused.value).replace("too short", "")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    for file in (tmp_path / "none", tmp_path):
        with pytest.raises(SettingError, match="cannot be read"):
            read_tokens(file)
