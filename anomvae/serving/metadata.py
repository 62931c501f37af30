"""What the daemon says of itself and of its models, in the words of the Open Inference Protocol, as plain dicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anomvae import __version__
from anomvae.scoring.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anomvae.bundle import Manifest
    from anomvae.serving.model import ServedModel

NAME = "anomvae"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "parameters")
PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"
ALARM_RATE = TensorSpec("alarm_rate", "FP32", (1,))
GROUP = TensorSpec("group", "INT64", (-1,))


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
    """Answer of `GET v2/models/{name}/config`, as Triton's clients read it.

    Here `alarm_rate` is named too, as optional, and so is `group` where groups have calibrations of their own.
    `max_batch_size` is 0, which means that the rows are part of the shapes, not that there are none.
    """
    optional = (ALARM_RATE,) if model.manifest.calibration.group_column is None else (ALARM_RATE, GROUP)
    inputs = [{**_configured(spec), "optional": False} for spec in model.inputs]
    inputs += [{**_configured(spec), "optional": True} for spec in optional]
    return {
        "name": model.name,
        "platform": PLATFORM,
        "backend": BACKEND,
        "max_batch_size": 0,
        "input": inputs,
        "output": [_configured(spec) for spec in model.outputs.values()],
    }


def calibration_facts(manifest: Manifest) -> dict[str, Any]:
    """What a model's p-values and verdicts rest on; of groups the number alone, since their names are data."""
    calibration = manifest.calibration
    again = calibration.recalibrated
    return {
        "method": calibration.method,
        "rows": calibration.rows,
        "confidence": calibration.confidence,
        "alarms_per_day": calibration.alarms_per_day,
        "rows_per_day": calibration.rows_per_day,
        "tail": calibration.tail is not None,
        "group_column": calibration.by,
        "groups": len(calibration.groups),
        "groups_pooled": calibration.groups_pooled,
        "recalibrated": None if again is None else again.created,
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
