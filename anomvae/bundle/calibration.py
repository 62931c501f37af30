"""What p-values and verdicts rest on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from anomvae.bundle.columns import Column


@dataclass(frozen=True, slots=True)
class GroupCalibration:
    """A group with a calibration table of its own.

    Attributes:
        name: Value of the group's column, as text.
        rows: Calibration rows of the group.
        score_threshold: Scores above it alarm at the stated rate, nats; of series, spreads of normal steps.
        reconstruction_threshold: The same for the reconstruction error.
        effective_rows: Independent rows that those are worth, where they were taken in order of time; None: they were not.
        block: Rows in a row to resample together, likewise.
    """

    name: str
    rows: int
    score_threshold: float
    reconstruction_threshold: float
    effective_rows: int | None = None
    block: int | None = None


@dataclass(frozen=True, slots=True)
class TailRecord:
    """A generalised Pareto tail of one score's calibration rows.

    Attributes:
        threshold: Where it begins, in the score's units.
        scale: In the score's units; 0 where none could be fitted: too few different scores lie above.
        shape: Above 0 heavier than exponential, below lighter.
        exceedances: Calibration scores above the threshold, that it was fitted on.
        ks: Kolmogorov-Smirnov distance between those and the fit; None where none could be fitted.
        ks_p: Its p-value; small where the fit is bad.
    """

    threshold: float
    scale: float
    shape: float
    exceedances: int
    ks: float | None
    ks_p: float | None


@dataclass(frozen=True, slots=True)
class Recalibration:
    """Rows that a detector was calibrated on again, after its fit.

    Attributes:
        data: Where they came from, as the user named it.
        digest: Digest of the rows, `sha256:...`.
        rows: Rows read.
        created: ISO instant, UTC.
    """

    data: str
    digest: str
    rows: int
    created: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the p-values and the verdict rest on.

    Attributes:
        method: `split`: rows that no fit has seen; `cross`: every row, scored by a network that has not seen it.
        rows: Number of calibration rows, m; with groups of all of them.
        alarm_rate: Stated share of normal rows that may alarm, the graph's default.
        smallest_alarm_rate: Smallest rate these rows support, in every group that has a table of its own; by a tail where
            there is one.
        decision: Which p-value gives the verdict: `elbo`, `reconstruction` or `both`.
        score_threshold: Scores above it alarm at the stated rate, in the same unit; of the pooled table.
        reconstruction_threshold: The same for the reconstruction error. Where both give the verdict, either alarms.
        confidence: With this probability over the draw of the calibration rows the rate holds for these very rows; None:
            it holds on average over calibration sets.
        alarms_per_day: The budget as it was stated, where it was stated so.
        rows_per_day: Likewise.
        folds: Networks that scored rows they had not seen; 0 for `split`.
        by: Column whose groups have tables of their own; None without.
        by_type: Arrow type of that column's cells, by which they are read as text.
        groups: Those groups, in the order of the graph's input `group`; the number after the last means all others.
        groups_pooled: Groups of the calibration rows with too few rows for a table of their own.
        tail: Tails of the score and of the reconstruction error; None: no rate below 1 / (m + 1) is supported.
        recalibrated: The rows, where they are not the fit's own; None at a fit.
        effective_rows: Independent rows that the pooled table's are worth, where they were taken in order of time; None: they
            were not, and count as they are.
        block: Rows in a row to resample together, likewise.
    """

    method: Literal["split", "cross"]
    rows: int
    alarm_rate: float
    smallest_alarm_rate: float
    decision: Literal["elbo", "reconstruction", "both", "either"]
    score_threshold: float
    reconstruction_threshold: float
    confidence: float | None = None
    alarms_per_day: float | None = None
    rows_per_day: float | None = None
    folds: int = 0
    by: str | None = None
    by_type: str = "string"
    groups: tuple[GroupCalibration, ...] = ()
    groups_pooled: int = 0
    tail: tuple[TailRecord, TailRecord] | None = None
    recalibrated: Recalibration | None = None
    effective_rows: int | None = None
    block: int | None = None

    @property
    def group_column(self) -> Column | None:
        """The column of the groups, coded as the graph's input `group`: its unknown code means the pooled table."""
        if self.by is None or not self.groups:
            return None
        return Column(self.by, "categorical", self.by_type, tuple(group.name for group in self.groups))

    @classmethod
    def from_raw(cls, raw: dict[str, Any]) -> Calibration:
        """From what JSON holds; raises what constructors raise on other things."""
        found = dict(raw)
        found["groups"] = tuple(GroupCalibration(**group) for group in found.get("groups", ()))
        if found.get("tail") is not None:
            score, reconstruction = (TailRecord(**tail) for tail in found["tail"])
            found["tail"] = (score, reconstruction)
        if found.get("recalibrated") is not None:
            found["recalibrated"] = Recalibration(**found["recalibrated"])
        if found["decision"] == "either":  # of format 1: each score at half the rate
            found["smallest_alarm_rate"] = 2.0 * found["smallest_alarm_rate"]
        return cls(**found)
