"""Calibration rows, and those of one table: how many independent ones they are worth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from anomvae.calibration.blocks import Dependence, rows_in_series
from anomvae.errors import TooFewRowsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from anomvae.calibration.conformal import FloatArray


@dataclass(frozen=True, slots=True)
class CalibrationRows:
    """Scores of normal rows that the scoring network has not seen.

    Attributes:
        score: Shape ``(m,)``.
        reconstruction: Reconstruction errors in the same order, shape ``(m,)``.
        group: Name of each row's group, shape ``(m,)``; None without groups; None or empty names belong to none.
        by_type: Arrow type of the groups' column.
        smallest_group: Fewest rows of a group that may be named; more than one hides what groups of few rows hold.
        segment: Number of each row's segment of a series, whose rows stand in order of time, shape ``(m,)``; a group's rows
            may lie in many segments. None: rows depend on no neighbours.
        memory: Autocorrelation time of such scores, in rows, even where the data have none: what is averaged over many steps
            varies slowly, which segments not much longer cannot show.
    """

    score: FloatArray
    reconstruction: FloatArray
    group: Sequence[str | None] | None = None
    by_type: str = "string"
    smallest_group: int = 1
    segment: npt.NDArray[np.int64] | None = None
    memory: float = 1.0


class Part(NamedTuple):
    """Rows of one table, and how they depend on one another, where they stand in order of time."""

    rows: npt.NDArray[np.int64]
    found: Dependence | None = None
    least: int = 1

    def at_least(self, worth: int) -> Part:
        """The same taken for at least so many independent rows."""
        return self._replace(least=worth)

    @property
    def worth(self) -> int:
        """Independent rows that they are worth."""
        return len(self.rows) if self.found is None else max(self.least, self.found.effective_rows)

    @property
    def effective_rows(self) -> int | None:
        """The same for the manifest: None where they stand in no order of time."""
        return None if self.found is None else self.found.effective_rows

    @property
    def block(self) -> int | None:
        """Rows in a row to resample together, likewise."""
        return None if self.found is None else self.found.block

    def rows_for(self, needed: int) -> int:
        """Rows like these that are worth a number of independent ones."""
        return needed if self.found is None else rows_in_series(needed, self.found)

    def refused(self, cannot: str, needed: int, advice: str = "") -> TooFewRowsError:
        """What they cannot do, and the rows it takes; `needed` are independent ones."""
        m, enough = len(self.rows), self.rows_for(needed)
        if self.found is None:
            return TooFewRowsError(f"{m:,} calibration rows {cannot}: it takes at least {enough:,}{advice}", enough)
        return TooFewRowsError(
            f"{m:,} calibration rows in order of time are worth {self.worth:,} independent ones (each resembles the "
            f"{math.ceil(self.found.time):,} around it), which {cannot}: it takes about {enough:,} such rows, "
            f"{enough - m:,} more{advice}",
            enough,
        )
