"""What the tests of serving share: a service around a graph that obeys, and HTTP byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from anomvae.data.encoding import EncodedRows
from anomvae.observability import Log, Metrics
from anomvae.scoring.batcher import Batcher
from anomvae.scoring.policy import BatchPolicy
from anomvae.serving.exchange import Decoded
from anomvae.serving.model import ServedModel
from anomvae.serving.models import ModelTable
from anomvae.serving.service import Call, Service, ServiceLimits
from anomvae.serving.tokens import Tokens
from tests.calibrated import recalibrated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from anomvae.bundle import Bundle
    from tests.conftest import Serving

NAME = "press one"
LIMITS = ("--body-timeout", "0.6", "--header-timeout", "0.6", "--max-body-mb", "1", "--max-buffered-mb", "1.1")
SECRET = "a-cell-nobody-may-see"  # noqa: S105  no password


@pytest.fixture(scope="session")
def grouped(fitted: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A detector whose verdict rests on both scores, with sites that have calibrations of their own, and a tail."""
    folder = tmp_path_factory.mktemp("grouped") / "press"
    return recalibrated(fitted, folder, by="site", decision="both", tail=True)


class Session:
    """A graph that waits and fails when told to; it gives each row its own number back as a score."""

    input_specs = output_specs = ()
    chunk_rows = 64

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()
        self.error: Exception | None = None
        self.ran = 0

    def run(self, rows: EncodedRows, outputs: Any, alarm_rate: float | None = None) -> dict[str, Any]:
        del alarm_rate
        self.entered.set()
        assert self.go.wait(20)
        if self.error is not None:
            raise self.error
        self.ran += len(rows)
        return {name: rows.numeric[:, 0].copy() for name in outputs}


class Scene:
    """A service around that graph."""

    def __init__(self, bundle: Bundle, **limits: Any) -> None:
        self.session, self.metrics, self.told = Session(), Metrics(), StringIO()
        self.model = ServedModel("press", "1", bundle, self.session)  # type: ignore[arg-type]
        self.batcher = Batcher(BatchPolicy(64, max_wait_s=0.0), threads=1, observer=self.metrics)
        models = ModelTable(["press"])
        models.put(self.model)
        facts = {"version": "1", "kind": "vae", "digest": "0", "reference": "press"}
        self.metrics.model_loaded("press", alarm_rate=0.1, at=0.0, **facts)
        self.service = Service(
            models, self.batcher, self.metrics, Log(self.told), tokens=Tokens(), limits=ServiceLimits(**limits)
        )
        self.n_numeric = len(bundle.manifest.numeric)
        self.n_categorical = len(bundle.manifest.categorical)
        self.threads: list[str] = []

    def decoder(
        self,
        n: int = 1,
        encode_error: Exception | None = None,
        in_body_s: float | None = None,
        outputs: tuple[str, ...] = ("score",),
    ) -> Callable[[], Decoded]:
        """Reads a request of n rows."""

        def encode(arrays: Any) -> Any:
            self.threads.append(threading.current_thread().name)
            if encode_error is not None:
                raise encode_error
            return arrays["score"].tolist()

        def decode() -> Decoded:
            self.threads.append(threading.current_thread().name)
            numeric = np.repeat(np.arange(n, dtype=np.float32)[:, None], self.n_numeric, axis=1)
            rows = EncodedRows(numeric, np.zeros((n, self.n_categorical), dtype=np.int64))
            return Decoded(rows, outputs, encode, "v1-json", timeout_s=in_body_s)

        return decode

    async def ask(self, n: int = 1, *, size_bytes: int = 10, **more: Any) -> Any:
        told = {key: more.pop(key) for key in ("timeout_s", "on_linger") if key in more}
        return await self.service.answer(
            self.model, self.decoder(n, **more), protocol="v1-json", size_bytes=size_bytes, **told
        )

    def ask_soon(self, n: int = 1, **more: Any) -> tuple[asyncio.Future[Any], Any]:
        """The way without a task; the answer as a future, and what fails it."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(reply: Any, error: BaseException | None) -> None:
            if error is None:
                future.set_result(reply)
            else:
                future.set_exception(error)

        call = Call("v1-json", more.pop("timeout_s", None))
        return future, self.service.answer_soon(self.model, self.decoder(n, **more), done, call)

    async def until_running(self) -> None:
        assert await asyncio.to_thread(self.session.entered.wait, 20)

    def value(self, name: str, **labels: str) -> float:
        found = self.metrics.registry.get_sample_value(name, labels)
        return found or 0.0

    def requests(self, code: str) -> float:
        return self.value("anomvae_requests_total", model="press", protocol="v1-json", code=code)

    def at_rest(self) -> bool:
        gauges = ("anomvae_inflight_rows", "anomvae_requests_inflight")
        return self.service.rows.used == 0 and all(self.value(name) == 0 for name in gauges)


@pytest.fixture
def play(fitted: Bundle) -> Callable[..., Scene]:
    """Plays a story on a service, and sees to it that nothing is held at its end."""

    def play(story: Callable[[Scene], Awaitable[None]], **limits: Any) -> Scene:
        async def played() -> Scene:
            scene = Scene(fitted, **limits)
            scene.batcher.start()
            try:
                await story(scene)
                scene.session.go.set()
                await scene.batcher.drained()
                await asyncio.sleep(0)
            finally:
                scene.session.go.set()
                await scene.batcher.stop()
                scene.service.close()
            assert scene.at_rest()
            assert SECRET not in scene.told.getvalue()
            return scene

        return asyncio.run(played())

    return play


class Wire:
    """A connection, byte by byte."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._reader = self._socket.makefile("rb")

    def send(self, data: bytes) -> Wire:
        self._socket.sendall(data)
        return self

    def answer(self, *, body: bool = True) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        line = self._reader.readline()
        assert line, "the connection was closed without an answer"
        headers = {}
        while header := self._reader.readline().strip():
            name, _, value = header.decode().partition(":")
            headers[name.lower()] = value.strip()
        size = int(headers.get("content-length", 0)) if body else 0
        return int(line.split()[1]), headers, self._reader.read(size)

    def closed(self) -> bool:
        """Whether the daemon has ended the connection; waits for it."""
        try:
            return self._reader.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._reader.close()
        self._socket.close()


@pytest.fixture(scope="module")
def wired(fitted: Bundle, request: pytest.FixtureRequest) -> Iterator[Serving]:
    kind = type(request.getfixturevalue("served"))
    started = kind((f"{NAME}={fitted.folder}", *LIMITS, "--max-connections", "40"), {})
    yield started
    started.stop()


@pytest.fixture
def wire(wired: Serving) -> Iterator[Any]:
    """Opens connections that end with the test."""
    with contextlib.ExitStack() as stack:

        def connect(daemon: Serving = wired) -> Wire:
            made = Wire(int(daemon.url.rpartition(":")[2]))
            stack.callback(made.close)
            return made

        yield connect


def _port(daemon: Serving) -> int:
    return int(daemon.url.rpartition(":")[2])
