"""Training of the convolutional VAE of windows: hidden cells, held-out bound, best weights kept."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from anomvae.training.loop import Course, History, Hook
from anomvae.vae.convolution import ConvolutionalVAE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.training.settings import TrainingSettings
    from anomvae.vae.convolution import ConvolutionSettings
    from anomvae.vae.series import SeriesPreparation

HIDDEN = 0.3
"""Share of the cells, channels or pieces of time that are hidden where some are."""
WAYS = 4
"""Ways to hide, drawn evenly: nothing, cells, channels, pieces of time."""
CHECK_EVERY = 100
MOST_CHECKED = 512
"""Held-out windows at a check, evenly spread where there are more."""


class WindowPool:
    """Windows by the steps they begin with; their values are scaled once and gathered when drawn.

    Args:
        values: Raw units of all steps, NaN where missing, float32, shape ``(m, d)``.
        asset: Number of each step's asset, shape ``(m,)``.
        starts: First step of each window, shape ``(k,)``.
        window: w.
        preparation: The scaling; all tensors lie on its device.
    """

    def __init__(
        self, values: Tensor, asset: Tensor, starts: Tensor, window: int, preparation: SeriesPreparation
    ) -> None:
        with torch.no_grad():
            scaled, mask = preparation(values[:, None], asset)
        self.values, self.mask, self.starts = scaled[:, 0], mask[:, 0], starts
        self.offsets = torch.arange(window, device=values.device)

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled values and masks of windows, each of shape ``(n, w, d)``."""
        at = self.starts[places][:, None] + self.offsets
        return self.values[at], self.mask[at]


class WindowLearner:
    """Teaches one network; a :class:`~anomvae.training.loop.Learner`.

    A quarter of the windows is shown whole; the others with a share of their cells, of their channels, or of their pieces
    of time hidden, which the network has to explain from the rest.

    Args:
        model: Fresh weights, on the device of the windows.
        pool: Windows to learn from.
        held_out: Windows that decide when to stop.
        settings: The training.

    Attributes:
        best_weights: Those kept last.
    """

    def __init__(
        self, model: ConvolutionalVAE, pool: WindowPool, held_out: WindowPool, settings: TrainingSettings
    ) -> None:
        self.model, self.pool, self.held_out, self.settings = model, pool, held_out, settings
        self.generator = torch.Generator(pool.values.device).manual_seed(settings.seed + 11)
        self.optimiser: torch.optim.Optimizer = torch.optim.Adam(
            [{"params": list(model.parameters()), "factor": 1.0}], lr=settings.rate, fused=True
        )
        self.keep()

    def descend(self, batch: Tensor) -> Tensor:
        """See :class:`~anomvae.training.loop.Learner`."""
        values, observed = self.pool.take(batch)
        shown = observed * self._shown(values.shape)
        pieces = (values.shape[1] + self.model.pad) // self.model.piece
        noise = torch.randn(
            len(values), self.model.settings.latent, pieces, generator=self.generator, device=values.device
        )
        loss = self.model.loss(values, observed, shown, noise)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_gradient_norm)
        self.optimiser.step()
        return loss.detach()

    @torch.no_grad()
    def bound(self) -> float:
        """See :class:`~anomvae.training.loop.Learner`: nats a step at the posterior mean."""
        n, device = len(self.held_out), self.pool.values.device
        places = torch.linspace(0, n - 1, min(n, MOST_CHECKED), device=device).long()
        total = 0.0
        for part in torch.split(places, 128):
            told = self.model(*self.held_out.take(part))
            total += float(told.cost.sum() + told.divergence.sum())
        bound = total / (len(places) * len(self.pool.offsets))
        return bound if math.isfinite(bound) else math.inf

    def keep(self) -> None:
        """See :class:`~anomvae.training.loop.Learner`."""
        self.best_weights = copy.deepcopy(self.model.state_dict())

    def _shown(self, shape: torch.Size) -> Tensor:
        """1 where the encoder may look, shape ``(n, w, d)``."""
        n, window, channels = shape
        device, piece = self.pool.values.device, self.model.piece

        def draw(*sizes: int) -> Tensor:
            return (torch.rand(*sizes, generator=self.generator, device=device) > HIDDEN).float()

        ways = torch.randint(WAYS, (n,), generator=self.generator, device=device)
        pieces = draw(n, -(-window // piece), 1).repeat_interleave(piece, dim=1)[:, :window]
        shown = (draw(n, window, channels), draw(n, 1, channels), pieces)
        mask = torch.ones(n, window, channels, device=device)
        for way, part in enumerate(shown, 1):
            mask = torch.where((ways == way)[:, None, None], part.expand(n, window, channels), mask)
        return mask


def train_windows(
    pool: WindowPool,
    held_out: WindowPool,
    sizes: ConvolutionSettings,
    settings: TrainingSettings,
    hooks: Sequence[Hook] = (),
) -> tuple[ConvolutionalVAE, History]:
    """Fits a network of windows; it keeps the weights of the best held-out bound.

    Args:
        pool: Windows to learn from.
        held_out: Windows that decide when to stop.
        sizes: The network.
        settings: The training.
        hooks: Told of every step and check.
    """
    device, (window, channels) = pool.values.device, (len(pool.offsets), pool.values.shape[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = ConvolutionalVAE(channels, window, sizes).to(device)
    learner = WindowLearner(model, pool, held_out, settings)
    history = Course(learner, len(pool), CHECK_EVERY, settings, hooks).run()
    model.load_state_dict(learner.best_weights)
    return model.eval(), history
