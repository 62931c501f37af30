"""Measures what exemplars cost beside a plain VAE of the same layers: a part of `make bench`.

Alone: `.venv/bin/python -m pipelines.bench --only exemplars`.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    import onnxruntime as ort

    from anomvae.fitting import FitSettings

    FloatArray = npt.NDArray[np.float32]

SECTION = "bench-exemplars"
WIDTHS = (32, 8)
ROWS = 5_000
LAYERS = (64, 64)
CAUSES = 6
GRID = 0.1
"""Every other column is rounded to this share of its standard deviation, so that its values repeat."""
PLAIN = "a plain VAE"
OUTPUTS = (
    "score",
    "p_value",
    "reconstruction_error",
    "p_value_reconstruction",
    "alarm",
    "contribution",
    "expected",
)
BATCHES = {1: 200, 256: 20}
"""Rows a call, and calls a round."""
ROUNDS = 40
TARGETS = {("default", 256): 8.0, ("default", 1): 2.0, ("quick", 256): 3.0, ("quick", 1): 3.0}
"""Most times a plain VAE's time, all answers, in batches and row by row."""
GROWTH_ROWS = (2_000, 20_000)
GROWTH_COLUMNS = 100
GROWTH_LIMIT_S = 120.0


class Seconds(NamedTuple):
    """How long something took.

    Attributes:
        wall_s: By the clock; others on a shared machine lengthen it.
        cpu_s: Of this process alone.
    """

    wall_s: float
    cpu_s: float


@dataclass(slots=True)
class Cost:
    """What one fit costs.

    Attributes:
        fit: Seconds of the fit, export and report included.
        nodes: Nodes of the graph as exported.
        size_kb: Of the graph.
        seconds: Of a call, the best of all rounds, by rows a call and whether all answers are asked for.
    """

    fit: Seconds
    nodes: int
    size_kb: float
    seconds: dict[tuple[int, bool], float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Costs:
    """All that is measured.

    Attributes:
        tables: By columns of the table, then by effort.
        growth: Of fits of `GROWTH_COLUMNS` columns, by rows.
    """

    tables: dict[int, dict[str, Cost]]
    growth: dict[int, Seconds]


def repeating_rows(n: int, columns: int, seed: int = 0) -> FloatArray:
    """Correlated sensors: six hidden causes, bent and noisy; every other column rounded; shape ``(n, columns)``."""
    draw = np.random.default_rng(seed)
    causes, mixing = draw.normal(size=(n, CAUSES)), draw.normal(size=(CAUSES, columns))
    rows = np.tanh(causes @ mixing) + 0.3 * draw.normal(size=(n, columns))
    rows[:, ::2] = np.round(rows[:, ::2] / GRID) * GRID
    return rows.astype(np.float32)


def measure() -> Costs:
    """Costs of every effort on every table, and how fits grow."""
    with tempfile.TemporaryDirectory() as scratch:
        fit_graph(repeating_rows(300, 4), settings_of()["quick"], Path(scratch) / "warm-up")
        tables = {width: table_costs(width, Path(scratch)) for width in WIDTHS}
        rows, settings = repeating_rows(max(GROWTH_ROWS), GROWTH_COLUMNS), settings_of()["default"]
        growth = {n: fit_graph(rows[:n], settings, Path(scratch) / f"rows-{n}")[1] for n in GROWTH_ROWS}
    return Costs(tables, growth)


def table_costs(width: int, folder: Path) -> dict[str, Cost]:
    """Costs on a table of so many columns, by effort; calls of all graphs take turns."""
    import onnx

    rows = repeating_rows(ROWS + max(BATCHES) * 4, width)
    costs, calls = {}, {}
    for name, settings in settings_of().items():
        graph, fit = fit_graph(rows[:ROWS], settings, folder / f"{width}-{name}")
        costs[name] = Cost(fit, len(onnx.load(graph).graph.node), graph.stat().st_size / 1024)
        session = open_graph(graph)
        for n, count in BATCHES.items():
            for everything in (True, False):
                wanted = OUTPUTS if everything else OUTPUTS[:1]
                calls[name, n, everything] = rounds_of_calls(session, rows[ROWS:], n, wanted, count)
    for _ in range(ROUNDS):
        for (name, n, everything), call in calls.items():
            seconds, best = call(), costs[name].seconds
            best[n, everything] = min(best.get((n, everything), seconds), seconds)
    return costs


def settings_of() -> dict[str, FitSettings]:
    """Settings of the fits that are compared, by name."""
    from anomvae.fitting import FitSettings
    from anomvae.vae.settings import ModelSettings

    return {
        PLAIN: FitSettings(model=ModelSettings(prior="normal", layers=LAYERS)),
        "quick": FitSettings(effort="quick", model=ModelSettings(layers=LAYERS)),
        "default": FitSettings(model=ModelSettings(layers=LAYERS)),
        "best": FitSettings(effort="best", model=ModelSettings(layers=LAYERS)),
        "private": FitSettings(private=True, model=ModelSettings(layers=LAYERS)),
    }


def fit_graph(rows: FloatArray, settings: FitSettings, folder: Path) -> tuple[Path, Seconds]:
    """The graph of a fit, and how long it took."""
    from anomvae.fitting import fit_bundle

    table = pa.table({f"sensor_{j:03d}": column.astype(np.float64) for j, column in enumerate(rows.T)})
    started, used = time.perf_counter(), time.process_time()
    bundle = fit_bundle(table, settings, folder).bundle
    return bundle.graph, Seconds(time.perf_counter() - started, time.process_time() - used)


def open_graph(graph: Path | bytes) -> ort.InferenceSession:
    """A session on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(
        graph if isinstance(graph, bytes) else str(graph), options, providers=["CPUExecutionProvider"]
    )


def rounds_of_calls(
    session: ort.InferenceSession, rows: FloatArray, n: int, outputs: tuple[str, ...], count: int
) -> Callable[[], float]:
    """A round of so many calls with n rows; it answers the seconds of its quickest call."""
    import onnxruntime

    only_wanted = onnxruntime.RunOptions()
    only_wanted.only_execute_path_to_fetches = True  # as the product asks
    batches = [np.ascontiguousarray(rows[start : start + n]) for start in range(0, len(rows) - n + 1, n)]
    clock, run = time.perf_counter, partial(session.run, list(outputs), run_options=only_wanted)

    def once() -> float:
        best = float("inf")
        for i in range(count):
            given = {"numeric": batches[i % len(batches)]}
            started = clock()
            run(given)
            best = min(best, clock() - started)
        return best

    return once


def section(found: Costs) -> str:
    """The page's section, as Markdown."""
    tables = "\n\n".join(_table(width, costs) for width, costs in found.tables.items())
    grown = "\n".join(f"| {n:,} | {fit.wall_s:.1f} | {fit.cpu_s:.1f} |" for n, fit in found.growth.items())
    met = "met" if max(fit.wall_s for fit in found.growth.values()) < GROWTH_LIMIT_S else "**missed**"
    return f"""## What exemplars cost

Written by `.venv/bin/python -m pipelines.bench --only exemplars` on {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}.
The exported graphs of each effort beside {PLAIN} (`model.prior = "normal"`, layers {LAYERS[0]}-{LAYERS[1]} as all of them), fitted on
{ROWS:,} rows of which every other column repeats its values; ONNX Runtime alone, one thread, the quickest of {ROUNDS} rounds in
which all graphs take turns. All answers: p-values, verdict, contributions and expected values beside the score.
A fit's seconds are the processor's, export and report included.

{tables}

Fits of default effort on {GROWTH_COLUMNS} columns, at most {GROWTH_LIMIT_S:.0f} s ({met}):

| rows | fit, s | CPU s |
|---|---|---|
{grown}
"""


def _table(width: int, costs: dict[str, Cost]) -> str:
    lines = [
        f"### {width} columns",
        "",
        "| | fit, CPU s | graph: nodes, KB | one row, all answers | 256 rows, all answers | one row, score | 256 rows, score |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, cost in costs.items():
        cells = [
            f"{cost.seconds[n, everything] * 1e6:,.0f} us{_ratio(name, n, everything, costs)}"
            for everything in (True, False)
            for n in BATCHES
        ]
        lines.append(f"| {name} | {cost.fit.cpu_s:.1f} | {cost.nodes}, {cost.size_kb:,.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratio(name: str, n: int, everything: bool, costs: dict[str, Cost]) -> str:
    """How many times a plain VAE's time, and whether that is what was aimed at."""
    if name == PLAIN:
        return ""
    ratio = costs[name].seconds[n, everything] / costs[PLAIN].seconds[n, everything]
    aimed = TARGETS.get((name, n)) if everything else None
    if aimed is None:
        return f", {ratio:.1f} x"
    return f", {ratio:.1f} x (at most {aimed:.0f}: {'yes' if ratio <= aimed else '**no**'})"
