"""A lane of series that reads again from the place named gives the answers and tells the events of one that never stopped."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.streaming.contracts import Place
from anomvae.streaming.settings import EventSettings, WindowSettings
from tests.streaming.toys import Log, close, read, toy_lane, toy_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.streaming.graph_runner import StreamModel

IN = Place("in", 0)
BEGAN_S, NOW_S = 1e9, 2e9
FAR = 10**9


@dataclass(frozen=True)
class Row:
    """A record of an asset; `high` values alarm."""

    name: str
    time_s: float
    high: bool = False
    off: bool = False

    def content(self, number: int) -> dict[str, Any]:
        flow = -1.0 if self.off else 9.0 if self.high else 0.5
        return {"machine": self.name, "when": BEGAN_S + self.time_s, "flow": flow, "heat": 0.1 * (number % 7)}


@cache
def model(window: int) -> StreamModel:
    return toy_model(window, off="flow < 0")


def compare(
    rows: Sequence[Row], crash: int, earlier: int, window: int, events: EventSettings, windows: WindowSettings
) -> None:
    """Both runs, and what they say of the rows from the crash on."""
    log = Log({0: []})
    for number, row in enumerate(rows):
        log.add(0, row.content(number))
    records = [log.record(0, offset) for offset in range(len(rows))]
    unbroken, restarted = (toy_lane(model(window), windows, events) for _ in range(2))
    unbroken.answer(records[:crash], None, NOW_S)
    begin = max(0, unbroken.replay_from(IN, crash) - earlier)
    wanted = unbroken.answer(records[crash:], None, NOW_S)
    replayed = np.arange(begin, len(rows)) < crash
    found = restarted.answer(records[begin:], replayed, NOW_S)
    for one, other in ((found.answers, wanted.answers), (found.events, wanted.events)):
        said, expected = read(one), read(other)
        assert [message["event_id"] for message in said] == [message["event_id"] for message in expected]
        assert all(close(*pair) for pair in zip(said, expected, strict=True))


def spell(text: str) -> list[Row]:
    """Rows as `A0 B10 A1.2!`: asset and time, `!` where it alarms."""
    return [Row(word[0], float(word[1:].strip("!")), word.endswith("!")) for word in text.split()]


@pytest.mark.parametrize(
    ("rows", "window", "quiet"),
    [
        # Read from .4 on, the alarm at 1.2 is a step and no repetition.
        ("A0 B10 A.4 A.8 A1.2! A1.7 B11 A2.7 A3.7 A4.7", 2, 1),
        # Read from 5 on, the alarm at 8 is a step and not late.
        ("A10 A11 B11.5 A5 A6 A7 A8! A12 A13 A14 B12.5 B13.5 A15 A16 A17", 4, 5),
    ],
)
def test_no_event_is_open_after_a_restart_that_was_not(rows: str, window: int, quiet: int) -> None:
    for crash in range(len(rows.split()) + 1):
        compare(spell(rows), crash, 0, window, EventSettings(quiet, idle_s=FAR), WindowSettings(idle_s=FAR))


@pytest.mark.parametrize("window", [2, 4])
@pytest.mark.parametrize("others", [0, 1, 3])
def test_an_event_that_lasts_is_cut_at_the_same_place_wherever_reading_begins(window: int, others: int) -> None:
    rows = [
        row for i in range(60) for row in (Row("A", float(i), high=True), Row("B", i + 0.1))[: 1 + (i % 3 < others)]
    ]
    limit = 32
    for crash in range(len(rows) + 1):
        compare(
            rows, crash, 0, window, EventSettings(1, max_replay=limit, idle_s=FAR),
            WindowSettings(idle_s=FAR, max_replay=limit),
        )  # fmt: skip


APART = {
    "going on": (1.0, 1.0, 1.0, 1.1, 0.9, 2.0, 0.6, 5.0),
    "repeated": (1.0, 1.0, 1.0, 2.0, 0.4, 0.4, 0.0, 0.3),
    "late": (1.0, 1.0, 1.0, 1.0, -1.0, -2.0, 2.0),
    "set back": (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 0.3, -30.0),
}


@pytest.mark.parametrize("apart", APART)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_answers_and_events_are_those_of_a_run_without_a_crash(apart: str, data: st.DataObject) -> None:
    at: dict[str, float] = {}
    rows = []
    names = data.draw(st.sampled_from(["A", "AB", "ABC"]))
    alarms, off = data.draw(st.sampled_from([1, 3, 5])), data.draw(st.sampled_from([0, 2]))
    for _ in range(data.draw(st.integers(1, 50))):
        name = data.draw(st.sampled_from(names))
        at[name] = at.get(name, float(data.draw(st.integers(0, 2)))) + data.draw(st.sampled_from(APART[apart]))
        drawn = data.draw(st.integers(1, 10))
        rows.append(Row(name, at[name], drawn <= alarms, drawn > 10 - off))
    idle_s = data.draw(st.sampled_from([6.0, 30.0, 1e9]))
    events = EventSettings(
        data.draw(st.sampled_from([0, 1, 3])), data.draw(st.sampled_from([1, 2])), idle_s=idle_s, max_replay=FAR
    )
    windows = WindowSettings(idle_s=data.draw(st.sampled_from([6.0, 30.0, 1e9])), max_replay=FAR)
    crash, earlier = data.draw(st.integers(0, len(rows))), data.draw(st.sampled_from([0, 0, 1, 2, 5]))
    compare(rows, crash, earlier, data.draw(st.sampled_from([2, 3, 4])), events, windows)
