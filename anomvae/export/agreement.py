"""Whether a graph's answers are the model's, as far as float32 can tell."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from anomvae.errors import ParityError
from anomvae.vae.novelty import Novelty

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import numpy.typing as npt

    Arrays = Mapping[str, npt.NDArray[np.generic]]
    Doubles = npt.NDArray[np.float64]
    Magnitude = Callable[[str, Mapping[str, "Doubles"]], "Doubles"]

TOLERANCE = 1e-4
"""Relative difference that is always allowed."""
SLACK = 8.0
"""And as many times what the model's own float32 is away from its float64."""
USUAL = 0.9
"""A row is at least as unsure as this quantile of those beside it: a few roundings of one may all come out well."""
NUDGES = (0.0, 1.0, -1.0, 2.0)
"""Inputs are moved by as many units of float32's last place: each move rounds anew."""


@dataclass(frozen=True)
class Answers:
    """What a model answers, and how sure its digits are.

    Attributes:
        wanted: By name, float64, shape ``(n, ...)``.
        unsure: By name, what float32 leaves open of each row, relative to the output's magnitude, shape ``(n,)``.
    """

    wanted: Mapping[str, Doubles]
    unsure: Mapping[str, Doubles]


class Exact:
    """A model beside its twin in float64.

    Two libraries sum in different orders, so that answers in float32 differ in the last digits; and where a score is a small
    difference of large terms, or a residual over a small learnt deviation, the last digits of those are leading digits of it.
    How much of an answer is rounding is measured: by the model itself in float32 and in float64, on the same inputs, moved a
    few units in the last place.

    Args:
        scorer: The model: raw numbers and integers in, a named tuple of tensors out, rows first.
        names: Of its answers to compare.
        families: Answers made of the same sums: what one of them leaves open, all do.
    """

    def __init__(self, scorer: nn.Module, names: Sequence[str], families: Sequence[frozenset[str]]) -> None:
        self._scorer, self._names, self._families = scorer, tuple(names), tuple(families)
        self._twin = copy.deepcopy(scorer).double()
        for part in self._twin.modules():
            if isinstance(part, Novelty):  # looks values up, which are those of float32
                part.float()

    def answers(self, numbers: npt.NDArray[np.float32], codes: npt.NDArray[np.int64], magnitude: Magnitude) -> Answers:
        """The model's answers and what float32 leaves open of them.

        Args:
            numbers: First input, rows first.
            codes: Second input.
            magnitude: Of an answer by its name and all answers, in the shape of that answer or one that broadcasts.
        """
        wanted = self._ask(self._scorer, numbers, codes)
        unsure = {name: np.zeros(len(numbers)) for name in self._names}
        for nudge in NUDGES:
            moved = (numbers * np.float32(1.0 + nudge * np.finfo(np.float32).eps)).astype(np.float32)
            rounded = self._ask(self._scorer, moved, codes) if nudge else wanted
            exact = self._ask(self._twin, moved.astype(np.float64), codes)
            for name in self._names:
                apart = relative(rounded[name], exact[name], magnitude(name, exact))
                unsure[name] = np.maximum(unsure[name], np.nan_to_num(apart, nan=0.0, posinf=0.0))
        unsure = {name: np.maximum(each, np.quantile(each, USUAL)) for name, each in unsure.items()}
        for family in self._families:
            together = np.max([unsure[name] for name in family if name in unsure], axis=0)
            unsure |= {name: together for name in family if name in unsure}
        return Answers(wanted, unsure)

    def _ask(
        self, scorer: nn.Module, numbers: npt.NDArray[np.floating], codes: npt.NDArray[np.int64]
    ) -> dict[str, Doubles]:
        with torch.no_grad():
            told = scorer(torch.from_numpy(numbers), torch.from_numpy(codes))
        return {name: getattr(told, name).numpy().astype(np.float64) for name in self._names}


def hold(
    found: Arrays,
    answers: Answers,
    magnitude: Magnitude,
    allowed: Mapping[str, float] | None = None,
    finite: Collection[str] = (),
) -> float:
    """Holds a graph's answers against a model's.

    Args:
        found: By name; others than the model's are left alone.
        answers: The model's.
        magnitude: As for :meth:`Exact.answers`.
        allowed: Relative difference by name; default :data:`TOLERANCE`.
        finite: Answers that must be numbers; others may be missing or infinite where the model's are.

    Returns:
        The largest relative difference seen.

    Raises:
        ParityError: One differs by more than is allowed and by more than :data:`SLACK` times what float32 leaves open, is
            missing where the model's is not, or of another shape.
    """
    worst = 0.0
    for name, wanted in answers.wanted.items():
        if name not in found:
            continue
        tried = np.asarray(found[name], np.float64)
        if (
            tried.shape != wanted.shape
            or (np.isnan(tried) != np.isnan(wanted)).any()
            or not _same_infinities(tried, wanted)
            or (name in finite and not np.isfinite(tried).all())
        ):
            raise ParityError(
                f"the exported graph's {name} is not finite, or of another shape, at batch size {len(wanted)}"
            )
        apart = relative(tried, wanted, magnitude(name, answers.wanted))
        most = np.maximum((allowed or {}).get(name, TOLERANCE), SLACK * answers.unsure[name])
        if not (apart <= most).all():
            row = int(np.argmax(apart - most))
            raise ParityError(
                f"the exported graph's {name} differs from the model's by {apart[row]:.1e} relative at batch size "
                f"{len(wanted)}; at most {most[row]:.1e} is allowed"
            )
        worst = max(worst, float(apart.max(initial=0.0)))
    return worst


def _same_infinities(tried: Doubles, wanted: Doubles) -> bool:
    infinite = np.isinf(tried) | np.isinf(wanted)
    return bool((tried[infinite] == wanted[infinite]).all())


def relative(left: Doubles, right: Doubles, magnitude: Doubles) -> Doubles:
    """Largest difference of each row, relative to the magnitude; missing cells are left out; shape ``(n,)``."""
    with np.errstate(invalid="ignore"):  # infinities that are the same
        apart = np.nan_to_num(np.abs(left - right) / magnitude, nan=0.0, posinf=np.inf)
    largest: Doubles = apart.reshape(len(apart), -1).max(axis=1, initial=0.0)
    return largest
