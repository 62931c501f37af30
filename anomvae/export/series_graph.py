"""A series detector as graphs: windows in, calibrated answers out; and averaged scores in, calibrated answers out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from anomvae.export.agreement import TOLERANCE, Exact, hold
from anomvae.export.calibration_graph import append_calibration
from anomvae.export.graph import OPSET, finish, name_widths, traced
from anomvae.export.parity import BATCH_SIZES, compare_verdicts
from anomvae.scoring.series_rows import ROW_TERMS, RowMember
from anomvae.scoring.session import GraphSession
from anomvae.vae.series import SeriesScores
from anomvae.vae.series_rows import RowTerms, row_terms_width

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from anomvae.calibration import CalibrationTables
    from anomvae.data.windows import EncodedWindows
    from anomvae.export.agreement import Doubles, Magnitude
    from anomvae.vae.series import SeriesScorer

ASSET = "asset"
VALUES = ("expected", "deviation")
"""Ends of the names of answers that are values, not nats."""
FAMILIES = (
    frozenset({"score", "contribution", "latent_contribution", "step_score", "step_contribution"}),
    frozenset({"expected", "step_expected", "step_deviation", "reconstruction_error", "step_error"}),
)
ALLOWED = {name: 10 * TOLERANCE for name in SeriesScores._fields if name.endswith(VALUES)}
"""Values are exponentials of what the model tells."""
EXAMPLE_WINDOWS = 3  # not 0 or 1, which an exporter would take for constants
SPOILT_FROM = 2


class _Graph(nn.Module):
    outputs: tuple[str, ...] = SeriesScores._fields

    def __init__(self, scorer: SeriesScorer) -> None:
        super().__init__()
        self.scorer = scorer
        self.names: tuple[str, ...] = ("series", ASSET, *([ROW_TERMS] if scorer.row is not None else []))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.scorer(*inputs))


class _RowsGraph(nn.Module):
    names: tuple[str, ...] = ("rows", ASSET)
    outputs: tuple[str, ...] = (ROW_TERMS,)

    def __init__(self, scorer: SeriesScorer) -> None:
        super().__init__()
        self.terms = RowTerms(scorer)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (self.terms(*inputs),)


def export_series(scorer: SeriesScorer, tables: CalibrationTables, alarm_rate: float) -> bytes:
    """Exports a series detector as one ONNX file.

    Its inputs `asset` and, where there is a row member, `row_terms` are optional: an asset not met before, and nothing known.

    Args:
        scorer: On the CPU, in evaluation mode.
        tables: Calibration of the newest step's scores.
        alarm_rate: Default of the optional input.
    """
    window, channels = scorer.window, scorer.channels
    example = [torch.zeros(EXAMPLE_WINDOWS, window, channels), torch.zeros(EXAMPLE_WINDOWS, dtype=torch.int64)]
    defaults = {ASSET: np.array([scorer.preparation.assets], dtype=np.int64)}
    if scorer.row is not None:
        width = row_terms_width(channels)
        example.append(torch.zeros(EXAMPLE_WINDOWS, max(1, window - 2), width))
        defaults[ROW_TERMS] = np.zeros((1, 0, width), dtype=np.float32)
    model = traced(_Graph(scorer).eval(), example, {ROW_TERMS: {1: "p", 2: "t"}})
    name_widths(model, {"contribution": channels, "expected": channels})
    for value in model.graph.input:
        if value.name in defaults:
            value.type.tensor_type.shape.dim[0].dim_param = "a"
    model.graph.initializer.extend(numpy_helper.from_array(each, name) for name, each in defaults.items())
    append_calibration(model, tables, alarm_rate)
    return finish(model, "series")


def export_rows(scorer: SeriesScorer) -> bytes | None:
    """What the row member says of single rows, as a graph of its own: `rows` and `asset` in, `row_terms` out.

    Args:
        scorer: On the CPU, in evaluation mode.

    Returns:
        None where there is no such member.
    """
    if scorer.row is None:
        return None
    example = [torch.zeros(EXAMPLE_WINDOWS, scorer.channels), torch.zeros(EXAMPLE_WINDOWS, dtype=torch.int64)]
    model = traced(_RowsGraph(scorer).eval(), example)
    name_widths(model, {ROW_TERMS: row_terms_width(scorer.channels)})
    return finish(model, "series")


def export_batch_calibration(tables: CalibrationTables, alarm_rate: float) -> bytes:
    """The calibration of scores that are means over windows: a graph of its own, `mean_score` and `mean_error` in.

    Args:
        tables: Their calibration.
        alarm_rate: Default of the optional input.
    """
    pairs = (("mean_score", "score"), ("mean_error", "reconstruction_error"))
    inputs = [helper.make_tensor_value_info(given, TensorProto.FLOAT, ["n"]) for given, _ in pairs]
    outputs = [helper.make_tensor_value_info(made, TensorProto.FLOAT, ["n"]) for _, made in pairs]
    nodes = [helper.make_node("Identity", [given], [made], f"same_{made}") for given, made in pairs]
    graph = helper.make_graph(nodes, "batch", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    append_calibration(model, tables, alarm_rate)
    return finish(model, "series")


def check_series_parity(
    graph: bytes,
    scorer: SeriesScorer,
    tables: CalibrationTables,
    windows: EncodedWindows,
    alarm_rate: float,
    rows_graph: bytes | None = None,
) -> float:
    """Compares the graph with the model and the calibration tables, on real windows and on spoilt ones.

    Args:
        graph: The exported model.
        scorer: The model.
        tables: Its calibration.
        windows: Real windows; some of them are tried.
        alarm_rate: The graph's default.
        rows_graph: What :func:`export_rows` made of the model; the graph is then tried with what that one says, too.

    Returns:
        The largest relative difference seen.

    Raises:
        ParityError: They differ by more than 1e-4 relative and than float32 leaves open, or a score is no number.
    """
    session, worst = GraphSession(graph), 0.0
    member = None if rows_graph is None else RowMember(rows_graph, scorer.channels)
    exact = Exact(scorer, SeriesScores._fields, FAMILIES)
    for size in BATCH_SIZES[:3]:
        tried = windows.take(np.arange(size) % len(windows))
        series, asset = _spoilt(tried.series.copy()), np.arange(size, dtype=np.int64) % (scorer.preparation.assets + 2)
        groups = np.arange(size, dtype=np.int64) % (len(tables.rows) + 1) if tables.has_groups else None
        feeds = type(tried)(series, asset, groups)
        centre, spread = (part[:, 0].abs().double() for part in scorer.preparation.scaling(torch.from_numpy(asset)))
        magnitude = _magnitude((centre + spread).numpy())
        wanted = exact.answers(series, asset, magnitude)
        for each in (feeds, *([] if member is None else [_with_terms(feeds, member)])):
            found = session.run(each, session.outputs)
            worst = max(worst, hold(found, wanted, magnitude, ALLOWED, FAMILIES[0]))
            compare_verdicts(found, tables, alarm_rate, groups)
    return worst


def _with_terms(windows: EncodedWindows, member: RowMember) -> EncodedWindows:
    """Windows with what the row member says of all but their newest steps."""
    series = windows.series
    count, window, channels = series.shape
    terms = member.terms(series.reshape(-1, channels), np.repeat(windows.asset, window), spare=False)
    return replace(windows, row_terms=np.ascontiguousarray(terms.reshape(count, window, -1)[:, :-1]))


def _spoilt(series: np.ndarray) -> np.ndarray:
    """Windows of which later ones have cells missing, far out and infinite; the newest step keeps an observed channel."""
    draw = np.random.default_rng(7)
    for place in range(SPOILT_FROM, len(series)):
        dice = draw.random(series[place].shape)
        dice[-1, 0] = 0.5
        series[place][dice < 0.1] = np.nan  # noqa: PLR2004
        with np.errstate(over="ignore", invalid="ignore"):
            series[place][dice > 0.98] *= 1e3  # noqa: PLR2004
        series[place][dice > 0.999] = np.inf  # noqa: PLR2004
    return series


def _magnitude(spread: npt.NDArray[np.float64]) -> Magnitude:
    """What answers are measured by: values by how wide and far from 0 their channel is, all else by the window's largest; or 1.

    Args:
        spread: Width of each window's channels and how far from 0 they lie, shape ``(n, d)``.
    """

    def magnitude(name: str, answers: Mapping[str, Doubles]) -> Doubles:
        answer = answers[name]
        size = np.maximum(np.abs(np.nan_to_num(answer)), 1.0)
        if name.endswith(VALUES):
            return np.maximum(size, spread.reshape(len(spread), *[1] * (answer.ndim - 2), -1))
        if name in FAMILIES[0]:  # nats are summed: what a channel adds is as good as the sum is
            size = np.column_stack([np.abs(answers[each]).reshape(len(answer), -1) for each in FAMILIES[0]])
        largest: Doubles = np.maximum(size.reshape(len(answer), -1).max(axis=1, initial=0.0), 1.0)
        return largest.reshape(-1, *[1] * (answer.ndim - 1))

    return magnitude
