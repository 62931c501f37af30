"""Weights and settings on disk: the same model comes back, or a clear refusal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from anomvae.errors import BundleError
from anomvae.vae.scores import RowScorer, RowScores
from anomvae.vae.weights import from_files, to_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.vae.conftest import MakeModel, MakeRaw


@pytest.mark.parametrize("kind", ["vae", "autoencoder"])
@pytest.mark.parametrize(
    ("likelihood", "d", "cards"), [("gaussian", 3, (4, 2)), ("bernoulli", 2, ()), ("student-t", 0, (3,))]
)
def test_a_model_comes_back_from_its_files_to_the_last_bit(
    make_model: MakeModel, make_raw: MakeRaw, kind: str, likelihood: str, d: int, cards: tuple[int, ...]
) -> None:
    model = make_model(d, cards, kind=kind, likelihood=likelihood, score_draws=3)
    files = to_files(model)
    again = from_files(files["weights.safetensors"], files["config.json"].decode())
    assert again.settings == model.settings
    assert again.layout == model.layout
    assert not again.training
    raw = make_raw(model.layout, 20)
    with torch.no_grad():
        left: RowScores = RowScorer(model)(*raw)
        right: RowScores = RowScorer(again)(*raw)
    assert all(torch.equal(one, other) for one, other in zip(left, right, strict=True))


def test_writing_what_was_read_gives_the_same_files(make_model: MakeModel) -> None:
    files = to_files(make_model(2, (3,)))
    assert to_files(from_files(files["weights.safetensors"], files["config.json"].decode())) == files


def changed(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda config: {**config, **changes}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: [],
        lambda _: {},
        lambda _: None,
        changed(model=[]),
        changed(layout=[]),
        changed(model={"kind": "gan"}),
        changed(model={"surprise": 1}),
        changed(layout={"offset": [0.0]}),
        lambda config: {**config, "layout": {**config["layout"], "cardinalities": [9]}},
        lambda config: {**config, "model": {**config["model"], "layers": [5]}},
        lambda config: {**config, "model": {**config["model"], "likelihood": "mse"}},
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_refused(make_model: MakeModel, spoil: Callable[[Any], Any]) -> None:
    files = to_files(make_model(2, (3,)))
    with pytest.raises(BundleError, match=r"weights\.safetensors and config\.json"):
        from_files(files["weights.safetensors"], json.dumps(spoil(json.loads(files["config.json"]))))


def test_damaged_files_are_refused(make_model: MakeModel) -> None:
    files = to_files(make_model(2, (3,)))
    weights, config = files["weights.safetensors"], files["config.json"].decode()
    for bad_weights, bad_config in (
        (weights[:-5], config),
        (b"", config),
        (b"x" * 100, config),
        (weights, config[:-9]),
    ):
        with pytest.raises(BundleError):
            from_files(bad_weights, bad_config)


def test_files_from_before_there_were_other_priors_still_load(make_model: MakeModel) -> None:
    files = to_files(make_model(2, (3,)))
    config = json.loads(files["config.json"])
    del config["stored"]
    for name in ("prior", "exemplars", "novelty", "novelty_least"):
        del config["model"][name]
    again = from_files(files["weights.safetensors"], json.dumps(config))
    assert again.settings.prior_in_force == "normal"
