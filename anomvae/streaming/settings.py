"""What can be set of a stream: how records are answered, what windows and events go by, how much is taken at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from anomvae.errors import SettingError

HOUR_S = 3600.0
IDLE_WINDOWS = 10
MOST_REASONS = 1000
FUTURE_S = 300.0


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """How records are scored and answered.

    Attributes:
        top: Reasons an alarm.
        all_reasons: Whether every scored record gets reasons, not alarms alone.
        alarm_rate: Replaces the bundle's; the calibration rows must support it.
        threads: Threads that run the graph.
        asset: Table models: field that names the asset; None: the one the manifest knows, if any.
        time: Table models: field that holds the time; None: likewise.
        key_is_asset: Whether a record's key names its asset where the field is missing.

    Raises:
        SettingError: A number is out of range.
    """

    top: int = 3
    all_reasons: bool = False
    alarm_rate: float | None = None
    threads: int = 2
    asset: str | None = None
    time: str | None = None
    key_is_asset: bool = False

    def __post_init__(self) -> None:
        _between("top", self.top, 0, MOST_REASONS)
        _between("threads", self.threads, 1, 1024)


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """What the windows of assets go by.

    Attributes:
        idle_s: An asset is forgotten once its partition has gone on by so many seconds since its last record, by the times of
            the records; None: ten windows, or an hour if that is more.
        max_replay: A window reaches back over at most so many records of its partition, and a restart reads no more again.
        future_s: A record's time may lie so many seconds after its source's own time of it (after the clock, where the source
            keeps none) before it counts as one from the future.
        max_assets: Beyond so many in a partition, those heard of longest ago are forgotten.
        unix: Whether times that are numbers are Unix times, in seconds, or in milliseconds from 1e11 on; else they are taken as
            they are, for models whose time was such a count in training, and none comes from the future.

    Raises:
        SettingError: A number is out of range.
    """

    idle_s: float | None = None
    max_replay: int = 2_000_000
    future_s: float = FUTURE_S
    max_assets: int = 200_000
    unix: bool = True

    def __post_init__(self) -> None:
        if self.idle_s is not None:
            _between("idle", self.idle_s, 0.0, math.inf)
        _between("max-replay", self.max_replay, 1, 2**62)
        _between("future", self.future_s, 0.0, math.inf)
        _between("max-assets", self.max_assets, 1, 2**31)

    def idle_for(self, window: int, step_s: float, longest_gap: int) -> float:
        """Seconds of silence after which an asset is forgotten: never less than a gap within a window may last.

        Example:
            >>> WindowSettings().idle_for(64, 60.0, 8)
            38400.0
        """
        usual = max(IDLE_WINDOWS * window * step_s, HOUR_S)
        return max(usual if self.idle_s is None else self.idle_s, (longest_gap + 2) * step_s)


@dataclass(frozen=True, slots=True)
class EventSettings:
    """How the alarms of an asset become events.

    Attributes:
        quiet: Steps without an alarm, in one piece, that an event outlasts.
        least: Alarms an event must have before it is told.
        announce: Whether an event is also told when it opens, and not only when it has ended.
        idle_s: An event ends once its partition has gone on by so many seconds since the asset's last record.
        max_replay: An event is cut after about half as many records of its partition: a restart reads no more again.

    Raises:
        SettingError: A number is out of range.
    """

    quiet: int = 5
    least: int = 1
    announce: bool = True
    idle_s: float = HOUR_S
    max_replay: int = 2_000_000

    def __post_init__(self) -> None:
        _between("quiet", self.quiet, 0, 2**31)
        _between("least", self.least, 1, 2**31)
        _between("idle", self.idle_s, 0.0, math.inf)
        _between("max-replay", self.max_replay, 1, 2**62)


@dataclass(frozen=True, slots=True)
class PumpSettings:
    """How much is taken at a time.

    Attributes:
        records: Most records a turn.
        wait_s: Longest wait for records, seconds; a stop is heeded within it.

    Raises:
        SettingError: A number is out of range.
    """

    records: int = 4000
    wait_s: float = 0.5

    def __post_init__(self) -> None:
        _between("records", self.records, 1, 10_000_000)
        _between("wait", self.wait_s, 0.0, 60.0)


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        most = "" if math.isinf(high) else f" and at most {high:,}"
        raise SettingError(f"{name} is {value:g}; it must be at least {low:,}{most}")
