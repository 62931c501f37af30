"""anomvae: anomaly detection by variational autoencoders, fitted on normal data, calibrated, explained and served.

Example:
    >>> import anomvae
    >>> detector = anomvae.fit(frame, alarm_rate=0.01)  # doctest: +SKIP
    >>> detector.score(new_rows)[["score", "p_value", "alarm", "reasons"]]  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomvae.detector import Detector, load
    from anomvae.fitting.api import fit

__version__ = "0.1.0"
__all__ = ["Detector", "__version__", "fit", "load"]

_HOMES = {"Detector": "anomvae.detector", "load": "anomvae.detector", "fit": "anomvae.fitting.api"}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for: `import anomvae` alone stays quick and needs no torch."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'anomvae' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "sklearn", "pandas", "onnx", "safetensors"):
            from anomvae.errors import MissingExtraError

            raise MissingExtraError(f"anomvae.{name}", "train") from error
        raise


def __dir__() -> list[str]:
    return sorted(__all__)
