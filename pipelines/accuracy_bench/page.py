"""The benchmark's section of the accuracy page, as Markdown."""

from __future__ import annotations

import os
import platform
import tomllib
from typing import TYPE_CHECKING, Any

import numpy as np

from anomvae.errors import SettingError
from pipelines.accuracy_bench.dirty import dirty_section
from pipelines.accuracy_bench.ours import DEFAULT, HIGHER_RATES, OURS
from pipelines.accuracy_bench.peers import PEERS, installed_version
from pipelines.accuracy_bench.protocol import POOL_SHARE, SUITES, by_number
from pipelines.accuracy_bench.runs import METHODS
from pipelines.accuracy_bench.summary import TIE, by_table, cells_of, compare, differences, percent, row

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from pipelines.accuracy_bench.runs import Outcome
    from pipelines.accuracy_bench.summary import Cells

SECTION = "bench-accuracy"
REFERENCE = "PCA"
SHORTFALL = 0.02
"""AUROC below the reference from which a table is listed."""


def read_explanations(path: Path) -> dict[str, str]:
    """Why we lose on tables, by table.

    Raises:
        SettingError: The file is no TOML of sentences.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(f"{path} cannot be read as TOML: {error}") from None
    if not all(isinstance(text, str) for text in found.values()):
        raise SettingError(f'{path} must hold lines of "TABLE" = "sentence" alone')
    return found


def section(outcomes: Sequence[Outcome], explanations: Mapping[str, str]) -> str:
    """The section: per suite a summary, every table, where we lose; then dirty training rows, failures, how it was measured.

    Args:
        outcomes: Of the methods as they are now, at least one.
        explanations: Why we lose on tables, by table.
    """
    suites = [name for name in SUITES if any(found.run.suite == name for found in outcomes)]
    parts = [
        "## Ranking beside other detectors",
        f"Written by `make bench-accuracy` on {platform.machine()}, {os.cpu_count()} cores. Only normal rows train; figures are percent, "
        "AUROC / average precision (AP), each table's mean over the seeds.",
    ]
    for name in suites:
        clean = [found for found in outcomes if found.run.suite == name and not found.run.dirty]
        parts += [f"### {SUITES[name].title}", _summary(clean), _losses(clean, explanations), _tables(clean)]
    parts += [dirty_section(outcomes), _failures(outcomes), _how(outcomes, suites)]
    return "\n\n".join(part for part in parts if part)


def _present(outcomes: Iterable[Outcome]) -> list[str]:
    present = {found.run.method for found in outcomes}
    return [method for method in METHODS if method in present]


def _summary(clean: Sequence[Outcome]) -> str:
    """A line a method, best mean AUROC first."""
    tables, seeds = ({getattr(found.run, name) for found in clean} for name in ("table", "seed"))
    auroc = {method: cells_of(clean, "auroc", method) for method in _present(clean)}
    lines = [
        f"{len(tables)} tables, seeds {', '.join(map(str, sorted(seeds)))}. Wins, ties and losses are {DEFAULT}'s against the method "
        f"(tie: less than {100 * TIE:.2f} points apart), p is of the two-sided paired Wilcoxon signed-rank test over the tables.",
        "",
        row(
            "method", "tables", "mean AUROC", "mean AP", "median AUROC", "AUROC: won-tied-lost", "p", "AP: won-tied-lost", "p",
            "fit s, median", "fit s, mean", "score s, mean",
        ),
        "|---" * 12 + "|",
    ]  # fmt: skip
    for method in sorted(filter(auroc.get, auroc), key=lambda name: -_mean(auroc[name])):
        precision = cells_of(clean, "average_precision", method)
        fit_s, score_s = (list(cells_of(clean, name, method).values()) for name in ("fit_s", "score_s"))
        lines.append(
            row(
                f"**{method}**" if method in OURS else method,
                len(by_table(auroc[method])),
                percent(_mean(auroc[method])),
                percent(_mean(precision)),
                percent(float(np.median(list(by_table(auroc[method]).values())))),
                *_against(auroc.get(DEFAULT, {}), auroc[method], method),
                *_against(cells_of(clean, "average_precision", DEFAULT), precision, method),
                f"{np.median(fit_s):.1f}",
                f"{np.mean(fit_s):.1f}",
                f"{np.mean(score_s):.2f}",
            )
        )
    return "\n".join([*lines, *_fewer_seeds(auroc, seeds)])


def _fewer_seeds(auroc: Mapping[str, Cells], seeds: set[int]) -> list[str]:
    """A word on methods that were not run with all the seeds."""
    ran = {method: {seed for _, seed in cells} for method, cells in auroc.items() if cells}
    fewer = [f"{method} (seed {', '.join(map(str, sorted(found)))})" for method, found in ran.items() if found < seeds]
    return (
        ["", f"Run with fewer seeds: {', '.join(fewer)}; their means are of those, wins and p of the seeds in common."]
        if fewer
        else []
    )


def _mean(cells: Cells) -> float:
    return float(np.mean(list(by_table(cells).values())))


def _against(ours: Cells, theirs: Cells, method: str) -> tuple[str, str]:
    """Ours against theirs: `won-tied-lost` and p."""
    if method == DEFAULT or not ours.keys() & theirs.keys():
        return "", ""
    found = compare(ours, theirs)
    return f"{found.wins}-{found.ties}-{found.losses}", "< 0.001" if found.p < 0.001 else f"{found.p:.3f}"  # noqa: PLR2004


def _tables(clean: Sequence[Outcome]) -> str:
    """A line a table: sizes, then every method."""
    methods = _present(clean)
    quantities = {
        method: [by_table(cells_of(clean, name, method)) for name in ("auroc", "average_precision")]
        for method in methods
    }
    sizes = {found.run.table: found.figures for found in clean if not found.error}
    lines = [
        row("table", "train rows", "columns", "anomalies of test rows", *methods),
        "|---" * (4 + len(methods)) + "|",
    ]
    for table in sorted({found.run.table for found in clean}, key=by_number):
        size = sizes.get(table, {})
        told = (
            [f"{size['train_rows']:,}", size["columns"], f"{size['anomalies']:,} of {size['test_rows']:,}"]
            if size
            else [""] * 3
        )
        cells = [_pair(*(found.get(table) for found in quantities[method])) for method in methods]
        lines.append(row(table, *told, *cells))
    return "\n".join(lines)


def _pair(auroc: float | None, precision: float | None) -> str:
    return "failed" if auroc is None or precision is None else f"{percent(auroc)} / {percent(precision)}"


def _losses(clean: Sequence[Outcome], explanations: Mapping[str, str]) -> str:
    """Tables where the default method ranks clearly worse than the reference."""
    pairs = [cells_of(clean, "auroc", method) for method in (DEFAULT, REFERENCE)]
    if not all(pairs):
        return ""
    gains = differences(pairs[0], pairs[1])
    short = sorted((gain, table) for table, gain in gains.items() if gain < -SHORTFALL)
    if not short:
        return f"No table is more than {100 * SHORTFALL:.0f} points of AUROC below {REFERENCE}."
    lines = [
        f"- {table}, {-100 * gain:.1f} points: {explanations.get(table, 'not explained yet.')}" for gain, table in short
    ]
    return f"More than {100 * SHORTFALL:.0f} points of AUROC below {REFERENCE}:\n\n" + "\n".join(lines)


def _failures(outcomes: Iterable[Outcome]) -> str:
    """Every run that failed, by method, table, share and error."""
    failed: dict[tuple[Any, ...], list[int]] = {}
    for found in outcomes:
        if found.error:
            run = found.run
            failed.setdefault((run.method, run.suite, run.table, run.dirty, found.error), []).append(run.seed)
    if not failed:
        return ""
    lines = [row("method", "suite", "table", "dirty share", "seeds", "error"), "|---" * 6 + "|"]
    for (method, suite, table, dirty, error), seeds in failed.items():
        lines.append(row(method, suite, table, f"{100 * dirty:.3g}%", ", ".join(map(str, sorted(seeds))), f"`{error}`"))
    return "### Runs that failed\n\nThey count in no mean.\n\n" + "\n".join(lines)


def _how(outcomes: Iterable[Outcome], suites: Sequence[str]) -> str:
    present = _present(outcomes)
    peers = [name for name in present if name in PEERS]
    packages = sorted({PEERS[name].package for name in peers} | {"torch", "onnxruntime", "numpy"})
    versions = ", ".join(f"{package} {installed_version(package)}" for package in packages)
    settings = "; ".join(
        f"{name} ({PEERS[name].package}{''.join(f', {key} {value}' for key, value in PEERS[name].settings.items() if key != 'verbose')})"
        for name in peers
    )
    lines = [f"- {SUITES[name].title}: {SUITES[name].how}" for name in suites]
    ours = [name for name in present if name in OURS]
    if ours:
        rates = ", ".join(f"{rate:g}" for rate in HIGHER_RATES)
        lines.append(
            f"- {', '.join(ours)}: a bundle fitted on the table in raw units, doubles in columns `c0`, `c1` and so on, seeded by the run's seed, "
            f"scored by the product's scorer; default settings (where the rows do not support the default alarm rate, the first of {rates} that "
            "they do), nothing chosen by table. Fit seconds include calibration, export, parity check and report."
        )
    if peers:
        lines.append(
            "- The others see columns standardised by the training rows (constant columns divided by 1, missing cells the mean, infinite ones far "
            f"out) and keep their packages' defaults but for: {settings}."
        )
    lines.append(
        f"- Every run is on one CPU thread of its own process, after a warm-up that does not count; seconds are CPU seconds. Python {platform.python_version()}, {versions}."
    )
    lines.append(
        f"- Dirty shares replace training rows by anomalies of the table; {POOL_SHARE:.0%} of the anomalies, drawn by seed, are set aside for that "
        "and test in no run of that section, the clean one included."
    )
    return "### How it was measured\n\n" + "\n".join(lines)
