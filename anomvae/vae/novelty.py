"""How rarely a normal row holds values, or pairs of values, that training never held."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from anomvae.vae import novelty_tables as tables

if TYPE_CHECKING:
    from anomvae.vae.layout import Layout
    from anomvae.vae.novelty_tables import Doubles, Floats, Integers, Pair, Values

TWO_LEVELS = 1024
"""Above so many values a search takes three levels."""


@dataclass(frozen=True, slots=True)
class NoveltySpec:
    """Sizes of the tables, enough to make an empty :class:`Novelty` whose weights can be loaded.

    Attributes:
        columns: Number columns that take part.
        levels: Widths of the search tree over their values: at the top, then below each entry.
        first: The one feature of each pair, numbers before categories.
        second: The other feature.
        slots: Sizes of the hash tables: the first of each pair, then the second of each.
        knots: Points of the two lines from totals to nats: of values, of pairs.
    """

    columns: tuple[int, ...] = ()
    levels: tuple[int, ...] = (1, 1)
    first: tuple[int, ...] = ()
    second: tuple[int, ...] = ()
    slots: tuple[int, ...] = ()
    knots: tuple[int, ...] = (2, 2)

    def __post_init__(self) -> None:
        """Takes lists too, as JSON has them."""
        for name in ("columns", "levels", "first", "second", "slots", "knots"):
            object.__setattr__(self, name, tuple(getattr(self, name)))


class Nats(nn.Module):
    """Totals into nats along a line through points; see :func:`anomvae.vae.novelty_tables.knots_of`.

    Args:
        knots: How many points.
    """

    def __init__(self, knots: int) -> None:
        super().__init__()
        self.line: Tensor
        self.ones: Tensor
        self.register_buffer("line", torch.zeros(knots, 3))
        self.register_buffer("ones", torch.ones(1, knots), persistent=False)

    def forward(self, total: Tensor) -> Tensor:
        """Nats per unit of the total: what each part of a total is multiplied by; both of shape ``(1, n)``."""
        below = self.ones @ (self.line[:, :1] <= total).to(torch.float32)
        part = self.line.index_select(0, below[0].to(torch.int64) - 1).T
        return (part[1:2] + part[2:] * (total - part[:1])) / torch.clamp(total, min=1e-4)  # no total but 0 is below


class ValueSearch(nn.Module):
    """Finds which stored value of its column a number equals.

    A tree of few, wide levels: a table of V values costs about twice the root of V comparisons a cell. Columns lie along
    the first axis and rows along the last, where comparisons with one key run over many rows.

    Args:
        columns: How many columns.
        levels: Widths; see :class:`NoveltySpec`.
    """

    def __init__(self, columns: int, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.levels, self.leaves = levels, math.prod(levels[:-1])
        self.keys = [f"keys{depth}" for depth in range(len(levels))]
        for depth, (name, width) in enumerate(zip(self.keys, levels, strict=True)):
            parents = columns * math.prod(levels[:depth])
            self.register_buffer(name, torch.full((width, columns, 1) if not depth else (parents, width), torch.inf))
        self.shared: Tensor
        self.rank: Tensor
        self.start: Tensor
        self.register_buffer("shared", torch.zeros(columns * self.leaves, levels[-1], dtype=torch.bool))
        self.register_buffer("rank", torch.arange(1.0, levels[-1] + 1.0)[None], persistent=False)
        self.register_buffer("start", torch.arange(float(columns))[:, None], persistent=False)

    @property
    def size(self) -> int:
        """Symbols there are."""
        return self.leaves * (self.levels[-1] + 1)

    def fill(self, columns: list[Values]) -> None:
        """Stores the values of the columns."""
        shape = (len(columns), *self.levels)
        values = torch.full((len(columns), math.prod(self.levels)), torch.inf)
        shared = torch.zeros(values.shape, dtype=torch.bool)
        for j, column in enumerate(columns):
            values[j, : column.size - 1] = torch.from_numpy(column.stored)
            shared[j, : column.size - 1] = torch.from_numpy(column.shared)
        tree = values.reshape(shape)
        for depth, name in enumerate(self.keys):
            keys = tree
            while keys.ndim > depth + 2:  # the first below each entry
                keys = keys[..., 0]
            laid = keys.T[:, :, None] if not depth else keys.reshape(-1, self.levels[depth])
            getattr(self, name).copy_(laid)
        self.shared.copy_(shared.reshape(self.shared.shape))

    def symbols(self, ranks: Integers) -> Integers:
        """The symbols of stored values by their rank from 1."""
        leaf, within = np.divmod(ranks - 1, self.levels[-1])
        symbols: Integers = leaf * (self.levels[-1] + 1) + within + 1
        return symbols

    def forward(self, x: Tensor, own: bool) -> tuple[Tensor, Tensor]:
        """Searches.

        Args:
            x: Numbers, shape ``(columns, n)``; NaN is found nowhere.
            own: Whether the rows are those learnt from.

        Returns:
            1 where a value is stored (by another row, if `own`), and the value's symbol; both float32, ``(columns, n)``.
        """
        columns = len(self.start)
        flat, node = x.reshape(1, -1), x
        for depth, name in enumerate(self.keys[:-1]):
            keys = getattr(self, name)
            if depth:
                below = flat >= keys.index_select(0, node.to(torch.int64).reshape(-1)).T
            else:
                below = (x >= keys).reshape(self.levels[0], -1)
            step = torch.clamp(self.rank.new_ones(1, self.levels[depth]) @ below.to(torch.float32) - 1.0, min=0.0)
            step = step.reshape(columns, -1)
            node = node * self.levels[depth] + step if depth else self.start * self.levels[0] + step
        leaf = node.to(torch.int64).reshape(-1)
        equal = (flat == getattr(self, self.keys[-1]).index_select(0, leaf).T).to(torch.float32)
        rank = (self.rank @ equal).reshape(columns, -1)
        symbol = (node - self.start * self.leaves) * (self.levels[-1] + 1) + rank
        if own:
            rank = (self.rank @ (equal * self.shared.index_select(0, leaf).T)).reshape(columns, -1)
        return torch.clamp(rank, max=1.0), symbol


class Novelty(nn.Module):
    """The rarity of values and pairs of values that training never held, in nats per column.

    A column takes part where most training cells hold a value that another row holds too, share s; an unseen value then
    weighs log(s / (1 - s)) (Good-Turing). The same for pairs of columns whose pairs repeat more than chance has it. The
    two totals of a row become nats by their distribution over the training rows, each seen without itself.

    Totals are exact in float32 (:func:`anomvae.vae.novelty_tables.exact`): no answer depends on the rows beside it.

    Args:
        layout: Columns.
        spec: Sizes of the tables.

    References:
        The population frequencies of species and the estimation of population parameters (Good, 1953)
    """

    columns: Tensor
    place: Tensor
    category_columns: Tensor
    category_sizes: Tensor
    missing_codes: Tensor
    first: Tensor
    second: Tensor
    second_sizes: Tensor
    slot_sizes: Tensor
    slot_starts: Tensor
    infinite_is_missing: Tensor
    halves: Tensor

    def __init__(self, layout: Layout, spec: NoveltySpec) -> None:
        super().__init__()
        self.layout, self.spec = layout, spec
        d, width, n_pairs = layout.d, layout.d + layout.c, len(spec.first)
        features = sorted(set(spec.columns) | {j for j in (*spec.first, *spec.second) if j >= d})
        self.categories = [j - d for j in features if j >= d]
        self.weight: Tensor
        self.pair_weight: Tensor
        self.pair_keys: Tensor
        self.pair_shared: Tensor
        self.register_buffer("weight", torch.zeros(1, len(spec.columns)))
        self.register_buffer("pair_weight", torch.zeros(1, n_pairs))
        self.register_buffer("pair_keys", torch.full((sum(spec.slots),), -1))
        self.register_buffer("pair_shared", torch.zeros(sum(spec.slots), dtype=torch.bool))
        self.search = ValueSearch(len(spec.columns), spec.levels)
        self.value_nats, self.pair_nats = Nats(spec.knots[0]), Nats(spec.knots[1])
        row = {feature: i for i, feature in enumerate(features)}
        sizes = [self.search.size if j < d else layout.cardinalities[j - d] + 1 for j in spec.second]
        self._constant("columns", list(spec.columns))
        self._constant("place", [row[j] if j in spec.columns else len(spec.columns) for j in range(width)])
        self._constant("category_columns", self.categories)
        self._constant("category_sizes", [[layout.cardinalities[j]] for j in self.categories])
        self._constant("missing_codes", [[layout.missing_codes[j]] for j in self.categories])
        self._constant("first", [row[j] for j in spec.first])
        self._constant("second", [row[j] for j in spec.second])
        self._constant("second_sizes", [[size] for size in sizes])
        self._constant("slot_sizes", [[size] for size in spec.slots])
        self._constant("slot_starts", [[start] for start in itertools.accumulate((0, *spec.slots[:-1]))])
        infinite = [[layout.infinite_is_missing[j]] for j in spec.columns]
        self.register_buffer("infinite_is_missing", torch.tensor(infinite, dtype=torch.bool), persistent=False)
        halves = torch.zeros(width, n_pairs)
        for p, pair in enumerate(zip(spec.first, spec.second, strict=True)):
            halves[list(pair), p] = 0.5
        self.register_buffer("halves", halves, persistent=False)

    def _constant(self, name: str, values: list[int] | list[list[int]]) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=torch.int64), persistent=False)

    @property
    def is_empty(self) -> bool:
        """Whether no column takes part: every answer is then zero."""
        return not (self.spec.columns or self.spec.first)

    @classmethod
    def learn(cls, layout: Layout, numeric: Floats, categorical: Integers, *, seed: int = 0, least: int = 1) -> Novelty:
        """Learns from training rows, all of those given: a caller with many draws some first (20,000 are plenty).

        Args:
            layout: Columns.
            numeric: Raw units, NaN where missing, float32, shape ``(n, d)``.
            categorical: Codes, shape ``(n, c)``.
            seed: Of the draws of columns and of re-paired rows.
            least: Other rows that must hold a value or pair for it to count as seen. Above 1, no value or pair that
                `least` rows or fewer hold is stored.
        """
        held_by = 1 if least == 1 else least + 1
        numbers = tables.number_values(layout, numeric, held_by)
        columns = [*numbers, *tables.category_values(layout, categorical)]
        pairs = tables.repeating_pairs(columns, held_by, np.random.default_rng(seed))
        weight, quantum = tables.exact(np.array([column.odds for column in numbers]))
        pair_weight, pair_quantum = tables.exact(np.array([pair.weight for pair in pairs]))
        n = len(numeric)
        line = tables.knots_of(_totals([c.observed & ~c.seen for c in numbers], weight, n), quantum)
        pair_line = tables.knots_of(_totals([pair.unseen for pair in pairs], pair_weight, n), pair_quantum)
        search = ValueSearch(len(numbers), _levels(max((c.size - 1 for c in numbers), default=1)))
        hashed = [_hashed(layout, search, pair) for pair in pairs]
        spec = NoveltySpec(
            columns=tuple(column.feature for column in numbers),
            levels=search.levels,
            first=tuple(pair.first for pair in pairs),
            second=tuple(pair.second for pair in pairs),
            slots=tuple(keys.shape[0] for side in (0, 1) for keys, _ in (pair[side] for pair in hashed)),
            knots=(len(line), len(pair_line)),
        )
        made = cls(layout, spec)
        made.search.fill(numbers)
        made.weight.copy_(torch.from_numpy(weight)[None])
        made.pair_weight.copy_(torch.from_numpy(pair_weight)[None])
        made.value_nats.line.copy_(torch.from_numpy(line))
        made.pair_nats.line.copy_(torch.from_numpy(pair_line))
        if pairs:
            made.pair_keys.copy_(torch.cat([pair[side][0] for side in (0, 1) for pair in hashed]))
            made.pair_shared.copy_(torch.cat([pair[side][1] for side in (0, 1) for pair in hashed]))
        return made.eval()

    def forward(self, numeric: Tensor, categorical: Tensor, own: bool = False) -> Tensor:
        """Nats each column adds.

        Args:
            numeric: Raw units, NaN where missing, float32, shape ``(n, d)``.
            categorical: Codes, int64, shape ``(n, c)``; a code out of range is a category never seen.
            own: Whether the rows are those learnt from: only other rows then make a value or pair seen.

        Returns:
            Not negative, numbers then categories, shape ``(n, d + c)``; missing cells add nothing.
        """
        n = numeric.shape[0] if self.layout.d else categorical.shape[0]
        nats = torch.zeros(n, self.layout.d + self.layout.c, dtype=torch.float32, device=numeric.device)
        if self.is_empty:
            return nats
        observed: list[Tensor] = []
        symbols: list[Tensor] = []
        if self.spec.columns:
            x, there = self._numbers(numeric)
            held, symbol = self.search(x, own)
            unseen = there * (1.0 - held)
            each: Tensor = unseen * self.weight.T * self.value_nats(self.weight @ unseen)
            nats = torch.cat([each, torch.zeros_like(each[:1])]).index_select(0, self.place).T
            observed, symbols = [there], [symbol.to(torch.int64)]
        if not self.spec.first:
            return nats
        if self.categories:
            there, symbol = self._categories(categorical)
            observed, symbols = [*observed, there], [*symbols, symbol]
        unseen = self._unseen_pairs(torch.cat(observed), torch.cat(symbols), own)
        each = (self.halves @ (unseen * self.pair_weight.T)) * self.pair_nats(self.pair_weight @ unseen)
        return nats + each.T if self.spec.columns else each.T

    def _numbers(self, numeric: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers that take part, and 1 where they are there; columns first."""
        x = numeric.to(torch.float32).T.index_select(0, self.columns)
        missing = torch.isnan(x)
        if any(self.layout.infinite_is_missing[j] for j in self.spec.columns):
            missing = missing | (torch.isinf(x) & self.infinite_is_missing)
        return torch.clamp(x, -tables.MOST, tables.MOST), (~missing).to(torch.float32)

    def _categories(self, categorical: Tensor) -> tuple[Tensor, Tensor]:
        """1 where a code is not that of a missing cell, and the symbols: 1 + code, 0 for a category never seen."""
        codes = categorical.T.index_select(0, self.category_columns)
        known = (codes >= 0) & (codes < self.category_sizes)
        return (codes != self.missing_codes).to(torch.float32), torch.where(known, codes + 1, torch.zeros_like(codes))

    def _unseen_pairs(self, observed: Tensor, symbols: Tensor, own: bool) -> Tensor:
        """1 where a pair is there and not stored (by another row, if `own`), shape ``(pairs, n)``."""
        pairs = len(self.spec.first)
        there = observed.index_select(0, self.first) * observed.index_select(0, self.second)
        code = symbols.index_select(0, self.first) * self.second_sizes + symbols.index_select(0, self.second)
        code = torch.cat([code, code])
        slot = (torch.remainder(code, self.slot_sizes) + self.slot_starts).reshape(-1)
        held = self.pair_keys.index_select(0, slot) == code.reshape(-1)
        if own:
            held = held & self.pair_shared.index_select(0, slot)
        sides = held.to(torch.float32).reshape(2 * pairs, -1)
        return there * (1.0 - sides[:pairs] - sides[pairs:])


def _totals(unseen: list[np.ndarray[tuple[int, ...], np.dtype[np.bool_]]], weight: Doubles, n: int) -> Doubles:
    total: Doubles = sum((flags * w for flags, w in zip(unseen, weight, strict=True)), np.zeros(n))
    return total


def _levels(values: int) -> tuple[int, ...]:
    """Widths of a search tree that holds so many values."""
    if values > TWO_LEVELS:
        width = math.ceil(values ** (1 / 3))
        return (math.ceil(values / width**2), width, width)
    width = math.ceil(math.sqrt(values / 2))
    return (math.ceil(values / width), width)


def _hashed(layout: Layout, search: ValueSearch, pair: Pair) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The two hash tables of a pair: keys, and which of them other rows hold too."""
    symbols = [
        search.symbols(pair.held[:, side]) if feature < layout.d else pair.held[:, side]
        for side, feature in enumerate((pair.first, pair.second))
    ]
    size = search.size if pair.second < layout.d else layout.cardinalities[pair.second - layout.d] + 1
    codes = symbols[0] * size + symbols[1]
    sizes, at = tables.cuckoo(codes)
    keys, shared = np.full(sum(sizes), -1, dtype=np.int64), np.zeros(sum(sizes), dtype=np.bool_)
    keys[at], shared[at] = codes, pair.shared
    cut = sizes[0]
    return (
        (torch.from_numpy(keys[:cut]), torch.from_numpy(shared[:cut])),
        (torch.from_numpy(keys[cut:]), torch.from_numpy(shared[cut:])),
    )
