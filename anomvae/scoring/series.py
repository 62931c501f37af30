"""Whole series in, answers out: laid out on steps, scored by windows, in the order of the rows."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from anomvae.bundle.series import ROWS_GRAPH
from anomvae.data.encoding import EncodedRows
from anomvae.data.series import asset_numbers, sequences_for
from anomvae.data.windows import StepMeans, online_windows_of, windows_of
from anomvae.errors import BundleError, SettingError
from anomvae.scoring.exact import FLAGS, exact
from anomvae.scoring.rates import require_supported
from anomvae.scoring.reasons import ReasonWriter
from anomvae.scoring.scorer import MAX_TOP, answer_outputs
from anomvae.scoring.series_rows import row_member
from anomvae.scoring.session import GraphSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from anomvae.bundle import Bundle, Manifest, SeriesFacts
    from anomvae.data.series import Sequences
    from anomvae.data.windows import Windows

    Arrays = dict[str, npt.NDArray[np.generic]]

BATCH_GRAPH = "batch.onnx"
STEP_OUTPUTS = ("step_score", "step_error", "step_contribution", "step_expected")
REASON = "reason"


class StepAnswers(NamedTuple):
    """Answers for the steps of a series that have one, k of m.

    Attributes:
        steps: Which, ascending, shape ``(k,)``.
        answers: Columns of the answer by name, shape ``(k,)`` each.
        contribution: Shape ``(k, d)``.
        expected: Raw units, shape ``(k, d)``.
    """

    steps: npt.NDArray[np.int64]
    answers: Arrays
    contribution: npt.NDArray[np.float32]
    expected: npt.NDArray[np.float32]


class SeriesScoring:
    """Scores whole series with a bundle.

    Args:
        bundle: A verified bundle of a series detector.
        threads: Threads that run the graph side by side; None: one a core.

    Attributes:
        answered: The answer's columns, reasons aside.

    Raises:
        SettingError: The bundle is none of series.
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        facts = bundle.manifest.series
        if facts is None:
            raise SettingError(f"the model {bundle.manifest.name!r} scores tables, not series")
        self.bundle, self.facts = bundle, facts
        self.threads = threads or os.cpu_count() or 1
        self.session = GraphSession(bundle.graph, bundle.manifest.width)
        self._member = row_member(bundle.manifest, self.session, bundle.folder / ROWS_GRAPH)
        self._batch: GraphSession | None = None
        self.answered = self._answered()

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    def _answered(self) -> tuple[str, ...]:
        """What is answered in either way: both calibrations decide alike, but groups may have tables in one of them alone."""
        named = answer_outputs(self.session.outputs)
        batch = self.facts.batch
        return (*named, "pooled") if "pooled" not in named and batch is not None and batch.groups else tuple(named)

    def _in_force(self, *, past_only: bool) -> Manifest:
        """The manifest with the calibration that judges."""
        batch = self.facts.batch
        return self.manifest if past_only or batch is None else replace(self.manifest, calibration=batch)

    def schema(self, rows: pa.Schema, top: int = 3) -> pa.Schema:
        """Schema of the answers to rows of a schema: carried columns, the answers, why there is none, and the reasons."""
        writer = ReasonWriter(self.manifest, _checked_top(top))
        answers = [pa.field(name, pa.bool_() if name in FLAGS else pa.float64()) for name in self.answered]
        taken = {field.name for field in answers} | {"reasons", REASON}
        carried = [rows.field(name) for name in self.manifest.carried if name in rows.names and name not in taken]
        return pa.schema([*carried, *answers, pa.field(REASON, pa.string()), pa.field("reasons", writer.type)])

    def score(
        self,
        rows: pa.Table,
        *,
        top: int = 3,
        alarm_rate: float | None = None,
        past_only: bool | None = None,
        stride: int | None = None,
    ) -> pa.Table:
        """Scores rows, each as a step of its asset's series.

        Args:
            rows: At least the channels, the time, and the asset's column if there is one; in any order.
            top: Reasons a row.
            alarm_rate: Replaces the bundle's; the calibration rows must support it.
            past_only: Whether each row is judged by its past alone, as a stream does; None: as the bundle says.
            stride: Steps between windows, where steps are judged by all windows that cover them; None: as the bundle says.

        Returns:
            A row per row, in order: carried columns, `score`, `p_value`, `reconstruction_error`,
            `p_value_reconstruction`, `alarm`, `tail`, `reason`, `reasons`. A row that cannot be scored has nulls, no alarm, and
            the `reason`: `filling` (too few steps for a window), `repeated` or `off`.

        Raises:
            InputError: The rows do not fit the detector.
            SettingError: A stride is stated where each row is judged by its past alone.
            TooFewRowsError: The calibration rows do not support the alarm rate.
        """
        schema = self.schema(rows.schema, top)
        by_past = self.facts.past_only if past_only is None else past_only
        if by_past and stride is not None:
            raise SettingError(
                "--stride is for steps judged by all windows that cover them; leave it out with --past-only"
            )
        judging = self._in_force(past_only=by_past)
        require_supported(judging, alarm_rate)
        sequences = sequences_for(rows, self.manifest)
        found = self.steps(rows, sequences, alarm_rate=alarm_rate, past_only=by_past, stride=stride)
        answered = np.zeros(len(sequences), dtype=np.bool_)
        answered[found.steps] = True
        place = np.full(rows.num_rows, -1, dtype=np.int64)
        place[sequences.row[found.steps]] = np.arange(len(found.steps))
        columns: dict[str, pa.Array | pa.ChunkedArray] = {
            name: rows.column(name) for name in schema.names if name in self.manifest.carried
        }
        indices = pa.array(place, mask=place < 0)
        for name in self.answered:
            if name in FLAGS:
                filled = np.zeros(rows.num_rows, dtype=np.bool_)
                filled[place >= 0] = found.answers[name][place[place >= 0]]
                columns[name] = pa.array(filled)
            else:
                columns[name] = pa.array(exact(judging, name, found.answers[name])).take(indices)
        columns[REASON] = pa.array(sequences.reasons(answered), pa.string())
        columns["reasons"] = self._reasons(sequences, found, top).take(indices)
        return pa.table([columns[name] for name in schema.names], schema=schema)

    def steps(
        self,
        rows: pa.Table,
        sequences: Sequences,
        *,
        alarm_rate: float | None = None,
        past_only: bool | None = None,
        stride: int | None = None,
    ) -> StepAnswers:
        """Answers for the steps of laid-out rows; arguments as for :meth:`score`."""
        facts, group_column = self.facts, self.manifest.calibration.group_column
        asset = asset_numbers(sequences, rows, facts.asset_column) if facts.asset else _unknown(sequences, facts)
        group = None if group_column is None else asset_numbers(sequences, rows, group_column)
        if facts.past_only if past_only is None else past_only:
            windows = online_windows_of(sequences, facts.window, asset=asset, group=group)
            return self._by_past(self._with_terms(windows), alarm_rate)
        stride = facts.stride if stride is None else stride
        windows = windows_of(sequences, facts.window, stride, asset=asset, group=group)
        return self._by_all(self._with_terms(windows), rows, alarm_rate)

    def _with_terms(self, windows: Windows) -> Windows:
        """Windows with what the row member says of each step, unless they hardly overlap."""
        steps = windows.sequences
        if self._member is None or len(windows) * self.facts.window < 2 * len(steps):
            return windows
        asset = steps.asset if windows.asset is None else windows.asset[steps.asset]
        with ThreadPoolExecutor(self.threads, thread_name_prefix="score") as pool:
            return replace(windows, row_terms=self._member.terms(steps.values, asset, pool, spare=False))

    def _by_past(self, windows: Windows, alarm_rate: float | None) -> StepAnswers:
        has = [name for name in self.answered if name in self.session.outputs]
        wanted = [*has, "contribution", "expected"]
        parts = [found for _, found in self._run(windows, wanted, alarm_rate)]
        joined = (
            {name: np.concatenate([part[name] for part in parts]) for name in wanted} if parts else self._none(wanted)
        )
        return StepAnswers(
            windows.newest,
            self._filled({name: joined[name] for name in has}, len(windows)),
            joined["contribution"].astype(np.float32),
            joined["expected"].astype(np.float32),
        )

    def _by_all(self, windows: Windows, rows: pa.Table, alarm_rate: float | None) -> StepAnswers:
        sequences, d = windows.sequences, len(self.manifest.columns)
        means = [StepMeans(len(sequences), each) for each in ((), (), (d,), (d,))]
        for part, found in self._run(windows, STEP_OUTPUTS, None):
            for mean, name in zip(means, STEP_OUTPUTS, strict=True):
                mean.add(part.starts, found[name])  # type: ignore[arg-type]
        score, error, contribution, expected = (mean.means().astype(np.float32) for mean in means)
        steps = np.flatnonzero((sequences.row >= 0) & np.isfinite(score))
        group_column = None if self.facts.batch is None else self.facts.batch.group_column
        group = None if group_column is None else asset_numbers(sequences, rows, group_column)[sequences.asset[steps]]
        judged = self._judged(score[steps], error[steps], group, alarm_rate)
        return StepAnswers(steps, self._filled(judged, len(steps)), contribution[steps], expected[steps])

    def _filled(self, found: Arrays, n: int) -> Arrays:
        """All that is answered: a calibration without groups holds every step against the pooled table."""
        return {name: found[name] if name in found else np.full(n, name == "pooled") for name in self.answered}

    def _judged(
        self,
        score: npt.NDArray[np.float32],
        error: npt.NDArray[np.float32],
        group: npt.NDArray[np.int64] | None,
        alarm_rate: float | None,
    ) -> Arrays:
        """P-values and verdicts of means over windows, by the bundle's own calibration of those."""
        if self._batch is None:
            path = self.bundle.folder / BATCH_GRAPH
            if not path.exists():
                raise BundleError(f"{self.bundle.folder} lacks {BATCH_GRAPH}, which calibrates whole series")
            self._batch = GraphSession(path)
        return self._batch.run_in_chunks(MeanScores(score, error, group), self._batch.outputs, alarm_rate)

    def _run(
        self, windows: Windows, wanted: Sequence[str], alarm_rate: float | None
    ) -> Iterator[tuple[Windows, Arrays]]:
        """The graph's outputs for windows, a chunk at a time and in order, on every core."""

        def answer(part: Windows) -> tuple[Windows, Arrays]:
            return part, self.session.run(part.encoded(), wanted, alarm_rate)

        size = self.session.chunk_rows
        parts = (windows.take(slice(first, first + size)) for first in range(0, len(windows), size))
        with ThreadPoolExecutor(self.threads, thread_name_prefix="score") as pool:
            yield from _in_order(pool, answer, parts, self.threads + 1)

    def _none(self, wanted: Sequence[str]) -> Arrays:
        d = len(self.manifest.columns)
        wide = {"contribution", "expected"}
        return {name: np.empty((0, d) if name in wide else 0, dtype=np.float32) for name in wanted}

    def _reasons(self, sequences: Sequences, found: StepAnswers, top: int) -> pa.ListArray:
        writer = ReasonWriter(self.manifest, _checked_top(top))
        values = EncodedRows(sequences.values[found.steps], np.empty((len(found.steps), 0), dtype=np.int64))
        told = {"contribution": found.contribution, "expected": found.expected}
        return writer.write([writer.pick(values, told)])


@dataclass(frozen=True, slots=True)
class MeanScores:
    """Means over windows as the inputs of their calibration's graph; n steps.

    Attributes:
        score: Shape ``(n,)``.
        error: Reconstruction errors, shape ``(n,)``.
        group: Number of each step's group, shape ``(n,)``; None: not told.
    """

    score: npt.NDArray[np.float32]
    error: npt.NDArray[np.float32]
    group: npt.NDArray[np.int64] | None

    def __len__(self) -> int:
        return int(self.score.shape[0])

    def take(self, rows: npt.NDArray[np.int64] | slice) -> MeanScores:
        """Those named by position."""
        return MeanScores(self.score[rows], self.error[rows], None if self.group is None else self.group[rows])

    def feeds(self) -> Arrays:
        """The arrays by the names of the graph's inputs."""
        feeds: Arrays = {"mean_score": self.score, "mean_error": self.error}
        return feeds if self.group is None else {**feeds, "group": self.group}


def _in_order(
    pool: ThreadPoolExecutor,
    answer: Callable[[Windows], tuple[Windows, Arrays]],
    parts: Iterator[Windows],
    most: int,
) -> Iterator[tuple[Windows, Arrays]]:
    waiting: deque[Future[tuple[Windows, Arrays]]] = deque()
    try:
        for part in parts:
            waiting.append(pool.submit(answer, part))
            while len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _unknown(sequences: Sequences, facts: SeriesFacts) -> npt.NDArray[np.int64]:
    """One sequence without a name has the one scaling there is."""
    return np.full(len(sequences.assets), len(facts.assets), dtype=np.int64)


def _checked_top(top: int) -> int:
    if not 0 <= top <= MAX_TOP:
        raise SettingError(f"--top is {top}; it must be 0 to {MAX_TOP}")
    return top
