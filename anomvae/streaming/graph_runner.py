"""Rows or windows through the graph, chunk by chunk on a few threads, with reasons for those that get them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from anomvae.data.encoding import EncodedRows
from anomvae.errors import ScoringError
from anomvae.scoring.exact import FLAGS, exact
from anomvae.scoring.rates import asked_rate
from anomvae.scoring.reasons import REASON_OUTPUTS, Picks, ReasonWriter
from anomvae.streaming.answers import Verdicts

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from anomvae.bundle import Manifest
    from anomvae.data.windows import EncodedWindows
    from anomvae.scoring.series_rows import RowMember
    from anomvae.scoring.session import GraphSession
    from anomvae.streaming.rows import Given
    from anomvae.streaming.settings import AnswerSettings

    Arrays = dict[str, npt.NDArray[np.generic]]
    Encoded = EncodedRows | EncodedWindows
    ChunkOf = Callable[[slice], Encoded]
    GivenOf = Callable[[npt.NDArray[np.int64]], Given]

NUMBERS = ("score", "p_value", "reconstruction_error")
BROKEN = 32
"""So many rows at a time, on each of which the graph fails, show that the graph is broken, and not the rows."""
_LEAST_CHUNK = 128
"""Fewer rows are not worth a thread."""


@dataclass(frozen=True, slots=True)
class StreamModel:
    """A model that answers a stream.

    Attributes:
        manifest: Of its bundle.
        session: Of its graph.
        version: What answers say of it.
        member: Of a model of series, its member of single steps; None: it has none, or the graph asks its own each time.
    """

    manifest: Manifest
    session: GraphSession
    version: str
    member: RowMember | None = None


class _Found(NamedTuple):
    """What the graph says of a chunk."""

    arrays: Arrays
    wanted: npt.NDArray[np.int64]
    """Rows that get reasons."""
    picks: Picks | None
    failed: list[int]
    """Rows on which it fails."""


class GraphRunner:
    """Scores with a model.

    Args:
        model: The model.
        settings: Reasons, alarm rate and threads.

    Attributes:
        pool: Its threads.

    Raises:
        SettingError: The alarm rate is no share.
        TooFewRowsError: The calibration rows do not support it.
    """

    def __init__(self, model: StreamModel, settings: AnswerSettings) -> None:
        self._manifest, self._session = model.manifest, model.session
        self._rate = asked_rate(model.manifest, settings.alarm_rate)
        self._all_reasons = settings.all_reasons
        self._writer = ReasonWriter(model.manifest, settings.top)
        present = set(model.session.outputs)
        self._flags = [name for name in FLAGS if name in present and name != "alarm"]
        self._answers = [*NUMBERS, "alarm", *self._flags]
        self._outputs = [*self._answers, *(name for name in REASON_OUTPUTS if name in present and settings.top)]
        self._threads = settings.threads
        self.pool = ThreadPoolExecutor(settings.threads, "score")

    def begin(self, n: int, chunk_of: ChunkOf, given: GivenOf | None = None) -> Callable[[], Verdicts]:
        """Begins to score n rows, on threads of its own if they are many; what is returned waits for their verdicts.

        Args:
            n: How many.
            chunk_of: Makes the rows, or windows, of a slice; called on several threads.
            given: The rows at positions as they came, to name categories that training never saw.

        Raises:
            ScoringError: The graph fails on every row of many; raised by what is returned.
        """
        size = self._chunk_rows(n)
        chunks = [slice(start, min(n, start + size)) for start in range(0, n, size)]

        def run(chunk: slice) -> _Found:
            return self._run(chunk_of(chunk))

        found = map(run, chunks) if n < _LEAST_CHUNK else self.pool.map(run, chunks)
        return lambda: self._verdicts(n, chunks, list(found), given)

    def _verdicts(self, n: int, chunks: list[slice], found: list[_Found], given: GivenOf | None) -> Verdicts:
        columns = {name: np.concatenate([each.arrays[name] for each in found]) for name in self._answers} if n else {}
        numbers = {name: _number(self._manifest, name, columns.get(name)) for name in NUMBERS}
        alarm = np.asarray(columns.get("alarm", ()), dtype=np.bool_)
        reasons: dict[int, list[dict[str, Any]]] = {}
        failed = [chunk.start + row for chunk, each in zip(chunks, found, strict=True) for row in each.failed]
        if len(failed) == n >= BROKEN:
            raise ScoringError(
                "the graph fails on every record; see whether memory or the device is at fault, or fit again"
            )
        for chunk, each in zip(chunks, found, strict=True):
            if each.picks is not None:
                rows = each.wanted + chunk.start
                natural = self._writer.natural(each.picks, None if given is None else given(rows))
                reasons.update(zip(rows.tolist(), natural, strict=True))
        extras: dict[int, dict[str, Any]] = {}
        for name in self._flags:
            for i in np.flatnonzero(columns.get(name, ())).tolist():
                extras.setdefault(i, {})[name] = True
        return Verdicts(**numbers, alarm=alarm, reasons=reasons, extras=extras, failed=failed)

    def _run(self, rows: Encoded) -> _Found:
        """The answers of a chunk, the rows that get reasons, and these."""
        failed: list[int] = []
        arrays = self._spared(rows, 0, failed)
        wanted = np.arange(len(rows)) if self._all_reasons else np.flatnonzero(arrays["alarm"])
        wanted = np.setdiff1d(wanted, failed, assume_unique=True) if failed else wanted
        picks = None
        if len(wanted) and self._writer.top:
            reasons = {name: arrays[name][wanted] for name in self._outputs if name in REASON_OUTPUTS}
            picks = self._writer.pick(_newest(rows.take(wanted)), reasons)
        return _Found({name: arrays[name] for name in self._answers}, wanted, picks, failed)

    def _spared(self, rows: Encoded, start: int, failed: list[int]) -> Arrays:
        """The graph's outputs for rows; where it fails, those it fails on are found by halves and left out of the others."""
        try:
            return self._session.run(rows, self._outputs, self._rate)
        except Exception:  # noqa: BLE001  ONNX Runtime raises classes of its own
            if len(rows) == 1:
                failed.append(start)
                return self._nothing()
        middle = len(rows) // 2
        halves = ((0, middle), (middle, len(rows)))
        found = [self._spared(rows.take(slice(low, high)), start + low, failed) for low, high in halves]
        return {name: np.concatenate([half[name] for half in found]) for name in self._outputs}

    def _nothing(self) -> Arrays:
        """What stands for the outputs of one row that has none."""
        widths = {"expected_category": len(self._manifest.categorical), "expected": len(self._manifest.numeric)}
        widths["contribution"] = len(self._manifest.columns)
        nothing: Arrays = {}
        for name in self._outputs:
            shape = (1, widths[name]) if name in widths else (1,)
            flag = name in FLAGS
            nothing[name] = np.zeros(shape, np.bool_) if flag else np.full(shape, np.nan, np.float32)
        if "expected_category" in nothing:
            nothing["expected_category"] = np.zeros((1, widths["expected_category"]), np.int64)
        return nothing

    def _chunk_rows(self, n: int) -> int:
        """Rows a call: whole chunks for many rows, a share for each thread of fewer."""
        share = -(-n // self._threads)
        return max(1, min(self._session.chunk_rows, max(_LEAST_CHUNK, share)))


def _newest(rows: Encoded) -> EncodedRows:
    """The rows that reasons tell of: of windows their newest step."""
    if isinstance(rows, EncodedRows):
        return rows
    return EncodedRows(rows.series[:, -1], np.empty((len(rows), 0), dtype=np.int64))


def _number(manifest: Manifest, name: str, column: npt.NDArray[np.generic] | None) -> npt.NDArray[np.float64]:
    if column is None:
        return np.empty(0)
    wide: npt.NDArray[np.float64] = exact(manifest, name, column).astype(np.float64)
    return wide
