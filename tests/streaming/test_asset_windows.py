"""Rows of many assets become windows, however they are batched and wherever reading begins anew."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.data.cadence import Arrival, Cadence
from anomvae.streaming.asset_windows import AssetWindows
from anomvae.streaming.contracts import Place
from anomvae.streaming.placement import Fate, TimedRows

if TYPE_CHECKING:
    from collections.abc import Collection

WINDOW, WIDTH, GAP = 3, 2, 1
FAR = 10**9


@dataclass(frozen=True)
class Row:
    partition: int
    offset: int
    name: str
    time_s: float
    value: float
    off: bool = False


@dataclass
class Asset:
    """What the rule says of one asset, step by step."""

    steps: list[float] = field(default_factory=list)
    newest: float | None = None
    was_off: bool = False
    kept_at: int = 0
    clock: float = -np.inf
    late: int = 0


def by_the_rule(rows: list[Row], idle_s: float = FAR, max_replay: int = FAR) -> list[tuple[Fate, list[float] | None]]:
    """Fate and window of each row, one after the other, by the words of the rule."""
    assets: dict[tuple[int, str], Asset] = defaultdict(Asset)
    clocks: dict[int, float] = defaultdict(lambda: -np.inf)
    cadence = Cadence(1.0, GAP)
    found: list[tuple[Fate, list[float] | None]] = []
    for row in rows:
        clocks[row.partition] = clock = max(clocks[row.partition], row.time_s)
        asset = assets[row.partition, row.name]
        if asset.newest is not None and (clock - asset.clock > idle_s or row.offset - asset.kept_at > max_replay):
            asset = assets[row.partition, row.name] = Asset()
        asset.clock = clock
        if asset.newest is not None and row.time_s < asset.newest:
            asset.late += 1
            if asset.late <= WINDOW:
                found.append((Fate.LATE, None))
                continue
            asset = assets[row.partition, row.name] = Asset(clock=clock)
        asset.late = 0
        if row.off:
            asset.steps, asset.newest, asset.was_off, asset.kept_at = [], row.time_s, True, row.offset
            found.append((Fate.OFF, None))
            continue
        placed = cadence.place(row.time_s, None if asset.was_off else asset.newest)
        if placed.arrival is Arrival.REPEATED:
            found.append((Fate.REPEATED, None))
            continue
        if placed.arrival is Arrival.FIRST:
            asset.steps = []
        asset.steps += [np.nan] * placed.missing + [row.value]
        asset.newest, asset.was_off, asset.kept_at = row.time_s, False, row.offset
        whole = len(asset.steps) >= WINDOW
        found.append((Fate.STEP if whole else Fate.FILLING, asset.steps[-WINDOW:] if whole else None))
    return found


def make(window: int = WINDOW, **limits: Any) -> AssetWindows:
    limits = {"idle_s": FAR, "max_replay": FAR, "max_assets": FAR, **limits}
    return AssetWindows(window, WIDTH, Cadence(1.0, GAP), **limits)


def timed(rows: list[Row]) -> TimedRows:
    values = np.array([[row.value, -row.value] for row in rows], dtype=np.float32).reshape(len(rows), WIDTH)
    return TimedRows(
        [Place("in", row.partition) for row in rows],
        [row.name for row in rows],
        np.array([row.time_s for row in rows], dtype=np.float64),
        np.array([row.offset for row in rows], dtype=np.int64),
        values,
        np.array([row.off for row in rows], dtype=np.bool_),
    )


def place(windows: AssetWindows, rows: list[Row]) -> list[tuple[Fate, list[float] | None]]:
    placed = windows.place(timed(rows))
    found: list[tuple[Fate, list[float] | None]] = []
    for i, fate in enumerate(placed.fate.tolist()):
        window = placed.windows(placed.end[[i]])[0] if fate == Fate.STEP else None
        if window is not None:
            assert np.array_equal(window[:, 1], -window[:, 0], equal_nan=True)
        found.append((Fate(fate), None if window is None else window[:, 0].tolist()))
    return found


def same(one: list[tuple[Fate, list[float] | None]], other: list[tuple[Fate, list[float] | None]]) -> None:
    assert [fate.name for fate, _ in one] == [fate.name for fate, _ in other]
    for (_, left), (_, right) in zip(one, other, strict=True):
        assert (left is None) == (right is None)
        assert (
            left is None
            or right is None
            or np.array_equal(np.array(left, np.float32), np.array(right, np.float32), equal_nan=True)
        )


def line(*times: float, name: str = "A", partition: int = 0) -> list[Row]:
    return [Row(partition, i, name, time_s, float(i + 1)) for i, time_s in enumerate(times)]


@st.composite
def streams(draw: st.DrawFn, *, apart: tuple[float, ...], off: bool = True) -> list[Row]:
    """Rows of assets that go on, jump, repeat, come late and are off, over two partitions."""
    n = draw(st.integers(1, 60))
    off_share = draw(st.sampled_from([0, 1, 3, 6])) if off else 0
    at: dict[str, float] = {}
    offsets, rows = [0, 0], []
    for i in range(n):
        partition = draw(st.integers(0, 1))
        name = f"{draw(st.sampled_from('AB'))}{partition}"
        at[name] = at.get(name, float(draw(st.integers(0, 3)))) + draw(st.sampled_from(apart))
        is_off = draw(st.integers(1, 10)) <= off_share
        rows.append(Row(partition, offsets[partition], name, at[name], float(i + 1), is_off))
        offsets[partition] += draw(st.integers(1, 2))
    return rows


def in_batches(rows: list[Row], cuts: list[int]) -> list[list[Row]]:
    ends = sorted({min(cut, len(rows)) for cut in cuts} | {len(rows)})
    return [rows[start:end] for start, end in zip([0, *ends], ends, strict=False)]


ANY = (1.0, 1.0, 1.0, 1.1, 0.9, 2.0, 3.0, 0.0, 0.3, 0.5, 0.6, -1.0, -0.2)
CLEAN = (1.0, 1.0, 1.0, 1.1, 0.9, 2.0, 3.0, 0.6)
SET_BACK = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 0.3, -30.0)
REPEATS = (1.0, 1.0, 1.0, 2.0, 3.0, 0.0, 0.0, -5.0)
CLOSE = (0.4, 0.3, 0.1, -0.2, -0.1, 1.0, -0.3, 0.6, -2.0)
cuts = st.lists(st.integers(0, 60), max_size=8)


@given(streams(apart=ANY) | streams(apart=SET_BACK) | streams(apart=CLOSE), cuts)
@settings(max_examples=100, deadline=None)
def test_windows_are_those_of_the_rule_however_rows_are_batched(rows: list[Row], cuts: list[int]) -> None:
    windows = make()
    found = [one for batch in in_batches(rows, cuts) for one in place(windows, batch)]
    same(found, by_the_rule(rows))


@given(
    streams(apart=ANY) | streams(apart=SET_BACK), cuts, st.sampled_from([4.0, 6.0, 10.0]), st.sampled_from([4, 8, 20])
)
@settings(max_examples=60, deadline=None)
def test_assets_are_forgotten_by_the_rule_however_rows_are_batched(
    rows: list[Row], cuts: list[int], idle_s: float, max_replay: int
) -> None:
    whole, parts = make(idle_s=idle_s, max_replay=max_replay), make(idle_s=idle_s, max_replay=max_replay)
    found = [one for batch in in_batches(rows, cuts) for one in place(parts, batch)]
    same(found, place(whole, rows))
    for (fate, window), (ruled, wanted) in zip(found, by_the_rule(rows, idle_s, max_replay), strict=True):
        if fate is Fate.FILLING and ruled is Fate.STEP:
            continue  # it reaches back too far
        same([(fate, window)], [(ruled, wanted)])


@pytest.mark.parametrize("apart", [CLEAN, REPEATS, ANY, SET_BACK, CLOSE])
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_reading_again_from_the_place_named_rebuilds_the_windows(apart: tuple[float, ...], data: st.DataObject) -> None:
    rows = data.draw(streams(apart=apart))
    idle_s, max_replay = data.draw(st.sampled_from([(4.0, FAR), (10.0, FAR), (FAR, FAR), (FAR, 6), (FAR, 12)]))
    max_replay = max_replay if apart is CLEAN else FAR
    crash = data.draw(st.integers(0, len(rows)))
    unbroken = make(idle_s=idle_s, max_replay=max_replay)
    before, after = place(unbroken, rows[:crash]), rows[crash:]
    del before
    begin = {}
    for partition in (0, 1):
        answered = next((row.offset for row in after if row.partition == partition), FAR)
        begin[partition] = unbroken.replay_from(Place("in", partition), answered)
        assert begin[partition] <= answered
        if max_replay == FAR:  # another asset, or the last commit, may ask for more
            begin[partition] -= data.draw(st.integers(0, 8))
    wanted = place(unbroken, after)

    restarted = make(idle_s=idle_s, max_replay=max_replay)
    again = [row for row in rows[:crash] if row.offset >= begin[row.partition]]
    cut = data.draw(st.integers(0, len(again)))
    place(restarted, again[:cut])
    place(restarted, again[cut:])
    same(place(restarted, after), wanted)


def test_an_asset_that_repeats_every_step_is_read_again_from_the_step_that_parted_it_from_what_lay_before() -> None:
    windows = make()
    place(windows, line(0.0, 1.0, 1.4, 1.6, 2.0, 2.2))
    assert windows.replay_from(Place("in", 0), 6) == 1  # 1.6 follows 1.4, and 2.2 follows 2.0, by less than half a step


def test_only_the_rows_that_the_next_window_needs_are_read_again() -> None:
    windows = make()
    place(windows, line(*range(50)))
    assert windows.replay_from(Place("in", 0), 50) == 48


def test_a_clock_that_was_set_back_is_found_out_after_as_many_late_rows_as_a_window_has_steps() -> None:
    windows = make()
    back = [1.0 + i for i in range(2 * WINDOW)]
    found = place(windows, line(*range(10), 1e9, *back))
    assert [fate for fate, _ in found[-2 * WINDOW : -WINDOW]] == [Fate.LATE] * WINDOW
    assert [fate for fate, _ in found[-WINDOW:]] == [Fate.FILLING] * (WINDOW - 1) + [Fate.STEP]


def test_late_rows_before_a_sequence_that_began_anew_are_no_steps_when_they_are_read_again() -> None:
    times = [(float(i), float(i)) for i in range(10)]
    times += [(float(i), 10.0 + i) for i in range(3 * WINDOW)]  # A's clock was set back by ten steps
    rows = [
        Row(0, 2 * i + k, "AB"[k], time_s, float(2 * i + k + 1))
        for i, pair in enumerate(times)
        for k, time_s in enumerate(pair)
    ]
    for crash in range(20, len(rows)):
        unbroken, restarted = make(), make()
        place(unbroken, rows[:crash])
        begin = unbroken.replay_from(Place("in", 0), crash)
        place(restarted, rows[begin:crash])
        same(place(restarted, rows[crash:]), place(unbroken, rows[crash:]))


@pytest.mark.parametrize(
    ("times", "off"),
    [
        # off, set back, and set back again: what had set the first clock is read again
        ([1.0, -29.0, -28.0, -27.0, -26.0, -25.0, -47.0, -77.0, -76.0, -75.0, -105.0, -104.0], range(12)),
        ([5.0, 2.0, 1.0, 4.9, 0.0, 1.0, 2.0, 3.0, 4.0], ()),  # late rows later than those that come after the set-back
        ([0.0, 1.0, 2.0, 1.8, 3.0, 4.0], (2,)),  # late rows behind the one that found the asset off
        ([0.0, 0.4, 0.2, 1.0, 2.0], (2,)),  # off, but earlier than a row that was repeated
        ([0.0, 0.4, 2.5, 3.5, 4.5], ()),  # too long a gap after the step, not after the row that repeated it
    ],
)
def test_reading_again_from_anywhere_before_the_place_named_finds_the_same(
    times: list[float], off: Collection[int]
) -> None:
    rows = []
    for i, time_s in enumerate(times):  # another asset moves the partition's clock on
        rows += [Row(0, 2 * i, "B", 9.0 + i, 0.0), Row(0, 2 * i + 1, "A", time_s, float(i + 1), i in off)]
    for crash in range(1, len(rows)):
        unbroken = make()
        place(unbroken, rows[:crash])
        begin = unbroken.replay_from(Place("in", 0), crash)
        wanted = place(unbroken, rows[crash:])
        for earlier in range(begin + 1):
            restarted = make()
            place(restarted, rows[earlier:crash])
            same(place(restarted, rows[crash:]), wanted)


def test_a_row_in_time_among_late_ones_begins_their_count_anew() -> None:
    windows = make()
    found = place(windows, line(99.0, *(time_s for i in range(3 * WINDOW) for time_s in (i / 10, 100.0 + i))))
    assert {fate for fate, _ in found[1::2]} == {Fate.LATE}
    assert {fate for fate, _ in found[2 * WINDOW :: 2]} == {Fate.STEP}


def test_missing_steps_hold_on_to_the_row_before_them() -> None:
    windows = make()
    found = place(windows, line(0.0, 1.0, 3.0, 5.0))
    assert found[-1][0] is Fate.STEP
    assert windows.replay_from(Place("in", 0), 4) == 2


def test_a_silent_asset_holds_the_others_back_until_it_is_idle() -> None:
    windows = make(idle_s=10.0)
    rows = [Row(0, 0, "silent", 0.0, 1.0), *(Row(0, 1 + i, "busy", float(i), 1.0) for i in range(11))]
    place(windows, rows)
    assert (windows.n_assets, windows.replay_from(Place("in", 0), 12)) == (2, 0)
    placed = windows.place(timed([Row(0, 12, "busy", 11.0, 1.0)]))
    assert (placed.evicted, windows.n_assets, windows.replay_from(Place("in", 0), 13)) == (1, 1, 11)


def test_no_restart_reads_more_than_it_may() -> None:
    windows = make(max_replay=5)
    place(windows, [Row(0, 0, "slow", 0.0, 1.0), *(Row(0, 1 + i, "busy", float(i), 1.0) for i in range(20))])
    assert windows.replay_from(Place("in", 0), 21) >= 16
    assert windows.n_assets == 1


def test_a_window_that_reaches_back_too_far_is_not_used() -> None:
    rows = []
    for i in range(8):
        rows += [Row(0, 4 * i, "slow", float(i), 1.0), *(Row(0, 4 * i + k, "busy", i + k / 3, 1.0) for k in (1, 2, 3))]
    windows = make(max_replay=7)
    placed = windows.place(timed([row for row in rows if row.name == "slow"]))
    assert (placed.cut, Fate.STEP in placed.fate) == (6, False)
    windows = make(max_replay=8)
    placed = windows.place(timed([row for row in rows if row.name == "slow"]))
    assert (placed.cut, list(placed.fate[2:])) == (0, [Fate.STEP] * 6)


def test_an_asset_whose_clock_lags_is_not_taken_for_an_idle_one() -> None:
    windows = make(idle_s=10.0)
    rows = []
    for i in range(6):
        rows += [Row(0, 2 * i, "now", 1000.0 + i, 1.0), Row(0, 2 * i + 1, "behind", float(i), 1.0)]
    found = place(windows, rows)
    assert [fate for fate, _ in found[5::2]] == [Fate.STEP] * 4


def test_partitions_are_apart() -> None:
    windows = make()
    rows = [Row(i % 2, i // 2, "A", float(i // 2), float(i)) for i in range(6)]
    found = place(windows, rows)
    assert found[4:] == [(Fate.STEP, [0.0, 2.0, 4.0]), (Fate.STEP, [1.0, 3.0, 5.0])]
    windows.forget(Place("in", 0))
    assert windows.n_assets == 1
    again = place(windows, [Row(0, 3, "A", 3.0, 6.0), Row(1, 3, "A", 3.0, 7.0)])
    assert again == [(Fate.FILLING, None), (Fate.STEP, [3.0, 5.0, 7.0])]


@pytest.mark.parametrize("apart", [0.1, 0.34, 0.49])
def test_an_asset_that_sends_faster_than_its_steps_stays_scored_and_no_restart_reads_far(apart: float) -> None:
    windows = make(max_replay=100)
    found = place(windows, line(*(apart * i for i in range(400))))
    assert {fate for fate, _ in found[20:]} == {Fate.STEP, Fate.REPEATED}
    assert windows.replay_from(Place("in", 0), 400) >= 300


def test_what_is_read_again_does_not_depend_on_batches() -> None:
    rows = line(100.0, 101.0, 102.0, 50.0, 51.0, 52.0, 53.0, 54.0, 200.0, 201.0, 202.0, 203.0)
    whole, single = make(idle_s=50.0), make(idle_s=50.0)
    leases = [single.place(timed([row])).lease.tolist()[0] for row in rows]
    assert whole.place(timed(rows)).lease.tolist() == leases
    assert whole.replay_from(Place("in", 0), len(rows)) == single.replay_from(Place("in", 0), len(rows)) == 10


def test_of_too_many_assets_those_heard_of_longest_ago_are_forgotten() -> None:
    windows = make(max_assets=2)
    placed = windows.place(timed([Row(0, i, name, float(i), 1.0) for i, name in enumerate("ABC")]))
    assert (placed.evicted, windows.n_assets) == (1, 2)
    found = place(windows, [Row(0, 3, "A", 3.0, 1.0), Row(0, 4, "C", 3.0, 1.0), Row(0, 5, "C", 4.0, 1.0)])
    assert found[-1][0] is Fate.STEP


def test_windows_of_one_step_need_no_past() -> None:
    windows = make(window=1)
    found = place(windows, line(0.0, 1.0, 1.2, 5.0))
    assert [fate.name for fate, _ in found] == ["STEP", "STEP", "REPEATED", "STEP"]
    assert windows.replay_from(Place("in", 0), 4) == 3


def test_slots_are_used_again_and_hold_nothing_of_whom_they_belonged_to() -> None:
    windows = make(idle_s=4.0)
    for i in range(500):
        found = place(windows, [Row(0, i, f"asset {i}", 10.0 * i, 1.0)])
        assert found == [(Fate.FILLING, None)]
    assert windows.n_assets == 1
    assert len(windows._slots.owner) == 64
