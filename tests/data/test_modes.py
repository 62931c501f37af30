"""Operating modes: levels that last, columns that move on and a calibration elsewhere are told; wandering, periods and noise are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from anomvae.bundle import Column
from anomvae.data.drift import share_beyond
from anomvae.data.levels import levels_of, shift_between, stays_of
from anomvae.data.modes import mode_concerns, outside_concerns, outside_share
from anomvae.data.series import Sequences, read_sequences

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomvae.data.concerns import Concern

    FloatArray = npt.NDArray[np.float64]

WINDOW = 32


def wandering(rng: np.random.Generator, n: int, d: int, memory: float) -> FloatArray:
    """AR(1) at standard deviation 1."""
    steps = np.zeros((n, d))
    steps[0] = rng.normal(size=d)
    noise = rng.normal(size=(n, d)) * np.sqrt(1 - memory**2)
    for i in range(1, n):
        steps[i] = memory * steps[i - 1] + noise[i]
    return steps


def laid(values: FloatArray, assets: npt.NDArray[np.int64] | None = None) -> Sequences:
    n, d = values.shape
    names = [f"c{j}" for j in range(d)]
    unit = np.zeros(n, dtype=np.int64) if assets is None else assets
    time = np.concatenate([np.arange(np.sum(unit == one)) for one in dict.fromkeys(unit.tolist())])
    rows = pa.table({"t": time.astype(float), "unit": unit, **dict(zip(names, values.T, strict=True))})
    columns = [Column(name, "numeric", "double") for name in names]
    return read_sequences(rows, time="t", columns=columns, window=WINDOW, asset="unit")


def looked(values: FloatArray, assets: npt.NDArray[np.int64] | None = None) -> list[Concern]:
    """The earliest seven tenths of each asset train, its latest fifth calibrates."""
    found = laid(values, assets)
    share = np.concatenate([np.linspace(0, 1, n) for n in np.bincount(found.asset)])
    return mode_concerns(found, share < 0.7, share > 0.8, WINDOW, asset=None if assets is None else "unit")


STATIONARY: dict[str, Callable[[np.random.Generator, int], FloatArray]] = {
    "white": lambda rng, n: rng.normal(size=(n, 6)),
    "short memory": lambda rng, n: wandering(rng, n, 6, 0.9),
    "long memory": lambda rng, n: wandering(rng, n, 6, 0.98),
    "fast period": lambda rng, n: (
        np.sin(np.arange(n)[:, None] / 3 + rng.uniform(0, 6, 6)) + rng.normal(size=(n, 6)) / 9
    ),
    "slow period": lambda rng, n: np.sin(np.arange(n)[:, None] * 20 / n + rng.uniform(0, 6, 6)),
    "sawtooth": lambda rng, n: (np.arange(n)[:, None] * 5 / n + rng.uniform(size=6)) % 1,
    "half the day": lambda rng, n: np.maximum(0, np.sin(np.arange(n)[:, None] * 50 / n + rng.uniform(0, 6, 6))),
    "heavy tails": lambda rng, n: rng.standard_t(1.5, size=(n, 6)),
    "skewed": lambda rng, n: np.exp(wandering(rng, n, 6, 0.9)),
    "bursts": lambda rng, n: rng.normal(size=(n, 6)) * np.exp(wandering(rng, n, 6, 0.98)),
    "counts": lambda rng, n: rng.poisson(3, (n, 6)).astype(np.float64),
    "flags": lambda rng, n: (rng.random((n, 6)) < 0.3).astype(np.float64),
    "quick switching": lambda rng, n: (np.arange(n)[:, None] // 7 % 2) + rng.normal(size=(n, 6)) / 20,
    "seldom a flag": lambda rng, n: (rng.random((n, 6)) < 0.01).astype(np.float64),
    "days": lambda rng, n: np.sin(np.arange(n)[:, None] * 180 / n + rng.uniform(0, 6, 6)) + rng.normal(size=(n, 6)) / 9,
    "constant": lambda rng, n: np.full((n, 6), 7.0),
}


@pytest.mark.parametrize("n", [600, 3_000])
@pytest.mark.parametrize("course", sorted(STATIONARY))
def test_stationary_series_of_any_memory_or_period_raise_nothing(course: str, n: int) -> None:
    for seed in range(4):
        concerns = looked(STATIONARY[course](np.random.default_rng(seed), n))
        assert concerns == [], [concern.message for concern in concerns]


def test_a_fleet_of_like_assets_with_missing_cells_raises_nothing() -> None:
    rng = np.random.default_rng(5)
    values = np.concatenate([wandering(rng, 700, 3, 0.9) for _ in range(8)])
    values[rng.random(values.shape) < 0.1] = np.nan
    values[:, 2] = np.nan
    assert looked(values, np.repeat(np.arange(8), 700)) == []


@pytest.mark.parametrize("memory", [0.0, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_a_shift_of_level_within_the_training_rows_is_told_with_its_column_and_row(memory: float, seed: int) -> None:
    values = wandering(np.random.default_rng(seed), 2_000, 4, memory)
    values[600:, 2] += 8.0
    concern = looked(values)[0]
    assert (concern.severity, concern.column) == ("warning", "c2")
    row = int(concern.message.split("first at row ")[1].split(",  ")[0].split(", and")[0].replace(",", ""))
    assert 601 - WINDOW <= row <= 601 + WINDOW
    assert "'c2' changes level" in concern.message
    assert "--by" in concern.message


def test_a_mode_seen_twice_is_warned_of_and_one_that_recurs_is_only_mentioned() -> None:
    rng = np.random.default_rng(1)
    for period, severity, words in (
        (1_500, "warning", "hardly ever back"),
        (200, "info", "modes that recur: see 'c0'"),
    ):
        values = rng.normal(size=(4_000, 2))
        values[:, 0] += 12.0 * (np.arange(4_000) // period % 2)
        concerns = [concern for concern in looked(values) if words in concern.message]
        assert [concern.severity for concern in concerns] == [severity]


def test_three_levels_are_told_apart() -> None:
    rng = np.random.default_rng(2)
    values = np.repeat([0.0, 20.0, 10.0, 0.0], 500) + rng.normal(size=2_000)
    found = levels_of(values, WINDOW)
    assert found is not None
    assert found.of[[0, 700, 1_200, 1_900]].tolist() == [0, 2, 1, 0]
    assert found.ratio == pytest.approx(5.0, rel=0.2)


def test_stays_leave_out_short_visits_and_chatter_is_no_stay() -> None:
    stays = stays_of(np.repeat([0, 1, 0, 2, 0], [10, 2, 10, 20, 10]), least=5)
    assert stays.lengths.tolist() == [22, 20, 10]
    assert stays.levels.tolist() == [0, 2, 0]
    assert stays.changes.tolist() == [22, 42]
    assert len(stays_of(np.arange(100) // 2 % 2, least=5).lengths) == 0


@pytest.mark.parametrize("memory", [0.0, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_a_calibration_at_another_operating_point_is_told_with_columns_row_and_distance(
    memory: float, seed: int
) -> None:
    values = wandering(np.random.default_rng(seed), 2_000, 3, memory) * [1.0, 10.0, 0.1] + 50.0
    values[1_500:, 1] += 60.0
    concerns = looked(values)
    assert [(concern.severity, concern.column) for concern in concerns] == [("warning", "c1")]
    assert "from row 1,60" in concerns[0].message
    away = float(concerns[0].message.split(" spreads away in 'c1'")[0].split(", ")[-1])
    assert away == pytest.approx(6.0, abs=1.5)


def test_a_set_point_that_never_moved_and_then_does_is_told() -> None:
    values = np.random.default_rng(0).normal(size=(1_000, 2))
    values[:, 0] = np.where(np.arange(1_000) < 750, 5.0, 6.0)
    concerns = looked(values)
    assert [concern.column for concern in concerns] == ["c0"]
    assert "many spreads away in 'c0'" in concerns[0].message


MOVING: dict[str, Callable[[np.random.Generator, int], FloatArray]] = {
    "counter": lambda rng, n: np.cumsum(rng.gamma(2.0, 1.0, n)),
    "counter that runs down": lambda rng, n: -np.cumsum(rng.exponential(1.0, n)),
    "counter of what a period uses": lambda rng, n: np.cumsum(1.0 + np.sin(np.arange(n) * 40 / n) + rng.random(n)),
    "counter that counts seldom": lambda rng, n: np.cumsum(rng.random(n) < 0.05).astype(np.float64),
    "rising level": lambda rng, n: 2.0 * wandering(rng, n, 1, 0.8)[:, 0] + np.arange(n) * 50.0 / n,
    "rising period": lambda rng, n: np.sin(np.arange(n) * 60 / n) + rng.normal(size=n) / 5 + np.arange(n) * 10.0 / n,
    "stairs": lambda rng, n: np.floor(np.arange(n) * 12 / n) + rng.normal(size=n) / 20,
}


@pytest.mark.parametrize("n", [600, 5_000])
@pytest.mark.parametrize("course", sorted(MOVING))
def test_a_column_that_moves_on_is_told_with_its_name_and_what_to_do(course: str, n: int) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        values = wandering(rng, n, 3, 0.8)
        values[:, 1] = MOVING[course](rng, n)
        warned = [concern for concern in looked(values) if "moves on" in concern.message]
        assert [(concern.severity, concern.column) for concern in warned] == [("warning", "c1")]
        assert warned[0].message.startswith("'c1' moves on, as a counter or a drift does: ")
        assert "of the rows that calibrate lie beyond the range of those that train" in warned[0].message
        assert "leave it out (--drop c1), give its differences" in warned[0].message


def test_one_wild_reading_in_training_hides_no_counter() -> None:
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.random((1_000, 1)), axis=0)
    values[[100, 500]] = [[1e9], [-1e9]]
    assert "'c0' moves on" in looked(values)[0].message


def test_a_counter_set_back_each_day_does_not_move_on() -> None:
    rng = np.random.default_rng(0)
    used = rng.random((2_000, 1))
    values = np.concatenate([np.cumsum(day, axis=0) for day in np.split(used, 20)])
    assert looked(values) == []


def test_many_columns_that_move_on_are_one_sentence_that_names_a_few() -> None:
    values = np.cumsum(np.random.default_rng(0).random((1_000, 7)), axis=0)
    concerns = looked(values)
    assert len(concerns) == 1
    assert " and 4 more move on, " in concerns[0].message
    assert concerns[0].message.count("'c") == concerns[0].message.count("--drop c") == 3
    assert "leave them out" in concerns[0].message


def test_a_counter_of_a_fleet_is_told_once_and_a_single_wanderer_of_many_is_not() -> None:
    rng = np.random.default_rng(3)
    unit = np.repeat(np.arange(30), 400)
    values = np.concatenate([wandering(rng, 400, 3, 0.8) for _ in range(30)])
    values[unit == 7, 2] += np.arange(400) / 20.0
    assert not [concern for concern in looked(values, unit) if concern.severity == "warning"]
    values[:, 1] = np.concatenate([np.cumsum(rng.random(400)) for _ in range(30)])
    concerns = [concern for concern in looked(values, unit) if concern.severity == "warning"]
    assert len(concerns) == 1
    assert concerns[0].message.startswith("'c1' moves on (in 30 of 30 assets), as a counter or a drift does: up to ")


def test_the_share_beyond_counts_on_the_side_that_values_move_to() -> None:
    rising = np.arange(1_000.0)
    assert share_beyond(rising[:700], rising[800:]) == 1.0
    assert share_beyond(rising[:700], rising[660:860]) == pytest.approx(0.5, abs=0.02)
    assert share_beyond(-rising[:700], -rising[800:]) == share_beyond(rising[:700], rising[800:])
    assert share_beyond(rising[:700], rising[:200]) == 0.0
    assert share_beyond(rising[:27], rising[800:]) == 0.0
    assert share_beyond(rising[:700], rising[800:807]) == 0.0
    assert share_beyond(np.zeros(700), np.ones(200)) == 0.0


def test_assets_are_judged_each_by_itself_and_only_mentioned_where_they_differ() -> None:
    rng = np.random.default_rng(4)
    values = np.concatenate([rng.normal(size=(600, 2)) for _ in range(5)])
    unit = np.repeat([10, 11, 12, 13, 14], 600)
    values[unit == 13, 1] += 30.0
    concerns = looked(values, unit)
    assert [(concern.severity, concern.column) for concern in concerns] == [("info", "unit")]
    assert "(the asset of row 1,801), in 'c1'" in concerns[0].message
    values[1_200 + 450 : 1_800, 0] -= 9.0
    warned = looked(values, unit)[0]
    assert (warned.severity, warned.column) == ("warning", "c0")
    assert "(in 1 of 5 assets)" in warned.message
    assert "--by" not in warned.message


def test_of_very_many_assets_some_are_looked_at_and_the_sentence_says_so() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=(250 * 160, 1))
    values[np.arange(len(values)) % 160 >= 120] += 20.0
    concerns = looked(values, np.repeat(np.arange(250), 160))
    assert "(in 84 of 84 assets looked at)" in concerns[0].message


def test_no_sentence_holds_a_value_of_the_data() -> None:
    values = np.random.default_rng(0).normal(size=(1_000, 2)) / 9 + 123_456.0
    values[500:, 0] += 654_321.0
    values[750:, 1] += 7_777.0
    messages = " ".join(concern.message for concern in looked(values, np.repeat([31_337], 1_000))).replace(",", "")
    assert "level" in messages
    assert not [value for value in ("123456", "777777", "131233", "31337") if value in messages]


def test_a_shift_is_measured_in_robust_spreads_and_its_error_grows_with_memory() -> None:
    rng = np.random.default_rng(8)
    noise = rng.normal(size=4_000)
    apart = shift_between(noise[:3_000], noise[3_000:] + 4.0)
    assert apart.spreads == pytest.approx(4.0, abs=0.3)
    assert apart.outside
    assert apart.sure == pytest.approx(4.0 / np.sqrt(np.pi / 2 * (1 / 3_000 + 1 / 1_000)), rel=0.3)
    slow = wandering(rng, 4_000, 1, 0.95)[:, 0]
    expected = np.sqrt((1 + 0.95) / (1 - 0.95))  # of AR(1): n counts as n (1 - memory) / (1 + memory)
    kept = shift_between(slow[:3_000], slow[3_000:] + 4.0)
    assert apart.sure / apart.spreads / (kept.sure / kept.spreads) == pytest.approx(expected, rel=0.35)


def test_the_share_outside_what_training_saw_counts_by_column_what_is_there() -> None:
    columns = [
        Column("a", "numeric", "double", low=0.0, high=1.0),
        Column("b", "numeric", "double", low=-1.0, high=1.0),
        Column("c", "numeric", "double"),
    ]
    nan = np.nan
    values = np.array([[0.0, 2.0, 9.0], [1.0, nan, 9.0], [1.1, nan, 9.0], [-5.0, 0.5, nan]], dtype=np.float32)
    assert outside_share(values, columns).tolist() == [0.5, 0.5, 0.0]
    assert outside_share(np.full((2, 3), nan), columns).tolist() == [0.0, 0.0, 0.0]
    concern = outside_concerns(values, columns)[0]
    assert concern.message.startswith("Up to 50% of the rows lie outside what training has seen, in 'a', 'b';")
    assert outside_concerns(values[:2, [0]], columns[:1]) == []
