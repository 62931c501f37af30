"""Records of many assets for tests of the streaming service: tidy, untidy and unreadable ones, and what is due to each."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from anomvae.daemon.stream_models import LaneMaker, load_stream_model
from anomvae.daemon.stream_settings import StreamSettings
from anomvae.fitting import FitSettings
from anomvae.fitting.series import fit_series_bundle
from anomvae.references import find_model
from anomvae.scoring.series import SeriesScoring
from anomvae.streaming.contracts import Origin, Record
from anomvae.training.settings import TrainingSettings
from tests.streaming.toys import close

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from tests.streaming.read_committed import Logged

    Answer = dict[str, Any]

CHANNELS = ("flow", "heat", "load", "speed")
ASSETS, WINDOW = 50, 16
BEGIN = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
UNTIDY = 5
"""Every so many assets, one that repeats steps, comes late and writes from the future."""
AT_ONCE = 1000


class Message(NamedTuple):
    """A message to send.

    Attributes:
        payload: Its bytes, unlike those of all others.
        key: The asset.
        poison: Whether it cannot be answered.
    """

    payload: bytes
    key: bytes
    poison: bool


@dataclass
class Due:
    """What an unbroken run makes of a log.

    Attributes:
        answers: By the records' own numbers.
        events: In the order of each partition.
        dead: Partition and offset of the records that cannot be answered.
    """

    answers: dict[int, Answer] = field(default_factory=dict)
    events: list[Answer] = field(default_factory=list)
    dead: set[tuple[int, int]] = field(default_factory=set)


def fit_pumps(folder: Path) -> Path:
    """A small detector of series that knows five of the assets."""
    draw = np.random.default_rng(0)
    steps = 500
    parts = []
    for number in range(5):
        times = [BEGIN - dt.timedelta(days=1) + dt.timedelta(seconds=i) for i in range(steps)]
        cells = channels(draw, number, np.arange(steps))
        parts.append(
            pa.table({"when": times, "pump": [name_of(number)] * steps, **dict(zip(CHANNELS, cells.T, strict=True))})
        )
    training = TrainingSettings(max_steps=30)
    settings = FitSettings(
        name="pumps", time="when", by="pump", window=WINDOW, every="1s", alarm_rate=0.05, training=training
    )
    return fit_series_bundle(pa.concat_tables(parts), settings, folder).bundle.folder


def name_of(asset: int) -> str:
    """Name of an asset by its number."""
    return f"pump-{asset:02d}"


def channels(draw: np.random.Generator, asset: int, step: Any) -> Any:
    """What an asset's sensors say at steps, shape ``(n, 4)``."""
    phase = np.asarray(step, dtype=np.float64) / 7 + asset
    waves = np.stack([np.sin(phase), np.cos(phase), np.sin(phase / 2), np.sin(phase) * np.cos(phase)], axis=-1)
    return waves + 0.1 * draw.normal(size=waves.shape) + asset % 3


def messages(count: int, seed: int, poison: float = 0.004) -> list[Message]:
    """Messages of all assets in turn; stretches of each are strange, cells are missing, and some cannot be read at all."""
    draw = np.random.default_rng(seed)
    step = dict.fromkeys(range(ASSETS), 0)
    found = []
    for number in range(count):
        asset = number % ASSETS
        at = step[asset] = step[asset] + (20 if draw.random() < 0.003 else 1)
        if asset % UNTIDY == 0 and draw.random() < 0.03:
            at = step[asset] = max(1, at - 1)  # the step before again
            at -= int(draw.integers(0, 2)) * 3  # or one long past
        cells = np.round(channels(draw, asset, at), 4) + (4.0 if at % 200 > 190 else 0.0)
        when = BEGIN + dt.timedelta(seconds=at, days=36500 * bool(asset % UNTIDY == 0 and draw.random() < 0.003))
        row: dict[str, Any] = {"pump": name_of(asset), "when": when.isoformat(), "number": number}
        row.update(zip(CHANNELS, cells.tolist(), strict=True))
        if draw.random() < 0.01:
            row["heat"] = None
        bad = draw.random() < poison
        payload = _spoilt(row, int(draw.integers(0, 6))) if bad else orjson.dumps(row)
        found.append(Message(payload, name_of(asset).encode(), bad))
    return found


def _spoilt(row: Answer, how: int) -> bytes:
    """A row that cannot be answered."""
    if how == 0:
        return orjson.dumps(row)[:-1]
    if how == 1:
        return orjson.dumps([row])
    if how == 2:
        return orjson.dumps({**row, "flow": "no number"})
    left_out = (CHANNELS[0], "when", "pump")[how - 3]
    return orjson.dumps({name: cell for name, cell in row.items() if name != left_out})


def unbroken(model: Path, log: Sequence[Logged], **settings: Any) -> Due:
    """What one process makes of a log that nothing disturbs, with what `--events` tells until there."""
    found = find_model(str(model))
    stated = StreamSettings(model=str(model), events=True, **settings)
    lane = LaneMaker(stated, 2).make(load_stream_model(found))
    due = Due()
    ordered = sorted(log, key=lambda each: (each.partition, each.offset))
    for start in range(0, len(ordered), AT_ONCE):
        records = [
            Record(each.value or b"", Origin("records", each.partition, each.offset), each.key)
            for each in ordered[start : start + AT_ONCE]
        ]
        answered = lane.answer(records, None, BEGIN.timestamp() + 1e8)
        for message in answered.answers:
            answer = orjson.loads(message.payload)
            due.answers[answer["number"]] = answer
        due.events += [orjson.loads(message.payload) for message in answered.events]
        due.dead |= {letter.origin[1:] for letter in answered.dead}
    return due


def differing(answers: Iterable[Answer], due: Due) -> list[Answer]:
    """Answers that say anything else than is due, numbers to 1e-5; when they came aside."""
    return [each for each in answers if not close(_timeless(each), _timeless(due.answers[each["number"]]))]


def _timeless(answer: Answer) -> Answer:
    return {name: cell for name, cell in answer.items() if name not in ("latency_s", "event_id")} | (
        {} if answer.get("reason") in ("repeated", "late", "future") else {"event_id": answer["event_id"]}
    )


def batch_scores(model: Path, sent: Sequence[Message]) -> dict[int, tuple[float | None, str | None]]:
    """Score and reason by the records' numbers, as whole series are scored by their past alone; of tidy assets."""
    scoring = SeriesScoring(find_model(str(model)).bundle, threads=2)
    rows = [orjson.loads(message.payload) for message in sent if not message.poison]
    tidy = [row for row in rows if int(row["pump"].removeprefix("pump-")) % UNTIDY]
    for row in tidy:
        row["when"] = dt.datetime.fromisoformat(row["when"])
    table = scoring.score(pa.Table.from_pylist(tidy), past_only=True)
    columns = (table.column(name).to_pylist() for name in ("score", "reason"))
    return {row["number"]: found for row, *found in zip(tidy, *columns, strict=True)}  # type: ignore[misc]
