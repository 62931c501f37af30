"""Which rows of a table train and which test: the one-class protocol, and its variant with anomalies among the training rows.

ADBench tables hold rows and labels: half of the normal rows, drawn by seed, train; the other normal rows and every anomaly test
(the "semi-supervised" protocol of Livernoche et al., ICLR 2024, arXiv:2305.18593). OddBench tables bring a split of their own.
Larger tables are thinned by seed, the share of anomalies kept.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from anomvae.errors import DataFileError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Parts = tuple[Floats, Floats, Ints]

ADBENCH_CAP = 20_000
ODDBENCH_CAP = 5_000
POOL_SHARE = 0.5
"""Largest share of a table's anomalies that may go among its training rows."""


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of one table and seed, in raw units.

    Attributes:
        train: Training rows, shape ``(n, d)``.
        test: Test rows, shape ``(m, d)``.
        anomalous: Which test rows are anomalies, shape ``(m,)``.
        pool: Which test rows are anomalies that runs with a dirty share may train on, shape ``(m,)``; none of them tests there.
    """

    train: Floats
    test: Floats
    anomalous: Bools
    pool: Bools

    def dirty_rows(self, share: float) -> int:
        """Training rows that a dirty share replaces; zero where the table has too few anomalies for it.

        Args:
            share: Share of the training rows that shall be anomalies.
        """
        wanted = round(share * len(self.train))
        return wanted if wanted <= int(self.pool.sum()) else 0


@dataclass(frozen=True, slots=True)
class Suite:
    """Tables of one kind.

    Attributes:
        name: Of the suite, and of its folder.
        title: For the page.
        seeds: Measured unless told otherwise.
        parts: Training rows, test rows and labels of a file and a seed.
        how: Sentence about the split, for the page.
    """

    name: str
    title: str
    seeds: tuple[int, ...]
    parts: Callable[[Path, int], Parts]
    how: str

    def tables(self, data: Path, pattern: str = "*") -> list[str]:
        """Names of the tables in `data/NAME`, by number where they have one.

        Args:
            data: Folder of the suites' folders.
            pattern: Shell pattern that names must match.

        Raises:
            DataFileError: There are none.
        """
        folder = data / self.name
        names = [path.stem for path in folder.glob("*.npz")]
        if not names:
            raise DataFileError(
                f"{folder} holds no tables (*.npz); name the folder that holds {self.name}/ with --data"
            )
        return sorted(filter(lambda name: fnmatch(name, pattern), names), key=by_number)

    def load(self, data: Path, table: str, seed: int) -> Split:
        """The split of a table; the same on every machine.

        Args:
            data: Folder of the suites' folders.
            table: Its name.
            seed: Seed of every draw.

        Raises:
            DataFileError: The file is damaged or holds other arrays.
        """
        path = data / self.name / f"{table}.npz"
        try:
            train, test, label = self.parts(path, seed)
        except (OSError, ValueError, KeyError) as error:
            raise DataFileError(f"{path} is no table of {self.name}: {type(error).__name__}") from None
        anomalous = label == 1
        draw = np.random.default_rng([seed, zlib.crc32(table.encode()), 1])
        candidates = draw.permutation(np.flatnonzero(anomalous))
        pool = np.zeros(len(label), dtype=bool)
        pool[candidates[: int(POOL_SHARE * len(candidates))]] = True
        return Split(train, test, anomalous, pool)


def with_anomalies(split: Split, share: float, seed: int) -> Split:
    """The split with a share of the training rows replaced by anomalies of its pool; the pool leaves the test rows.

    Every share of one split has the same test rows, and a smaller share's anomalies are among a larger one's.

    Args:
        split: As loaded.
        share: Share of the training rows that shall be anomalies.
        seed: Seed of the draw.
    """
    rows = split.dirty_rows(share)
    draw = np.random.default_rng([seed, 2])
    places = draw.permutation(len(split.train))[:rows]
    chosen = draw.permutation(np.flatnonzero(split.pool))[:rows]
    train = split.train.copy()
    train[places] = split.test[chosen]
    keep = ~split.pool
    return replace(split, train=train, test=split.test[keep], anomalous=split.anomalous[keep], pool=split.pool[keep])


def _adbench(path: Path, seed: int) -> Parts:
    with np.load(path, allow_pickle=False) as stored:
        rows, label = stored["X"].astype(np.float64), stored["y"].astype(int).ravel()
    draw = np.random.default_rng([seed, zlib.crc32(path.stem.split("_", 1)[-1].encode())])
    normal = draw.permutation(np.flatnonzero(label == 0))
    anomalous = draw.permutation(np.flatnonzero(label == 1))
    half = round(0.5 * len(normal))
    train, unseen = normal[:half][:ADBENCH_CAP], normal[half:]
    total = len(unseen) + len(anomalous)
    if total > ADBENCH_CAP:
        kept = max(1, round(ADBENCH_CAP * len(anomalous) / total))
        anomalous, unseen = anomalous[:kept], unseen[: ADBENCH_CAP - kept]
    test = np.concatenate([unseen, anomalous])
    return rows[train], rows[test], label[test]


def _oddbench(path: Path, seed: int, cap: int = ODDBENCH_CAP) -> Parts:
    with np.load(path, allow_pickle=False) as stored:
        train, test = stored["train"].astype(np.float64), stored["test"].astype(np.float64)
        label = stored["label"].astype(int).ravel()
    draw = np.random.default_rng([seed, zlib.crc32(path.name.encode())])
    train = train[draw.permutation(len(train))[:cap]]
    if len(test) > cap:
        anomalous, normal = draw.permutation(np.flatnonzero(label == 1)), draw.permutation(np.flatnonzero(label == 0))
        kept = max(1, round(cap * len(anomalous) / len(test)))
        chosen = np.concatenate([normal[: cap - kept], anomalous[:kept]])
        test, label = test[chosen], label[chosen]
    return train, test, label


def by_number(name: str) -> tuple[int, str]:
    """Key that orders tables by the number their names begin with, then by name."""
    number = name.split("_", 1)[0]
    return (int(number) if number.isdigit() else 0, name)


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "adbench",
            "ADBench",
            (0, 1, 2),
            _adbench,
            f"Half of the normal rows, drawn by seed, train; the other normal rows and every anomaly test. At most {ADBENCH_CAP:,} rows "
            "train and as many test, the share of anomalies kept.",
        ),
        Suite(
            "oddbench",
            "OddBench",
            (0,),
            _oddbench,
            f"The tables' own split, at most {ODDBENCH_CAP:,} rows each for training and test, the share of anomalies kept.",
        ),
    )
}
