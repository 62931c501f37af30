"""What the tests of the daemon share: bundles made of others, sound and broken."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest

from anomvae.bundle import Bundle, write_bundle

if TYPE_CHECKING:
    from pathlib import Path


class Remake(Protocol):
    """Writes a bundle anew, all at once, with another graph or other fields of its manifest."""

    def __call__(self, bundle: Bundle, folder: Path, *, graph: bytes | None = None, **changes: Any) -> Bundle: ...


@pytest.fixture(scope="session")
def remake() -> Remake:
    def make(bundle: Bundle, folder: Path, *, graph: bytes | None = None, **changes: Any) -> Bundle:
        files = {name: (bundle.folder / name).read_bytes() for name in bundle.manifest.files}
        if graph is not None:
            files["scorer.onnx"] = graph
        return write_bundle(folder, dataclasses.replace(bundle.manifest, **changes), files)

    return make


@pytest.fixture(scope="session")
def nan_graph(fitted: Bundle) -> bytes:
    """A graph that loads, and whose scores are no numbers."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(fitted.graph)
    for weight in model.graph.initializer:
        array = numpy_helper.to_array(weight)
        if array.dtype == np.float32 and array.ndim == 2:
            weight.CopyFrom(numpy_helper.from_array(np.full_like(array, np.nan), weight.name))
    return bytes(model.SerializeToString())
