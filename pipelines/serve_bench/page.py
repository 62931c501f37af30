"""The section of docs/performance.md that tells what was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.serve_bench.rounds import BULK_KINDS, BULK_ROWS
from pipelines.serve_bench.subject import TITLES
from pipelines.serve_bench.targets import KIND_TITLES, alone_of, find_targets

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipelines.serve_bench.rounds import Figures, Pace
    from pipelines.serve_bench.servers import Server


@dataclass(frozen=True, slots=True)
class Setting:
    """What the figures were taken on and with.

    Attributes:
        machine: The machine, for people.
        versions: Versions of this environment's packages.
        peer_versions: Versions of the peers' own environment.
        servers: The servers of single rows, in the page's order.
        peers: Names of those to be ten times faster than.
        models: Names of the models measured in bulk.
        pace: How long was measured.
        disk_mb: Size of the serving environment; None: there is none.
    """

    machine: str
    versions: Mapping[str, str]
    peer_versions: Mapping[str, str]
    servers: Sequence[Server]
    peers: Sequence[str]
    models: Sequence[str]
    pace: Pace
    disk_mb: float | None


def section(figures: Figures, setting: Setting) -> str:
    """The section, as Markdown."""
    pace = setting.pace
    rounds = "one round" if pace.rounds == 1 else f"the median of {pace.rounds} interleaved rounds"
    targets = find_targets(figures, setting.peers, setting.models, setting.disk_mb)
    disk = (
        ""
        if setting.disk_mb is not None
        else "\nThe serving environment's size on disk was not measured: there was none.\n"
    )
    return f"""## Serving

Written by `make bench-serve` on {setting.machine}. Every figure is {rounds}; in a round each server runs alone, after a warm-up,
and shares the cores with the client ({pace.single_s:g} s of 64 connections, {pace.idle_s:g} s of one, {pace.bulk_s:g} s of each kind of bulk,
{pace.peer_bulk_s:g} s for the others). Compare the ratios: they are quotients inside a round. ONNX Runtime alone, looked at before and after
the daemon, differed by at most {figures.unrest():.0%}: no ratio is surer than that. Answers are compared with ONNX Runtime's before their speed
is measured, and a single refused or lost request ends the run. A fast pass without writing: `.venv/bin/python -m pipelines.bench_serve --quick`.

The model has 32 numeric columns, encoder 128-64, latent 8, decoder 64-128. The score averages over 8 fixed draws of z, or takes the
posterior mean. `anomvae serve` runs as it comes, with validation, batching, metrics and a token check; the bare app parses the same JSON
and calls ONNX Runtime inline, and does nothing else. MLServer calls the same graph from a model of its own kind; with or without a worker
process, whichever a trial found faster. MLflow serves the bundle as anomvae logs it, which makes frames and reads a schema, and beside it a
model that only hands arrays to the graph.

### One row a request

JSON; score and alarm come back.

| | 64 connections: req/s | p50 ms | p99 ms | one connection: p50 ms | cold start s | resident MB, idle | after the load |
|---|---|---|---|---|---|---|---|
{_lines(_single_lines(figures, setting.servers))}

### Many rows a request

Rows a second over four connections, and the share of what ONNX Runtime alone does on all cores, every core on chunks of its own
(the best of 128 to 1,024 rows a call), for the same outputs: score and alarm, for Arrow all five answers.

{_lines(_bulk_lines(figures, setting.models))}

The others, JSON, {TITLES["small"]}:

| rows/s | {" | ".join(f"{n_rows:,} rows a request" for n_rows in BULK_ROWS)} |
|---|{"---|" * len(BULK_ROWS)}
{_lines(_peer_lines(figures, setting.servers))}

### Targets

| | asked | found | met |
|---|---|---|---|
{_lines(f"| {target.what} | {target.asked} | {target.found} | {'yes' if target.met else '**no**'} |" for target in targets)}
{disk}
Versions: {_versions(setting.versions)}. The environment of MLServer: {_versions(setting.peer_versions)}."""


def _single_lines(figures: Figures, servers: Sequence[Server]) -> Iterator[str]:
    forms = {
        "requests_per_s": ",.0f",
        "p50_ms": ".2f",
        "p99_ms": ".2f",
        "idle_p50_ms": ".3f",
        "cold_s": ".2f",
        "idle_mb": ",.0f",
        "loaded_mb": ",.0f",
    }
    for server in servers:
        cells = (format(figures.median(f"{server.name}/{quantity}"), form) for quantity, form in forms.items())
        yield f"| {server.title} | {' | '.join(cells)} |"


def _bulk_lines(figures: Figures, models: Sequence[str]) -> Iterator[str]:
    columns = [(kind, n_rows) for kind in BULK_KINDS for n_rows in BULK_ROWS]
    yield "| | rows a request | " + " | ".join(KIND_TITLES[kind] for kind in BULK_KINDS) + " | ONNX Runtime alone |"
    yield "|---|---|" + "---|" * (len(BULK_KINDS) + 1)
    for model in models:
        alone = figures.median(alone_of(model, "binary"))
        answers = figures.median(alone_of(model, "arrow"))
        for n_rows in BULK_ROWS:
            cells = (
                f"{figures.median(f'ours/{model}/{kind}/{n_rows}'):,.0f} "
                f"({figures.ratio(f'ours/{model}/{kind}/{n_rows}', alone_of(model, kind)):.0%})"
                for kind, rows in columns
                if rows == n_rows
            )
            limit = f"{alone:,.0f}, five answers {answers:,.0f}"
            yield f"| {TITLES[model]} | {n_rows:,} | {' | '.join(cells)} | {limit} |"


def _peer_lines(figures: Figures, servers: Sequence[Server]) -> Iterator[str]:
    for server in servers:
        cells = (f"{figures.median(f'{server.name}/small/json/{n_rows}'):,.0f}" for n_rows in BULK_ROWS)
        yield f"| {server.title} | {' | '.join(cells)} |"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _lines(lines: Iterator[str]) -> str:
    return "\n".join(lines)
