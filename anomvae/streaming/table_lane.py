"""Streams of rows: each record is scored by itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from anomvae.bundle import Column
from anomvae.streaming.codec import Bad
from anomvae.streaming.graph_runner import GraphRunner
from anomvae.streaming.lane import Answered, Clerk, Sheet
from anomvae.streaming.rows import Given, RowReader, asset_cells, asset_reader, unnested
from anomvae.streaming.settings import FUTURE_S
from anomvae.streaming.times import latest_times, times_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from anomvae.bundle import Manifest
    from anomvae.data.encoding import EncodedRows
    from anomvae.streaming.codec import Codec, Row
    from anomvae.streaming.contracts import Place, Record
    from anomvae.streaming.graph_runner import StreamModel
    from anomvae.streaming.lane import BoolArray, FloatArray, Lane
    from anomvae.streaming.settings import AnswerSettings, EventSettings


class TableLane:
    """Answers records that are rows of a table; see :class:`~anomvae.streaming.lane.Lane`.

    The asset and the time of a record, where it has them, name its answer and its events; they decide nothing else.

    Args:
        model: A model of tables.
        codec: Reads payloads.
        settings: How records are answered.
        events: How alarms become events; None: they do not.
        clock: Unix time in seconds.
        future_s: As in :class:`~anomvae.streaming.settings.WindowSettings`.
    """

    def __init__(
        self,
        model: StreamModel,
        codec: Codec,
        settings: AnswerSettings,
        events: EventSettings | None = None,
        clock: Callable[[], float] = time.time,
        future_s: float = FUTURE_S,
    ) -> None:
        self._codec, self._reader, self._runner = codec, RowReader(model.manifest), GraphRunner(model, settings)
        self._future_s, self._key_is_asset = future_s, settings.key_is_asset
        asset = settings.asset or known_asset(model.manifest)
        time_field = settings.time or known_time(model.manifest)
        self._names = None if asset is None else asset_reader(Column(asset, "categorical", "string"))
        self._clerk = Clerk(model, settings, asset, time_field, events, clock)

    def answer(self, records: Sequence[Record], replayed: BoolArray | None, arrived_s: float) -> Answered:
        """See :class:`~anomvae.streaming.lane.Lane`."""
        answered = Answered()
        answered.counts.replayed = 0 if replayed is None else int(replayed.sum())
        answered.counts.records = len(records) - answered.counts.replayed
        if replayed is not None and self._clerk.merger is None:
            records, replayed = [records[i] for i in np.flatnonzero(~replayed).tolist()], None
        decoded = self._codec.decode([record.payload for record in records])
        sifted = self._reader.sift(decoded.rows)
        rows, at, part = decoded.rows, decoded.record, decoded.part
        bad = [*decoded.bad, *(Bad(at[row], cause, reason) for row, cause, reason in sifted.bad)]
        if sifted.rows is not None:
            rows, at = [rows[i] for i in sifted.rows], [at[i] for i in sifted.rows]
            part = None if part is None else [part[i] for i in sifted.rows]
        told = None if replayed is None else ~replayed
        self._clerk.letters(records, [one for one in bad if told is None or told[one.record]], answered)
        if not rows:
            return answered

        def given(places: npt.NDArray[np.int64]) -> Given:
            return Given([rows[i] for i in places.tolist()])

        scored = self._runner.begin(len(rows), sifted.encoded.take, given)
        of_rows = list(records) if len(at) == len(records) and part is None else [records[i] for i in at]
        offsets = np.array([record.origin[2] for record in of_rows], dtype=np.int64)
        sheet = Sheet(
            rows,
            of_rows,
            part,
            self._assets(rows, of_rows),
            self._times(rows, of_rows, arrived_s),
            steps=None,
            off=None,
            lease=offsets,
            told=None if told is None else told[np.asarray(at)],
            cells=None if self._clerk.asset is None or self._clerk.time_field is None else _cells(sifted.encoded),
        )
        draft = self._clerk.draft(sheet)  # while the graph scores
        self._clerk.write(sheet, draft, scored(), arrived_s, answered)
        return answered

    def replay_from(self, place: Place, answered: int) -> int:
        """See :class:`~anomvae.streaming.lane.Lane`."""
        return answered if self._clerk.merger is None else self._clerk.merger.replay_from(place, answered)

    def forget(self, place: Place) -> None:
        """See :class:`~anomvae.streaming.lane.Lane`."""
        if self._clerk.merger is not None:
            self._clerk.merger.forget(place)

    def finish(self) -> Answered:
        """See :class:`~anomvae.streaming.lane.Lane`."""
        return self._clerk.finish()

    def inherit(self, other: Lane) -> None:
        """See :class:`~anomvae.streaming.lane.Lane`."""
        if isinstance(other, TableLane):
            self._clerk.inherit(other._clerk)  # noqa: SLF001  its own kind

    def _assets(self, rows: list[Row], records: list[Record]) -> list[str] | None:
        if self._names is None or self._clerk.asset is None:
            return None
        cells = asset_cells(rows, self._clerk.asset, records if self._key_is_asset else None)
        return [name or "" for name, _ in self._names.of(unnested(cells))]

    def _times(self, rows: list[Row], records: list[Record], arrived_s: float) -> FloatArray | None:
        """Times of rows; those from the future count for none, since one wrong clock would end all events as silent ones."""
        field = self._clerk.time_field
        if field is None:
            return None
        times = times_of([row.get(field) for row in rows])
        return np.where(times > latest_times(records, arrived_s) + self._future_s, np.nan, times)


def _cells(rows: EncodedRows) -> npt.NDArray[np.uint64]:
    """What each row holds: an asset may have many at a time. Shape ``(n, k)``."""
    numeric = np.ascontiguousarray(rows.numeric, dtype=np.float32)
    if numeric.shape[1] % 2:
        numeric = np.pad(numeric, ((0, 0), (0, 1)))
    return np.concatenate([numeric.view(np.uint64), rows.categorical.astype(np.int64).view(np.uint64)], axis=1)


def known_asset(manifest: Manifest) -> str | None:
    """The column by which a table model tells assets apart, if it knows one."""
    grouped = [column.name for column in manifest.left_out if column.role == "group"]
    return grouped[0] if grouped else manifest.calibration.by


def known_time(manifest: Manifest) -> str | None:
    """The column of the time that a table model knows, if any."""
    return next((column.name for column in manifest.left_out if column.role == "time"), None)
