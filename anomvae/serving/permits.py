"""How much may be in flight: over it, callers are told at once, before they cost anything."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from anomvae.errors import OverloadedError, RequestTooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable

_WINDOW_S = 1.0
_LONGEST_S = 30.0


class Permit:
    """A bounded amount of something, rows or bytes.

    Args:
        limit: Most of it in flight.
        what: Its name in messages, plural.
        clock: Monotonic seconds.

    Attributes:
        used: What is in flight.
    """

    def __init__(self, limit: int, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.what = what
        self.used = 0
        self._clock = clock
        self._returned = 0
        self._since = clock()
        self._per_s = 0.0

    def check(self) -> None:
        """Refuses if nothing more fits.

        Raises:
            OverloadedError: The permit is spent.
        """
        if self.used >= self.limit:
            raise self._overloaded()

    def take(self, n: int) -> None:
        """Takes n; whoever takes gives back.

        Raises:
            RequestTooLargeError: It is more than the whole permit.
            OverloadedError: It is more than is left.
        """
        if n > self.limit:
            raise RequestTooLargeError(
                f"the request has more {self.what} than may be in flight, {self.limit:,}; cut it up"
            )
        if self.used + n > self.limit:
            raise self._overloaded()
        self.used += n

    def give(self, n: int) -> None:
        """Gives n back."""
        self.used -= n
        self._returned += n
        elapsed = self._clock() - self._since
        if elapsed >= _WINDOW_S:
            self._per_s, self._returned, self._since = self._returned / elapsed, 0, self._clock()

    def _overloaded(self) -> OverloadedError:
        wait_s = self.used / self._per_s if self._per_s else 1.0
        return OverloadedError(
            f"too many {self.what} are in flight, the limit is {self.limit:,}; try again later",
            math.ceil(min(max(wait_s, 1.0), _LONGEST_S)),
        )
