"""The model that answers a stream: loaded, tried, and followed while the stream goes on."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from anomvae.bundle.series import ROWS_GRAPH
from anomvae.daemon.loading import graph_of, same_inputs
from anomvae.data.encoding import NUMBER_TYPE
from anomvae.data.windows import EncodedWindows
from anomvae.errors import AnomvaeError, BundleError, ModelReferenceError, ScoringError, SettingError
from anomvae.scoring import GraphSession
from anomvae.scoring.rates import require_supported
from anomvae.scoring.selftest import probe_rows, self_test, settle_chunk
from anomvae.scoring.series_rows import row_member
from anomvae.streaming.addresses import parse_address
from anomvae.streaming.codec import make_codec
from anomvae.streaming.graph_runner import StreamModel
from anomvae.streaming.series_lane import SeriesLane
from anomvae.streaming.settings import HOUR_S, AnswerSettings, EventSettings, WindowSettings
from anomvae.streaming.table_lane import TableLane

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomvae.bundle import Manifest
    from anomvae.daemon.loading import Found
    from anomvae.daemon.stream_settings import StreamSettings
    from anomvae.observability import Log
    from anomvae.observability.stream_metrics import StreamMetrics
    from anomvae.scoring.series_rows import RowMember
    from anomvae.streaming.codec import Codec

    Find = Callable[[str], Found]
    Lanes = SeriesLane | TableLane

PROBES = 16


def load_stream_model(found: Found) -> StreamModel:
    """Opens a session on a bundle's graph and tries it.

    Raises:
        BundleError: The graph cannot be loaded, or does not answer as it should.
        ModelReferenceError: The folder was replaced since it was found.
        ScoringError: Running it failed, perhaps for a reason that passes.
    """
    manifest = found.bundle.manifest
    session = GraphSession(graph_of(found.bundle), manifest.width)
    if manifest.series is None:
        self_test(session, manifest)
        settle_chunk(session, manifest)
    else:
        rows_graph = graph_of(found.bundle, ROWS_GRAPH) if ROWS_GRAPH in manifest.files else b""
        member = row_member(manifest, session, rows_graph)
        _try_windows(session, manifest, manifest.series.window, member)
        return StreamModel(manifest, session, found.version, member)
    return StreamModel(manifest, session, found.version)


def _try_windows(session: GraphSession, manifest: Manifest, window: int, member: RowMember | None) -> None:
    """Has windows of made-up rows scored together and alone."""
    rows = probe_rows(manifest, PROBES * window).numeric.reshape(PROBES, window, len(manifest.numeric))
    windows = EncodedWindows(rows, np.zeros(PROBES, dtype=np.int64))
    wanted = ("score", "p_value", "alarm")
    if not set(wanted) <= set(session.outputs):
        raise BundleError(f"{manifest.name!r} has a graph without scores, p-values or alarms; fit or pull it again")
    try:
        if member is not None:
            terms = member.terms(
                rows.reshape(PROBES * window, -1), np.zeros(PROBES * window, dtype=np.int64), spare=False
            )
            windows = replace(windows, row_terms=terms.reshape(PROBES, window, -1)[:, :-1])
        together, alone = (session.run(part, wanted) for part in (windows, windows.take(slice(0, 1))))
    except Exception as error:  # noqa: BLE001  ONNX Runtime raises classes of its own
        raise ScoringError(f"{manifest.name!r} fails on probe windows ({type(error).__name__}); fit it again") from None
    score, p_value = (np.asarray(together[name], dtype=np.float64) for name in ("score", "p_value"))
    if not np.isfinite(score).all() or not ((p_value > 0) & (p_value <= 1)).all():
        raise BundleError(f"{manifest.name!r} gives scores or p-values on probe windows that are none; fit it again")
    if together["score"][0] != alone["score"][0]:
        raise BundleError(f"{manifest.name!r} scores a window otherwise when others come with it; fit it again")


class LaneMaker:
    """Makes the lane that answers with a model, as the settings say.

    Args:
        settings: Of the stream.
        threads: That run the graph.

    Raises:
        SettingError: The format or its schema cannot be used.
    """

    def __init__(self, settings: StreamSettings, threads: int) -> None:
        self._settings = settings
        self._codec: Codec = make_codec(settings.codec, settings.schema)
        options = parse_address(settings.source).options if settings.source else {}
        keyed = settings.asset_level is not None or "asset_level" in options
        self._answers = AnswerSettings(
            settings.top, settings.all_reasons, settings.alarm_rate, threads, settings.asset, settings.time, keyed
        )

    def make(self, model: StreamModel) -> Lanes:
        """The lane.

        Raises:
            SettingError: An option does not go with such a model.
            TooFewRowsError: The calibration rows do not support the alarm rate.
        """
        facts, settings = model.manifest.series, self._settings
        require_supported(model.manifest, settings.alarm_rate)
        if facts is None:
            return TableLane(model, self._codec, self._answers, self._events(None), future_s=settings.future)
        for name, has in (("asset", facts.asset), ("time", facts.time)):
            if getattr(settings, name) is not None:
                told = f"its own: {has!r}" if has else "none"
                raise SettingError(
                    f"--{name} is for models of tables; {model.manifest.name!r} scores series and has {told}"
                )
        windows = replace(
            series_windows(model.manifest),
            idle_s=settings.idle,
            max_replay=settings.max_replay,
            future_s=settings.future,
            max_assets=settings.max_assets,
        )
        idle_s = windows.idle_for(facts.window, facts.step_s, facts.longest_gap)
        return SeriesLane(model, self._codec, self._answers, windows, self._events(idle_s))

    def _events(self, idle_s: float | None) -> EventSettings | None:
        settings = self._settings
        if not settings.events:
            return None
        silence_s = idle_s if idle_s is not None else HOUR_S if settings.idle is None else settings.idle
        return EventSettings(settings.quiet, settings.least, settings.announce, silence_s, settings.max_replay)


def counts_unix_time(manifest: Manifest) -> bool:
    """Whether times of records that are numbers are Unix times: unless training had numbers, which are taken as they are."""
    return manifest.series is None or NUMBER_TYPE.fullmatch(manifest.series.time_type) is None


def series_windows(manifest: Manifest) -> WindowSettings:
    """What windows go by where nothing is said, for a model."""
    return WindowSettings(unix=counts_unix_time(manifest))


class Follower:
    """Looks at a reference again and again, on a thread of its own, and has new versions answer.

    A version that cannot be loaded, wants other columns or does not support the alarm rate is refused, once: the version
    before goes on.

    Args:
        find: Looks a reference up.
        settings: That name it.
        found: What it named at the start.
        maker: Makes the lane of a version.
        swap: Has a lane answer from the next batch on.
        metrics: Told of outcomes.
        log: Told of them too.
    """

    def __init__(  # noqa: PLR0913, PLR0917  what a version needs to go into service
        self,
        find: Find,
        settings: StreamSettings,
        found: Found,
        maker: LaneMaker,
        swap: Callable[[Lanes], None],
        metrics: StreamMetrics,
        log: Log,
    ) -> None:
        self._find, self._settings, self._found = find, settings, found
        self._maker, self._swap, self._metrics, self._log = maker, swap, metrics, log
        self._refused: str | None = None
        self._trouble: str | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, every_s: float) -> None:
        """Begins to follow."""
        self._thread = threading.Thread(target=self._follow, args=(every_s,), name="reload", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends it; a look that hangs is not waited for."""
        self._stop.set()

    def look(self) -> None:
        """Looks once."""
        try:
            found = self._find(self._settings.model)
        except AnomvaeError as error:
            self._tell_trouble(error)
            return
        self._trouble = None
        if (found.digest, found.version) == (self._found.digest, self._found.version):
            self._refused = None
            self._metrics.reload_settled()  # what could not even be read was refused, too
            return
        if found.digest != self._refused:
            self._change(found)

    def _follow(self, every_s: float) -> None:
        while not self._stop.wait(every_s):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001  following must go on
                self._metrics.reload("failed")
                self._log.error("reload failed", model=self._found.name, error=error)

    def _tell_trouble(self, error: AnomvaeError) -> None:
        """Tells why a reference led nowhere; once, as long as it stays the same."""
        if self._trouble == str(error):
            return
        self._trouble = str(error)
        told = {"model": self._found.name, "in_service": self._found.version, "reason": self._trouble}
        if isinstance(error, BundleError):  # it is there, and it is bad
            self._metrics.reload("refused")
            self._log.error("reload refused", **told)
        else:
            self._metrics.reload("failed")
            self._log.warning("reference not found", **told)

    def _change(self, found: Found) -> None:
        before, name = self._found, self._found.name
        try:
            self._check(found)
            lane = self._maker.make(load_stream_model(found))
        except (ModelReferenceError, ScoringError) as error:  # it may pass: the next look tries again
            self._metrics.reload("failed")
            self._log.error(
                "reload failed", model=name, version=found.version, in_service=before.version, reason=str(error)
            )
            return
        except AnomvaeError as error:
            self._refused = found.digest
            self._metrics.reload("refused")
            self._log.error(
                "reload refused", model=name, version=found.version, in_service=before.version, reason=str(error)
            )
            return
        self._found, self._refused = found, None
        self._swap(lane)
        self._metrics.reload("loaded")
        self._log.info("model reloaded", model=name, version=found.version, before=before.version)
        announce(self._metrics, found, self._settings.model, self._settings.alarm_rate)

    def _check(self, found: Found) -> None:
        old, new = self._found.bundle.manifest, found.bundle.manifest
        if (old.series is None) != (new.series is None):
            kinds = ("tables", "series")
            raise BundleError(
                f"version {found.version} scores {kinds[new.series is not None]}, and version {self._found.version} "
                f"{kinds[old.series is not None]}; start the stream anew to use it"
            )
        if not same_inputs(old, new):
            raise BundleError(
                f"version {found.version} wants other columns than version {self._found.version}, which the records have; "
                "start the stream anew to use it"
            )


def announce(metrics: StreamMetrics, found: Found, ref: str, alarm_rate: float | None) -> None:
    """States the version that answers."""
    manifest = found.bundle.manifest
    metrics.model_loaded(
        found.name,
        version=found.version,
        kind=manifest.kind,
        digest=found.digest[:12],
        reference=ref,
        alarm_rate=manifest.calibration.alarm_rate if alarm_rate is None else alarm_rate,
    )
