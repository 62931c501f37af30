"""Runs: one method on one data set with one seed, each in a process of its own."""

from __future__ import annotations

import contextlib
import hashlib
import io
import multiprocessing
import os
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

import anomvae
from anomvae.errors import AnomvaeError
from pipelines.accuracy_bench.ours import code_digest
from pipelines.accuracy_bench.runs import ONE_THREAD, Outcome, Run
from pipelines.series_bench import ours
from pipelines.series_bench.measures import alarm_figures, ranking_figures
from pipelines.series_bench.ours import OURS
from pipelines.series_bench.peers import PEERS
from pipelines.series_bench.sources import ASSET, TIME, WINDOW, Dataset, load
from pipelines.series_bench.steps import Scaling, lay_out

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

SUITE = "series"
METHODS: tuple[str, ...] = (*OURS, *PEERS)
MODES = ("batch", "online")
"""By all windows that cover a step, and by the window whose newest step it is."""
SEEDS = (0, 1, 2)
DECIDES = (
    "data/series.py", "data/cadence.py", "data/windows.py",
    "evaluation/series.py", "evaluation/vus.py", "evaluation/ranges.py", "evaluation/events.py",
)  # fmt: skip
"""Files of the package that decide any method's figures."""
MEASURED_BY = ("sources.py", "generated.py", "measures.py")
WARM_STEPS = 20


def version_of(method: str) -> str:
    """The present version of a method: of its settings, its packages, and the code that makes and measures its scores."""
    if method in PEERS:
        return f"{PEERS[method].version} {_digest_of(*MEASURED_BY, 'peers.py', 'forecaster.py', 'steps.py')}"
    return f"{dict(OURS[method])} {code_digest()[:16]} {_digest_of(*MEASURED_BY, 'ours.py')}"


@cache
def _digest_of(*names: str) -> str:
    """Digest of files of this benchmark and of those of the package that decide any method's figures."""
    package, own = Path(anomvae.__file__).parent, Path(__file__).parent
    files = [own / name for name in sorted(names)]
    files += [package / name for name in DECIDES]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def plan(names: Sequence[str], methods: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    """All runs, data set by data set; a method without draws runs once.

    Args:
        names: Of data sets.
        methods: Names.
        seeds: Of the methods.
    """
    versions = {method: version_of(method) for method in methods}
    return [
        Run(SUITE, name, seed, method, 0.0, versions[method])
        for name in names
        for method in methods
        for seed in (seeds if method in OURS or PEERS[method].seeded else seeds[:1])
    ]


def figures(run: Run, data: Dataset) -> dict[str, float]:
    """What a method is worth on a data set: each mode's ranking figures, ours' alarms, CPU seconds and sizes."""
    found = (_ours if run.method in OURS else _peer)(run.method, data, run.seed)
    sizes = {
        "train_rows": len(data.train),
        "train_assets": data.train[ASSET].nunique(),
        "channels": len(data.channels),
        "judged": int(data.judged.sum()),
        "anomalies": int(data.anomalous.sum()),
        "assets": len(np.unique(data.assets[data.judged])),
        "alarms_per_day_stated": data.alarms_per_day,
    }
    return {**found, **sizes}


def key(mode: str, quantity: str, rate: float | None = None) -> str:
    """Name of a figure of a mode, at a stated rate where it has one."""
    return f"{mode} {quantity}" if rate is None else f"{mode} {quantity} {rate:g}"


def measure(run: Run, data: Path, extra: Path | None) -> Outcome:
    """Measures a run in this process; an error becomes part of the outcome."""
    quiet = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        warnings.simplefilter("ignore")
        try:
            loaded = load(run.table, data, extra)
            _warm_up(run.method, loaded)
            return Outcome(run, figures(run, loaded))
        except AnomvaeError as error:
            return Outcome(run, {}, f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001  any failure of a method is an outcome; other messages may hold data
            return Outcome(run, {}, type(error).__name__)


def measure_all(runs: Iterable[Run], data: Path, extra: Path | None, processes: int) -> Iterator[Outcome]:
    """Measures runs side by side, each in a process of one thread; one that dies fails its run alone.

    Args:
        runs: In the order they shall start.
        data: Folder of the benchmark's data sets.
        extra: Folder of others.
        processes: At once.
    """
    os.environ.update(ONE_THREAD)  # libraries read it when they are imported
    pool = ThreadPoolExecutor(processes)
    try:
        for done in as_completed([pool.submit(_in_process, run, data, extra) for run in runs]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _in_process(run: Run, data: Path, extra: Path | None) -> Outcome:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin) as worker:
        try:
            return worker.submit(measure, run, data, extra).result()
        except BrokenProcessPool:
            return Outcome(run, {}, "the process died")


def _begin() -> None:
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _ours(method: str, data: Dataset, seed: int, max_steps: int | None = None) -> dict[str, float]:
    settings = {**OURS[method], **({} if max_steps is None else {"training": {"max_steps": max_steps}})}
    started = time.process_time()
    detector = ours.fit(data, settings, seed)
    found: dict[str, float] = {"fit_s": round(time.process_time() - started, 3)}
    for mode in MODES:
        started = time.process_time()
        told = ours.answers_by_rate(detector, data, past_only=mode == "online")
        found[key(mode, "score_s")] = round((time.process_time() - started) / len(told), 3)
        score = next(iter(told.values())).score
        found |= {key(mode, name): value for name, value in ranking_figures(score, data).items()}
        for rate, answers in told.items():
            counted = alarm_figures(answers.alarm, ~np.isnan(score), data)
            found |= {key(mode, name, rate): value for name, value in counted.items()}
    return found


def _peer(method: str, data: Dataset, seed: int) -> dict[str, float]:
    columns = (TIME, ASSET, data.channels, WINDOW)
    train = lay_out(pa.Table.from_pandas(data.train), *columns, None)
    steps = lay_out(pa.Table.from_pandas(data.scored), *columns, train.cadence)
    scaling = Scaling.of(train)
    train, scaled = scaling(train), scaling(steps)
    started = time.process_time()
    score = PEERS[method].learn(train, seed)
    found: dict[str, float] = {"fit_s": round(time.process_time() - started, 3)}
    started = time.process_time()
    scores = score(scaled)
    took = round(time.process_time() - started, 3)
    for mode in MODES:
        of_rows = steps.to_rows(getattr(scores, mode))
        found[key(mode, "score_s")] = took
        found |= {key(mode, name): value for name, value in ranking_figures(of_rows, data).items()}
    return found


def _warm_up(method: str, data: Dataset) -> None:
    """Imports and compiles what a method needs, so that no run counts it."""
    asset = data.train[ASSET].iloc[0]
    few = data.train[data.train[ASSET] == asset].head(5 * WINDOW)
    last = np.arange(len(few)) >= len(few) - 10
    tiny = replace(
        data,
        train=few,
        scored=few[[TIME, ASSET, *data.channels]],
        judged=np.ones(len(few), dtype=np.bool_),
        anomalous=last,
    )
    with contextlib.suppress(Exception):  # the run itself will tell
        _ours(method, tiny, 0, WARM_STEPS) if method in OURS else _peer(method, tiny, 0)
