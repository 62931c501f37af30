"""Measures realised beside stated alarm rates on benchmark suites, into docs/accuracy.md.

Run by `make bench-calibration`. Every finished run is a line of the results file, and is not measured again; a changed detector
or package is.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from anomvae.errors import SettingError
from pipelines.accuracy_bench.peers import ABSENT, PEERS, installed_version
from pipelines.accuracy_bench.protocol import SUITES
from pipelines.accuracy_bench.runs import read_outcomes
from pipelines.accuracy_bench.summary import current
from pipelines.benchmark import ROOT, exit_code_of, measure_missing, names_of, parser_of
from pipelines.calibration_bench.page import SECTION, section
from pipelines.calibration_bench.runs import METHODS, calibration_figures, plan, told, version_of
from pipelines.sections import write_section

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from pipelines.accuracy_bench.runs import Run

RESULTS = ROOT / ".bench-calibration.jsonl"


def main(arguments: list[str] | None = None) -> int:
    """Measures what is missing and writes the page."""
    options = parser_of(__doc__, METHODS, RESULTS, default="adbench").parse_args(arguments)

    def work() -> None:
        measure_missing(planned(options), options, calibration_figures, told)
        if options.page:
            write_page(options.results, options.page_path)

    return exit_code_of(work)


def planned(options: argparse.Namespace) -> list[Run]:
    """The runs that options ask for, without those of methods whose package is absent, which it says.

    Raises:
        InputError: They name what there is not.
    """
    methods = names_of(options.methods, METHODS, "methods")
    for name in [name for name in methods if name in PEERS and installed_version(PEERS[name].package) == ABSENT]:
        print(f"{name} is left out: {PEERS[name].package} is not installed; the extra `bench` brings it")
        methods.remove(name)
    runs = []
    for name in SUITES if options.suite == "all" else (options.suite,):
        runs += plan(name, SUITES[name].tables(options.data, options.tables), options.seeds, methods)
    if methods and not runs:
        raise SettingError(f"no table is called {options.tables!r}; --tables takes a pattern such as '3*'")
    return runs


def write_page(results: Path, page: Path) -> None:
    """Writes the page's section from all runs of the results file that measured the methods as they are now.

    Raises:
        SettingError: There are none.
    """
    found = current(read_outcomes(results).values(), {method: version_of(method) for method in METHODS})
    if not found:
        raise SettingError(f"{results} holds no run of the present methods; measure some first")
    write_section(page, SECTION, section(found), title="Accuracy")
    print(f"wrote {page}")


if __name__ == "__main__":
    sys.exit(main())
