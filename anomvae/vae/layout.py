"""What the model must know of the columns: sizes, scales and categories, as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.bundle import Column

Scaling = Literal["standard", "unit"]
CHUNK_CELLS = 2**22
NO_CODE = -(2**31)
"""A code that no cell has."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns as the model sees them.

    Attributes:
        offset: Subtracted from each number, raw units, d of them.
        scale: Each number is then divided by it.
        infinite_is_missing: Per number column: whether infinities count as missing cells.
        cardinalities: Known values of each category, c of them.
        missing_codes: Code of a missing cell per category; `NO_CODE` where training saw none.
        unknown_mass: Probability of a value never seen, 1 / (n + 1).
    """

    offset: tuple[float, ...]
    scale: tuple[float, ...]
    infinite_is_missing: tuple[bool, ...]
    cardinalities: tuple[int, ...]
    missing_codes: tuple[int, ...]
    unknown_mass: float

    @property
    def d(self) -> int:
        """Number columns."""
        return len(self.offset)

    @property
    def c(self) -> int:
        """Category columns."""
        return len(self.cardinalities)

    @property
    def n_features(self) -> int:
        """Width of the encoder's input."""
        return 2 * self.d + self.n_onehot + self.c

    def chunk_rows(self, most: int) -> int:
        """Rows to handle at once so that wide one-hots stay small: at most `most`, a multiple of 16.

        Example:
            >>> Layout((0.0,), (1.0,), (False,), (), (), 0.1).chunk_rows(8192)
            8192
        """
        return max(16, min(most, CHUNK_CELLS // max(1, self.n_features)) // 16 * 16)

    @property
    def n_onehot(self) -> int:
        """Known values of all categories together."""
        return sum(self.cardinalities)


def layout_of(columns: Sequence[Column], rows: int, scaling: Scaling = "standard") -> Layout:
    """The layout of a manifest's columns.

    Args:
        columns: Scored columns.
        rows: Training rows, for the mass of the unknown.
        scaling: `standard`: zero mean, unit variance; `unit`: the training range becomes 0 to 1 (Bernoulli likelihood).
    """
    numeric = [column for column in columns if column.is_numeric]
    categorical = [column for column in columns if not column.is_numeric]
    offsets, scales = [], []
    for column in numeric:
        mean, std = column.mean or 0.0, column.std or 0.0
        low, high = column.low or 0.0, column.high or 0.0
        width = (high - low) if scaling == "unit" else std
        offsets.append(low if scaling == "unit" else mean)
        tiny = 1e-6 * max(abs(mean), 1e-30)  # float32 cannot tell such values apart; a value far out must not decide
        scale = width if width > tiny else (tiny if column.std else 1.0)
        scales.append(min(scale, 1e38))  # within float32
    return Layout(
        offset=tuple(offsets),
        scale=tuple(scales),
        infinite_is_missing=tuple(column.infinite_is_missing for column in numeric),
        cardinalities=tuple(len(column.categories) for column in categorical),
        missing_codes=tuple(NO_CODE if column.missing_code is None else column.missing_code for column in categorical),
        unknown_mass=1.0 / (rows + 1.0),
    )
