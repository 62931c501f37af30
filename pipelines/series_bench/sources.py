"""The data sets: what trains, what is scored, which of it is judged, and what is true of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from anomvae.errors import DataFileError
from pipelines.series_bench.generated import GENERATED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

WINDOW = 64
"""Steps in our windows; where test rows go on from nothing, each asset's first but one fewer fill windows and are not judged."""
CONTEXT = 256
"""Training rows of the same run, at most, that go before its test rows where those go on from them."""
TIME = "time"
ASSET = "asset"
DAY_S = 86_400.0
EXTRA = "extra/"
"""Before the names of data sets that are not the benchmark's own."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Series of one kind, as one detector learns and scores them.

    Attributes:
        name: Of the data set.
        train: Normal rows: columns `TIME`, `ASSET` and the channels.
        scored: Rows to score, of the same columns, in order of asset and time.
        judged: Which of these are test rows; the others only fill windows; shape ``(n,)``.
        anomalous: Labels, False where not judged, shape ``(n,)``.
        channels: Columns of the channels.
        alarms_per_day: Budget of alarm events per asset and day.
    """

    name: str
    train: pd.DataFrame
    scored: pd.DataFrame
    judged: npt.NDArray[np.bool_]
    anomalous: npt.NDArray[np.bool_]
    channels: list[str]
    alarms_per_day: float

    @property
    def assets(self) -> npt.NDArray[np.int64]:
        """Code of the asset of each scored row, in order of appearance."""
        return pd.factorize(self.scored[ASSET])[0].astype(np.int64)

    @property
    def times_s(self) -> npt.NDArray[np.float64]:
        """Times of the scored rows, seconds."""
        return self.scored[TIME].to_numpy().astype("datetime64[ns]").astype(np.int64) / 1e9

    @property
    def first_day(self) -> npt.NDArray[np.bool_]:
        """Which scored rows lie within a day of their asset's first judged row, shape ``(n,)``."""
        times = pd.Series(self.times_s)
        begin = times.where(self.judged).groupby(self.assets).transform("min")
        return (times - begin < DAY_S).to_numpy()


def load(name: str, data: Path, extra: Path | None) -> Dataset:
    """A data set.

    Args:
        name: One of `NAMES`, or one of :func:`extra_names`.
        data: Folder of the benchmark's data sets.
        extra: Folder of others; None: there is none.

    Raises:
        DataFileError: It cannot be read.
    """
    if name in GENERATED:
        return _dataset(name, *GENERATED[name].make(), GENERATED[name].alarms_per_day)
    if name in READERS:
        return READERS[name](data / name)
    if extra is None:
        raise DataFileError(f"there is no data set {name!r}; there are {', '.join(NAMES)}")
    return read_folder(extra / name.removeprefix(EXTRA))


def extra_names(folder: Path) -> list[str]:
    """Names of the data sets in a folder of folders.

    Raises:
        DataFileError: There are none.
    """
    names = sorted(EXTRA + path.parent.name for path in folder.glob("*/series.json"))
    if not names:
        raise DataFileError(f"{folder} holds no folder with a series.json; see `--help` for the layout")
    return names


def read_folder(folder: Path) -> Dataset:
    """A data set in a folder: `train.parquet`, `test.parquet`, and `series.json`.

    The latter names the columns `time` and `label`, and may name `asset` (default: there is one), `channels` (all other numbers),
    `alarms_per_day` (1), and `follows`: whether the test rows of an asset go on from its training rows (false).

    Raises:
        DataFileError: A file is missing or holds something else.
    """
    told = _settings(folder)
    train, test = _rows(folder)
    try:
        asset, time, label = told.get("asset"), told["time"], told["label"]
        channels = told.get("channels") or [
            name for name in train.select_dtypes("number") if name not in {asset, time, label}
        ]
        known, unseen = (_named(frame, channels, time, asset) for frame in (train, test))
        unseen["label"] = test[label].to_numpy() != 0
        rate = float(told.get("alarms_per_day", 1.0))
    except (KeyError, TypeError, ValueError) as error:
        raise DataFileError(
            f"{folder / 'series.json'} does not fit the columns: {type(error).__name__}: {error}"
        ) from None
    return _dataset(folder.name, known, unseen, rate, follows=bool(told.get("follows", False)))


def _named(frame: pd.DataFrame, channels: list[str], time: str, asset: str | None) -> pd.DataFrame:
    times = frame[time]
    numbers = pd.api.types.is_numeric_dtype(times)
    return frame[channels].assign(
        **{
            TIME: pd.to_datetime(times, unit="s") if numbers else pd.to_datetime(times),
            ASSET: "all" if asset is None else frame[asset].astype(str),
        }
    )


def _dataset(
    name: str, train: pd.DataFrame, test: pd.DataFrame, alarms_per_day: float, *, follows: bool = False
) -> Dataset:
    channels = [str(column) for column in train if column not in {TIME, ASSET}]
    if follows:
        before = train[train[ASSET].isin(set(test[ASSET]))].sort_values(TIME).groupby(ASSET).tail(CONTEXT)
        test = pd.concat([before.assign(judged=False, label=False), test.assign(judged=True)])
    else:
        test = test.assign(judged=test[TIME].groupby(test[ASSET]).rank(method="first") >= WINDOW)
    test = test.sort_values([ASSET, TIME], kind="stable", ignore_index=True)
    columns = [TIME, ASSET, *channels]
    judged, label = (test[column].to_numpy().astype(np.bool_) for column in ("judged", "label"))
    return Dataset(
        name, train[columns].reset_index(drop=True), test[columns], judged, label & judged, channels, alarms_per_day
    )


def _tep(folder: Path) -> Dataset:
    """22 runs of the Tennessee Eastman process, each an asset that did not train."""

    def named(frame: pd.DataFrame) -> pd.DataFrame:
        time = pd.Timestamp("2000-01-01") + pd.to_timedelta(frame["minute"], unit="min")
        channels = frame.drop(columns=["run", "minute", "fault"], errors="ignore")
        return channels.assign(**{TIME: time, ASSET: frame["run"]})

    train, test = map(named, _rows(folder))
    return _dataset("tep", train, test, 0.1)


def _skab(folder: Path) -> Dataset:
    """34 runs of a water loop, each an asset whose first rows trained, and one that only trained."""

    def named(frame: pd.DataFrame) -> pd.DataFrame:
        channels = frame.drop(columns=["entity", "datetime", "part", "changepoint"], errors="ignore")
        return channels.assign(**{TIME: frame["datetime"], ASSET: frame["entity"]})

    train, test = map(named, _rows(folder))
    return _dataset("skab", train, test, 24.0, follows=True)


READERS: dict[str, Callable[[Path], Dataset]] = {"tep": _tep, "skab": _skab}
NAMES: tuple[str, ...] = (*READERS, *GENERATED)
"""The benchmark's own data sets."""


def _rows(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    try:
        return pd.read_parquet(folder / "train.parquet"), pd.read_parquet(folder / "test.parquet")
    except (OSError, ValueError) as error:
        raise DataFileError(
            f"{folder} must hold train.parquet and test.parquet ({type(error).__name__}); name the folder above it with --data or --extra"
        ) from None


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "series.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataFileError(f"{path} cannot be read as JSON: {type(error).__name__}") from None
    if not isinstance(told, dict):
        raise DataFileError(f"{path} must hold an object")
    return told
