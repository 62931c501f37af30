"""What a measurement of power comes to, in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomvae.evaluation.power_result import BLIND_STD, LARGEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.evaluation.dose_response import Caught, SmallestShift
    from anomvae.evaluation.power_result import PowerResult, ShiftPower

MOST_NAMES = 40
_OPPOSITE = {"up": "down", "down": "up"}
FEW = "* of fewer than half of the rows: a fault that leaves a cell as it is does not count"
"""What the mark at a share means."""
FAULT_WORDS = {
    "stuck": "shows another row's value",
    "spike": "half a training range beyond that range",
    "noise": "noise of 3 standard deviations added",
    "gain": "twice or half as far from the mean",
    "unit": "x1000, x0.001, x10, x0.1, inches as mm, °C as °F",
    "swapped": "exchanged with the column most like it",
    "missing": "empty",
    "wrong": "another known value",
    "unseen": "a value training never saw",
}
"""Faults by name, each in a few words."""


def size_words(size: float) -> str:
    """A size in standard deviations, as finely as it is known.

    Example:
        >>> size_words(0.353), size_words(2.828), size_words(16.0)
        ('0.35', '2.8', '16')
    """
    fine, coarse = 1.0, 10.0
    return f"{size:.2f}" if size < fine else f"{size:.1f}" if size < coarse else f"{size:.0f}"


def shift_words(found: SmallestShift, shift: ShiftPower, *, interval: bool = True) -> str:
    """The smallest shift caught so often, with its interval.

    Example:
        >>> from anomvae.evaluation.dose_response import Caught, SmallestShift
        >>> from anomvae.evaluation.power_result import ShiftPower
        >>> found, none = SmallestShift(2.0, 1.41, None), SmallestShift(None, 16.0, None)
        >>> all_ = (Caught(1, 20),) * 2
        >>> shift = ShiftPower((0.25, 16.0), all_, all_, all_, found, none)
        >>> shift_words(found, shift), shift_words(none, shift)
        ('2.0 (1.4 to > 16)', '> 16')
    """
    largest = f"> {size_words(shift.sizes[-1])}"
    if found.size is None:
        return largest if found.low >= shift.sizes[-1] or not interval else f"{largest} (> {size_words(found.low)})"
    estimate = f"{'≤ ' if found.size <= shift.sizes[0] else ''}{size_words(found.size)}"
    if not interval:
        return estimate
    high = largest if found.high is None else size_words(found.high)
    return f"{estimate} ({size_words(found.low) if found.low else '0'} to {high})"


def sentences(result: PowerResult) -> list[str]:
    """What was done, and what it means: a sentence each."""
    return [*basis(result), *blind_spots(result), *meaning(result)]


def basis(result: PowerResult) -> list[str]:
    """What the figures rest on."""
    measured = [column.rows for column in result.columns if column.rows]
    fewest, most = min(measured, default=0), max(measured, default=0)
    each = f"{most:,} rows" if fewest == most else f"{fewest:,} to {most:,} rows"
    low, high = result.untouched.interval
    told = [
        f"Faults were put into {result.rows:,} normal rows, one column at a time, {each} a column: "
        f"{result.faulty_rows:,} faulty rows. Caught means an alarm at a stated rate of {result.settings.alarm_rate:.2%}.",
        f"Untouched, {result.untouched.hits:,} of the {result.rows:,} rows alarm: {result.untouched.share:.1%} "
        f"(95 % interval {low:.1%} to {high:.1%}). A share near that means that nothing was noticed.",
    ]
    margins = [
        _reach(caught)
        for column in result.columns
        for fault, caught in column.faults.items()
        if not column.rests_on_few(fault)
    ]
    if margins:
        told.append(
            f"The 95 % intervals of the shares (Clopper-Pearson) reach at most {100 * max(margins):.0f} points up or down."
        )
    left_out = [column.name for column in result.columns if not column.rows]
    if left_out:
        told.append(f"Not measured, for want of rows that have the cell: {listed(left_out)}.")
    return told


def flattery(result: PowerResult) -> str | None:
    """A warning where the untouched rows alarm too often; None where they do not."""
    if not result.flattered:
        return None
    return (
        f"the untouched rows alarm in {result.untouched.share:.1%} of cases where {result.settings.alarm_rate:.2%} was stated, "
        "beyond chance: they differ from the rows of the fit, or are not all normal. Every share caught is flattered by about "
        f"as much; judge the detector on rows like those it was fitted on, or fit it anew"
    )


def blind_spots(result: PowerResult) -> list[str]:
    """The blind columns by name."""
    numbers = [column.name for column in result.columns if column.blind and column.shift is not None]
    categories = [column.name for column in result.columns if column.blind and column.shift is None]
    told = []
    if numbers:
        told.append(
            f"Blind to {_count(len(numbers), 'column')} of numbers: a shift of {BLIND_STD:g} standard deviations goes by in more "
            f"than half of the rows: {listed(numbers)}."
        )
    for side, other in _OPPOSITE.items():
        names = [column.name for column in result.columns if column.blind_side == side]
        if names:
            told.append(
                f"Blind on one side: a shift of {BLIND_STD:g} standard deviations {side} mostly goes by, {other} it "
                f"is caught: {listed(names)}."
            )
    if categories:
        told.append(
            f"Blind to {_count(len(categories), 'column')} of categories: a wrong value raises no more alarms than the untouched "
            f"row: {listed(categories)}."
        )
    if not told and result.columns:
        told.append("No column is blind.")
    return told


def meaning(result: PowerResult) -> list[str]:
    """What the figures come to."""
    half, ninety = result.median_shift("half"), result.median_shift("ninety")
    told = []
    if half is not None and ninety is not None:
        told.append(_median_words(half, ninety))
    told.append(
        "This is what the detector makes of one faulty cell among normal ones. Faults that touch several columns at once are "
        "mostly easier; anomalies that keep every cell ordinary may be harder."
    )
    return told


def listed(names: Sequence[str], most: int = MOST_NAMES) -> str:
    """Names in quotes, the rest as a count."""
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def _median_words(half: float, ninety: float) -> str:
    """What it takes in the median column."""
    if half >= LARGEST:
        return f"In the median column not even a shift of {LARGEST:g} standard deviations is caught half of the time."
    often = f"In the median column a shift of {size_words(half)} standard deviations is caught half of the time"
    if ninety >= LARGEST:
        return f"{often}, and not even one of {LARGEST:g} nine times in ten."
    return f"{often}, one of {size_words(ninety)} nine times in ten."


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _reach(caught: Caught) -> float:
    """How far the interval reaches from the share."""
    low, high = caught.interval
    return max(caught.share - low, high - caught.share)
