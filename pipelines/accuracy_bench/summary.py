"""What many runs say together: means over seeds and tables, and tests of one method against another."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipelines.accuracy_bench.protocol import SUITES
from pipelines.accuracy_bench.runs import METHODS, Outcome, version_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipelines.accuracy_bench.protocol import Floats

TIE = 0.0005
"""Two figures that differ by less, a twentieth of a point, are a tie."""

Cells = dict[tuple[str, int], float]
"""A quantity by table and seed."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One method against another, table by table.

    Attributes:
        wins: Tables where the first is higher.
        ties: Where they are alike.
        losses: Where it is lower.
        p: Of the two-sided Wilcoxon signed-rank test over the tables.
    """

    wins: int
    ties: int
    losses: int
    p: float


def current(outcomes: Iterable[Outcome], versions: Mapping[str, str] | None = None) -> list[Outcome]:
    """The outcomes that measured methods as they are now.

    Args:
        outcomes: Of any versions.
        versions: Present ones by method; None: of all methods of this benchmark.
    """
    if versions is None:
        versions = {method: version_of(method) for method in METHODS}
    return [
        found for found in outcomes if found.run.suite in SUITES and versions.get(found.run.method) == found.run.version
    ]


def cells_of(outcomes: Iterable[Outcome], quantity: str, method: str, dirty: float = 0.0) -> Cells:
    """A quantity of a method's runs that did not fail, of one dirty share."""
    return {
        (found.run.table, found.run.seed): found.figures[quantity]
        for found in outcomes
        if found.run.method == method and found.run.dirty == dirty and not found.error
    }


def by_table(cells: Cells) -> dict[str, float]:
    """Means over the seeds of each table."""
    seeds: dict[str, list[float]] = defaultdict(list)
    for (table, _), figure in cells.items():
        seeds[table].append(figure)
    return {table: float(np.mean(figures)) for table, figures in seeds.items()}


def differences(first: Cells, second: Cells) -> dict[str, float]:
    """First less second by table, over the seeds that both have."""
    return by_table({key: first[key] - second[key] for key in first.keys() & second.keys()})


def compare(first: Cells, second: Cells) -> Comparison:
    """Compares two methods on the tables and seeds that both have."""
    gains = np.array(list(differences(first, second).values()))
    ties = np.abs(gains) < TIE
    return Comparison(int((gains[~ties] > 0).sum()), int(ties.sum()), int((gains[~ties] < 0).sum()), _wilcoxon_p(gains))


def _wilcoxon_p(gains: Floats) -> float:
    """Two-sided p of the signed-rank test; 1 where no table differs."""
    from scipy.stats import wilcoxon

    values = np.round(gains, 12)
    return float(wilcoxon(values).pvalue) if np.any(values) else 1.0


def percent(share: float) -> str:
    """A share as percent with one decimal.

    Example:
        >>> percent(0.8751)
        '87.5'
    """
    return f"{100 * share:.1f}"


def row(*cells: object) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(str(cell) for cell in cells)} |"
