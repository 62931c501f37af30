"""Weights and settings of a model as files: to go on training, to sample and to explore from; never pickled."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from anomvae.errors import BundleError, SettingError
from anomvae.vae.layout import Layout
from anomvae.vae.model import StoredSizes, TableVAE
from anomvae.vae.novelty import NoveltySpec
from anomvae.vae.settings import ModelSettings


def to_files(model: TableVAE) -> dict[str, bytes]:
    """The files `weights.safetensors` and `config.json` of a model on the CPU."""
    config = {"model": asdict(model.settings), "layout": asdict(model.layout), "stored": asdict(model.stored_sizes())}
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    return {
        "weights.safetensors": save_tensors(state),
        "config.json": (json.dumps(config, indent=2, allow_nan=False) + "\n").encode(),
    }


def from_files(weights: bytes, config: str) -> TableVAE:
    """The model of two files, in evaluation mode.

    Raises:
        BundleError: They are damaged or do not belong together.
    """
    try:
        parts: dict[str, dict[str, Any]] = json.loads(config)
        model_parts = {"prior": "normal", **parts["model"]}  # bundles from before there were other priors
        settings = ModelSettings(**{name: _as_tuple(value) for name, value in model_parts.items()})
        layout = Layout(**{field.name: _as_tuple(parts["layout"][field.name]) for field in fields(Layout)})
        model = TableVAE(layout, settings, _stored(parts.get("stored", {})))
        model.load_state_dict(load_tensors(weights))
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, SettingError, SafetensorError) as error:
        raise BundleError("weights.safetensors and config.json are damaged or do not belong together") from error
    return model.eval()


def _stored(raw: dict[str, Any]) -> StoredSizes:
    novelty = raw.get("novelty")
    spec = None if novelty is None else NoveltySpec(**{name: _as_tuple(value) for name, value in novelty.items()})
    return StoredSizes(raw.get("exemplars", 0), raw.get("matches", 0), spec)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
