"""A stream from start to stop, in the order of time: found, loaded, opened, answered, drained."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import signal
import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn

import onnxruntime

import anomvae
from anomvae.daemon.memory import limit_arenas
from anomvae.daemon.stream_ends import Opener, read_addresses
from anomvae.daemon.stream_http import StatusServer
from anomvae.daemon.stream_models import Follower, LaneMaker, announce, load_stream_model
from anomvae.daemon.stream_settings import usable_threads
from anomvae.errors import AnomvaeError, StreamError
from anomvae.observability import Log, library_records
from anomvae.observability.stream_metrics import StreamMetrics
from anomvae.streaming.pump import Pump
from anomvae.streaming.series_lane import SeriesLane
from anomvae.streaming.settings import PumpSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from anomvae.daemon.loading import Found
    from anomvae.daemon.stream_ends import Ends
    from anomvae.daemon.stream_settings import StreamSettings
    from anomvae.streaming.contracts import Delivery, Origin, Place, Progress, Source
    from anomvae.streaming.pump import Turn

LAG_EVERY_S = 2.0
STUCK_S = 600.0
"""A turn that takes longer than this, with source and sinks connected, does not come to an end by itself."""
NO_READER = "nobody reads standard output any more, where messages go; start the stream again together with its reader"
LIBRARIES = ("confluent_kafka", "paho", "asyncio")


def run_stream(settings: StreamSettings, find: Callable[[str], Found], environment: Mapping[str, str]) -> None:
    """Answers a stream until it ends or a signal says stop.

    Args:
        settings: How.
        find: Looks references up.
        environment: Variables that hold credentials.

    Raises:
        AnomvaeError: It cannot start, or cannot go on; among the reasons is that nobody reads standard output any more.
    """
    limit_arenas()
    log = Log(format=settings.log_format)
    stream = Stream(settings, find, environment, log)
    try:
        stream.run()
    except AnomvaeError as error:
        stream.tell_failure(str(error))
        raise
    except BrokenPipeError as error:
        stream.tell_failure(NO_READER)
        raise StreamError(NO_READER) from error
    finally:
        log.flush()


class Stream:
    """One stream: everything is put together here, once.

    Args:
        settings: How.
        find: Looks references up.
        environment: Variables that hold credentials.
        log: Told what happens.

    Attributes:
        metrics: Its numbers.
        begun: Whether it has started to answer.
        port: Port of metrics and health, once it has begun; -1: none.
    """

    def __init__(
        self, settings: StreamSettings, find: Callable[[str], Found], environment: Mapping[str, str], log: Log
    ) -> None:
        self.metrics = StreamMetrics(
            {
                "version": anomvae.__version__,
                "python": platform.python_version(),
                "onnxruntime": onnxruntime.__version__,
            }
        )
        self.begun, self.port = False, -1
        self._settings, self._find, self._environment, self._log = settings, find, environment, log
        self._stopping = False
        self._pump: Pump | None = None
        self._listener: _Listener | None = None
        self._leaving = _Leaving(settings.drain_timeout, log)

    def run(self) -> None:
        """Runs to the end.

        Raises:
            AnomvaeError: It cannot start, or cannot go on.
        """
        settings = self._settings
        where = read_addresses(settings)
        threads = usable_threads(settings.threads)
        maker = LaneMaker(settings, threads)
        found = self._find(settings.model)
        if found.note:
            self._log.warning("note", model=found.name, note=found.note)
        lane = maker.make(load_stream_model(found))
        with library_records(self._log, LIBRARIES), self._signals(), contextlib.ExitStack() as stack:
            stack.callback(self._leaving.end)
            self._leaving.start()
            self._tell_health(stack)
            opener = Opener(settings, self._environment, found.name, self._log, lambda: self._stopping)
            ends = opener.open(where)
            stack.callback(self._close, ends)
            self._listener = listener = _Listener(
                self.metrics, self._log, is_transactional=ends.transaction is not None
            )
            source = _Watched(ends.source, self.metrics)
            self._pump = Pump(source, lane, ends.sinks, PumpSettings(settings.batch), listener)
            announce(self.metrics, found, settings.model, settings.alarm_rate)
            if settings.follow_model:
                follower = Follower(self._find, settings, found, maker, self._pump.swap, self.metrics, self._log)
                stack.callback(follower.stop)
                follower.start(settings.follow_model)
            _settle_memory()
            self.begun = True
            self._log.info(
                "streaming",
                model=found.name,
                version=found.version,
                kind=found.bundle.manifest.kind,
                source=str(where.source),
                sinks={end: str(address) for end, address in where.sinks.items()},
                exactly_once=settings.exactly_once,
                status=None if self.port < 0 else f"http://{settings.host}:{self.port}",
                threads=threads,
            )
            if self._stopping:
                self._pump.stop()
            self._pump.run()
        self._log.info("stream stopped" if self._stopping else "stream ended", **listener.told())

    def tell_failure(self, reason: str) -> None:
        """Says in the log why the stream could not start or go on, and what it had come to."""
        told = {} if self._listener is None or not self.begun else self._listener.told()
        self._log.error("stream failed" if self.begun else "stream not started", reason=reason, **told)

    def stop(self, why: str | None = None) -> None:
        """Begins to stop: what is at hand is answered, delivered and committed. Any thread or signal handler may call.

        Args:
            why: Name of the signal that asked for it.
        """
        self._stopping = True
        if self._pump is not None:
            self._pump.stop()
        self._leaving.begin(why)

    def _close(self, ends: Ends) -> None:
        """Leaves source and sinks, in bounded time: a broker that is away must not keep a process that has to go."""
        self._leaving.begin()
        ends.close()

    def _tell_health(self, stack: contextlib.ExitStack) -> None:
        """Opens the port before anything else: while a broker is away at the start, it says so."""
        settings = self._settings

        def healthy() -> bool:
            return self._pump is not None and self._pump.healthy

        def partitions() -> int:
            return 0 if self._pump is None else self._pump.partitions

        def assets() -> int:
            lane = None if self._pump is None else self._pump.lane
            return lane.n_assets if isinstance(lane, SeriesLane) else 0

        def live() -> bool:
            pump = self._pump
            return pump is None or not pump.healthy or time.monotonic() - pump.beat_s < STUCK_S

        self.metrics.follow(healthy, partitions, assets)
        if settings.metrics_port is not None:
            server = StatusServer(
                settings.host,
                settings.metrics_port,
                self.metrics,
                live,
                lambda: self.begun and not self._stopping and healthy(),
            )
            stack.callback(server.close)
            self.port = server.port

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first SIGTERM or SIGINT drains; the second ends the process at once.

        A handler interrupts the main thread anywhere, and so takes no lock that this thread may hold, not even the log's.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def heed(number: int, _: Any) -> None:
            if self._stopping:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
                return
            self.stop(signal.Signals(number).name)

        before = {number: signal.signal(number, heed) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Leaving:
    """Bounds the time that a stream takes to leave, and tells which signal asked for it.

    It does so on a thread of its own, which it is told through a queue that takes no lock: a signal handler may put there what
    it must not log.

    Args:
        limit_s: The longest time.
        log: Told.
    """

    def __init__(self, limit_s: float, log: Log) -> None:
        self._limit_s, self._log = limit_s, log
        self._told: SimpleQueue[str | _End | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._watch, name="leaving", daemon=True)

    def start(self) -> None:
        """Begins to listen; what was put before counts."""
        self._thread.start()

    def begin(self, why: str | None = None) -> None:
        """The time begins, unless it has."""
        self._told.put(why)

    def end(self) -> None:
        """The stream has left; all is told."""
        self._told.put(_End())
        self._thread.join()

    def _watch(self) -> None:
        told = self._told.get()
        until_s = time.monotonic() + self._limit_s
        while not isinstance(told, _End):
            if told is not None:
                self._log.info("draining", signal=told, deadline_s=self._limit_s)
            try:
                told = self._told.get(timeout=max(0.0, until_s - time.monotonic()))
            except Empty:
                self._give_up()

    def _give_up(self) -> NoReturn:
        """The end of the time: what is not committed comes again at the next start."""
        self._log.error("drain timed out", deadline_s=self._limit_s)
        self._log.flush()
        os._exit(1)


class _End:
    """There is nothing more to wait for."""


class _Watched:
    """A source that tells how far it is; see :class:`~anomvae.streaming.contracts.Source`.

    Its lag may be asked for on the pump's thread alone, so it is told from there, every few seconds.

    Args:
        source: The source.
        metrics: Told.
    """

    def __init__(self, source: Source, metrics: StreamMetrics) -> None:
        self._source, self._metrics = source, metrics
        self._told_s = 0.0

    def poll(self, most: int, wait_s: float) -> Delivery:
        """Polls, and tells the lag now and then."""
        delivery = self._source.poll(most, wait_s)
        now = time.monotonic()
        if now - self._told_s >= LAG_EVERY_S:
            self._told_s = now
            lag = {place.partition: records for place, records in self._source.lag().items()}
            self._metrics.lag(lag)
            if not delivery.records and not any(lag.values()) and self._source.healthy:
                self._metrics.progressed()
        return delivery

    def commit(self, progress: Mapping[Place, Progress]) -> None:
        """Commits, and tells when."""
        self._source.commit(progress)
        self._metrics.progressed()

    def lag(self) -> Mapping[Place, int]:
        """Of the source."""
        return self._source.lag()

    @property
    def healthy(self) -> bool:
        """Whether the source is."""
        return self._source.healthy

    def close(self) -> None:
        """Closes the source."""
        self._source.close()


class _Listener:
    """Turns what the pump does into numbers and events; see :class:`~anomvae.streaming.pump.Listener`."""

    def __init__(self, metrics: StreamMetrics, log: Log, *, is_transactional: bool) -> None:
        self._metrics, self._log, self._is_transactional = metrics, log, is_transactional
        self._aborted = False
        self._records = self._alarms = self._dead = 0

    def told(self) -> dict[str, int]:
        """What the stream has come to."""
        return {"records": self._records, "alarms": self._alarms, "dead": self._dead}

    def turn(self, turn: Turn) -> None:
        """A batch was answered."""
        answered, metrics = turn.answered, self._metrics
        counts = answered.counts
        metrics.rebuilt(counts.replayed, counts.cut, counts.evicted)
        metrics.batch(turn.answer_s, turn.send_s)
        aborted, self._aborted = self._aborted, False
        if aborted:  # its records come again
            return
        dead = sum(counts.dead.values())
        metrics.records({"scored": counts.scored, "dead": dead, **counts.unscored}, alarms=counts.alarms)
        metrics.dead_letters(counts.dead)
        metrics.events(counts.events)
        metrics.values(answered.latency_s, answered.p_values)
        if self._is_transactional and counts.records:
            metrics.transaction("committed")
            metrics.progressed()
        self._records += counts.records
        self._alarms += counts.alarms
        self._dead += dead

    def skipped(self, origin: Origin, reason: str) -> None:
        """A record cannot be answered, and nothing takes dead letters."""
        self._log.warning(
            "record skipped", topic=origin.topic, partition=origin.partition, offset=origin.offset, reason=reason
        )

    def partitions(self, assigned: Collection[Place], revoked: Collection[Place]) -> None:
        """Partitions came or went."""
        self._metrics.rebalanced()
        self._log.info(
            "partitions changed",
            assigned=[place.partition for place in assigned],
            revoked=[place.partition for place in revoked],
        )

    def aborted(self, records: int) -> None:
        """A transaction came to nothing."""
        self._aborted = True
        self._metrics.transaction("aborted")
        self._log.warning("batch aborted", records=records)


def _settle_memory() -> None:
    """What is loaded stays: the collector need not walk it; and of records it would find no rings, however often it looked."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
