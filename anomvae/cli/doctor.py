"""`anomvae doctor`: what this installation can do."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import time
from typing import TYPE_CHECKING

import typer

from anomvae.cli.console import out, table
from anomvae.cli.options import TrackingUri

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGES = {
    "numpy": "scoring",
    "pyarrow": "scoring",
    "onnxruntime": "scoring",
    "torch": "training",
    "sklearn": "training",
    "pandas": "training",
    "onnx": "training",
    "onnxscript": "training",
    "safetensors": "training",
    "mlflow": "tracking",
}
DISTRIBUTIONS = {"sklearn": "scikit-learn"}


def doctor(tracking_uri: TrackingUri = None) -> None:
    """Say which versions are installed, which execution providers really load, and whether the registry answers."""
    console = out()
    console.print(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    rows = [(DISTRIBUTIONS.get(name, name), _version(name), needed_for) for name, needed_for in PACKAGES.items()]
    console.print(table("packages", ("package", "version", "needed for"), rows))
    providers = [(name, verdict) for name, verdict in _providers()]
    console.print(table("execution providers", ("provider", "loads"), providers))
    registry = _tried(lambda: _registry(tracking_uri))
    console.print(table("services", ("what", "state"), [("registry", registry), ("CUDA for training", _tried(_cuda))]))
    broken = [name for name, version, needed_for in rows if needed_for == "scoring" and version.startswith("no")]
    if broken:
        raise typer.Exit(1)


def _version(name: str) -> str:
    try:
        version = importlib.metadata.version(DISTRIBUTIONS.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        if name == "onnxruntime":  # the GPU distribution brings the same module
            return _tried(lambda: str(importlib.import_module(name).__version__))
        return "not installed"
    return version


def _providers() -> list[tuple[str, str]]:
    """Each provider that this onnxruntime was built with, tried on a graph of one node."""
    import onnxruntime as ort

    found = []
    for provider in ort.get_available_providers():
        options = ort.SessionOptions()
        options.log_severity_level = 4
        started = time.monotonic()
        try:
            session = ort.InferenceSession(_identity_graph(), options, providers=[provider])
            really = session.get_providers()[0]
        except Exception as error:  # noqa: BLE001  onnxruntime's providers fail in classes of their own
            found.append((provider, f"no: {type(error).__name__}"))
            continue
        verdict = f"yes, in {time.monotonic() - started:.2f} s" if really == provider else f"no: falls back to {really}"
        found.append((provider, verdict))
    return found


def _identity_graph() -> bytes:
    """Y = x as an ONNX file, written by hand: doctor must run where the package onnx is not installed."""

    def field(number: int, payload: bytes | int) -> bytes:
        if isinstance(payload, int):
            return bytes([number << 3, payload])
        return bytes([number << 3 | 2, len(payload)]) + payload

    def value(name: bytes) -> bytes:
        dim = field(1, field(1, 1))  # one dimension of size 1
        tensor = field(1, 1) + field(2, dim)  # float32
        return field(1, name) + field(2, field(1, tensor))

    node = field(1, b"x") + field(2, b"y") + field(4, b"Identity")
    graph = field(1, node) + field(2, b"doctor") + field(11, value(b"x")) + field(12, value(b"y"))
    opset = field(1, b"") + field(2, 17)
    return field(1, 8) + field(7, graph) + field(8, opset)


def _registry(tracking_uri: str | None) -> str:
    from anomvae.tracking.registry import list_models
    from anomvae.tracking.uri import choose_tracking_uri, shown_uri

    models = list_models(tracking_uri=tracking_uri)
    return f"answers at {shown_uri(choose_tracking_uri(tracking_uri))}: {len(models)} models"


def _cuda() -> str:
    import torch

    return f"yes: {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else "no: torch finds no CUDA device"


def _tried(look: Callable[[], str]) -> str:
    from anomvae.errors import AnomvaeError

    try:
        return look()
    except ImportError as error:
        return f"no: {getattr(error, 'name', None) or 'a package'} is not installed"
    except AnomvaeError as error:
        return f"no: {error}"
