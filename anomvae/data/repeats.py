"""Rows that stand in two tables: the same rows twice, or rows that just repeat."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from anomvae.data.encoding import EncodedRows

SLACK = 0.01
"""Share of rows beyond the expected that may repeat before they count as the same rows."""
_SIGMAS = 3.0


@dataclass(frozen=True, slots=True)
class Repeats:
    """Rows that stand, cell by cell, among others too.

    Attributes:
        repeated: Which, shape ``(n,)``.
        usual: Share of the others that stand among themselves more than once: as many of fresh rows like them would be found
            among them.
    """

    repeated: npt.NDArray[np.bool_]
    usual: float

    @property
    def are_too_many(self) -> bool:
        """Whether more rows repeat than rows like them do: they are then the same rows, not like ones."""
        n, count = len(self.repeated), int(self.repeated.sum())
        expected = n * self.usual
        return count > expected + _SIGMAS * math.sqrt(expected * (1.0 - self.usual)) + SLACK * n


def find_repeats(rows: EncodedRows, among: EncodedRows) -> Repeats:
    """Which rows stand among others, by all their scored cells as the detector sees them.

    Args:
        rows: n rows.
        among: Other rows.
    """
    counts = Counter(row_digests(among))
    repeated = np.array([digest in counts for digest in row_digests(rows)], dtype=bool)
    twice = sum(count for count in counts.values() if count > 1)
    return Repeats(repeated, twice / max(1, len(among)))


def row_digests(rows: EncodedRows) -> list[bytes]:
    """A digest a row; equal cells give equal digests, missing ones and both zeros included."""
    numbers = rows.numeric + np.float32(0.0)  # -0.0 becomes 0.0
    numbers[np.isnan(numbers)] = np.nan
    cells = np.ascontiguousarray(np.hstack([numbers.view(np.int32), rows.categorical.astype(np.int32)]))
    return [blake2b(row, digest_size=16).digest() for row in cells]
