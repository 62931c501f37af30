"""Who may ask: bearer tokens from a file, several at once, reloadable."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from anomvae.errors import SettingError, UnauthorizedError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SHORTEST = 16


class Tokens:
    """The valid tokens; kept as digests, compared in constant time.

    Args:
        tokens: None: everyone may ask.

    Example:
        >>> Tokens(["a-token-of-some-length"]).check("Bearer a-token-of-some-length")
    """

    def __init__(self, tokens: Iterable[str] | None = None) -> None:
        self._digests = None if tokens is None else tuple(_digest(token) for token in tokens)

    @property
    def wanted(self) -> bool:
        """Whether a token is needed at all."""
        return self._digests is not None

    def replace(self, tokens: Iterable[str]) -> None:
        """Puts other tokens in their place, all at once."""
        self._digests = tuple(_digest(token) for token in tokens)

    def check(self, authorization: str | None) -> None:
        """Refuses a caller whose `Authorization` header holds no valid token.

        Raises:
            UnauthorizedError: It is missing, of another scheme, or holds none of the tokens.
        """
        if self._digests is None:
            return
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise UnauthorizedError("this daemon wants a token: send the header `Authorization: Bearer TOKEN`")
        digest = _digest(token.strip())
        valid = False
        for known in self._digests:  # all of them, so that the time tells nothing of which
            valid |= hmac.compare_digest(digest, known)
        if not valid:
            raise UnauthorizedError("the token is not valid here")


def read_tokens(file: Path) -> list[str]:
    """Tokens of a file: one a line; empty lines and lines that start with # are left out.

    Raises:
        SettingError: The file cannot be read, holds no token, or one too short to be safe.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingError(f"the tokens file {file} cannot be read: {reason}") from None
    tokens = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    tokens = [(number, token) for number, token in tokens if token and not token.startswith("#")]
    if not tokens:
        raise SettingError(f"the tokens file {file} holds no token; write one a line, or leave out --tokens-file")
    for number, token in tokens:
        if len(token) < SHORTEST or " " in token or not token.isascii():
            raise SettingError(
                f"the token in line {number} of {file} is too short or holds blanks: use at least {SHORTEST} letters and "
                "digits, such as `openssl rand -hex 32` gives"
            )
    return [token for _, token in tokens]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
