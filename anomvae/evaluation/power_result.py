"""What was measured of a detector's power, and what it comes to."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anomvae.errors import SettingError
from anomvae.evaluation.dose_response import Caught, SmallestShift, share_at
from anomvae.evaluation.faults import CATEGORICAL_FAULTS, NUMERIC_FAULTS, SIGNS

MIN_ROWS = 20
"""Fewest rows that faults are injected into: a share of fewer says nothing."""
FEWEST_CHANGED = 10
"""A size or fault that changes fewer of them is not told."""
LARGEST = 16.0
"""Largest shift, standard deviations; metrics give it for a shift that is never caught."""
BLIND_STD = 8.0
"""A column is blind if a shift of so many standard deviations is caught in less than half of the rows."""


@dataclass(frozen=True, slots=True)
class PowerSettings:
    """How power is measured.

    Attributes:
        alarm_rate: Stated share of normal rows that may alarm, at which the verdicts are given.
        rows: Most normal rows that faults are injected into.
        budget_rows: Faulty rows aimed at in all; wide tables get fewer sizes and fewer rows a column, never below 20.
        seed: Seed of every draw.
    """

    alarm_rate: float
    rows: int = 300
    budget_rows: int = 200_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rows < MIN_ROWS:
            raise SettingError(f"rows is {self.rows:,}; shares of fewer than {MIN_ROWS} rows say nothing")
        if self.budget_rows < 1:
            raise SettingError(f"budget_rows is {self.budget_rows:,}; it must be at least 1")


@dataclass(frozen=True, slots=True)
class ShiftPower:
    """How shifts of a column are caught.

    Attributes:
        sizes: Standard deviations, ascending; whole steps where the column has steps.
        caught: At each size.
        up: Of these, those shifted upwards.
        down: Those shifted downwards.
        half: The smallest shift caught half of the time.
        ninety: The smallest shift caught 90 % of the time.
    """

    sizes: tuple[float, ...]
    caught: tuple[Caught, ...]
    up: tuple[Caught, ...]
    down: tuple[Caught, ...]
    half: SmallestShift
    ninety: SmallestShift

    def at(self, size: float, side: str | None = None) -> float:
        """Share caught at a size, from the isotonic curve; of one side where asked; NaN where no row went that way."""
        caught = {"up": self.up, "down": self.down}.get(side or "", self.caught)
        known = [(at, each) for at, each in zip(self.sizes, caught, strict=True) if each.rows]
        return share_at(size, [at for at, _ in known], [each for _, each in known]) if known else math.nan


@dataclass(frozen=True, slots=True)
class ColumnPower:
    """What is noticed of one column.

    Attributes:
        name: The column.
        kind: What it is to the model.
        rows: Rows that faults were injected into; 0 where too few have the cell.
        shift: Shifts; None of categories, and of columns without a spread.
        faults: Other faults by name.
        variants: By fault and way of injecting it (the unit mistaken, up or down, ...).
        partner: The column it was swapped with.
        indistinct: Whether a wrong category raises no more alarms than the untouched row.
    """

    name: str
    kind: str
    rows: int
    shift: ShiftPower | None
    faults: dict[str, Caught]
    variants: dict[str, dict[str, Caught]] = field(default_factory=dict)
    partner: str | None = None
    indistinct: bool = False

    @property
    def is_category(self) -> bool:
        """Whether it holds categories or flags."""
        return self.kind not in ("numeric", "date")

    @property
    def hardness(self) -> tuple[float, float]:
        """Sorts columns, those whose faults are hardest to catch first: by shift, or by wrong category."""
        if self.shift is None:
            return 0.0, self.faults["wrong"].share if "wrong" in self.faults else 0.0
        return -(self.shift.half.size or math.inf), -(self.shift.ninety.size or math.inf)

    def rests_on_few(self, fault: str) -> bool:
        """Whether a fault left more than half of the rows as they were, which then take no part."""
        return fault in self.faults and 2 * self.faults[fault].rows < self.rows

    @property
    def blind(self) -> bool:
        """Whether even a gross fault goes by: a shift of 8 standard deviations, or a wrong category."""
        if self.shift is not None:
            return self.shift.at(BLIND_STD) < 0.5  # noqa: PLR2004  half of the rows
        return self.indistinct

    @property
    def blind_side(self) -> str | None:
        """`up` or `down`: the direction in which a shift of 8 standard deviations goes by, of a column not blind to both."""
        if self.shift is None or self.blind:
            return None
        return next((side for side in SIGNS if self.shift.at(BLIND_STD, side) < 0.5), None)  # noqa: PLR2004


@dataclass(frozen=True, slots=True)
class PowerResult:
    """What a detector notices, column by column.

    Attributes:
        settings: How it was measured.
        rows: Normal rows that faults were injected into.
        faulty_rows: Faulty rows made and answered.
        untouched: Alarms of the rows as they were.
        columns: In the table's order.
    """

    settings: PowerSettings
    rows: int
    faulty_rows: int
    untouched: Caught
    columns: tuple[ColumnPower, ...]

    @property
    def flattered(self) -> bool:
        """Whether the untouched rows alarm more often than stated, beyond chance: every share is then too high."""
        return self.untouched.interval[0] > self.settings.alarm_rate

    @property
    def blind(self) -> tuple[str, ...]:
        """Names of the blind columns."""
        return tuple(column.name for column in self.columns if column.blind)

    @property
    def numbers(self) -> list[ColumnPower]:
        """Columns of numbers and dates that were measured, hardest to catch first."""
        return sorted(
            (each for each in self.columns if each.rows and not each.is_category), key=lambda each: each.hardness
        )

    @property
    def categories(self) -> list[ColumnPower]:
        """Columns of categories and flags that were measured, hardest to catch first."""
        return sorted((each for each in self.columns if each.rows and each.is_category), key=lambda each: each.hardness)

    @property
    def faults(self) -> tuple[str, ...]:
        """Faults other than shifts that were injected somewhere."""
        injected = {fault for column in self.columns for fault in column.faults}
        return tuple(fault for fault in dict.fromkeys(NUMERIC_FAULTS + CATEGORICAL_FAULTS) if fault in injected)

    @property
    def has_few(self) -> bool:
        """Whether a share rests on fewer than half of the rows of its column."""
        return any(column.rests_on_few(fault) for column in self.columns for fault in column.faults)

    def median_shift(self, which: str) -> float | None:
        """Median over columns of the smallest shift caught: `half` or `ninety`; 16 stands for one never caught.

        None without columns of numbers.
        """
        sizes = [getattr(column.shift, which).size for column in self.columns if column.shift is not None]
        known = [LARGEST if size is None else min(size, LARGEST) for size in sizes]
        return float(statistics.median(known)) if known else None

    def mean_caught(self, fault: str) -> float | None:
        """Mean over columns of the share caught of a fault; None where it was injected nowhere."""
        shares = [column.faults[fault].share for column in self.columns if fault in column.faults]
        return float(np.mean(shares)) if shares else None

    def as_metrics(self) -> dict[str, float]:
        """A few finite numbers by name, for tracking and gates.

        `power_shift_half_median` and `power_shift_90_median` are medians over columns in standard deviations, where 16 stands
        for a shift never caught so often; `power_caught_...` are means over columns; `power_blind_columns` is a count.
        """
        found = {
            "power_rows": float(self.rows),
            "power_alarm_rate": self.settings.alarm_rate,
            "power_untouched_alarms": self.untouched.share,
            "power_blind_columns": float(len(self.blind)),
        }
        medians = {"power_shift_half_median": "half", "power_shift_90_median": "ninety"}
        optional = {name: self.median_shift(which) for name, which in medians.items()}
        for fault in dict.fromkeys(NUMERIC_FAULTS + CATEGORICAL_FAULTS):
            optional[f"power_caught_{fault}"] = self.mean_caught(fault)
        return found | {name: value for name, value in optional.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON has it; None where nothing is known or no measured size is enough."""
        return {
            "alarm_rate": self.settings.alarm_rate,
            "seed": self.settings.seed,
            "rows": self.rows,
            "faulty_rows": self.faulty_rows,
            "untouched": _caught(self.untouched),
            "flattered": self.flattered,
            "blind_columns": list(self.blind),
            "blind_std": BLIND_STD,
            "metrics": self.as_metrics(),
            "columns": [_column(column) for column in self.columns],
        }


def _caught(caught: Caught) -> dict[str, float | int | None]:
    low, high = caught.interval
    return {
        "hits": caught.hits,
        "rows": caught.rows,
        "share": caught.share if caught.rows else None,
        "low": low,
        "high": high,
    }


def _column(column: ColumnPower) -> dict[str, Any]:
    shift = column.shift
    return {
        "name": column.name,
        "kind": column.kind,
        "rows": column.rows,
        "blind": column.blind,
        "blind_side": column.blind_side,
        "shift": None if shift is None else _shift(shift),
        "faults": {
            fault: _caught(caught)
            | (
                {"by": {name: _caught(each) for name, each in column.variants[fault].items()}}
                if fault in column.variants
                else {}
            )
            for fault, caught in column.faults.items()
        },
        "swapped_with": column.partner,
    }


def _shift(shift: ShiftPower) -> dict[str, Any]:
    return {
        "caught_half_of_the_time": _smallest(shift.half),
        "caught_90_percent_of_the_time": _smallest(shift.ninety),
        "sizes": [
            {"std": size, **_caught(caught), "up": _caught(up), "down": _caught(down)}
            for size, caught, up, down in zip(shift.sizes, shift.caught, shift.up, shift.down, strict=True)
        ],
    }


def _smallest(found: SmallestShift) -> dict[str, float | None]:
    return {"std": found.size, "low": found.low, "high": found.high}
