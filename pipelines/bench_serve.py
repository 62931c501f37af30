"""Measures the daemon beside its peers, in one run, into a section of docs/performance.md.

Run by `make bench-serve`; `--quick` is a fast pass that shows whether everything works, and writes nothing.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.bench import PAGE
from pipelines.sections import write_section
from pipelines.serve_bench import requests, servers
from pipelines.serve_bench.load import http_load
from pipelines.serve_bench.logged import log_subject, save_lean
from pipelines.serve_bench.page import Setting, section
from pipelines.serve_bench.rounds import BULK_ROWS, QUICK, Entry, Pace, bulk_requests, json_requests, measure
from pipelines.serve_bench.subject import fit_subject
from pipelines.serve_bench.surroundings import disk_mb, machine, peer_versions, versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipelines.serve_bench.subject import Subject

SECTION = "bench-serve"
SERVING = servers.ROOT / ".venv-serve"
MODELS = ("small", "small-mean")
PEERS = ("mlserver", "mlflow-lean", "mlflow")
ALL = ("ours", "bare", *PEERS)


def make_entries(wanted: Sequence[str], small: Subject, mean: Subject, pace: Pace, folder: Path) -> list[Entry]:
    """The servers that are wanted, with what they are asked."""
    single, bulk = requests.single_v2(small), json_requests(small)
    found = []
    if "ours" in wanted:
        found.append(Entry(servers.our_server(small), small, single, bulk_requests(small)))
        ours = servers.our_server(mean)
        found.append(Entry(ours, mean, requests.single_v2(mean), bulk_requests(mean), with_singles=False))
    if "bare" in wanted:
        found.append(Entry(servers.bare_server(small), small, single, bulk))
    if "mlserver" in wanted:
        found.append(Entry(choose_mlserver(small, pace, folder / "trial"), small, single, bulk))
    if "mlflow" in wanted or "mlflow-lean" in wanted:
        found += [entry for entry in _mlflow_entries(small, folder) if entry.server.name in wanted]
    return found


def _mlflow_entries(subject: Subject, folder: Path) -> list[Entry]:
    model_uri, database = log_subject(subject, folder)
    lean_bulk = tuple(requests.inputs_mlflow(subject, n_rows) for n_rows in BULK_ROWS)
    bulk = tuple(requests.bulk_mlflow(subject, n_rows) for n_rows in BULK_ROWS)
    lean = servers.mlflow_server(
        "mlflow-lean", "`mlflow models serve`, a model that only calls the graph", save_lean(subject, folder), database
    )
    logged = servers.mlflow_server("mlflow", "`mlflow models serve`, the model as anomvae logs it", model_uri, database)
    return [
        Entry(lean, subject, requests.inputs_mlflow(subject, 1), lean_bulk),
        Entry(logged, subject, requests.single_mlflow(subject), bulk),
    ]


def choose_mlserver(subject: Subject, pace: Pace, folder: Path) -> servers.Server:
    """MLServer with or without a worker process, whichever answers more single rows; a short trial decides."""
    single, rates = requests.single_v2(subject), {}
    for workers in (0, 1):
        candidate = servers.mlserver(subject, workers)
        with servers.running(candidate, single, folder / str(workers)) as server:
            http_load(server, single, 64, pace.warm_s, folder)
            rates[workers] = http_load(server, single, 64, pace.warm_s, folder).requests_per_s
        print(f"trial of {candidate.title}: {rates[workers]:,.0f} requests/s", flush=True)
    return servers.mlserver(subject, max(rates, key=lambda workers: rates[workers]))


def main() -> None:
    """Measures, and writes the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round; prints the section, writes nothing")
    parser.add_argument(
        "--only", default=",".join(ALL), help=f"servers, of {','.join(ALL)}; fewer than all: figures only"
    )
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is not installed (Debian: apt-get install wrk): the daemon is not measured")
        return
    pace, wanted = QUICK if arguments.quick else Pace(), arguments.only.split(",")
    if unknown := set(wanted) - set(ALL):
        parser.error(f"--only knows {', '.join(ALL)}, and not {', '.join(sorted(unknown))}")
    if "mlserver" in wanted and not (servers.PEERS / "mlserver").exists():
        parser.error("the peers' environment .venv-peers is not there: run `make bench-serve`, which makes it")
    with tempfile.TemporaryDirectory(prefix="anomvae-bench-") as scratch:
        folder = Path(scratch)
        print("fitting the models", flush=True)
        small, mean = (fit_subject(name, folder) for name in MODELS)
        entries = make_entries(wanted, small, mean, pace, folder)
        figures = measure(entries, pace, folder)
    if set(wanted) != set(ALL):
        return
    text = section(figures, _setting(entries, pace))
    if arguments.quick:
        print(text)
        return
    write_section(PAGE, SECTION, text)
    print(f"wrote the section {SECTION} of {PAGE}")


def _setting(entries: Sequence[Entry], pace: Pace) -> Setting:
    return Setting(
        machine=machine(),
        versions=versions(),
        peer_versions=peer_versions(servers.PEERS / "python"),
        servers=[entry.server for entry in entries if entry.with_singles],
        peers=PEERS,
        models=MODELS,
        pace=pace,
        disk_mb=disk_mb(SERVING),
    )


if __name__ == "__main__":
    main()
