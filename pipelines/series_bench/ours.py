"""Our own detector as users get it in Python: fitted on a frame, asked for batch and online answers."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

import anomvae
from anomvae.errors import TooFewRowsError
from pipelines.series_bench.sources import ASSET, TIME, WINDOW

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import pandas as pd

    from pipelines.series_bench.sources import Dataset

DEFAULT = "anomvae"
OURS: dict[str, Mapping[str, Any]] = {
    DEFAULT: {},
    "anomvae rows": {"members": "row"},
    "anomvae windows": {"members": "window"},
}
"""Keywords of `anomvae.fit` by method."""
RATES = (0.05, 0.01)
"""Stated shares of normal rows that may alarm."""
HIGHER_RATES = (0.1, 0.2)
"""For training rows too few for those; scores do not depend on the rate."""


class Fitted(Protocol):
    """What is asked of a detector."""

    def score(self, rows: pd.DataFrame, *, past_only: bool, alarm_rate: float | None = None) -> pd.DataFrame:
        """A row per row: `score`, null where there is none, and `alarm`."""
        ...


class Answers(NamedTuple):
    """What a detector says of n rows.

    Attributes:
        score: NaN where there is none, shape ``(n,)``.
        alarm: Verdicts, shape ``(n,)``.
    """

    score: npt.NDArray[np.float64]
    alarm: npt.NDArray[np.bool_]


def fit(data: Dataset, settings: Mapping[str, Any], seed: int) -> Fitted:
    """Fits our detector on the training rows of a data set, at the first alarm rate they support.

    Raises:
        AnomvaeError: The rows cannot be learnt from.
    """
    *rates, last = (*sorted(RATES), *HIGHER_RATES)
    for rate in rates:
        with suppress(TooFewRowsError):
            return _fit(data, {**settings, "alarm_rate": rate}, seed)
    return _fit(data, {**settings, "alarm_rate": last}, seed)


def _fit(data: Dataset, settings: Mapping[str, Any], seed: int) -> Fitted:
    found: Fitted = anomvae.fit(data.train, time=TIME, by=ASSET, window=WINDOW, seed=seed, **settings)
    return found


def answers_by_rate(detector: Fitted, data: Dataset, *, past_only: bool) -> dict[float, Answers]:
    """Scores and verdicts of the rows of a data set at each stated rate that the training rows support.

    Args:
        detector: Fitted.
        data: The rows.
        past_only: Whether each row is judged by its past alone.

    Returns:
        By rate; one higher than `RATES` where none of them is supported, since the scores are wanted anyway.
    """
    found: dict[float, Answers] = {}
    for rate in (*RATES, *HIGHER_RATES):
        if found and rate in HIGHER_RATES:
            break
        with suppress(TooFewRowsError):
            told = detector.score(data.scored, past_only=past_only, alarm_rate=rate)
            score, alarm = told["score"].to_numpy(np.float64, na_value=np.nan), told["alarm"].to_numpy(np.bool_)
            found[rate] = Answers(score, alarm)
    return found
