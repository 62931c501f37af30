"""Detectors trained for a moment and exported once a session."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from anomvae.calibration import Budget, CalibrationRows, CalibrationTables, calibrate
from anomvae.data.encoding import EncodedRows
from anomvae.export.graph import export_graph
from anomvae.scoring.session import GraphSession
from anomvae.training.exemplars import ExemplarPool
from anomvae.training.loop import train
from anomvae.training.settings import TrainingSettings
from anomvae.vae.exemplars import ExemplarPrior
from anomvae.vae.layout import NO_CODE, Layout
from anomvae.vae.model import TableVAE
from anomvae.vae.novelty import Novelty
from anomvae.vae.objective import exemplar_prior
from anomvae.vae.preparation import StoredRows
from anomvae.vae.scores import RowScorer, RowScores
from anomvae.vae.settings import ModelSettings

if TYPE_CHECKING:
    import numpy.typing as npt

RATE = 0.05
VARIANTS: dict[str, dict[str, Any]] = {
    "exemplars and seen values": {"d": 4, "cards": (5, 0, 2), "prior": "exemplars"},
    "pseudo-rows, groups": {"d": 2, "cards": (3,), "prior": "pseudo-rows", "groups": ("a", "b", "c")},
    "numbers": {"d": 5, "cards": ()},
    "categories, one of which training never saw": {"d": 0, "cards": (4, 0, 3), "score_draws": 8},
    "mixed": {
        "d": 4,
        "cards": (5, 2),
        "kind": "beta-vae",
        "likelihood": "student-t",
        "score_draws": 8,
        "decision": "both",
    },
    "autoencoder, tail": {
        "d": 3,
        "cards": (3,),
        "kind": "autoencoder",
        "likelihood": "mse",
        "score_draws": 8,
        "decision": "both",
        "tail": True,
        "groups": ("a", "b"),
    },
    "denoising, bernoulli": {
        "d": 3,
        "cards": (2,),
        "kind": "denoising-autoencoder",
        "likelihood": "bernoulli",
        "decision": "reconstruction",
    },
}


@dataclass(frozen=True)
class Exported:
    """A detector's scores, calibration and graph, its calibration scores and rows like those it was fitted on."""

    scorer: RowScorer
    tables: CalibrationTables
    graph: bytes
    session: GraphSession
    score: npt.NDArray[np.float32]
    reconstruction: npt.NDArray[np.float32]
    rows: EncodedRows
    names: tuple[str, ...]


def raw_rows(d: int, cards: tuple[int, ...], n: int, seed: int) -> EncodedRows:
    """Rows around 100 in steps of 7; some cells missing, infinite, or of a category never seen."""
    draw = np.random.default_rng(seed)
    cause = draw.normal(size=(n, 1))
    numeric = 100.0 + 7.0 * (cause + 0.3 * draw.normal(size=(n, d)))
    numeric[:, 1::2] = numeric[:, 1::2].round(-1)  # values that repeat
    numeric[draw.random((n, d)) < 0.05] = np.nan
    numeric[draw.random((n, d)) < 0.01] = np.inf
    codes = np.stack([draw.integers(0, size + 1, n) for size in cards], axis=1) if cards else np.zeros((n, 0))
    return EncodedRows(numeric.astype(np.float32), codes.astype(np.int64))


@cache
def exported(name: str) -> Exported:
    asked = dict(VARIANTS[name])
    d, cards, decision = asked.pop("d"), asked.pop("cards"), asked.pop("decision", "elbo")
    tail, names = asked.pop("tail", False), asked.pop("groups", ())
    unit = asked.get("likelihood") == "bernoulli"
    layout = Layout(
        offset=((80.0 if unit else 100.0),) * d,
        scale=((40.0 if unit else 7.0),) * d,
        infinite_is_missing=tuple(j == 0 for j in range(d)),
        cardinalities=cards,
        missing_codes=tuple(size if j == 0 else NO_CODE for j, size in enumerate(cards)),
        unknown_mass=1 / 401,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TableVAE(layout, ModelSettings(**{"layers": (24, 16), "prior": "normal", **asked}))
    fitting = raw_rows(d, cards, 400, 1)
    stored = StoredRows(model.preparation, torch.from_numpy(fitting.numeric), torch.from_numpy(fitting.categorical))
    pool = ExemplarPool(stored, 60, seed=0) if isinstance(model.prior, ExemplarPrior) else None
    train(model, stored, stored, TrainingSettings(max_steps=30, learning_rate=1e-2, device="cpu"), pool=pool)
    if pool is not None:
        with torch.no_grad():
            exemplar_prior(model).store(pool.encode(model))
        model.novelty = Novelty.learn(layout, fitting.numeric, fitting.categorical)
    scorer = RowScorer(model.eval()).eval()
    calibration = raw_rows(d, cards, 199, 2)
    with torch.no_grad():
        scores: RowScores = scorer(torch.from_numpy(calibration.numeric), torch.from_numpy(calibration.categorical))
    score, error = scores.score.numpy(), scores.reconstruction_error.numpy()
    group = None if not names else [*names] * 60 + [None] * (199 - 60 * len(names))
    calibrated = calibrate(
        CalibrationRows(score, error, group), Budget.of(RATE), decision=decision, tail=tail, by="line"
    )
    graph = export_graph(scorer, calibrated.tables, RATE)
    rows = raw_rows(d, cards, 1000, 3)
    if names:
        rows = replace(rows, group=np.random.default_rng(4).integers(-1, len(names) + 2, 1000))
    return Exported(scorer, calibrated.tables, graph, GraphSession(graph), score, error, rows, names)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", params=list(VARIANTS))
def each(request: pytest.FixtureRequest) -> Exported:
    """Every variant in turn."""
    return exported(request.param)


@pytest.fixture(scope="session")
def mixed() -> Exported:
    """Numbers and categories, eight draws, the verdict of both scores together."""
    return exported("mixed")


@pytest.fixture(scope="session")
def numbers() -> Exported:
    """Numbers alone."""
    return exported("numbers")


@pytest.fixture(scope="session")
def reconstruction() -> Exported:
    """The verdict by the reconstruction error's p-value."""
    return exported("denoising, bernoulli")
