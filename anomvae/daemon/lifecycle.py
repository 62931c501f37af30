"""The daemon from start to stop, in the order of time."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import platform
import signal
import ssl
from typing import TYPE_CHECKING, Any

import onnxruntime
import uvicorn

import anomvae
from anomvae.daemon.http_server import HttpServer, listen
from anomvae.daemon.loading import Loader
from anomvae.daemon.memory import limit_arenas, trim_forever
from anomvae.daemon.watching import Watcher
from anomvae.errors import AnomvaeError, SettingError
from anomvae.observability import Log, Metrics, library_records
from anomvae.scoring.batcher import Batcher
from anomvae.scoring.policy import BatchPolicy
from anomvae.scoring.providers import choose_providers
from anomvae.serving.app import make_app
from anomvae.serving.bodies import BodyLimits
from anomvae.serving.connection import ConnectionLimits, limited_connection
from anomvae.serving.fast_lane import FastLane
from anomvae.serving.models import ModelTable
from anomvae.serving.service import Service, ServiceLimits
from anomvae.serving.tokens import Tokens, read_tokens

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    import grpc

    from anomvae.daemon.settings import ServeSettings
    from anomvae.daemon.watching import Finder

MIB = 2**20
TOKENS_EVERY_S = 5.0
AT_ONCE_S = 0.0003
"""Calls of the model that take no longer, in seconds, are made on the event loop: about what it takes to wake a thread and be
woken by it on a machine of two cores, so nobody is held up longer than by the hand-over."""


def run(settings: ServeSettings, finder: Finder) -> None:
    """Serves until a signal says stop.

    Args:
        settings: How.
        finder: Looks references up.

    Raises:
        AnomvaeError: It cannot start.
    """
    limit_arenas()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C++ core would write lines of its own among the events
    daemon = Daemon(settings, finder)
    try:
        _loop_runner()(daemon.serve())
    except AnomvaeError as error:
        daemon.log.error("not started", reason=str(error))  # noqa: TRY400  the reason is enough
        daemon.log.flush()
        raise


class Daemon:
    """One daemon: everything is put together here, once.

    Args:
        settings: How to serve.
        finder: Looks references up.

    Attributes:
        port: Port of HTTP, once it serves.
        grpc_port: Port of gRPC, once it serves; -1: none.
    """

    def __init__(self, settings: ServeSettings, finder: Finder) -> None:
        self.settings = settings
        self.log = Log(format=settings.log_format)
        self.metrics = Metrics(
            {
                "version": anomvae.__version__,
                "python": platform.python_version(),
                "onnxruntime": onnxruntime.__version__,
            }
        )
        self.port = self.grpc_port = -1
        choice = choose_providers(settings.providers, strict=settings.strict_providers)
        self._watcher = Watcher(
            finder,
            Loader(choice, self.metrics, self.log, max_batch_rows=settings.max_batch_rows),
            self.metrics,
            self.log,
            accept_new_columns=settings.accept_new_columns,
        )
        self._tokens_seen = _stamp(settings.tokens_file)
        self._tls = _tls(settings.tls_cert, settings.tls_key)
        self._tokens = Tokens(read_tokens(settings.tokens_file) if settings.tokens_file else None)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    async def serve(self) -> None:
        """Loads, listens, follows references, and drains when told to stop.

        Raises:
            AnomvaeError: It cannot start.
        """
        settings = self.settings
        batcher = Batcher(
            BatchPolicy(settings.max_batch_rows, max_wait_s=settings.max_wait_ms / 1e3),
            threads=settings.threads or usable_cores(),
            observer=self.metrics,
            at_once_s=AT_ONCE_S,
        )
        names = await self._watcher.find(settings.models)
        service = self._service(names, batcher)
        listener = listen(settings.host, settings.port)
        batcher.start()
        try:
            await self._watcher.start(service.models, service.shadow)
            server = self._http_server(service, listener)
            grpc_server = await self._grpc_server(service)
            self.port = listener.getsockname()[1]
            await self._serve(service, server, grpc_server)
        finally:
            listener.close()
            service.stopping = True
            await batcher.stop()
            service.close()
            self._watcher.close()
        self.log.info("stopped")
        self.log.flush()

    def stop(self, *, hurry: bool = False) -> None:
        """Begins to stop; with `hurry`, or when told twice, without the delay in which others learn that it is not ready."""
        if hurry or self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _service(self, names: tuple[str, ...], batcher: Batcher) -> Service:
        limits = ServiceLimits(self.settings.max_inflight_rows, self.settings.request_timeout)
        models = ModelTable(names)
        service = Service(models, batcher, self.metrics, self.log, tokens=self._tokens, limits=limits)
        service.shadow.share = self.settings.shadow_share
        service.reload = lambda name: self._watcher.look(name, again=True)
        return service

    async def _serve(self, service: Service, server: HttpServer, grpc_server: grpc.aio.Server | None) -> None:
        settings = self.settings
        with self._signals(), library_records(self.log):
            serving = asyncio.create_task(server.serve())
            followers = [asyncio.create_task(self._follow_tokens()), asyncio.create_task(trim_forever())]
            if settings.reload_every:
                followers.append(asyncio.create_task(self._watcher.follow(settings.reload_every)))
            while not server.started and not serving.done():  # noqa: ASYNC110  uvicorn sets a flag
                await asyncio.sleep(0.005)
            gc.collect()
            gc.freeze()  # what is loaded stays; the collector need not walk it again and again
            self.metrics.ready(ready=True)
            self._tell_serving(service)
            stop = asyncio.create_task(self._stop.wait())
            await asyncio.wait([stop, serving], return_when=asyncio.FIRST_COMPLETED)
            await self._drain(service, server, grpc_server, serving)
            for follower in (*followers, stop):
                follower.cancel()

    async def _drain(
        self, service: Service, server: HttpServer, grpc_server: grpc.aio.Server | None, serving: asyncio.Task[None]
    ) -> None:
        """Readiness off first; then no new connections; then whatever was accepted is answered."""
        settings = self.settings
        service.draining = True
        self.metrics.ready(ready=False)
        self.log.info("draining", requests_s=settings.drain_delay, deadline_s=settings.drain_timeout)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settings.drain_delay):
                await self._hurry.wait()
        server.should_exit = True
        ends: list[asyncio.Future[None] | asyncio.Task[None]] = [serving]
        if grpc_server is not None:
            ends.append(asyncio.ensure_future(grpc_server.stop(settings.drain_timeout)))
        await asyncio.gather(*ends)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await service.batcher.drained()

    def _http_server(self, service: Service, listener: socket.socket) -> HttpServer:
        settings = self.settings
        limits = BodyLimits(int(settings.max_body_mb * MIB), settings.body_timeout)
        connections = ConnectionLimits(
            int(settings.max_header_kb * 1024), settings.header_timeout, settings.body_timeout, settings.max_connections
        )
        config = uvicorn.Config(
            make_app(service, limits, int(settings.max_buffered_mb * MIB)),
            http=limited_connection(connections, self._ended_early, FastLane(service)),
            ws="none",
            lifespan="off",
            interface="asgi3",
            proxy_headers=False,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=settings.keep_alive,  # type: ignore[arg-type]  # uvicorn takes fractions as well
            timeout_graceful_shutdown=settings.drain_timeout,  # type: ignore[arg-type]  # as above
        )
        config.load()
        config.ssl = self._tls
        return HttpServer(config, listener)

    def _ended_early(self, status: int) -> None:
        """Counts an answer that was given before a request was known."""
        self.metrics.request("", "other", str(status), 0, 0.0)
        if status == 503:  # noqa: PLR2004  the only reason there is
            self.metrics.shed("", "connections")

    async def _grpc_server(self, service: Service) -> grpc.aio.Server | None:
        settings = self.settings
        if settings.grpc_port < 0:
            return None
        import grpc

        from anomvae.serving.grpc_front import make_grpc_server

        server = make_grpc_server(
            service, max_message_bytes=int(settings.max_body_mb * MIB), message_timeout_s=settings.body_timeout
        )
        address = (
            f"[{settings.host}]:{settings.grpc_port}"
            if ":" in settings.host
            else f"{settings.host}:{settings.grpc_port}"
        )
        try:
            if settings.tls_cert and settings.tls_key:
                pair = (settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())
                self.grpc_port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
            else:
                self.grpc_port = server.add_insecure_port(address)
        except RuntimeError:
            raise SettingError(
                f"cannot listen on {address}: another program does, or the address is not here"
            ) from None
        await server.start()
        return server

    async def _follow_tokens(self) -> None:
        """Reads the tokens file again whenever it changes; a bad one leaves the tokens as they are."""
        file = self.settings.tokens_file
        if file is None:
            return
        while True:
            if (stamp := _stamp(file)) != self._tokens_seen:
                self._tokens_seen = stamp
                self._reload_tokens(file)
            await asyncio.sleep(TOKENS_EVERY_S)

    def _reload_tokens(self, file: Path) -> None:
        try:
            self._tokens.replace(read_tokens(file))
        except AnomvaeError as error:
            self.metrics.tokens_reload("failed")
            self.log.error("tokens not reloaded", reason=str(error))  # noqa: TRY400  the reason is enough
        else:
            self.metrics.tokens_reload("loaded")
            self.log.info("tokens reloaded")

    def _tell_serving(self, service: Service) -> None:
        scheme = "https" if self.settings.tls_cert else "http"
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        if not self._tokens.wanted and self.settings.host not in ("127.0.0.1", "localhost", "::1"):
            self.log.warning("open to everyone", host=self.settings.host)
        self.log.info(
            "serving",
            http=f"{scheme}://{host}:{self.port}",
            grpc=None if self.grpc_port < 0 else f"{host}:{self.grpc_port}",
            models={model.name: model.version for model in service.models.current},
            threads=service.batcher.threads,
        )

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGTERM: self.stop,
            signal.SIGINT: lambda: self.stop(hurry=True),
            signal.SIGHUP: self._look_now,
        }
        added = []
        for number, handler in handlers.items():
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not the main thread
                loop.add_signal_handler(number, handler)
                added.append(number)
        try:
            yield
        finally:
            for number in added:
                loop.remove_signal_handler(number)

    def _look_now(self) -> None:
        """SIGHUP: tokens and references are looked at now."""
        if self.settings.tokens_file is not None:
            self._reload_tokens(self.settings.tokens_file)
        self._looking = asyncio.ensure_future(self._watcher.look_at_all())


def _loop_runner() -> Callable[[Coroutine[Any, Any, None]], None]:
    """Uvloop where there is one; the standard loop serves as well, only slower."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run  # type: ignore[no-any-return]


def usable_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _tls(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if cert is None or key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key, password="")  # of an encrypted key nobody is asked the pass phrase
    except (OSError, ssl.SSLError):
        raise SettingError(
            f"{cert} and {key} are no certificate and its private key in PEM, or cannot be read"
        ) from None
    return context


def _stamp(file: Path | None) -> tuple[int, int]:
    if file is None:
        return (0, 0)
    try:
        status = file.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_ino)
