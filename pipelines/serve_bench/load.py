"""Load on a running server: wrk for HTTP, a client process of our own for gRPC."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.serve_bench.servers import HOST, ROOT

if TYPE_CHECKING:
    from pipelines.serve_bench.requests import Request
    from pipelines.serve_bench.servers import Running
    from pipelines.serve_bench.subject import Scores, Subject

SCRIPT = Path(__file__).parent / "load.lua"
GRPC_CLIENT = "pipelines.serve_bench.grpc_client"
OK = 200


@dataclass(frozen=True, slots=True)
class Load:
    """What a load found.

    Attributes:
        requests_per_s: Requests answered a second.
        rows_per_s: Rows answered a second.
        p50_ms: Median latency in milliseconds; NaN for gRPC.
        p99_ms: 99th percentile; NaN for gRPC.
    """

    requests_per_s: float
    rows_per_s: float
    p50_ms: float = np.nan
    p99_ms: float = np.nan


def check_answers(server: Running, request: Request, subject: Subject) -> None:
    """Sends every body of a request once and compares the answers with ONNX Runtime's.

    Raises:
        RuntimeError: The server refused it.
        ValueError: The answer is wrong.
    """
    for number, body in enumerate(request.bodies):
        status, answer, headers = server.post(request, body)
        if status != OK:
            shown = answer[:300].decode(errors="replace")
            raise RuntimeError(
                f"{server.server.name} answers {request.name} of {request.n_rows} rows with {status}: {shown}"
            )
        found = request.read(answer, headers)
        _expect_rows(found, request)
        subject.check(found, first=number * request.n_rows)


def http_load(server: Running, request: Request, connections: int, seconds: float, folder: Path) -> Load:
    """Closed loop of wrk, one thread: every connection sends its next request when the last is answered.

    Args:
        server: The server.
        request: What is sent.
        connections: Connections open at a time.
        seconds: Length of the load; wrk takes whole seconds.
        folder: Where bodies are put for wrk.

    Raises:
        RuntimeError: A request was refused or lost: such a figure would be of no use.
    """
    files = [folder / f"body-{number:02d}" for number in range(len(request.bodies))]
    for file, body in zip(files, request.bodies, strict=True):
        file.write_bytes(body)
    headers = [text for item in server.headers(request).items() for text in item]
    url = f"http://{HOST}:{server.ports.http}{request.path}"
    flags = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "60s", "-s", str(SCRIPT), url]
    done = _run(["wrk", *flags, "--", *map(str, files), "headers", *headers])
    line = next(line for line in done.splitlines() if line.startswith("figures "))
    found = json.loads(line.removeprefix("figures "))
    if not found["requests"]:
        raise RuntimeError(f"{server.server.name} answered no {request.name} of {request.n_rows} rows in {seconds:g} s")
    if found["refused"] or found["broken"]:
        raise RuntimeError(
            f"{server.server.name}, {request.name} of {request.n_rows} rows at {connections} connections: of "
            f"{found['requests']} requests {found['refused']} were refused and {found['broken']} broke"
        )
    rate = found["requests"] / found["seconds"]
    return Load(rate, rate * request.n_rows, found["p50_ms"], found["p99_ms"])


def grpc_load(
    server: Running, request: Request, subject: Subject, connections: int, seconds: float, folder: Path
) -> Load:
    """Closed loop of gRPC connections; the first answer is checked.

    Raises:
        RuntimeError: A call failed.
        ValueError: The answer is wrong.
    """
    body, answer = folder / "message", folder / "answer"
    body.write_bytes(request.bodies[0])
    target = f"{HOST}:{server.ports.grpc}"
    command = [sys.executable, "-m", GRPC_CLIENT, target, str(body), str(answer)]
    found = json.loads(_run([*command, str(connections), str(seconds), server.server.token]))
    scores = request.read(answer.read_bytes(), {})
    _expect_rows(scores, request)
    subject.check(scores)
    rate = found["requests"] / found["seconds"]
    return Load(rate, rate * request.n_rows)


def _expect_rows(found: Scores, request: Request) -> None:
    if len(found.score) != request.n_rows or len(found.alarm) != request.n_rows:
        raise ValueError(f"{len(found.score)} rows came back where {request.n_rows} were sent")


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout).strip()[-800:]}")
    return done.stdout
