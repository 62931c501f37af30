"""A made-up press with a column of every kind, and detectors fitted on it in moments."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from anomvae.fitting import FitSettings, fit_bundle
from anomvae.training.settings import TrainingSettings

if TYPE_CHECKING:
    from pathlib import Path

    from anomvae.bundle import Bundle

NAME = "press"
TRAINING_ROWS = 500
STEPS = 150
MISSING = 0.05
_FIRST_DAY = dt.datetime(2024, 1, 1)  # noqa: DTZ001  a column of dates without a zone


def press_table(n_rows: int, seed: int) -> pa.Table:
    """Rows of a press: an id, numbers with gaps, a date, a flag, two categories.

    Args:
        n_rows: How many.
        seed: Of the draw.
    """
    draw = np.random.default_rng(seed)
    load = draw.normal(size=n_rows)
    pressure = 2.5e5 + 3e4 * load + 2e3 * draw.normal(size=n_rows)
    pressure[draw.random(n_rows) < MISSING] = np.nan
    material = np.array(["steel", "brass", "alloy"])[draw.integers(0, 3, n_rows)].astype(object)
    material[draw.random(n_rows) < MISSING] = None
    days = np.clip(draw.uniform(0, 300, n_rows) + 5 * load, 0, None)
    days[0] = 0.0  # every version counts from the same day, so that callers may send days and codes
    return pa.table(
        {
            "part": [f"P{seed}-{number}" for number in range(n_rows)],
            "temperature": 60 + 8 * load + draw.normal(size=n_rows),
            "pressure": pa.array(pressure, from_pandas=True),
            "vibration": np.exp(draw.normal(size=n_rows) * 0.4 + 0.2 * load),
            "cooling": load + 0.3 * draw.normal(size=n_rows) > 0,
            "material": pa.array(material.tolist(), pa.string()),
            "oiled": pa.array(
                [_FIRST_DAY + dt.timedelta(days=day) for day in days.round().tolist()], pa.timestamp("s")
            ),
        }
    )


def fit_press(folder: Path, seed: int) -> Bundle:
    """A detector of the press; another seed gives another detector of the same columns and categories.

    Args:
        folder: Of the bundle.
        seed: Of data and training.
    """
    training = TrainingSettings(max_steps=STEPS, seed=seed)
    settings = FitSettings(name=NAME, training=training, alarm_rate=0.05, columns={"oiled": "date"})
    return fit_bundle(press_table(TRAINING_ROWS, seed), settings, folder).bundle
