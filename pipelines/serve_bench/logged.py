"""The model as MLflow serves it: the bundle as anomvae logs it, and the graph in a model as lean as can be."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.serve_bench.subject import Subject

MODEL = Path(__file__).parent / "mlflow_model.py"


def log_subject(subject: Subject, folder: Path) -> tuple[str, str]:
    """Logs the bundle into a database of its own.

    Returns:
        URI of the model, URI of the tracking database.
    """
    from anomvae.bundle import read_bundle
    from anomvae.tracking.runs import log_bundle

    database = f"sqlite:///{folder / 'mlflow.db'}"
    run = log_bundle(read_bundle(subject.folder), tracking_uri=database)
    return f"models:/{run.model_name}/{run.version}", database


def save_lean(subject: Subject, folder: Path) -> str:
    """Saves a model that calls the graph and nothing else; its path."""
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    from mlflow import pyfunc

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it would like type hints, which cost time when serving
    path = str(folder / "lean")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pyfunc.save_model(
            path,
            python_model=str(MODEL),
            artifacts={"graph": str(subject.graph)},
            pip_requirements=["onnxruntime", "numpy"],
        )
    return path
