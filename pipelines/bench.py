"""Measures training and scoring beside peers, in one run, into docs/performance.md.

Run by `make bench`. Figures are ratios inside one run: machines differ and are shared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import bench_exemplars, bench_tables
from pipelines.sections import find_section, with_section, write_section

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
OTHERS = ("bench-serve", "bench-stream")
"""Sections of the page that other jobs write."""
COLUMNS = 32
LAYERS = (64, 64)
CHUNKS = (64, 128, 256, 512, 1024, 8192)


def sensor_rows(n: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Correlated sensors: six hidden causes, bent, scaled and noisy; shape ``(n, 32)``."""
    draw = np.random.default_rng(seed)
    causes, mixing = draw.normal(size=(n, 6)).astype(np.float32), draw.normal(size=(6, COLUMNS)).astype(np.float32)
    bent = np.tanh(causes @ mixing) + 0.3 * draw.standard_normal((n, COLUMNS), dtype=np.float32)
    scaled: npt.NDArray[np.float32] = (
        bent * np.exp(draw.normal(size=COLUMNS)) + 10 * draw.normal(size=COLUMNS)
    ).astype(np.float32)
    return scaled


def write_rows(path: Path, n: int) -> None:
    """Writes sensor rows to a Parquet file of doubles, in one row group."""
    rows = sensor_rows(n)
    table = pa.table({f"sensor_{j:02d}": rows[:, j].astype(np.float64) for j in range(COLUMNS)})
    pq.write_table(table, path, row_group_size=n)


def seconds_per_epoch(n: int, rounds: int = 3) -> dict[str, float]:
    """Seconds a pass over n rows, medians of interleaved rounds.

    Ours, and PyOD's VAE of the same layers at its own and at our batch size.
    """
    from pyod.models.vae import VAE

    rows = sensor_rows(n)
    found: dict[str, list[float]] = {"ours": [], "pyod": [], "pyod, our batch": []}
    for _ in range(rounds):
        seconds, latent, batch = _our_epoch(rows)
        found["ours"].append(seconds)
        for name, rows_a_step in (("pyod", 32), ("pyod, our batch", batch)):
            peer = VAE(
                encoder_neuron_list=list(LAYERS),
                decoder_neuron_list=list(LAYERS),
                latent_dim=latent,
                epoch_num=1,
                batch_size=rows_a_step,
                verbose=0,
            )
            found[name].append(_peer_epoch(peer, rows))
    return {name: float(np.median(seconds)) for name, seconds in found.items()}


def _our_epoch(rows: npt.NDArray[np.float32]) -> tuple[float, int, int]:
    """Seconds of our training loop a pass, looks at the validation bound included; size of the latent space, batch."""
    import torch

    from anomvae.bundle import Column
    from anomvae.training.loop import cpu_threads, train
    from anomvae.training.settings import TrainingSettings
    from anomvae.vae.layout import layout_of
    from anomvae.vae.model import TableVAE
    from anomvae.vae.settings import ModelSettings

    n = len(rows)
    columns = [
        Column(f"s{j}", "numeric", "double", mean=float(x.mean()), std=float(x.std()), low=0.0, high=1.0)
        for j, x in enumerate(rows.T)
    ]
    model = TableVAE(layout_of(columns, n), ModelSettings(layers=LAYERS, prior="normal"))
    prepared = model.preparation(torch.from_numpy(rows), torch.zeros(n, 0, dtype=torch.int64))
    validation = prepared.take(torch.arange(min(n, 10_000)))
    batch = TrainingSettings().batch_of(n)
    settings = TrainingSettings(max_steps=2 * (n // batch))
    with cpu_threads(settings.threads):
        started = time.perf_counter()
        train(model, prepared, validation, settings)
        seconds = time.perf_counter() - started
    return seconds / settings.steps * n / batch, model.k, batch


def _peer_epoch(peer: Any, rows: npt.NDArray[np.float32]) -> float:
    """Seconds of the peer's training loop alone: building and scoring are left out."""
    seconds = 0.0
    inner = peer.train

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal seconds
        started = time.perf_counter()
        answer = inner(*args, **kwargs)
        seconds = time.perf_counter() - started
        return answer

    peer.train = timed
    peer.fit(rows)
    return seconds


def fit_command(data: Path, folder: Path, steps: int) -> dict[str, float]:
    """Seconds and resident memory of `anomvae fit` on a file, of a plain VAE."""
    config = folder / "fit.toml"
    config.write_text(f'[model]\nprior = "normal"\n[training]\nmax_steps = {steps}\n')
    command = ["fit", str(data), "--out", str(folder / "bundle"), "--config", str(config), "--no-track"]
    return _measured(command)


def score_command(data: Path, folder: Path) -> dict[str, float]:
    """Seconds and resident memory of `anomvae score` on a file."""
    return _measured(["score", str(data), "--model", str(folder / "bundle"), "--out", str(folder / "scores.parquet")])


def _measured(arguments: list[str]) -> dict[str, float]:
    """Runs the command line in a process of its own; its peak memory is its own too."""
    code = (
        "import json, sys, time; from anomvae.cli import main; started = time.perf_counter()\n"
        f"sys.argv = ['anomvae', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "peak = next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')) / 1024\n"
        "print(json.dumps({'seconds': time.perf_counter() - started, 'peak_mb': peak}))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


def scoring_rates(data: Path, folder: Path) -> dict[str, Any]:
    """Rows a second of ONNX Runtime alone at several batch sizes, and of the product from file to file, interleaved."""
    import onnxruntime as ort

    from anomvae.bundle import read_bundle
    from anomvae.data.reading import open_rows
    from anomvae.data.writing import Answers, write_answers
    from anomvae.scoring import Scorer
    from anomvae.scoring.reasons import natural_reasons

    bundle = read_bundle(folder / "bundle")
    rows = sensor_rows(65_536, seed=1)
    scorer = Scorer(bundle)
    sessions = {}
    for threads in (1, 0):
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        sessions[threads] = ort.InferenceSession(str(bundle.graph), options, providers=["CPUExecutionProvider"])
    wanted = ["score", "p_value", "reconstruction_error", "p_value_reconstruction", "alarm", "contribution", "expected"]

    def alone(threads: int, chunk: int) -> Callable[[], int]:
        session = sessions[threads]

        def once() -> int:
            for start in range(0, len(rows), chunk):
                session.run(wanted, {"numeric": rows[start : start + chunk]})
            return len(rows)

        return once

    def side_by_side() -> int:
        from concurrent.futures import ThreadPoolExecutor

        session = sessions[1]
        workers = os.cpu_count() or 1

        def share(worker: int) -> None:
            for start in range(worker * 512, len(rows), workers * 512):
                session.run(wanted, {"numeric": rows[start : start + 512]})

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(share, range(workers)))
        return len(rows)

    def product() -> int:
        source = open_rows(str(data))
        batches = scorer.score_batches(source.batches(batch_rows=32_768), source.schema)
        answers = Answers(batches, scorer.schema(source.schema), {"reasons": natural_reasons(scorer.manifest)})
        return write_answers(str(folder / "rates.parquet"), answers)

    found: dict[str, Any] = {"alone": {}, "default": {}}
    product()
    for chunk in CHUNKS:
        found["alone"][chunk] = _rate(alone(1, chunk))
        found["default"][chunk] = _rate(alone(0, chunk))
    best = max(found["alone"], key=lambda chunk: found["alone"][chunk])
    rounds = [(_rate(product, 1), _rate(alone(1, best), 8), _rate(side_by_side, 8)) for _ in range(5)]
    found["best_chunk"] = best
    found["product"], found["again"], found["side_by_side"] = (
        float(np.median(column)) for column in zip(*rounds, strict=True)
    )
    found["ratio_one_thread"] = float(np.median([mine / theirs for mine, theirs, _ in rounds]))
    found["ratio_all_cores"] = float(np.median([mine / theirs for mine, _, theirs in rounds]))
    found["ratio_default"] = found["product"] / max(found["default"].values())
    return found


def _rate(once: Callable[[], int], rounds: int = 3) -> float:
    once()
    best = 0.0
    for _ in range(rounds):
        started = time.perf_counter()
        n = once()
        best = max(best, n / (time.perf_counter() - started))
    return best


def start_up() -> dict[str, float]:
    """Seconds of `import anomvae` and of `anomvae --help`, medians of five processes each."""

    def median(command: list[str]) -> float:
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - started)
        return float(np.median(seconds))

    bare = median([sys.executable, "-c", "pass"])
    main = "import sys; sys.argv = ['anomvae', '--help']; from anomvae.cli import main; main()"
    return {
        "import": median([sys.executable, "-c", "import anomvae"]) - bare,
        "help": median([sys.executable, "-c", main]),
        "python": bare,
    }


def page(facts: dict[str, Any]) -> str:
    """The page, as Markdown."""
    epoch, rates, start = facts["epoch"], facts["rates"], facts["start"]
    chunks = " | ".join(f"{chunk:,}" for chunk in CHUNKS)
    line = " | ".join
    return f"""# Performance

Written by `make bench` on {facts["machine"]}. Compare the ratios: they are taken inside one run.

Training and scoring are those of a plain VAE (`model.prior = "normal"`): like beside like, and the quickest graph shows best what
the code around it costs. [What exemplars cost](#what-exemplars-cost) comes on top.

## Training

One pass over {facts["epoch_rows"]:,} rows of {COLUMNS} columns, layers {LAYERS[0]}-{LAYERS[1]}, on the CPU; for the peer the training loop alone.

| | seconds an epoch | ours is faster by |
|---|---|---|
| anomvae (batch {facts["batch"]:,}) | {epoch["ours"]:.2f} | |
| PyOD VAE, its own batch of 32 | {epoch["pyod"]:.2f} | {epoch["pyod"] / epoch["ours"]:.1f} x |
| PyOD VAE at our batch | {epoch["pyod, our batch"]:.2f} | {epoch["pyod, our batch"] / epoch["ours"]:.1f} x |

`anomvae fit` on {facts["rows"]:,} x {COLUMNS} doubles ({facts["steps"]:,} steps, report and export included): {facts["fit"]["seconds"]:.1f} s, at
most {facts["fit"]["peak_mb"]:,.0f} MB resident.

## Scoring

The same graph (a plain VAE, posterior mean, p-values, verdict, contributions, expected values), rows a second of ONNX Runtime alone:

| rows a call | {chunks} |
|---|{"---|" * len(CHUNKS)}
| one thread | {line(f"{rates['alone'][chunk]:,.0f}" for chunk in CHUNKS)} |
| a session of default settings | {line(f"{rates['default'][chunk]:,.0f}" for chunk in CHUNKS)} |

`anomvae score`, Parquet to Parquet with three reasons a row, {facts["rows"]:,} x {COLUMNS} doubles:

| | rows/s | |
|---|---|---|
| anomvae, from file to file | {rates["product"]:,.0f} | |
| ONNX Runtime alone, one thread, best batch ({rates["best_chunk"]:,}) | {rates["again"]:,.0f} | anomvae reaches {rates["ratio_one_thread"]:.0%} |
| ONNX Runtime alone, default session, best batch | {max(rates["default"].values()):,.0f} | anomvae reaches {rates["ratio_default"]:.0%} |
| ONNX Runtime alone, every core on chunks of its own | {rates["side_by_side"]:,.0f} | anomvae reaches {rates["ratio_all_cores"]:.0%} |

This model is so quick that reading, explaining and writing take about as long as the graph itself: with every core given to
ONNX Runtime alone, the whole pipeline cannot come close to it.

The command as a process of its own, start-up included: {facts["score"]["seconds"]:.1f} s, at most {facts["score"]["peak_mb"]:,.0f} MB resident.

{facts["exemplars"]}

{facts["calibration"]}

## Start-up

| | seconds |
|---|---|
| `import anomvae`, beyond Python's own {start["python"]:.2f} | {start["import"]:.3f} |
| `anomvae --help` | {start["help"]:.2f} |
"""


def _write_only(part: str) -> None:
    """Measures and writes one section."""
    if part == "exemplars":
        name, text = bench_exemplars.SECTION, bench_exemplars.section(bench_exemplars.measure())
    else:
        name, text = bench_tables.SECTION, bench_tables.section(bench_tables.measure())
    write_section(PAGE, name, text)
    print(f"wrote the section {name} of {PAGE}")


def main() -> None:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--epoch-rows", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--only", choices=["exemplars", "calibration"], help="Measure and write this section alone.")
    arguments = parser.parse_args()
    if arguments.only:
        _write_only(arguments.only)
        return
    from anomvae.training.settings import TrainingSettings

    facts: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "rows": arguments.rows,
        "epoch_rows": arguments.epoch_rows,
        "steps": arguments.steps,
        "batch": TrainingSettings().batch_of(arguments.epoch_rows),
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_rows(folder / "rows.parquet", arguments.rows)
        for name, measure in (
            ("start", start_up),
            ("fit", lambda: fit_command(folder / "rows.parquet", folder, arguments.steps)),
            ("score", lambda: score_command(folder / "rows.parquet", folder)),
            ("rates", lambda: scoring_rates(folder / "rows.parquet", folder)),
            ("epoch", lambda: seconds_per_epoch(arguments.epoch_rows)),
        ):
            facts[name] = measure()
            print(f"{name}: {facts[name]}", flush=True)
    exemplars = bench_exemplars.section(bench_exemplars.measure())
    facts["exemplars"] = with_section("", bench_exemplars.SECTION, exemplars).strip()
    tables = bench_tables.section(bench_tables.measure())
    facts["calibration"] = with_section("", bench_tables.SECTION, tables).strip()
    before = PAGE.read_text() if PAGE.exists() else ""
    kept = [section for name in OTHERS if (section := find_section(before, name))]
    PAGE.write_text("\n".join([page(facts), *(f"{section}\n" for section in kept)]))
    print(
        f"wrote {PAGE} (peak of the benchmark itself {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB)"
    )


if __name__ == "__main__":
    main()
