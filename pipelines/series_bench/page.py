"""The section of the accuracy page on series, as Markdown."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

from anomvae.evaluation.series import duration_words
from pipelines.accuracy_bench.peers import ABSENT, installed_version
from pipelines.accuracy_bench.summary import percent, row
from pipelines.series_bench.generated import GENERATED
from pipelines.series_bench.ours import DEFAULT, OURS, RATES
from pipelines.series_bench.peers import MOST_WINDOWS, PEERS
from pipelines.series_bench.runs import MODES, key
from pipelines.series_bench.sources import CONTEXT, EXTRA, WINDOW
from pipelines.series_bench.steps import FLOOR
from pipelines.series_bench.summary import MEASURES, RANKED, RECALL, Loss, Results

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pipelines.accuracy_bench.runs import Outcome

SECTION = "bench-series"
FACTOR = 1.5
"""Realised and stated rates are near where neither is more than so many times the other."""
TITLES = {
    "tep": "Tennessee Eastman",
    "skab": "SKAB",
    **{name: f"{name} (generated)" for name in GENERATED},
}
MODE_TITLES = {"batch": "by all windows that cover a step", "online": "by the past alone"}
ABOUT = {
    "tep": "A simulated chemical process, a step every three minutes. The one normal run trains; the 21 runs with a fault and the one "
    "without are each an asset that did not train and is scaled as the training run is.",
    "skab": "A water loop, a step a second. The normal begin of each of 34 runs trains, and one run that is all normal; the rest of each run tests "
    f"and follows its training rows, of which the last {CONTEXT} go before it to fill windows.",
    **{name: generator.about for name, generator in GENERATED.items()},
}


def section(outcomes: Sequence[Outcome]) -> str:
    """The section: means, each data set, false alarms beside the stated rates, every setting, failures, how it was measured.

    Args:
        outcomes: Of the methods as they are now, at least one.
    """
    results = Results(outcomes)
    parts = [
        "## Series beside other detectors",
        f"Written by `make bench-series` on {platform.machine()}, {os.cpu_count()} cores. Only normal rows train. VUS-PR, VUS-ROC, AUROC and average precision "
        "(AP) are percent, each the mean over the runs that have anomalies, and over the seeds of a detector that draws. A detector stands with its "
        "setting of the highest VUS-PR in the table, chosen by the test labels, except ours, which has none to choose; all settings are listed below.",
        *_means(results),
    ]
    for table in results.tables:
        parts += _data_set(results, table)
    parts += [_false_alarms(results), _settings(results), _failures(outcomes), _how(results)]
    return "\n\n".join(part for part in parts if part)


def title_of(table: str) -> str:
    """Heading of a data set."""
    return TITLES.get(table, table.removeprefix(EXTRA))


def _groups(results: Results) -> dict[str, list[str]]:
    """Data sets whose means are shown, by what they are."""
    made = [table for table in results.tables if table in GENERATED]
    public = [table for table in results.tables if table not in GENERATED]
    return {
        name: tables for name, tables in (("measured series", public), ("generated series", made)) if len(tables) > 1
    }


def _means(results: Results) -> Iterator[str]:
    """A table of VUS-PR by data set and their mean, for each kind of data sets and each mode; then where ours is not the best."""
    for name, tables in _groups(results).items():
        yield f"### Means over the {name}"
        for mode in MODES:
            best = results.best(tables, mode)
            if not best:
                continue
            heads = (*map(title_of, tables), "mean", "VUS-ROC, mean", "AUROC, mean")
            lines = [row("detector", *heads), "|---" * (len(heads) + 1) + "|"]
            for method in best.values():
                cells = [_percent(results.mean(table, method, key(mode, "vus_pr"))) for table in tables]
                means = [
                    _percent(results.over(tables, method, key(mode, part))) for part in ("vus_pr", "vus_roc", "auroc")
                ]
                lines.append(row(_bold(method), *cells, *means))
            yield f"VUS-PR, {MODE_TITLES[mode]}; one setting for all data sets:\n\n" + "\n".join(lines)
        yield "\n".join(_verdicts(results, tables, f"mean over the {name}", ("vus_pr",)))


def _data_set(results: Results, table: str) -> Iterator[str]:
    yield f"### {title_of(table)}"
    yield f"{ABOUT.get(table, '')} {_sizes(results, table)}".strip()
    for mode in MODES:
        best = results.best([table], mode)
        if best:
            yield f"{MODE_TITLES[mode].capitalize()}:\n\n{_ranking(results, table, mode, list(best.values()))}"
    yield "\n".join(_verdicts(results, [table], title_of(table)))


def _ranking(results: Results, table: str, mode: str, methods: Sequence[str]) -> str:
    heads = ("detector", *RANKED.values(), "events found", "by chance", "median delay", "fit s", "score s")
    lines = [row(*heads), "|---" * len(heads) + "|"]
    for method in methods:
        ranked = [_percent(results.mean(table, method, key(mode, name))) for name in RANKED]
        found, chance, delay = (
            results.mean(table, method, key(mode, name))
            for name in (RECALL, "event_recall_by_chance_at_budget", "delay_median_s_at_budget")
        )
        seconds = (results.mean(table, method, name) for name in ("fit_s", key(mode, "score_s")))
        lines.append(
            row(
                _bold(method),
                *ranked,
                _percent(found),
                _percent(chance),
                duration_words(delay),
                *map(_seconds, seconds),
            )
        )
    return "\n".join(lines)


def _sizes(results: Results, table: str) -> str:
    """What trains and what is judged."""
    method = results.methods(table)[0]

    def told(quantity: str) -> float:
        return results.mean(table, method, quantity) or 0.0

    days, budget = told(key("batch", "normal_days")), told("alarms_per_day_stated")
    allowed = int(budget * days + 1e-9)
    return (
        f"{told('train_rows'):,.0f} rows of {_many(told('train_assets'), 'asset')} and {told('channels'):.0f} channels train; {told('judged'):,.0f} rows of "
        f"{_many(told('assets'), 'asset')} are judged, {told('anomalies'):,.0f} of them anomalous in {_many(told(key('batch', 'ranges')), 'event')}. Events are "
        f"found at a budget of {budget:g} alarms a day and asset: {_many(allowed, 'alarm')} in the {days:.2g} days of normal rows."
    )


def _verdicts(
    results: Results, tables: Sequence[str], where: str, quantities: Sequence[str] = tuple(MEASURES)
) -> Iterator[str]:
    """Sentences on where ours is not the best, from the figures."""
    for mode in results.modes_with(tables, DEFAULT):
        losses = results.losses(tables, mode, quantities)
        about = f"- {where[0].upper()}{where[1:]}, {MODE_TITLES[mode]}: "
        names = ", ".join(MEASURES[quantity] for quantity in quantities)
        if not losses:
            yield f"{about}no detector is above {DEFAULT} in {names}."
            continue
        yield about + f"above {DEFAULT} " + "; ".join(map(_loss, losses)) + "."


def _loss(loss: Loss) -> str:
    others = ", ".join(f"{method} {percent(value)}" for method, value in loss.theirs.items())
    return f"in {MEASURES[loss.quantity]} ({percent(loss.ours)}): {others}"


def _false_alarms(results: Results) -> str:
    """Realised beside stated rates of our verdicts on normal rows."""
    heads = (
        "data set", "detector", "mode", "stated", "realised", "realised / stated", "normal rows", "after the first day", "/ stated", "normal rows",
        "assets: least", "median", "most",
    )  # fmt: skip
    lines, said = [row(*heads), "|---" * len(heads) + "|"], []
    for table in results.tables:
        for method in results.ours(table):
            for mode in MODES:
                for rate in RATES:
                    if results.mean(table, method, key(mode, "normal", rate)) is None:
                        said.append(
                            f"- {title_of(table)}, {method}, {MODE_TITLES[mode]}: the training rows do not support {100 * rate:g} %."
                        )
                        continue
                    lines.append(_rate_row(results, table, method, mode, rate))
                    if method == DEFAULT:
                        said.append(_near(results, table, mode, rate))
    if not said:
        return ""
    return "\n\n".join(
        [
            "### False alarms beside the stated rate",
            "Shares of normal test rows that alarm by the column `alarm` at a stated rate, pooled over assets and seeds; of all of them, and of those "
            "later than a day after their asset's first, where there are any; then the share by asset.",
            "\n".join(lines),
            "\n".join(said),
        ]
    )


def _share(results: Results, table: str, method: str, mode: str, rate: float, before: str = "") -> tuple[float, float]:
    """Share of normal rows that alarm, and how many there are a seed."""
    alarms, normal = (sum(results.all(table, method, key(mode, before + part, rate))) for part in ("alarms", "normal"))
    seeds = max(1, results.seeds(table, method))
    return (alarms / normal if normal else 0.0), normal / seeds


def _rate_row(results: Results, table: str, method: str, mode: str, rate: float) -> str:
    (share, rows), (late, late_rows) = (_share(results, table, method, mode, rate, before) for before in ("", "later_"))
    spread = [
        _percent(results.mean(table, method, key(mode, f"asset_{part}", rate))) for part in ("least", "median", "most")
    ]
    later = (f"{percent(late)} %", f"{late / rate:.2f}") if late_rows else ("-", "-")
    return row(
        title_of(table), _bold(method), mode, f"{100 * rate:g} %", f"{percent(share)} %", f"{share / rate:.2f}", f"{rows:,.0f}", *later,
        f"{late_rows:,.0f}", *spread,
    )  # fmt: skip


def _near(results: Results, table: str, mode: str, rate: float) -> str:
    """Whether the realised rate is near the stated one: after the first day where the data are that long, else on all normal rows."""
    late, late_rows = _share(results, table, DEFAULT, mode, rate, "later_")
    share, part = (
        (late, "after the first day")
        if late_rows
        else (_share(results, table, DEFAULT, mode, rate)[0], "of all normal rows, none is later than a day")
    )
    near = 1 / FACTOR <= share / rate <= FACTOR
    return (
        f"- {title_of(table)}, {MODE_TITLES[mode]}: stated {100 * rate:g} %, realised {percent(share)} % ({part}): within a factor of {FACTOR:g}: "
        f"**{'yes' if near else 'no'}**{', too few' if share * FACTOR < rate else ''}."
    )


def _settings(results: Results) -> str:
    """Every setting's VUS-PR."""
    tables = results.tables
    heads = ("setting", *(f"{title_of(table)}, {mode}" for table in tables for mode in MODES))
    lines = [row(*heads), "|---" * len(heads) + "|"]
    for method in (*OURS, *PEERS):
        cells = [_percent(results.mean(table, method, key(mode, "vus_pr"))) for table in tables for mode in MODES]
        if any(cell != "-" for cell in cells):
            lines.append(row(_bold(method), *cells))
    return "### Every setting\n\nVUS-PR, percent.\n\n" + "\n".join(lines)


def _failures(outcomes: Iterable[Outcome]) -> str:
    lines = [
        f"- {found.run.method}, {title_of(found.run.table)}, seed {found.run.seed}: `{found.error}`"
        for found in outcomes
        if found.error
    ]
    return "\n".join(["### Series runs that failed", "", "They count in no mean.", "", *lines]) if lines else ""


def _how(results: Results) -> str:
    seeds = {results.seeds(table, DEFAULT) for table in results.tables} - {0}
    versions = ", ".join(f"{name} {installed_version(name)}" for name in ("scikit-learn", "torch", "pyod"))
    lines = [
        f"- Windows of {WINDOW} steps, one step apart, laid out by the product's own rules for all (gaps end sequences); peers in windows of 16 too, and of "
        f"single rows. Where test rows follow nothing, each asset's first {WINDOW - 1} fill windows and are judged for nobody. A step no window of a detector reaches "
        "(after a gap) counts as its least strange.",
        "- By all windows: a step's score is the mean over the windows that cover it, of its own score there, or of the window's where a detector scores "
        "windows. By the past: that of the one window whose newest step it is.",
        f"- Peers: each asset's channels are centred and scaled by its training rows (a spread of at least {FLOOR:g} of the assets' median), as ours does; assets not met are "
        "scaled by all training rows; a missing cell repeats the one before. *Drawn in*: far values by their logarithm, as ours does. At most "
        f"{MOST_WINDOWS:,} training windows, evenly thinned.",
        "- PCA: components of 90 % of the variance; the squared error of each step in its window, or the window's mean. k-means: 20 centres, distance to the nearest. IForest: 200 "
        "trees on flattened windows. CNN forecaster: two convolutions (DeepAnT), squared error of the newest step, smoothed over the past by exponential weights of a "
        "window's span (as Hundman et al., 2018), in either mode; it stops by a tenth of the training time held out. PyOD VAE: its defaults on flattened windows. 1-NN: "
        "Euclidean distance to the nearest training window.",
        f"- {DEFAULT}: `anomvae.fit(frame, time=..., by=..., window={WINDOW})`, its defaults; *rows* and *windows*: `members=` of one kind.{_seeds_of(seeds)}",
        "- Budget: one threshold for all runs of a data set, the lowest at which its normal rows raise no more events than allowed; neighbouring alarms are one event, "
        "one that lasts counts again. *By chance*: what alarms that come at random as often would find. VUS: buffers up to the period of the first channel.",
        f"- Seconds are of one CPU core; every run is in a process of its own, after a warm-up that does not count. Python {platform.python_version()}, {versions}.",
    ]
    if installed_version("pyod") == ABSENT:
        lines.append("- PyOD is not installed, so that its VAE was not measured; the extra `bench` brings it.")
    return "### How series were measured\n\n" + "\n".join(lines)


def _seeds_of(counts: set[int]) -> str:
    return f" Seeds a data set: {' or '.join(map(str, sorted(counts)))}." if counts else ""


def _percent(share: float | None) -> str:
    return "-" if share is None else percent(share)


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"


def _bold(method: str) -> str:
    return f"**{method}**" if method in OURS else method


def _many(count: float, thing: str) -> str:
    return f"{count:,.0f} {thing}" if round(count) == 1 else f"{count:,.0f} {thing}s"
