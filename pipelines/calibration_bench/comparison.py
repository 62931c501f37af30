"""The default method beside the others, and every table, for the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipelines.accuracy_bench.protocol import by_number
from pipelines.accuracy_bench.summary import by_table, cells_of, compare, differences, percent, row
from pipelines.calibration_bench.runs import BOTH, DEFAULT, METHODS, PEER, QUANTITIES, RATES, SPLIT
from pipelines.calibration_bench.summary import cells, counts_of, mean_over_tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipelines.accuracy_bench.runs import Outcome
    from pipelines.accuracy_bench.summary import Cells

NAMES = {DEFAULT: "anomvae", SPLIT: "anomvae (split)", BOTH: "anomvae (both scores)", PEER: PEER}
APPENDIX_RATES = RATES[:2]


def found_section(outcomes: Sequence[Outcome]) -> str:
    """The default against each other method, on the tables and seeds whose rows allow both the rate."""
    heads = (
        "stated",
        "against",
        "tables",
        "anomvae finds",
        "it finds",
        "won-tied-lost",
        "p",
        "anomvae's realised / stated",
        "its",
    )
    lines = [row(*heads), "|---" * len(heads) + "|"]
    for rate in RATES:
        ours = counts_of(outcomes, DEFAULT, "score", rate)
        for method in METHODS[1:]:
            theirs = counts_of(outcomes, method, QUANTITIES[method][0], rate)
            pair = [cells(counts, lambda count: count.recall) for counts in (ours, theirs)]
            common = pair[0].keys() & pair[1].keys()
            if not common:
                continue
            recalls = [mean_over_tables({at: of[at] for at in common}) for of in pair]
            ratios = [
                mean_over_tables(
                    cells((one for one in counts if (one.table, one.seed) in common), lambda one: one.ratio)
                )
                for counts in (ours, theirs)
            ]
            lines.append(
                row(
                    as_percent(rate),
                    NAMES[method],
                    len({table for table, _ in common}),
                    *(f"{percent(recall)} %" for recall in recalls),
                    *_compared(pair[0], pair[1]),
                    *(f"{ratio:.2f}" for ratio in ratios),
                )
            )
    if len(lines) == 2:  # noqa: PLR2004  the heading alone
        return ""
    return (
        "Share of the anomalies that alarm by the score (by the verdict where both scores give it), on the tables and seeds that both have; "
        "wins, ties and losses are the default's, p of the two-sided Wilcoxon signed-rank test over the tables. A method that alarms more often "
        "than stated finds more at the same stated rate.\n\n"
    ) + "\n".join(lines)


def _compared(ours: Cells, theirs: Cells) -> tuple[str, str]:
    found = compare(ours, theirs)
    return f"{found.wins}-{found.ties}-{found.losses}", f"{found.p:.3f}"


def ranking_section(outcomes: Sequence[Outcome]) -> str:
    """The default against split, where the default is not split itself."""
    apart = [found for found in outcomes if not is_split(found)]
    heads = ("figure", "tables", "anomvae", "split", "difference", "won-tied-lost", "p")
    lines = [row(*heads), "|---" * len(heads) + "|"]
    for name, title in (("auroc", "AUROC"), ("average_precision", "average precision")):
        pair = [cells_of(apart, name, method) for method in (DEFAULT, SPLIT)]
        common = pair[0].keys() & pair[1].keys()
        if not common:
            return ""
        means = [mean_over_tables({at: of[at] for at in common}) for of in pair]
        gain = np.mean(list(differences(*pair).values()))
        tables = len({table for table, _ in common})
        lines.append(row(title, tables, *map(percent, means), f"{100 * gain:+.2f}", *_compared(*pair)))
    seconds = [
        f"{NAMES[method]} {np.median(list(fits.values())):.1f}"
        for method in METHODS
        if (fits := cells_of(outcomes, "fit_s", method))
    ]
    return "\n".join(
        [
            "Paired over the tables and seeds that both have, without those where the default is split itself; percent.",
            "",
            *lines,
            "",
            f"CPU seconds of a fit, median of the runs: {', '.join(seconds)}.",
        ]
    )


def tables_section(outcomes: Sequence[Outcome]) -> str:
    """A line a table: rows, then realised over stated rate of every method."""
    present = [method for method in METHODS if any(found.run.method == method for found in outcomes)]
    rates = " / ".join(map(as_percent, APPENDIX_RATES))
    ratios = {
        method: [
            by_table(cells(counts_of(outcomes, method, QUANTITIES[method][0], rate), lambda count: count.ratio))
            for rate in APPENDIX_RATES
        ]
        for method in present
    }
    sizes = {name: {m: by_table(cells_of(outcomes, name, m)) for m in present} for name in ("m", "unseen")}
    heads = [
        "table",
        "unseen rows",
        *(f"m, {NAMES[method]}" for method in present),
        *(NAMES[method] for method in present),
    ]
    lines = [row(*heads), "|---" * len(heads) + "|"]
    for table in sorted({found.run.table for found in outcomes}, key=by_number):
        unseen = next((of[table] for of in sizes["unseen"].values() if table in of), None)
        lines.append(
            row(
                table,
                _count(unseen),
                *(_count(sizes["m"][method].get(table)) for method in present),
                *(" / ".join(_ratio(of.get(table)) for of in ratios[method]) for method in present),
            )
        )
    return (
        f"Realised / stated at {rates}, mean over the seeds, by the score (by the verdict where both scores give it); `-` where no run's rows allow "
        "the rate. m: calibration rows (of PyOD: training rows).\n\n"
    ) + "\n".join(lines)


def _count(number: float | None) -> str:
    return "failed" if number is None else f"{number:,.0f}"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def as_percent(rate: float) -> str:
    """A stated rate for people.

    Example:
        >>> as_percent(0.001)
        '0.1 %'
    """
    return f"{100 * rate:g} %"


def is_split(outcome: Outcome) -> bool:
    """Whether a run is of the default, and the default was split calibration."""
    return outcome.run.method == DEFAULT and outcome.figures.get("folds") == 0
