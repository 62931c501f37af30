from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anomvae.bundle import Bundle


def mixed(n: int, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    return pa.table(
        {
            "temperature": draw.normal(60, 8, n),
            "pressure": draw.normal(2.5e5, 3e4, n),
            "secret": [f"word{number}" for number in draw.integers(0, 4, n)],
        }
    )


@pytest.fixture
def refuse(cli: Any, tmp_path: Path) -> Callable[..., str]:
    """Runs a command that must be refused: exit code 2, one line on standard error, no traceback, nothing written."""

    def run(*arguments: object) -> str:
        before = sorted(path.name for path in tmp_path.iterdir())
        ended = cli(*arguments)
        assert ended.code == 2, ended
        assert ended.err.startswith("error: ")
        assert ended.err.count("\n") == 1
        assert "Traceback" not in ended.err
        after = sorted(path.name for path in tmp_path.iterdir())
        assert after == before, "something was left behind"
        return str(ended.err)

    return run


def write(path: Path, table: pa.Table) -> Path:
    pq.write_table(table, path) if path.suffix == ".parquet" else pacsv.write_csv(table, path)
    return path


def test_a_missing_file_is_named(refuse: Callable[..., str]) -> None:
    assert "nowhere.parquet" in refuse("fit", "nowhere.parquet", "--no-track")


def test_an_empty_file_is_named(refuse: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    assert "empty" in refuse("fit", "empty.csv", "--no-track")


def test_a_header_without_rows_is_refused(refuse: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "head.csv").write_text("a,b\n")
    assert "no rows" in refuse("fit", "head.csv", "--no-track")


def test_a_parquet_file_cut_in_half_is_refused(refuse: Callable[..., str], tmp_path: Path) -> None:
    whole = write(tmp_path / "half.parquet", mixed(500))
    content = whole.read_bytes()
    whole.write_bytes(content[: len(content) // 2])
    assert "half.parquet" in refuse("fit", "half.parquet", "--no-track")


@pytest.mark.parametrize("n", [1, 10])
def test_too_few_rows_are_refused_with_the_number_needed(refuse: Callable[..., str], tmp_path: Path, n: int) -> None:
    write(tmp_path / "few.parquet", mixed(n))
    message = refuse("fit", "few.parquet", "--no-track")
    assert "at least 99 normal rows" in message
    assert "99 rows to calibrate" in message


def test_a_table_of_nothing_usable_is_refused_with_reasons(refuse: Callable[..., str], tmp_path: Path) -> None:
    n = 300
    nothing = pa.table({"line": ["A"] * n, "empty": pa.nulls(n), "id": [f"i{k}" for k in range(n)]})
    write(tmp_path / "nothing.parquet", nothing)
    message = refuse("fit", "nothing.parquet", "--no-track")
    assert "'line' (constant)" in message
    assert "'empty' (all missing)" in message
    assert "'id' (a unique identifier)" in message


def test_a_table_without_numbers_is_learnt_from_by_its_categories(cli: Any, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    words = pa.table({name: [f"w{k}" for k in draw.integers(0, 3, 300)] for name in ("a", "b")})
    write(tmp_path / "words.parquet", words)
    (tmp_path / "quick.toml").write_text("[training]\nmax_steps = 30\n")
    ended = cli("fit", "words.parquet", "--no-track", "--config", "quick.toml", "--out", "words")
    assert ended.code == 0, ended.err
    assert cli("score", "words.parquet", "--model", "words", "--out", "scores.parquet").code == 0
    assert pq.read_table(tmp_path / "scores.parquet").num_rows == 300


def test_an_all_missing_column_is_left_out_and_said(cli: Any, tmp_path: Path) -> None:
    write(tmp_path / "rows.parquet", mixed(300).append_column("gone", pa.nulls(300, pa.float64())))
    (tmp_path / "quick.toml").write_text("[training]\nmax_steps = 30\n")
    ended = cli("fit", "rows.parquet", "--no-track", "--config", "quick.toml", "--out", "bundle")
    assert ended.code == 0
    assert "all missing" in ended.out


def test_text_in_a_number_column_is_refused_at_fit_with_its_row_and_not_its_value(
    refuse: Callable[..., str], tmp_path: Path
) -> None:
    cells = [f"{value:.3f}" for value in np.random.default_rng(0).normal(size=400)]
    cells[16] = "patient Smith"
    write(tmp_path / "text.csv", pa.table({"x": cells, "y": np.arange(400) * 0.5}))
    message = refuse("fit", "text.csv", "--no-track")
    assert "'x'" in message
    assert "row 17" in message
    assert "Smith" not in message


def test_text_in_a_number_column_is_refused_at_scoring_and_no_output_appears(
    refuse: Callable[..., str], tmp_path: Path, fitted: Bundle
) -> None:
    (tmp_path / "rows.csv").write_text(
        "temperature,pressure,vibration,cooling,material\n60,250000,1,true,steel\n60,patient Smith,1,true,steel\n"
    )
    message = refuse("score", "rows.csv", "--model", fitted.folder, "--out", "scores.csv")
    assert "'pressure'" in message
    assert "row 2" in message
    assert "Smith" not in message


def test_missing_and_renamed_columns_are_named_at_scoring(
    refuse: Callable[..., str], tmp_path: Path, fitted: Bundle
) -> None:
    write(tmp_path / "rows.parquet", pa.table({"Temperature": [60.0], "pressure": [2.5e5], "vibration": [1.0]}))
    message = refuse("score", "rows.parquet", "--model", fitted.folder)
    assert "'temperature'" in message
    assert "'Temperature'" in message
    assert "'material'" in message


def test_column_names_that_appear_twice_are_refused(refuse: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "twice.csv").write_text("a,a,b\n" + "1,2,3\n" * 300)
    assert "'a'" in refuse("fit", "twice.csv", "--no-track")


@pytest.mark.parametrize("option", ["--label", "--drop", "--time", "--by"])
def test_an_option_that_names_no_column_is_refused(refuse: Callable[..., str], tmp_path: Path, option: str) -> None:
    write(tmp_path / "rows.parquet", mixed(300))
    message = refuse("fit", "rows.parquet", "--no-track", option, "temprature")
    assert "temprature" in message
    assert "'temperature'" in message


def test_a_label_column_that_says_nothing_is_refused_without_its_values(
    refuse: Callable[..., str], tmp_path: Path
) -> None:
    write(tmp_path / "rows.parquet", mixed(300))
    message = refuse("fit", "rows.parquet", "--no-track", "--label", "secret")
    assert "does not say which rows are normal" in message
    assert "word" not in message


def test_a_row_of_missing_cells_alone_is_scored(cli: Any, tmp_path: Path, fitted: Bundle) -> None:
    nothing = pa.table(
        {
            "temperature": pa.nulls(1, pa.float64()),
            "pressure": [float("nan")],
            "vibration": pa.nulls(1, pa.float64()),
            "cooling": pa.nulls(1, pa.bool_()),
            "material": pa.nulls(1, pa.string()),
        }
    )
    write(tmp_path / "nothing.parquet", nothing)
    assert cli("score", "nothing.parquet", "--model", fitted.folder, "--out", "scores.parquet").code == 0
    row = pq.read_table(tmp_path / "scores.parquet").to_pylist()[0]
    assert np.isfinite(row["score"])
    assert 0 < row["p_value"] <= 1


def test_a_full_disk_while_fitting_leaves_no_half_bundle(
    refuse: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "rows.parquet", mixed(300))
    (tmp_path / "quick.toml").write_text("[training]\nmax_steps = 30\n")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    message = refuse("fit", "rows.parquet", "--no-track", "--config", "quick.toml", "--out", "bundle")
    assert "No space left" in message
    assert "bundle" in message


def test_a_full_disk_while_scoring_leaves_no_half_answer(
    refuse: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fitted: Bundle
) -> None:
    write(tmp_path / "rows.parquet", pq.read_table(_rows(tmp_path)))

    def full(self: object, batch: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_batch", full)
    message = refuse("score", "rows.parquet", "--model", fitted.folder, "--out", "scores.parquet")
    assert "No space left" in message


def _rows(folder: Path) -> Path:
    table = pa.table(
        {
            "temperature": [60.0],
            "pressure": [2.5e5],
            "vibration": [1.0],
            "cooling": [True],
            "material": ["steel"],
        }
    )
    return write(folder / "one.parquet", table)


def test_a_place_that_may_not_be_written_is_named(refuse: Callable[..., str], tmp_path: Path, fitted: Bundle) -> None:
    rows = _rows(tmp_path)
    message = refuse("score", rows, "--model", fitted.folder, "--out", "/proc/scores.parquet")
    assert "/proc/scores.parquet" in message


def test_a_bundle_is_not_written_over_something_else(refuse: Callable[..., str], tmp_path: Path) -> None:
    write(tmp_path / "rows.parquet", mixed(300))
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    assert "precious" in refuse("fit", "rows.parquet", "--no-track", "--out", "precious")
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years of work"


def test_an_unknown_model_reference_is_named(cli: Any, tmp_path: Path) -> None:
    ended = cli("score", _rows(tmp_path), "--model", "nobody@champion")
    assert ended.code == 2
    assert "nobody" in ended.err
    assert ended.err.count("\n") == 1
    ended = cli("score", _rows(tmp_path), "--model", "./no/such/folder")
    assert ended.code == 2
    assert "no/such/folder" in ended.err


def test_an_alarm_rate_that_the_calibration_rows_cannot_support_is_refused(
    refuse: Callable[..., str], tmp_path: Path, fitted: Bundle
) -> None:
    message = refuse("score", _rows(tmp_path), "--model", fitted.folder, "--alarm-rate", "0.0001")
    assert "9,999" in message


@pytest.mark.parametrize("rate", ["0", "1", "-0.1", "nan", "17"])
def test_an_alarm_rate_that_is_no_share_is_refused(refuse: Callable[..., str], tmp_path: Path, rate: str) -> None:
    write(tmp_path / "rows.parquet", mixed(300))
    assert "share of rows" in refuse("fit", "rows.parquet", "--no-track", "--alarm-rate", rate)


def test_a_misspelt_setting_gets_a_hint(refuse: Callable[..., str], tmp_path: Path) -> None:
    write(tmp_path / "rows.parquet", mixed(300))
    (tmp_path / "job.toml").write_text("[model]\nlatnet = 3\n")
    message = refuse("fit", "rows.parquet", "--no-track", "--config", "job.toml")
    assert "latnet" in message
    assert "'latent'" in message


def test_a_damaged_bundle_is_refused(refuse: Callable[..., str], tmp_path: Path, fitted: Bundle) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in fitted.folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    graph = (copy / "scorer.onnx").read_bytes()
    (copy / "scorer.onnx").write_bytes(graph[:-1] + bytes([graph[-1] ^ 1]))
    message = refuse("score", _rows(tmp_path), "--model", copy)
    assert "damaged" in message


def test_an_unreachable_tracking_server_costs_nothing_but_a_later_command(cli: Any, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    write(tmp_path / "rows.parquet", mixed(300))
    (tmp_path / "quick.toml").write_text("[training]\nmax_steps = 30\n")
    server = f"http://127.0.0.1:{port}"
    ended = cli("fit", "rows.parquet", "--config", "quick.toml", "--out", "bundle", "--tracking-uri", server)
    assert ended.code == 0, ended.err
    assert "anomvae models log bundle" in ended.err
    later = cli("models", "log", "bundle", "--tracking-uri", f"sqlite:///{tmp_path}/later.db")
    assert later.code == 0, later.err
    assert "version 1 (candidate, champion)" in later.out
    scored = cli(
        "score",
        "rows.parquet",
        "--model",
        "detector",
        "--tracking-uri",
        f"sqlite:///{tmp_path}/later.db",
        "-o",
        "s.parquet",
    )
    assert scored.code == 0, scored.err


def test_what_was_not_foreseen_is_named_by_its_type_and_echoes_nothing(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fitted: Bundle
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise RuntimeError("the row of patient Smith")

    monkeypatch.setattr("anomvae.scoring.Scorer.score_batches", explode)
    ended = cli("score", _rows(tmp_path), "--model", fitted.folder)
    assert ended.code == 1
    assert "RuntimeError" in ended.err
    assert "Smith" not in ended.err
