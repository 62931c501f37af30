"""Small models with weights worth testing, and rows for them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import torch
from hypothesis import settings as hypothesis_settings

from anomvae.vae.layout import NO_CODE, Layout
from anomvae.vae.model import TableVAE
from anomvae.vae.settings import ModelSettings

if TYPE_CHECKING:
    from torch import Tensor

    from anomvae.vae.preparation import Rows

UNKNOWN_MASS = 0.02

hypothesis_settings.register_profile("unhurried", deadline=None)  # the first call of torch takes its time
hypothesis_settings.load_profile("unhurried")


class MakeModel(Protocol):
    def __call__(self, d: int = ..., cards: tuple[int, ...] = ..., *, seed: int = ..., **settings: Any) -> TableVAE: ...


class MakeRaw(Protocol):
    def __call__(self, layout: Layout, n: int, seed: int = ...) -> tuple[Tensor, Tensor]: ...


class MakeRows(Protocol):
    def __call__(self, model: TableVAE, n: int, seed: int = ...) -> Rows: ...


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def layout_for(d: int, cards: tuple[int, ...]) -> Layout:
    """Numbers around 10 in steps of 2; the first category has missing cells in training, the others none."""
    return Layout(
        offset=tuple(10.0 + j for j in range(d)),
        scale=(2.0,) * d,
        infinite_is_missing=(False,) * d,
        cardinalities=cards,
        missing_codes=tuple(size if j == 0 else NO_CODE for j, size in enumerate(cards)),
        unknown_mass=UNKNOWN_MASS,
    )


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """Makes a model whose weights are random and large enough that nothing is linear."""

    def make(d: int = 2, cards: tuple[int, ...] = (), *, seed: int = 0, **settings: Any) -> TableVAE:
        layout = layout_for(d, cards)
        if settings.get("likelihood") == "bernoulli":
            layout = replace(layout, offset=(0.0,) * d, scale=(1.0,) * d)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = TableVAE(
                layout, ModelSettings(**{"layers": (8,), "latent": 1, "mask_rate": 0.0, "prior": "normal", **settings})
            )
            with torch.no_grad():
                for weight in (*model.encoder.parameters(), *model.decoder.parameters()):
                    weight.mul_(2.5)
                for name, parameter in model.likelihood.named_parameters():
                    if name.endswith("free_log_variance"):
                        parameter.copy_(torch.linspace(-1.5, 0.5, d))
        return model.eval()

    return make


@pytest.fixture(scope="session")
def make_raw() -> MakeRaw:
    """Makes raw rows with no cell missing; numbers of a unit layout are 0 or 1."""

    def make(layout: Layout, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(seed)
        numeric = torch.randn(n, layout.d, generator=draw)
        if layout.offset and layout.offset[0] == 0.0:
            numeric = (numeric > 0).float()
        numeric = numeric * torch.tensor(layout.scale) + torch.tensor(layout.offset)
        codes = [torch.randint(0, size, (n,), generator=draw) for size in layout.cardinalities]
        return numeric, torch.stack(codes, dim=1) if codes else torch.zeros(n, 0, dtype=torch.int64)

    return make


@pytest.fixture(scope="session")
def make_rows(make_raw: MakeRaw) -> MakeRows:
    """Makes prepared rows for a model."""

    def make(model: TableVAE, n: int, seed: int = 0) -> Rows:
        rows: Rows = model.preparation(*make_raw(model.layout, n, seed))
        return rows

    return make
