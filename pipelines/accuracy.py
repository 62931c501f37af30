"""Measures ranking, false alarms and seconds on real tables, into a section of docs/accuracy.md.

Run by `make accuracy`. The breast cancer table comes with scikit-learn; the others are looked for in a folder (`--data`) and
left out, with a word, where they are absent.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_breast_cancer

from anomvae.data.labels import read_labels
from anomvae.evaluation import Evaluation, evaluate
from anomvae.fitting import FitSettings, fit_bundle
from anomvae.scoring import Scorer
from anomvae.training.settings import TrainingSettings
from pipelines.sections import write_section

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"
SECTION = "accuracy"
DATA = Path(__file__).parent.parent.parent / "shared" / "data"
SEEDS = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its own split.

    Attributes:
        name: For the page.
        train: Normal rows.
        test: Unseen rows.
        label: Label column of `test`.
        drop: Columns that tell the label or nothing.
        alarm_rate: Stated.
    """

    name: str
    train: pa.Table
    test: pa.Table
    label: str
    drop: tuple[str, ...]
    alarm_rate: float


def tables(data: Path) -> Iterator[Table]:
    """The tables that are at hand."""
    yield breast_cancer()
    known = {"ai4i2020": ("TWF", "HDF", "PWF", "OSF", "RNF"), "thyroid_garvan": ("diagnosis",)}
    for name, drop in known.items():
        folder = data / name
        if not (folder / "train.parquet").exists():
            print(f"{name} is not in {data}: left out")
            continue
        yield Table(
            name, pq.read_table(folder / "train.parquet"), pq.read_table(folder / "test.parquet"), "label", drop, 0.01
        )


def breast_cancer() -> Table:
    """Benign biopsies are normal: two thirds learn, the rest and the malignant ones test."""
    frame = load_breast_cancer(as_frame=True).frame
    frame["malignant"] = frame.pop("target") == 0
    benign = np.random.default_rng(0).permutation(np.flatnonzero(~frame["malignant"]))
    learn = benign[: round(len(benign) * 2 / 3)]
    test = np.setdiff1d(np.arange(len(frame)), learn)
    rows = pa.Table.from_pandas(frame, preserve_index=False)
    return Table(
        "breast cancer (scikit-learn)",
        rows.drop_columns(["malignant"]).take(pa.array(learn)),
        rows.take(pa.array(test)),
        "malignant",
        (),
        0.05,
    )


def measure(table: Table, seed: int) -> tuple[Evaluation, float, float]:
    """The evaluation of one fit, and the seconds of fitting and of scoring."""
    drop = tuple(name for name in table.drop if name in table.train.schema.names)
    settings = FitSettings(
        name="accuracy", alarm_rate=table.alarm_rate, drop=drop, training=TrainingSettings(seed=seed)
    )
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        bundle = fit_bundle(table.train, settings, Path(folder) / "bundle").bundle
        fitted = time.perf_counter()
        answers = Scorer(bundle).score(table.test)
        scored = time.perf_counter()
    score, error, alarm = (answers[name].to_numpy() for name in ("score", "reconstruction_error", "alarm"))
    anomalous = read_labels(table.test, table.label).anomalous
    found = evaluate(score, error, alarm.astype(bool), anomalous, table.alarm_rate)
    return found, fitted - started, scored - fitted


def section(rows: list[str]) -> str:
    """The page's section, as Markdown."""
    return f"""## False alarms and recall

Written by `make accuracy` on {platform.machine()}, {os.cpu_count()} cores: the default model on real tables, trained on normal rows alone,
mean over the seeds {", ".join(map(str, SEEDS))}. False alarms: share of unseen normal rows that alarm, with the 95 % interval of the last seed.

| table | train rows | columns | anomalies of test rows | AUROC | average precision | AUROC of the reconstruction error | stated rate | false alarms | recall at that rate | fit s | score s |
|---|---|---|---|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}

The score is the default's: a row as an edit of stored normal rows, plus what values never seen cost. The reconstruction error, which
most tools rank by, stands beside it. Fit seconds include export, parity check and report.
"""


def main() -> None:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="Folder of the tables.")
    rows = []
    for table in tables(parser.parse_args().data):
        found = [measure(table, seed) for seed in SEEDS]
        last = found[-1][0]

        def mean(name: str, runs: list[tuple[Evaluation, float, float]] = found) -> float:
            return float(np.mean([getattr(run[0], name) for run in runs]))

        rows.append(
            f"| {table.name} | {table.train.num_rows:,} | {table.train.num_columns} | {last.anomalies:,} of {last.rows:,} "
            f"| {mean('auroc'):.3f} | {mean('average_precision'):.3f} | {mean('auroc_reconstruction'):.3f} "
            f"| {table.alarm_rate:.0%} | {mean('false_alarm_rate'):.2%} ({last.false_alarm_low:.2%} to {last.false_alarm_high:.2%}) "
            f"| {mean('recall'):.1%} | {np.mean([run[1] for run in found]):.1f} | {np.mean([run[2] for run in found]):.2f} |"
        )
        print(rows[-1], flush=True)
    write_section(PAGE, SECTION, section(rows), title="Accuracy")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
