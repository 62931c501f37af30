"""Where a bundle comes from."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import platform

from anomvae.bundle import Provenance

PACKAGES = ("anomvae", "torch", "onnx", "onnxruntime", "numpy", "pyarrow", "pandas", "scikit-learn")


def provenance(data: str, digest: str, rows: int, seed: int, seconds: float) -> Provenance:
    """Provenance of a bundle made now.

    Args:
        data: Where the rows came from, as the user named it.
        digest: Digest of the data.
        rows: Rows read.
        seed: Seed of every draw.
        seconds: Wall time of the fit.
    """
    return Provenance(
        data=data,
        digest=digest,
        rows=rows,
        seed=seed,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        fit_seconds=round(seconds, 3),
        versions={"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
