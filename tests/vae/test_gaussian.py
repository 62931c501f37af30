"""Divergences, draws and fixed noise of diagonal Gaussians, against torch.distributions and Monte Carlo."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

from anomvae.vae.gaussian import Gaussian, antithetic_noise, kl_divergence, kl_from_standard

MEANS = st.floats(-20, 20)
LOG_VARIANCES = st.floats(-8, 5)
PARAMETERS = st.lists(st.tuples(MEANS, LOG_VARIANCES, MEANS, LOG_VARIANCES), min_size=1, max_size=5)


def gaussian(mean: list[float], log_variance: list[float]) -> Gaussian:
    return Gaussian(torch.tensor(mean, dtype=torch.float64), torch.tensor(log_variance, dtype=torch.float64))


def as_normal(q: Gaussian) -> Normal:
    return Normal(q.mean, torch.exp(0.5 * q.log_variance))


def log_prob(distribution: Normal, value: torch.Tensor) -> torch.Tensor:
    answer: torch.Tensor = distribution.log_prob(value)  # type: ignore[no-untyped-call]
    return answer


@given(PARAMETERS)
def test_the_divergence_of_any_two_gaussians_is_that_of_torch_distributions(
    parameters: list[tuple[float, float, float, float]],
) -> None:
    q_mean, q_log, p_mean, p_log = (list(column) for column in zip(*parameters, strict=True))
    q, p = gaussian(q_mean, q_log), gaussian(p_mean, p_log)
    torch.testing.assert_close(kl_divergence(q, p), reference_kl(as_normal(q), as_normal(p)), rtol=1e-9, atol=1e-9)


@given(PARAMETERS)
def test_the_divergence_from_the_standard_normal_is_that_of_torch_distributions(
    parameters: list[tuple[float, float, float, float]],
) -> None:
    q = gaussian([row[0] for row in parameters], [row[1] for row in parameters])
    standard = Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean))
    torch.testing.assert_close(kl_from_standard(q), reference_kl(as_normal(q), standard), rtol=1e-9, atol=1e-9)


@given(PARAMETERS)
def test_a_divergence_is_never_negative_and_nil_only_for_equals(
    parameters: list[tuple[float, float, float, float]],
) -> None:
    q_mean, q_log, p_mean, p_log = (list(column) for column in zip(*parameters, strict=True))
    q, p = gaussian(q_mean, q_log), gaussian(p_mean, p_log)
    assert (kl_divergence(q, p) >= -1e-9).all()
    assert kl_divergence(q, q).abs().max() < 1e-12
    moved = Gaussian(q.mean + torch.exp(0.5 * q.log_variance), q.log_variance)
    torch.testing.assert_close(kl_divergence(moved, q), torch.full_like(q.mean, 0.5))


def test_the_divergence_is_the_mean_log_ratio_over_draws() -> None:
    q, p = gaussian([0.3, -1.0], [0.2, -1.0]), gaussian([0.0, 0.5], [0.4, 0.3])
    noise = torch.randn(400_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = q.at(noise)
    ratios = log_prob(as_normal(q), z) - log_prob(as_normal(p), z)
    standard_error = ratios.std(dim=0) / math.sqrt(len(z))
    assert ((ratios.mean(dim=0) - kl_divergence(q, p)).abs() < 5 * standard_error).all()


def test_reparameterised_draws_have_the_stated_mean_and_variance() -> None:
    q = gaussian([3.0, -40.0, 0.0], [-4.0, 2.0, 0.0])
    z = q.at(torch.randn(200_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    deviation = torch.exp(0.5 * q.log_variance)
    assert ((z.mean(dim=0) - q.mean).abs() < 5 * deviation / math.sqrt(len(z))).all()
    torch.testing.assert_close(z.var(dim=0), torch.exp(q.log_variance), rtol=0.02, atol=0.0)


def test_reparameterised_draws_pass_gradients_to_mean_and_variance() -> None:
    mean = torch.tensor([0.5, -1.0], requires_grad=True)
    log_variance = torch.tensor([0.2, -0.7], requires_grad=True)
    noise = torch.tensor([1.5, -2.0])
    Gaussian(mean, log_variance).at(noise).sum().backward()  # type: ignore[no-untyped-call]
    assert mean.grad is not None
    assert log_variance.grad is not None
    torch.testing.assert_close(mean.grad, torch.ones(2))
    torch.testing.assert_close(log_variance.grad, 0.5 * torch.exp(0.5 * log_variance.detach()) * noise)


@settings(max_examples=60)
@given(st.integers(2, 256), st.integers(1, 40), st.integers(0, 1000))
def test_fixed_noise_sums_to_zero_and_has_as_many_draws_as_asked(draws: int, size: int, seed: int) -> None:
    noise = antithetic_noise(draws, size, seed)
    assert noise.shape == (draws, size)
    assert noise.sum(dim=0).abs().max() < 1e-4
    lengths = noise.square().sum(dim=1)
    torch.testing.assert_close(lengths[: 2 * (draws // 2)], torch.full((2 * (draws // 2),), float(size)))
    assert torch.equal(noise, antithetic_noise(draws, size, seed))


def test_one_draw_is_the_posterior_mean_itself() -> None:
    q = Gaussian(torch.tensor([[1.0, -2.0, 7.0]]), torch.full((1, 3), 4.0))
    assert torch.equal(q.at(antithetic_noise(1, 3)), q.mean)


@pytest.mark.parametrize("draws", [2, 8, 9])
def test_fixed_noise_is_exact_for_all_that_is_odd(draws: int) -> None:
    q = Gaussian(torch.tensor([0.4, -3.0]), torch.tensor([1.0, -2.0]))
    z = q.at(antithetic_noise(draws, 2))
    torch.testing.assert_close((5.0 * z - 1.0).mean(dim=0), 5.0 * q.mean - 1.0, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((z - q.mean).pow(3).mean(dim=0), torch.zeros(2), rtol=0.0, atol=1e-5)
