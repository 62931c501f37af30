"""Inputs and outputs of a graph, in the words of the Open Inference Protocol."""

from __future__ import annotations

from typing import NamedTuple

DATATYPES = {"tensor(float)": "FP32", "tensor(int64)": "INT64", "tensor(bool)": "BOOL"}
"""Datatype of the protocol by ONNX Runtime's name of the type; the graph has no others."""


class TensorSpec(NamedTuple):
    """An input or output of the graph.

    Attributes:
        name: Its name.
        datatype: `FP32`, `INT64` or `BOOL`.
        shape: -1 stands for the number of rows.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
