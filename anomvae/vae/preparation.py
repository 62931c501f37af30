"""Raw values into what the networks and likelihoods see: scaled numbers, one-hots and masks. Part of the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from anomvae.vae.layout import Layout, Scaling

CLIP = 30.0
"""Scaled numbers are clipped here: beyond, nothing is stranger, and float32 stays exact."""


class Rows(NamedTuple):
    """Rows as the model sees them.

    Attributes:
        x: Scaled numbers, shape ``(n, d)``; zero where missing, which the mask tells apart from a zero.
        observed: 1 where a number is there, shape ``(n, d)``.
        onehot: Known categories, shape ``(n, K)``; all zero in a column whose cell is missing or unknown.
        known: 1 where a category is known, shape ``(n, c)``.
        unknown: 1 where a category was never seen, shape ``(n, c)``; a missing cell is neither.
    """

    x: Tensor
    observed: Tensor
    onehot: Tensor
    known: Tensor
    unknown: Tensor

    def features(self) -> Tensor:
        """The encoder's input: values beside the masks that say which of them are there."""
        return torch.cat([self.x, 1.0 - self.observed, self.onehot, 1.0 - self.known], dim=1)

    def take(self, index: Tensor) -> Rows:
        """Rows by position."""
        return Rows(*(part.index_select(0, index) for part in self))


class StoredRows:
    """A whole data set, prepared but for its one-hots, which are made for the rows at hand: few values cost little memory.

    Args:
        preparation: Makes the one-hots.
        numeric: Raw numbers, shape ``(n, d)``.
        categorical: Codes, shape ``(n, c)``.
    """

    def __init__(self, preparation: Preparation, numeric: Tensor, categorical: Tensor) -> None:
        self._preparation, self._codes = preparation, categorical
        self.x, self.observed = preparation.numbers(numeric)

    def take(self, index: Tensor) -> Rows:
        """Prepared rows by position."""
        onehot, known, unknown = self._preparation.categories(self._codes.index_select(0, index))
        return Rows(self.x.index_select(0, index), self.observed.index_select(0, index), onehot, known, unknown)


class Preparation(nn.Module):
    """Scales numbers, encodes categories, masks what is missing.

    Args:
        layout: Sizes, scales, categories.
        scaling: `unit` clips to 0..1, `standard` to +-30.
    """

    def __init__(self, layout: Layout, scaling: Scaling) -> None:
        super().__init__()
        self.layout = layout
        self.bounds = (0.0, 1.0) if scaling == "unit" else (-CLIP, CLIP)
        # One multiplication and addition in float32 loses digits where the offset is large: subtract first.
        self.offset: Tensor
        self.scale: Tensor
        self.infinite_is_missing: Tensor
        self.register_buffer("offset", torch.tensor(layout.offset, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(layout.scale, dtype=torch.float32))
        self.register_buffer("infinite_is_missing", torch.tensor(layout.infinite_is_missing, dtype=torch.bool))
        column_of = [j for j, size in enumerate(layout.cardinalities) for _ in range(size)]
        code_of = [code for size in layout.cardinalities for code in range(size)]
        self.column_of: Tensor
        self.code_of: Tensor
        self.missing_code: Tensor
        self.blocks: Tensor
        self.register_buffer("column_of", torch.tensor(column_of, dtype=torch.int64))
        self.register_buffer("code_of", torch.tensor(code_of, dtype=torch.int64))
        self.register_buffer("missing_code", torch.tensor(layout.missing_codes, dtype=torch.int64))
        blocks = torch.zeros(len(column_of), layout.c)
        blocks[torch.arange(len(column_of)), torch.tensor(column_of, dtype=torch.int64)] = 1.0
        self.register_buffer("blocks", blocks)

    def forward(self, numeric: Tensor, categorical: Tensor) -> Rows:
        """Prepares raw rows.

        Args:
            numeric: Raw units, NaN where missing, float32, shape ``(n, d)``.
            categorical: Codes, int64, shape ``(n, c)``; a code out of range counts as unknown.
        """
        return Rows(*self.numbers(numeric), *self.categories(categorical))

    def categories(self, categorical: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One-hots, which categories are known and which were never seen; see :class:`Rows`."""
        if not self.layout.c:
            none = categorical[:, :0].to(self.scale.dtype)
            return none, none, none
        onehot = (categorical.index_select(1, self.column_of) == self.code_of).to(self.scale.dtype)
        known = onehot @ self.blocks
        missing = (categorical == self.missing_code).to(self.scale.dtype)
        return onehot, known, 1.0 - known - missing

    def numbers(self, numeric: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled numbers and which of them are there; see :class:`Rows`."""
        if not self.layout.d:
            return numeric, numeric
        missing = torch.isnan(numeric)
        if any(self.layout.infinite_is_missing):
            missing = missing | (torch.isinf(numeric) & self.infinite_is_missing)
        scaled = torch.clamp((numeric - self.offset) / self.scale, *self.bounds)
        return torch.where(missing, torch.zeros_like(scaled), scaled), (~missing).to(scaled.dtype)

    def raw(self, scaled: Tensor) -> Tensor:
        """Scaled numbers back in raw units, shape ``(..., d)``."""
        return scaled * self.scale + self.offset
