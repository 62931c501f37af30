"""The distance from the nearest known window, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomvae.export.graph import traced
from anomvae.vae.discords import ALIKE, WindowExemplars

WINDOW, CHANNELS = 6, 2


def drawn(n: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(n, WINDOW, CHANNELS, generator=torch.Generator().manual_seed(seed))


def softened(squares: torch.Tensor) -> torch.Tensor:
    return (squares + ALIKE**2).sqrt() - ALIKE


@torch.no_grad()
def test_the_nearest_is_found_by_observed_cells_alone() -> None:
    stored, values = drawn(40, 0), drawn(9, 1)
    values[:4] = stored[3:7] + drawn(4, 5, 0.1)  # near one, and far from all others
    mask = (torch.rand(9, WINDOW, CHANNELS, generator=torch.Generator().manual_seed(2)) < 0.7).float()
    mask[0] = 1.0
    told = WindowExemplars(stored)(values * mask, mask)
    for i in range(9):
        apart = ((values[i] - stored).square() * mask[i]).sum((1, 2)) / mask[i].sum()
        torch.testing.assert_close(told.distance[i], softened(apart.min()), rtol=0.01, atol=1e-4)
        if i < 4:
            torch.testing.assert_close(told.cells[i], (values[i] - stored[3 + i]).square() * mask[i])
    torch.testing.assert_close(told.shares(mask).sum((1, 2)), told.distance)


@torch.no_grad()
def test_a_known_window_is_at_no_distance_and_an_empty_one_too() -> None:
    stored = drawn(5, 0)
    known = WindowExemplars(stored)
    ones, nothing = torch.ones_like(stored), torch.zeros_like(stored)
    torch.testing.assert_close(known(stored, ones).distance, torch.zeros(5), rtol=0, atol=1e-6)
    assert (known(nothing, nothing).distance == 0).all()
    assert WindowExemplars(stored[:1])(stored, ones).distance.argmin() == 0


@pytest.mark.parametrize("far", [69.0, -69.0])
@torch.no_grad()
def test_cells_as_far_out_as_can_be_leave_the_others_right(far: float) -> None:
    stored, values = drawn(200, 0), drawn(1, 3)
    values[0, 2, 1] = far
    told = WindowExemplars(stored)(values, torch.ones_like(values))
    wanted = (values - stored).double().square().sum((1, 2)).min() / (WINDOW * CHANNELS)
    torch.testing.assert_close(told.distance[0].double(), softened(wanted), rtol=1e-2, atol=0)


def made(kind: str, seed: int) -> torch.Tensor:
    if kind == "alike":
        return torch.ones(400, WINDOW, CHANNELS) + drawn(400, seed, 1e-4)
    if kind == "levels":  # many lie just as near, and the sums are of numbers that floats do not hold
        pieces = torch.randn(400, 4, 4, generator=torch.Generator().manual_seed(seed))
        return torch.where(pieces > 0, 0.77, -1.13).repeat_interleave(8, 1)
    return (drawn(400, seed) > 0).float() if kind == "flags" else drawn(400, seed)


@pytest.mark.parametrize("kind", ["alike", "flags", "levels", "drawn"])
@torch.no_grad()
def test_no_answer_hangs_by_the_last_digit_of_a_sum(kind: str) -> None:
    """Windows nearly or quite as near as others: the graph sums in another order, and answers the same."""
    import onnxruntime as ort

    known, values = WindowExemplars(made(kind, 0)).eval(), made(kind, 1)
    mask = torch.ones_like(values)

    class Shares(torch.nn.Module):
        names: tuple[str, ...] = ("values", "mask")
        outputs: tuple[str, ...] = ("distance", "shares")

        def __init__(self) -> None:
            super().__init__()
            self.known = known

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            found = self.known(*inputs)
            return found.distance, found.shares(inputs[1])

    graph = traced(Shares().eval(), [values[:3], mask[:3]]).SerializeToString()
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    found = session.run(None, {"values": values.numpy(), "mask": mask.numpy()})
    for answer, wanted in zip(found, Shares().forward(values, mask), strict=True):
        np.testing.assert_allclose(answer, wanted.numpy(), rtol=0, atol=2e-5)


@torch.no_grad()
def test_no_windows_have_no_distance() -> None:
    told = WindowExemplars(drawn(3, 0))(torch.zeros(0, WINDOW, CHANNELS), torch.zeros(0, WINDOW, CHANNELS))
    assert told.distance.shape == (0,)
