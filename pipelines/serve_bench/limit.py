"""The limit: ONNX Runtime alone, every core on chunks of its own, nothing to read and nothing to write."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import onnxruntime as ort

from pipelines.serve_bench.subject import open_graph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipelines.serve_bench.subject import Subject

CHUNKS = (128, 256, 512, 1024)


def rows_per_s_alone(subject: Subject, outputs: Sequence[str], seconds: float) -> float:
    """Rows a second on all cores, at the chunk size that is best.

    Args:
        subject: The model.
        outputs: Outputs to compute; the graph's parts that lead to none of them are left out.
        seconds: Time for every chunk size.

    Returns:
        The best rate.
    """
    session = open_graph(subject.graph)
    only_wanted = ort.RunOptions()
    only_wanted.only_execute_path_to_fetches = True
    wanted, n, workers = list(outputs), len(subject.rows), os.cpu_count() or 1

    def share(worker: int, chunk: int, until: float) -> int:
        start, done = worker * (n // workers), 0
        while time.perf_counter() < until:
            start = start if start + chunk <= n else 0
            session.run(wanted, {"numeric": subject.rows[start : start + chunk]}, only_wanted)
            start, done = start + chunk, done + chunk
        return done

    best = 0.0
    with ThreadPoolExecutor(workers) as pool:
        for chunk in CHUNKS:
            session.run(wanted, {"numeric": subject.rows[:chunk]}, only_wanted)
            started = time.perf_counter()
            until = started + seconds
            done = sum(pool.map(share, range(workers), [chunk] * workers, [until] * workers))
            best = max(best, done / (time.perf_counter() - started))
    return best
