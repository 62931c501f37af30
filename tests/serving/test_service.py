"""Whatever becomes of a request, it is counted once, told once, and what it held is given back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from anomvae.errors import (
    DeadlineError,
    OverloadedError,
    RequestError,
    RequestTooLargeError,
    ScoringError,
    StoppingError,
    UnknownModelError,
)
from anomvae.serving.model import ServedModel
from anomvae.serving.service import Call, CallerGoneError

if TYPE_CHECKING:
    from anomvae.serving.exchange import Decoded
    from tests.serving.conftest import Scene

SECRET = "a-cell-nobody-may-see"  # noqa: S105  no password
LARGE = 10**6


def test_a_request_is_answered_and_counted(play: Any) -> None:
    async def story(scene: Scene) -> None:
        assert await scene.ask(3) == [0, 1, 2]
        future, _ = scene.ask_soon(2)
        assert await future == [0, 1]
        assert scene.requests("200") == 2
        assert scene.value("anomvae_rows_total", model="press", protocol="v1-json", code="200") == 5
        for stage in ("decode", "queue", "run", "encode"):
            assert scene.value("anomvae_stage_seconds_count", model="press", stage=stage) == 2
        assert scene.value("anomvae_request_seconds_count", model="press", protocol="v1-json") == 2

    play(story)


def test_small_bodies_are_read_where_they_are_and_large_ones_on_a_thread(play: Any) -> None:
    async def story(scene: Scene) -> None:
        here = threading.current_thread().name
        await scene.ask(1)
        assert scene.threads == [here, here]
        scene.threads.clear()
        await scene.ask(1, size_bytes=LARGE)
        assert scene.threads[0].startswith("codec")
        scene.threads.clear()
        await scene.ask(20_000)  # many answers from a small body
        assert scene.threads[0] == here
        assert scene.threads[1].startswith("codec")

    play(story)


def test_over_the_permit_callers_are_told_at_once_and_before_anything_is_read(play: Any) -> None:
    async def story(scene: Scene) -> None:
        scene.session.go.clear()
        first = asyncio.create_task(scene.ask(10))
        await scene.until_running()
        scene.threads.clear()
        with pytest.raises(OverloadedError, match="too many rows") as refused:
            await scene.ask(1)
        assert refused.value.retry_after_s >= 1
        future, _ = scene.ask_soon(1)
        assert isinstance(future.exception(), OverloadedError)
        assert scene.threads == []
        assert scene.value("anomvae_shed_requests_total", model="press", reason="rows") == scene.requests("429") == 2
        scene.session.go.set()
        assert len(await first) == 10
        assert len(await scene.ask(10)) == 10

    play(story, max_inflight_rows=10)


def test_what_does_not_fit_beside_others_is_refused_and_what_never_fits_is_too_large(play: Any) -> None:
    async def story(scene: Scene) -> None:
        scene.session.go.clear()
        first = asyncio.create_task(scene.ask(6))
        await scene.until_running()
        with pytest.raises(OverloadedError):
            await scene.ask(5)
        assert scene.service.rows.used == 6
        second = asyncio.create_task(scene.ask(4))
        with pytest.raises(RequestTooLargeError, match="cut it up"):
            await scene.ask(11)
        scene.session.go.set()
        assert [len(answer) for answer in await asyncio.gather(first, second)] == [6, 4]

    play(story, max_inflight_rows=10)


@pytest.mark.parametrize("soon", [False, True])
@pytest.mark.parametrize(
    ("error", "code", "logged"),
    [(RequestError("it is wrong"), "400", False), (ValueError(SECRET), "500", True), (ScoringError("no"), "500", True)],
)
def test_an_answer_that_cannot_be_written_is_told_by_the_table(
    play: Any, soon: bool, error: Exception, code: str, logged: bool
) -> None:
    async def story(scene: Scene) -> None:
        with pytest.raises(type(error)):
            await (scene.ask_soon(2, encode_error=error)[0] if soon else scene.ask(2, encode_error=error))
        assert scene.requests(code) == 1
        assert scene.requests("200") == 0
        assert ("request failed" in scene.told.getvalue()) == logged

    scene = play(story)
    if code == "500":
        (event,) = [json.loads(line) for line in scene.told.getvalue().splitlines()]
        assert type(error).__name__ in json.dumps(event["error"])


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(("error", "code"), [(RequestError("it is wrong"), "400"), (KeyError(SECRET), "500")])
def test_a_request_that_cannot_be_read_is_told_by_the_table(
    play: Any, large: bool, error: Exception, code: str
) -> None:
    def decode() -> Decoded:
        raise error

    async def story(scene: Scene) -> None:
        with pytest.raises(type(error)):
            await scene.service.answer(
                scene.model, decode, protocol="v1-json", size_bytes=LARGE if large else 1, timeout_s=None
            )
        assert scene.requests(code) == 1
        outcomes: list[Any] = []
        scene.service.answer_soon(scene.model, decode, lambda *told: outcomes.append(told), Call("v1-json"))
        assert outcomes == [(None, error)]

    play(story)


@pytest.mark.parametrize("soon", [False, True])
def test_a_graph_that_fails_is_told_without_its_words(play: Any, soon: bool) -> None:
    async def story(scene: Scene) -> None:
        scene.session.error = RuntimeError(SECRET)
        with pytest.raises(ScoringError, match="RuntimeError") as failed:
            await (scene.ask_soon(2)[0] if soon else scene.ask(2))
        assert SECRET not in str(failed.value)
        assert scene.requests("500") == 1
        assert scene.value("anomvae_failed_batches_total", model="press") == 1

    play(story)


@pytest.mark.parametrize("soon", [False, True])
@pytest.mark.parametrize("stated", ["call", "body", "service"])
def test_the_shortest_patience_counts(play: Any, soon: bool, stated: str) -> None:
    patience = 0.05

    async def story(scene: Scene) -> None:
        scene.session.go.clear()
        own: dict[str, Any] = {"timeout_s": patience if stated == "call" else 10.0}
        in_body: dict[str, Any] = {"in_body_s": patience} if stated == "body" else {}
        with pytest.raises(DeadlineError):
            await (scene.ask_soon(1, **own, **in_body)[0] if soon else scene.ask(1, **own, **in_body))
        assert scene.requests("504") == scene.value("anomvae_expired_requests_total", model="press") == 1

    play(story, timeout_s=patience if stated == "service" else 10.0)


def test_a_request_that_took_too_long_to_read_is_not_run(play: Any) -> None:
    async def story(scene: Scene) -> None:
        with pytest.raises(DeadlineError):
            await scene.ask(1, timeout_s=0.0)
        assert scene.session.ran == 0
        assert scene.requests("504") == 1

    play(story)


def test_a_caller_that_departs_is_counted_and_what_was_not_run_never_is(play: Any) -> None:
    async def story(scene: Scene) -> None:
        scene.session.go.clear()
        first = asyncio.create_task(scene.ask(1))
        await scene.until_running()
        watched: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        second = asyncio.create_task(scene.ask(500, on_linger=watched.set_result))
        (await watched).set_exception(CallerGoneError())
        with pytest.raises(CallerGoneError):
            await second
        future, promise = scene.ask_soon(500)
        promise.set_exception(CallerGoneError())
        with pytest.raises(CallerGoneError):
            await future
        scene.session.go.set()
        await first
        await scene.batcher.drained()
        assert scene.session.ran == 1
        assert scene.value("anomvae_cancelled_requests_total", model="press", reason="departed") == 2
        assert scene.requests("499") == 2
        assert scene.requests("200") == 1

    play(story)


@pytest.mark.parametrize("size_bytes", [1, LARGE])
def test_a_cancelled_caller_is_counted_and_holds_nothing(play: Any, size_bytes: int) -> None:
    async def story(scene: Scene) -> None:
        scene.session.go.clear()
        first = asyncio.create_task(scene.ask(1))
        await scene.until_running()
        second = asyncio.create_task(scene.ask(5, size_bytes=size_bytes))
        while scene.service.rows.used < 6:  # noqa: ASYNC110  there is nothing to wait for
            await asyncio.sleep(0.001)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert scene.service.rows.used == 1
        assert scene.value("anomvae_cancelled_requests_total", model="press", reason="cancelled") == 1
        scene.session.go.set()
        await first
        await scene.batcher.drained()
        assert scene.session.ran == 1
        assert scene.requests("499") == 1

    play(story)


def test_a_stopping_service_takes_nothing(play: Any) -> None:
    async def story(scene: Scene) -> None:
        ready = [scene.service.ready]
        scene.service.draining = True
        assert [*ready, scene.service.ready] == [True, False]
        assert await scene.ask(1) == [0]  # who is in is answered
        scene.service.stopping = True
        with pytest.raises(StoppingError):
            await scene.ask(1)
        assert isinstance(scene.ask_soon(1)[0].exception(), StoppingError)
        assert scene.requests("503") == 2

    play(story)


def test_rows_a_batcher_no_longer_takes_are_given_back(play: Any) -> None:
    async def story(scene: Scene) -> None:
        scene.session.go.clear()
        running = asyncio.create_task(scene.ask(3))
        await scene.until_running()
        waiting, _ = scene.ask_soon(3)
        stop = asyncio.create_task(scene.batcher.stop())
        for asked in (running, waiting):
            with pytest.raises(StoppingError):
                await asked
        scene.session.go.set()
        await stop
        with pytest.raises(StoppingError):
            await scene.ask(1)
        assert isinstance(scene.ask_soon(1)[0].exception(), StoppingError)
        assert scene.requests("503") == 4

    play(story)


def test_a_challenger_that_fails_takes_no_answer_away(play: Any) -> None:
    async def story(scene: Scene) -> None:
        service, graph = scene.service, type(scene.session)()
        graph.error = RuntimeError(SECRET)
        challenger = ServedModel("press", "2", scene.model.bundle, graph)  # type: ignore[arg-type]
        service.shadow.share = 1.0
        service.shadow.prepare(scene.model, challenger)
        service.models.put_challenger("press", challenger)
        outputs = ("score", "alarm")
        assert await scene.ask(2, outputs=outputs) == [0, 1]
        await scene.batcher.drained()
        await asyncio.sleep(0)
        assert scene.value("anomvae_shadow_dropped_rows_total", model="press") == 2
        assert await scene.ask_soon(2, outputs=outputs)[0] == [0, 1]
        assert scene.requests("200") == 2
        assert scene.value("anomvae_failed_batches_total", model="press") == 0

    play(story)


def test_requests_refused_before_they_were_read_are_counted_under_no_made_up_name(play: Any) -> None:
    async def story(scene: Scene) -> None:
        scene.service.refused("press", "v2-json", RequestError("no"))
        scene.service.refused("made-up", "v2-json", UnknownModelError("no"))
        assert scene.value("anomvae_requests_total", model="press", protocol="v2-json", code="400") == 1
        assert scene.value("anomvae_requests_total", model="", protocol="v2-json", code="404") == 1

    play(story)


def test_a_model_is_looked_at_anew_by_its_name_the_default_one_without(play: Any) -> None:
    async def story(scene: Scene) -> None:
        looked: list[str] = []

        async def look(name: str) -> None:
            looked.append(name)

        await scene.service.load("press")  # nothing to follow
        scene.service.reload = look
        await scene.service.load("press")
        await scene.service.load("")
        assert looked == ["press", "press"]
        with pytest.raises(UnknownModelError):
            await scene.service.load("nobody")

    play(story)


def test_a_heavy_request_is_read_on_a_thread_whatever_its_size(play: Any) -> None:
    async def story(scene: Scene) -> None:
        answer = await scene.service.answer(
            scene.model, scene.decoder(2), protocol="v1-json", size_bytes=10, heavy=True
        )
        assert answer == [0, 1]
        assert scene.threads[0].startswith("codec")

    play(story)


@pytest.mark.parametrize("stated", ["caller", "service"])
@pytest.mark.parametrize("waits", [False, True])
def test_a_deadline_ends_reading_too(play: Any, stated: str, waits: bool) -> None:
    patience = 0.05

    async def story(scene: Scene) -> None:
        go = threading.Event()
        read = scene.decoder(1)

        def slow() -> Decoded:
            assert go.wait(20)
            return read()

        async def ask(timeout_s: float) -> Any:
            return await scene.service.answer(
                scene.model, slow, protocol="v1-json", size_bytes=LARGE, timeout_s=timeout_s
            )

        try:
            first = asyncio.create_task(ask(10.0)) if waits else None  # its reading keeps the only thread
            await asyncio.sleep(0)
            with pytest.raises(DeadlineError):
                await ask(patience if stated == "caller" else 10.0)
            if first is not None:
                with contextlib.suppress(DeadlineError):
                    if stated == "caller":
                        go.set()
                    await first
        finally:
            go.set()
        late = 2 if waits and stated == "service" else 1
        assert scene.requests("504") == scene.value("anomvae_expired_requests_total", model="press") == late
        assert await scene.ask(1, size_bytes=LARGE) == [0]

    play(story, timeout_s=patience if stated == "service" else 10.0)


def test_a_request_that_was_given_up_before_it_was_read_holds_no_memory(play: Any) -> None:
    class Body:
        pass

    async def story(scene: Scene) -> None:
        go, read = threading.Event(), scene.decoder(1)

        async def ask(until: threading.Event, timeout_s: float, body: Body) -> Any:
            def decode() -> Decoded:
                assert isinstance(body, Body)
                assert until.wait(20)
                return read()

            return await scene.service.answer(
                scene.model, decode, protocol="v1-json", size_bytes=LARGE, timeout_s=timeout_s
            )

        first = asyncio.create_task(ask(go, 10.0, Body()))  # its reading keeps the only thread
        await asyncio.sleep(0)
        try:
            body = Body()
            seen = weakref.ref(body)
            with contextlib.suppress(DeadlineError):
                await ask(go, 0.01, body)
            del body
            gc.collect()
            assert seen() is None
        finally:
            go.set()
        assert await first == [0]

    play(story)
