from __future__ import annotations

import json
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.serve_bench import requests
from pipelines.serve_bench.page import Setting, section
from pipelines.serve_bench.rounds import BULK_KINDS, BULK_ROWS, Figures, Pace
from pipelines.serve_bench.servers import Ports, Server, Start, running
from pipelines.serve_bench.subject import Scores, Subject
from pipelines.serve_bench.targets import LEAST_SHARE, find_targets

PEERS = ("mlserver", "mlflow")
MODELS = ("small",)
GOOD = {
    "ours/requests_per_s": 10_000.0,
    "ours/p50_ms": 4.0,
    "ours/p99_ms": 5.0,
    "ours/idle_p50_ms": 0.2,
    "ours/cold_s": 1.0,
    "ours/idle_mb": 100.0,
    "ours/loaded_mb": 200.0,
    "bare/requests_per_s": 15_000.0,
    "bare/idle_p50_ms": 0.15,
    **{f"{peer}/requests_per_s": 900.0 for peer in PEERS},
    **{f"{peer}/p99_ms": 100.0 for peer in PEERS},
    **{f"ours/small/{kind}/{n_rows}": 90.0 for kind in BULK_KINDS for n_rows in BULK_ROWS},
    "alone/small/verdict": 100.0,
    "alone/small/answers": 100.0,
    "unrest/alone/small/verdict": 0.04,
    "unrest/alone/small/answers": 0.07,
}


def figures(**changes: float) -> Figures:
    found = Figures()
    for name, figure in (GOOD | {name.replace("__", "/"): figure for name, figure in changes.items()}).items():
        found.found[name] = [figure] * 3
    return found


def missed(**changes: float) -> list[str]:
    return [target.what for target in find_targets(figures(**changes), PEERS, MODELS, 300.0) if not target.met]


def test_good_figures_meet_every_target() -> None:
    assert missed() == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"mlflow__requests_per_s": 1001.0}, "over `mlflow`"),
        ({"mlserver__p99_ms": 49.0}, "p99"),
        ({"bare__requests_per_s": 17_000.0}, "the bare app"),
        ({"bare__idle_p50_ms": 0.13}, "idle connection"),
        ({"ours__small__arrow__10000": 84.0}, "Arrow, doubles, 10,000 rows"),
        ({"ours__small__json__1000": 39.0}, "JSON, 1,000 rows"),
        ({"ours__small__grpc__1000": 44.0}, "gRPC, 1,000 rows"),
        ({"ours__cold_s": 2.1}, "cold start"),
        ({"ours__loaded_mb": 251.0}, "after all of this load"),
    ],
)
def test_a_figure_beyond_its_bound_is_told_as_missed(changes: dict[str, float], what: str) -> None:
    (found,) = missed(**changes)
    assert what in found


def test_a_ratio_is_taken_inside_each_round() -> None:
    found = Figures()
    found.found["a"], found.found["b"] = [10.0, 40.0, 30.0], [10.0, 20.0, 10.0]
    assert found.ratio("a", "b") == 2.0


def test_the_section_names_every_server_figure_and_missed_target() -> None:
    servers = [Server(name, f"the {name}", lambda _folder, _ports: Start([])) for name in ("ours", "bare", *PEERS)]
    found = figures(ours__cold_s=3.25)
    for server in servers:
        for quantity in ("requests_per_s", "p50_ms", "p99_ms", "idle_p50_ms", "cold_s", "idle_mb", "loaded_mb"):
            found.found.setdefault(f"{server.name}/{quantity}", [1.0])
        for n_rows in BULK_ROWS:
            found.found.setdefault(f"{server.name}/small/json/{n_rows}", [1.0])
    setting = Setting("a machine", {"onnxruntime": "1"}, {"mlserver": "2"}, servers, PEERS, MODELS, Pace(), None)
    text = section(found, setting)
    assert "| cold start to the first score | at most 2.00 s | 3.25 s | **no** |" in text
    assert text.count("**no**") == 1
    assert all(f"| the {name} |" in text for name in ("ours", "bare", *PEERS))
    assert "was not measured" in text
    assert "differed by at most 7%" in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert all(len({line.count("|") for line in lines}) == 1 for lines in tables)


@pytest.fixture
def subject() -> Subject:
    rows = np.arange(200 * 3, dtype=np.float32).reshape(200, 3)
    right = Scores(rows.sum(axis=1).astype(np.float64), rows[:, 0] > 90)
    return Subject("small", Path("small"), Path("small/scorer.onnx"), ("a", "b", "c"), rows, right)


def test_bodies_hold_the_rows_they_say_they_hold(subject: Subject) -> None:
    single = requests.single_v2(subject)
    assert len(single.bodies) == requests.SINGLES
    for row, body in enumerate(single.bodies):
        assert json.loads(body)["inputs"][0]["data"] == subject.rows[row].tolist()
    arrow = requests.bulk_arrow(subject, 100, pa.float64())
    table = pa.ipc.open_stream(arrow.bodies[0]).read_all()
    assert np.array_equal(np.column_stack([table[name] for name in subject.columns]), subject.rows[:100])
    binary = requests.bulk_binary(subject, 100)
    header = int(binary.headers[requests.HEADER_LENGTH])
    assert json.loads(binary.bodies[0][:header])["inputs"][0]["shape"] == [100, 3]
    assert binary.bodies[0][header:] == subject.rows[:100].tobytes()


def test_wrong_answers_are_not_measured(subject: Subject) -> None:
    right = subject.right
    subject.check(right)
    subject.check(Scores(right.score[5:6], right.alarm[5:6]), first=5)
    with pytest.raises(ValueError, match="scores of small are wrong"):
        subject.check(Scores(right.score[5:6], right.alarm[5:6]), first=6)
    with pytest.raises(ValueError, match="alarms of small are wrong"):
        subject.check(Scores(right.score, ~right.alarm))


def test_every_kind_of_bulk_but_grpc_has_a_share_to_reach() -> None:
    assert set(BULK_KINDS) - {"grpc"} == set(LEAST_SHARE)


def test_a_server_that_does_not_come_up_is_told_with_the_end_of_its_log(subject: Subject, tmp_path: Path) -> None:
    broken = Server("broken", "broken", lambda _folder, _ports: Start([sys.executable, "-c", "raise SystemExit('no')"]))
    with (
        pytest.raises(RuntimeError, match=r"broken did not come up[\s\S]*no$"),
        running(broken, requests.single_v2(subject), tmp_path / "broken"),
    ):
        pass


def test_a_server_is_stopped_with_all_that_it_started(subject: Subject, tmp_path: Path) -> None:
    code = """
        import http.server, subprocess, sys

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.end_headers()

        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open("child", "w").write(str(child.pid))
        http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
    """

    def start(_folder: Path, ports: Ports) -> Start:
        return Start([sys.executable, "-c", textwrap.dedent(code), str(ports.http)])

    with running(Server("parent", "parent", start), requests.single_v2(subject), tmp_path / "parent") as server:
        assert server.cold_start_s > 0
        assert server.resident_mb() > 1
        child = int((tmp_path / "parent" / "child").read_text())
        assert runs(child)
    until = time.monotonic() + 30
    while runs(child) and time.monotonic() < until:
        time.sleep(0.01)
    assert not runs(child)


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
