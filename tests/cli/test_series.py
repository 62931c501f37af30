"""Series on the command line: fit, score, evaluate, show; and what does not go with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from tests.streamed import WINDOW, pump_table, pumps

if TYPE_CHECKING:
    from anomvae.bundle import Bundle
    from tests.conftest import Cli

SERIES = ("--time", "when", "--by", "machine", "--window", WINDOW, "--no-track")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Forty seconds of each pump, and a flag."""
    pq.write_table(pump_table(40, seed=2), tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def quick(folder: Path, members: str = "row") -> Path:
    path = folder / "fit.toml"
    path.write_text(f'members = "{members}"\nalarm_rate = 0.1\n[training]\nmax_steps = 2\n')
    return path


# --- fit, score, evaluate


def test_a_file_is_fitted_and_scored_as_text_or_parquet(cli: Cli, tmp_path: Path) -> None:
    """A channel of flags is `true` and `false` in text, and assets that are numbers stay the same assets."""
    table = pump_table(150)
    table = table.set_column(1, "machine", pa.array([7] * 150 + [8] * 150))
    table = table.append_column("open", pa.array(np.sin(np.arange(300) / 9) > 0))
    pq.write_table(table, tmp_path / "pumps.parquet")
    pacsv.write_csv(table, tmp_path / "pumps.csv")
    ended = cli("fit", "pumps.parquet", *SERIES, "--config", quick(tmp_path), "--out", "model", "--off", "flow < -5")
    assert ended.code == 0, ended
    assert "300 steps of 1 s in 2 sequences of 2 assets" in ended.out
    assert "newest steps by their past" in ended.out
    assert "spreads of normal steps" in ended.out
    assert "nats (" not in ended.out
    found = []
    for data in ("pumps.parquet", "pumps.csv"):
        ended = cli("score", data, "--model", "model", "--out", "answers.parquet")
        assert ended.code == 0, ended
        assert "300 rows scored" in ended.err
        answers = pq.read_table("answers.parquet")
        assert answers["reason"].null_count == 300
        found.append(np.array(answers["score"].to_pylist()))
    np.testing.assert_array_equal(found[0], found[1])


def test_rows_without_a_score_say_why(cli: Cli, rows: Path) -> None:
    ended = cli("score", rows, "--model", pumps().folder, "--past-only", "--out", "answers.jsonl")
    assert ended.code == 0
    assert "30 of 80 rows have no score (30 filling)" in " ".join(ended.err.split())
    answers = [json.loads(line) for line in Path("answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["reason"] for row in answers[: WINDOW - 1]] == ["filling"] * (WINDOW - 1)
    assert answers[0]["score"] is None
    assert answers[0]["reasons"] == []
    assert {reason["column"] for reason in answers[-1]["reasons"]} == {"flow", "heat"}
    ended = cli("score", rows, "--model", pumps().folder, "--both-sides", "--stride", "4", "--top", "0", "--out", "-")
    assert ended.code == 0
    assert "have no score" not in ended.err


def test_an_evaluation_tells_of_ranges_and_events(cli: Cli, tmp_path: Path) -> None:
    table = pump_table(300, seed=3)
    flow, strange = table["flow"].to_numpy().copy(), np.zeros(600, dtype=int)
    strange[100:110] = strange[450:460] = 1
    flow[strange == 1] += 8.0
    table = table.set_column(2, "flow", pa.array(flow)).append_column("fault", pa.array(strange))
    pq.write_table(table, tmp_path / "faults.parquet")
    ended = cli("evaluate", "faults.parquet", "--model", pumps().folder, "--label", "fault", "--alarms-per-day", "2")
    assert ended.code == 0, ended
    assert "20 anomalous in 2 ranges" in ended.out
    assert "at 2 alarms a day" in ended.out
    ended = cli("evaluate", "faults.parquet", "--model", pumps().folder, "--label", "fault", "--past-only", "--json")
    measures: dict[str, Any] = json.loads(ended.out)
    assert measures["vus_roc"] > 0.8
    assert all(isinstance(value, int | float | str) or value is None for value in measures.values())


def test_a_model_of_series_is_shown_as_such(cli: Cli) -> None:
    ended = cli("models", "show", pumps().folder)
    assert ended.code == 0
    text = " ".join(ended.out.split())
    assert "spreads of normal steps" in text
    assert "nats" not in text
    assert "of 1 s, by when; more than 2 missing begin a new sequence" in text
    assert "2 told apart by machine" in text


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fit", "rows.parquet", "--window", "16"), "takes --time too"),
        (("fit", "rows.parquet", "--time", "when", "--stride", "2"), "stride belongs to series"),
        (("fit", "rows.parquet", *SERIES, "--every", "often"), "no length of time"),
        (("fit", "rows.parquet", *SERIES, "--off", "flow <"), "--off"),
        (("fit", "rows.parquet", *SERIES, "--off", "speed < 1"), "speed"),
        (("fit", "rows.parquet", *SERIES, "--members", "none"), "members is 'none'"),
        (("fit", "rows.parquet", "--time", "when", "--by", "machine", "--window", "64"), "as long as a window"),
        (("fit", "rows.parquet", "--time", "missing", "--window", "16"), "missing"),
    ],
)
def test_a_fit_that_cannot_be_is_refused(cli: Cli, rows: Path, arguments: tuple[object, ...], words: str) -> None:
    assert rows.exists()
    refused(cli, arguments, words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("score", "rows.parquet", "--fdr", "0.1"), "--fdr takes rows that do not depend"),
        (("score", "rows.parquet", "--stride", "0"), "--stride from 1"),
        (("score", "rows.parquet", "--stride", "2", "--past-only"), "leave it out with --past-only"),
        (("score", "rows.parquet", "--alarm-rate", "0.00001"), "the smallest rate it supports"),
        (("score", "bare.parquet"), "machine"),
        (("evaluate", "rows.parquet", "--label", "flow", "--baselines"), "--baselines are for detectors of rows"),
        (("power", "rows.parquet"), "scores series"),
    ],
)
def test_what_a_model_of_series_cannot_do_is_refused(
    cli: Cli, rows: Path, arguments: tuple[object, ...], words: str
) -> None:
    pq.write_table(pq.read_table(rows).drop_columns(["machine"]), rows.parent / "bare.parquet")
    refused(cli, (*arguments, "--model", pumps().folder), words)


def test_the_daemon_does_not_serve_series(cli: Cli) -> None:
    ended = cli("serve", pumps().folder, "--port", "0", "--grpc-port", "0", "--log-format", "text")
    assert ended.code == 2
    assert "scores series, which the daemon does not serve: use `anomvae stream` or `score`" in ended.err


def test_a_bundle_is_no_data(cli: Cli) -> None:
    for command in (("check",), ("score", "--model", pumps().folder), ("fit", "--no-track")):
        refused(cli, (*command, pumps().folder), "is the bundle of a detector and holds no rows")


def test_options_of_series_are_refused_for_models_of_rows(cli: Cli, rows: Path, fitted: Bundle) -> None:
    for more in (("score", rows, "--past-only"), ("score", rows, "--stride", "2")):
        refused(cli, (*more, "--model", fitted.folder), "are for series; the model 'press' scores rows")
    refused(
        cli,
        ("evaluate", rows, "--label", "flow", "--model", fitted.folder, "--alarms-per-day", "3"),
        "are for series; the model 'press' scores rows",
    )


def test_a_model_of_series_is_calibrated_anew(cli: Cli, tmp_path: Path) -> None:
    pq.write_table(pump_table(300, seed=8), tmp_path / "new.parquet")
    ended = cli("calibrate", "new.parquet", "--model", pumps().folder, "--no-track", "--out", "again")
    assert ended.code == 0, ended
    assert "spreads of normal steps" in " ".join(ended.out.split())
    assert "nats" not in ended.out
    assert cli("score", "new.parquet", "--model", "again", "--out", "answers.parquet").code == 0
    alarms = np.array(pq.read_table("answers.parquet")["alarm"].to_pylist())
    assert 0.0 < alarms.mean() < 0.1


def refused(cli: Cli, arguments: tuple[object, ...], words: str) -> None:
    """A command ends with exit code 2 and one sentence."""
    ended = cli(*arguments)
    assert ended.code == 2, ended
    assert words in " ".join(ended.err.split()), ended.err
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert "Traceback" not in ended.err
