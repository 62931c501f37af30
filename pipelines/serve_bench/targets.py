"""What the daemon must reach, and whether the figures say that it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.serve_bench.rounds import BULK_ROWS
from pipelines.serve_bench.subject import TITLES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipelines.serve_bench.rounds import Figures

KIND_TITLES = {
    "binary": "binary tensors",
    "arrow": "Arrow, doubles",
    "arrow-float": "Arrow, floats",
    "json": "JSON",
    "grpc": "gRPC",
}
LEAST_SHARE = {"binary": 0.85, "arrow": 0.85, "arrow-float": 0.85, "json": 0.40}
"""Least share of ONNX Runtime alone on all cores, by kind of bulk."""


@dataclass(frozen=True, slots=True)
class Target:
    """A target and what was found.

    Attributes:
        what: What is compared.
        asked: The bound, for people.
        found: The figure, for people.
        met: Whether the figure keeps the bound.
    """

    what: str
    asked: str
    found: str
    met: bool


def find_targets(figures: Figures, peers: Sequence[str], models: Sequence[str], disk_mb: float | None) -> list[Target]:
    """Every target with its figure.

    Args:
        figures: What was measured.
        peers: Names of the servers to be ten times faster than.
        models: Names of the models measured in bulk.
        disk_mb: Size of the serving environment; None: there is none.
    """
    size = [] if disk_mb is None else [_at_most("serving environment on disk", disk_mb, 400, "{:.0f} MB")]
    return [
        *_single_targets(figures, peers),
        *_bulk_targets(figures, models),
        _at_most("cold start to the first score", figures.median("ours/cold_s"), 2.0, "{:.2f} s"),
        _at_most("resident, model loaded", figures.median("ours/idle_mb"), 250, "{:.0f} MB"),
        _at_most("resident, after all of this load", figures.median("ours/loaded_mb"), 250, "{:.0f} MB"),
        *size,
    ]


def alone_of(model: str, kind: str) -> str:
    """Name of the limit that a kind of bulk is held against: the same outputs; Arrow brings all five back."""
    return f"alone/{model}/{'answers' if kind.startswith('arrow') else 'verdict'}"


def _single_targets(figures: Figures, peers: Sequence[str]) -> Iterator[Target]:
    for peer in peers:
        rate = figures.ratio("ours/requests_per_s", f"{peer}/requests_per_s")
        yield _at_least(f"requests/s at 64 connections, over `{peer}`", rate, 10, "{:.1f} x")
        p99 = figures.ratio("ours/p99_ms", f"{peer}/p99_ms")
        yield _at_most(f"p99 at 64 connections, of `{peer}`'s", p99, 0.1, "{:.3f} x")
    rate = figures.ratio("ours/requests_per_s", "bare/requests_per_s")
    yield _at_least("requests/s at 64 connections, of the bare app's", rate, 0.6, "{:.1%}")
    yield _at_most(
        "p50 of one idle connection, of the bare app's",
        figures.ratio("ours/idle_p50_ms", "bare/idle_p50_ms"),
        1.5,
        "{:.2f} x",
    )


def _bulk_targets(figures: Figures, models: Sequence[str]) -> Iterator[Target]:
    for model in models:
        for n_rows in BULK_ROWS:
            where = f"{n_rows:,} rows a request, {TITLES[model]}"
            for kind, least in LEAST_SHARE.items():
                share = figures.ratio(f"ours/{model}/{kind}/{n_rows}", alone_of(model, kind))
                yield _at_least(f"{KIND_TITLES[kind]}, {where}: of ONNX Runtime alone", share, least, "{:.1%}")
            mine, http = (f"ours/{model}/{kind}/{n_rows}" for kind in ("grpc", "binary"))
            yield _at_least(f"gRPC, {where}: of binary HTTP", figures.ratio(mine, http), 0.5, "{:.1%}")


def _at_least(what: str, found: float, least: float, form: str) -> Target:
    return Target(what, f"at least {form.format(least)}", form.format(found), found >= least)


def _at_most(what: str, found: float, most: float, form: str) -> Target:
    return Target(what, f"at most {form.format(most)}", form.format(found), found <= most)
