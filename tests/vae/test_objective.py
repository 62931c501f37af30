"""What training minimises, row by row: a row's objective is its own, and the mean over rows is what a step descends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from anomvae.vae.objective import (
    Noise,
    bound_of_rows,
    draw_noise,
    encode_exemplars,
    exemplar_objective,
    exemplar_objective_of_rows,
    objective,
    objective_of_rows,
    shrinkage_of,
)

if TYPE_CHECKING:
    from tests.vae.conftest import MakeModel, MakeRows

KINDS: list[dict[str, Any]] = [
    {},
    {"kind": "beta-vae"},
    {"kind": "autoencoder"},
    {"kind": "denoising-autoencoder"},
    {"prior": "pseudo-rows", "exemplars": 3},
    {"likelihood": "student-t"},
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())) or "vae")
def test_a_rows_objective_does_not_depend_on_the_rows_beside_it(
    make_model: MakeModel, make_rows: MakeRows, kind: dict[str, Any]
) -> None:
    model = make_model(2, (3,), mask_rate=0.2, **kind)
    rows, noise = make_rows(model, 9), draw_noise(model, 9, torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = objective_of_rows(model, rows, noise)
        assert whole.shape == (9,)
        torch.testing.assert_close(objective(model, rows, noise), whole.mean())
        few = torch.tensor([6, 2])
        hidden = None if noise.hidden is None else noise.hidden[few]
        numbers = None if noise.numbers is None else noise.numbers[few]
        part = Noise(noise.latent[:, few], numbers, hidden)
        torch.testing.assert_close(objective_of_rows(model, rows.take(few), part), whole[few])


def test_under_exemplars_a_rows_objective_is_its_own_and_an_exemplar_that_is_the_row_takes_no_part(
    make_model: MakeModel, make_rows: MakeRows
) -> None:
    model = make_model(2, (3,), prior="exemplars")
    rows, exemplars = make_rows(model, 4, 1), make_rows(model, 5, 2)
    own = torch.zeros(4, 5, dtype=torch.bool)
    own[2, 3] = True
    noise = draw_noise(model, 9, torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = exemplar_objective_of_rows(model, rows, exemplars, own, noise)
        torch.testing.assert_close(exemplar_objective(model, rows, exemplars, own, noise), whole.mean())
        others, at = torch.tensor([0, 1, 2, 4]), torch.tensor([2, 4, 5, 6, 8])
        left_out = exemplar_objective_of_rows(
            model, rows.take(at[:1]), exemplars.take(others), own[2:3, others], Noise(noise.latent[:, at])
        )
        # The mean is still over five exemplars.
        torch.testing.assert_close(whole[2:3], left_out + torch.log(torch.tensor(5 / 4)), rtol=1e-5, atol=1e-5)


def test_the_bound_of_rows_is_the_objective_without_noise(make_model: MakeModel, make_rows: MakeRows) -> None:
    model = make_model(2, (3,), prior="exemplars")
    rows, exemplars = make_rows(model, 4, 1), make_rows(model, 5, 2)
    with torch.no_grad():
        found = bound_of_rows(model, rows, encode_exemplars(model, exemplars))
        still = Noise(torch.zeros(1, 9, model.k))
        own = torch.zeros(4, 5, dtype=torch.bool)
        torch.testing.assert_close(found, exemplar_objective_of_rows(model, rows, exemplars, own, still))


def test_variances_that_agree_cost_nothing_and_others_their_squared_distance_from_the_mean() -> None:
    assert shrinkage_of(torch.full((2, 3), -4.0)).tolist() == [0.0, 0.0]
    assert shrinkage_of(torch.tensor([[1.0, 3.0], [0.0, 6.0]])).tolist() == [2.0, 18.0]
    assert shrinkage_of(torch.zeros(2, 0)).tolist() == [0.0, 0.0]
