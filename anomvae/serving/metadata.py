"""What the daemon says of itself and of its models, in the words of the Open Inference Protocol, as plain dicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anomvae import __version__
from anomvae.scoring.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anomvae.serving.model import ServedModel

NAME = "anomvae"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "parameters")
PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"
ALARM_RATE = TensorSpec("alarm_rate", "FP32", (1,))


def server_metadata() -> dict[str, Any]:
    """Answer of `GET v2`.

    Example:
        >>> server_metadata()["name"]
        'anomvae'
    """
    return {"name": NAME, "version": __version__, "extensions": list(EXTENSIONS)}


def model_metadata(model: ServedModel) -> dict[str, Any]:
    """Answer of `GET v2/models/{name}`: the inputs a request must have, and all outputs; -1 is the number of rows."""
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": PLATFORM,
        "inputs": [_tensor(spec) for spec in model.inputs],
        "outputs": [_tensor(spec) for spec in model.outputs.values()],
    }


def model_config(model: ServedModel) -> dict[str, Any]:
    """Answer of `GET v2/models/{name}/config`, as Triton's clients read it; here `alarm_rate` is named too, as optional.

    `max_batch_size` is 0, which means that the rows are part of the shapes, not that there are none.
    """
    inputs = [{**_configured(spec), "optional": False} for spec in model.inputs]
    return {
        "name": model.name,
        "platform": PLATFORM,
        "backend": BACKEND,
        "max_batch_size": 0,
        "input": [*inputs, {**_configured(ALARM_RATE), "optional": True}],
        "output": [_configured(spec) for spec in model.outputs.values()],
    }


def repository_index(models: Iterable[ServedModel]) -> list[dict[str, str]]:
    """Answer of `POST v2/repository/index`: one entry a model.

    Args:
        models: The versions in service; a model that is still being loaded is not among them.
    """
    return [{"name": model.name, "version": model.version, "state": "READY", "reason": ""} for model in models]


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _configured(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "data_type": f"TYPE_{spec.datatype}", "dims": list(spec.shape)}
