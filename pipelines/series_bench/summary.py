"""What runs say together: means over seeds, each detector at its best setting, and where ours is not the best."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pipelines.series_bench.ours import DEFAULT, OURS
from pipelines.series_bench.peers import PEERS
from pipelines.series_bench.runs import METHODS, MODES, SUITE, key, version_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pipelines.accuracy_bench.runs import Outcome

TIE = 0.0005
"""Figures that differ by less are level."""
RANKED = {"vus_pr": "VUS-PR", "vus_roc": "VUS-ROC", "auroc": "AUROC", "average_precision": "AP"}
RECALL = "event_recall_at_budget"
MEASURES = {**RANKED, RECALL: "events found"}


def family_of(method: str) -> str:
    """The detector a setting is of; ours are each their own."""
    return PEERS[method].family if method in PEERS else method


FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(family_of(method) for method in METHODS))


def current(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes that measured the methods as they are now."""
    versions = {method: version_of(method) for method in METHODS}
    return [
        found for found in outcomes if found.run.suite == SUITE and versions.get(found.run.method) == found.run.version
    ]


@dataclass(frozen=True, slots=True)
class Loss:
    """A figure in which another detector is above ours.

    Attributes:
        quantity: Name of the figure.
        ours: Ours.
        theirs: By setting, those above, highest first.
    """

    quantity: str
    ours: float
    theirs: dict[str, float]


class Results:
    """Figures of finished runs.

    Args:
        outcomes: Of the methods as they are now; those that failed count nowhere.
    """

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self._figures: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
        for found in outcomes:
            if not found.error:
                self._figures[found.run.table, found.run.method].append(found.figures)

    @cached_property
    def tables(self) -> list[str]:
        """Names of the data sets, in the order of their runs."""
        return list(dict.fromkeys(table for table, _ in self._figures))

    def methods(self, table: str) -> list[str]:
        """Methods measured on a data set."""
        return [method for method in METHODS if (table, method) in self._figures]

    def seeds(self, table: str, method: str) -> int:
        """How many runs there are."""
        return len(self._figures[table, method]) if (table, method) in self._figures else 0

    def mean(self, table: str, method: str, quantity: str) -> float | None:
        """Mean of a figure over the seeds that have it; None: none has."""
        values = [found[quantity] for found in self._figures.get((table, method), []) if quantity in found]
        return float(np.mean(values)) if values else None

    def all(self, table: str, method: str, quantity: str) -> list[float]:
        """A figure of each seed that has it."""
        return [found[quantity] for found in self._figures.get((table, method), []) if quantity in found]

    def over(self, tables: Sequence[str], method: str, quantity: str) -> float | None:
        """Mean of a figure over data sets; None: it lacks on one."""
        values = [self.mean(table, method, quantity) for table in tables]
        return (
            float(np.mean([value for value in values if value is not None])) if values and None not in values else None
        )

    def best(self, tables: Sequence[str], mode: str) -> dict[str, str]:
        """Each detector's setting of the highest mean VUS-PR over data sets, highest first."""
        found: dict[str, tuple[float, str]] = {}
        for method in METHODS:
            value = self.over(tables, method, key(mode, "vus_pr"))
            family = family_of(method)
            if value is not None and (family not in found or value > found[family][0]):
                found[family] = value, method
        ordered = sorted(found.items(), key=lambda item: -item[1][0])
        return {family: method for family, (_, method) in ordered}

    def losses(self, tables: Sequence[str], mode: str, quantities: Sequence[str] = tuple(MEASURES)) -> list[Loss]:
        """Figures, of means over data sets, in which a detector at its best setting is above our default."""
        found = []
        settings = [method for method in self.best(tables, mode).values() if method != DEFAULT]
        for quantity in quantities:
            ours = self.over(tables, DEFAULT, key(mode, quantity))
            others = {method: self.over(tables, method, key(mode, quantity)) for method in settings}
            if ours is None:
                continue
            above = {method: value for method, value in others.items() if value is not None and value - ours >= TIE}
            if above:
                found.append(Loss(quantity, ours, dict(sorted(above.items(), key=lambda item: -item[1]))))
        return found

    def modes_with(self, tables: Sequence[str], method: str) -> Iterator[str]:
        """Modes in which a method was measured on all of some data sets."""
        for mode in MODES:
            if self.over(tables, method, key(mode, "vus_pr")) is not None:
                yield mode

    def ours(self, table: str) -> list[str]:
        """Our variants measured on a data set."""
        return [method for method in OURS if (table, method) in self._figures]
