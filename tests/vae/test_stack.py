"""Networks side by side answer and learn as each would alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from anomvae.vae.objective import draw_noise, exemplar_objective_of_rows, shrinkage
from anomvae.vae.stack import NetworkStack, stacked_exemplar_objective

if TYPE_CHECKING:
    from torch import Tensor

    from anomvae.vae.model import TableVAE
    from tests.vae.conftest import MakeModel, MakeRows

SIZE, N, E = 3, 7, 5
TABLES = [(3, (3,)), (2, ()), (0, (2, 4))]


def stack_of(model: TableVAE) -> NetworkStack:
    """Three networks, no two alike."""
    stack = NetworkStack(model, SIZE)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for flat in stack.flat:
            flat.add_(0.2 * torch.randn(flat.shape, generator=draw))
    return stack


def masks() -> tuple[Tensor, Tensor]:
    own, closed = torch.zeros(N, E, dtype=torch.bool), torch.zeros(SIZE, E, dtype=torch.bool)
    own[0, 1] = own[3, 4] = closed[0, 2] = closed[1, 1] = closed[1, 3] = True
    return own, closed


def gradients(model: TableVAE) -> dict[str, Tensor]:
    return {name: torch.zeros_like(w) if w.grad is None else w.grad for name, w in model.named_parameters()}


@pytest.mark.parametrize(("d", "cards"), TABLES)
@pytest.mark.parametrize("layers", [(8,), (8, 6, 5)])
def test_the_exemplar_objective_and_its_gradient_are_those_of_each_network(
    make_model: MakeModel, make_rows: MakeRows, d: int, cards: tuple[int, ...], layers: tuple[int, ...]
) -> None:
    model = make_model(d, cards, prior="exemplars", mask_rate=0.2, input_noise=0.3, layers=layers, latent=2)
    rows, exemplars = make_rows(model, N, 1), make_rows(model, E, 2)
    noise, (own, closed) = draw_noise(model, N + E, torch.Generator().manual_seed(0)), masks()
    stack, weight = stack_of(model), torch.rand(SIZE, N, generator=torch.Generator().manual_seed(4))
    score, penalty = stacked_exemplar_objective(stack, rows, exemplars, own, closed, noise)
    ((score * weight).sum() + penalty.sum()).backward()  # type: ignore[no-untyped-call]
    for at in range(SIZE):
        alone = stack.network(at)
        wanted = exemplar_objective_of_rows(alone, rows, exemplars, own | closed[at], noise)
        torch.testing.assert_close(score[at], wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(penalty[at], shrinkage(alone))
        ((wanted * weight[at]).sum() + shrinkage(alone)).backward()  # type: ignore[no-untyped-call]
        grown = NetworkStack(model, SIZE)  # the gradients as weights, by name
        with torch.no_grad():
            for flat, source in zip(grown.flat, stack.flat, strict=True):
                flat.copy_(source.grad if source.grad is not None else torch.zeros_like(source))
        found = {name: value[at] for name, value in grown.weights().items()}
        for name, value in gradients(alone).items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-3)


def test_a_mapped_function_answers_for_each_network(make_model: MakeModel, make_rows: MakeRows) -> None:
    model = make_model(2, (3,))
    stack, rows, factor = stack_of(model), make_rows(model, N), torch.tensor([1.0, 2.0, 3.0])

    def function(each: TableVAE, x: Tensor, by: Tensor) -> Tensor:
        return each.posterior(x).mean * by

    found = stack.each(function, per_network=(False, True))(rows.features(), factor)
    for at in range(SIZE):
        torch.testing.assert_close(found[at], function(stack.network(at), rows.features(), factor[at]))


@pytest.mark.parametrize("prior", ["exemplars", "pseudo-rows", "normal"])
@pytest.mark.parametrize(("d", "cards"), TABLES)
def test_all_start_as_the_model_and_a_network_written_to_a_model_is_that_network(
    make_model: MakeModel, prior: str, d: int, cards: tuple[int, ...]
) -> None:
    model = make_model(d, cards, prior=prior)
    started = NetworkStack(model, SIZE).network(2).state_dict()
    assert all(torch.equal(value, started[name]) for name, value in model.state_dict().items())
    stack = stack_of(model)
    for at in range(SIZE):
        target = make_model(d, cards, prior=prior, seed=5)
        stack.write(at, target)
        held = stack.weights()
        assert all(torch.equal(weight, held[name][at]) for name, weight in target.named_parameters())
    assert all(torch.equal(value, started[name]) for name, value in model.state_dict().items())


def test_a_stack_without_exemplars_has_no_exemplar_objective(make_model: MakeModel, make_rows: MakeRows) -> None:
    model = make_model(2, ())
    rows = make_rows(model, N)
    noise = draw_noise(model, 2 * N, torch.Generator().manual_seed(0))
    with pytest.raises((TypeError, KeyError)):
        stacked_exemplar_objective(
            stack_of(model), rows, rows, torch.zeros(N, N).bool(), torch.zeros(SIZE, N).bool(), noise
        )
