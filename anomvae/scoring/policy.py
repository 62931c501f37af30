"""When to stop waiting and score: a policy without clocks, queues or tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from anomvae.errors import SettingError

Reason = Literal["idle", "full", "waited"]
"""What closed a batch: nothing else was running, it held enough rows, or its oldest row had waited long enough."""


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """Closes a batch at once while its model is idle; else when it holds enough rows or its oldest row has waited.

    Args:
        max_rows: Most rows in one call of the graph; larger requests are cut into chunks of this size.
        enough_rows: Rows from which a call is about as efficient as it gets: an idle thread then waits for no more.
        max_wait_s: Longest time the oldest row waits for company while a batch of the same model runs, in seconds.

    Raises:
        SettingError: A number is out of range.
    """

    max_rows: int = 1024
    enough_rows: int = 64
    max_wait_s: float = 0.002

    def __post_init__(self) -> None:
        if self.max_rows < 1:
            raise SettingError(f"max-batch-rows is {self.max_rows}; it must be at least 1")
        if self.enough_rows < 1:
            raise SettingError(f"enough rows are {self.enough_rows}; they must be at least 1")
        if not 0 <= self.max_wait_s <= 60:  # noqa: PLR2004
            raise SettingError(f"max-wait-ms is {self.max_wait_s * 1e3:g}; it must be 0 to 60,000")

    def closes(self, n_rows: int, waited_s: float, *, busy: bool) -> Reason | None:
        """Whether a thread that is free should score what waits, and why.

        Args:
            n_rows: Rows waiting.
            waited_s: How long the oldest of them has waited, in seconds.
            busy: Whether a batch of the same model is running.

        Example:
            >>> policy = BatchPolicy(max_rows=8, max_wait_s=0.5)
            >>> policy.closes(3, 0.0, busy=False), policy.closes(8, 0.0, busy=True), policy.closes(3, 0.5, busy=True)
            ('idle', 'full', 'waited')
            >>> policy.closes(3, 0.25, busy=True) is None
            True
        """
        if n_rows >= min(self.max_rows, self.enough_rows):
            return "full"
        if not busy:
            return "idle"
        return "waited" if waited_s >= self.max_wait_s else None
