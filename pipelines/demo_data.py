"""Writes the demo's data: benign rows to learn from, unseen rows to score."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer

TRAINING_ROWS = 260


def main(folder: Path) -> None:
    """Writes `benign.parquet` (normal rows) and `unseen.csv` (the other benign rows and the malignant ones, labelled)."""
    table = load_breast_cancer(as_frame=True).frame
    frame = table.drop(columns="target")
    frame.insert(0, "biopsy", [f"B{number:04d}" for number in range(len(frame))])
    malignant = table["target"].to_numpy() == 0
    benign = np.random.default_rng(0).permutation(np.flatnonzero(~malignant))
    learn, rest = np.sort(benign[:TRAINING_ROWS]), np.sort(benign[TRAINING_ROWS:])
    frame.iloc[learn].to_parquet(folder / "benign.parquet", index=False)
    unseen = np.sort(np.concatenate([rest, np.flatnonzero(malignant)]))
    frame.assign(malignant=malignant).iloc[unseen].to_csv(folder / "unseen.csv", index=False)
    print(f"benign.parquet: {len(learn)} benign rows of {frame.shape[1] - 1} measurements")
    print(f"unseen.csv: {len(unseen)} rows, {int(malignant.sum())} of them malignant")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
