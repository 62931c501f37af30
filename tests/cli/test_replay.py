"""`anomvae replay`: what a stream would have said of rows that have been, by day and by asset."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from tests.conftest import mixed_table
from tests.streamed import WINDOW, answers, expected, lines, pump_rows, pumps

if TYPE_CHECKING:
    from pathlib import Path

    from anomvae.bundle import Bundle
    from tests.conftest import Cli

FIRST = "2023-11-14T22:13:20"


@pytest.fixture
def series(tmp_path: Path) -> list[dict[str, Any]]:
    """Rows on disk whose last third is strange, asset by asset and not by time."""
    rows = pump_rows(150, strange_from=200)
    pq.write_table(pa.Table.from_pylist(sorted(rows, key=lambda row: row["machine"])), tmp_path / "rows.parquet")
    return rows


@pytest.fixture
def presses(tmp_path: Path) -> pa.Table:
    """Three days of rows of a table model, a row a minute."""
    table, n = mixed_table(3000, 2), 3000
    at = pa.array(1_700_006_400_000_000 + np.arange(n) * 60_000_000, pa.timestamp("us"))  # 2023-11-15T00:00
    table = table.append_column("at", at).append_column("press", pa.array([f"p{i % 3}" for i in range(n)]))
    pq.write_table(table, tmp_path / "presses.parquet")
    return table


def replayed(cli: Cli, *arguments: object) -> dict[str, Any]:
    ended = cli("replay", *arguments, "--json")
    assert ended.code == 0, ended.err
    found: dict[str, Any] = json.loads(ended.out)
    return found


def test_a_replay_alarms_where_the_stream_does(cli: Cli, series: list[dict[str, Any]], tmp_path: Path) -> None:
    found = replayed(cli, "rows.parquet", "--model", pumps().folder, "--events")
    (tmp_path / "in.jsonl").write_bytes(lines(series))
    ended = cli("stream", "--model", pumps().folder, "--from", "in.jsonl", "--to", "out.jsonl", "--events", "--events-to",
                "events.jsonl", "--no-announce")  # fmt: skip
    assert ended.code == 0, ended.err
    told = answers((tmp_path / "out.jsonl").read_bytes())
    assert found["rows"] == 300
    assert found["scored"] == sum(answer["score"] is not None for answer in told)
    assert found["unscored"] == {"filling": 2 * (WINDOW - 1)}
    for asset in found["assets"]:
        mine = [answer for answer in told if answer["machine"] == asset["asset"]]
        assert asset["alarms"] == sum(answer["alarm"] for answer in mine)
        assert asset["reasons"][0]["column"] == "flow"
    events = answers((tmp_path / "events.jsonl").read_bytes())
    assert [(each["event_id"], each["alarms"]) for each in found["events"]] == [
        (each["event_id"], each["alarms"]) for each in events
    ]
    assert sum(day["events"] for day in found["days"]) == len(events) == sum(each["events"] for each in found["assets"])


def test_windows_reach_back_beyond_the_beginning(cli: Cli, series: list[dict[str, Any]]) -> None:
    begin = "2023-11-14T22:15:00"
    found = replayed(cli, "rows.parquet", "--model", pumps().folder, "--from", begin)
    wanted = [row for row, given in zip(expected(series), series, strict=True) if given["when"] >= begin]
    assert (found["rows"], found["scored"], found["unscored"]) == (100, 100, {})
    assert found["alarms"] == sum(row["alarm"] for row in wanted) > 50


def test_the_end_is_left_out_and_offsets_from_utc_are_heeded(cli: Cli, series: list[dict[str, Any]]) -> None:
    end = "2023-11-14T23:15:00+01:00"
    assert replayed(cli, "rows.parquet", "--model", pumps().folder, "--to", end)["rows"] == 200


def test_tables_are_replayed_by_day_and_asset(cli: Cli, fitted: Bundle, presses: pa.Table) -> None:
    from anomvae.scoring import Scorer

    found = replayed(cli, "presses.parquet", "--model", fitted.folder, "--time", "at", "--asset", "press",
                     "--to", "2023-11-17")  # fmt: skip
    alarm = Scorer(fitted).score(presses).column("alarm").to_numpy()
    assert [(day["day"], day["scored"], day["alarms"]) for day in found["days"]] == [
        ("2023-11-15", 1440, int(alarm[:1440].sum())),
        ("2023-11-16", 1440, int(alarm[1440:2880].sum())),
    ]
    for number, asset in enumerate(found["assets"]):
        assert (asset["asset"], asset["alarms"]) == (f"p{number}", int(alarm[:2880][number::3].sum()))


def test_the_tables_for_people_say_what_the_json_says(cli: Cli, fitted: Bundle, presses: pa.Table) -> None:
    options = (
        "presses.parquet",
        "--model",
        fitted.folder,
        "--time",
        "at",
        "--asset",
        "press",
        "--events",
        "--least",
        2,
    )
    found, ended = replayed(cli, *options), cli("replay", *options)
    assert ended.code == 0, ended.err
    assert f"3,000 rows replayed, 3,000 scored: {found['alarms']:,} alarms" in ended.out
    assert f"at a stated rate of 5.00%), {len(found['events']):,} events" in ended.out
    days = [line.split() for line in ended.out.splitlines() if line.startswith(" 2023-11-")]
    assert [(line[0], line[2], line[3]) for line in days] == [
        (day["day"], str(day["alarms"]), str(day["events"])) for day in found["days"]
    ]
    a_day = found["assets"][0]["alarms"] / (2999 / 1440)
    assert f"{a_day:,.1f}" in next(line for line in ended.out.splitlines() if line.startswith(" p0"))


def test_a_stated_rate_replaces_the_models(cli: Cli, fitted: Bundle, presses: pa.Table) -> None:
    options = ("presses.parquet", "--model", fitted.folder, "--time", "at")
    assert replayed(cli, *options, "--alarm-rate", 0.3)["alarms"] > 3 * replayed(cli, *options)["alarms"]


WRONG = [
    (("--from", "soon"), "--from is no time"),
    (("--to", "2023-13-01"), "--to is no time"),
    (("--from", "1700000000"), "--from must be a date or a time"),
    (("--from", "2024-01-01"), "no row lies between --from and --to"),
    (("--to", FIRST), "no row lies between --from and --to"),
    (("--from", "2023-11-15", "--to", "2023-11-15"), "--from does not lie before --to"),
    (("--time", "when"), "--time and --asset are for models of tables"),
    (("--alarm-rate", "0.0000001"), "calibration rows"),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG, ids=[sentence[:30] for _, sentence in WRONG])
def test_what_cannot_be_replayed_is_refused_in_one_sentence(
    cli: Cli, series: list[dict[str, Any]], arguments: tuple[str, ...], sentence: str
) -> None:
    ended = cli("replay", "rows.parquet", "--model", pumps().folder, *arguments)
    assert ended.code == 2
    assert sentence in ended.err
    assert len(ended.err.strip().splitlines()) == 1


def test_rows_that_are_none_or_cannot_be_answered_are_refused_by_what_is_wrong(
    cli: Cli, series: list[dict[str, Any]], tmp_path: Path
) -> None:
    table = pq.read_table("rows.parquet")
    text = table.set_column(table.schema.get_field_index("flow"), "flow", pa.array(["secret"] * len(series)))
    wrong = [(table.slice(0, 0), "hold no rows"), (text, "no row can be answered; of the first, column 'flow' holds")]
    for rows, sentence in wrong:
        pq.write_table(rows, tmp_path / "wrong.parquet")
        ended = cli("replay", "wrong.parquet", "--model", pumps().folder)
        assert ended.code == 2
        assert sentence in ended.err
        assert "secret" not in ended.err
        assert len(ended.err.strip().splitlines()) == 1


@pytest.mark.parametrize("option", ["--quiet", "--least"])
def test_what_is_about_events_takes_events(cli: Cli, series: list[dict[str, Any]], option: str) -> None:
    ended = cli("replay", "rows.parquet", "--model", pumps().folder, option, "2")
    assert ended.code == 2
    assert f"{option} is about events, which are not asked for; add --events" in ended.err


def test_text_is_replayed_as_what_it_says(cli: Cli, fitted: Bundle, presses: pa.Table, tmp_path: Path) -> None:
    """Days and months are told apart by all of the rows."""
    at = presses["at"].cast(pa.timestamp("s"))
    text = pc.strftime(at, "%d/%m/%Y %H:%M")
    pq.write_table(presses.set_column(presses.schema.names.index("at"), "at", at), tmp_path / "presses.parquet")
    pacsv.write_csv(presses.set_column(presses.schema.names.index("at"), "at", text), tmp_path / "presses.csv")
    options = ("--model", fitted.folder, "--time", "at", "--asset", "press")
    assert replayed(cli, "presses.csv", *options) == replayed(cli, "presses.parquet", *options)


def test_a_table_model_that_knows_no_time_asks_for_it(cli: Cli, fitted: Bundle, presses: pa.Table) -> None:
    ended = cli("replay", "presses.parquet", "--model", fitted.folder)
    assert ended.code == 2
    assert "name it with --time" in ended.err
    ended = cli("replay", "presses.parquet", "--model", fitted.folder, "--time", "hour")
    assert ended.code == 2
    assert "--time names 'hour', which the rows lack; they have" in ended.err
    assert "'at', 'press'" in ended.err
