"""The benchmark's section of the accuracy page, as Markdown."""

from __future__ import annotations

import math
import os
import platform
from typing import TYPE_CHECKING

from pipelines.accuracy_bench.ours import HIGHER_RATES
from pipelines.accuracy_bench.peers import ABSENT, PEERS, installed_version
from pipelines.accuracy_bench.protocol import SUITES, by_number
from pipelines.accuracy_bench.summary import percent, row
from pipelines.calibration_bench.comparison import (
    NAMES,
    as_percent,
    found_section,
    is_split,
    ranking_section,
    tables_section,
)
from pipelines.calibration_bench.runs import (
    CONFIDENCE,
    METHODS,
    OURS,
    PEER,
    QUANTITIES,
    RATES,
    SURE,
)
from pipelines.calibration_bench.summary import LEVEL, Realised, counts_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pipelines.accuracy_bench.runs import Outcome
    from pipelines.calibration_bench.summary import Share

SECTION = "calibration"
NEAR = 0.1
"""Relative distance of the realised from the stated rate up to which they count as alike."""
SURE_TITLE = f"{100 * CONFIDENCE:g} % confidence"

PROMISE = """### What is promised, and what is not

*Split* calibration (a part of the rows calibrates and trains nothing) is exact for any detector and any number of rows: if rows to come are
exchangeable with those that calibrate, a normal row alarms with at most the stated probability, over the draw of the calibration rows too,
and with the stated one but for rounding down where scores do not tie (Bates et al., 2023). That is an average: one set of m calibration
rows has a true rate of its own, spread as Beta(k, m + 1 - k), k the number of multiples of 1 / (m + 1) within the stated rate, and about
every second set is above. With `--confidence` the rate holds for the very rows that calibrate, with that probability, and for every rate
up to 10 % at once, so that at any one rate fewer sets are above.

*Cross* calibration, the default where rows are few, holds new rows, scored by the final network, against every training row, scored by
a network that has not seen it. No theorem covers that for a finite number of rows: it is exact as far as the final network scores a
new row as those networks do. The theorem of its relative CV+ (Barber et al., 2021), which scores new rows by all the networks at several
times the cost, promises no more than about twice the stated rate. The calibration scores share networks, so the Beta spread, the bound of the
tables and the confidence are approximations there. What stands in for a theorem are the figures of this section.

Neither promises anything for rows that are not exchangeable with those that calibrate: rows that drift, neighbours in time, a plant
that was changed. Thresholds taken from the scores of the training rows themselves, as PyOD's `contamination` does, promise nothing for new
rows at all."""


def section(outcomes: Sequence[Outcome]) -> str:
    """The section: per suite verdicts, rates, confidence, anomalies found, ranking and every table; then what is promised and how.

    Args:
        outcomes: Of the methods as they are now, at least one.
    """
    suites = [name for name in SUITES if any(found.run.suite == name for found in outcomes)]
    parts = [
        "## Stated and realised alarm rates",
        f"Written by `make bench-calibration` on {platform.machine()}, {os.cpu_count()} cores. A stated alarm rate is held against the share of "
        "normal rows that alarm among those no part of the fit has seen.",
    ]
    for name in suites:
        parts += _suite(name, [found for found in outcomes if found.run.suite == name])
    return "\n\n".join(part for part in (*parts, PROMISE, _failures(outcomes), _how(outcomes, suites)) if part)


def _suite(name: str, outcomes: Sequence[Outcome]) -> list[str]:
    title = SUITES[name].title
    parts = {
        "verdicts": f"{_measured(outcomes)}\n\n" + "\n".join([*_verdicts(outcomes), *_sure_verdicts(outcomes)]),
        "rates": f"{_legend()}\n\n{_rates(outcomes)}",
        f"rates with {SURE_TITLE}": _sure_rates(outcomes),
        "anomalies found at the same stated rate": found_section(outcomes),
        "ranking": ranking_section(outcomes),
        "by table": tables_section(outcomes),
    }
    return [f"### {title}: {heading}\n\n{text}" for heading, text in parts.items() if text]


def _measured(outcomes: Sequence[Outcome]) -> str:
    """Which runs there are."""
    done = [found for found in outcomes if not found.error]
    present = {method: {found.run.seed for found in done if found.run.method == method} for method in METHODS}
    seeds = [f"{NAMES[name]} {', '.join(map(str, sorted(of)))}" for name, of in present.items() if of]
    said = f"{len({found.run.table for found in done})} tables; seeds: {'; '.join(seeds)}. Means are over the tables, of means over their seeds."
    large = sorted({found.run.table for found in done if is_split(found)}, key=by_number)
    if large:
        said += f" {', '.join(large)} have rows enough for the default to be split calibration."
    if not present[PEER]:
        absent = installed_version(PEERS[PEER].package) == ABSENT
        said += (
            f" {PEER} is left out: {f'{PEERS[PEER].package} is not installed' if absent else 'it was not measured'}."
        )
    return said


def _realised(outcomes: Sequence[Outcome], before: str = "") -> Iterator[tuple[str, str, Realised]]:
    """Method, quantity and what was realised at each stated rate that some run's rows allow.

    Args:
        outcomes: Of one suite.
        before: Of the quantities: `SURE` for p-values with confidence.
    """
    for rate in RATES:
        for method in METHODS:
            for quantity in QUANTITIES[method]:
                counts = counts_of(outcomes, method, before + quantity, rate)
                if counts:
                    yield method, quantity, Realised.of(counts)


def _verdicts(outcomes: Sequence[Outcome]) -> list[str]:
    """A sentence a method, quantity and rate, from the figures."""
    lines = []
    for method, quantity, found in _realised(outcomes):
        near, near_exact = (abs(found.ratio / of - 1.0) <= NEAR for of in (1.0, found.exact_ratio))
        lines.append(
            f"- {NAMES[method]}, {quantity}: stated {as_percent(found.rate)}, realised {_share(found.ratio * found.rate)} ({_tables_of(found)}): "
            f"within {100 * NEAR:g} %: **{_yes(near)}**; exact p-values would give {_share(found.exact_ratio * found.rate)}: within {100 * NEAR:g} % of that: {_yes(near_exact)}."
        )
    return lines


def _sure_verdicts(outcomes: Sequence[Outcome]) -> list[str]:
    lines = []
    for method, quantity, found in _realised(outcomes, SURE):
        above = found.above_tested
        held = above.seen <= 1.0 - CONFIDENCE + 1e-9
        lines.append(
            f"- {NAMES[method]}, {quantity}, {SURE_TITLE}: stated {as_percent(found.rate)}, the true rate is above it, by the test, in {percent(above.seen)} % of "
            f"{found.runs} runs ({_tables_of(found)}; {percent(above.exact)} % if exact): at most {100 * (1 - CONFIDENCE):.0f} %: **{_yes(held)}**."
        )
    return lines


def _tables_of(found: Realised) -> str:
    return "1 table" if found.tables == 1 else f"{found.tables} tables"


def _yes(held: bool) -> str:
    return "yes" if held else "no"


def _legend() -> str:
    return (
        "A run counts at the rates that its m calibration rows allow; a rate that no run's rows allow has no line. *Exact*: what exact p-values "
        "would have given, which are multiples of 1 / (m + 1) and so realise a little less than stated. Shares of runs, in brackets what exact p-values would have given: *above the bound*, "
        f"more alarms than {100 * LEVEL:.0f} % of exact runs have (beta-binomial; alarms are counted, so less than {100 * (1 - LEVEL):.0f} % exceed it); *above stated*, a share "
        "of alarms above the stated rate, by chance or not; *truly above*, a true rate above the stated one as far as the unseen rows can tell "
        f"(one-sided binomial test at {100 * (1 - LEVEL):.0f} %). ± is the standard error over the tables. Runs of one table share rows: shares of runs are "
        "no independent trials. For PyOD the bracketed figures are those of as many calibration rows as it has training rows."
    )


def _rates(outcomes: Sequence[Outcome], before: str = "") -> str:
    """A line a rate, method and quantity."""
    heads = (
        "stated", "detector", "by", "runs (tables)", "realised / stated", "exact", "median", "above the bound", "above stated", "truly above",
    )  # fmt: skip
    lines = [row(*heads), "|---" * len(heads) + "|"]
    for method, quantity, found in _realised(outcomes, before):
        lines.append(
            row(
                as_percent(found.rate),
                NAMES[method],
                quantity,
                f"{found.runs} ({found.tables})",
                f"{found.ratio:.2f}" + ("" if math.isnan(found.error) else f" ± {found.error:.2f}"),
                f"{found.exact_ratio:.2f}",
                f"{found.median:.2f}",
                *map(_both, (found.above_bound, found.above_stated, found.above_tested)),
            )
        )
    return "\n".join(lines)


def _sure_rates(outcomes: Sequence[Outcome]) -> str:
    if not any(True for _ in _realised(outcomes, SURE)):
        return ""
    return f"The same fits; p-values as `--confidence {CONFIDENCE:g}` gives them.\n\n{_rates(outcomes, SURE)}"


def _both(share: Share) -> str:
    return f"{percent(share.seen)} % ({percent(share.exact)} %)"


def _share(share: float) -> str:
    return f"{100 * share:.3g} %"


def _failures(outcomes: Iterable[Outcome]) -> str:
    lines = [
        f"- {NAMES[found.run.method]}, {found.run.suite}/{found.run.table}, seed {found.run.seed}: `{found.error}`"
        for found in outcomes
        if found.error
    ]
    return "\n".join(["### Calibration runs that failed", "", "They count in no mean.", "", *lines]) if lines else ""


def _how(outcomes: Iterable[Outcome], suites: Sequence[str]) -> str:
    present = {found.run.method for found in outcomes}
    rates = ", ".join(f"{rate:g}" for rate in HIGHER_RATES)
    lines = [f"- {SUITES[name].title}: {SUITES[name].how}" for name in suites]
    if present & OURS.keys():
        lines.append(
            f"- {', '.join(NAMES[name] for name in OURS if name in present)}: a bundle fitted on the training rows in raw units at the first alarm rate of {rates} "
            "that they support, scored by the product's scorer; an alarm is a p-value that does not exceed the stated rate. `split`: "
            '`calibration = "split"`; `both scores`: `decision = "both"`, the p-value is the verdict\'s. Nothing is chosen by table.'
        )
    if PEER in present:
        lines.append(
            f"- {PEER} ({PEERS[PEER].package} {installed_version(PEERS[PEER].package)}): columns standardised by the training rows, the package's defaults; an "
            "alarm is a score above the (1 - rate) quantile of its scores of the training rows, as its `contamination` sets the threshold."
        )
    lines.append(
        f"- Every run is on one CPU thread of its own process, after a warm-up that does not count. Python {platform.python_version()}, torch {installed_version('torch')}, "
        f"scipy {installed_version('scipy')}."
    )
    return "### How calibration was measured\n\n" + "\n".join(lines)
