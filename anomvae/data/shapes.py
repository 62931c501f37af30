"""How numbers lie and run: modes, far-off values, codes for missing cells, stuck stretches, exact relations."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

FAR_SPREADS = 20.0
FAR_RATIO = 2.0
"""Far-off values lie at least this many times further from the median than the furthest of the others."""
FAR_SURPRISE = 10.0
"""-log of the chance that a power tail leaves such a gap by itself."""
STEEPEST_TAIL = 8.0
TAIL_ROWS = (20, 1_000)
LEAST_DISTINCT = 10

OLD_CODES = frozenset([-1.0, 32767.0, -32768.0, 65535.0, 2147483647.0, -2147483648.0, 4294967295.0])
ALIKE_DIGITS = frozenset("789")
HUGE = 1e19

LEAST_STRETCH = 10
LEAST_RUNS = 20

MODE_ROWS = 3_000
MODE_COLUMNS = 8
MOST_COMPONENTS = 6
LEAST_MODE_ROWS = 100
LEAST_MODE_SHARE = 0.02
LEAST_LEVELS = 20
MOST_AT_ONE_VALUE = 0.1
MODE_GAP = 2.0
"""Least distance of two modes' means, in sums of their spreads along the line that parts them best."""
VALLEY = 0.1
"""Most of the lower peak's density that may remain between two modes."""
VALLEY_BINS = 15
LEAST_PEAK_ROWS = 10

EXACT = 1e-5
RELATION_COLUMNS = 500
RELATION_WEIGHT = 1e-3


@dataclass(frozen=True, slots=True)
class FarOff:
    """Values that lie alone, far from the rest.

    Attributes:
        low: Values below it are far off, raw units.
        high: Values above it are.
        spreads: Distance of the furthest from the median, in usual spreads.
    """

    low: float
    high: float
    spreads: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """A run of equal neighbours, longer than chance and the column's other runs explain.

    Attributes:
        start: Its first position.
        length: Its length.
        others: Further runs as remarkable as this one.
    """

    start: int
    length: int
    others: int


@dataclass(frozen=True, slots=True)
class Modes:
    """Well separated clusters.

    Attributes:
        shares: Share of the rows in each, descending.
        mode_of: Mode of each row looked at, 0 the largest, shape ``(n,)``.
        rows: Which rows were looked at, shape ``(n,)``.
        columns: Positions of the columns, those that differ most between the two largest modes first.
    """

    shares: tuple[float, ...]
    mode_of: IntArray
    rows: IntArray
    columns: IntArray


@dataclass(frozen=True, slots=True)
class Relation:
    """A column that others determine exactly.

    Attributes:
        column: Its position.
        others: Positions of the columns it is a sum, difference or multiple of.
        copy: Whether it equals its one other cell by cell.
    """

    column: int
    others: tuple[int, ...]
    copy: bool


def usual_spread(ordered: FloatArray) -> float:
    """Robust standard deviation of ascending values: from the quartiles, further out where these coincide; 0 if none.

    Example:
        >>> round(usual_spread(np.arange(101.0)), 1)
        37.1
    """
    if len(ordered) == 0:
        return 0.0
    for share, normal in ((0.25, 1.349), (0.05, 3.290), (0.01, 4.653)):
        low, high = _quantile(ordered, share), _quantile(ordered, 1.0 - share)
        if high > low:
            return min((high - low) / normal, 1e300)
    return 0.0


def far_off(ordered: FloatArray) -> FarOff | None:
    r"""Finds a few values far from the rest and apart from it: dirt, where a heavy tail is none.

    On each side, excesses over the median are compared with a power tail fitted below them (Hill): there
    :math:`j \hat\alpha \log(e_{(j)} / e_{(j+1)})` is standard exponential, so a large one is a gap no tail explains.

    Args:
        ordered: Finite values, ascending, shape ``(n,)``.

    References:
        A Simple General Approach to Inference About the Tail of a Distribution (Hill, 1975)
    """
    spread = usual_spread(ordered)
    if spread == 0.0 or not math.isfinite(spread):
        return None
    median = _quantile(ordered, 0.5)
    n_high = _n_far(ordered[::-1] - median, spread)
    n_low = _n_far(median - ordered, spread)
    if n_high + n_low == 0:
        return None
    low = float(ordered[n_low]) if n_low else -math.inf
    high = float(ordered[len(ordered) - 1 - n_high]) if n_high else math.inf
    furthest = max((ordered[-1] - median) if n_high else 0.0, (median - ordered[0]) if n_low else 0.0)
    return FarOff(low, high, float(furthest / spread))


def lone_codes(ordered: FloatArray) -> dict[float, bool]:
    """Finds single values, repeated, that stand isolated outside the rest; True for those usual as code for missing.

    Args:
        ordered: Finite values, ascending.
    """
    found: dict[float, bool] = {}
    rest = ordered
    for _ in range(2):
        for sign in (1.0, -1.0):
            side = rest if sign > 0 else -rest[::-1]
            count = int(np.searchsorted(side, side[0], "right")) if len(side) else 0
            verdict = _code_verdict(side, count, sign)
            if verdict is not None:
                found[sign * float(side[0])] = verdict
                rest = rest[count:] if sign > 0 else rest[: len(rest) - count]
    return found


def longest_stretch(values: FloatArray, new_group: BoolArray | None = None) -> Stretch | None:
    """Finds the longest run of equal neighbours, if neither shuffled rows nor the column's other runs explain it.

    Args:
        values: In sequence; NaN equals nothing.
        new_group: True where a new group starts: runs end there.
    """
    n = len(values)
    if n < LEAST_RUNS:
        return None
    changes = np.ones(n, dtype=bool)
    np.not_equal(values[1:], values[:-1], out=changes[1:])
    if new_group is not None:
        changes |= new_group
    starts = np.flatnonzero(changes)
    lengths = np.diff(np.append(starts, n))
    longest = int(np.argmax(lengths))
    length, runs = int(lengths[longest]), len(starts)
    if not (LEAST_STRETCH <= length <= n / 2 and runs >= LEAST_RUNS):
        return None
    own = lengths[values[starts] == values[starts[longest]]]
    typical = max((n - length) / (runs - 1), (own.sum() - length) / max(1, len(own) - 1))
    needed = 1.5 * typical * (math.log(runs) + 8.0)
    by_chance = math.log(n) + length * math.log(own.sum() / n)
    if length < needed or by_chance > math.log(1e-6):
        return None
    return Stretch(int(starts[longest]), length, int((lengths >= max(needed, LEAST_STRETCH)).sum()) - 1)


def exact_relations(numbers: FloatArray) -> list[Relation]:
    """Finds columns that are copies, multiples or sums of earlier ones, up to rounding.

    Args:
        numbers: Rows, NaN or infinite where missing, shape ``(n, d)``; columns beyond the first 500 are not looked at.
    """
    numbers = numbers[:, :RELATION_COLUMNS]
    known = np.isfinite(numbers)
    if len(numbers) < max(LEAST_RUNS, 3 * numbers.shape[1]) or numbers.shape[1] == 0:
        return []
    scaled, spreads = _standardised(numbers, known)
    varies = np.flatnonzero(spreads > 0)
    left = np.abs(np.diag(np.linalg.qr(scaled[:, varies], mode="r"))) / math.sqrt(len(scaled))
    tied = set(varies[left < EXACT].tolist())
    free = np.array([column for column in varies.tolist() if column not in tied], dtype=np.int64)
    relations = []
    for column in sorted(tied):
        before = free[free < column]
        weights, *_ = np.linalg.lstsq(scaled[:, before], scaled[:, column], rcond=None)
        others = before[np.abs(weights) > RELATION_WEIGHT]
        residual = np.abs(scaled[:, column] - scaled[:, before] @ weights).max()
        if residual > EXACT * spreads[column]:
            continue
        copy = len(others) == 1 and np.array_equal(numbers[:, others[0]], numbers[:, column], equal_nan=True)
        relations.append(Relation(column, tuple(int(other) for other in others), copy))
    return relations


def find_modes(numbers: FloatArray, seed: int) -> Modes | None:
    """Finds well separated clusters: Gaussian mixtures on principal components, BIC, then all that overlap is merged.

    Tails are squashed and whole numbers spread over their steps first, and two components count as two only if hardly
    any rows lie between them; skewed, flat and discrete columns are thus one mode.

    Args:
        numbers: Rows, NaN or infinite where missing, shape ``(n, d)``.
        seed: Seed of the sample and of the mixtures.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

    draw = np.random.default_rng([seed, 11])
    rows = np.sort(draw.permutation(len(numbers))[:MODE_ROWS]).astype(np.int64)
    squashed, columns = _squashed(numbers[rows], draw)
    if len(rows) < LEAST_MODE_ROWS or len(columns) == 0:
        return None
    left, sizes, _ = np.linalg.svd(squashed - squashed.mean(axis=0), full_matrices=False)
    kept = min(MODE_COLUMNS, len(rows) // 20, int((sizes > 1e-6 * sizes[0]).sum()))
    points = left[:, :kept] * sizes[:kept]
    best, part_of = math.inf, np.zeros(len(rows), dtype=np.int64)
    for k in range(1, MOST_COMPONENTS + 1):
        mixture = GaussianMixture(k, reg_covar=1e-4, tol=1e-2, max_iter=60, random_state=seed % 2**32)
        with warnings.catch_warnings(), threadpool_limits(1):  # threads only slow matrices this small
            warnings.simplefilter("ignore")  # one that did not converge is still compared by its BIC
            part = mixture.fit_predict(points)
            bic = float(mixture.bic(points))
        if bic < best:
            best, part_of = bic, part.astype(np.int64)
    mode_of, shares = _merged(points, part_of)
    if len(shares) < 2:  # noqa: PLR2004
        return None
    first, second = squashed[mode_of == 0], squashed[mode_of == 1]
    apart = np.abs(first.mean(axis=0) - second.mean(axis=0)) / (first.std(axis=0) + second.std(axis=0) + 1e-3)
    return Modes(shares, mode_of, rows, columns[np.argsort(-apart, kind="stable")])


def _quantile(ordered: FloatArray, share: float) -> float:
    return float(ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))])


def _n_far(excesses: FloatArray, spread: float) -> int:
    """How many of the largest excesses, descending, lie far off and apart."""
    most = int(np.clip(0.005 * len(excesses), 3, 200))
    tail = int(np.clip(0.05 * len(excesses), *TAIL_ROWS))
    top = excesses[: most + tail + 1]
    top = top[top > 0]
    most = min(most, len(top) - tail - 1)
    if most < 1 or top[0] < FAR_SPREADS * spread:
        return 0
    logs = np.log(top)
    sums = np.concatenate([[0.0], np.cumsum(logs)])
    number = np.arange(1, most + 1)
    gaps = logs[number - 1] - logs[number]
    hill = (sums[number + tail] - sums[number]) / tail - logs[number + tail]
    surprise = number * gaps / np.maximum(hill, 1.0 / STEEPEST_TAIL)
    far = (surprise > FAR_SURPRISE) & (gaps > math.log(FAR_RATIO)) & (top[number - 1] > FAR_SPREADS * spread)
    return int(number[far].max()) if far.any() else 0


def _code_verdict(side: FloatArray, count: int, sign: float) -> bool | None:
    """Whether the first value of ascending ones is a code (True), an isolated spike (False), or neither (None)."""
    rest = side[count:]
    if count < 3 or len(rest) < LEAST_RUNS or count > 9 * len(rest):  # noqa: PLR2004
        return None
    if len(np.unique(rest[:50_000])) < LEAST_DISTINCT:
        return None
    gap, width = float(rest[0] - side[0]), _quantile(rest, 0.99) - float(rest[0])
    isolated = gap > 2.0 * width
    if _looks_like_code(sign * float(side[0])):
        below_zero = sign > 0 and side[0] < -1.0 and rest[0] >= 0.0
        return True if isolated or below_zero or gap > 0.5 * width else None
    return False if isolated else None


def _looks_like_code(value: float) -> bool:
    """Whether a value is one that people and machines write for 'missing'.

    Example:
        >>> [_looks_like_code(value) for value in (-999.0, 9999.99, -1.0, 42.0)]
        [True, True, True, False]
    """
    digits = repr(abs(value)).removesuffix(".0").replace(".", "")
    alike = len(digits) > 1 and len(set(digits)) == 1 and digits[0] in ALIKE_DIGITS
    return alike or value in OLD_CODES or abs(value) >= HUGE


def _standardised(numbers: FloatArray, known: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Columns at mean 0 and standard deviation 1, missing cells 0; and their robust spread in that scale."""
    scaled = np.zeros(numbers.shape)
    spreads = np.zeros(numbers.shape[1])
    for column in range(numbers.shape[1]):
        cells = numbers[known[:, column], column]
        if len(cells) < LEAST_RUNS or np.abs(cells).max() > HUGE or cells.std() <= 1e-12 * np.abs(cells).max():
            continue
        scaled[known[:, column], column] = (cells - cells.mean()) / cells.std()
        spreads[column] = usual_spread(np.sort(scaled[known[:, column], column]))
    return scaled, spreads


def _squashed(numbers: FloatArray, draw: np.random.Generator) -> tuple[FloatArray, IntArray]:
    """Columns in usual spreads from the median, tails squashed, at standard deviation 1; and which columns they are."""
    kept, columns = [], []
    for column in range(numbers.shape[1]):
        cells = numbers[:, column]
        known = np.isfinite(cells)
        levels, level, counts = np.unique(cells[known], return_inverse=True, return_counts=True)
        if len(levels) < LEAST_LEVELS or known.mean() < 0.5 or np.abs(levels).max() > HUGE:  # noqa: PLR2004
            continue
        spread = usual_spread(np.sort(cells[known]))
        named = len(levels) == len(level) and bool((levels == np.floor(levels)).all())  # all different whole numbers
        if named or spread == 0.0 or counts.max() > MOST_AT_ONE_VALUE * len(level):
            continue
        steps = np.diff(levels)
        step = np.minimum(np.append(steps, steps[-1]), np.append(steps[0], steps))
        values = np.full(len(cells), np.nan)
        values[known] = levels[level] + step[level] * draw.uniform(-0.5, 0.5, len(level))
        squashed = np.arcsinh((values - np.median(levels[level])) / spread)
        squashed[~known] = np.median(squashed[known])
        kept.append(squashed / max(float(squashed.std()), 1e-12))
        columns.append(column)
    return (np.column_stack(kept) if kept else np.empty((len(numbers), 0))), np.array(columns, dtype=np.int64)


def _merged(points: FloatArray, part_of: IntArray) -> tuple[IntArray, tuple[float, ...]]:
    """Joins components that are not apart and leaves out the small; modes by size, -1 for rows of none."""
    mode_of = part_of.copy()
    parts = [part for part in np.unique(part_of) if (part_of == part).mean() >= LEAST_MODE_SHARE / MOST_COMPONENTS]
    for i, one in enumerate(parts):
        for other in parts[:i]:
            if not _apart(points[part_of == one], points[part_of == other]):
                joined = mode_of[part_of == other][0]
                mode_of[mode_of == mode_of[part_of == one][0]] = joined
    found, counts = np.unique(mode_of, return_counts=True)
    least = max(LEAST_RUNS, LEAST_MODE_SHARE * len(points))
    large = [place for place in np.argsort(-counts, kind="stable") if counts[place] >= least]
    renumbered = np.full(len(points), -1, dtype=np.int64)
    for number, place in enumerate(large):
        renumbered[mode_of == found[place]] = number
    return renumbered, tuple(float(counts[place] / len(points)) for place in large)


def _apart(one: FloatArray, other: FloatArray) -> bool:
    """Whether two clouds are far from each other and nearly nothing lies between, along Fisher's direction."""
    difference = one.mean(axis=0) - other.mean(axis=0)
    within = np.zeros((one.shape[1], one.shape[1]))
    for cloud in (one, other):
        centred = cloud - cloud.mean(axis=0)
        within += centred.T @ centred / len(cloud)
    direction = np.linalg.solve(within + 1e-6 * np.eye(len(within)), difference)
    a, b = one @ direction, other @ direction
    if abs(a.mean() - b.mean()) <= MODE_GAP * (a.std() + b.std()):
        return False
    low, high = sorted((float(np.median(a)), float(np.median(b))))
    if high <= low:
        return False
    counts, _ = np.histogram(np.concatenate([a, b]), bins=VALLEY_BINS, range=(low, high))
    smooth = np.convolve(counts, np.ones(3) / 3.0, mode="valid")
    third = len(smooth) // 3
    peaks = min(smooth[:third].max(), smooth[-third:].max())
    return bool(3.0 * peaks >= LEAST_PEAK_ROWS and smooth.min() < VALLEY * peaks)
