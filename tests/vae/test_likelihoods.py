"""Each likelihood's cost against torch.distributions; densities integrate, and masses sum, to 1."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import integrate
from torch.distributions import Bernoulli, Categorical, Distribution, Normal, StudentT

from anomvae.vae.layout import NO_CODE, Layout
from anomvae.vae.likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    GaussianLikelihood,
    SquaredErrorLikelihood,
    StudentTLikelihood,
    numeric_likelihood,
)
from anomvae.vae.preparation import Preparation, Rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

D = 3
NUMBERS = npst.arrays(np.float32, (4, D), elements=st.floats(-30, 30, width=32)).map(torch.from_numpy)
LOG_VARIANCE = torch.tensor([-5.0, 0.0, 1.5])


def log_prob(distribution: Distribution, value: Tensor) -> Tensor:
    answer: Tensor = distribution.log_prob(value)
    return answer


def gaussian() -> GaussianLikelihood:
    likelihood = GaussianLikelihood(D, -6.0)
    likelihood.free_log_variance.data.copy_(LOG_VARIANCE)
    return likelihood


def student_t(degrees: float = 4.0) -> StudentTLikelihood:
    likelihood = StudentTLikelihood(D, -6.0, degrees)
    likelihood.free_log_variance.data.copy_(LOG_VARIANCE)
    return likelihood


@given(NUMBERS, NUMBERS)
def test_the_gaussian_costs_what_a_normal_does(g: Tensor, x: Tensor) -> None:
    wanted = -log_prob(Normal(g, torch.exp(0.5 * LOG_VARIANCE)), x)
    torch.testing.assert_close(gaussian().cost(g, x), wanted, rtol=1e-4, atol=1e-4)


@given(NUMBERS, NUMBERS)
def test_the_squared_error_costs_what_a_normal_of_unit_variance_does(g: Tensor, x: Tensor) -> None:
    torch.testing.assert_close(SquaredErrorLikelihood().cost(g, x), -log_prob(Normal(g, 1.0), x), rtol=1e-5, atol=1e-4)


@given(NUMBERS, NUMBERS, st.sampled_from([1.0, 4.0, 30.0]))
def test_the_student_t_costs_what_a_student_t_does(g: Tensor, x: Tensor, degrees: float) -> None:
    wanted = -log_prob(StudentT(degrees, g, torch.exp(0.5 * LOG_VARIANCE)), x)
    torch.testing.assert_close(student_t(degrees).cost(g, x), wanted, rtol=1e-4, atol=1e-4)


@given(NUMBERS, npst.arrays(np.float32, (4, D), elements=st.sampled_from([0.0, 1.0])).map(torch.from_numpy))
def test_the_bernoulli_costs_what_a_bernoulli_does_on_flags(g: Tensor, x: Tensor) -> None:
    torch.testing.assert_close(
        BernoulliLikelihood().cost(g, x), -log_prob(Bernoulli(logits=g), x), rtol=1e-5, atol=1e-5
    )


@given(NUMBERS, npst.arrays(np.float32, (4, D), elements=st.floats(0, 1, width=32)).map(torch.from_numpy))
def test_the_bernoulli_costs_the_binary_cross_entropy_of_grey_values(g: Tensor, x: Tensor) -> None:
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(g, x, reduction="none")
    torch.testing.assert_close(BernoulliLikelihood().cost(g, x), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [gaussian, SquaredErrorLikelihood, student_t])
@pytest.mark.parametrize("g", [-2.0, 5.0])
def test_the_density_of_a_number_integrates_to_one_in_every_column(make: Callable[[], Any], g: float) -> None:
    likelihood = make().double()

    def density(column: int) -> Callable[[float], float]:
        def at(x: float) -> float:
            with torch.no_grad():
                cost: Tensor = likelihood.cost(
                    torch.full((1, D), g, dtype=torch.float64), torch.full((1, D), x, dtype=torch.float64)
                )
            return math.exp(-cost[0, column].item())

        return at

    for column in range(D):
        parts = [integrate.quad(density(column), low, high, limit=200)[0] for low, high in ((-np.inf, g), (g, np.inf))]
        assert sum(parts) == pytest.approx(1.0, abs=1e-4)


@given(st.floats(-30, 30))
def test_the_masses_of_a_flag_sum_to_one(g: float) -> None:
    logits = torch.full((1, 1), g)
    costs = [BernoulliLikelihood().cost(logits, torch.full((1, 1), x)).item() for x in (0.0, 1.0)]
    assert sum(math.exp(-cost) for cost in costs) == pytest.approx(1.0, abs=1e-5)


def test_a_learnt_variance_stops_at_the_floor() -> None:
    x, g, deviation = torch.full((1, D), 0.1), torch.zeros(1, D), torch.exp(torch.tensor(-3.0))
    for likelihood, reference in (
        (GaussianLikelihood(D, -6.0), Normal(g, deviation)),
        (StudentTLikelihood(D, -6.0), StudentT(4.0, g, deviation)),
    ):
        likelihood.free_log_variance.data.fill_(-50.0)
        torch.testing.assert_close(likelihood.cost(g, x), -log_prob(reference, x))


def test_heavy_tails_cost_less_than_a_normals() -> None:
    g, far = torch.zeros(1, D), torch.full((1, D), 20.0)
    assert (student_t().cost(g, far) < gaussian().cost(g, far)).all()


def test_names_lead_to_their_likelihoods() -> None:
    classes = {name: type(numeric_likelihood(name, D, -6.0)) for name in ("gaussian", "mse", "bernoulli", "student-t")}
    assert classes == {
        "gaussian": GaussianLikelihood,
        "mse": SquaredErrorLikelihood,
        "bernoulli": BernoulliLikelihood,
        "student-t": StudentTLikelihood,
    }
    assert numeric_likelihood("bernoulli", D, -6.0).scaling == "unit"


CARDS = (3, 1, 4)
MASS = 0.01
LAYOUT = Layout((), (), (), CARDS, (3, NO_CODE, NO_CODE), MASS)
PREPARATION = Preparation(LAYOUT, "standard")
LOGITS = npst.arrays(np.float32, (1, sum(CARDS)), elements=st.floats(-60, 60, width=32)).map(torch.from_numpy)


def categorical() -> CategoricalLikelihood:
    return CategoricalLikelihood(PREPARATION.blocks, MASS)


def brier(logits: Tensor, rows: Rows) -> Tensor:
    likelihood = categorical()
    return likelihood.brier(likelihood.probabilities(logits), rows)


def rows_of(codes: list[int]) -> Rows:
    rows: Rows = PREPARATION(torch.zeros(1, 0), torch.tensor([codes]))
    return rows


def references(logits: Tensor) -> list[Categorical]:
    held = 20.0 * torch.tanh(logits.double() / 20.0)
    return [Categorical(logits=part[0]) for part in torch.split(held, list(CARDS), dim=1)]


@given(LOGITS, st.tuples(*(st.integers(0, size - 1) for size in CARDS)))
def test_a_known_category_costs_what_a_categorical_does_less_the_unknown_mass(
    logits: Tensor, codes: tuple[int, ...]
) -> None:
    wanted = [
        -log_prob(reference, torch.tensor(code)).item() - math.log1p(-MASS)
        for reference, code in zip(references(logits), codes, strict=True)
    ]
    found = categorical().cost(logits, rows_of(list(codes)))[0].double()
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-4, atol=1e-4)


@given(LOGITS)
def test_the_masses_of_a_category_sum_to_one_with_the_unknown(logits: Tensor) -> None:
    for column, size in enumerate(CARDS):
        unknown = size + 1 if column == 0 else size
        total = 0.0
        for code in [*range(size), unknown]:
            codes = [0, 0, 0]
            codes[column] = code
            total += math.exp(-categorical().cost(logits, rows_of(codes))[0, column].item())
        assert total == pytest.approx(1.0, abs=1e-5)


@given(LOGITS)
def test_probabilities_are_the_masses_that_the_cost_charges(logits: Tensor) -> None:
    masses = categorical().probabilities(logits)
    costs = [categorical().cost(logits, rows_of([code, 0, 0]))[0, 0].item() for code in range(CARDS[0])]
    torch.testing.assert_close(masses[0, : CARDS[0]], torch.exp(-torch.tensor(costs)), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(masses @ PREPARATION.blocks, torch.full((1, len(CARDS)), 1 - MASS))


@given(LOGITS)
def test_an_unknown_value_costs_one_row_in_n_plus_one_whatever_the_logits(logits: Tensor) -> None:
    cost = categorical().cost(logits, rows_of([4, 1, -7]))
    torch.testing.assert_close(cost, torch.full((1, 3), -math.log(MASS)))


@given(LOGITS)
def test_a_missing_cell_of_a_category_costs_exactly_nothing(logits: Tensor) -> None:
    rows = rows_of([3, 0, 0])
    assert categorical().cost(logits, rows)[0, 0].item() == 0.0
    assert brier(logits, rows)[0, 0].item() == 0.0


@given(LOGITS, st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(0, 4)))
def test_the_brier_score_is_the_squared_distance_from_what_came(logits: Tensor, codes: tuple[int, int, int]) -> None:
    found = brier(logits, rows_of(list(codes)))[0]
    for column, (reference, code, size) in enumerate(zip(references(logits), codes, CARDS, strict=True)):
        if column == 0 and code == size:
            continue  # missing
        masses = torch.cat([(1 - MASS) * reference.probs, torch.tensor([MASS], dtype=torch.float64)])
        came = torch.zeros(size + 1, dtype=torch.float64)
        came[min(code, size)] = 1.0
        assert found[column].item() == pytest.approx((masses - came).square().sum().item(), abs=1e-4)
        assert 0.0 <= found[column].item() <= 2.0


def test_two_values_are_a_bernoulli_of_the_difference_of_their_logits() -> None:
    layout = Layout((), (), (), (2,), (NO_CODE,), MASS)
    preparation = Preparation(layout, "standard")
    logits = torch.tensor([[0.3, -0.4]])
    rows: Rows = preparation(torch.zeros(1, 0), torch.tensor([[1]]))
    cost = CategoricalLikelihood(preparation.blocks, MASS).cost(logits, rows).item()
    wanted = -log_prob(Bernoulli(logits=torch.tensor(-0.7)), torch.tensor(1.0)).item() - math.log1p(-MASS)
    assert cost == pytest.approx(wanted, abs=1e-3)  # the logits are held, by 1e-4 here


def test_extreme_logits_neither_overflow_nor_lose_their_gradient_in_nan() -> None:
    logits = torch.tensor([[1e6, -1e6, 3e38, 0.0, -3e38, 1.0, 2.0, 3.0]], requires_grad=True)
    cost = categorical().cost(logits, rows_of([1, 0, 2]))
    cost.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(cost).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_a_column_whose_training_cells_were_all_missing_spoils_no_row() -> None:
    layout = Layout((), (), (), (0, 2), (0, NO_CODE), MASS)
    preparation = Preparation(layout, "standard")
    rows: Rows = preparation(torch.zeros(2, 0), torch.tensor([[0, 1], [1, 1]]))  # missing, never seen
    logits = torch.zeros(2, 2, requires_grad=True)
    cost = CategoricalLikelihood(preparation.blocks, MASS).cost(logits, rows)
    cost.sum().backward()  # type: ignore[no-untyped-call]
    assert cost[0, 0].item() == 0.0
    assert cost[1, 0].item() == pytest.approx(-math.log(MASS))
    assert torch.isfinite(cost).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
