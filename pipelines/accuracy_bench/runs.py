"""Runs: one method on one table, seed and dirty share; measured side by side in worker processes, one JSON line each."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import threading
import time
import warnings
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.accuracy_bench.ours import OURS, as_table
from pipelines.accuracy_bench.peers import PEERS, Standardiser
from pipelines.accuracy_bench.protocol import SUITES, Split, with_anomalies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from pipelines.accuracy_bench.peers import Score
    from pipelines.accuracy_bench.protocol import Bools, Floats

ONE_THREAD = {
    **dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
    ),
    "CUDA_VISIBLE_DEVICES": "",
}
"""Environment of a worker: one thread, no GPU, for every method alike."""
WARM_STEPS = 20
METHODS: tuple[str, ...] = (*OURS, *PEERS)


@dataclass(frozen=True, slots=True)
class Run:
    """What is measured.

    Attributes:
        suite: Of the table.
        table: Name.
        seed: Of the split and of the method.
        method: Name.
        dirty: Share of the training rows that are anomalies.
        version: Of the method: figures of another version do not count.
    """

    suite: str
    table: str
    seed: int
    method: str
    dirty: float
    version: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run gave.

    Attributes:
        run: It.
        figures: `auroc`, `average_precision`, the same without the anomalies that dirty runs may train on (`kept_`), seconds, sizes;
            empty where it failed.
        error: Type of the error, or None.
    """

    run: Run
    figures: dict[str, float]
    error: str | None = None

    def to_json(self) -> str:
        """One line."""
        return json.dumps({**asdict(self.run), **self.figures, "error": self.error})

    @classmethod
    def from_json(cls, line: str) -> Outcome:
        """The outcome of a line.

        Raises:
            ValueError: It holds none.
        """
        raw: dict[str, Any] = json.loads(line)
        try:
            run = Run(*(raw.pop(name) for name in Run.__slots__))
            return cls(run, error=raw.pop("error"), figures=raw)
        except KeyError as error:
            raise ValueError(f"{error} is missing") from None


def version_of(method: str) -> str:
    """The present version of a method."""
    return (OURS[method] if method in OURS else PEERS[method]).version


def read_outcomes(path: Path) -> dict[Run, Outcome]:
    """The outcomes of a results file, the last of each run; a line that was cut off is passed over."""
    found: dict[Run, Outcome] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                outcome = Outcome.from_json(line)
                found[outcome.run] = outcome
    return found


def append_outcome(path: Path, outcome: Outcome) -> None:
    """Adds an outcome to a results file, on a line of its own whatever the file ends with."""
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(f"{outcome.to_json()}\n".encode())


def plan(
    suite: str, data: Path, tables: Sequence[str], seeds: Sequence[int], methods: Sequence[str], dirty: Sequence[float]
) -> list[Run]:
    """All runs of some tables of a suite, table by table; dirty shares only where a table has the anomalies for them.

    Args:
        suite: Its name.
        data: Folder of the suites' folders.
        tables: Names.
        seeds: Of splits and methods.
        methods: Names.
        dirty: Shares beside the clean runs.
    """
    versions = {method: version_of(method) for method in methods}
    runs = []
    for table in tables:
        for seed in seeds:
            shares = [0.0, *dirty]
            if dirty:
                split = SUITES[suite].load(data, table, seed)
                shares = [share for share in shares if not share or split.dirty_rows(share)]
            runs += [Run(suite, table, seed, name, share, versions[name]) for share in shares for name in methods]
    return runs


def ranking_figures(run: Run, split: Split) -> dict[str, float]:
    """How a method ranks the test rows of a split, and how long it takes."""
    _warm_up(run.method)
    fit_s, score_s, scores = _timed(run.method, split, run.seed)
    kept = ~split.pool
    found = dict(zip(("auroc", "average_precision"), ranking(scores, split.anomalous), strict=True))
    found |= dict(
        zip(("kept_auroc", "kept_average_precision"), ranking(scores[kept], split.anomalous[kept]), strict=True)
    )
    sizes = {
        "train_rows": len(split.train),
        "columns": split.train.shape[1],
        "test_rows": len(split.test),
        "anomalies": int(split.anomalous.sum()),
    }
    return {**found, "fit_s": round(fit_s, 4), "score_s": round(score_s, 4), **sizes}


def measure(run: Run, data: Path, figures: Callable[[Run, Split], dict[str, float]] = ranking_figures) -> Outcome:
    """Measures a run in this process; an error becomes part of the outcome.

    Args:
        run: What to measure.
        data: Folder of the suites' folders.
        figures: Gives the figures of a run on its split.
    """
    quiet = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        warnings.simplefilter("ignore")
        try:
            split = _load(run.suite, data, run.table, run.seed)
            return Outcome(run, figures(run, with_anomalies(split, run.dirty, run.seed) if run.dirty else split))
        except Exception as error:  # noqa: BLE001  any failure of a method is an outcome
            return Outcome(run, {}, type(error).__name__)


def _timed(method: str, split: Split, seed: int, max_steps: int | None = None) -> tuple[float, float, Floats]:
    """CPU seconds of fitting and scoring, which other work on the machine does not lengthen, and the scores."""
    ours = OURS.get(method)
    train = as_table(split.train) if ours else None
    started = time.process_time()
    if ours:
        score: Score = ours.fit(train, seed, max_steps)
    else:
        peer = PEERS[method]
        standardise = Standardiser.of(split.train)
        fitted_peer = peer.fit(standardise(split.train), peer.settings, seed)

        def score(rows: Floats) -> Floats:
            return fitted_peer(standardise(rows))

    fitted = time.process_time()
    scores = np.asarray(score(split.test), dtype=np.float64)
    return fitted - started, time.process_time() - fitted, scores


def ranking(scores: Floats, anomalous: Bools) -> tuple[float, float]:
    """AUROC and average precision; infinite scores rank first or last.

    Args:
        scores: Higher is stranger, shape ``(n,)``.
        anomalous: Shape ``(n,)``.

    Raises:
        ValueError: A score is missing, or there are no anomalies, or nothing else.
    """
    from scipy.stats import rankdata
    from sklearn.metrics import average_precision_score, roc_auc_score

    if scores.shape != anomalous.shape or np.isnan(scores).any():
        raise ValueError("scores are missing")
    if anomalous.all() or not anomalous.any():
        raise ValueError("only normal rows, or only anomalies, are to be ranked")
    ranks = rankdata(scores)
    return float(roc_auc_score(anomalous, ranks)), float(average_precision_score(anomalous, ranks))


@lru_cache(maxsize=2)
def _load(suite: str, data: Path, table: str, seed: int) -> Split:
    return SUITES[suite].load(data, table, seed)


@cache
def _warm_up(method: str) -> None:
    """Imports and compiles what a method needs, once a process, so that no run counts it."""
    rows = np.random.default_rng(0).normal(size=(300, 4))
    labels = np.zeros(200, dtype=bool)
    with contextlib.suppress(Exception):  # the run itself will tell
        _timed(method, Split(rows[:200], rows[100:], labels, labels), 0, WARM_STEPS)


def _start_worker() -> None:
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this worker when the process that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def measure_all(
    runs: Iterable[Run], data: Path, processes: int, figures: Callable[[Run, Split], dict[str, float]] = ranking_figures
) -> Iterator[Outcome]:
    """Measures runs in worker processes of one thread each, as they end; a worker that dies fails its run alone.

    Args:
        runs: In the order they shall start.
        data: Folder of the suites' folders.
        processes: Workers.
        figures: Gives the figures of a run on its split; a function of a module, since workers import it.
    """
    task = partial(measure, data=data, figures=figures)
    waiting = iter(runs)
    workers = [_worker() for _ in range(processes)]
    busy: dict[Future[Outcome], tuple[int, Run]] = {}
    try:
        for place in range(processes):
            _next(workers, place, waiting, task, busy)
        while busy:
            for done in wait(busy, return_when=FIRST_COMPLETED).done:
                place, run = busy.pop(done)
                try:
                    yield done.result()
                except BrokenProcessPool:
                    workers[place].shutdown()
                    workers[place] = _worker()
                    yield Outcome(run, {}, "worker died")
                _next(workers, place, waiting, task, busy)
    finally:
        for worker in workers:
            worker.shutdown(wait=not busy, cancel_futures=True)  # where it was interrupted, nobody waits for a fit


def _next(
    workers: Sequence[ProcessPoolExecutor],
    place: int,
    waiting: Iterator[Run],
    task: Callable[[Run], Outcome],
    busy: dict[Future[Outcome], tuple[int, Run]],
) -> None:
    run = next(waiting, None)
    if run is not None:
        busy[workers[place].submit(task, run)] = place, run


def _worker() -> ProcessPoolExecutor:
    """A worker; the environment is set before it starts, since libraries read it when they are imported."""
    os.environ.update(ONE_THREAD)
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _start_worker)
