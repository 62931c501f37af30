"""Streams of steps: each record is scored as the newest step of its asset's window."""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from anomvae.data.cadence import Cadence
from anomvae.data.off import parse_off
from anomvae.data.windows import EncodedWindows
from anomvae.errors import SettingError
from anomvae.streaming.answers import Verdicts
from anomvae.streaming.asset_windows import AssetWindows
from anomvae.streaming.codec import Bad
from anomvae.streaming.graph_runner import GraphRunner
from anomvae.streaming.lane import Answered, Clerk, Sheet
from anomvae.streaming.placement import Fate, Placement, TimedRows
from anomvae.streaming.rows import RowReader, asset_cells, asset_reader, unnested
from anomvae.streaming.settings import WindowSettings
from anomvae.streaming.times import latest_times, times_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from anomvae.bundle import SeriesFacts
    from anomvae.data.encoding import EncodedRows
    from anomvae.streaming.codec import Codec, Decoded, Row
    from anomvae.streaming.contracts import Place, Record
    from anomvae.streaming.graph_runner import StreamModel
    from anomvae.streaming.lane import BoolArray, FloatArray, IntArray, Lane
    from anomvae.streaming.settings import AnswerSettings, EventSettings

_REASONS = [fate.name.lower() for fate in Fate]
"""Why a row is not scored, by its fate."""
_TAPE_CELLS = 4 << 20
"""Numbers that the windows of the rows placed at a time may hold: wide windows come in smaller parts."""
_MAY_BE_COMPARED = frozenset({int, float, type(None)})
NO_ASSET = "the record names no asset in field {!r}; write text or a number"
NO_TIME = "the record has no time in field {!r} that can be read; write an ISO 8601 timestamp or a number"


class _Rows:
    """Rows that can be placed, with what they say of time and asset."""

    def __init__(
        self,
        rows: list[Row],
        records: list[Record],
        part: list[int] | None,
        encoded: EncodedRows,
        assets: list[tuple[str, int]],
        times: FloatArray,
    ) -> None:
        self.rows, self.records, self.part, self.encoded = rows, records, part, encoded
        self.names = [name for name, _ in assets]
        self.codes = np.array([code for _, code in assets], dtype=np.int64)
        self.times = times
        self.offsets = np.array([record.origin[2] for record in records], dtype=np.int64)


class SeriesLane:
    """Answers records that are rows of timed series; see :class:`~anomvae.streaming.lane.Lane`.

    Args:
        model: A model of series.
        codec: Reads payloads.
        settings: How records are answered.
        windows: What windows go by.
        events: How alarms become events; None: they do not.
        clock: Unix time in seconds.

    Raises:
        SettingError: The model scores tables.
    """

    def __init__(
        self,
        model: StreamModel,
        codec: Codec,
        settings: AnswerSettings,
        windows: WindowSettings | None = None,
        events: EventSettings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        facts = model.manifest.series
        if facts is None:
            raise SettingError(f"the model {model.manifest.name!r} scores tables, not series")
        self._facts, self._windowing = facts, windows or WindowSettings()
        self._columns = tuple(column.name for column in model.manifest.numeric)
        self._codec, self._reader, self._runner = codec, RowReader(model.manifest), GraphRunner(model, settings)
        self._assets = None if facts.asset_column is None else asset_reader(facts.asset_column)
        self._has_groups = model.manifest.calibration.group_column is not None
        self._member, self._key_is_asset = model.member, settings.key_is_asset
        self._codes = {name: code for code, name in enumerate(facts.assets)}
        self._off = None if facts.off is None else parse_off(facts.off)
        self._clerk = Clerk(model, settings, facts.asset, facts.time, events, clock)
        limits = self._windowing
        self._state = AssetWindows(
            facts.window,
            self._width,
            Cadence(facts.step_s, facts.longest_gap),
            idle_s=limits.idle_for(facts.window, facts.step_s, facts.longest_gap),
            max_replay=limits.max_replay,
            max_assets=limits.max_assets,
            outlasted=None if events is None else events.quiet,
        )
        self._at_once = max(16, _TAPE_CELLS // (facts.window * max(1, self._width)))

    @property
    def _width(self) -> int:
        """Numbers that are remembered of a step: its channels, and the nats that the row member gives it."""
        d = len(self._columns)
        return d if self._member is None else 2 * d + 1

    @property
    def n_assets(self) -> int:
        """Assets that have a window or part of one."""
        return self._state.n_assets

    def answer(self, records: Sequence[Record], replayed: BoolArray | None, arrived_s: float) -> Answered:
        """See :class:`~anomvae.streaming.lane.Lane`."""
        answered = Answered()
        answered.counts.replayed = 0 if replayed is None else int(replayed.sum())
        answered.counts.records = len(records) - answered.counts.replayed
        decoded = self._codec.decode([record.payload for record in records])
        rows, at, bad = self._read(decoded, records)
        told = np.ones(len(records), dtype=np.bool_) if replayed is None else ~replayed
        self._clerk.letters(records, [one for one in bad if told[one.record]], answered)
        for start in range(0, len(rows.rows), self._at_once):
            part = slice(start, start + self._at_once)
            self._answer(rows, part, told[at[part]], arrived_s, answered)
        return answered

    def replay_from(self, place: Place, answered: int) -> int:
        """See :class:`~anomvae.streaming.lane.Lane`."""
        low = self._state.replay_from(place, answered)
        return low if self._clerk.merger is None else min(low, self._clerk.merger.replay_from(place, answered))

    def forget(self, place: Place) -> None:
        """See :class:`~anomvae.streaming.lane.Lane`."""
        self._state.forget(place)
        if self._clerk.merger is not None:
            self._clerk.merger.forget(place)

    def finish(self) -> Answered:
        """See :class:`~anomvae.streaming.lane.Lane`."""
        return self._clerk.finish()

    def inherit(self, other: Lane) -> None:
        """Goes on with the windows of another lane if they are made of the same columns by the same rule; else they fill anew."""
        if isinstance(other, SeriesLane):
            self._clerk.inherit(other._clerk)  # noqa: SLF001  its own kind
            if self._made_by() == other._made_by():  # noqa: SLF001
                self._state = other._state  # noqa: SLF001
                self._state.restate(self._width, self._steps_again)

    def _steps_again(self, names: list[str], steps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What is remembered of steps, made anew from what another model's lane remembers of them."""
        k, h, _ = steps.shape
        d, unknown = len(self._columns), len(self._facts.assets)
        codes = np.array([self._codes.get(name, unknown) for name in names], dtype=np.int64)
        return self._remembered(steps[:, :, :d].reshape(-1, d), np.repeat(codes, h)).reshape(k, h, -1)

    def _remembered(self, rows: npt.NDArray[np.float32], codes: IntArray) -> npt.NDArray[np.float32]:
        """What is remembered of steps: the row member is asked once for each, and not with every window it lies in."""
        if self._member is None:
            return rows
        nats = self._member.terms(rows, codes, self._runner.pool)[:, : len(self._columns) + 1]
        return np.concatenate([rows, nats], axis=1)

    def _made_by(self) -> tuple[Any, ...]:
        """All that decides what a window holds."""
        facts = self._facts
        by = (facts.time, facts.asset, facts.window, facts.step_s, facts.longest_gap, facts.off)
        return (*by, self._columns, self._windowing)

    def _read(self, decoded: Decoded, records: Sequence[Record]) -> tuple[_Rows, IntArray, list[Bad]]:
        """Rows that can be placed, the position of each one's record, and what cannot be answered."""
        facts, sifted = self._facts, self._reader.sift(decoded.rows)
        at = decoded.record
        bad = [*decoded.bad, *(Bad(at[row], cause, reason) for row, cause, reason in sifted.bad)]
        places = list(range(len(decoded.rows))) if sifted.rows is None else sifted.rows
        rows = [decoded.rows[i] for i in places]
        times = times_of([row.get(facts.time) for row in rows], unix=self._windowing.unix)
        timed = np.isfinite(times).tolist()
        assets = self._assets_of(rows, [records[at[i]] for i in places], facts)
        good = [i for i, (asset, _) in enumerate(assets) if asset is not None and timed[i]]
        if len(good) < len(rows):
            for i, (asset, _) in enumerate(assets):
                if asset is None:
                    bad.append(Bad(at[places[i]], "asset", NO_ASSET.format(facts.asset)))
                elif not timed[i]:
                    bad.append(Bad(at[places[i]], "time", NO_TIME.format(facts.time)))
        encoded = sifted.encoded if len(good) == len(rows) else sifted.encoded.take(np.array(good, dtype=np.int64))
        of_records = np.array([at[places[i]] for i in good], dtype=np.int64)
        found = _Rows(
            [rows[i] for i in good],
            [records[i] for i in of_records.tolist()],
            None if decoded.part is None else [decoded.part[places[i]] for i in good],
            encoded,
            [(asset or "", code) for asset, code in (assets[i] for i in good)],
            times[good],
        )
        return found, of_records, bad

    def _assets_of(
        self, rows: Sequence[Row], records: Sequence[Record], facts: SeriesFacts
    ) -> list[tuple[str | None, int]]:
        if self._assets is None or facts.asset is None:
            return [("", len(facts.assets))] * len(rows)  # no asset has a scaling of its own
        return self._assets.of(unnested(asset_cells(rows, facts.asset, records if self._key_is_asset else None)))

    def _answer(self, rows: _Rows, part: slice, told: BoolArray, arrived_s: float, answered: Answered) -> None:
        n, counts = len(told), answered.counts
        records = rows.records[part]
        fate = np.full(n, Fate.FUTURE, dtype=np.int8)
        lease, end = np.full((2, n), -1, dtype=np.int64)
        here = np.flatnonzero(~self._from_future(rows.times[part], records, arrived_s))
        placed = self._place(rows, part, here)
        fate[here], lease[here], end[here] = placed.fate, placed.lease, placed.end
        counts.cut += placed.cut
        counts.evicted += placed.evicted
        whole = fate == Fate.STEP
        scored = np.flatnonzero(whole if self._clerk.merger is not None else whole & told)
        found = self._begin(rows, part, placed, end, scored)
        extras: dict[int, dict[str, Any]] = {}
        for i in np.flatnonzero(~whole & told).tolist():
            reason = _REASONS[fate[i]]
            extras[i] = {"reason": reason}
            counts.unscored[reason] += 1
        sheet = Sheet(
            rows.rows[part],
            records,
            None if rows.part is None else rows.part[part],
            rows.names[part],
            np.where(fate == Fate.FUTURE, math.nan, rows.times[part]),
            np.isin(fate, (Fate.STEP, Fate.FILLING, Fate.OFF)),
            fate == Fate.OFF,
            lease,
            told,
        )
        draft = self._clerk.draft(sheet)  # while the graph scores
        self._clerk.write(sheet, draft, _spread(found(), n, scored, extras), arrived_s, answered)

    def _place(self, rows: _Rows, part: slice, here: IntArray) -> Placement:
        """Places those rows of a part that are not from the future."""
        at = here.tolist()
        records, names, cells = rows.records[part], rows.names[part], rows.rows[part]
        off = np.zeros(len(at), dtype=np.bool_) if self._off is None else self._off_of([cells[i] for i in at])
        timed = TimedRows(
            [records[i].origin[:2] for i in at],
            [names[i] for i in at],
            rows.times[part][here],
            rows.offsets[part][here],
            self._remembered(rows.encoded.numeric[part][here], rows.codes[part][here]),
            off,
        )
        return self._state.place(timed)

    def _begin(
        self, rows: _Rows, part: slice, placed: Placement, end: IntArray, scored: IntArray
    ) -> Callable[[], Verdicts]:
        """Begins to score those rows of a part that are scored."""
        codes = rows.codes[part]
        group = rows.encoded.group[part] if self._has_groups and rows.encoded.group is not None else None

        d, has_terms = len(self._columns), self._member is not None

        def windows(chunk: slice) -> EncodedWindows:
            of = scored[chunk]
            terms = placed.windows(end[of], slice(d, None), newest=False) if has_terms else None
            series = placed.windows(end[of], slice(0, d))
            return EncodedWindows(series, codes[of], None if group is None else group[of], terms)

        return self._runner.begin(len(scored), windows)

    def _from_future(self, times: FloatArray, records: Sequence[Record], arrived_s: float) -> BoolArray:
        """Records whose time lies after their source's own time of them, or after the clock where it keeps none."""
        if not self._windowing.unix:
            return np.zeros(len(times), dtype=np.bool_)
        ahead: npt.NDArray[np.bool_] = times > latest_times(records, arrived_s) + self._windowing.future_s
        return ahead

    def _off_of(self, rows: Sequence[Row]) -> BoolArray:
        """Rows that find their asset off."""
        assert self._off is not None  # noqa: S101  for the type checker
        columns = {name: [row.get(name) for row in rows] for name in self._off.columns}
        if all(_MAY_BE_COMPARED.issuperset(map(type, cells)) for cells in columns.values()):
            with contextlib.suppress(pa.ArrowException, OverflowError):
                return self._off.of_table(
                    pa.table({name: pa.array(cells, pa.float64()) for name, cells in columns.items()})
                )
        return np.array([self._off.of_record(row) for row in rows], dtype=np.bool_)


def _spread(found: Verdicts, n: int, scored: IntArray, extras: dict[int, dict[str, Any]]) -> Verdicts:
    """Verdicts on n rows, of which some were scored.

    Args:
        found: On those.
        n: How many there are.
        scored: Which were, shape ``(k,)``.
        extras: What is said beside of others; takes what is said of those.
    """
    at = scored.tolist()
    columns = [np.full(n, math.nan) for _ in range(3)]
    for column, values in zip(columns, found[:3], strict=True):
        column[scored] = values
    alarm = np.zeros(n, dtype=np.bool_)
    alarm[scored] = found.alarm
    extras.update((at[i], dict(beside)) for i, beside in found.extras.items())
    return Verdicts(
        columns[0],
        columns[1],
        columns[2],
        alarm,
        {at[i]: reasons for i, reasons in found.reasons.items()},
        extras,
        [at[i] for i in found.failed],
    )
