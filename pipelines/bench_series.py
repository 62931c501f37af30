"""Measures detectors of series beside one another and beside stated alarm rates, into docs/accuracy.md.

Run by `make bench-series`. Every finished run is a line of the results file, and is not measured again; a changed detector
or package is. With `--extra FOLDER` it measures other series instead, and writes on the console alone: each folder in FOLDER
holds train.parquet (normal rows), test.parquet, and series.json: {"time": ..., "label": ..., "asset": ..., "channels": [...],
"alarms_per_day": ..., "follows": whether an asset's test rows go on from its training rows}; all but the first two may be left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from anomvae.errors import DataFileError, SettingError
from pipelines.accuracy_bench.peers import ABSENT, installed_version
from pipelines.accuracy_bench.runs import append_outcome, read_outcomes
from pipelines.benchmark import DATA, PAGE, ROOT, exit_code_of, names_of
from pipelines.sections import write_section
from pipelines.series_bench.page import SECTION, section
from pipelines.series_bench.peers import PEERS
from pipelines.series_bench.runs import METHODS, SEEDS, key, measure_all, plan
from pipelines.series_bench.sources import EXTRA, NAMES, READERS, extra_names
from pipelines.series_bench.summary import current, family_of

if TYPE_CHECKING:
    from pipelines.accuracy_bench.runs import Outcome, Run

RESULTS = ROOT / ".bench-series.jsonl"


def main(arguments: list[str] | None = None) -> int:
    """Measures what is missing, and writes the page or says what was found."""
    options = _parser().parse_args(arguments)

    def work() -> None:
        runs = planned(options)
        measure_missing(runs, options)
        if options.extra is not None:
            print(section(_of(options.results, {run.table for run in runs})))
        elif options.page:
            write_page(options.results, options.page_path)

    return exit_code_of(work)


def planned(options: argparse.Namespace) -> list[Run]:
    """The runs that options ask for, without those of methods whose package is absent, which it says.

    Raises:
        InputError: They name what there is not.
    """
    methods = _methods(options.methods)
    for package in sorted({PEERS[name].package for name in methods if name in PEERS}):
        if installed_version(package) == ABSENT:
            print(f"{package} is not installed, its detectors are left out; the extra `bench` brings it")
            methods = [name for name in methods if name not in PEERS or PEERS[name].package != package]
    known = NAMES if options.extra is None else extra_names(options.extra)
    names = names_of(options.series, known, "series")
    for folder in (options.data / name for name in names if name in READERS):
        if not folder.is_dir():
            raise DataFileError(f"there is no folder {folder}; name the one that holds {folder.name}/ with --data")
    return plan(names, methods, options.seeds)


def measure_missing(runs: list[Run], options: argparse.Namespace) -> None:
    """Measures the runs that the results file lacks, and adds each as it ends.

    Args:
        runs: In the order they shall start.
        options: `data`, `extra`, `results`, `processes`, and `retry`, whether runs that failed are measured again.
    """
    known = read_outcomes(options.results)
    missing = [run for run in runs if run not in known or (options.retry and known[run].error)]
    print(f"{len(runs) - len(missing):,} of {len(runs):,} runs are in {options.results}", flush=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn()) as progress:
        task = progress.add_task("measuring", total=len(missing))
        for outcome in measure_all(missing, options.data, options.extra, options.processes):
            append_outcome(options.results, outcome)
            progress.console.print(told(outcome), highlight=False, soft_wrap=True)
            progress.advance(task)


def write_page(results: Path, page: Path) -> None:
    """Writes the page's section from all runs of the benchmark's own data sets with the methods as they are now.

    Raises:
        SettingError: There are none.
    """
    write_section(page, SECTION, section(_of(results, set(NAMES))), title="Accuracy")
    print(f"wrote {page}")


def told(outcome: Outcome) -> str:
    """A run in a line, for the console."""
    run, figures = outcome.run, outcome.figures
    about = f"{run.table} seed {run.seed}: {run.method}"
    if outcome.error:
        return f"{about} failed: {outcome.error}"
    ranked = ", ".join(f"{mode} {100 * figures[key(mode, 'vus_pr')]:.1f}" for mode in ("batch", "online"))
    return f"{about} VUS-PR {ranked}; fit {figures['fit_s']:.1f} s"


def _of(results: Path, tables: set[str]) -> list[Outcome]:
    """Runs of the present methods on some data sets, in their order, ours first.

    Raises:
        SettingError: There are none.
    """
    found = [outcome for outcome in current(read_outcomes(results).values()) if outcome.run.table in tables]
    if not found:
        raise SettingError(f"{results} holds no run of the present methods; measure some first")
    order = [*NAMES, *sorted(tables - set(NAMES))]
    return sorted(found, key=lambda outcome: (order.index(outcome.run.table), METHODS.index(outcome.run.method)))


def _methods(wanted: str | None) -> list[str]:
    """Methods by name, or all settings of a detector by its own."""
    found = []
    for name in names_of(wanted, (*METHODS, *map(family_of, METHODS)), "methods") if wanted else METHODS:
        found += [method for method in METHODS if name in {method, family_of(method)} and method not in found]
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--series", help=f"Data sets with commas between; default all: {', '.join(NAMES)}, or those of --extra."
    )
    parser.add_argument("--methods", help="Detectors, or settings of them, with commas between; default all.")
    parser.add_argument("--seeds", type=_seeds, default=SEEDS, help="With commas between.")
    parser.add_argument(
        "--processes", type=int, choices=range(1, 65), metavar="N", default=2, help="At once, one thread each."
    )
    parser.add_argument("--data", type=Path, default=DATA, help="Folder of the data sets' folders.")
    parser.add_argument(
        "--extra", type=Path, help=f"Folder of other series to measure instead; their names begin with {EXTRA!r}."
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="File of finished runs.")
    parser.add_argument("--retry", action="store_true", help="Measure runs again that failed.")
    parser.add_argument(
        "--page", action=argparse.BooleanOptionalAction, default=True, help="Whether to write the page."
    )
    parser.add_argument("--page-path", type=Path, default=PAGE, help="The page.")
    return parser


def _seeds(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError("takes whole numbers with commas between")
    return tuple(map(int, parts))


if __name__ == "__main__":
    sys.exit(main())
