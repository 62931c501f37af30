"""The servers that are compared: how each is started, watched and stopped."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipelines.serve_bench.requests import Request
    from pipelines.serve_bench.subject import Subject

HOST = "127.0.0.1"
BIN = Path(sys.executable).parent
ROOT = Path(__file__).parent.parent.parent
PEERS = ROOT / ".venv-peers" / "bin"
START_WITHIN_S = 60.0
STOP_WITHIN_S = 15.0
SETTLE_WITHIN_S, SETTLE_STEP_S = 15.0, 0.3
QUIET_AFTER_S = 1.0
"""Time that a server gets after its first answer before its memory is looked at."""
MLSERVER_MODEL = Path(__file__).parent / "mlserver_model.py"


@dataclass(frozen=True, slots=True)
class Ports:
    """Free ports of this machine."""

    http: int
    grpc: int
    metrics: int


@dataclass(frozen=True, slots=True)
class Start:
    """How a server is started.

    Attributes:
        command: The command line.
        environment: Variables beside this process's own.
    """

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Server:
    """A server under test.

    Attributes:
        name: Short name: `ours`, `bare`, `mlserver`, `mlserver-worker`, `mlflow` or `mlflow-lean`.
        title: Name on the page.
        start: Makes its command in a folder of its own.
        token: What callers show; empty where nobody asks.
    """

    name: str
    title: str
    start: Callable[[Path, Ports], Start]
    token: str = ""


def our_server(subject: Subject) -> Server:
    """The daemon with everything on: validation, batching, metrics, token check, gRPC."""
    token = secrets.token_urlsafe(24)

    def start(folder: Path, ports: Ports) -> Start:
        tokens = folder / "tokens"
        tokens.write_text(f"{token}\n")
        tokens.chmod(0o600)
        command = [str(BIN / "anomvae"), "serve", str(subject.folder), "--host", HOST, "--port", str(ports.http)]
        return Start([*command, "--grpc-port", str(ports.grpc), "--tokens-file", str(tokens)])

    return Server("ours", "**anomvae serve**, everything on", start, token)


def bare_server(subject: Subject) -> Server:
    """An app of 30 lines on uvicorn; see :mod:`pipelines.serve_bench.bare`."""

    def start(_: Path, ports: Ports) -> Start:
        flags = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "pipelines.serve_bench.bare:app",
            "--host",
            HOST,
            "--port",
            str(ports.http),
        ]
        return Start([*command, *flags, "--app-dir", str(ROOT)], {"ANOMVAE_BENCH_GRAPH": str(subject.graph)})

    return Server("bare", "bare uvicorn app", start)


def mlserver(subject: Subject, workers: int) -> Server:
    """MLServer with adaptive batching of 64 requests or 5 ms.

    Args:
        subject: The model.
        workers: Processes that run models beside the one that speaks HTTP; 0: none.
    """

    def start(folder: Path, ports: Ports) -> Start:
        settings = {
            "host": HOST,
            "http_port": ports.http,
            "grpc_port": ports.grpc,
            "metrics_port": ports.metrics,
            "parallel_workers": workers,
            "debug": False,
        }
        model = {
            "name": subject.name,
            "implementation": f"{MLSERVER_MODEL.stem}.GraphModel",
            "max_batch_size": 64,
            "max_batch_time": 0.005,
            "parameters": {"uri": str(subject.graph)},
        }
        (folder / subject.name).mkdir(exist_ok=True)
        (folder / "settings.json").write_text(json.dumps(settings))
        (folder / subject.name / "model-settings.json").write_text(json.dumps(model))
        shutil.copy(MLSERVER_MODEL, folder)
        return Start([str(PEERS / "mlserver"), "start", str(folder)])

    name = "mlserver-worker" if workers else "mlserver"
    return Server(name, f"MLServer, adaptive batching 64 / 5 ms, `parallel_workers` {workers}", start)


def mlflow_server(name: str, title: str, model_uri: str, tracking_uri: str) -> Server:
    """`mlflow models serve` from this environment.

    Args:
        name: Short name.
        title: Name on the page.
        model_uri: What is served.
        tracking_uri: Where that is looked up.
    """

    def start(_: Path, ports: Ports) -> Start:
        command = [str(BIN / "mlflow"), "models", "serve", "--model-uri", model_uri, "--env-manager", "local"]
        environment = {
            "MLFLOW_TRACKING_URI": tracking_uri,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        }
        return Start([*command, "--host", HOST, "--port", str(ports.http)], environment)

    return Server(name, title, start)


class Running:
    """A server that has answered.

    Args:
        server: What runs.
        process: Its process.
        ports: Where it listens.

    Attributes:
        cold_start_s: Seconds from the start of the process to its first answer to a row.
    """

    def __init__(self, server: Server, process: psutil.Process, ports: Ports) -> None:
        self.server, self.ports = server, ports
        self._process = process
        self.cold_start_s = 0.0

    def headers(self, request: Request) -> dict[str, str]:
        """Headers of a request, the token among them."""
        return request.headers | ({"Authorization": f"Bearer {self.server.token}"} if self.server.token else {})

    def post(self, request: Request, body: bytes, timeout_s: float = 60.0) -> tuple[int, bytes, dict[str, str]]:
        """Posts one body; status, body and headers by lower-case name of the answer."""
        connection = http.client.HTTPConnection(HOST, self.ports.http, timeout=timeout_s)
        try:
            connection.request("POST", request.path, body, self.headers(request))
            answer = connection.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()

    def resident_mb(self) -> float:
        """Resident memory of the server's processes, pages that they share counted in each."""
        return float(sum(process.memory_info().rss for process in self._family()) / 2**20)

    def settle(self) -> None:
        """Waits until the server has nothing left to do: some work on for callers who have hung up."""
        until = time.perf_counter() + SETTLE_WITHIN_S
        busy_s = self._busy_s()
        while time.perf_counter() < until:
            time.sleep(SETTLE_STEP_S)
            before, busy_s = busy_s, self._busy_s()
            if busy_s - before < SETTLE_STEP_S / 10:
                return

    def _family(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]

    def _busy_s(self) -> float:
        return float(sum(sum(process.cpu_times()[:2]) for process in self._family()))


@contextlib.contextmanager
def running(server: Server, first: Request, folder: Path) -> Iterator[Running]:
    """Starts a server, waits for its first answer, and stops it in the end.

    Args:
        server: What to start.
        first: The request that it must answer.
        folder: A folder of its own, for its settings and its log.

    Raises:
        RuntimeError: It ended or did not answer in time; the message ends with the last lines of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ports = _free_ports()
    start = server.start(folder, ports)
    log = folder / "log"
    with log.open("wb") as sink:
        started = time.perf_counter()
        process = subprocess.Popen(
            start.command,
            cwd=folder,
            env={**os.environ, **start.environment},
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        found = Running(server, psutil.Process(process.pid), ports)
        while (refusal := _refusal(found, first)) is not None:
            if process.poll() is not None or time.perf_counter() - started > START_WITHIN_S:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise RuntimeError(f"{server.name} did not come up ({refusal}); its log ends with:\n{tail}")
            time.sleep(0.005)
        found.cold_start_s = time.perf_counter() - started
        time.sleep(QUIET_AFTER_S)
        yield found
    finally:
        _stop(process)


def _refusal(found: Running, request: Request) -> str | None:
    """Why there is no answer yet; None: there is one."""
    try:
        status, answer, _ = found.post(request, request.bodies[0], 5.0)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    return None if status == http.HTTPStatus.OK else f"{status} {answer[:200].decode(errors='replace')}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the server and whatever it started: all of its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_WITHIN_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_ports() -> Ports:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for free in sockets:
            free.bind((HOST, 0))
        return Ports(*(free.getsockname()[1] for free in sockets))
