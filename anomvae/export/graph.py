"""The detector as one ONNX graph."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from typing import TYPE_CHECKING, Protocol, cast

import onnx
import torch
from torch import Tensor, nn

from anomvae.bundle import FORMAT_VERSION
from anomvae.export.calibration_graph import append_calibration
from anomvae.vae.scores import RowScores

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anomvae.calibration import CalibrationTables
    from anomvae.vae.scores import RowScorer

    Axes = Mapping[str, Mapping[int, str]]

OPSET = 20
EXAMPLE_ROWS = 3  # not 0 or 1, which torch.export would take for constants


class GraphModule(Protocol):
    """A module that becomes a graph.

    Attributes:
        names: Of its inputs.
        outputs: Of what it returns, a tuple.
    """

    names: tuple[str, ...]
    outputs: tuple[str, ...]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs."""


class _GraphInputs(nn.Module):
    """Leaves out the inputs and outputs of no width: a graph without numbers has no `numeric` input."""

    def __init__(self, scorer: RowScorer, names: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.scorer, self.names, self.outputs = scorer, names, outputs

    def forward(self, *rows: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.names, rows, strict=True))
        numeric = given.get("numeric", torch.zeros_like(rows[0][:, :0], dtype=torch.float32))
        categorical = given.get("categorical", torch.zeros_like(rows[0][:, :0], dtype=torch.int64))
        scores: RowScores = self.scorer(numeric, categorical)
        return tuple(getattr(scores, name) for name in self.outputs)


def input_names(scorer: RowScorer) -> tuple[str, ...]:
    """Row inputs of a detector's graph: `numeric`, `categorical`, or both."""
    layout = scorer.model.layout
    return tuple(name for name, width in (("numeric", layout.d), ("categorical", layout.c)) if width)


def score_names(scorer: RowScorer) -> tuple[str, ...]:
    """Outputs of a detector's graph before calibration: all but those of no width."""
    layout = scorer.model.layout
    empty = {"expected" if not layout.d else "", "expected_category" if not layout.c else ""}
    return tuple(name for name in RowScores._fields if name not in empty)


def export_graph(scorer: RowScorer, tables: CalibrationTables, alarm_rate: float) -> bytes:
    """Exports a detector, on the CPU and in evaluation mode, as one ONNX file.

    Args:
        scorer: The scores.
        tables: The calibration.
        alarm_rate: Default of the optional input.

    Returns:
        The serialised model, opset at most 20, weights inside.
    """
    layout = scorer.model.layout
    names, outputs = input_names(scorer), score_names(scorer)
    example = {
        "numeric": torch.zeros(EXAMPLE_ROWS, layout.d),
        "categorical": torch.zeros(EXAMPLE_ROWS, layout.c, dtype=torch.int64),
    }
    rows = [example[name] for name in names]
    wrapped = _GraphInputs(scorer, names, outputs).eval()
    model = traced(wrapped, rows)
    scored = layout.d + layout.c
    name_widths(
        model, {"contribution": scored, "expected": layout.d, "expected_category": layout.c, "latent": scorer.model.k}
    )
    append_calibration(model, tables, alarm_rate)
    return finish(model)


def recalibrated_graph(graph: bytes, tables: CalibrationTables, alarm_rate: float) -> bytes:
    """A graph with another calibration; its scoring part stays as it is.

    Args:
        graph: The ONNX file.
        tables: The new calibration.
        alarm_rate: Default of the optional input.
    """
    model = onnx.load_from_string(graph)
    kind = next((entry.value for entry in model.metadata_props if entry.key == "anomvae.kind"), "table")
    append_calibration(model, tables, alarm_rate)
    return finish(model, kind)


def by_tracing(wrapped: GraphModule, rows: list[Tensor], open_axes: Axes | None = None) -> onnx.ModelProto:
    """The graph by one traced call. The modules branch on no value of a tensor, and parity is checked at four batch sizes."""
    file = io.BytesIO()
    torch.onnx.export(
        cast("nn.Module", wrapped),
        tuple(rows),
        file,  # type: ignore[arg-type]
        dynamo=False,
        input_names=list(wrapped.names),
        output_names=list(wrapped.outputs),
        dynamic_axes={name: {0: "n", **(open_axes or {}).get(name, {})} for name in (*wrapped.names, *wrapped.outputs)},
        opset_version=OPSET,
    )
    return _folded(file.getvalue())


def _folded(graph: bytes) -> onnx.ModelProto:
    """The graph with its constants folded and what is said twice said once; its operators stay the standard's."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = f"{folder}/folded.onnx"
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        folded = onnx.load(options.optimized_model_filepath)
    standard = [entry for entry in folded.opset_import if not entry.domain]
    del folded.opset_import[:]  # onnxruntime adds all the domains it knows
    folded.opset_import.extend(standard)
    return folded


def name_widths(model: onnx.ModelProto, widths: dict[str, int]) -> None:
    """Says how wide each output is; its first dimension is the rows'."""
    for output in model.graph.output:
        if output.name in widths:
            output.type.tensor_type.shape.dim[1].Clear()
            output.type.tensor_type.shape.dim[1].dim_value = widths[output.name]


def by_torch_export(wrapped: GraphModule, rows: list[Tensor], open_axes: Axes | None = None) -> onnx.ModelProto:
    """The graph by torch.export."""
    axes = [{0: "n", **(open_axes or {}).get(name, {})} for name in wrapped.names]
    sizes = {name: torch.export.Dim(name) for name in {name for each in axes for name in each.values()}}
    program = torch.onnx.export(
        cast("nn.Module", wrapped),
        tuple(rows),
        dynamo=True,
        input_names=list(wrapped.names),
        output_names=list(wrapped.outputs),
        dynamic_shapes=(tuple({axis: sizes[name] for axis, name in each.items()} for each in axes),),
        opset_version=OPSET,
        external_data=False,
        verbose=False,
    )
    if program is None:  # pragma: no cover  the exporter returns None only when it writes a file itself
        raise RuntimeError("the exporter returned nothing")
    model: onnx.ModelProto = program.model_proto
    return model


def traced(wrapped: GraphModule, inputs: list[Tensor], open_axes: Axes | None = None) -> onnx.ModelProto:
    """The graph of a module, before calibration.

    Args:
        wrapped: In evaluation mode, on the CPU.
        inputs: An example of each input.
        open_axes: By input the names of its dimensions that may be of any size, beside the first, which is `n`.
    """
    with quiet(), torch.no_grad():
        try:
            return by_tracing(wrapped, inputs, open_axes)
        except TypeError:  # a torch that only exports by torch.export, which takes seconds for what takes a tenth
            return by_torch_export(wrapped, inputs, open_axes)


def finish(model: onnx.ModelProto, kind: str = "table") -> bytes:
    """Gives the model its contract version and leaves out what is the exporting machine's own."""
    model.producer_name, model.producer_version = "anomvae", ""
    model.doc_string = "anomvae detector: raw values in, calibrated answers out"
    for node in model.graph.node:  # source locations of the machine it was made on do not belong in a product
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.metadata_props[:]
    for key, text in (("anomvae.format_version", str(FORMAT_VERSION)), ("anomvae.kind", kind)):
        model.metadata_props.add(key=key, value=text)
    onnx.checker.check_model(model)
    serialised: bytes = model.SerializeToString(deterministic=True)
    return serialised


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter's notes on its own progress are not for users."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
