from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from anomvae.errors import DataFileError
from pipelines.accuracy_bench.peers import PEERS, Standardiser
from pipelines.accuracy_bench.protocol import ADBENCH_CAP, SUITES, Split, with_anomalies

if TYPE_CHECKING:
    from types import ModuleType

SHARED = Path(__file__).parents[3] / "shared"
REFERENCE = SHARED / "bench" / "protocol.py"


def write_adbench(data: Path, name: str = "3_made", n: int = 300, anomalies: int = 60) -> None:
    """Rows that hold their own number, anomalies below zero."""
    (data / "adbench").mkdir(parents=True, exist_ok=True)
    label = np.zeros(n, dtype=np.uint8)
    label[np.random.default_rng(0).permutation(n)[:anomalies]] = 1
    number = np.where(label == 1, -1.0, 1.0) * (1 + np.arange(n))
    np.savez(data / "adbench" / f"{name}.npz", X=np.column_stack([number, number % 7]), y=label[:, None])


def write_oddbench(data: Path, name: str = "Made", train: int = 80, test: int = 120, anomalies: int = 40) -> None:
    (data / "oddbench").mkdir(parents=True, exist_ok=True)
    rows = np.arange(1.0, train + test + 1)[:, None] * np.array([[1.0, 0.5]])
    label = np.arange(test) < anomalies
    np.savez(data / "oddbench" / f"{name}.npz", train=rows[:train], test=rows[train:], label=label.astype(int))


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    if not REFERENCE.exists():
        pytest.skip(f"{REFERENCE} is absent")
    spec = importlib.util.spec_from_file_location("reference_protocol", REFERENCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_same(split: Split, parts: tuple[Any, Any, Any]) -> None:
    train, test, label = parts
    assert np.array_equal(split.train, train)
    assert np.array_equal(split.test, test)
    assert np.array_equal(split.anomalous, label == 1)


@pytest.mark.parametrize("seed", [0, 2])
@pytest.mark.parametrize("n", [301, 2 * ADBENCH_CAP + 30_001])
def test_adbench_draws_are_those_of_the_reference(reference: ModuleType, tmp_path: Path, n: int, seed: int) -> None:
    write_adbench(tmp_path, "12_made_up.gamma", n, n // 9)
    split = SUITES["adbench"].load(tmp_path, "12_made_up.gamma", seed)
    assert_same(split, reference.load("12_made_up.gamma", seed, tmp_path / "adbench"))


@pytest.mark.parametrize(("train", "test"), [(80, 120), (6_001, 7_003)])
def test_oddbench_draws_are_those_of_the_reference(
    reference: ModuleType, tmp_path: Path, train: int, test: int
) -> None:
    write_oddbench(tmp_path, "Made", train, test, test // 5)
    split = SUITES["oddbench"].load(tmp_path, "Made", 1)
    assert_same(split, reference.load_odd("Made", 1, tmp_path / "oddbench"))


@pytest.mark.parametrize(("suite", "table"), [("adbench", "39_vertebral"), ("oddbench", "ClaimReserves")])
def test_real_tables_are_split_as_by_the_reference(reference: ModuleType, suite: str, table: str) -> None:
    data = SHARED / "data"
    if not (data / suite / f"{table}.npz").exists():
        pytest.skip(f"{table} is not in {data}")
    load = reference.load if suite == "adbench" else reference.load_odd
    assert_same(SUITES[suite].load(data, table, 0), load(table, 0))


def test_tables_come_by_number_and_patterns_choose(tmp_path: Path) -> None:
    for name in ("10_b", "2_a", "9_c"):
        write_adbench(tmp_path, name)
    suite = SUITES["adbench"]
    assert suite.tables(tmp_path) == ["2_a", "9_c", "10_b"]
    assert suite.tables(tmp_path, "*_[ab]") == ["2_a", "10_b"]


def test_a_folder_without_tables_and_a_damaged_table_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="--data"):
        SUITES["adbench"].tables(tmp_path)
    (tmp_path / "adbench").mkdir()
    (tmp_path / "adbench" / "1_bad.npz").write_bytes(b"no zip")
    with pytest.raises(DataFileError, match="no table of adbench"):
        SUITES["adbench"].load(tmp_path, "1_bad", 0)
    np.savez(tmp_path / "adbench" / "1_bad.npz", rows=np.zeros(3))
    with pytest.raises(DataFileError, match="KeyError"):
        SUITES["adbench"].load(tmp_path, "1_bad", 0)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.2])
def test_no_row_trains_and_tests_when_training_rows_are_dirty(tmp_path: Path, seed: int, share: float) -> None:
    write_adbench(tmp_path)
    clean = SUITES["adbench"].load(tmp_path, "3_made", seed)
    dirty = with_anomalies(clean, share, seed)
    train, test = ({tuple(row) for row in rows} for rows in (dirty.train, dirty.test))
    assert not train & test
    assert len(train) == len(dirty.train) == len(clean.train)
    assert (dirty.train[:, 0] < 0).sum() == round(share * len(clean.train))
    assert dirty.anomalous.sum() == clean.anomalous.sum() - int(0.5 * clean.anomalous.sum())
    assert np.array_equal(dirty.test[:, 0] < 0, dirty.anomalous)


def test_shares_have_the_same_test_rows_and_smaller_shares_lie_in_larger_ones(tmp_path: Path) -> None:
    write_adbench(tmp_path)
    clean = SUITES["adbench"].load(tmp_path, "3_made", 0)
    few, many = (with_anomalies(clean, share, 0) for share in (0.05, 0.2))
    assert np.array_equal(few.test, many.test)
    assert np.array_equal(few.test, clean.test[~clean.pool])
    numbers = [set(split.train[split.train[:, 0] < 0, 0]) for split in (few, many)]
    assert numbers[0] < numbers[1]


def test_a_table_with_too_few_anomalies_takes_no_part(tmp_path: Path) -> None:
    write_adbench(tmp_path, n=300, anomalies=20)
    split = SUITES["adbench"].load(tmp_path, "3_made", 0)
    assert len(split.train) == 140
    assert split.dirty_rows(0.07) == 10
    assert split.dirty_rows(0.08) == 0
    assert split.dirty_rows(0.001) == 0


def test_columns_are_put_on_the_training_rows_scale() -> None:
    train = np.array([[1.0, 5.0, np.nan], [3.0, 5.0, np.inf], [np.nan, 5.0, -np.inf]])
    standardise = Standardiser.of(train)
    found = standardise(np.array([[1.0, 6.0, 0.0], [np.nan, np.inf, 2.0]]))
    assert found.tolist() == [[-1.0, 1.0, 0.0], [0.0, 1e6, 2.0]]


@pytest.mark.parametrize("name", [name for name, peer in PEERS.items() if peer.package == "scikit-learn"])
def test_peers_rank_what_lies_far_off_last(name: str) -> None:
    draw = np.random.default_rng(0)
    peer = PEERS[name]
    score = peer.fit(draw.normal(size=(200, 3)), peer.settings, 0)
    inside, outside = score(draw.normal(size=(50, 3))), score(8 + draw.normal(size=(50, 3)))
    assert inside.shape == (50,)
    assert inside.max() < outside.min()


def test_neighbours_and_components_score_as_by_hand() -> None:
    rows = np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0], [0.0, 1.0], [1.0, 0.0]])
    place = np.array([[0.0, 0.0]])
    for name, right in (("1-NN", 0.0), ("5-NN", (0 + 5 + 10 + 1 + 1) / 5)):
        assert PEERS[name].fit(rows, PEERS[name].settings, 0)(place) == pytest.approx(right)
    off = place - rows.mean(axis=0)
    mahalanobis = (off @ np.linalg.inv(np.cov(rows.T)) @ off.T).item()
    assert PEERS["PCA"].fit(rows, PEERS["PCA"].settings, 0)(place) == pytest.approx(mahalanobis)


def test_components_rank_tables_whose_columns_depend_on_each_other() -> None:
    rows = np.random.default_rng(0).normal(size=(100, 2))
    twice = np.column_stack([rows, rows.sum(axis=1), np.zeros(100)])
    assert np.isfinite(PEERS["PCA"].fit(twice, PEERS["PCA"].settings, 0)(twice)).all()
