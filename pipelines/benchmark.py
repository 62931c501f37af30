"""Measures ranking on two benchmark suites beside other libraries' detectors, into docs/accuracy.md.

Run by `make bench-accuracy`. Every finished run is a line of the results file, and is not measured again; a changed detector
or package is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from anomvae.errors import AnomvaeError, SettingError
from pipelines.accuracy_bench.page import SECTION, read_explanations, section
from pipelines.accuracy_bench.peers import ABSENT, PEERS, installed_version
from pipelines.accuracy_bench.protocol import SUITES
from pipelines.accuracy_bench.runs import (
    METHODS,
    Outcome,
    append_outcome,
    measure_all,
    plan,
    ranking_figures,
    read_outcomes,
)
from pipelines.accuracy_bench.summary import current
from pipelines.sections import write_section

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipelines.accuracy_bench.protocol import Split
    from pipelines.accuracy_bench.runs import Run

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "accuracy.md"
RESULTS = ROOT / ".bench-accuracy.jsonl"
DATA = ROOT.parent / "shared" / "data"
EXPLANATIONS = Path(__file__).parent / "accuracy_bench" / "explanations.toml"


def told_ranking(outcome: Outcome) -> str:
    """Ranking figures and fit seconds of a run, for the console."""
    auroc, precision, fit_s = (outcome.figures[name] for name in ("auroc", "average_precision", "fit_s"))
    return f"{100 * auroc:.1f} / {100 * precision:.1f}, fit {fit_s:.1f} s"


def main(arguments: list[str] | None = None) -> int:
    """Measures what is missing and writes the page."""
    options = _parser().parse_args(arguments)

    def work() -> None:
        measure_missing(planned(options), options)
        if options.page:
            write_page(options.results, options.page_path)

    return exit_code_of(work)


def exit_code_of(work: Callable[[], None]) -> int:
    """Does the work of a benchmark; what goes wrong is one line on standard error."""
    try:
        work()
    except AnomvaeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the next run goes on from here", file=sys.stderr)
        return 130
    return 0


def planned(options: argparse.Namespace) -> list[Run]:
    """The runs that options ask for.

    Raises:
        InputError: They name what there is not.
    """
    methods = names_of(options.methods, METHODS, "methods")
    runs = []
    for name in SUITES if options.suite == "all" else (options.suite,):
        tables = SUITES[name].tables(options.data, options.tables)[: options.max_tables]
        seeds = options.seeds or SUITES[name].seeds
        runs += plan(name, options.data, tables, seeds, methods, options.dirty)
    if not runs:
        raise SettingError(f"no table is called {options.tables!r}; --tables takes a pattern such as '3*'")
    for name in methods:
        if name in PEERS and installed_version(PEERS[name].package) == ABSENT:
            raise SettingError(
                f"{name} cannot run: {PEERS[name].package} is not installed; the extra `bench` brings it"
            )
    return runs


def measure_missing(
    runs: Sequence[Run],
    options: argparse.Namespace,
    figures: Callable[[Run, Split], dict[str, float]] = ranking_figures,
    told: Callable[[Outcome], str] = told_ranking,
) -> None:
    """Measures the runs that the results file lacks, and adds each as it ends.

    Args:
        runs: In the order they shall start.
        options: `data`, the folder of the suites' folders; `results`, the file; `processes`, the workers; `retry`, whether
            runs that failed are measured again.
        figures: Gives the figures of a run on its split.
        told: Says what figures a run gave, for the console.
    """
    known = read_outcomes(options.results)
    missing = [run for run in runs if run not in known or (options.retry and known[run].error)]
    print(f"{len(runs) - len(missing):,} of {len(runs):,} runs are in {options.results}", flush=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()) as progress:
        task = progress.add_task("measuring", total=len(missing))
        for outcome in measure_all(missing, options.data, options.processes, figures):
            append_outcome(options.results, outcome)
            progress.console.print(_line(outcome, told), highlight=False, soft_wrap=True)
            progress.advance(task)


def write_page(results: Path, page: Path) -> None:
    """Writes the page's section from all runs of the results file that measured the methods as they are now.

    Raises:
        SettingError: There are none.
    """
    outcomes = current(read_outcomes(results).values())
    if not outcomes:
        raise SettingError(f"{results} holds no run of the present methods; measure some first")
    write_section(page, SECTION, section(outcomes, read_explanations(EXPLANATIONS)), title="Accuracy")
    print(f"wrote {page}")


def _line(outcome: Outcome, figures: Callable[[Outcome], str]) -> str:
    run = outcome.run
    share = f", {100 * run.dirty:.3g}% dirty" if run.dirty else ""
    told = f"{run.suite}/{run.table} seed {run.seed}{share}: {run.method}"
    return f"{told} failed: {outcome.error}" if outcome.error else f"{told} {figures(outcome)}"


def names_of(wanted: str | None, known: Sequence[str], what: str) -> list[str]:
    """Names that an option lists with commas between; all where it lists none.

    Raises:
        SettingError: One is not known.
    """
    names = [name.strip() for name in wanted.split(",")] if wanted else list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SettingError(f"--{what} names {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__, METHODS, RESULTS, default="all")
    parser.add_argument("--max-tables", type=_count, help="At most so many tables a suite.")
    parser.add_argument(
        "--dirty", type=_shares, default=[], help="Shares of anomalies in training rows, such as 0.01,0.1."
    )
    return parser


def parser_of(about: str | None, methods: Sequence[str], results: Path, default: str) -> argparse.ArgumentParser:
    """The options that benchmarks on the suites have in common.

    Args:
        about: What the benchmark does.
        methods: Names that `--methods` may name.
        results: Default of `--results`.
        default: Of `--suite`.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=[*SUITES, "all"], default=default, help="Which tables.")
    parser.add_argument("--methods", help=f"Names with commas between; default all: {', '.join(methods)}.")
    parser.add_argument("--tables", default="*", help="Shell pattern of the tables' names.")
    parser.add_argument("--seeds", type=_seeds, help="With commas between; default the suite's or the method's own.")
    parser.add_argument("--processes", type=_count, default=2, help="Workers, one thread each.")
    parser.add_argument("--data", type=Path, default=DATA, help="Folder of the suites' folders.")
    parser.add_argument("--results", type=Path, default=results, help="File of finished runs.")
    parser.add_argument("--retry", action="store_true", help="Measure runs again that failed.")
    parser.add_argument(
        "--page", action=argparse.BooleanOptionalAction, default=True, help="Whether to write the page."
    )
    parser.add_argument("--page-path", type=Path, default=PAGE, help="The page.")
    return parser


def _seeds(text: str) -> list[int]:
    return [_whole(part, 0) for part in text.split(",")]


def _shares(text: str) -> list[float]:
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if not shares or not all(0 < share < 1 for share in shares):
        raise argparse.ArgumentTypeError("takes shares between 0 and 1 with commas between")
    return shares


def _count(text: str) -> int:
    return _whole(text, 1)


def _whole(text: str, least: int) -> int:
    if not text.strip().isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"takes whole numbers from {least}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
