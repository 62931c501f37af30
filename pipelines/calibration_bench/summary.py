"""What many runs say together: realised beside stated rates, and what exact p-values would have given."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from pipelines.accuracy_bench.summary import by_table
from pipelines.calibration_bench.runs import key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pipelines.accuracy_bench.runs import Outcome
    from pipelines.accuracy_bench.summary import Cells

LEVEL = 0.95
"""Of the bound and of the test."""


@dataclass(frozen=True, slots=True)
class Count:
    """Alarms of one run at one stated rate.

    Attributes:
        table: Name.
        seed: Of the split and of the method.
        rate: Stated.
        m: Calibration rows.
        steps: P-values that do not exceed the rate.
        unseen: Normal rows that no part of the fit has seen.
        alarms: Those of them that alarm.
        recall: Share of the anomalies that alarm.
    """

    table: str
    seed: int
    rate: float
    m: int
    steps: int
    unseen: int
    alarms: int
    recall: float

    @property
    def ratio(self) -> float:
        """Realised over stated rate."""
        return self.alarms / self.unseen / self.rate

    @property
    def exact_ratio(self) -> float:
        """The same of exact p-values: below 1, since they are multiples of 1 / (m + 1)."""
        return self.steps / (self.m + 1) / self.rate

    @property
    def exceedances(self) -> tuple[bool, bool, bool]:
        """Whether alarms exceed each of the limits of :func:`limits_of`."""
        limits = limits_of(self.m, self.steps, self.unseen, self.rate)
        return (self.alarms > limits.bound, self.alarms > limits.stated, self.alarms > limits.tested)


@dataclass(frozen=True, slots=True)
class Limits:
    """Most alarms of a run by three measures, and how often exact p-values exceed each.

    Attributes:
        bound: The beta-binomial 95 % bound.
        stated: The stated rate itself.
        tested: Most alarms at which a one-sided binomial test at 5 % does not call the true rate higher than the stated one.
        exact: Probability that alarms exceed the three in turn, were p-values exact; below 5 % at the bound, since alarms are counted.
    """

    bound: int
    stated: int
    tested: int
    exact: tuple[float, float, float]


@cache
def limits_of(m: int, steps: int, unseen: int, rate: float) -> Limits:
    r"""The limits of a run.

    Scores of m calibration rows and of the unseen rows that are exchangeable and do not tie make the true rate
    Beta(k, m + 1 - k) over the draw of the calibration rows, k p-values being within the stated rate, and so the number of
    alarms among n unseen rows beta-binomial with the same parameters.

    Args:
        m: Calibration rows.
        steps: k.
        unseen: n.
        rate: Stated.

    References:
        Conditional validity of inductive conformal predictors (Vovk, 2012), arXiv:1209.2673. Testing for Outliers with
        Conformal p-values (Bates et al., 2023), arXiv:2104.08279
    """
    from scipy.stats import betabinom, binom

    up_to = np.cumsum(betabinom.pmf(np.arange(unseen + 1), unseen, steps, m + 1 - steps))
    bound = int(np.searchsorted(up_to, LEVEL))
    stated = int(np.floor(rate * unseen + 1e-9))
    tested = int(binom.ppf(LEVEL, unseen, rate))
    beyond = [float(max(0.0, 1.0 - up_to[min(limit, unseen)])) for limit in (bound, stated, tested)]
    return Limits(bound, stated, tested, (beyond[0], beyond[1], beyond[2]))


@dataclass(frozen=True, slots=True)
class Share:
    """A share of runs.

    Attributes:
        seen: Measured.
        exact: Expected of exact p-values.
    """

    seen: float
    exact: float


@dataclass(frozen=True, slots=True)
class Realised:
    """Realised over stated rate, over the runs whose rows allow the rate.

    Attributes:
        rate: Stated.
        runs: How many.
        tables: Of how many tables.
        ratio: Mean over the tables of means over their seeds.
        error: Its standard error over the tables; NaN of one table.
        exact_ratio: The same mean of exact p-values: what rounding down to multiples of 1 / (m + 1) leaves.
        median: Of the runs' ratios.
        above_bound: Runs above the beta-binomial 95 % bound.
        above_stated: Runs that realise more than was stated.
        above_tested: Runs whose true rate is above the stated one by the binomial test.
        recall: Share of the anomalies that alarm, mean as `ratio`.
    """

    rate: float
    runs: int
    tables: int
    ratio: float
    error: float
    exact_ratio: float
    median: float
    above_bound: Share
    above_stated: Share
    above_tested: Share
    recall: float

    @classmethod
    def of(cls, counts: Sequence[Count]) -> Realised:
        """Of runs at one stated rate, at least one."""
        ratios = list(by_table(cells(counts, lambda count: count.ratio)).values())
        seen = np.mean([count.exceedances for count in counts], axis=0)
        exact = np.mean([limits_of(one.m, one.steps, one.unseen, one.rate).exact for one in counts], axis=0)
        bound, stated, tested = (Share(float(a), float(b)) for a, b in zip(seen, exact, strict=True))
        spread = np.std(ratios, ddof=1) / np.sqrt(len(ratios)) if len(ratios) > 1 else np.nan
        return cls(
            rate=counts[0].rate,
            runs=len(counts),
            tables=len(ratios),
            ratio=float(np.mean(ratios)),
            error=float(spread),
            exact_ratio=mean_over_tables(cells(counts, lambda count: count.exact_ratio)),
            median=float(np.median([count.ratio for count in counts])),
            above_bound=bound,
            above_stated=stated,
            above_tested=tested,
            recall=mean_over_tables(cells(counts, lambda count: count.recall)),
        )


def counts_of(outcomes: Iterable[Outcome], method: str, quantity: str, rate: float) -> list[Count]:
    """Counts of a method's runs whose rows allow the rate."""
    found = []
    for outcome in outcomes:
        run, figures = outcome.run, outcome.figures
        if run.method == method and not outcome.error and key("alarms", quantity, rate) in figures:
            steps, alarms, caught = (figures[key(name, quantity, rate)] for name in ("steps", "alarms", "found"))
            recall = caught / figures["anomalies"]
            m, unseen = int(figures["m"]), int(figures["unseen"])
            found.append(Count(run.table, run.seed, rate, m, int(steps), unseen, int(alarms), recall))
    return found


def cells(counts: Iterable[Count], figure: Callable[[Count], float]) -> Cells:
    """A figure of each run by table and seed."""
    return {(count.table, count.seed): figure(count) for count in counts}


def mean_over_tables(figures: Cells) -> float:
    """Mean over the tables of means over their seeds."""
    return float(np.mean(list(by_table(figures).values())))
