"""What anomalies among the training rows cost, for the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipelines.accuracy_bench.protocol import SUITES, by_number
from pipelines.accuracy_bench.runs import METHODS
from pipelines.accuracy_bench.summary import cells_of, differences, row

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipelines.accuracy_bench.runs import Outcome


def dirty_section(outcomes: Sequence[Outcome]) -> str:
    """Mean loss of each method at each dirty share, by suite; empty where nothing was measured."""
    parts = []
    for name, suite in SUITES.items():
        of_suite = [found for found in outcomes if found.run.suite == name]
        shares = sorted({found.run.dirty for found in of_suite if found.run.dirty})
        if shares:
            parts += [f"**{suite.title}**", _losses(of_suite, shares), _who(of_suite, shares)]
    if not parts:
        return ""
    intro = (
        "A share of the training rows is replaced by anomalies of the table that nobody labelled. Loss: points of AUROC / AP below the clean run "
        "on the same test rows, mean over the tables that have the anomalies for it (and over seeds); less is better."
    )
    return "\n\n".join(["### Anomalies among the training rows", intro, *parts])


def _losses(outcomes: Sequence[Outcome], shares: Sequence[float]) -> str:
    taking_part = [len(_tables(outcomes, share)) for share in shares]
    heads = [f"{share:.3g}" for share in (100 * share for share in shares)]
    lines = [
        row("method", *(f"{head} % ({count} tables)" for head, count in zip(heads, taking_part, strict=True))),
        "|---" * (1 + len(shares)) + "|",
    ]
    present = {found.run.method for found in outcomes if found.run.dirty}
    for method in (method for method in METHODS if method in present):
        cells = [_loss(outcomes, method, share, count) for share, count in zip(shares, taking_part, strict=True)]
        lines.append(row(method, *cells))
    return "\n".join(lines)


def _loss(outcomes: Sequence[Outcome], method: str, share: float, expected: int) -> str:
    """Points lost, with the number of tables where it is not the expected one."""
    lost = [
        differences(cells_of(outcomes, f"kept_{name}", method), cells_of(outcomes, name, method, share))
        for name in ("auroc", "average_precision")
    ]
    if not lost[0]:
        return ""
    points = " / ".join(f"{100 * np.mean(list(found.values())):.1f}" for found in lost)
    return points if len(lost[0]) == expected else f"{points} ({len(lost[0])} tables)"


def _who(outcomes: Sequence[Outcome], shares: Sequence[float]) -> str:
    """Which tables take part at each share."""
    every = {found.run.table for found in outcomes}
    lines = []
    for share in shares:
        tables = _tables(outcomes, share)
        lines.append(f"- {100 * share:.3g} %: {len(tables)} of {len(every)} tables: {', '.join(tables)}")
    return "\n".join(lines)


def _tables(outcomes: Iterable[Outcome], share: float) -> list[str]:
    return sorted({found.run.table for found in outcomes if found.run.dirty == share}, key=by_number)
