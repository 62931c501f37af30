"""The README's blocks run: commands, Python and settings, in one folder, in their order."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from anomvae.fitting.settings import settings_from
from pipelines.demo_data import main as write_demo_data
from pipelines.train import Job

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def commands_of(session: str) -> list[str]:
    return re.findall(r"^\$ (.*)$", session, re.MULTILINE)


def test_the_shell_sessions_run_and_print_what_they_say(tmp_path: Path, cli: Any, serve: Any) -> None:
    write_demo_data(tmp_path)
    session, serving = blocks("console")
    commands = [command for command in commands_of(session) if command.startswith("anomvae ")]
    assert len(commands) >= 5
    printed = ""
    for command in commands:
        ended = cli(*shlex.split(command)[1:])
        assert ended.code == 0, f"{command}: {ended.err}"
        printed += ended.out + ended.err
    assert (tmp_path / "verdicts.jsonl").exists()
    for line in ("260 rows would train, and all of them calibrate", "309 rows: 212 anomalies, 97 normal"):
        assert line in session
        assert line in printed
    assert "registered as biopsies version 1 (candidate, champion)" in printed
    _ask_the_daemon(serving, serve)


def _ask_the_daemon(session: str, serve: Any) -> None:
    """On what the session before has registered; on a free port, and stopped with the test."""
    start, *requests = commands_of(session)
    assert start.startswith("anomvae serve ")
    assert start.endswith(" &")
    daemon = serve(*shlex.split(start)[2:-1])
    assert {'"event":"serving"', '"grpc"'} <= set(re.findall(r'"event":"serving"|"grpc"', session))
    assert len(requests) >= 2
    if shutil.which("curl") is None:
        pytest.skip("the session asks with curl, which is not here")
    told = re.split(r"^\$ .*\n", session, flags=re.MULTILINE)[2:]
    for command, expected in zip(requests, told, strict=True):
        line = command.replace("curl ", "curl --silent --fail-with-body ").replace("http://", "")
        line = line.replace("localhost:8080", daemon.url.removeprefix("http://"))
        ended = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
        assert_prints(ended.stdout, expected)


def assert_prints(printed: str, expected: str) -> None:
    """Holds an output against one of the README, where `...` stands for anything."""
    parts = (re.escape(part) for part in expected.strip().split("..."))
    assert re.search(".*".join(parts), printed), f"{expected}is not what is printed: {printed}"


def test_the_python_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_demo_data(tmp_path)
    frame = pq.read_table(tmp_path / "benign.parquet").to_pandas()
    names: dict[str, Any] = {"frame": frame, "new_rows": frame.head(20)}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102  the README is ours
    assert len(names["verdicts"]) == 20
    for block in blocks("python", GUIDE):  # on the bundle that the README has saved
        exec(compile(block, "guide.md", "exec"), names)  # noqa: S102  the guide is ours
    assert names["p_value"].shape == (2,)


def test_the_settings_are_settings(tmp_path: Path) -> None:
    for block in blocks("toml"):
        assert settings_from(tomllib.loads(block)).model.kind == "beta-vae"
    columns, job = (tomllib.loads(block) for block in blocks("toml", GUIDE))
    assert settings_from(columns).columns["admitted"] == "date"
    (tmp_path / "job.toml").write_text(blocks("toml", GUIDE)[1])
    assert Job.from_toml(tmp_path / "job.toml").fit.alarm_rate == job["fit"]["alarm_rate"]


def test_every_link_leads_somewhere() -> None:
    for page, folder in ((README, ROOT), (GUIDE, ROOT / "docs")):
        for target in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", page):
            assert (folder / target).exists(), target
