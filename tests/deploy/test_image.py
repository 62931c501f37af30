"""The daemon's image: its file says what it should, its install steps make a small environment that serves."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import httpx
import pytest
import yaml

from anomvae.daemon.settings import ServeSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anomvae.bundle import Bundle
    from tests.conftest import Cli

MOST_BYTES = 400_000_000
UNWANTED = ("torch", "pandas", "sklearn", "scipy", "onnx", "matplotlib", "mlflow.server.handlers", "pip")


@pytest.fixture(scope="module")
def dockerfile(deploy: Path) -> list[tuple[str, str]]:
    """Its instructions, continued lines joined."""
    lines = re.sub(r"^#.*\n", "", (deploy / "serve.Dockerfile").read_text(), flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", "", lines)
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def _of(dockerfile: list[tuple[str, str]], instruction: str) -> list[str]:
    return [rest for name, rest in dockerfile if name == instruction]


# --- the file


def test_the_image_runs_as_an_ordinary_user_and_stops_when_told(dockerfile: list[tuple[str, str]]) -> None:
    settings = ServeSettings()
    assert _of(dockerfile, "USER") == ["10001:10001"]
    assert _of(dockerfile, "STOPSIGNAL") == ["SIGTERM"]
    assert _of(dockerfile, "EXPOSE") == [f"{settings.port} {settings.grpc_port}"]
    assert _of(dockerfile, "ENTRYPOINT") == ['["anomvae", "serve"]']
    (environment,) = _of(dockerfile, "ENV")
    assert {"PYTHONDONTWRITEBYTECODE=1", "ANOMVAE_SERVE_HOST=0.0.0.0"} <= set(environment.split())


def test_everything_copied_exists_and_reaches_the_builder(
    repository: Path, deploy: Path, dockerfile: list[tuple[str, str]]
) -> None:
    reaching = {line[1:] for line in (deploy / "serve.Dockerfile.dockerignore").read_text().split() if line[0] == "!"}
    copied = {
        source for rest in _of(dockerfile, "COPY") if not rest.startswith("--from") for source in shlex.split(rest)[:-1]
    }
    assert copied == reaching
    assert all((repository / source).exists() for source in copied)


def test_the_image_is_installed_by_the_script_that_the_test_runs(dockerfile: list[tuple[str, str]]) -> None:
    assert "deploy/install_serve.sh /opt/anomvae /dist/anomvae-*.whl" in _of(dockerfile, "RUN")
    assert not [run for run in _of(dockerfile, "RUN") if re.search(r"pip install|apt", run)]


# --- the health check


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port at which every probe but `/v2/health/ready` is answered 200."""

    class Front(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if self.path == "/v2/health/ready" else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Front) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def _health(deploy: Path, port: int, *path: str) -> int:
    command = [sys.executable, "-IS", str(deploy / "healthcheck.py"), *path]
    return subprocess.run(command, env={"ANOMVAE_SERVE_PORT": str(port)}, check=False).returncode


def test_the_health_check_tells_a_good_answer_from_a_bad_one_and_from_none(deploy: Path, answering: int) -> None:
    assert _health(deploy, answering) == 0
    assert _health(deploy, answering, "/v2/health/ready") == 1
    assert _health(deploy, 1) == 1


# --- the environment


def _stale(stamp: Path, repository: Path) -> bool:
    sources = [repository / name for name in ("pyproject.toml", "constraints.txt", "deploy/install_serve.sh")]
    sources += [file for file in (repository / "anomvae").rglob("*") if file.suffix in (".py", ".proto", ".binpb")]
    return not stamp.exists() or any(file.stat().st_mtime > stamp.stat().st_mtime for file in sources)


@pytest.fixture(scope="module")
def installed(repository: Path) -> Path:
    """The virtual environment that the image holds, made by its own script, kept while nothing it is made of changes."""
    folder = repository / ".venv-serve"
    stamp = folder / ".ready"
    with (repository / "deploy/install_serve.sh").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _stale(stamp, repository):
            shutil.rmtree(folder, ignore_errors=True)
            script = repository / "deploy/install_serve.sh"
            ended = subprocess.run(
                ["bash", script, folder, repository],
                env=os.environ | {"PYTHON": sys.executable},
                capture_output=True,
                text=True,
                check=False,
            )
            assert ended.returncode == 0, ended.stderr[-4000:]
            stamp.touch()
    return folder


def _run(installed: Path, *command: object) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{installed}/bin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "HOME": os.environ["HOME"]}
    return subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.xdist_group("slow_venv")
def test_what_serves_holds_no_torch_no_pandas_and_nothing_that_installs(installed: Path) -> None:
    for name in UNWANTED:
        ended = _run(installed, installed / "bin/python", "-I", "-c", f"import {name}")
        assert "ModuleNotFoundError" in ended.stderr, name


@pytest.mark.xdist_group("slow_venv")
def test_what_serves_takes_less_than_400_mb_on_disk(installed: Path) -> None:
    files = {(found.st_ino, found.st_blocks * 512) for found in map(os.lstat, installed.rglob("*"))}
    size_bytes = sum(size for _, size in files)
    print(f"{size_bytes / 1e6:.0f} MB on disk")  # noqa: T201  -s shows it
    assert size_bytes < MOST_BYTES


@pytest.mark.xdist_group("slow_venv")
def test_the_command_that_the_image_starts_is_there(installed: Path) -> None:
    ended = _run(installed, installed / "bin/anomvae", "serve", "--help")
    assert ended.returncode == 0, ended.stderr
    assert "--tokens-file" in ended.stdout


@pytest.mark.xdist_group("slow_venv")
def test_nothing_that_a_start_imports_is_left_without_bytecode(installed: Path) -> None:
    listing = (
        "import sys, anomvae.daemon.lifecycle, anomvae.references, anomvae.tracking.registry, mlflow.tracking; "
        "print([m for m, k in sys.modules.items() if (getattr(k, '__file__', None) or '').startswith(sys.prefix) "
        "and k.__file__.endswith('.py') and not __import__('os').path.exists(k.__cached__)])"
    )
    ended = _run(installed, installed / "bin/python", "-I", "-c", listing)
    assert ended.stdout.strip() == "[]", ended.stderr


@pytest.fixture
def registry(deploy: Path, tmp_path: Path) -> Iterator[str]:
    """The registry as `compose.yaml` starts it, on a port and in a folder of the test's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = yaml.safe_load((deploy / "compose.yaml").read_text())["services"]["mlflow"]["command"]
    command = [word.replace("/mlflow/", f"{tmp_path}/").replace("=0.0.0.0", "=127.0.0.1") for word in command]
    command = [f"--port={port}" if word == "--port=5000" else word for word in command]
    with (tmp_path / "mlflow.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "--workers=1"],
            stdout=log,
            stderr=log,
            cwd=tmp_path,
            start_new_session=True,
        )
    try:
        yield _answering(f"http://localhost:{port}", port)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def _answering(url: str, port: int) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        time.sleep(0.3)
        try:
            # By the name that the daemon's container calls it.
            if httpx.get(f"{url}/health", headers={"Host": "mlflow:5000"}).is_success:
                assert httpx.get(f"{url}/api/2.0/mlflow/x", headers={"Host": "elsewhere:5000"}).status_code == 403
                return url
        except httpx.TransportError:
            continue
    raise AssertionError("the registry did not start in time")


@pytest.mark.xdist_group("slow_venv")
def test_what_serves_fetches_models_from_the_registry_that_compose_starts(
    installed: Path, registry: str, fitted: Bundle, cli: Cli, tmp_path: Path
) -> None:
    logged = cli("models", "log", fitted.folder, "--name", "press", "--tracking-uri", registry)
    assert logged.code == 0, logged.err
    pull = ("models", "pull", "press@candidate", "--out", tmp_path / "pulled", "--tracking-uri", registry)
    ended = _run(installed, installed / "bin/anomvae", *pull)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "pulled/scorer.onnx").read_bytes() == (fitted.folder / "scorer.onnx").read_bytes()
