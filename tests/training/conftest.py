"""A small table and a model for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest
import torch

from anomvae.vae.layout import NO_CODE, Layout
from anomvae.vae.model import TableVAE
from anomvae.vae.settings import ModelSettings

if TYPE_CHECKING:
    from anomvae.vae.preparation import Rows


class MakeModel(Protocol):
    def __call__(self, seed: int = ..., **settings: Any) -> TableVAE: ...


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """Makes a model of three numbers and a category with weights drawn from a seed."""
    layout = Layout((0.0,) * 3, (1.0,) * 3, (False,) * 3, (3,), (NO_CODE,), 0.01)

    def make(seed: int = 0, **settings: Any) -> TableVAE:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return TableVAE(layout, ModelSettings(**{"layers": (8,), "latent": 2, "prior": "normal", **settings}))

    return make


def rows_from(model: TableVAE, n: int, seed: int) -> Rows:
    draw = torch.Generator().manual_seed(seed)
    cause = torch.randn(n, 1, generator=draw)
    numeric = torch.cat([cause, -cause, cause], dim=1) + 0.1 * torch.randn(n, 3, generator=draw)
    codes = (cause > 0).long() + (cause > 1).long()
    rows: Rows = model.preparation(numeric, codes)
    return rows


@pytest.fixture(scope="session")
def parts(make_model: MakeModel) -> tuple[Rows, Rows]:
    """Training and validation rows."""
    model = make_model()
    return rows_from(model, 400, 1), rows_from(model, 80, 2)
