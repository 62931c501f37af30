"""A thread for slow calls, one after another, that nobody waits for at the end."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class OneThread:
    """Makes calls off the event loop, one at a time, in order.

    Unlike a thread of an executor it does not keep the process from ending while a call hangs.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=name, daemon=True)

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """What a call returns, or raises, once it was its turn."""
        if self._thread.ident is None:
            self._thread.start()
        future: Future[T] = Future()
        self._calls.put((future, lambda: call(*arguments)))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Ends the thread after the calls that wait."""
        self._calls.put(None)

    def _work(self) -> None:
        while (asked := self._calls.get()) is not None:
            future, call = asked
            if not future.set_running_or_notify_cancel():  # nobody waits for it any more
                continue
            try:
                found = call()
            except BaseException as error:  # noqa: BLE001  handed over
                future.set_exception(error)
            else:
                future.set_result(found)
                del found
            del asked, future, call  # what they hold must not live until the next call
