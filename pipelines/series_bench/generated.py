"""Three kinds of series made by a program, a guard against tuning to two public ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Bools = npt.NDArray[np.bool_]

BEGIN = pd.Timestamp("2024-01-01")
LEAD_IN = 150
"""Steps at both ends of test rows that hold no anomaly."""


def beats() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Six records of two channels at 100 Hz, quasi-periodic beats with odd ones in the test rows."""
    rng = np.random.default_rng(101)
    parts = []
    for record in range(6):
        beat = _Beat(
            rng.uniform(0.7, 1.0, 2), rng.uniform(0.15, 0.35, 2), rng.choice([-1.0, 1.0], 2), rng.uniform(65.0, 95.0)
        )
        parts += [
            _record(f"record {record}", rng, beat, steps=3_000, odd=0),
            _record(f"record {record}", rng, beat, steps=4_000, odd=7),
        ]
    return _joined(parts, 0.01)


def servers() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Four servers of 18 channels at five minutes: a daily course and three loads that the channels share; then faults."""
    rng = np.random.default_rng(102)
    weights = rng.normal(size=(3, 18)) * (rng.random((3, 18)) < 0.7)  # noqa: PLR2004  a share
    parts = []
    for server in range(4):
        own = weights * rng.uniform(0.8, 1.2, (3, 18))
        level, scale = rng.uniform(10.0, 60.0, 18), rng.uniform(1.0, 8.0, 18)
        for steps, faults in ((2_500, 0), (2_500, 8)):
            loads = np.stack([_autoregressive(rng, steps, 0.97) for _ in range(3)], axis=1)
            loads[:, 0] += 1.5 * np.sin(2 * np.pi * np.arange(steps) / 288.0 + server)
            wander = np.stack([_autoregressive(rng, steps, 0.8) for _ in range(18)], axis=1)
            values, bad = loads @ own + 0.4 * wander, np.zeros(steps, dtype=bool)
            for place, length in _places(rng, steps, faults, 40, 120):
                bad[place : place + length] = True
                _break(rng, values, slice(place, place + length), own)
            parts.append(_frame(f"server {server}", level + scale * values, bad, test=faults > 0))
    return _joined(parts, 300.0)


def plant() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Four units of a plant of 8 channels a minute, which follow their past and drift slowly; then levels shift."""
    rng = np.random.default_rng(103)
    parts = []
    for unit in range(4):
        mix = np.eye(8) + 0.5 * np.roll(np.eye(8), 1, axis=1)
        level = rng.uniform(20.0, 80.0, 8)
        direction = rng.normal(size=8)
        noise = np.stack([_autoregressive(rng, 6_000, phi) for phi in rng.uniform(0.5, 0.95, 8)], axis=1) @ mix
        values = noise + direction * np.linspace(0.0, 1.5, 6_000)[:, None]
        bad = np.zeros(6_000, dtype=bool)
        for place, length in _places(rng, 3_000, 8, 30, 150):
            where, some = slice(3_000 + place, 3_000 + place + length), rng.permutation(8)[: rng.integers(1, 4)]
            values[where, some] += rng.choice([-1.0, 1.0], len(some)) * rng.uniform(1.5, 3.0, len(some))
            bad[where] = True
        rows = level + 2.0 * values
        parts += [
            _frame(f"unit {unit}", rows[:3_000], bad[:3_000], test=False),
            _frame(f"unit {unit}", rows[3_000:], bad[3_000:], test=True),
        ]
    return _joined(parts, 60.0)


@dataclass(frozen=True, slots=True)
class Generator:
    """A data set that is made.

    Attributes:
        make: Gives training and test rows, the same on every machine.
        alarms_per_day: Budget of alarm events per asset and day.
        about: What it is, for the page.
    """

    make: Callable[[], tuple[pd.DataFrame, pd.DataFrame]]
    alarms_per_day: float
    about: str


GENERATED: dict[str, Generator] = {
    "beats": Generator(
        beats,
        1_440.0,
        "Records of two channels with quasi-periodic beats at 100 Hz; odd beats are left out, come early, are wide, or upside down.",
    ),
    "servers": Generator(
        servers,
        0.2,
        "Servers of 18 channels that share three loads and a daily course, a step every five minutes. Groups of channels lose the shared load; channels "
        "are stuck, shift, or climb.",
    ),
    "plant": Generator(
        plant,
        1.0,
        "Units of 8 autoregressive channels a minute, which drift slowly, normal rows too; levels shift.",
    ),
}


@dataclass(frozen=True, slots=True)
class _Beat:
    """Heights of a beat's two waves, its sign, each of shape ``(2,)``, and the usual steps between beats."""

    peak: Floats
    slow: Floats
    sign: Floats
    usual: float


def _record(name: str, rng: np.random.Generator, beat: _Beat, *, steps: int, odd: int) -> pd.DataFrame:
    usual = beat.usual
    clock = np.arange(steps)
    values = 0.15 * np.stack([_autoregressive(rng, steps, 0.995) for _ in range(2)], axis=1)
    values += 0.03 * rng.normal(size=(steps, 2))
    bad = np.zeros(steps, dtype=bool)
    begins = np.cumsum(usual * (1 + 0.04 * rng.normal(size=2 * steps // int(usual))))
    begins = begins[begins < steps]
    inner = np.flatnonzero((begins > LEAD_IN) & (begins < steps - LEAD_IN))
    strange = dict.fromkeys(rng.permutation(inner[::4])[:odd].tolist())
    for number, begin in enumerate(begins):
        kind = int(rng.integers(4)) if number in strange else -1
        at, width, flip = begin, 3.0, 1.0
        if kind == 1:
            at = begin - 0.3 * usual
        elif kind == 2:  # noqa: PLR2004  one of four
            width = 9.0
        elif kind == 3:  # noqa: PLR2004
            flip = -1.0
        if kind:
            wave = beat.peak * np.exp(-0.5 * ((clock[:, None] - at) / width) ** 2)
            after = beat.slow * np.exp(-0.5 * ((clock[:, None] - at - 0.35 * usual) / 9.0) ** 2)
            values += beat.sign * flip * (wave + after)
        if kind >= 0:
            bad[int(min(at, begin) - 0.15 * usual) : int(begin + 0.5 * usual)] = True
    return _frame(name, values, bad, test=odd > 0)


def _break(rng: np.random.Generator, values: Floats, where: slice, weights: Floats) -> None:
    """One of four faults, in place."""
    n, channel = where.stop - where.start, int(rng.integers(values.shape[1]))
    way = int(rng.integers(4))
    if way == 0:
        group = rng.permutation(values.shape[1])[:5]
        other = np.stack([_autoregressive(rng, n, 0.97) for _ in range(3)], axis=1)
        values[where, group] = (other @ weights)[:, group] + 0.4 * rng.normal(size=(n, 5))
    elif way == 1:
        values[where, channel] = values[where.start, channel]
    elif way == 2:  # noqa: PLR2004  one of four
        values[where, channel] += rng.choice([-1.0, 1.0]) * rng.uniform(2.0, 4.0)
    else:
        values[where, channel] += rng.choice([-1.0, 1.0]) * np.linspace(0.0, rng.uniform(3.0, 6.0), n)


def _places(rng: np.random.Generator, steps: int, count: int, least: int, most: int) -> list[tuple[int, int]]:
    """Begins and lengths of anomalies, one in each of so many equal parts of the steps between the lead-ins."""
    if not count:
        return []
    room = (steps - 2 * LEAD_IN) // count
    lengths = rng.integers(least, most, count)
    return [
        (LEAD_IN + part * room + int(rng.integers(max(1, room - length))), int(length))
        for part, length in enumerate(lengths)
    ]


def _autoregressive(rng: np.random.Generator, steps: int, phi: float) -> Floats:
    """An AR(1) process of variance 1 in its stationary course."""
    from scipy.signal import lfilter

    warm = int(10 / (1 - phi))
    noise = rng.normal(size=steps + warm) * np.sqrt(1 - phi**2)
    found: Floats = lfilter([1.0], [1.0, -phi], noise)[warm:]
    return found


def _frame(asset: str, values: Floats, bad: Bools, *, test: bool) -> pd.DataFrame:
    columns = {f"c{j:02}": values[:, j] for j in range(values.shape[1])}
    return pd.DataFrame({"asset": asset, **columns, "label": bad, "test": test})


def _joined(parts: list[pd.DataFrame], step_s: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and test rows; those of an asset follow one another."""
    rows = pd.concat(parts, ignore_index=True)
    rows["time"] = BEGIN + pd.to_timedelta(rows.groupby("asset").cumcount() * step_s, unit="s")
    test = rows.pop("test")
    return rows[~test].drop(columns="label").reset_index(drop=True), rows[test].reset_index(drop=True)
