"""Measures what the calibration costs inside the graph: a part of `make bench`.

Alone: `.venv/bin/python -m pipelines.bench --only calibration`.
"""

from __future__ import annotations

import os
import platform
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from pipelines.bench_exemplars import (
    LAYERS,
    PLAIN,
    ROUNDS,
    fit_graph,
    open_graph,
    repeating_rows,
    rounds_of_calls,
    settings_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    import onnx

    from anomvae.calibration import CalibrationTables

    FloatArray = npt.NDArray[np.float32]

SECTION = "bench-calibration-cost"
COLUMNS = 32
ROWS = 5_000
BATCHES = {1: 100, 16: 50, 256: 20, 1024: 5}
"""Rows a call, and calls a round."""
MOST_SHARE = 0.10
"""Of the graph's time that the calibration may take."""
OUTPUTS = ("score", "reconstruction_error", "contribution", "latent_contribution", "expected")
VERDICTS = ("p_value", "p_value_reconstruction", "alarm", "tail")


@dataclass(slots=True)
class Part:
    """A calibration in a graph.

    Attributes:
        nodes: That it adds.
        shares: Of the whole graph's time, by rows a call: medians over the rounds.
        added_s: Seconds a call that it adds, likewise.
    """

    nodes: int
    shares: dict[int, float] = field(default_factory=dict)
    added_s: dict[int, float] = field(default_factory=dict)


def measure() -> dict[str, dict[str, Part]]:
    """Costs of several calibrations, in the graph of a default detector and of a plain VAE."""
    with tempfile.TemporaryDirectory() as scratch:
        rows = repeating_rows(ROWS + max(BATCHES) * 2, COLUMNS)
        settings = settings_of()
        graphs = {
            name: fit_graph(rows[:ROWS], settings[name], Path(scratch) / name.replace(" ", "-"))[0].read_bytes()
            for name in ("default", PLAIN)
        }
        return {name: _parts(graph, rows[ROWS:]) for name, graph in graphs.items()}


def calibrations() -> dict[str, CalibrationTables]:
    """Calibrations to try, of scores that are drawn."""
    from anomvae.calibration import Budget, CalibrationRows, calibrate

    draw, found = np.random.default_rng(0), {}

    def rows(m: int, groups: int = 0) -> CalibrationRows:
        score = 30.0 + 5.0 * draw.standard_normal(m)
        error = np.abs(0.3 * score + draw.standard_normal(m))
        names = [f"asset {k % groups}" for k in range(m)] if groups else None
        return CalibrationRows(score.astype(np.float32), error.astype(np.float32), names)

    one = Budget(0.01, None, None, None)
    found["1,000 rows"] = calibrate(rows(1_000), one).tables
    found["10,000 rows"] = calibrate(rows(10_000), one).tables
    found["10,000 rows, both scores"] = calibrate(rows(10_000), one, decision="both").tables
    found["10,000 rows in 20 groups"] = calibrate(rows(10_000, 20), one, by="asset").tables
    found["1,000 rows and a tail"] = calibrate(rows(1_000), one, tail=True).tables
    return found


def _parts(graph: bytes, rows: FloatArray) -> dict[str, Part]:
    """What each calibration adds; the graph with and without it take turns."""
    import onnx

    from anomvae.export.calibration_graph import take_off
    from anomvae.export.graph import recalibrated_graph

    bare = onnx.load_from_string(graph)
    take_off(bare)
    calls = _calls(bare.SerializeToString(), rows, OUTPUTS)
    found = {}
    for name, tables in calibrations().items():
        whole = recalibrated_graph(graph, tables, 0.01)
        part = found[name] = Part(_nodes(whole) - len(bare.graph.node))
        with_it = _calls(whole, rows, (*OUTPUTS, *VERDICTS))
        for n in BATCHES:
            pairs = [(calls[n](), with_it[n]()) for _ in range(ROUNDS)]
            part.shares[n] = median(1.0 - before / after for before, after in pairs)
            part.added_s[n] = median(after - before for before, after in pairs)
    return found


def _calls(graph: bytes, rows: FloatArray, outputs: tuple[str, ...]) -> dict[int, Callable[[], float]]:
    session = open_graph(graph)
    return {n: rounds_of_calls(session, rows, n, outputs, count) for n, count in BATCHES.items()}


def _nodes(graph: bytes) -> int:
    import onnx

    model: onnx.ModelProto = onnx.load_from_string(graph)
    return len(model.graph.node)


def section(found: dict[str, dict[str, Part]]) -> str:
    """The page's section, as Markdown."""
    tables = "\n\n".join(_table(name, parts) for name, parts in found.items())
    return f"""## What calibration costs

Written by `.venv/bin/python -m pipelines.bench --only calibration` on {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}.
The exported graph with its calibration beside the same graph without, {COLUMNS} columns, layers {LAYERS[0]}-{LAYERS[1]}; ONNX Runtime
alone, one thread; the two take turns, medians of {ROUNDS} rounds of the quickest calls. Shares are of the whole graph's time; of the
default's at most {MOST_SHARE:.0%} is aimed at.

{tables}
"""


def _table(name: str, parts: dict[str, Part]) -> str:
    heads = " | ".join(f"{n:,} rows" if n > 1 else "1 row" for n in BATCHES)
    lines = [
        f"### In the graph of {'the default' if name == 'default' else name}",
        "",
        f"| calibrated on | nodes | {heads} |",
        "|---|---|" + "---|" * len(BATCHES),
    ]
    for kind, part in parts.items():
        cells = [
            f"{part.added_s[n] * 1e6:,.0f} us, {part.shares[n]:.1%}"
            + (" **(over)**" if name == "default" and part.shares[n] > MOST_SHARE else "")
            for n in BATCHES
        ]
        lines.append(f"| {kind} | {part.nodes} | {' | '.join(cells)} |")
    return "\n".join(lines)
