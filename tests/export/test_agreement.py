"""A graph is held to what float32 leaves open of an answer, and to no less."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anomvae.errors import ParityError
from anomvae.export.agreement import SLACK, TOLERANCE, Answers, Exact, hold, relative

if TYPE_CHECKING:
    from collections.abc import Mapping


class Told(NamedTuple):
    score: Tensor
    part: Tensor


class Difference(nn.Module):
    """The small difference of large numbers: float32 keeps few of its digits."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.size: Tensor
        self.register_buffer("size", torch.tensor(size))

    def forward(self, numbers: Tensor, codes: Tensor) -> Told:
        left = (numbers[:, 0] + self.size) - self.size + codes
        return Told(left, left[:, None] * torch.ones(2, dtype=numbers.dtype))


def size(name: str, answers: Mapping[str, np.ndarray]) -> np.ndarray:
    found: np.ndarray = np.maximum(np.abs(answers[name]), 1.0)
    return found


def answers(scale: float, families: tuple[frozenset[str], ...] = ()) -> Answers:
    numbers = np.linspace(1, 2, 50, dtype=np.float32)[:, None]
    return Exact(Difference(scale), ("score", "part"), families).answers(numbers, np.zeros(50, np.int64), size)


def test_what_cancels_is_unsure_and_the_rest_is_not() -> None:
    assert answers(1.0).unsure["score"].max() < 1e-6
    unsure = answers(1e5).unsure["score"]
    assert 1e-4 < unsure.max() < 1e-2


def test_answers_of_one_family_are_as_unsure_as_the_least_sure() -> None:
    told = answers(1e5, (frozenset({"score", "part"}),))
    np.testing.assert_array_equal(told.unsure["score"], told.unsure["part"])


@pytest.mark.parametrize(("scale", "apart", "is_held"), [(1.0, 0.9 * TOLERANCE, True), (1.0, 5e-4, False), (1e5, 5e-4, True), (1e5, 0.5, False)])  # fmt: skip
def test_a_difference_is_borne_where_float32_leaves_as_much_open(scale: float, apart: float, is_held: bool) -> None:
    told = answers(scale)
    found = {name: value * (1.0 + apart) for name, value in told.wanted.items()}
    if is_held:
        least = int(np.argmax(told.unsure["score"]))
        one = Answers(
            {name: value[[least]] for name, value in told.wanted.items()},
            {name: value[[least]] for name, value in told.unsure.items()},
        )
        assert hold({name: value[[least]] for name, value in found.items()}, one, size) > 0
    else:
        with pytest.raises(ParityError, match="differs from the model's"):
            hold(found, told, size)


def test_the_limit_is_so_many_times_what_is_open() -> None:
    told = Answers({"score": np.ones(1)}, {"score": np.array([1e-3])})
    hold({"score": np.array([1 + 0.99 * SLACK * 1e-3])}, told, size)
    with pytest.raises(ParityError):
        hold({"score": np.array([1 + 1.01 * SLACK * 1e-3])}, told, size)


@pytest.mark.parametrize("wrong", [np.array([np.nan]), np.array([np.inf]), np.ones((1, 2)), np.ones(2)])
def test_what_is_missing_or_of_another_shape_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ParityError, match="not finite, or of another shape"):
        hold({"score": wrong}, Answers({"score": np.ones(1)}, {"score": np.zeros(1)}), size)


def test_cells_missing_in_both_are_level_and_other_names_are_left() -> None:
    told = Answers({"expected": np.array([[np.nan, 2.0]])}, {"expected": np.zeros(1)})
    assert hold({"expected": np.array([[np.nan, 2.0]]), "other": np.ones(3)}, told, size) == 0.0
    with pytest.raises(ParityError):
        hold({"expected": np.array([[1.0, 2.0]])}, told, size)
    assert relative(np.array([[1.0, np.nan]]), np.array([[1.5, np.nan]]), np.ones((1, 2))).tolist() == [0.5]


def test_the_same_infinities_are_level() -> None:
    told = Answers({"expected": np.array([[np.inf, 2.0]])}, {"expected": np.zeros(1)})
    assert hold({"expected": np.array([[np.inf, 2.0]])}, told, size) == 0.0
    for wrong in ([[-np.inf, 2.0]], [[3.0, 2.0]], [[np.inf, np.inf]]):
        with pytest.raises(ParityError):
            hold({"expected": np.array(wrong)}, told, size)


def test_a_row_is_as_unsure_as_most_beside_it() -> None:
    unsure = answers(1e5).unsure["score"]
    assert unsure.min() >= np.quantile(unsure, 0.85)


def test_what_comes_out_even_by_chance_is_unsure_all_the_same() -> None:
    """Whole numbers lose nothing in the difference; those a last place beside them do."""
    numbers = np.full((5, 1), 3.0, dtype=np.float32)
    told = Exact(Difference(2.0**20), ("score",), ()).answers(numbers, np.zeros(5, np.int64), size)
    assert told.unsure["score"].min() > 1e-8


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_must_be_a_number_in_the_model_too(value: float) -> None:
    told = Answers({"score": np.array([value])}, {"score": np.zeros(1)})
    hold({"score": np.array([value])}, told, size)
    with pytest.raises(ParityError, match="not finite"):
        hold({"score": np.array([value])}, told, size, finite=("score",))
