"""Memory that is free goes back to the system: a burst must not mark a daemon's size for months."""

from __future__ import annotations

import asyncio
import ctypes

TRIM_EVERY_S = 15.0
ARENAS = 2
_M_ARENA_MAX = -8


def limit_arenas() -> None:
    """Has the C library keep few heaps: one a thread, its default, fragments under mixed requests.

    Does nothing where the C library is not glibc. Call it before threads are started.
    """
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)


async def trim_forever(every_s: float = TRIM_EVERY_S) -> None:
    """Gives free memory back again and again, on a thread; ends at once where the C library cannot."""
    trim = getattr(_libc(), "malloc_trim", None)
    while trim is not None:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(trim, 0)


def _libc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows
        return None
