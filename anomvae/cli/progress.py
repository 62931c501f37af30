"""A progress bar that watches a training run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from anomvae.cli.console import err

if TYPE_CHECKING:
    from types import TracebackType

    from anomvae.training.loop import Check

REFRESH_STEPS = 10


class TrainingProgress:
    """Shows steps, rows a second, remaining time and the best validation bound. Use as a context manager."""

    def __init__(self) -> None:
        console = err()
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left at most"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[bound]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("training", total=1, rate="", bound="", start=False)
        self._rows = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_step(self, step: int, max_steps: int, rows: int) -> None:
        """See :class:`anomvae.training.loop.Hook`."""
        if step == 1:
            self._progress.start_task(self._task)
        self._rows += rows
        if step % REFRESH_STEPS and step != max_steps:
            return
        elapsed = self._progress.tasks[0].elapsed or 0.0
        rate = f"{self._rows / elapsed:,.0f} rows/s" if elapsed else ""
        self._update(completed=step, total=max_steps, rate=rate)

    def on_check(self, check: Check) -> None:
        """See :class:`anomvae.training.loop.Hook`."""
        if check.best:
            self._update(bound=f"validation {check.validation_loss:.3f} nats")

    def _update(self, **fields: Any) -> None:
        self._progress.update(self._task, **fields)
