"""Series on the command line: fit, score, evaluate, show; and what does not go with them."""

from __future__ import annotations

import errno
import html
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from anomvae.bundle import read_bundle
from anomvae.cli.places import write_report
from anomvae.errors import OutputError
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


def test_a_fit_says_that_the_rows_that_calibrated_trained_thereafter(cli: Cli, tmp_path: Path) -> None:
    pq.write_table(pump_table(160), tmp_path / "pumps.parquet")
    kept = "trained no network"
    anew = "scored by a network that had not seen them (the one kept was then trained on all 320 steps): at most"
    for how, said, unsaid in (("auto", anew, kept), ("split", kept, anew)):
        ended = cli("fit", "pumps.parquet", *SERIES, "--config", quick(tmp_path), "--out", how, "--calibration", how)
        text = " ".join(ended.out.split())
        assert (ended.code, text.count(said), text.count(unsaid)) == (0, 2, 0), ended


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


# --- check


def test_a_check_of_a_series_says_how_the_rows_lie_and_what_is_left_out(cli: Cli, tmp_path: Path) -> None:
    table = pump_table(300)
    table = table.append_column("state", pa.array(["run", "idle"] * 300)).append_column(
        "is_fault", pa.array(np.arange(600) % 100 == 3)
    )
    keep = np.flatnonzero((np.arange(600) < 100) | (np.arange(600) >= 120))
    pq.write_table(table.take(np.r_[keep, 599]), tmp_path / "rows.parquet")
    ended = cli("check", "rows.parquet", "--time", "when", "--by", "machine", "--window", WINDOW, "--off", "flow < -50")
    assert ended.code == 0, ended
    text = " ".join(ended.out.split())
    for words in (
        "580 steps of 1 s in 3 sequences of 2 assets",
        "406 in all",
        "the network that is kept then trains on all 580",
        "jumps ahead at row 101, by up to 21 steps",
        "Row 581 (0.2%) follow the row before within half a step and were left out",
        "categorical; a series is scored on numbers",
        "--off 'flow < -50' holds in no row",
        "'is_fault' looks like a label",
    ):
        assert words in text, (words, text)
    assert "calibration needs them" not in text
    assert not list(tmp_path.glob("models*"))


def test_a_check_of_a_series_takes_times_as_text_and_says_what_a_fit_would_refuse(cli: Cli, tmp_path: Path) -> None:
    table = pump_table(100)
    texts = [moment.isoformat() for moment in table["when"].to_pylist()]
    check = ("--time", "when", "--by", "machine", "--window", WINDOW)
    for name, when in (("text", texts), ("mixed", [text + "Z" * (i % 2) for i, text in enumerate(texts)])):
        pq.write_table(table.set_column(0, "when", pa.array(when)), tmp_path / f"{name}.parquet")
    ended = cli("check", "text.parquet", *check, "--alarm-rate", "0.1")
    assert ended.code == 0, ended
    assert "200 steps of 1 s in 2 sequences" in ended.out
    assert "problem" not in ended.out
    assert "too few for an alarm rate of 1.00%" in cli("check", "text.parquet", *check).out
    refusal = "some cells of the time column 'when' name an offset from UTC, and 100, first at row 1, do not"
    ended = cli("check", "mixed.parquet", *check)
    assert (ended.code, ended.out.count("problem")) == (0, 1)
    assert refusal in ended.out
    refused(cli, ("fit", "mixed.parquet", *check, "--no-track"), refusal)
    ended = cli("check", "text.parquet", *check, "--off", "flow > -50")
    assert "problem: a fit refuses this: the condition --off 'flow > -50' holds in every row" in ended.out


# --- what may not be written over


@pytest.mark.parametrize(
    ("report", "words"),
    [
        ("rows.parquet", "is, or lies among, the data to be scored; name another file for the report"),
        ("answers.parquet", "is to hold both the answers and the report"),
        ("model/report.html", "lies in the folder of the model"),
        ("model/other.html", "lies in the folder of the model"),
        ("nowhere/report.html", "there is no folder nowhere"),
        ("/proc/report.html", "cannot be written"),
        (".", "is no file"),
    ],
)
def test_a_report_replaces_nothing_and_is_refused_before_answers_are_written(
    cli: Cli, rows: Path, report: str, words: str
) -> None:
    model = shutil.copytree(pumps().folder, "model")
    before = {path: path.read_bytes() for path in (rows, *Path(model).iterdir())}
    refused(cli, ("score", rows, "--model", "model", "--out", "answers.parquet", "--report", report), words)
    assert not Path("answers.parquet").exists()
    assert {path: path.read_bytes() for path in (rows, *Path(model).iterdir())} == before


def test_answers_replace_nothing_of_the_model(cli: Cli, rows: Path) -> None:
    model = shutil.copytree(pumps().folder, "model")
    before = {path: path.read_bytes() for path in Path(model).iterdir()}
    told = "lies in the folder of the model, which must stay as it is; name another file for the answers"
    refused(cli, ("score", rows, "--model", "model", "--out", "model/answers.parquet"), told)
    assert {path: path.read_bytes() for path in Path(model).iterdir()} == before


def test_a_report_that_cannot_be_finished_leaves_the_one_before(
    cli: Cli, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("report.html").write_text("of yesterday", encoding="utf-8")

    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr("anomvae.cli.places.Path.replace", full)
        with pytest.raises(OutputError, match="No space left"):
            write_report(Path("report.html"), "of today")
    assert [path.name for path in Path().glob("*report*")] == ["report.html"]
    assert Path("report.html").read_text(encoding="utf-8") == "of yesterday"
    assert cli("score", rows, "--model", pumps().folder, "--out", "-", "--report", "report.html").code == 0
    assert "Scored by" in Path("report.html").read_text(encoding="utf-8")


# --- what a user must know of the rows


def test_assets_that_the_model_has_not_met_are_told(cli: Cli, tmp_path: Path) -> None:
    table = pump_table(40, assets=("A", "new", "newer"))
    pq.write_table(table.append_column("fault", pa.array([0] * 119 + [1])), tmp_path / "new.parquet")
    words = "2 of the 3 assets of 'machine' are not known to the model (80 of 120 rows)"
    options = ("new.parquet", "--model", pumps().folder)
    ended = cli("score", *options, "--out", "answers.parquet", "--report", "report.html")
    assert words in ended.err
    assert words in html.unescape(Path("report.html").read_text(encoding="utf-8"))
    assert words in cli("evaluate", *options, "--label", "fault").err
    known = pump_table(40).append_column("fault", pa.array([0] * 79 + [1]))
    pq.write_table(known, tmp_path / "new.parquet")
    assert "not known" not in cli("score", *options, "--out", "answers.parquet", "--report", "report.html").err
    assert "not known" not in Path("report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("slower", "words"), [(10.0, "lie 10 s apart"), (0.1, "lie 0.1 s apart")])
def test_rows_at_another_interval_than_the_models_are_told(cli: Cli, tmp_path: Path, slower: float, words: str) -> None:
    table = pump_table(60)
    at = 1_700_000_000_000_000 + (np.tile(np.arange(60), 2) * slower * 1e6).astype(np.int64)
    pq.write_table(table.set_column(0, "when", pa.array(at, pa.timestamp("us"))), tmp_path / "other.parquet")
    ended = cli("score", "other.parquet", "--model", pumps().folder, "--out", "answers.parquet")
    assert f"the rows {words}, the model's step is 1 s" in ended.err


@pytest.mark.parametrize("command", ["score", "evaluate", "replay", "calibrate"])
def test_coarser_rows_and_unknown_assets_are_told_by_every_command(cli: Cli, tmp_path: Path, command: str) -> None:
    table = pump_table(300, assets=("A", "new"))
    more = {"evaluate": ("--label", "fault"), "calibrate": ("--no-track", "--out", "again")}.get(command, ())
    for apart, is_told in ((2, True), (1, False)):
        at = 1_700_000_000_000_000 + np.tile(np.arange(300), 2) * apart * 1_000_000
        timed = table.set_column(0, "when", pa.array(at, pa.timestamp("us")))
        pq.write_table(timed.append_column("fault", pa.array([0] * 599 + [1])), tmp_path / "other.parquet")
        ended = cli(command, "other.parquet", "--model", pumps().folder, *more)
        words = "the rows lie 2 s apart, the model's step is 1 s: steps between rows are missing"
        assert ended.code == 0, ended
        assert " ".join(ended.err.split()).count(words) == int(is_told)
        assert "1 of the 2 assets of 'machine' is not known to the model" in " ".join(ended.err.split())
        shutil.rmtree("again", ignore_errors=True)


@pytest.mark.parametrize("command", ["score", "replay", "calibrate"])
def test_time_and_asset_are_no_columns_the_model_does_not_know(cli: Cli, rows: Path, command: str) -> None:
    pq.write_table(pq.read_table(rows).drop_columns(["flow"]), "lacking.parquet")
    ended = cli(command, "lacking.parquet", "--model", pumps().folder)
    assert ended.code == 2
    assert "the rows lack 'flow', which the detector needs; rename or add" in " ".join(ended.err.split())


# --- times that are numbers


def numbered(folder: Path, first: int, step: int) -> Path:
    """Two pumps for two hundred steps with a fault each, the time a whole number."""
    table, strange = pump_table(200), np.zeros(400, dtype=int)
    strange[100:110] = strange[350:360] = 1
    when = pa.array(first + step * np.tile(np.arange(200), 2))
    table = table.set_column(2, "flow", pa.array(table["flow"].to_numpy() + 8.0 * strange))
    pq.write_table(table.set_column(0, "when", when).append_column("fault", pa.array(strange)), folder / "n.parquet")
    return folder / "n.parquet"


def test_numbers_of_an_unknown_unit_are_never_called_seconds_or_days(cli: Cli, tmp_path: Path) -> None:
    data = numbered(tmp_path, 0, 3)
    fit = ("fit", data, *SERIES, "--label", "fault", "--config", quick(tmp_path), "--out", "model")
    refused(cli, (*fit, "--every", "100ms"), "the usual interval is 3 (in units of 'when')")
    ended = cli(*fit)
    assert ended.code == 0, ended
    assert "380 steps of 3 (in units of 'when') in 4 sequences" in ended.out
    assert "steps of 3 (in units of 'when') over" in Path("model/card.md").read_text(encoding="utf-8")
    assert "of 3 (in units of 'when'), by when" in " ".join(cli("models", "show", "model").out.split())
    evaluate = ("evaluate", data, "--model", "model", "--label", "fault")
    ended = cli(*evaluate)
    assert ended.code == 0, ended
    assert "delay, median, units of 'when'" in ended.out
    assert "false events per 1,000 normal steps" in ended.out
    assert "at no false alarm" in ended.out
    assert " day" not in ended.out
    assert "there is no budget of alarms a day" in ended.err
    measures = json.loads(cli(*evaluate, "--json").out)
    assert not {"normal_days", "delay_median_s", "false_events_per_day", "false_events_per_day_at_budget"} & set(
        measures
    )
    assert measures["alarms_per_day"] == 0
    refused(cli, (*evaluate, "--alarms-per-day", "2"), "--alarms-per-day cannot be had")


def test_milliseconds_since_1970_are_evaluated_as_the_timestamps_they_are(cli: Cli, tmp_path: Path) -> None:
    data = numbered(tmp_path, 1_700_000_000_000, 1_000)
    fit = ("fit", data, *SERIES, "--label", "fault", "--config", quick(tmp_path))
    ended = cli(*fit, "--every", "1s", "--out", "model")
    assert ended.code == 0, ended
    assert "380 steps of 1,000 ms in 4 sequences" in ended.out
    table = pq.read_table(data)
    stamps = table["when"].cast(pa.timestamp("ms"))
    pq.write_table(table.set_column(0, "when", stamps), tmp_path / "n.parquet")
    assert cli(*fit, "--out", "stamped").code == 0
    stamped = json.loads(cli("evaluate", data, "--model", "stamped", "--label", "fault", "--json").out)
    pq.write_table(table, tmp_path / "n.parquet")
    ended = cli("evaluate", data, "--model", "model", "--label", "fault", "--json")
    assert json.loads(ended.out) == stamped
    assert "in which 1 a day is less than one alarm: the budget's column is of no alarm at all" in ended.err


WAYS = {
    "day first": "%d/%m/%Y %H:%M",
    "month first": "%m/%d/%Y %H:%M",
    "points": "%d.%m.%Y %H:%M",
    "milliseconds": None,
    "numbers": None,
}


@pytest.mark.parametrize("way", WAYS)
def test_text_and_parquet_are_fitted_scored_and_evaluated_alike(cli: Cli, tmp_path: Path, way: str) -> None:
    """Times are read from text as the fit reads them, in whatever way they are written."""
    table, strange = pump_table(150), np.zeros(300, dtype=int)
    strange[100:110] = strange[250:260] = 1
    minutes = 60 * np.tile(np.arange(150), 2)
    at = pa.array(1_792_360_000 // 60 * 60 + minutes, pa.timestamp("s"))
    if way in {"milliseconds", "numbers"}:
        typed = text = pa.array(minutes * 1_000 + 1_700_000_000_000 if way == "milliseconds" else minutes // 60)
    else:
        at = pa.array(1_792_360_000 // 60 * 60 + 120 * minutes, pa.timestamp("s"))  # twelve days
        typed, text = at, pc.strftime(at, WAYS[way])
    table = table.append_column("fault", pa.array(strange))
    pq.write_table(table.set_column(0, "when", typed), tmp_path / "n.parquet")
    pacsv.write_csv(table.set_column(0, "when", text), tmp_path / "n.csv")
    ended = cli("fit", "n.csv", *SERIES, "--label", "fault", "--config", quick(tmp_path), "--out", "model")
    assert ended.code == 0, ended
    told, answers = [], []
    for data in ("n.csv", "n.parquet"):
        ended = cli("evaluate", data, "--model", "model", "--label", "fault", "--json")
        assert ended.code == 0, ended
        told.append((ended.out, ended.err))
        assert cli("score", data, "--model", "model", "--out", "answers.parquet").code == 0
        answers.append(pq.read_table("answers.parquet"))
    assert told[0] == told[1]
    assert answers[0]["score"].null_count < 100
    assert answers[0].equals(answers[1])


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
        (("fit", "rows.parquet", *SERIES, "--off", "machine < 10"), "compares 'machine' with a number"),
        (
            ("fit", "rows.parquet", *SERIES, "--drop", "flow", "--drop", "heat"),
            "(dropped on request); drop fewer of them",
        ),
        (("check", "rows.parquet", "--window", "16"), "takes --time too"),
        (("check", "rows.parquet", "--time", "when", "--every", "1s"), "every belongs to series: state --window too"),
        (("check", "rows.parquet", "--time", "when", "--off", "flow < 1"), "off belongs to series: state --window too"),
        (("check", "rows.parquet", "--time", "when", "--window", "16", "--off", "speed < 1"), "'speed', which is not"),
    ],
)
def test_a_fit_that_cannot_be_is_refused(cli: Cli, rows: Path, arguments: tuple[object, ...], words: str) -> None:
    assert rows.exists()
    refused(cli, arguments, words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("score", "rows.parquet", "--fdr", "0.1"), "--fdr takes rows that do not depend"),
        (("score", "rows.parquet", "--stride", "0"), "--stride from 1 to 16, the steps of the model's windows"),
        (("evaluate", "rows.parquet", "--label", "flow", "--stride", "17"), "--stride is 17"),
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
    whole = read_bundle(Path("again")).manifest.series
    assert whole is not None
    assert whole.batch is not None
    past, _, rest = ended.out.partition("steps of whole series")
    assert "newest steps by their past" in past
    assert "would have alarmed before" in past
    assert f"score above {whole.batch.score_threshold:.4g} spreads" in rest
    page = Path("again/report.html").read_text(encoding="utf-8")
    assert "whole series: score threshold" in page
    assert cli("score", "new.parquet", "--model", "again", "--out", "answers.parquet").code == 0
    alarms = np.array(pq.read_table("answers.parquet")["alarm"].to_pylist())
    assert 0.0 < alarms.mean() < 0.1
    assert "trained on all" not in ended.out  # these rows the network has not seen
    assert "counts no longer: 600 rows of `" in Path("again/card.md").read_text(encoding="utf-8")


def refused(cli: Cli, arguments: tuple[object, ...], words: str) -> None:
    """A command ends with exit code 2 and one sentence."""
    ended = cli(*arguments)
    assert ended.code == 2, ended
    assert words in " ".join(ended.err.split()), ended.err
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert "Traceback" not in ended.err
