"""An answer's name says what it is about: the same in any batch, and no two the same."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from anomvae.streaming.contracts import Origin, Record
from anomvae.streaming.names import EventNames

TIMES = st.floats(0, 4e9)


def event(asset: str, time_s: float, version: str = "7", cells: tuple[int, ...] = ()) -> str:
    words = np.array([cells], dtype=np.uint64) if cells else None
    (name,) = EventNames(version).events([asset], np.array([time_s]), words)
    return name


def at(topic: str, partition: int, offset: int, part: int = 0, version: str = "7") -> str:
    (name,) = EventNames(version).origins([Record(b"", Origin(topic, partition, offset))], [part])
    return name


def test_a_name_says_what_happened() -> None:
    assert event("A", 1.0) == event("A", 1.0)
    different = {event("A", 1.0), event("B", 1.0), event("A", 1.5), event("A", 1.0, "8"), event("A", 1.0, cells=(1, 2))}
    different |= {event("A", 1.0, cells=(2, 1)), at("t", 0, 1), at("t", 0, 2), at("t", 1, 1), at("u", 0, 1)}
    different |= {at("t", 0, 1, 1), at("t", 0, 1, version="8"), event("", 1.0), event("t", 1.0)}
    assert len(different) == 14
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in different)


def test_names_stay_what_they_are_from_release_to_release() -> None:
    assert event("pump 7", 1704067200.25, "3") == "c5c23e85adc1de16"
    assert at("readings", 3, 12345, 2, "3") == "a7b3abe6078279bb"


@given(st.lists(st.tuples(st.sampled_from("ABC"), TIMES, st.integers(0, 2**64 - 1)), min_size=1, max_size=20))
def test_in_any_batch_the_same(rows: list[tuple[str, float, int]]) -> None:
    assets, times, cells = zip(*rows, strict=True)
    together = EventNames("7").events(assets, np.array(times), np.array(cells, dtype=np.uint64)[:, None])
    assert together == [event(asset, time_s, cells=(cell,)) for asset, time_s, cell in rows]


@given(st.lists(TIMES, unique=True, max_size=50))
def test_no_two_times_of_an_asset_share_a_name(times: list[float]) -> None:
    assert len(set(EventNames("7").events(["A"] * len(times), np.array(times)))) == len(times)


def test_a_million_rows_share_none() -> None:
    names = EventNames("7")
    cells = np.random.default_rng(0).integers(0, 4, (1_000, 3)).astype(np.uint64)
    cells[:, 0] = np.arange(1_000)
    found: set[str] = set()
    for asset in map(str, range(100)):
        for time_s in range(10):
            found.update(names.events([asset] * 1_000, np.full(1_000, float(time_s)), cells))
    assert len(found) == 1_000_000


def test_where_offsets_begin_anew_with_each_process_the_digest_names_a_record() -> None:
    names = EventNames("7")
    before, again = (Record(b"1", Origin("t/#", 0, offset), digest=b"one") for offset in (0, 7))
    other = Record(b"2", Origin("t/#", 0, 0), digest=b"two")
    first, second, third = names.origins([before, again, other], [0, 0, 0])
    assert first == second != third
    assert names.origins([before], [1]) != [first]


def test_what_is_remembered_of_assets_is_bounded() -> None:
    names = EventNames("7")
    first = names.events([str(i) for i in range(200_000)], np.zeros(200_000))
    assert len(names._seeds) <= 65_536
    assert names.events(["5"], np.zeros(1)) == first[5:6]
