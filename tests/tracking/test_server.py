"""A real `mlflow server`, over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest

from anomvae.bundle import read_bundle
from anomvae.tracking import registry
from anomvae.tracking.promotion import promote
from anomvae.tracking.runs import log_bundle

# The product sets MLflow up, so it is imported before anything of MLflow.
# isort: split
from mlflow import MlflowClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import SimpleNamespace

    from tests.tracking.conftest import MakeBundle

START_S = 90


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as response:  # noqa: S310  # our own loopback server
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.fixture
def server(tmp_path: Path, uri: str) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    place = ["--backend-store-uri", uri, "--artifacts-destination", str(tmp_path / "artifacts")]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    log = (tmp_path / "server.log").open("wb")
    process = subprocess.Popen(
        [*command, *place],
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        cwd=tmp_path,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + START_S
        while not answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"mlflow server does not start here: {(tmp_path / 'server.log').read_text()[-300:]}")
            time.sleep(0.3)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


def test_a_bundle_goes_to_a_server_and_comes_back(
    server: str,
    make_bundle: MakeBundle,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flavours: SimpleNamespace,
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_MODEL_CODE_EXECUTION", "false")
    bundle = make_bundle(evaluation={"auroc": 0.9})
    logged = log_bundle(bundle, tracking_uri=server)
    again = log_bundle(bundle, tracking_uri=server, experiment="line 1/pumps")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert logged.how_to_open.startswith(f"{server}/#/experiments/")

    client = MlflowClient(tracking_uri=server)
    assert client.get_run(logged.run_id).data.metrics["auroc"] == 0.9
    assert len(client.get_metric_history(logged.run_id, "train_loss")) == 4
    assert {item.path for item in client.list_artifacts(logged.run_id)} >= {"report.html", "card.md", "schema.json"}
    resolved = registry.resolve("pumps@candidate", tracking_uri=server)
    assert resolved.title == f"pumps/{again.version}"
    assert read_bundle(resolved.folder).manifest == bundle.manifest
    assert registry.pull("pumps", tmp_path / "out", tracking_uri=server).title == "pumps/1"
    assert promote("pumps@candidate", tracking_uri=server).moved
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert flavours.onnx.load_model("models:/pumps@champion").graph.name == "scorer"
    captured = capfd.readouterr()
