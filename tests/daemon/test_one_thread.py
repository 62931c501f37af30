"""Slow calls are made one after another, and hold up no end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from anomvae.daemon.one_thread import OneThread


def test_calls_are_made_in_order_on_one_thread_and_their_errors_are_handed_over() -> None:
    seen: list[tuple[int, str]] = []

    def note(number: int) -> int:
        seen.append((number, threading.current_thread().name))
        return 10 // number

    async def story() -> None:
        thread = OneThread("reload")
        assert await asyncio.gather(*(thread.run(note, number) for number in (1, 2, 5))) == [10, 5, 2]
        with pytest.raises(ZeroDivisionError):
            await thread.run(note, 0)
        assert await thread.run(note, 10) == 1
        thread.close()

    asyncio.run(story())
    assert seen == [(number, "reload") for number in (1, 2, 5, 0, 10)]


def test_a_call_that_nobody_waits_for_any_more_is_not_made() -> None:
    begun, go_on, made = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        go_on.wait(30)

    async def story() -> None:
        thread = OneThread("reload")
        first = asyncio.create_task(thread.run(hold))
        second = asyncio.create_task(thread.run(made.set))
        await asyncio.to_thread(begun.wait, 30)
        second.cancel()
        await asyncio.sleep(0)
        go_on.set()
        await first
        await thread.run(int)
        thread.close()

    asyncio.run(story())
    assert not made.is_set()


def test_a_process_ends_while_a_call_hangs() -> None:
    code = """
import asyncio, threading
from anomvae.daemon.one_thread import OneThread
begun = threading.Event()
def hang():
    begun.set()
    threading.Event().wait()
async def main():
    thread = OneThread("reload")
    hanging = asyncio.ensure_future(thread.run(hang))
    await asyncio.to_thread(begun.wait)
    thread.close()
asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
