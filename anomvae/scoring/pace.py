"""How long calls take: what is known of a runner from the calls it has made."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from anomvae.scoring.jobs import Runner

_WEIGHT = 0.05
_DISTURBED = 0.4
"""A call beside others takes up to so much longer, as a share: it may have waited for the interpreter."""
_FORGETTING = 0.99
_MOST_CLASSES = 256


class Pace:
    """Remembers, by runner, outputs and size, how long a call took of late.

    A size is a class: rows up to the next power of two. Of a class without a call nothing is known.

    Example:
        >>> pace, runner = Pace(), type("Runner", (), {})()
        >>> pace.note(runner, ("score",), 5, 0.001, alone=False)
        >>> pace.expected_s(runner, ("score",), 8), pace.expected_s(runner, ("score",), 9)
        (0.001, None)
    """

    def __init__(self) -> None:
        self._seen: WeakKeyDictionary[Runner, dict[tuple[tuple[str, ...], int], float]] = WeakKeyDictionary()

    def note(self, runner: Runner, outputs: tuple[str, ...], n_rows: int, run_s: float, *, alone: bool) -> None:
        """Notes a call.

        Args:
            runner: That made it.
            outputs: It computed.
            n_rows: It had.
            run_s: It took, in seconds.
            alone: Whether nothing else ran meanwhile. A call beside others may have waited: it counts less.
        """
        classes = self._seen.setdefault(runner, {})
        key = (outputs, _size_class(n_rows))
        before = classes.get(key)
        if before is None:
            if len(classes) >= _MOST_CLASSES:  # callers choose outputs, and there are many choices
                classes.clear()
            classes[key] = run_s
        elif alone:  # what disturbs a call makes it longer, never shorter
            classes[key] = run_s if run_s < before else before + _WEIGHT * (run_s - before)
        else:  # forget slowly what may have been a disturbance, so that the call is tried alone again
            classes[key] = min(before, max(_DISTURBED * run_s, min(run_s, before * _FORGETTING)))

    def expected_s(self, runner: Runner, outputs: tuple[str, ...], n_rows: int) -> float | None:
        """Seconds such a call takes, if one of its class was made."""
        classes = self._seen.get(runner)
        return None if classes is None else classes.get((outputs, _size_class(n_rows)))


def _size_class(n_rows: int) -> int:
    return max(0, n_rows - 1).bit_length()
