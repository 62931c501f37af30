"""What the tests of `deploy/` share: its files read, a daemon and streams under load, a real Prometheus that scrapes them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import yaml

from anomvae.daemon.stream_http import StatusServer
from anomvae.data.encoding import encode
from anomvae.observability.stream_metrics import StreamMetrics
from tests.streamed import Streaming, lines, pump_rows, pumps

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from anomvae.bundle import Bundle, Manifest

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
DASHBOARDS = ("anomvae", "anomvae-stream")
"""By their files, which are named as the jobs that they, and the rules of the same name, look at."""
VARIABLES = {"$__rate_interval": "5s", "$__range": "30s", "$instance": ".*", "$model": ".*"}
STARTED_WITHIN_S = 60.0
DAY_S = 86_400


@dataclass(frozen=True)
class Query:
    """One question a panel, an annotation or a rule asks, with the dashboard's variables filled in."""

    where: str
    expr: str


@dataclass(frozen=True)
class Daemon:
    """A daemon that has been used: its address, and a token it takes."""

    address: str
    token: str


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def ask(self, expr: str) -> list[dict[str, Any]]:
        """Series of an instant query; fails the test if it is refused."""
        answer = httpx.post(f"{self.url}/api/v1/query", data={"query": expr}, timeout=10).json()
        assert answer["status"] == "success", f"{expr}: {answer.get('error')}"
        found = answer["data"]["result"]
        return found if answer["data"]["resultType"] == "vector" else [{"metric": {}, "value": found}]

    def rules(self) -> list[dict[str, Any]]:
        """Its rules, with what came of their evaluation."""
        groups = httpx.get(f"{self.url}/api/v1/rules", timeout=10).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def deploy() -> Path:
    return DEPLOY


@pytest.fixture(scope="session")
def rules() -> list[dict[str, Any]]:
    """Every rule, recording and alerting."""
    files = sorted((DEPLOY / "prometheus/rules").glob("*.yml"))
    return [rule for file in files for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


@pytest.fixture(params=DASHBOARDS)
def dashboard(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each dashboard in turn."""
    found: dict[str, Any] = json.loads((DEPLOY / f"grafana/dashboards/{request.param}.json").read_text())
    return found


@pytest.fixture
def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """Its panels, without the headings of rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@pytest.fixture
def queries(dashboard: dict[str, Any], panels: list[dict[str, Any]], rules: list[dict[str, Any]]) -> list[Query]:
    """Everything that is asked of Prometheus by a dashboard, or by any rule."""
    asked = [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
    asked += [(note["name"], note["expr"]) for note in dashboard["annotations"]["list"] if "expr" in note]
    asked += [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules]
    return [Query(where, re.sub(r"\$\w+", lambda found: VARIABLES[found[0]], expr)) for where, expr in asked]


@pytest.fixture(scope="module")  # under load: it must not outlive who asks
def loaded_daemon(fitted: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The daemon itself, which is sent rows over every protocol from scrape to scrape."""
    token = "a-token-that-only-this-test-knows"  # noqa: S105  it opens nothing else
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(token)
    options = ["--tokens-file", str(tokens), "--port", "0", "--grpc-port", "0"]
    command = [sys.executable, "-m", "anomvae", "serve", f"press={fitted.folder}", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    stop = threading.Event()
    workers = []
    try:
        events = map(json.loads, process.stderr)
        serving = next(event for event in events if event["event"] == "serving")
        workers = [
            threading.Thread(target=lambda: list(events)),  # else the pipe fills up
            threading.Thread(target=_work, args=(serving["http"], serving["grpc"], token, fitted.manifest, stop)),
        ]
        for worker in workers:
            worker.start()
        yield Daemon(serving["http"].removeprefix("http://"), token)
    finally:
        stop.set()
        for worker in workers[1:]:
            worker.join(30)
        process.terminate()
        process.wait(60)
        for worker in workers[:1]:
            worker.join(30)
        process.stderr.close()


def _records(draw: np.random.Generator, n: int) -> list[dict[str, Any]]:
    """Rows as the detector knows them."""
    load = draw.normal(size=n)
    materials = draw.choice(["steel", "brass", "alloy"], n)
    return [
        {
            "temperature": 60 + 8 * each + draw.normal(),
            "pressure": None if draw.random() < 0.05 else 2.5e5 + 3e4 * each + 2e3 * draw.normal(),
            "vibration": float(np.exp(0.4 * draw.normal() + 0.2 * each)),
            "cooling": bool(each + 0.3 * draw.normal() > 0),
            "material": str(material),
        }
        for each, material in zip(load, materials, strict=True)
    ]


def _work(http: str, grpc: str, token: str, manifest: Manifest, stop: threading.Event) -> None:
    """Sends rows over every protocol until told to stop."""
    import tritonclient.grpc as triton

    draw = np.random.default_rng(0)
    allowed = {"authorization": f"Bearer {token}", "traceparent": f"00-{'4b' * 16}-00f067aa0ba902b7-01"}
    remote = triton.InferenceServerClient(grpc)
    with httpx.Client(base_url=http, headers=allowed, timeout=30) as client:
        while not stop.wait(0.1):
            # Every request has rows of its own: the test of the calibration takes rows for independent of one another.
            client.post("/v1/models/press/score", json={"records": _records(draw, 20)}).raise_for_status()
            client.post("/invocations", json={"dataframe_records": _records(draw, 20)}).raise_for_status()
            body = [
                {"name": name, "shape": array.shape, "datatype": kind, "data": _cells(array)}
                for name, array, kind in _tensors(draw, manifest)
            ]
            client.post("/v2/models/press/infer", json={"inputs": body}).raise_for_status()
            tensors = _tensors(draw, manifest)
            inputs = [triton.InferInput(name, array.shape, kind) for name, array, kind in tensors]
            for tensor, (_, array, _) in zip(inputs, tensors, strict=True):
                tensor.set_data_from_numpy(array)
            remote.infer("press", inputs, headers={"authorization": f"Bearer {token}"})
    remote.close()


def _tensors(draw: np.random.Generator, manifest: Manifest) -> list[tuple[str, npt.NDArray[Any], str]]:
    """Rows as the graph's inputs: name, cells, datatype."""
    rows = encode(pa.Table.from_pylist(_records(draw, 20)), manifest.columns)
    return [("numeric", rows.numeric, "FP32"), ("categorical", rows.categorical, "INT64")]


def _cells(array: npt.NDArray[Any]) -> list[Any]:
    """Cells as JSON has them: null where they are missing."""
    return [None if cell != cell else cell for cell in array.ravel().tolist()]  # noqa: PLR0124  NaN alone is not itself


@pytest.fixture(scope="module")  # under load: it must not outlive who asks
def loaded_streams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Addresses of a stream that answers a pipe, and of one that tells what only a broker makes known: lag, transactions."""
    folder = tmp_path_factory.mktemp("streams")
    ends = ("--from", "-", "--to", folder / "answers", "--dead-letter", folder / "dead", "--events")
    told, stop = StreamMetrics(), threading.Event()
    with Streaming("--model", pumps().folder, *ends, "--metrics-port", 0) as stream:
        addresses = [stream.url.removeprefix("http://")]
        server = StatusServer("127.0.0.1", 0, told, lambda: True, lambda: True)
        worker = threading.Thread(target=_flow, args=(stream, told, stop))
        worker.start()
        try:
            yield [*addresses, f"127.0.0.1:{server.port}"]
        finally:
            stop.set()
            worker.join(30)
            server.close()


def _flow(stream: Streaming, told: StreamMetrics, stop: threading.Event) -> None:
    """Writes steps of both pumps to the one, and has the other tell of as many, until told to stop."""
    draw = np.random.default_rng(0)
    told.follow(lambda: True, lambda: 2, lambda: 7)
    told.model_loaded("pumps", version="3", kind="series", digest="4b" * 6, reference="pumps@champion", alarm_rate=0.05)
    rows, began = pump_rows(40_000), time.time() - DAY_S
    stream.write(b"no JSON\n")
    for first in range(0, len(rows), 8):
        told.records({"scored": 8, "filling": 2}, alarms=first % 24 == 0)
        told.batch(0.01, 0.02)
        told.values(draw.exponential(size=8), draw.random(8))
        told.lag({0: 3, 1: 5})
        told.transaction("committed")
        told.progressed()
        stream.write(lines(row | {"when": began + row["i"] // 2} for row in rows[first : first + 8]))
        if stop.wait(0.1):
            break


def documented_job() -> dict[str, Any]:
    """How the documentation has streams scraped."""
    blocks = re.findall(
        r"^```yaml\n(.*?)^```", (REPOSITORY / "docs/streaming.md").read_text(), re.DOTALL | re.MULTILINE
    )
    (found,) = [yaml.safe_load(block) for block in blocks if block.startswith("scrape_configs:")]
    (job,) = found["scrape_configs"]
    return dict(job)


@pytest.fixture(scope="module")  # under load: it must not outlive who asks
def prometheus(
    loaded_daemon: Daemon, loaded_streams: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """A real Prometheus with the delivered configuration; only addresses, the token's file and the pace are the test's."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed")
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "anomvae"]
    (folder / "token").write_text(loaded_daemon.token)
    job["authorization"]["credentials_file"] = str(folder / "token")
    job["static_configs"] = [{"targets": [loaded_daemon.address]}]
    config["scrape_configs"] = [job, documented_job() | {"static_configs": [{"targets": loaded_streams}]}]
    config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["alerting"].pop("alertmanagers")
    shutil.copytree(DEPLOY / "prometheus/rules", folder / "rules")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", "--log.level=error"]
    process = subprocess.Popen([program, *options, f"--web.listen-address={address}"], cwd=folder)
    try:
        yield _scraped(Prometheus(f"http://{address}"))
    finally:
        process.terminate()
        process.wait(timeout=20)


def _scraped(prometheus: Prometheus) -> Prometheus:
    """Waits until there is something to take rates of, and rules were evaluated on it."""
    deadline = time.monotonic() + STARTED_WITHIN_S
    while time.monotonic() < deadline:
        time.sleep(0.2)
        try:
            scrapes = prometheus.ask('count_over_time(up{job=~"anomvae|anomvae-stream"}[1m]) >= 5')
            evaluated = (
                "model:anomvae_unknown_category_cells:per_row1h",
                "instance:anomvae_stream_scored:increase1h > 0",
            )
            if len(scrapes) == 3 and all(map(prometheus.ask, evaluated)):
                return prometheus
        except (httpx.TransportError, ValueError):  # not listening yet, or not ready yet
            continue
    raise AssertionError("Prometheus did not scrape and evaluate in time")
