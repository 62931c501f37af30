"""What the tests of `deploy/` share: its files read, a daemon under load, and a real Prometheus that scrapes it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomvae.observability.metrics import Metrics

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
VARIABLES = {"$__rate_interval": "5s", "$__range": "30s", "$instance": ".*", "$model": ".*"}
STARTED_WITHIN_S = 60.0


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


@pytest.fixture(scope="session")
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/anomvae.json").read_text())
    return found


@pytest.fixture(scope="session")
def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """Its panels, without the headings of rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@pytest.fixture(scope="session")
def queries(dashboard: dict[str, Any], panels: list[dict[str, Any]], rules: list[dict[str, Any]]) -> list[Query]:
    """Everything that is asked of Prometheus anywhere."""
    asked = [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
    asked += [(note["name"], note["expr"]) for note in dashboard["annotations"]["list"] if "expr" in note]
    asked += [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules]
    return [Query(where, re.sub(r"\$\w+", lambda found: VARIABLES[found[0]], expr)) for where, expr in asked]


@pytest.fixture(scope="session")
def loaded_daemon() -> Iterator[Daemon]:
    """Tells what a daemon under load would, and goes on working from scrape to scrape."""
    from anomvae.observability.metrics import Metrics

    daemon = Metrics({"version": "1.0", "python": "3.11", "onnxruntime": "1.20"})
    daemon.model_loaded(
        "press", version="3", kind="table", digest="0a1b", reference="press@champion", alarm_rate=0.01, at=time.time()
    )
    daemon.provider("press", "cpu", fell_back=False)
    daemon.shadow_loaded("press", "4")
    daemon.inflight_limit(200_000)
    daemon.ready(ready=True)
    token = "a-token-that-only-this-test-knows"  # noqa: S105  it opens nothing else

    class Front(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers["Authorization"] == f"Bearer {token}"
            _work(daemon)
            body, media_type = daemon.render(self.headers.get("Accept", ""))
            self.send_response(200 if allowed else 401)
            self.send_header("Content-Type", media_type)
            self.end_headers()
            self.wfile.write(body if allowed else b"")

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Front) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Daemon(f"127.0.0.1:{server.server_address[1]}", token)
        server.shutdown()


def _work(daemon: Metrics) -> None:
    """A second of load: good answers, a few bad ones, a batch of each kind."""
    draw = np.random.default_rng(0)
    for protocol in ("v2-json", "v2-binary", "v1-json"):
        daemon.request("press", protocol, "200", 60, 0.004, "4bf92f3577b34da6a3ce929d0e0e4736")
        daemon.request("press", protocol, "400", 0, 0.001)
    daemon.request("press", "grpc", "OK", 200, 0.02)
    daemon.stages("press", 0.0002, 0.0005, 0.002, 0.0001)
    daemon.inflight_rows(120)
    for reason in ("idle", "full", "waited"):
        daemon.batch("press", 128, reason)
    p_values = draw.random(380)
    daemon.rows("press", scores=-np.log(p_values), p_values=p_values, alarms=p_values <= 0.01, threshold=-np.log(0.01))
    daemon.cells("press", missing=20, unknown=1)
    daemon.shadow("press", 38, 1)


@pytest.fixture(scope="session")
def prometheus(loaded_daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
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
    config["scrape_configs"] = [job]
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
            scrapes = prometheus.ask('count_over_time(up{job="anomvae"}[1m]) >= 5')
            if scrapes and prometheus.ask("model:anomvae_unknown_category_cells:per_row1h"):
                return prometheus
        except (httpx.TransportError, ValueError):  # not listening yet, or not ready yet
            continue
    raise AssertionError("Prometheus did not scrape and evaluate in time")
