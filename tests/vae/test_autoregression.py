"""A linear forecast of steps: by hand, with missing cells, at the begin of a window."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from anomvae.vae.autoregression import Autoregression

USUAL = torch.tensor([1.5, 0.7, 2.0, 1.1])


def drawn(channels: int, order: int, seed: int = 0) -> Autoregression:
    torch.manual_seed(seed)
    kernel = torch.randn(channels, channels, order)
    bound = torch.full((channels,), 1e3)
    return Autoregression(kernel, torch.randn(channels), 0.5 + torch.rand(channels), USUAL[:channels], bound)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(2, 12))
def test_each_step_is_foretold_from_the_steps_before_it(channels: int, order: int, window: int) -> None:
    network = drawn(channels, order)
    values, mask = torch.randn(3, window, channels), torch.ones(3, window, channels)
    told = network(values, mask)
    for t in range(order, window):
        mean = network.bias + sum(values[:, t - order + lag] @ network.kernel[:, :, lag].T for lag in range(order))
        torch.testing.assert_close(told.mean[:, t], mean, rtol=1e-4, atol=1e-4)
        cost = 0.5 * (values[:, t] - mean) ** 2 / network.variance
        torch.testing.assert_close(told.cost[:, t], cost, rtol=1e-3, atol=1e-4)
    assert network.reach(window).tolist() == [float(t >= order) for t in range(window)]


def test_no_step_is_foretold_from_itself_or_from_later_ones() -> None:
    network = drawn(2, 3)
    values, mask = torch.randn(1, 10, 2), torch.ones(1, 10, 2)
    before = network(values, mask)
    values[0, 6:] += 100.0
    after = network(values, mask)
    torch.testing.assert_close(after.mean[0, :7], before.mean[0, :7])
    assert not torch.equal(after.mean[0, 7:], before.mean[0, 7:])


def test_what_was_missing_makes_a_forecast_less_sure() -> None:
    network = drawn(2, 3)
    values, mask = torch.randn(1, 10, 2), torch.ones(1, 10, 2)
    values[0, 5, 1] = mask[0, 5, 1] = 0.0
    told = network(values, mask)
    assert told.cost[0, 5, 1] == 0.0
    doubt = network.kernel[:, 1, 2] ** 2 * USUAL[1]
    wanted = 0.5 * (values[0, 6] - told.mean[0, 6]) ** 2 / (network.variance + doubt)
    torch.testing.assert_close(told.cost[0, 6], wanted)
    mask[0, 5, 1] = 1.0
    assert (network(values, mask).cost[0, 6] > told.cost[0, 6]).all()
    torch.testing.assert_close(network(values, mask).cost[0, 9], told.cost[0, 9])


def test_steps_before_the_window_are_missing_ones() -> None:
    network = drawn(1, 4)
    values = torch.zeros(1, 6, 1)
    told = network(values, torch.ones(1, 6, 1))
    doubt = torch.stack([network.kernel[0, 0, : 4 - t].abs().sum() ** 2 * USUAL[0] for t in range(5)])
    wanted = 0.5 * network.bias**2 / (network.variance + doubt)
    torch.testing.assert_close(told.cost[0, :5, 0], wanted)


def test_a_wild_reading_leaves_no_echo() -> None:
    """What lies further out than training held is not looked at: the steps after it are as unsure as after a hole."""
    network = drawn(2, 3)
    network.bound.fill_(4.0)
    values, mask = torch.randn(1, 10, 2).clamp(-3, 3), torch.ones(1, 10, 2)
    hole = mask.clone()
    hole[0, 5, 1] = 0.0
    wild = values.clone()
    wild[0, 5, 1] = 1e6
    after, without = network(wild, mask), network(torch.where(hole > 0, values, torch.zeros(())), hole)
    torch.testing.assert_close(after.mean, without.mean)
    torch.testing.assert_close(after.cost[0, 6:], without.cost[0, 6:])
    assert after.cost[0, 5, 1] > 1e8
    assert (after.mean.abs() <= 4.0).all()
