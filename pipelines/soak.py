"""Soaks a daemon in mixed traffic while its model is swapped under it, and checks every answer it gives.

Run by `make soak`. Honest callers of every protocol ask about rows whose answers are known for both versions of a model;
others vanish, dawdle, send damaged bodies, lie or take calls back. The bundle is swapped again and again, now and then for a
damaged one. At the end the daemon is told to stop under load.
"""

from __future__ import annotations

import argparse
import secrets
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from anomvae.bundle import read_bundle
from anomvae.bundle.folder import GRAPH, MANIFEST, write_bundle
from pipelines.hostile.clients import HONEST, HOSTILE, Caller
from pipelines.hostile.daemon import WatchedDaemon
from pipelines.hostile.mutations import MARK
from pipelines.hostile.pool import Pool, Tally
from pipelines.hostile.press import NAME, fit_press, press_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.bundle import Bundle

POOL_ROWS, POOL_SEED = 400, 77
SAMPLE_EVERY_S = 5.0
LOOK_EVERY_S = 1.0
WARM_UP_S = 120.0
MOST_GROWTH = 0.05
LEAST_SPAN_S = 60.0
"""Growth is judged where at least so much time follows the warm-up."""
DAMAGED_EVERY = 3
"""Each so-many-th bundle is a damaged one."""
END_WITHIN_S = 90.0
EXPECTED_TROUBLE = ("reload refused",)
LIMITS = ("--body-timeout", "3", "--max-body-mb", "8", "--drain-delay", "1")


@dataclass(slots=True)
class Swaps:
    """Bundles put in the daemon's way.

    Attributes:
        sound: Versions swapped in, in order.
        damaged: How many damaged ones.
    """

    sound: list[str] = field(default_factory=list)
    damaged: int = 0


@dataclass(slots=True)
class Outcome:
    """What a soak found.

    Attributes:
        seconds: How long it took, without the end.
        tally: Of requests.
        swaps: Of bundles.
        reloads: Versions the daemon says it loaded.
        refused: Damaged bundles the daemon says it refused.
        growth: Growth of memory and of open files, as shares; None where the run was too short to say.
        code: Exit code of the daemon.
        faults: What should not have been, a sentence each.
        daemon: The daemon's samples and log.
    """

    seconds: float
    tally: Tally
    swaps: Swaps
    reloads: int
    refused: int
    growth: tuple[float, float] | None
    code: int
    faults: list[str]
    daemon: WatchedDaemon


class Swapper:
    """Puts one bundle after another where the daemon looks.

    Args:
        folder: Where it looks.
        bundles: Sound versions, taken in turn.
    """

    def __init__(self, folder: Path, bundles: Sequence[Bundle]) -> None:
        self._folder = folder
        self._versions = [(bundle.manifest, _files_of(bundle)) for bundle in bundles]
        self._turn = 0
        self.swaps = Swaps()
        self.next(damaged=False)

    def next(self, *, damaged: bool | None = None) -> None:
        """Swaps the next bundle in; by default every third is damaged, in turn by a wrong graph and by a changed file."""
        self._turn += 1
        damaged = self._turn % DAMAGED_EVERY == 0 if damaged is None else damaged
        manifest, files = self._versions[len(self.swaps.sound) % len(self._versions)]
        if not damaged:
            write_bundle(self._folder, manifest, files)
            self.swaps.sound.append(manifest.files[GRAPH])
            return
        self.swaps.damaged += 1
        graph = files[GRAPH]
        if self.swaps.damaged % 2:
            write_bundle(self._folder, manifest, {**files, GRAPH: graph[: len(graph) // 2]})
        else:
            (self._folder / GRAPH).write_bytes(graph[: len(graph) // 2])


def soak(scratch: Path, seconds: float, reload_every_s: float, callers: int = 1) -> Outcome:
    """Soaks a daemon.

    Args:
        scratch: An empty folder.
        seconds: How long.
        reload_every_s: Time between swaps, in seconds.
        callers: Honest ones of each kind.
    """
    bundles = [fit_press(scratch / f"version-{seed}", seed) for seed in (1, 2)]
    pool, tally = Pool(press_table(POOL_ROWS, POOL_SEED), bundles), Tally()
    token = secrets.token_urlsafe(24)
    tokens = scratch / "tokens"
    tokens.write_text(f"{token}\n")
    tokens.chmod(0o600)
    swapper = Swapper(scratch / NAME, bundles)
    arguments = [f"{NAME}={scratch / NAME}", "--tokens-file", str(tokens), "--reload-every", str(LOOK_EVERY_S), *LIMITS]
    daemon = WatchedDaemon(arguments, scratch / "daemon.log")
    kinds = [*(list(HONEST) * callers), *HOSTILE]
    asking = [Caller(kind, number, daemon, pool, tally, token) for number, kind in enumerate(kinds)]
    for caller in asking:
        caller.start()
    started = time.monotonic()
    _keep_going(daemon, swapper, started + seconds, reload_every_s)
    took_s = time.monotonic() - started
    code = _end(daemon, asking, tally)
    return _outcome(took_s, tally, swapper.swaps, code, daemon)


def _keep_going(daemon: WatchedDaemon, swapper: Swapper, until: float, reload_every_s: float) -> None:
    swap_at, sample_at = time.monotonic() + reload_every_s, 0.0
    while (now := time.monotonic()) < until:
        if now >= sample_at:
            daemon.sample()
            sample_at = now + SAMPLE_EVERY_S
        if now >= swap_at:
            swapper.next()
            swap_at = now + reload_every_s
        time.sleep(max(0.0, min(0.25, until - now)))
    daemon.sample()


def _end(daemon: WatchedDaemon, asking: Sequence[Caller], tally: Tally) -> int:
    """Tells the daemon to stop while it is asked; callers end when its door is closed."""
    for caller in asking:
        if caller.kind in HOSTILE:
            caller.stopping.set()
    tally.told.set()
    daemon.tell_to_stop()
    until = time.monotonic() + END_WITHIN_S
    for caller in asking:
        caller.join(max(0.0, until - time.monotonic()))
        if caller.is_alive():
            tally.missed(caller.kind, "never answered")
        caller.stopping.set()
    return daemon.ended()


def _outcome(seconds: float, tally: Tally, swaps: Swaps, code: int, daemon: WatchedDaemon) -> Outcome:
    events = daemon.events()
    reloads = sum(event["event"] == "model reloaded" for event in events)
    refused = len({_episode(events, at) for at, event in enumerate(events) if event["event"] == "reload refused"})
    growth = _growth(daemon, seconds)
    faults = [*tally.wrong, *tally.lost, *tally.failed]
    if code:
        faults.append(f"the daemon ended with code {code}")
    if refused < swaps.damaged - 1:  # the last may have come too late
        faults.append(f"{swaps.damaged} damaged bundles, {refused} refused")
    if reloads < len(swaps.sound) - 2:  # the first was there from the start, the last may have come too late
        faults.append(f"{len(swaps.sound)} sound bundles, {reloads} reloads")
    if growth is not None:
        faults += [
            f"{what} grew by {share:.1%}"
            for what, share in zip(("memory", "open files"), growth, strict=True)
            if share > MOST_GROWTH
        ]
    for event in events:
        if event.get("level") in ("warning", "error", None) and event["event"] not in EXPECTED_TROUBLE:
            faults.append(f"the daemon logged {event}")
    if MARK in daemon.text():
        faults.append("a cell stands in the daemon's log")
    return Outcome(seconds, tally, swaps, reloads, refused, growth, code, faults, daemon)


def _episode(events: Sequence[dict[str, str]], at: int) -> int:
    """Reloads before an event: refusals between two reloads are one bundle, looked at again and again."""
    return sum(event["event"] == "model reloaded" for event in events[:at])


def _growth(daemon: WatchedDaemon, seconds: float) -> tuple[float, float] | None:
    """Growth of memory and of open files from the end of the warm-up to the end, medians of a fifth of the time each."""
    warm_s = WARM_UP_S
    if seconds - warm_s < LEAST_SPAN_S:
        return None
    kept = [sample for sample in daemon.samples if sample.at_s >= warm_s]
    size = max(1, len(kept) // 5)
    first, last = kept[:size], kept[-size:]
    memory = statistics.median(one.rss_mb for one in last) / statistics.median(one.rss_mb for one in first) - 1
    files = statistics.median(one.files for one in last) / statistics.median(one.files for one in first) - 1
    return memory, files


def _files_of(bundle: Bundle) -> dict[str, bytes]:
    return {name: (bundle.folder / name).read_bytes() for name in bundle.manifest.files if name != MANIFEST}


def report(outcome: Outcome) -> str:
    """The outcome as a table."""
    tally, samples = outcome.tally, outcome.daemon.samples
    lines = [f"{kind:<20} {count:>10,}" for kind, count in tally.requests.items()]
    memory = f"{samples[0].rss_mb:.0f} MiB at the start, {max(sample.rss_mb for sample in samples):.0f} at most, {samples[-1].rss_mb:.0f} at the end"
    files = f"{samples[0].files} at the start, {max(sample.files for sample in samples)} at most, {samples[-1].files} at the end"
    grown = (
        "too short to say"
        if outcome.growth is None
        else f"memory {outcome.growth[0]:+.1%}, open files {outcome.growth[1]:+.1%}"
    )
    figures = {
        "seconds": f"{outcome.seconds:,.0f}",
        "requests": f"{sum(tally.requests.values()):,}",
        "rows answered": f"{tally.rows:,}",
        "reloads": f"{outcome.reloads} of {len(outcome.swaps.sound) - 1} sound bundles swapped in",
        "refused": f"{outcome.refused} of {outcome.swaps.damaged} damaged ones",
        "vanished": f"{sum(count for kind, count in tally.requests.items() if 'vanish' in kind or 'cancel' in kind):,}",
        "wrong": f"{len(tally.wrong)}",
        "lost": f"{len(tally.lost)}",
        "turned away": f"{tally.turned_away} calls by gRPC itself as its server stopped",
        "wrong status": f"{len(tally.failed)}",
        "memory": memory,
        "open files": files,
        "after warm-up": grown,
        "exit code": f"{outcome.code}",
    }
    lines += ["", *(f"{name:<20} {value}" for name, value in figures.items())]
    return "\n".join(lines)


def main() -> None:
    """Soaks, prints a table; exit code 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long")
    parser.add_argument("--reload-every-s", type=float, default=20.0, help="time between swaps of the bundle")
    parser.add_argument("--callers", type=int, default=1, help="honest callers of each kind")
    parser.add_argument("--samples", action="store_true", help="print memory, files and threads over time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anomvae-soak-") as scratch:
        print("fitting two versions", flush=True)
        outcome = soak(Path(scratch), arguments.minutes * 60, arguments.reload_every_s, arguments.callers)
        read_bundle(Path(scratch) / "version-1")
        print(report(outcome))
        if arguments.samples:
            for sample in outcome.daemon.samples:
                print(
                    f"{sample.at_s:6.0f} s {sample.rss_mb:8.1f} MiB {sample.files:5} files {sample.threads:4} threads"
                )
    for fault in outcome.faults[:30]:
        print(f"fault: {fault[:400]}")
    print(f"{len(outcome.faults)} faults")
    sys.exit(1 if outcome.faults else 0)


if __name__ == "__main__":
    main()
