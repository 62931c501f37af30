"""Operating modes of a series: levels that last, channels that move on, a calibration elsewhere, rows outside what was learnt."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from anomvae.data.concerns import Concern, listed
from anomvae.data.drift import share_beyond
from anomvae.data.levels import levels_of, memory_within, shift_between, stays_of
from anomvae.data.shapes import usual_spread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anomvae.bundle import Column
    from anomvae.data.series import Sequences

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MOST_STEPS = 20_000
"""Steps of an asset that are looked at; of a longer one every second, third, ..."""
MOST_ASSETS = 100
"""Assets that are looked at, evenly chosen."""
LEAST_WINDOWS = 4
RECURS = 3
"""A level that is visited at least so often has been learnt as part of the usual run."""
STAY = 10.0
"""A level visited less often counts if each stay is as long as so many independent steps, ..."""
FAR = 2.5
"""... or if the levels lie so many sums of their spreads apart."""
SURE = 8.0
"""Least shift in standard errors of autocorrelated medians."""
MUCH = 0.05
APART = 3.0
SEVERAL = 0.1
"""Least share of the assets in which a column moves on, of those looked at: in few of many, chance has one wander so."""
MOST_NAMED = 3


def mode_concerns(
    sequences: Sequences, train: BoolArray, calibration: BoolArray, window: int, *, asset: str | None = None
) -> list[Concern]:
    """Whether the training steps hold operating modes that it has hardly seen, and whether calibration lies elsewhere.

    Assets are looked at one by one, as they are scaled. Slow wandering and periods are no modes: levels count where a column
    keeps to them, nearly no step lies between, and they last for windows. A column that rises or falls all the while has
    neither levels nor independent steps, so that no standard error tells its calibration from its training: it is looked for
    by itself.

    Args:
        sequences: The rows, laid out.
        train: Steps the weights are fitted on, shape ``(m,)``.
        calibration: Steps the p-values come from, shape ``(m,)``.
        window: Steps a window.
        asset: Column of the assets.

    Returns:
        Warnings first, then infos; rows count from 1 in the table as it came.
    """
    moving = _moving_on(sequences, train, calibration, window)
    found = [
        *_moving_concerns(sequences, moving, asset),
        *_calibration_elsewhere(sequences, train, calibration, window, asset, set(moving)),
        *_levels(sequences, train, window, asset),
        *_assets_apart(sequences, train, window, asset),
    ]
    return sorted(found, key=lambda concern: concern.severity == "info")


def outside_share(values: npt.NDArray[np.floating], columns: Sequence[Column]) -> FloatArray:
    """Share of steps outside what training saw, by column; of those that are not missing; 0 where all are.

    Args:
        values: Raw units, NaN where missing, shape ``(m, d)``.
        columns: The channels of a detector, with the range of their training.

    Returns:
        Shape ``(d,)``.
    """
    low = np.array([-np.inf if column.low is None else column.low for column in columns])
    high = np.array([np.inf if column.high is None else column.high for column in columns])
    known = np.maximum((~np.isnan(values)).sum(axis=0), 1)
    share: FloatArray = ((values < low) | (values > high)).sum(axis=0) / known
    return share


def outside_concerns(values: npt.NDArray[np.floating], columns: Sequence[Column]) -> list[Concern]:
    """Says which columns lie outside what training saw in more than a twentieth of the steps.

    Args:
        values: Raw units, NaN where missing, shape ``(m, d)``.
        columns: The channels of a detector.
    """
    share = outside_share(values, columns)
    far = [place for place in np.argsort(-share, kind="stable").tolist() if share[place] > MUCH]
    if not far:
        return []
    names = listed([columns[place].name for place in far])
    text = f"Up to {share[far[0]]:.0%} of the rows lie outside what training has seen, in {names}"
    return [
        Concern("warning", columns[far[0]].name, f"{text}; if these rows are normal, fit again with rows like them.")
    ]


def _moving_on(
    sequences: Sequences, train: BoolArray, calibration: BoolArray, window: int
) -> dict[tuple[int, int], float]:
    """Share of the calibration that lies beyond all training, by asset and column, where the column moves on."""
    found: dict[tuple[int, int], float] = {}
    calibrating = dict(_steps_by_asset(sequences, calibration))
    for number, of_train in _steps_by_asset(sequences, train):
        of_calibration = calibrating.get(number, of_train[:0])
        for column in range(sequences.values.shape[1]):
            before, after = (_thinned(sequences, steps, column)[0] for steps in (of_train, of_calibration))
            if min(len(before), len(after)) >= window and (share := share_beyond(before, after)) > 0.0:
                found[number, column] = share
    assets = np.bincount([column for _, column in found], minlength=sequences.values.shape[1])
    least = SEVERAL * _looked_at(sequences)
    return {place: share for place, share in found.items() if assets[place[1]] >= least}


def _moving_concerns(
    sequences: Sequences, moving: dict[tuple[int, int], float], asset: str | None
) -> Iterator[Concern]:
    """One sentence on the columns that move on."""
    if not moving:
        return
    worst: dict[int, float] = {}
    for (_, column), share in moving.items():
        worst[column] = max(worst.get(column, 0.0), share)
    names, far = _by_size(sequences, worst)
    several, drops = len(names) > 1, " ".join(f"--drop {shlex.quote(name)}" for name in names[:MOST_NAMED])
    yield Concern(
        "warning",
        names[0],
        f"{listed(names, MOST_NAMED)} {'move' if several else 'moves'} on"
        f"{_of_assets({number for number, _ in moving}, sequences, asset)}, as a counter or a drift does: "
        f"{'up to ' if len(moving) > 1 else ''}{far:.0%} of the rows that calibrate lie beyond the range of those that train; the "
        f"detector cannot know that as normal, and other faults score lower for it: leave {'them' if several else 'it'} out "
        f"({drops}), give {'their' if several else 'its'} differences, or bring rows in which {'they return' if several else 'it returns'}.",
    )


def _calibration_elsewhere(
    sequences: Sequences,
    train: BoolArray,
    calibration: BoolArray,
    window: int,
    asset: str | None,
    told: set[tuple[int, int]],
) -> Iterator[Concern]:
    """The calibration of assets that also train, beside that; `told`: assets and columns of which that is known."""
    worst: dict[int, float] = {}
    assets: set[int] = set()
    rows: list[int] = []
    calibrating = dict(_steps_by_asset(sequences, calibration))
    for number, of_train in _steps_by_asset(sequences, train):
        of_calibration = calibrating.get(number, of_train[:0])
        for column in range(sequences.values.shape[1]):
            before, _ = _thinned(sequences, of_train, column)
            after, steps = _thinned(sequences, of_calibration, column)
            if min(len(before), len(after)) < window:
                continue
            shift = shift_between(before, after)
            if shift.outside and shift.sure > SURE and (number, column) not in told:
                worst[column] = max(worst.get(column, 0.0), shift.spreads)
                assets.add(number)
                rows.append(_row(sequences, steps[0]))
    if worst:
        names, far = _by_size(sequences, worst)
        yield Concern(
            "warning",
            names[0],
            f"The rows that calibrate, from row {min(rows):,} on, lie outside the operating range of the training rows, "
            f"{_spreads(far)} away in {listed(names)}{_of_assets(assets, sequences, asset)}: thresholds then "
            f"hold for another mode than was learnt; bring rows of all modes{_advice(asset)}.",
        )


def _levels(sequences: Sequences, train: BoolArray, window: int, asset: str | None) -> Iterator[Concern]:
    """Modes within the training steps: those seen once or twice, and those that recur."""
    rare: dict[int, float] = {}
    common: dict[int, float] = {}
    assets: set[int] = set()
    first: dict[int, int] = {}
    for number, of_train in _steps_by_asset(sequences, train):
        for column in range(sequences.values.shape[1]):
            values, steps = _thinned(sequences, of_train, column)
            least = max(2, round(window * len(values) / len(of_train)))  # a window, in the steps looked at
            levels = levels_of(values, least) if len(of_train) >= LEAST_WINDOWS * window else None
            if levels is None:
                continue
            stays = stays_of(levels.of, max(2, least // 4))
            if len(stays.lengths) < 2 or np.median(stays.lengths) < least:  # noqa: PLR2004
                continue
            visits = np.bincount(stays.levels)
            if visits[visits > 0].min() >= RECURS:
                common[column] = max(common.get(column, 0.0), levels.ratio)
                continue
            if levels.ratio < FAR and stays.lengths.min() < STAY * memory_within(values, levels.of):
                continue  # slow wandering may stay a while, too
            rare[column] = max(rare.get(column, 0.0), levels.ratio)
            assets.add(number)
            row = _row(sequences, steps[stays.changes[0]])
            first[column] = min(first.get(column, row), row)
    if rare:
        names, _ = _by_size(sequences, rare)
        row = first[sequences.columns.index(names[0])]
        yield Concern(
            "warning",
            names[0],
            f"The training rows hold several operating modes or a shift of level: {listed(names)} "
            f"{'changes' if len(names) == 1 else 'change'} level, first at row {row:,}, and hardly ever "
            f"back{_of_assets(assets, sequences, asset)}; bring more rows of each mode, or leave out those of a mode that will "
            f"not come back{_advice(asset)}.",
        )
    if common:
        names, _ = _by_size(sequences, common)
        text = f"The training rows hold several operating modes that recur: see {listed(names)}"
        yield Concern("info", names[0], f"{text}; if one of them is standing still, name it with --off.")


def _assets_apart(sequences: Sequences, train: BoolArray, window: int, asset: str | None) -> Iterator[Concern]:
    """Assets that run at another point than most."""
    parts = [steps for _, steps in _steps_by_asset(sequences, train) if len(steps) >= window]
    if asset is None or len(parts) < 2:  # noqa: PLR2004
        return
    worst: dict[int, float] = {}
    furthest = (0.0, 0)
    for column in range(sequences.values.shape[1]):
        cells = [values for values, _ in (_thinned(sequences, steps, column) for steps in parts)]
        if any(len(values) == 0 for values in cells):
            continue
        medians = np.array([np.median(values) for values in cells])
        within = float(np.median([usual_spread(np.sort(values)) for values in cells]))
        away = np.abs(medians - np.median(medians)) / within if within > 0.0 else np.zeros(len(cells))
        if away.max() > APART:
            worst[column] = float(away.max())
            furthest = max(furthest, (float(away.max()), int(np.argmax(away))))
    if worst:
        names, far = _by_size(sequences, worst)
        row = _row(sequences, parts[furthest[1]][0])
        yield Concern(
            "info",
            asset,
            f"The assets of {asset!r} run at different operating points, up to {_spreads(far)} from most (the asset "
            f"of row {row:,}), in {listed(names)}; each with rows enough is scaled by its own.",
        )


def _steps_by_asset(sequences: Sequences, chosen: BoolArray) -> Iterator[tuple[int, IntArray]]:
    """Number of each asset looked at, and its chosen steps that are not missing; an asset's steps lie side by side."""
    every = max(1, math.ceil(len(sequences.assets) / MOST_ASSETS))
    steps = np.flatnonzero(chosen & (sequences.row >= 0) & (sequences.asset % every == 0))
    borders = np.flatnonzero(np.diff(sequences.asset[steps], prepend=-1))
    for part in np.split(steps, borders[1:]):
        if len(part):
            yield int(sequences.asset[part[0]]), part


def _thinned(sequences: Sequences, steps: IntArray, column: int) -> tuple[FloatArray, IntArray]:
    """Finite values of some of the steps in order of time, evenly thinned, and where these lie."""
    steps = steps[:: max(1, math.ceil(len(steps) / MOST_STEPS))]
    values = sequences.values[steps, column].astype(np.float64)
    finite = np.isfinite(values)
    return values[finite], steps[finite]


def _row(sequences: Sequences, step: np.int64) -> int:
    return int(sequences.row[step]) + 1


def _by_size(sequences: Sequences, by_column: dict[int, float]) -> tuple[list[str], float]:
    """Names of the columns, the furthest first, and how far that is."""
    columns = sorted(by_column, key=lambda column: (-by_column[column], column))
    return [sequences.columns[column] for column in columns], by_column[columns[0]]


def _spreads(ratio: float) -> str:
    return f"{ratio:,.1f} spreads" if ratio < 1e6 else "many spreads"  # noqa: PLR2004


def _looked_at(sequences: Sequences) -> int:
    """Assets that are looked at."""
    return math.ceil(len(sequences.assets) / max(1, math.ceil(len(sequences.assets) / MOST_ASSETS)))


def _of_assets(assets: set[int], sequences: Sequences, asset: str | None) -> str:
    looked_at = _looked_at(sequences)
    seen = "" if looked_at == len(sequences.assets) else " looked at"
    return "" if asset is None else f" (in {len(assets):,} of {looked_at:,} assets{seen})"


def _advice(asset: str | None) -> str:
    by = ", name what tells assets apart with --by" if asset is None else ""
    return f"{by}, or name states in which nothing runs with --off"
