"""Which rows become exemplars, and which of them each training row is held against in a step."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from anomvae.vae.objective import encode_exemplars

if TYPE_CHECKING:
    from torch import Tensor

    from anomvae.vae.exemplars import Exemplars
    from anomvae.vae.model import TableVAE
    from anomvae.vae.preparation import Rows, StoredRows

NEAREST = 8
PER_ROW = 2
DRAWN_AT_ONCE = 16
CHUNK = 1024
SAME = 1e-6


def cover(points: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Positions of at most `most` points that cover all of them, by k-means++ seeding, 16 at a time.

    Each is drawn in proportion to its squared distance from those already chosen, so that few exemplars reach into the
    corners a random sample leaves empty, and repeated points are taken once; all are taken where there are no more. Cost grows linearly with the points.

    Args:
        points: Shape ``(n, f)``.
        most: Most points to choose.
        generator: Source of the draws, on the CPU.

    Returns:
        int64, ascending, shape ``(m,)``.

    References:
        k-means++: The Advantages of Careful Seeding (Arthur and Vassilvitskii, 2007)
    """
    n = len(points)
    if n <= most:
        return torch.arange(n)
    squared = points.square().sum(dim=1)
    new = torch.randint(n, (1,), generator=generator)
    chosen, distance = torch.empty(0, dtype=torch.int64), torch.full((n,), torch.inf)
    while True:
        gap = squared[:, None] + squared[new] - 2.0 * points @ points.index_select(0, new).T
        gap[gap <= SAME * (1.0 + squared[:, None])] = 0.0
        first = (gap[new] <= 0).int().argmax(dim=1) == torch.arange(len(new))  # of copies drawn together one stays
        chosen = torch.cat([chosen, new[first]])
        distance = torch.minimum(distance, gap.amin(dim=1))
        distance[new] = 0.0
        left, apart = most - len(chosen), int((distance > 0).sum())
        if left <= 0 or apart == 0:
            return torch.sort(chosen).values
        # Gumbel's trick draws without replacement, and torch.multinomial bears no more than 2**24 points.
        noise = -torch.log(-torch.log(torch.rand(n, generator=generator).clamp(min=1e-12, max=1 - 1e-7)))
        new = (torch.log(distance) + noise).topk(min(DRAWN_AT_ONCE, left, apart)).indices


def points_of(rows: Rows) -> Tensor:
    """Where rows lie for covering and nearness: scaled numbers beside one-hots, shape ``(n, f)``, on the CPU."""
    return torch.cat([rows.x, rows.onehot * 0.5**0.5], dim=1).cpu()


class Drawn(NamedTuple):
    """The exemplars of one step.

    Attributes:
        rows: E prepared rows.
        own: True where an exemplar is the row itself, shape ``(n, E)``.
        positions: Which rows they are, shape ``(E,)``.
    """

    rows: Rows
    own: Tensor
    positions: Tensor


class ExemplarPool:
    """The training rows that serve as exemplars while the weights are fitted.

    For every training row its 8 nearest exemplars are found once; a step holds each of its rows against 2 of them and
    those of its batch-mates. Under K folds each fold has exemplars of its own, and of each a row keeps the nearest 8 / K:
    what is drawn from a fold says nothing of any other, so a network that skips a fold's exemplars has not met its rows.

    Args:
        rows: All training rows.
        count: Exemplars.
        seed: Seed of the choice.
        folds: Fold of each row, on the CPU, shape ``(n,)``; None: all rows are one.
    """

    def __init__(self, rows: StoredRows, count: int, seed: int, folds: Tensor | None = None) -> None:
        self.rows = rows
        n = len(rows.observed)
        device = rows.x.device
        points = torch.cat(
            [points_of(rows.take(torch.arange(i, min(n, i + CHUNK), device=device))) for i in range(0, n, CHUNK)]
        )
        folds = torch.zeros(n, dtype=torch.int64) if folds is None else folds
        kept = int(folds.max()) + 1
        each = max(1, NEAREST // kept)
        positions: list[Tensor] = []
        near: list[Tensor] = []
        for fold in range(kept):
            members = torch.nonzero(folds == fold)[:, 0]
            share = max(2, round(count * len(members) / n))
            chosen = members[cover(points[members], share, torch.Generator().manual_seed(seed + 2))]
            found = _nearest(points, chosen, each)
            if kept > 1:  # as many of every fold, lest one fold's rows decide what is drawn from another
                found = found[:, torch.arange(each) % found.shape[1]]
            near.append(found + sum(map(len, positions)))
            positions.append(chosen)
        self.positions, self.near = torch.cat(positions).to(device), torch.cat(near, dim=1).to(device)

    def draw(self, batch: Tensor, generator: torch.Generator) -> Drawn:
        """Exemplars for a step.

        Args:
            batch: Positions of its rows, shape ``(n,)``.
            generator: Source of the draw.
        """
        shape = (len(batch), PER_ROW)
        pick = torch.randint(self.near.shape[1], shape, generator=generator, device=batch.device)
        drawn = self.positions[self.near[batch].gather(1, pick).flatten()]
        own = (batch[:, None] == drawn) & (len(self.positions) > 1)  # one exemplar stands for copies of itself
        return Drawn(self.rows.take(drawn), own, drawn)

    def encode(self, model: TableVAE) -> Exemplars:
        """All of them with the weights as they are."""
        return encode_exemplars(model, self.rows.take(self.positions))


def _nearest(points: Tensor, chosen: Tensor, most: int) -> Tensor:
    """For every point its nearest others among the chosen, shape ``(n, at most `most`)``: positions among the chosen."""
    exemplars = points.index_select(0, chosen)
    count = min(most, len(chosen) - 1)
    found = []
    for start in range(0, len(points), CHUNK):
        part = points[start : start + CHUNK]
        distance = torch.cdist(part, exemplars)
        itself = torch.arange(start, start + len(part))[:, None] == chosen
        found.append(distance.masked_fill(itself, torch.inf).topk(max(1, count), largest=False).indices)
    return torch.cat(found)
