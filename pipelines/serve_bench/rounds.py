"""The order of measuring: in every round each server in turn, alone on the machine, so that ratios come from one run."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from anomvae.scoring.scorer import ANSWER_OUTPUTS
from pipelines.serve_bench import requests
from pipelines.serve_bench.limit import rows_per_s_alone
from pipelines.serve_bench.load import check_answers, grpc_load, http_load
from pipelines.serve_bench.servers import running
from pipelines.serve_bench.subject import OUTPUTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pipelines.serve_bench.requests import Request
    from pipelines.serve_bench.servers import Running, Server
    from pipelines.serve_bench.subject import Subject

BULK_ROWS = (1_000, 10_000)
BULK_KINDS = ("binary", "arrow", "arrow-float", "json", "grpc")
MANY, BULK_CONNECTIONS = 64, 4


@dataclass(frozen=True, slots=True)
class Pace:
    """How long is measured.

    Attributes:
        rounds: Rounds, of which medians are taken.
        single_s: Seconds of 64 connections.
        idle_s: Seconds of one connection.
        bulk_s: Seconds of each kind of bulk.
        peer_bulk_s: The same for the others, which may take seconds for a request of 10,000 rows.
        warm_s: Seconds of load before the first figure.
        alone_s: Seconds of ONNX Runtime alone for each size of calls.
    """

    rounds: int = 3
    single_s: float = 5.0
    idle_s: float = 3.0
    bulk_s: float = 5.0
    peer_bulk_s: float = 8.0
    warm_s: float = 2.0
    alone_s: float = 1.0


QUICK = Pace(rounds=1, single_s=1.0, idle_s=1.0, bulk_s=1.0, peer_bulk_s=4.0, warm_s=1.0, alone_s=0.3)


@dataclass(frozen=True, slots=True)
class Entry:
    """A server and what it is asked.

    Attributes:
        server: The server.
        subject: The model it serves.
        single: Single rows.
        bulk: Bulk requests.
        with_singles: Whether single rows are measured; otherwise they only wake the server.
    """

    server: Server
    subject: Subject
    single: Request
    bulk: tuple[Request, ...]
    with_singles: bool = True


@dataclass(slots=True)
class Figures:
    """Figures by name, one a round.

    Names are `SERVER/QUANTITY` for single rows, `SERVER/MODEL/KIND/ROWS` for bulk, `alone/MODEL/KIND` for the limit and
    `unrest/alone/MODEL/KIND` for its change from before a server ran to after.
    """

    found: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, name: str, figure: float) -> None:
        """Adds a round's figure, and prints it."""
        self.found[name].append(figure)
        print(f"  {name}: {figure:,.4g}", flush=True)

    def has(self, name: str) -> bool:
        """Whether it has been measured."""
        return name in self.found

    def unrest(self) -> float:
        """Largest change of the limit between two looks at it; on a quiet machine a few hundredths."""
        return max(share for name, shares in self.found.items() if name.startswith("unrest/") for share in shares)

    def median(self, name: str) -> float:
        """Median over the rounds."""
        return statistics.median(self.found[name])

    def ratio(self, name: str, by: str) -> float:
        """Median of the quotients, each of one round."""
        return statistics.median(mine / theirs for mine, theirs in zip(self.found[name], self.found[by], strict=True))


def bulk_requests(subject: Subject) -> tuple[Request, ...]:
    """All that the daemon takes in bulk."""
    makers: tuple[Callable[[int], Request], ...] = (
        lambda n: requests.bulk_binary(subject, n),
        lambda n: requests.bulk_arrow(subject, n, pa.float64()),
        lambda n: requests.bulk_arrow(subject, n, pa.float32()),
        lambda n: requests.bulk_json(subject, n),
        lambda n: requests.bulk_grpc(subject, n),
    )
    return tuple(make(n_rows) for n_rows in BULK_ROWS for make in makers)


def json_requests(subject: Subject) -> tuple[Request, ...]:
    """Bulk as JSON of the Open Inference Protocol alone."""
    return tuple(requests.bulk_json(subject, n_rows) for n_rows in BULK_ROWS)


def measure(entries: Sequence[Entry], pace: Pace, folder: Path) -> Figures:
    """Measures everything, round by round; every round starts with another server.

    The limit of a model is measured right before and right after the daemon that serves it: machines are shared.

    Args:
        entries: The servers.
        pace: How long.
        folder: Scratch space.

    Raises:
        RuntimeError: A server failed or refused.
        ValueError: A server answered wrongly.
    """
    figures = Figures()
    for number in range(pace.rounds):
        print(f"round {number + 1} of {pace.rounds}", flush=True)
        turn = number % len(entries)
        for entry in (*entries[turn:], *entries[:turn]):
            scratch = folder / f"{entry.server.name}-{entry.subject.name}"
            if entry.server.name != "ours":
                _measure_server(figures, entry, pace, scratch)
                continue
            before = _limits(entry.subject, pace)
            _measure_server(figures, entry, pace, scratch)
            for name, rate in _limits(entry.subject, pace).items():
                figures.add(name, (before[name] + rate) / 2)
                figures.add(f"unrest/{name}", abs(rate / before[name] - 1))
    return figures


def _limits(subject: Subject, pace: Pace) -> dict[str, float]:
    """Rows a second of ONNX Runtime alone by the figure's name: for score and alarm, and for all five answers."""
    found = {}
    for kind, outputs in (("verdict", OUTPUTS), ("answers", ANSWER_OUTPUTS)):
        found[f"alone/{subject.name}/{kind}"] = rows_per_s_alone(subject, outputs, pace.alone_s)
    return found


def _measure_server(figures: Figures, entry: Entry, pace: Pace, folder: Path) -> None:
    name = entry.server.name
    with running(entry.server, entry.single, folder) as server:
        if entry.with_singles:
            figures.add(f"{name}/cold_s", server.cold_start_s)
            figures.add(f"{name}/idle_mb", server.resident_mb())
        check_answers(server, entry.single, entry.subject)
        http_load(server, entry.single, MANY, pace.warm_s, folder)
        server.settle()
        if entry.with_singles:
            _measure_singles(figures, entry, server, pace, folder)
        for request in entry.bulk:
            figures.add(
                f"{name}/{entry.subject.name}/{request.name}/{request.n_rows}",
                _bulk_rate(entry, request, server, pace, folder),
            )
            server.settle()
        if entry.with_singles:
            figures.add(f"{name}/loaded_mb", server.resident_mb())


def _measure_singles(figures: Figures, entry: Entry, server: Running, pace: Pace, folder: Path) -> None:
    name = entry.server.name
    many = http_load(server, entry.single, MANY, pace.single_s, folder)
    server.settle()
    one = http_load(server, entry.single, 1, pace.idle_s, folder)
    figures.add(f"{name}/requests_per_s", many.requests_per_s)
    figures.add(f"{name}/p50_ms", many.p50_ms)
    figures.add(f"{name}/p99_ms", many.p99_ms)
    figures.add(f"{name}/idle_p50_ms", one.p50_ms)


def _bulk_rate(entry: Entry, request: Request, server: Running, pace: Pace, folder: Path) -> float:
    seconds = pace.bulk_s if entry.server.name == "ours" else pace.peer_bulk_s
    if request.name == "grpc":
        return grpc_load(server, request, entry.subject, BULK_CONNECTIONS, seconds, folder).rows_per_s
    check_answers(server, request, entry.subject)
    return http_load(server, request, BULK_CONNECTIONS, seconds, folder).rows_per_s
