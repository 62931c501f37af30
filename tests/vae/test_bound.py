"""The bound: the negative objective lies below the log evidence by quadrature, and on it at the exact posterior."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Bernoulli, Categorical, Distribution, Normal, StudentT

from anomvae.vae.objective import Noise, objective

if TYPE_CHECKING:
    from torch import Tensor

    from anomvae.vae.model import TableVAE
    from anomvae.vae.preparation import Rows
    from tests.vae.conftest import MakeModel, MakeRaw, MakeRows

N_ROWS = 12


def even_noise(k: int, per_axis: int) -> Tensor:
    """Quantiles of N(0, I) at equal masses: draws without chance, shape (draws, 1, k)."""
    axis = torch.tensor(stats.norm.ppf((np.arange(per_axis) + 0.5) / per_axis), dtype=torch.float32)
    return torch.cartesian_prod(*[axis] * k).reshape(-1, 1, k)


def elbo(model: TableVAE, rows: Rows, noise: Tensor) -> Tensor:
    """Minus the objective, row by row: the objective is a mean over rows, so one row at a time, shape (n,)."""
    n = len(rows.observed)
    with torch.no_grad():
        return torch.stack([-objective(model, rows.take(torch.tensor([i])), Noise(noise)) for i in range(n)])


def _log_prob(distribution: Distribution, value: Tensor) -> Tensor:
    answer: Tensor = distribution.log_prob(value)
    return answer


def log_likelihood(model: TableVAE, z: Tensor, rows: Rows) -> Tensor:
    """log p(row | z) of observed cells from torch.distributions, shape (points, n)."""
    d, name = model.layout.d, model.settings.likelihood
    answer = model.decoder(z).double()[:, None, :]
    g, x = answer[..., :d], rows.x.double()
    if d:
        deviation = torch.ones(d, dtype=torch.float64)
        if name in ("gaussian", "student-t"):
            deviation = torch.exp(0.5 * dict(model.likelihood.named_parameters())["numeric.free_log_variance"]).double()
        by_name = {
            "gaussian": Normal(g, deviation),
            "mse": Normal(g, 1.0),
            "student-t": StudentT(4.0, g, deviation),
            "bernoulli": Bernoulli(logits=g, validate_args=False),
        }
        total = (_log_prob(by_name[name], x) * rows.observed).sum(dim=-1)
    else:
        total = torch.zeros(len(z), len(rows.known), dtype=torch.float64)
    start = d
    for j, size in enumerate(model.layout.cardinalities):
        logits = 20.0 * torch.tanh(answer[..., start : start + size] / 20.0)
        code = rows.onehot[:, start - d : start - d + size].argmax(dim=1)
        known = _log_prob(Categorical(logits=logits), code) + math.log1p(-model.layout.unknown_mass)
        total = total + known * rows.known[:, j] + math.log(model.layout.unknown_mass) * rows.unknown[:, j]
        start += size
    return total


@torch.no_grad()
def log_evidence(model: TableVAE, rows: Rows) -> Tensor:
    """log p(row) by the trapezoid rule over a grid of z, shape (n,)."""
    points = 2001 if model.k == 1 else 201
    axis = torch.linspace(-8.0, 8.0, points)
    z = torch.cartesian_prod(*[axis] * model.k).reshape(-1, model.k)
    log_cell = model.k * math.log((axis[1] - axis[0]).item())
    log_prior = _log_prob(Normal(0.0, 1.0), z.double()).sum(dim=1, keepdim=True)
    return torch.logsumexp(log_likelihood(model, z, rows) + log_prior, dim=0) + log_cell


@pytest.mark.parametrize("likelihood", ["gaussian", "mse", "bernoulli", "student-t"])
@pytest.mark.parametrize(("d", "cards", "latent"), [(3, (), 1), (2, (3, 2), 1), (2, (), 2)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_bound_lies_below_the_log_evidence(  # noqa: PLR0913, PLR0917
    make_model: MakeModel, make_rows: MakeRows, likelihood: str, d: int, cards: tuple[int, ...], latent: int, seed: int
) -> None:
    model = make_model(d, cards, seed=seed, likelihood=likelihood, latent=latent)
    rows = make_rows(model, N_ROWS)
    bound = elbo(model, rows, even_noise(latent, 1001 if latent == 1 else 51)).double()
    evidence = log_evidence(model, rows)
    assert (bound <= evidence + 1e-3).all()
    assert (bound < evidence - 0.05).any()  # random weights are far from the posterior: the comparison has teeth


def test_the_bound_of_categories_alone_lies_below_the_log_evidence(make_model: MakeModel, make_rows: MakeRows) -> None:
    model = make_model(0, (4, 2, 3))
    rows = make_rows(model, N_ROWS)
    bound = elbo(model, rows, even_noise(1, 1001)).double()
    evidence = log_evidence(model, rows)
    assert (bound <= evidence + 1e-3).all()
    assert (bound < evidence - 0.05).any()


def test_the_masked_bound_lies_below_the_evidence_of_the_observed_cells(
    make_model: MakeModel, make_raw: MakeRaw
) -> None:
    model = make_model(3, (3, 2), likelihood="gaussian")
    numeric, codes = make_raw(model.layout, N_ROWS)
    numeric[::2, 0] = torch.nan
    numeric[::3, 2] = torch.nan
    codes[::2, 0] = 3  # missing
    codes[1::2, 1] = 9  # never seen
    rows: Rows = model.preparation(numeric, codes)
    bound = elbo(model, rows, even_noise(1, 1001)).double()
    evidence = log_evidence(model, rows)
    assert (bound <= evidence + 1e-3).all()
    assert (evidence - bound).min() < 5.0


def test_the_bound_is_the_mean_over_draws_as_the_objective_is_the_mean_over_rows(
    make_model: MakeModel, make_rows: MakeRows
) -> None:
    model = make_model(2, (3,))
    rows = make_rows(model, N_ROWS)
    noise = torch.randn(50, 1, 1, generator=torch.Generator().manual_seed(0))
    each = torch.stack([elbo(model, rows, draw[None]) for draw in noise]).mean(dim=0)
    torch.testing.assert_close(each, elbo(model, rows, noise), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        together = objective(model, rows, Noise(noise))
    torch.testing.assert_close(-together, each.mean(), rtol=1e-4, atol=1e-4)


def be_linear(model: TableVAE, weights: Tensor, bias: Tensor) -> None:
    """Sets a linear decoder g = Wz + b, and the encoder to its exact posterior.

    A pair of SiLU units of opposite sign is the identity: silu(a) - silu(-a) = a. The columns of W must be orthogonal
    in units of the noise, for the posterior to be diagonal.
    """
    d, k = weights.shape
    pair = torch.cat([torch.eye(k), -torch.eye(k)])
    variance = torch.exp(dict(model.likelihood.named_parameters())["numeric.free_log_variance"].detach())
    precision = 1.0 + (weights.square() / variance[:, None]).sum(dim=0)
    to_mean = (weights / variance[:, None] / precision).T  # (k, d)
    with torch.no_grad():
        for layers, first, first_bias, last, last_bias in (
            (model.decoder, pair, torch.zeros(2 * k), weights @ pair.T, bias),
            (
                model.encoder,
                torch.cat([pair @ to_mean, torch.zeros(2 * k, d)], dim=1),
                -pair @ to_mean @ bias,
                torch.cat([pair.T, torch.zeros(k, 2 * k)]),
                torch.cat([torch.zeros(k), -torch.log(precision)]),
            ),
        ):
            parameters = dict(layers.named_parameters())
            for position, weight, offset in ((0, first, first_bias), (2, last, last_bias)):
                parameters[f"{position}.weight"].copy_(weight)
                parameters[f"{position}.bias"].copy_(offset)


@pytest.mark.parametrize(
    "weights", [[[0.8], [-0.5], [0.3]], [[1.0, 0.0], [0.5, 0.0], [0.0, -0.7]]], ids=["one latent", "two latents"]
)
def test_the_bound_is_the_log_evidence_at_the_exact_posterior(
    make_model: MakeModel, make_rows: MakeRows, weights: list[list[float]]
) -> None:
    loading, bias = torch.tensor(weights), torch.tensor([0.2, -0.1, 0.4])
    k = loading.shape[1]
    model = make_model(3, likelihood="gaussian", layers=(2 * k,), latent=k)
    be_linear(model, loading, bias)
    rows = make_rows(model, N_ROWS)
    variance = torch.exp(dict(model.likelihood.named_parameters())["numeric.free_log_variance"].detach()).double()
    covariance = loading.double() @ loading.double().T + torch.diag(variance)
    evidence = stats.multivariate_normal(bias.double().numpy(), covariance.numpy()).logpdf(rows.x.double().numpy())
    bound = elbo(model, rows, even_noise(k, 2001 if k == 1 else 151)).double()
    tolerance = 5e-3 if k == 1 else 3e-2  # what the equal masses leave out of the tails
    np.testing.assert_allclose(bound.numpy(), evidence, atol=tolerance)
    np.testing.assert_allclose(log_evidence(model, rows).numpy(), evidence, atol=1e-4)


def test_the_bound_leaves_the_evidence_by_the_divergence_from_the_exact_posterior(
    make_model: MakeModel, make_rows: MakeRows
) -> None:
    loading, bias = torch.tensor([[0.8], [-0.5], [0.3]]), torch.zeros(3)
    model = make_model(3, likelihood="gaussian", layers=(2,), latent=1)
    be_linear(model, loading, bias)
    rows = make_rows(model, N_ROWS)
    noise = even_noise(1, 2001)
    exact = elbo(model, rows, noise)
    with torch.no_grad():
        precise = model.posterior(rows.features()).log_variance.exp()[0, 0]
        dict(model.encoder.named_parameters())["2.bias"].add_(torch.tensor([0.5, 0.0]))  # moves the mean of q by a half
    torch.testing.assert_close(
        exact - elbo(model, rows, noise), torch.full((N_ROWS,), 0.125 / precise.item()), rtol=1e-3, atol=1e-3
    )


def test_a_beta_other_than_one_moves_the_objective_by_the_divergence_alone(
    make_model: MakeModel, make_rows: MakeRows
) -> None:
    values = {beta: make_model(2, (3,), kind="beta-vae", beta=beta) for beta in (0.0, 1.0, 4.0)}
    rows = make_rows(values[1.0], N_ROWS)
    noise = Noise(even_noise(1, 101))
    with torch.no_grad():
        found = {beta: objective(model, rows, noise).item() for beta, model in values.items()}
    assert found[4.0] - found[1.0] == pytest.approx(3.0 * (found[1.0] - found[0.0]), rel=1e-4)
    assert found[1.0] > found[0.0]
