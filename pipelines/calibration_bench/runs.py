"""Runs: how many unseen normal rows and anomalies a fit flags at each stated rate."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from anomvae.calibration import conditional_p_values
from anomvae.calibration.conformal import ROUNDING
from pipelines.accuracy_bench.ours import HIGHER_RATES, Variant, as_table
from pipelines.accuracy_bench.peers import PEERS, Standardiser
from pipelines.accuracy_bench.protocol import SUITES, Split
from pipelines.accuracy_bench.runs import WARM_STEPS, Run, ranking

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from pipelines.accuracy_bench.protocol import Bools, Floats
    from pipelines.accuracy_bench.runs import Outcome

DEFAULT, SPLIT, BOTH, PEER = "default", "split", "both", "PyOD VAE"
RATES = (0.05, 0.01, 0.001)
"""Stated shares of normal rows that may alarm."""
CONFIDENCE = 0.95
SURE = "sure "
"""Before a quantity: its p-values are the calibration-conditional ones at `CONFIDENCE`."""
P_VALUES = {"score": "p_value", "reconstruction": "p_value_reconstruction", "verdict": "p_value_verdict"}
"""Column of the scorer's answers by quantity."""
QUANTITIES: dict[str, tuple[str, ...]] = {
    DEFAULT: ("score", "reconstruction"),
    SPLIT: ("score", "reconstruction"),
    BOTH: ("verdict",),
    PEER: ("score",),
}
"""What is held against the stated rates, by method."""
OURS: dict[str, Variant] = {
    DEFAULT: Variant({"alarm_rate": HIGHER_RATES[0]}),
    SPLIT: Variant({"alarm_rate": HIGHER_RATES[0], "calibration": "split"}),
    BOTH: Variant({"alarm_rate": HIGHER_RATES[0], "decision": "both"}),
}
METHODS: tuple[str, ...] = (*OURS, PEER)
SEEDS: dict[str, Sequence[int]] = {DEFAULT: range(10), SPLIT: range(3), BOTH: range(3), PEER: range(3)}
"""Measured by method unless told otherwise, where the seed draws the split."""


def version_of(method: str) -> str:
    """The present version of a method."""
    return (OURS[method] if method in OURS else PEERS[method]).version


def plan(suite: str, tables: Sequence[str], seeds: Sequence[int] | None, methods: Sequence[str]) -> list[Run]:
    """All runs of some tables, seed by seed, so that a part of them covers every table.

    Args:
        suite: Its name.
        tables: Names.
        seeds: Of splits and methods; None: those of the method, or of a suite that brings its own splits.
        methods: Names.
    """
    versions = {method: version_of(method) for method in methods}
    drawn = {name: SEEDS[name] if suite == "adbench" else SUITES[suite].seeds for name in methods}
    wanted = {name: set(drawn[name] if seeds is None else seeds) for name in methods}
    return [
        Run(suite, table, seed, name, 0.0, versions[name])
        for seed in sorted(set().union(*wanted.values()))
        for table in tables
        for name in methods
        if seed in wanted[name]
    ]


def calibration_figures(run: Run, split: Split) -> dict[str, float]:
    """Alarms of a run at each stated rate that its calibration rows allow, ranking, sizes and CPU seconds of the fit.

    `steps`, `alarms` and `found` of a quantity and a rate (:func:`key`): the p-values that do not exceed the rate, the
    unseen normal rows and the anomalies that have one of them.
    """
    _warm_up(run.method)
    return _figures(run.method, split, run.seed)


def key(name: str, quantity: str, rate: float) -> str:
    """Name of a figure of a quantity at a stated rate."""
    return f"{name} {quantity} {rate:g}"


def steps_within(m: int, rate: float) -> int:
    """Multiples of 1 / (m + 1) that do not exceed a rate: the conformal p-values that alarm."""
    return min(m, math.floor(rate * (m + 1) + 1e-9))


def sure_steps_within(m: int, rate: float) -> int:
    """Calibration-conditional p-values that do not exceed a rate."""
    table = conditional_p_values(m, CONFIDENCE)
    return int(np.searchsorted(table, rate * (1.0 + ROUNDING), side="right"))


def _figures(method: str, split: Split, seed: int, max_steps: int | None = None) -> dict[str, float]:
    measured = _ours if method in OURS else _peer
    scores, found = measured(method, split, seed, max_steps)
    auroc, precision = ranking(scores, split.anomalous)
    sizes = {
        "train_rows": len(split.train),
        "columns": split.train.shape[1],
        "unseen": int((~split.anomalous).sum()),
        "anomalies": int(split.anomalous.sum()),
    }
    return {"auroc": auroc, "average_precision": precision, **sizes, **found}


def _ours(method: str, split: Split, seed: int, max_steps: int | None) -> tuple[Floats, dict[str, float]]:
    """Scores of the test rows, and what is counted by the p-values that users get."""
    train, test = as_table(split.train), as_table(split.test)
    started = time.process_time()
    scorer = OURS[method].scorer(train, seed, max_steps)
    fitted = time.process_time()
    answers = scorer.score(test, top=0)
    facts = scorer.manifest.calibration
    m = facts.rows
    found: dict[str, float] = {"m": m, "folds": facts.folds, "fit_s": round(fitted - started, 4)}
    for quantity in QUANTITIES[method]:
        steps = np.rint(answers[P_VALUES[quantity]].to_numpy() * (m + 1)).astype(np.int64)
        for rate in RATES:
            found |= _counts(quantity, rate, steps_within(m, rate), steps, split.anomalous)
            if quantity != "verdict":
                found |= _counts(SURE + quantity, rate, sure_steps_within(m, rate), steps, split.anomalous)
    return answers["score"].to_numpy(), found


def _counts(
    quantity: str, rate: float, within: int, steps: npt.NDArray[np.int64], anomalous: Bools
) -> dict[str, float]:
    """What alarms where p-values up to the `within`-th smallest one do; nothing where the rate allows none."""
    return _flagged(quantity, rate, within, steps <= within, anomalous) if within else {}


def _flagged(quantity: str, rate: float, within: int, alarm: Bools, anomalous: Bools) -> dict[str, float]:
    return {
        key("steps", quantity, rate): within,
        key("alarms", quantity, rate): int((alarm & ~anomalous).sum()),
        key("found", quantity, rate): int((alarm & anomalous).sum()),
    }


def _peer(method: str, split: Split, seed: int, _max_steps: int | None) -> tuple[Floats, dict[str, float]]:
    """Scores of the test rows, and what passes the threshold that PyOD takes from the scores of its training rows."""
    peer = PEERS[method]
    standardise = Standardiser.of(split.train)
    started = time.process_time()
    score: Any = peer.fit(standardise(split.train), peer.settings, seed)
    fitted = time.process_time()
    scores: Floats = np.asarray(score(standardise(split.test)), dtype=np.float64)
    own: Floats = score.__self__.decision_scores_  # the function is the fitted detector's method
    m = len(own)
    found: dict[str, float] = {"m": m, "folds": 0, "fit_s": round(fitted - started, 4)}
    for rate in RATES:
        within = steps_within(m, rate)
        if within:
            threshold = np.percentile(own, 100 * (1 - rate))  # as PyOD's `contamination` does
            found |= _flagged("score", rate, within, scores > threshold, split.anomalous)
    return scores, found


@cache
def _warm_up(method: str) -> None:
    """Imports and compiles what a method needs, once a process, so that no run counts it."""
    rows = np.random.default_rng(0).normal(size=(300, 4))
    anomalous = np.arange(200) < 10  # noqa: PLR2004  any rows
    with suppress(Exception):  # the run itself will tell
        _figures(method, Split(rows[:200], rows[100:], anomalous, np.zeros(200, dtype=bool)), 0, WARM_STEPS)


def told(outcome: Outcome) -> str:
    """False alarms of a run beside the stated rates, for the console."""
    figures = outcome.figures
    quantity = QUANTITIES[outcome.run.method][0]
    shares = [
        f"{100 * figures[key('alarms', quantity, rate)] / figures['unseen']:.2f} % at {100 * rate:g} %"
        for rate in RATES
        if key("alarms", quantity, rate) in figures
    ]
    return f"{', '.join(shares) or 'no rate'} of {figures['unseen']:,} rows, fit {figures['fit_s']:.1f} s"
