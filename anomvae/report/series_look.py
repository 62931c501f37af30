"""The strangest stretches of judged steps, explained; scores by asset; what channels add."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from anomvae.data.windows import StepMeans, Windows
from anomvae.report.series_contents import AlarmRun, AssetTrace, ChannelShare, StrangeStretch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from anomvae.data.series import Sequences
    from anomvae.report.contents import FloatArray, IntArray
    from anomvae.report.series_contents import BoolArray, JudgedSteps

    Run = Callable[[Windows, Sequence[str]], Mapping[str, npt.NDArray[np.floating]]]

MOST_STRETCHES = 6
MOST_TRACES = 12
LEAST_STEPS = 48
"""A stretch is two windows long, or so many steps."""
MOST_WINDOWS = 16
"""A run of alarms is shown whole if it is no longer than so many windows."""
APART = 8
"""Alarms of a sequence at most so many steps apart are one run."""
BEFORE = 0.6
"""Share of a stretch that lies before its strangest step, where there is room."""
MOST_COVERING = 256
"""Windows that tell what was expected of a stretch."""
MOST_PAST = 1_024
"""The same where steps are judged by their past; of a longer stretch each step is told as the last one before it."""
MOST_SAMPLED = 200
"""Windows that tell what channels usually add."""
STRANGE_SHARE = 0.05
"""Of the steps, looked at for what strange steps have where none alarms."""
MOST_NAMED, NAMED_SHARE = 3, 0.2
"""Channels named of a run of alarms, each with such a share of what the strongest adds."""
PIECE = 64
"""Windows scored at once."""


class Explainer(NamedTuple):
    """Asks a detector what it expected, and what each channel adds.

    Attributes:
        run: Outputs by name for windows of a detector.
        window: Steps a window, w.
        past_only: Whether a step is explained as the newest of its window, or by all windows that cover it.
        asset: Number of each asset of the sequences for the detector, shape ``(a,)``; None: as numbered there.
    """

    run: Run
    window: int
    past_only: bool = False
    asset: IntArray | None = None

    def at(self, sequences: Sequences, starts: IntArray) -> Windows:
        """Windows by the steps they begin with."""
        return Windows(sequences, self.window, starts, self.asset)

    def explain(self, sequences: Sequences, first: int, last: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Contribution, expected and deviation of steps of one sequence, NaN where nothing is known, each ``(t, d)``.

        Args:
            sequences: The rows, laid out.
            first: Position of the first step.
            last: Of the last.
        """
        starts = self._covering(sequences, first, last)
        d = sequences.values.shape[1]
        means = [StepMeans(last - first + 1 + 2 * self.window, (d,)) for _ in range(3)]
        names = ("contribution", "expected") if self.past_only else ("step_contribution", "step_expected")
        for piece in range(0, len(starts), PIECE):
            part = starts[piece : piece + PIECE]
            told = self.run(self.at(sequences, part), (*names, "step_deviation"))
            found = [np.asarray(told[name], dtype=np.float64) for name in (*names, "step_deviation")]
            if self.past_only:
                found = [found[0][:, None], found[1][:, None], found[2][:, -1:]]
                part = part + self.window - 1
            for mean, each in zip(means, found, strict=True):
                mean.add(part - first + self.window, each)
        contribution, expected, deviation = (mean.means()[self.window : -self.window] for mean in means)
        if self.past_only and len(starts):
            told_of = starts + self.window - 1 - first
            nearest = np.arange(last - first + 1)
            nearest[told_of[0] :] = told_of[np.searchsorted(told_of, nearest[told_of[0] :], side="right") - 1]
            contribution, expected, deviation = (each[nearest] for each in (contribution, expected, deviation))
        return contribution, expected, deviation

    def _covering(self, sequences: Sequences, first: int, last: int) -> IntArray:
        """Where the windows begin that tell of steps, some of them where there are many; no two alike."""
        number = int(sequences.sequence[first])
        begin = int(sequences.begin[number])
        end = begin + int(sequences.length[number])
        lowest = first - self.window + 1
        low, high = max(begin, lowest), min(end - self.window, last - self.window + 1 if self.past_only else last)
        if high < low:
            return np.empty(0, dtype=np.int64)
        most = MOST_PAST if self.past_only else MOST_COVERING  # of its past each step has but one window
        return np.unique(np.linspace(low, high, min(high - low + 1, most)).round().astype(np.int64))


def strange_stretches(
    judged: JudgedSteps, explainer: Explainer, usual: FloatArray, most: int = MOST_STRETCHES
) -> tuple[StrangeStretch, ...]:
    """The strangest stretches, none overlapping, of different assets as far as there are.

    Args:
        judged: Steps and their verdicts.
        explainer: Asks the detector.
        usual: What each channel usually adds, shape ``(d,)``.
        most: How many.
    """
    found = [_stretch(judged, explainer, usual, *span) for span in _spans(judged, explainer.window, most)]
    return tuple(sorted(found, key=lambda stretch: -float(np.nanmax(stretch.score - _or_zero(stretch.threshold)))))


def _spans(judged: JudgedSteps, window: int, most: int) -> list[tuple[int, int, int]]:
    """First, last and strangest step of each stretch: the worst of each asset, then their next worst."""
    sequences, excess = judged.sequences, judged.excess
    size = max(2 * window, LEAST_STEPS)
    left = np.zeros(len(sequences), dtype=np.bool_)
    left[judged.known] = True
    taken = np.zeros(len(sequences), dtype=np.bool_)
    spans: list[tuple[int, int, int]] = []
    used = np.zeros(len(sequences.assets), dtype=np.bool_)
    while len(spans) < most and left.any():
        fresh = left & ~used[sequences.asset]
        if not fresh.any():
            used[:] = False
            continue
        peak = int(np.argmax(np.where(fresh, excess, -np.inf)))
        low, high = _room(sequences, (judged.part < 0) | taken, peak)
        begin, end = _run_around(judged, peak)
        first, long = peak - round(BEFORE * size), size
        if size // 2 <= end - begin < MOST_WINDOWS * window:  # all of it, with what lies around
            first, long = begin - size // 4, end - begin + 1 + size // 2
        first = max(low, min(first, high - long + 1))
        last = min(high, first + long - 1)
        spans.append((first, last, peak))
        taken[first : last + 1] = True
        used[sequences.asset[peak]] = True
        near = slice(max(0, first - window // 2), last + 1 + window // 2)
        left[near] &= sequences.sequence[near] != sequences.sequence[peak]
    return spans


def _run_around(judged: JudgedSteps, peak: int) -> tuple[int, int]:
    """First and last of the alarms around a step, none further apart than is one run; the step itself without an alarm."""
    if not judged.alarm[peak]:
        return peak, peak
    steps = np.flatnonzero(judged.alarm & (judged.sequences.sequence == judged.sequences.sequence[peak]))
    runs = np.split(steps, np.flatnonzero(np.diff(steps) > APART) + 1)
    run = next(run for run in runs if run[0] <= peak <= run[-1])
    return int(run[0]), int(run[-1])


def _room(sequences: Sequences, closed: BoolArray, peak: int) -> tuple[int, int]:
    """The longest piece of the sequence around a step that is open."""
    number = int(sequences.sequence[peak])
    begin = int(sequences.begin[number])
    end = begin + int(sequences.length[number])
    before, after = np.flatnonzero(closed[begin:peak]), np.flatnonzero(closed[peak + 1 : end])
    return begin + int(before[-1]) + 1 if len(before) else begin, peak + int(after[0]) if len(after) else end - 1


def _stretch(
    judged: JudgedSteps, explainer: Explainer, usual: FloatArray, first: int, last: int, peak: int
) -> StrangeStretch:
    sequences, here = judged.sequences, slice(first, last + 1)
    contribution, expected, deviation = explainer.explain(sequences, first, last)
    asset, times = int(sequences.asset[peak]), step_times(sequences)
    begin, end = _run_around(judged, peak)
    return StrangeStretch(
        asset=sequences.assets[asset],
        part=judged.parts[int(judged.part[peak])],
        time_s=times[here],
        row=sequences.row[here] + 1,
        observed=sequences.values[here].astype(np.float64),
        expected=expected,
        deviation=deviation,
        contribution=np.where(sequences.row[here, None] >= 0, contribution - usual, np.nan),
        score=judged.score[here],
        threshold=float(judged.threshold[asset]),
        alarm=judged.alarm[here],
        p_value=float(judged.p_value[peak]),
        peak=peak - first,
        span_s=(float(times[begin]), float(times[end])) if judged.alarm[peak] else (float("nan"), float("nan")),
        truth=None if judged.truth is None else judged.truth[here],
    )


def step_times(sequences: Sequences) -> FloatArray:
    """Time of each step, shape ``(m,)``; a missing one's lies evenly between its neighbours'."""
    places = np.flatnonzero(sequences.row >= 0)
    if not len(places):
        return np.empty(0)
    times: FloatArray = np.interp(np.arange(len(sequences)), places, sequences.time_s[sequences.row[places]])
    return times


def usual_contribution(judged: JudgedSteps, explainer: Explainer) -> FloatArray:
    """What each channel adds to the score of an ordinary step, the median over some that do not alarm; shape ``(d,)``."""
    known = judged.known
    quiet = known[~judged.alarm[known]]
    found = _sampled(judged, explainer, quiet if len(quiet) else known)
    return np.zeros(judged.sequences.values.shape[1]) if not len(found) else np.asarray(np.nanmedian(found, axis=0))


def channel_shares(judged: JudgedSteps, explainer: Explainer, usual: FloatArray) -> tuple[ChannelShare, ...]:
    """What each channel adds, on ordinary steps and on those that alarm (or, where none does, on the strangest)."""
    known = judged.known
    strange = known[judged.alarm[known]]
    if not len(strange) and len(known):
        worst = np.argsort(-judged.excess[known], kind="stable")[: max(1, round(STRANGE_SHARE * len(known)))]
        strange = np.sort(known[worst])
    above = np.clip(_sampled(judged, explainer, strange) - usual, 0.0, None)
    total = above.sum(axis=0) if len(above) else np.zeros_like(usual)
    shares = total / total.sum() if total.sum() > 0.0 else total
    order = np.argsort(-shares, kind="stable")
    return tuple(ChannelShare(judged.sequences.columns[j], float(usual[j]), float(shares[j])) for j in order.tolist())


def _sampled(judged: JudgedSteps, explainer: Explainer, steps: IntArray) -> FloatArray:
    """Contributions of some of the steps, evenly chosen, each by a window around it or by its past; shape ``(k, d)``."""
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), MOST_SAMPLED)).round().astype(np.int64))
    found = contributions_at(judged, explainer, steps[chosen])
    return found[np.isfinite(found).all(axis=1)]


def contributions_at(judged: JudgedSteps, explainer: Explainer, steps: IntArray) -> FloatArray:
    """What each channel adds to the score of steps, each by one window: around it, or of its past.

    Returns:
        Shape ``(k, d)``; NaN where no window reaches.
    """
    sequences, window = judged.sequences, explainer.window
    begin = sequences.begin[sequences.sequence[steps]]
    last = begin + sequences.length[sequences.sequence[steps]] - window
    start = steps - window + 1 if explainer.past_only else np.clip(steps - window // 2, begin, np.maximum(last, begin))
    fits = np.flatnonzero((start >= begin) & (start <= last))
    found = np.full((len(steps), sequences.values.shape[1]), np.nan)
    for piece in range(0, len(fits), PIECE):
        part = fits[piece : piece + PIECE]
        windows = explainer.at(sequences, start[part])
        if explainer.past_only:
            found[part] = explainer.run(windows, ("contribution",))["contribution"]
        else:
            told = explainer.run(windows, ("step_contribution",))["step_contribution"]
            found[part] = told[np.arange(len(part)), steps[part] - start[part]]
    return found


def asset_traces(judged: JudgedSteps, most: int = MOST_TRACES) -> tuple[tuple[AssetTrace, ...], int]:
    """Scores over time of the assets with the worst step, these first; and how many more assets have scores."""
    sequences, known = judged.sequences, judged.known
    worst = np.full(len(sequences.assets), -np.inf)
    np.maximum.at(worst, sequences.asset[known], judged.excess[known])
    order = np.argsort(-worst, kind="stable")
    order = order[np.isfinite(worst[order])]
    times = step_times(sequences)
    traces = []
    for asset in order[:most].tolist():
        steps = np.flatnonzero((sequences.asset == asset) & (judged.part >= 0))
        reached = np.flatnonzero(np.isfinite(judged.score[steps]))
        steps = steps[reached[0] : reached[-1] + 1]
        traces.append(
            AssetTrace(
                sequences.assets[asset],
                times[steps],
                sequences.sequence[steps],
                judged.score[steps],
                judged.alarm[steps],
                float(judged.threshold[asset]),
                judged.part[steps],
                judged.parts,
                None if judged.truth is None else judged.truth[steps],
            )
        )
    return tuple(traces), len(order) - len(traces)


def alarm_runs(
    judged: JudgedSteps, explainer: Explainer, usual: FloatArray, most: int
) -> tuple[tuple[AlarmRun, ...], int]:
    """Alarms of an asset that follow one another, the strangest in order of time; and how many more there are.

    Args:
        judged: Steps and their verdicts.
        explainer: Asks the detector.
        usual: What each channel usually adds, shape ``(d,)``.
        most: Runs to tell of.
    """
    sequences, times = judged.sequences, step_times(judged.sequences)
    steps = np.flatnonzero(judged.alarm & (sequences.row >= 0) & (judged.part >= 0))
    if not len(steps):
        return (), 0
    new = (np.diff(steps) > APART) | (np.diff(sequences.sequence[steps]) != 0)
    parts = np.split(steps, np.flatnonzero(new) + 1)
    peaks = np.array([part[np.argmax(judged.score[part])] for part in parts])
    told = np.sort(np.argsort(-judged.excess[peaks], kind="stable")[:most])
    above = np.nan_to_num(contributions_at(judged, explainer, peaks[told]) - usual, nan=0.0)
    runs = []
    for part, peak, each in zip([parts[place] for place in told], peaks[told].tolist(), above, strict=True):
        runs.append(
            AlarmRun(
                sequences.assets[int(sequences.asset[peak])],
                float(times[part[0]]),
                float(times[part[-1]]),
                int(sequences.row[part[0]]) + 1,
                int(sequences.row[part[-1]]) + 1,
                len(part),
                float(judged.score[peak]),
                float(np.min(judged.p_value[part])),
                _strongest(sequences.columns, each),
            )
        )
    return tuple(sorted(runs, key=lambda run: (run.begin_s, run.first))), len(parts) - len(runs)


def _strongest(columns: Sequence[str], above: FloatArray) -> tuple[str, ...]:
    """Names of the channels that add most, strongest first."""
    order = np.argsort(-above, kind="stable")[:MOST_NAMED]
    return tuple(columns[j] for j in order.tolist() if above[j] > NAMED_SHARE * above.max(initial=0.0) > 0.0)


def thresholds_of(
    names: Sequence[str], groups: Mapping[str, tuple[float, float]], pooled: tuple[float, float], decision: str
) -> FloatArray:
    """Threshold of what decides, by asset: its own table's, or that of all.

    Args:
        names: Of the assets.
        groups: Score and reconstruction threshold of the assets with a table of their own.
        pooled: Likewise of all.
        decision: What gives the verdict.
    """
    side: Literal[0, 1] = 1 if decision == "reconstruction" else 0
    return np.array([groups.get(name, pooled)[side] for name in names], dtype=np.float64)


def _or_zero(value: float) -> float:
    return value if np.isfinite(value) else 0.0
