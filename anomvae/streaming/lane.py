"""What lies between a source and its sinks: records in, answers, dead letters and events out."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from anomvae.streaming.answers import AnswerWriter, Verdicts, all_outgoing
from anomvae.streaming.codec import Bad
from anomvae.streaming.events import EventMerger, Step
from anomvae.streaming.letters import DeadLetter, dead_letter
from anomvae.streaming.names import EventNames

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from anomvae.streaming.codec import Row
    from anomvae.streaming.contracts import Outgoing, Place, Record
    from anomvae.streaming.graph_runner import StreamModel
    from anomvae.streaming.settings import AnswerSettings, EventSettings

    BoolArray = npt.NDArray[np.bool_]
    FloatArray = npt.NDArray[np.float64]
    IntArray = npt.NDArray[np.int64]


NO_SCORE = "the graph fails on this record"


@dataclass(slots=True)
class Counts:
    """What a batch of records came to.

    Attributes:
        records: Records to answer.
        replayed: Records read again to rebuild state.
        scored: Rows that have a score.
        alarms: Rows that alarm.
        unscored: Rows that have none, by reason: `filling`, `repeated`, `late`, `future`, `off`.
        dead: Records that cannot be answered, by cause; see :data:`~anomvae.streaming.codec.CAUSES`.
        events: Events told, by state: `open`, `closed`.
        cut: Whole windows not used because they reach back further than a restart may.
        evicted: Assets forgotten.
    """

    records: int = 0
    replayed: int = 0
    scored: int = 0
    alarms: int = 0
    unscored: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    evicted: int = 0


@dataclass(slots=True)
class Answered:
    """What is to be sent for a batch of records.

    Attributes:
        answers: In the order of the records.
        dead: Dead letters.
        events: Events.
        counts: What they came to.
        scores: Scores of the rows that have one, shape ``(n,)``.
        p_values: Their p-values, shape ``(n,)``.
        latency_s: From each answered record's own time to its answer, seconds.
    """

    answers: list[Outgoing] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    events: list[Outgoing] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    scores: FloatArray = field(default_factory=lambda: np.empty(0))
    p_values: FloatArray = field(default_factory=lambda: np.empty(0))
    latency_s: FloatArray = field(default_factory=lambda: np.empty(0))


class Lane(Protocol):
    """Answers records with one model, and keeps what it needs to know of those before. Called from one thread only."""

    def answer(self, records: Sequence[Record], replayed: BoolArray | None, arrived_s: float) -> Answered:
        """Takes records in.

        Args:
            records: In order within each partition.
            replayed: Those that rebuild state and are not answered again, shape ``(n,)``; None: no record is.
            arrived_s: When they came, Unix time.
        """
        ...

    def replay_from(self, place: Place, answered: int) -> int:
        """Offset from which records must be read again for the state that the record at `answered` needs."""
        ...

    def forget(self, place: Place) -> None:
        """Drops the state of a partition."""
        ...

    def finish(self) -> Answered:
        """What is left to say once the stream has ended."""
        ...

    def inherit(self, other: Lane) -> None:
        """Goes on with the state of the lane that this one replaces, as far as it fits."""
        ...


class Sheet(NamedTuple):
    """Rows as they are answered, n of them: all but what the graph says.

    Attributes:
        rows: Cells by column name.
        records: Record of each.
        part: Number of each within its record; None: a record is a row.
        names: Asset of each; None: no column tells.
        times: Time of each, NaN where it has none that counts; None: no column tells.
        steps: Whether each is a step, so that asset and time name it, shape ``(n,)``; None: all are.
        off: Whether each found its asset off, shape ``(n,)``; None: none did.
        lease: Offset from which each can be scored again, and its asset's events before it are found again, shape ``(n,)``.
        told: Whether each is answered, shape ``(n,)``; None: all are.
        cells: What tells rows apart that have asset and time in common, shape ``(n, k)``; None: none have.
    """

    rows: list[Row]
    records: list[Record]
    part: list[int] | None
    names: list[str] | None
    times: FloatArray | None
    steps: BoolArray | None
    off: BoolArray | None
    lease: IntArray
    told: BoolArray | None
    cells: npt.NDArray[np.uint64] | None = None


class Draft(NamedTuple):
    """Answers as far as they can be written while the graph scores, n of them.

    Attributes:
        records: Record of each.
        beginnings: What goes along of each.
        ids: What each is called.
        keys: Of their messages.
    """

    records: list[Record]
    beginnings: list[bytes]
    ids: list[str]
    keys: list[bytes | None]

    def take(self, places: list[int]) -> Draft:
        """Those at positions."""
        return Draft(
            [self.records[i] for i in places],
            [self.beginnings[i] for i in places],
            [self.ids[i] for i in places],
            [self.keys[i] for i in places],
        )


class Clerk:
    """Writes what a lane has to say.

    Args:
        model: The model that answers.
        settings: Reasons.
        asset: Field of the asset; None: there is none.
        time_field: Field of the time; None: there is none.
        events: How alarms become events; None: they do not.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        model: StreamModel,
        settings: AnswerSettings,
        asset: str | None,
        time_field: str | None,
        events: EventSettings | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.version = model.version
        self.asset, self.time_field = asset, time_field
        self._key_is_asset = settings.key_is_asset
        self._clock = clock
        scored = {column.name for column in model.manifest.columns} - {asset, time_field}
        self._writer, self._names = AnswerWriter(scored, model.version), EventNames(model.version)
        self.merger = None if events is None else EventMerger(events, model.version, settings.top)

    def letters(self, records: Sequence[Record], bad: Sequence[Bad], answered: Answered) -> None:
        """Writes dead letters, one a record."""
        now = self._clock()
        first = {found.record: found for found in reversed(bad)}
        for i in sorted(first):
            answered.dead.append(dead_letter(records[i], first[i].reason, self.version, now))
            answered.counts.dead[first[i].cause] += 1

    def finish(self) -> Answered:
        """Tells the events that the end of the stream ends."""
        answered = Answered()
        if self.merger is not None:
            answered.events = self.merger.finish()
            answered.counts.events += self.merger.told
            self.merger.told.clear()
        return answered

    def inherit(self, other: Clerk) -> None:
        """Goes on with the open events of another model's lane."""
        if self.merger is not None and other.merger is not None:
            self.merger.inherit(other.merger)

    def draft(self, sheet: Sheet) -> Draft:
        """Begins the answers to rows: all that needs no verdict."""
        records = sheet.records
        if sheet.names is None:
            keys = [record.key for record in records]
        else:
            keys = [
                name.encode() if record.key is None else record.key
                for record, name in zip(records, sheet.names, strict=True)
            ]
        return Draft(records, self._writer.beginnings(self._along(sheet)), self._ids(sheet), keys)

    def write(self, sheet: Sheet, draft: Draft, verdicts: Verdicts, arrived_s: float, answered: Answered) -> None:
        """Writes the answers to rows, in order, and the events that they make.

        Args:
            sheet: The rows.
            draft: Their answers, begun.
            verdicts: On all rows.
            arrived_s: When they came, Unix time.
            answered: Takes what is written.
        """
        if self.merger is not None:
            answered.events += self.merger.merge(self._steps(sheet, draft.ids, verdicts))
            answered.counts.events += self.merger.told
            self.merger.told.clear()
        if sheet.told is not None or verdicts.failed:
            places = self._answerable(sheet, verdicts, answered)
            if len(places) < len(sheet.rows):
                draft, verdicts = draft.take(places.tolist()), _of(verdicts, places)
        stamps = [arrived_s if record.stamp_s is None else record.stamp_s for record in draft.records]
        latency = np.maximum(self._clock() - np.array(stamps, dtype=np.float64), 0.0)
        answered.answers += all_outgoing(self._writer.write(draft.beginnings, verdicts, draft.ids, latency), draft.keys)
        has_score = ~np.isnan(verdicts.score)
        answered.scores = np.append(answered.scores, verdicts.score[has_score])
        answered.p_values = np.append(answered.p_values, verdicts.p_value[has_score])
        answered.latency_s = np.append(answered.latency_s, latency)
        answered.counts.scored += int(has_score.sum())
        answered.counts.alarms += int(verdicts.alarm.sum())

    def _along(self, sheet: Sheet) -> list[Row]:
        """Rows as they go along: where a record's key named its asset, the asset's field says so."""
        asset = self.asset
        if asset is None or sheet.names is None or not self._key_is_asset:
            return sheet.rows
        return [
            {**row, asset: name} if name and row.get(asset) is None else row
            for row, name in zip(sheet.rows, sheet.names, strict=True)
        ]

    def _answerable(self, sheet: Sheet, verdicts: Verdicts, answered: Answered) -> IntArray:
        """Rows that are answered; those on which the graph failed become dead letters instead, one a record."""
        told = np.ones(len(sheet.rows), dtype=np.bool_) if sheet.told is None else sheet.told.copy()
        failed = {sheet.records[i].origin: i for i in reversed(verdicts.failed) if told[i]}
        self.letters(sheet.records, [Bad(i, "graph", NO_SCORE) for i in failed.values()], answered)
        told[list(verdicts.failed)] = False
        return np.flatnonzero(told)

    def _ids(self, sheet: Sheet) -> list[str]:
        """What each row is called: by asset and time where these tell, else by where it lies."""
        records, parts = sheet.records, sheet.part or [0] * len(sheet.rows)
        if sheet.names is None or sheet.times is None:
            return self._names.origins(records, parts)
        known = ~np.isnan(sheet.times) if sheet.steps is None else sheet.steps & ~np.isnan(sheet.times)
        assets = [name or _nobody(record) for name, record in zip(sheet.names, records, strict=True)]
        ids = self._names.events(assets, sheet.times, sheet.cells)
        unknown = np.flatnonzero(~known).tolist()
        by_place = self._names.origins([records[i] for i in unknown], [parts[i] for i in unknown])
        for i, name in zip(unknown, by_place, strict=True):
            ids[i] = name
        return ids

    def _steps(self, sheet: Sheet, ids: list[str], verdicts: Verdicts) -> list[Step]:
        rows = self._along(sheet)
        n = len(rows)
        times = [None] * n if sheet.times is None else [None if t != t else t for t in sheet.times.tolist()]  # noqa: PLR0124
        columns = zip(
            sheet.records,
            rows,
            sheet.names or [""] * n,
            times,
            [True] * n if sheet.steps is None else sheet.steps.tolist(),
            [False] * n if sheet.off is None else sheet.off.tolist(),
            verdicts.alarm.tolist(),
            verdicts.score.tolist(),
            verdicts.p_value.tolist(),
            sheet.lease.tolist(),
            ids,
            [True] * n if sheet.told is None else sheet.told.tolist(),
            strict=True,
        )
        asset, time_field = self.asset, self.time_field
        return [
            Step(
                record.place,
                record.origin.offset,
                name,
                None if asset is None else row.get(asset),
                None if time_field is None else row.get(time_field),
                time_s,
                counts,
                off,
                alarm,
                score,
                p_value,
                lease,
                named,
                verdicts.reasons.get(i, []) if alarm else [],
                told,
            )
            for i, (
                record,
                row,
                name,
                time_s,
                counts,
                off,
                alarm,
                score,
                p_value,
                lease,
                named,
                told,
            ) in enumerate(columns)
        ]


def _nobody(record: Record) -> str:
    """Stands for the asset where none is named: each partition is one then."""
    return f"\0{record.origin[1]}"


def _of(verdicts: Verdicts, places: IntArray) -> Verdicts:
    """The verdicts on rows at positions."""
    number = {place: i for i, place in enumerate(places.tolist())}
    reasons = {number[i]: reasons for i, reasons in verdicts.reasons.items() if i in number}
    extras = {number[i]: extras for i, extras in verdicts.extras.items() if i in number}
    numbers = (verdicts.score[places], verdicts.p_value[places], verdicts.reconstruction_error[places])
    return Verdicts(*numbers, verdicts.alarm[places], reasons, extras)
