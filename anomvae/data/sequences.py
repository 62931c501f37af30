"""What a fit should know of how its rows lie in time: sorted, repeated, missing, uneven, too short, off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anomvae.data.concerns import Concern, rows_where
from anomvae.data.series import Fate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomvae.data.concerns import Severity
    from anomvae.data.series import Sequences
    from anomvae.data.windows import BoolArray

MUCH = 0.2
SOME = 0.01
OTHER_UNIT = 500.0
"""Rows whose interval differs from a model's step by this factor may count time in another unit."""
OTHER_STEP = 1.5
"""A stated step that differs from the usual one by more than this factor is told."""


def sequence_concerns(
    sequences: Sequences, window: int, *, time: str, asset: str | None = None, off: str | None = None
) -> list[Concern]:
    """What was found and mended while rows were laid out, and what could not be.

    Args:
        sequences: The rows, laid out.
        window: Steps a window.
        time: Column of the time.
        asset: Column of the assets.
        off: Condition under which an asset is off, as it was written.

    Returns:
        Problems first, then warnings, then infos; rows count from 1 in the table as it came.
    """
    found = [
        *_order(sequences, time),
        *_repeats(sequences, time, asset),
        *_holes(sequences, time),
        *_evenness(sequences, time),
        *_lengths(sequences, window),
        *_assets(sequences, window, asset),
        *_off(sequences, off),
    ]
    return sorted(found, key=lambda concern: ("problem", "warning", "info").index(concern.severity))


def _order(sequences: Sequences, time: str) -> Iterator[Concern]:
    back = sequences.course.backward
    if back.any():
        yield Concern("info", time, f"Time {time!r} goes back at {rows_where(back)}; the rows were sorted by it.")


def _repeats(sequences: Sequences, time: str, asset: str | None) -> Iterator[Concern]:
    repeated = sequences.fate == Fate.REPEATED
    if not repeated.any():
        return
    share = float(repeated.mean())
    advice = "" if share <= SOME else "; if several assets share the table, name them with --by"
    if asset is not None and share > SOME:
        advice = "; see whether the rows come twice, or state a shorter step with --every"
    if sequences.course.backward.any() and sequences.unit.per_second is not None:
        advice += "; if a local clock was set back, as at the end of daylight saving time, write times with an offset from UTC, or in UTC"
    yield Concern(
        "warning" if share > SOME else "info",
        time,
        f"{rows_where(repeated).capitalize()} ({share:.1%}) follow the row before within half a step and were left out"
        f"{advice}.",
    )


def _holes(sequences: Sequences, time: str) -> Iterator[Concern]:
    course = sequences.course
    if course.gap.any():
        most = sequences.cadence.longest_gap
        yield Concern(
            "info",
            time,
            f"Time {time!r} jumps ahead at {rows_where(course.gap)}, by up to {course.longest_gap:,.0f} steps; more than "
            f"{most:,} missing in one piece begin a new sequence, and no window crosses them.",
        )
    if course.missing:
        share = course.missing / len(sequences)
        severity: Severity = "warning" if share > MUCH else "info"
        advice = "state the step with --every if it is longer" if share > MUCH else "windows hold them as empty cells"
        yield Concern(severity, time, f"{course.missing:,} steps of {time!r} are missing ({share:.1%}); {advice}.")


def _evenness(sequences: Sequences, time: str) -> Iterator[Concern]:
    course, step = sequences.course, sequences.cadence.step_s
    if course.uneven > SOME:
        severity: Severity = "warning" if course.uneven > MUCH else "info"
        yield Concern(
            severity,
            time,
            f"{course.uneven:.1%} of the steps of {time!r} are uneven, by more than a tenth of a step, and count as whole "
            "ones; resample the rows if what they measure moves that fast.",
        )
    usual = course.median_s
    if usual is not None and usual > OTHER_STEP * step:
        counted = f" (--every counts in {sequences.unit.name})" if sequences.unit.per_second is None else ""
        yield Concern("warning", time, f"The step is {usual / step:,.3g} times shorter than the usual interval of {time!r}{counted}; "
                      "steps in between are missing: leave --every out to take the usual.")  # fmt: skip


def _lengths(sequences: Sequences, window: int) -> Iterator[Concern]:
    short = sequences.length < window
    if len(short) and not short.any():
        return
    if short.all():
        longest = int(sequences.length.max(initial=0))
        yield Concern(
            "problem",
            None,
            f"No sequence is as long as a window of {window:,} steps, the longest has {longest:,}; state a shorter --window, "
            "or bring longer sequences.",
        )
        return
    rows = _rows_in(sequences, short)
    share = float(rows.mean())
    yield Concern(
        "warning" if share > MUCH else "info",
        None,
        f"{int(short.sum()):,} of {len(short):,} sequences are shorter than a window of {window:,} steps, with {share:.1%} "
        f"of the rows ({rows_where(rows)}); these are neither learnt from nor scored.",
    )


def _assets(sequences: Sequences, window: int, asset: str | None) -> Iterator[Concern]:
    if asset is None:
        return
    rows = sequences.rows_of_asset
    if len(rows) > 1:
        size = f"{rows.min():,} to {rows.max():,}" if rows.min() < rows.max() else f"{rows.min():,}"
        yield Concern("info", asset, f"Column {asset!r} tells {len(rows):,} assets apart, of {size} rows each.")
    whole = sequences.length >= window
    seen = np.zeros(len(rows), dtype=np.bool_)
    seen[sequences.asset[sequences.begin[whole]]] = True
    if whole.any() and not seen.all():
        first = rows_where(~seen[sequences.asset_of_row])
        yield Concern(
            "warning",
            asset,
            f"{int((~seen).sum()):,} of {len(seen):,} assets of {asset!r} have no sequence as long as a window ({first}); "
            "bring more of their rows, or state a shorter --window.",
        )


def _off(sequences: Sequences, off: str | None) -> Iterator[Concern]:
    if off is None or not len(sequences.fate):
        return
    is_off = sequences.fate == Fate.OFF
    if not is_off.any():
        yield Concern(
            "warning", None, f"The condition --off {off!r} holds in no row; see whether it says what it should."
        )
        return
    share = float(is_off.mean())
    severity: Severity = "warning" if share > 1.0 - MUCH else "info"
    yield Concern(severity, None, f"The condition --off {off!r} holds in {rows_where(is_off)} ({share:.1%}), left out.")


def _rows_in(sequences: Sequences, chosen: BoolArray) -> BoolArray:
    """Rows that are steps of chosen sequences, shape ``(n,)``."""
    rows = np.zeros(len(sequences.step), dtype=np.bool_)
    rows[sequences.row[chosen[sequences.sequence] & (sequences.row >= 0)]] = True
    return rows


def sequence_words(sequences: Sequences) -> str:
    """What rows were laid out as, in one sentence."""
    n = len(sequences.begin)
    of = "" if len(sequences.assets) == 1 else f" of {len(sequences.assets):,} assets"
    return (
        f"{len(sequences):,} steps of {sequences.unit.say(sequences.cadence.step_s)} in {n:,} sequence{'' if n == 1 else 's'}{of}; "
        f"a gap of more than {sequences.cadence.longest_gap:,} missing steps begins a new one"
    )


def interval_words(sequences: Sequences) -> str | None:
    """How far apart rows lie that were laid out on a detector's steps; None: as far as those, or unknown."""
    usual, step = sequences.course.median_s, sequences.cadence.step_s
    if usual is None or usual <= 0 or max(step / usual, usual / step) <= OTHER_STEP:
        return None
    told = f"the rows lie {sequences.unit.say(usual)} apart, the model's step is {sequences.unit.say(step)}"
    other_unit = max(step / usual, usual / step) >= OTHER_UNIT
    return f"{told}, if both are in one unit: see whether the times are written as at the fit" if other_unit else told


def coarse_words(sequences: Sequences) -> str | None:
    """What a user must know of rows further apart than a detector's step; None: they are not."""
    usual, words = sequences.course.median_s, interval_words(sequences)
    if words is None or usual is None or usual < sequences.cadence.step_s:
        return None
    return (
        f"{words}: steps between rows are missing to it, so scores mean little, and normal rows may alarm; bring rows at the "
        "model's step, or fit on rows like these"
    )
