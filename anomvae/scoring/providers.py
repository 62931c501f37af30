"""Execution providers: what was asked for, what this machine has, what a session really uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnxruntime as ort

from anomvae.errors import ProviderError

if TYPE_CHECKING:
    from collections.abc import Sequence

Provider = str | tuple[str, dict[str, Any]]
"""A provider of ONNX Runtime by its full name, with or without options."""

AUTO = "auto"
CPU = "cpu"
_SUFFIX = "ExecutionProvider"
_OPTIONS: dict[str, dict[str, Any]] = {
    # TensorFloat-32 rounds products to 10 bits: scores would differ from the CPU's in the third digit.
    "cuda": {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"},
}


@dataclass(frozen=True, slots=True)
class ProviderChoice:
    """Which providers a session is asked to use.

    Attributes:
        wanted: Short names, best first, as the user asked: `cuda`, `cpu`.
        usable: Those of them this installation has, best first.
        strict: Whether anything but the first wanted is an error.
    """

    wanted: tuple[str, ...]
    usable: tuple[str, ...]
    strict: bool = False

    @property
    def providers(self) -> tuple[Provider, ...]:
        """As ONNX Runtime takes them."""
        return tuple((full_name(name), _OPTIONS[name]) if name in _OPTIONS else full_name(name) for name in self.usable)

    def fell_back(self, in_use: Sequence[str]) -> bool:
        """Whether a session's first provider is not the one wanted first.

        Args:
            in_use: Full names that the session reports, best first.
        """
        return not in_use or short_name(in_use[0]) != self.wanted[0]


def choose_providers(text: str, *, strict: bool = False, available: Sequence[str] | None = None) -> ProviderChoice:
    """Reads `--providers`.

    Args:
        text: `auto` (CUDA where it is installed, else the CPU), or names, best first: `cuda,cpu`, `tensorrt,cuda,cpu`.
        strict: Whether a provider that cannot be had is an error; else the next one is taken, and the CPU at last.
        available: Full names that this installation has; None: ask ONNX Runtime.

    Raises:
        ProviderError: A name is none of ONNX Runtime's, or with `strict` the first one is not installed.

    Example:
        >>> choose_providers("cuda,cpu", available=["CPUExecutionProvider"]).usable
        ('cpu',)
    """
    have = [short_name(name) for name in (ort.get_available_providers() if available is None else available)]
    if text.strip().lower() == AUTO:
        best = "cuda" if "cuda" in have else CPU
        return ProviderChoice((best,), tuple(dict.fromkeys((best, CPU))), strict)
    wanted = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    known = {short_name(name) for name in ort.get_all_providers()}
    strange = [name for name in wanted if name not in known]
    if strange or not wanted:
        named = f"has {strange[0]!r}, which ONNX Runtime does not know" if strange else "is empty"
        raise ProviderError(f"--providers {named}; write auto, or names such as {', '.join(sorted({*have, CPU}))}")
    if strict and wanted[0] not in have:
        raise ProviderError(
            f"the execution provider {wanted[0]!r} is not installed here (there are {', '.join(have)}); install the "
            "onnxruntime build that has it, or leave out --strict-providers to run on the next best"
        )
    usable = tuple(name for name in wanted if name in have)
    if not strict or not usable:
        usable = tuple(dict.fromkeys((*usable, CPU)))
    return ProviderChoice(wanted, usable, strict)


def short_name(provider: str) -> str:
    """A provider's name as users write it.

    Example:
        >>> short_name("CUDAExecutionProvider"), short_name("TensorrtExecutionProvider")
        ('cuda', 'tensorrt')
    """
    return provider.removesuffix(_SUFFIX).lower()


def full_name(name: str) -> str:
    """A provider's name as ONNX Runtime writes it."""
    providers: list[str] = ort.get_all_providers()
    return next(provider for provider in providers if short_name(provider) == name)
