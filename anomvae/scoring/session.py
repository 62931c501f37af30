"""One ONNX Runtime session of a bundle's graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from anomvae.errors import BundleError, ScoringError
from anomvae.scoring.tensors import DATATYPES, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anomvae.scoring.providers import Provider

    Arrays = dict[str, npt.NDArray[np.generic]]

CHUNK_ROWS = 1024
CHUNK_CELLS = 2**20
ALIGNMENT = 16
"""Calls are filled up to a multiple of this many rows: ONNX Runtime's vector loops treat a call's last few rows
differently in the last bit, and a row's score must not depend on how many rows came with it."""
CPU = "CPUExecutionProvider"


class Inputs(Protocol):
    """What a graph can be asked about: encoded rows, windows, ..."""

    def __len__(self) -> int:
        """Rows, or whatever is answered one by one."""
        ...

    def take(self, rows: slice, /) -> Inputs:
        """Some of them."""
        ...

    def feeds(self) -> dict[str, npt.NDArray[np.generic]]:
        """The arrays by the names of the graph's inputs."""
        ...


class GraphSession:
    """Runs a graph on encoded rows; safe to call from several threads at once.

    Args:
        graph: The ONNX file of a verified bundle, or its content.
        width: Cells a row takes inside the graph (one-hots counted), so that wide rows come in smaller calls.
        providers: Execution providers, best first: names of ONNX Runtime, or names with options.
        largest_chunk: Most rows a call for many rows; on the CPU, where larger calls fall out of the processor's cache, never
            more than `CHUNK_ROWS`.
        strict: Whether every part of the graph must run on the first provider; else ONNX Runtime may fall back to the CPU.

    Attributes:
        alignment: Calls are filled up to a multiple of this many rows.
        chunk_rows: Rows a call for many rows; larger calls fall out of the processor's cache, smaller ones pay the call's
            overhead.
        input_specs: Inputs of the graph.
        output_specs: Outputs of the graph, in its order.
        optional_inputs: Names of the inputs that have a default: `alarm_rate`, and `group` and `asset` where there are any.

    Raises:
        BundleError: ONNX Runtime does not accept the graph.
        ScoringError: Memory ran out.
    """

    def __init__(
        self,
        graph: Path | bytes,
        width: int = 0,
        providers: Sequence[Provider] = (CPU,),
        *,
        largest_chunk: int = CHUNK_ROWS,
        strict: bool = False,
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # callers run side by side
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if strict and providers[0] != CPU:
            providers = [
                provider for provider in providers if provider != CPU
            ]  # ONNX Runtime refuses it beside the next
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            self._session = ort.InferenceSession(
                graph if isinstance(graph, bytes) else str(graph), options, providers=list(providers)
            )
        except MemoryError:
            raise ScoringError(
                "memory ran out while the graph was loaded; it may do later, or with more memory"
            ) from None
        except Exception as error:  # noqa: BLE001  onnxruntime raises many classes of its own, all meaning: no such graph
            name = "the graph" if isinstance(graph, bytes) else graph
            raise BundleError(f"{name} is not a graph that ONNX Runtime can load: {type(error).__name__}") from None
        self.alignment = ALIGNMENT
        self.input_specs = tuple(_spec(value) for value in self._session.get_inputs())
        self.output_specs = tuple(_spec(value) for value in self._session.get_outputs())
        self.inputs = tuple(spec.name for spec in self.input_specs)
        self.outputs = tuple(spec.name for spec in self.output_specs)
        self.optional_inputs = frozenset(value.name for value in self._session.get_overridable_initializers())
        self._only_wanted = ort.RunOptions()
        self._only_wanted.only_execute_path_to_fetches = True
        self._on_device = self.providers[0] != CPU
        largest = largest_chunk if self._on_device else min(largest_chunk, CHUNK_ROWS)
        self.chunk_rows = max(ALIGNMENT, min(largest, CHUNK_CELLS // max(1, width)) // ALIGNMENT * ALIGNMENT)

    @property
    def providers(self) -> tuple[str, ...]:
        """Execution providers really in use, best first."""
        return tuple(self._session.get_providers())

    @property
    def has_groups(self) -> bool:
        """Whether the graph takes the optional input `group`."""
        return "group" in self.optional_inputs

    def run_in_chunks(self, rows: Inputs, outputs: Sequence[str], alarm_rate: float | None = None) -> Arrays:
        """Answers for any number of rows, chunk by chunk; see :meth:`run`."""
        size = self.chunk_rows
        chunks = [
            self.run(rows.take(slice(start, start + size)), outputs, alarm_rate)
            for start in range(0, max(1, len(rows)), size)
        ]
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in outputs}

    def run(self, rows: Inputs, outputs: Sequence[str], alarm_rate: float | None = None) -> Arrays:
        """Answers for rows in one call.

        Args:
            rows: n encoded rows, or windows.
            outputs: Names of the outputs wanted; the parts of the graph that lead to none of them are not computed.
            alarm_rate: Replaces the graph's default.

        Returns:
            Arrays by name, n entries each.
        """
        n = len(rows)
        feeds: Arrays = {}
        for name, array in rows.feeds().items():
            if name in self.inputs or name in self.optional_inputs:
                feeds[name] = self._filled_up(array)
        if alarm_rate is not None:
            feeds["alarm_rate"] = np.asarray(alarm_rate, dtype=np.float32)
        if not outputs:
            return {}
        # An input with a default, as the alarm rate and the group are, cannot be bound.
        bound = self._on_device and not feeds.keys() - set(self.inputs)
        found = self._run_bound(outputs, feeds) if bound else self._run(outputs, feeds)
        return {name: array[:n] for name, array in zip(outputs, found, strict=True)}

    def _filled_up(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        lacking = -len(array) % self.alignment
        if not lacking:
            return array
        return np.concatenate([array, np.zeros((lacking, *array.shape[1:]), dtype=array.dtype)])

    def _run(self, outputs: Sequence[str], feeds: Arrays) -> list[npt.NDArray[np.generic]]:
        return self._session.run(list(outputs), feeds, self._only_wanted)  # type: ignore[no-any-return]

    def _run_bound(self, outputs: Sequence[str], feeds: Arrays) -> list[npt.NDArray[np.generic]]:
        """The same through an IO binding: one copy to the device and one back, none in between."""
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in outputs:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding, self._only_wanted)
        return binding.copy_outputs_to_cpu()  # type: ignore[no-any-return]


def _spec(value: ort.NodeArg) -> TensorSpec:
    shape = tuple(extent if isinstance(extent, int) else -1 for extent in value.shape)
    return TensorSpec(value.name, DATATYPES.get(value.type, value.type), shape)
