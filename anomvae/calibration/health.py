"""Whether the calibration is still to be trusted: a test of every row so far that never has to stop."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from anomvae.calibration.conformal import p_values as conformal_p_values
from anomvae.errors import DataFileError, RowError, SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomvae.calibration.conformal import FloatArray

    Array = npt.NDArray[np.float64]

Direction = Literal["stranger", "more normal", "more alike"]

SLOPES = (0.15, 0.5, 0.9)
"""Of the bets on shifts; best for shifts of the mean score of about 0.1, 0.3 and 0.5 standard deviations or more."""
TAILS = (0.05, 0.01)
"""Bets on more alarms: p-values up to these count double."""
MIDDLE = 0.4
"""Size of the bet on p-values around one half, best where the spread of scores has halved."""
DIRECTIONS: tuple[Direction, ...] = ("stranger",) * 5 + ("more normal",) * 3 + ("more alike",)
STRANGER = DIRECTIONS.count("stranger")
BLOCK = 1024


class CalibrationHealth:
    r"""Tests, row by row and for as long as rows come, that they are distributed as the calibration rows are.

    The calibration rows are m rows, not their distribution, and a day of service would tell the two apart. The test therefore
    rests on how p-values that share one calibration set depend on one another: given those of the rows before, the next
    p-value falls on each of its m + 1 levels with a probability in proportion to 1 + the rows that fell there before, a
    Pólya urn. A bet on a row is a function g of its p-value, held against its mean over calibration rows and earlier rows:

    .. math:: e_t = g(p_t) \Big/ \frac{g_{\max} + \sum_j g(p(c_j)) + \sum_{s < t} g(p_s)}{m + 1 + t - 1},
        \qquad M_t = (M_{t-1} + w_t) \, e_t

    M is what bets that began at any row so far have made of their stakes; the stakes :math:`w_t`, of about
    :math:`1 / (t \ln^2 t)`, sum to 1, so a change after t quiet rows costs ln t nats more, not the losses of a month. The
    mean of M over all bets, with the stakes not yet placed, is the evidence, an e-value at any time: it exceeds 1 / `error`
    *ever* with a probability of at most `error`, over the draw of the calibration rows and of all rows to come (Ville). Why
    this guarantee, and no average run length: it costs no more than a run length as long as the service.

    Quiet rows sharpen it: after a year, changes are found that the calibration rows alone could not show. A shift that is there
    from the first row and too small for m rows to show is taken for normal with time.

    It tests all rows it is given, anomalies too. A row raises the evidence about twofold at most, so a few anomalies are
    borne and a lasting rise is not. Rows are taken to be independent: neighbours that resemble one another, and faults that
    last for 20 rows, count for more than they should. `every` thins them out.

    Without ties among scores the guarantee is a theorem. With ties it has held in every simulation and in small cases counted
    out; p-values then lie nearer to 1, "too normal" to who does not know the ties. So without the calibration rows' p-values, it tests for stranger rows alone. P-values
    of tables of different groups do not go together: a test for each.

    Args:
        calibration_rows: m.
        calibration_p_values: P-values of the calibration rows themselves, among themselves, shape ``(m,)``: ties show in
            them. None: tests for stranger rows alone. :meth:`of` finds them. Any other rows can stand in for the
            calibration rows, with their number in the place of m: the first thousand of service, where those of the
            calibration were scored by networks that had seen less (`cross`).
        error: Largest probability, over all time, that rows like the calibration rows lose the trust.
        every: Of so many rows in a row one is tested.

    Raises:
        SettingError: `error` is no probability, `every` below 1, or there are no calibration rows.
        RowError: A p-value of the calibration rows is none.

    References:
        The Pólya urn: Transductive conformal inference with adaptive scores (Gazin et al., 2024), arXiv:2310.18108.
        Betting: Testing randomness online (Vovk, 2021), arXiv:1906.09256.
        Start times: E-detectors (Shin et al., 2022), arXiv:2203.03532.

    Example:
        >>> health = CalibrationHealth(99)
        >>> health.update(np.full(30, 0.01))
        >>> health.is_trusted, health.direction
        (False, 'stranger')
    """

    def __init__(
        self,
        calibration_rows: int,
        *,
        calibration_p_values: FloatArray | None = None,
        error: float = 0.01,
        every: int = 1,
    ) -> None:
        if not 0.0 < error < 1.0:
            raise SettingError(f"the error is {error:g}; it is a probability, above 0 and below 1")
        if every < 1:
            raise SettingError(f"`every` is {every}; of every 1 row, or more, one is tested")
        if calibration_rows < 1:
            raise SettingError("without calibration rows there is nothing to hold rows against")
        if calibration_p_values is not None and len(calibration_p_values) != calibration_rows:
            raise SettingError(
                f"{calibration_rows:,} calibration rows have as many p-values, not {len(calibration_p_values):,}"
            )
        self.calibration_rows, self.error, self.every = calibration_rows, error, every
        self._bets = STRANGER if calibration_p_values is None else len(DIRECTIONS)
        self._rows = self._untested = 0
        levels = np.arange(1.0, calibration_rows + 2) / (calibration_rows + 1)
        own = levels[1:] if calibration_p_values is None else _checked(calibration_p_values)
        self._sums = self._gains(own).sum(axis=1) + self._gains(levels).max(axis=1)
        self._log_wealth = np.full(self._bets, -np.inf)
        self._log_evidence = self._highest = 0.0
        self._direction: Direction | None = None

    @classmethod
    def of(cls, calibration: FloatArray, *, error: float = 0.01, every: int = 1) -> CalibrationHealth:
        """The test for calibration scores, any order, shape ``(m,)``; it knows their ties and looks in all directions."""
        own = conformal_p_values(calibration, calibration)
        return cls(len(own), calibration_p_values=own, error=error, every=every)

    @property
    def rows(self) -> int:
        """Rows tested so far."""
        return self._rows

    @property
    def log_evidence(self) -> float:
        """Log10 of the e-value now: 0 says nothing, 2 that such rows were a chance of 1 in 100, below 0 that all is well."""
        return self._log_evidence / math.log(10.0)

    @property
    def highest_log_evidence(self) -> float:
        """The highest so far, not below 0; 10 to the minus this is a p-value valid at any time."""
        return self._highest / math.log(10.0)

    @property
    def is_trusted(self) -> bool:
        """Whether the e-value has stayed below 1 / `error`. Lost trust does not come back: calibrate again, or start afresh."""
        return self._highest < -math.log(self.error)

    @property
    def direction(self) -> Direction | None:
        """How rows differed when the trust was lost: `more alike` as of a stuck sensor; None while it is not lost."""
        return self._direction

    def update(self, p_values: FloatArray) -> None:
        """Takes note of rows, in the order they came; in which pieces makes no difference but rounding.

        Args:
            p_values: As the detector gives them, above 0 up to 1, shape ``(n,)``; n may be 0. Below 1 / (m + 1), where only
                a fitted tail goes, one is as good as the other.

        Raises:
            RowError: A p-value is none; nothing is noted then.
        """
        offered = _checked(p_values)
        checked = offered[self._untested :: self.every]
        self._untested = (self._untested - len(offered)) % self.every
        for start in range(0, len(checked), BLOCK):
            self._update_block(checked[start : start + BLOCK])

    def state(self) -> dict[str, Any]:
        """All there is to know, to go on from later: numbers that JSON can hold, of a size that rows do not change."""
        return {
            "calibration_rows": self.calibration_rows,
            "error": self.error,
            "every": self.every,
            "rows": self._rows,
            "untested": self._untested,
            "sums": self._sums.tolist(),
            "log_wealth": [wealth if math.isfinite(wealth) else None for wealth in self._log_wealth.tolist()],
            "log_evidence": self._log_evidence,
            "highest": self._highest,
            "direction": self._direction,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> CalibrationHealth:
        """Goes on from :meth:`state`.

        Raises:
            DataFileError: It is damaged, or another version's.
        """
        try:
            health = cls(int(state["calibration_rows"]), error=float(state["error"]), every=int(state["every"]))
            sums = np.array(state["sums"], dtype=np.float64)
            wealth = [-math.inf if entry is None else float(entry) for entry in state["log_wealth"]]
            evidence, highest = float(state["log_evidence"]), float(state["highest"])
            rows, untested, direction = int(state["rows"]), int(state["untested"]), state["direction"]
        except (KeyError, TypeError, ValueError, OverflowError, SettingError) as error:
            raise DataFileError("the state of the calibration's health is damaged: start it afresh") from error
        whole = sums.shape == (len(wealth),) and len(wealth) in (STRANGER, len(DIRECTIONS)) and min(rows, untested) >= 0
        sound = (
            bool((sums > 0).all() and np.isfinite(sums).all()) and math.isfinite(evidence) and math.isfinite(highest)
        )
        if not (whole and sound and direction in {None, *DIRECTIONS} and not any(math.isnan(w) for w in wealth)):
            raise DataFileError("the state of the calibration's health is damaged: start it afresh")
        health._bets, health._rows, health._untested, health._sums = len(wealth), rows, untested, sums
        health._log_wealth, health._log_evidence, health._highest = np.array(wealth), evidence, highest
        health._direction = direction
        return health

    def _gains(self, p: Array) -> Array:
        """What each bet pays at p-values, before it is held against its mean; shape ``(bets, n)``."""
        gains = np.empty((self._bets, len(p)))
        smallest = 1.0 / (self.calibration_rows + 1)
        tilt = 1.0 - 2.0 * np.maximum(p, smallest)
        slopes = np.array(SLOPES)[:, None]
        gains[:3] = 1.0 + slopes * tilt
        for row, tail in enumerate(TAILS, start=3):
            gains[row] = 1.0 + (p <= max(tail, smallest) * (1.0 + 1e-6))  # multiples of 1 / (m + 1), maybe in float32
        if self._bets > STRANGER:
            gains[5:8] = 1.0 - slopes * tilt
            gains[8] = 1.0 + MIDDLE * (1.0 - 3.0 * tilt**2)
        return gains

    def _update_block(self, p: Array) -> None:
        gains = self._gains(p)
        sums = self._sums[:, None] + np.cumsum(gains, axis=1)
        seen = self.calibration_rows + 1.0 + self._rows + np.arange(len(p))
        growth = np.log(gains * seen / (sums - gains))
        total = np.cumsum(growth, axis=1)
        number = self._rows + np.arange(1.0, len(p) + 1)
        begun = np.concatenate([self._log_wealth[:, None], _log_stakes(number) - (total - growth)], axis=1)
        wealth = total + np.logaddexp.accumulate(begun, axis=1)[:, 1:]
        evidence = np.logaddexp(_log_sum(wealth) - math.log(self._bets), -np.log(2.0 + np.log(number)))
        self._direction = self._direction or self._lost(wealth, evidence)
        self._rows += len(p)
        self._sums, self._log_wealth, self._log_evidence = sums[:, -1], wealth[:, -1], float(evidence[-1])
        self._highest = max(self._highest, float(evidence.max()))

    def _lost(self, wealth: Array, evidence: Array) -> Direction | None:
        """How rows differ where the evidence first reaches 1 / `error`."""
        reached = np.flatnonzero(evidence >= -math.log(self.error))
        return DIRECTIONS[int(wealth[:, reached[0]].argmax())] if len(reached) else None


def _log_stakes(number: Array) -> Array:
    """Log of the stake on a bet that begins at a row; rows count from 1. After row t, 1 / (2 + ln t) is not yet placed."""
    before = np.maximum(number - 1.0, 1.0)
    placed = -np.log1p(-1.0 / np.maximum(number, 2.0)) / ((2.0 + np.log(before)) * (2.0 + np.log(number)))
    return np.log(np.where(number > 1.0, placed, 0.5))


def _log_sum(logs: Array) -> Array:
    """Log of the sum of exponentials over the first axis."""
    highest = logs.max(axis=0)
    sums: Array = highest + np.log(np.exp(logs - highest).sum(axis=0))
    return sums


def _checked(p_values: FloatArray) -> Array:
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1:
        raise RowError(f"p-values come as a list, one a row; these have {p.ndim} dimensions")
    wrong = ~((p > 0.0) & (p <= 1.0))
    if wrong.any():
        raise RowError(
            f"{int(wrong.sum()):,} of {len(p):,} p-values, the first of row {int(wrong.argmax()) + 1:,}, are not above 0 "
            "and up to 1; give the p-values that the detector gave"
        )
    return p
