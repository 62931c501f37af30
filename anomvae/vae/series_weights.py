"""Weights and settings of a series model as files: to go on training and to explore from; never pickled."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from safetensors.torch import save as save_tensors

from anomvae.vae.weights import to_files

if TYPE_CHECKING:
    from anomvae.vae.series import SeriesScorer


def series_files(scorer: SeriesScorer) -> dict[str, bytes]:
    """The files of a series model on the CPU.

    Args:
        scorer: Its scaling and window member go to `weights.safetensors` and `config.json`; its row member to files of their
            own, as a table model has them.
    """
    state = {name: tensor.contiguous() for name, tensor in scorer.state_dict().items() if not name.startswith("row.")}
    network = scorer.window_model
    config = {
        "series": {"window": scorer.window, "channels": scorer.channels, "assets": scorer.preparation.assets},
        "members": list(scorer.members),
        "window_member": None if network is None else asdict(network.settings),
    }
    files = {
        "weights.safetensors": save_tensors(state),
        "config.json": (json.dumps(config, indent=2, allow_nan=False) + "\n").encode(),
    }
    if scorer.row is not None:
        row = to_files(scorer.row.model)
        files |= {"row_weights.safetensors": row["weights.safetensors"], "row_config.json": row["config.json"]}
    return files
