from __future__ import annotations

import pytest

from anomvae.errors import ProviderError
from anomvae.scoring.providers import ProviderChoice, choose_providers, full_name, short_name

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"


@pytest.mark.parametrize(
    ("text", "available", "wanted", "usable"),
    [
        ("auto", [CPU], ("cpu",), ("cpu",)),
        ("auto", [CUDA, CPU], ("cuda",), ("cuda", "cpu")),
        ("auto", [TENSORRT, CPU], ("cpu",), ("cpu",)),
        (" AUTO ", [CPU], ("cpu",), ("cpu",)),
        ("cpu", [CUDA, CPU], ("cpu",), ("cpu",)),
        ("cuda", [CUDA, CPU], ("cuda",), ("cuda", "cpu")),
        ("cuda", [CPU], ("cuda",), ("cpu",)),
        ("tensorrt,cuda,cpu", [CUDA, CPU], ("tensorrt", "cuda", "cpu"), ("cuda", "cpu")),
        (" Cuda , cpu,, cuda", [CUDA, CPU], ("cuda", "cpu"), ("cuda", "cpu")),
    ],
)
def test_the_best_that_is_here_is_used_and_the_cpu_at_last(
    text: str, available: list[str], wanted: tuple[str, ...], usable: tuple[str, ...]
) -> None:
    choice = choose_providers(text, available=available)
    assert (choice.wanted, choice.usable) == (wanted, usable)


@pytest.mark.parametrize("text", ["gpu", "cuda,warp", "", " , ", "CUDAExecutionProvider"])
def test_a_name_that_is_none_is_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(ProviderError, match="write auto, or names such as cpu, cuda"):
        choose_providers(text, available=[CUDA, CPU])


def test_strict_refuses_what_is_not_installed_and_never_adds_the_cpu() -> None:
    with pytest.raises(ProviderError, match="'cuda' is not installed here"):
        choose_providers("cuda,cpu", strict=True, available=[CPU])
    assert choose_providers("cuda", strict=True, available=[CUDA, CPU]).usable == ("cuda",)


def test_a_choice_knows_whether_a_session_fell_back() -> None:
    choice = choose_providers("cuda,cpu", available=[CPU])
    assert choice.fell_back([CPU])
    assert choice.fell_back([])
    assert not choice.fell_back([CUDA, CPU])
    assert not choose_providers("auto", available=[CPU]).fell_back([CPU])


def test_cuda_computes_in_full_float32() -> None:
    (cuda, cpu) = ProviderChoice(("cuda",), ("cuda", "cpu")).providers
    assert isinstance(cuda, tuple)
    assert cuda[0] == CUDA
    assert cuda[1]["use_tf32"] == "0"
    assert cpu == CPU


def test_names_go_there_and_back() -> None:
    for provider in (CPU, CUDA, TENSORRT):
        assert full_name(short_name(provider)) == provider


def test_without_a_list_this_installation_is_asked() -> None:
    assert "cpu" in choose_providers("auto").usable
