"""A bundle as ONE MLflow model with two flavours: `onnx`, and a thin `python_function` without pickles or code."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from anomvae.bundle.folder import GRAPH
from anomvae.tracking.signature import make_example, make_signature

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow.models import Model

    from anomvae.bundle import Bundle

BUNDLE_PATH = "data/bundle"
"""Where the bundle lies inside the MLflow model."""

_LOADER = "anomvae.tracking.pyfunc"
_NEEDED = ("anomvae", "mlflow", "numpy", "onnx", "onnxruntime", "pandas", "pyarrow")


def save_model(bundle: Bundle, folder: Path, model: Model) -> None:
    """Writes the MLflow model's folder.

    Args:
        bundle: The bundle; its files are copied in as they are.
        folder: Where the model shall lie; must not exist.
        model: MLflow's description of the model; the flavours are added to it.
    """
    import mlflow.pyfunc  # it warns when imported, so it is imported inside a quiet session

    staged = folder.parent / "bundle"
    staged.symlink_to(bundle.folder.absolute(), target_is_directory=True)
    model.add_flavor(
        "onnx",
        onnx_version=_version("onnx"),
        data=f"{BUNDLE_PATH}/{GRAPH}",
        providers=["CPUExecutionProvider"],
        onnx_session_options=None,
        code=None,
    )
    mlflow.pyfunc.save_model(
        str(folder),
        loader_module=_LOADER,
        data_path=str(staged),
        mlflow_model=model,
        signature=make_signature(bundle.manifest),
        input_example=make_example(bundle.manifest),
        pip_requirements=requirements(),
    )


def requirements() -> list[str]:
    """What a fresh environment needs to load either flavour, pinned to what is installed here.

    Stated, not inferred: MLflow would import the model in another process to find out, which is slow.
    """
    found = {name: _version(name) for name in _NEEDED}
    return [f"{name}=={version}" for name, version in found.items() if version is not None]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
