from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from anomvae.data.encoding import EncodedRows
from anomvae.errors import OverloadedError, UnauthorizedError
from anomvae.scoring import GraphSession
from anomvae.serving.grpc_front import make_grpc_server
from anomvae.serving.messages import INFERENCE, message_class
from anomvae.serving.model import ServedModel
from anomvae.serving.models import ModelTable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    import numpy.typing as npt

    from anomvae.bundle import Bundle
    from anomvae.serving.exchange import Decoded

ROWS = np.array([[60.0, 2.5e5, 1.25], [61.5, np.nan, 0.5]], np.float32)
CODES = np.array([[0, 2], [1, 3]], np.int64)
MAX_MESSAGE_BYTES = 256 * 1024
MAX_CALLS = 25
TRACE = "0af7651916cd43dd8448eb211c80319c"
TOKEN = {"authorization": "Bearer sesame"}


class InlineService:
    """Answers as the service does, without its queue: on the spot."""

    def __init__(self, models: ModelTable) -> None:
        self.models = models
        self.reset()

    def reset(self) -> None:
        self.ready = True
        self.locked = False
        self.fails: Exception | None = None
        self.hangs = False
        self.hanging = 0
        self.shed: list[tuple[str, str]] = []
        self.metrics = SimpleNamespace(shed=lambda *told: self.shed.append(told))
        self.cancelled = threading.Event()
        self.loaded: list[str] = []
        self.turned_away: list[tuple[str, str, str]] = []
        self.seen: dict[str, Any] = {}

    async def answer(self, model: ServedModel, decode: Callable[[], Decoded], **told: Any) -> Any:
        self.seen = told
        if self.hangs:
            self.hanging += 1
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if self.fails:
            raise self.fails
        decoded = decode()
        return decoded.encode(model.session.run_in_chunks(decoded.rows, decoded.outputs, decoded.alarm_rate))

    def authorize(self, authorization: str | None) -> None:
        if self.locked and authorization != TOKEN["authorization"]:
            raise UnauthorizedError("the call carries no valid token")

    def refused(self, model: str, protocol: str, error: BaseException) -> None:
        self.turned_away.append((model, protocol, type(error).__name__))

    async def load(self, name: str) -> None:
        self.models.get(name)
        self.loaded.append(name)


class Daemon:
    """A gRPC server on an event loop of its own."""

    def __init__(self, service: InlineService) -> None:
        self.service = service
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server, self.port = self.run(self._start())

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def _start(self) -> tuple[grpc.aio.Server, int]:
        service: Any = self.service
        server = make_grpc_server(
            service, max_message_bytes=MAX_MESSAGE_BYTES, max_calls=MAX_CALLS, message_timeout_s=0.5
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def close(self) -> None:
        self.run(self._server.stop(None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="module")
def model(fitted: Bundle) -> ServedModel:
    return ServedModel("press", "7", fitted, GraphSession(fitted.graph, fitted.manifest.width))


@pytest.fixture(scope="module")
def running(model: ServedModel) -> Iterator[Daemon]:
    table = ModelTable(["press"])
    table.put(model)
    daemon = Daemon(InlineService(table))
    yield daemon
    daemon.close()


@pytest.fixture
def daemon(running: Daemon) -> Daemon:
    """The server with a service as new."""
    running.service.reset()
    return running


@pytest.fixture
def client(daemon: Daemon) -> Iterator[triton.InferenceServerClient]:
    found = triton.InferenceServerClient(daemon.address)
    yield found
    found.close()


def tensor(name: str, cells: npt.NDArray[Any], kind: Any = triton) -> Any:
    stated = kind.InferInput(name, list(cells.shape), np_to_triton_dtype(cells.dtype))
    stated.set_data_from_numpy(cells)
    return stated


def graph_inputs(kind: Any = triton) -> list[Any]:
    return [tensor("numeric", ROWS, kind), tensor("categorical", CODES, kind)]


def call(daemon: Daemon, path: str, body: bytes, **metadata: str) -> bytes:
    with grpc.insecure_channel(daemon.address) as channel:
        return channel.unary_unary(path)(body, metadata=tuple(metadata.items()), timeout=10)  # type: ignore[no-any-return]


def test_health_is_told_to_anyone(daemon: Daemon, client: triton.InferenceServerClient) -> None:
    daemon.service.locked = True
    assert client.is_server_live()
    assert client.is_server_ready()
    check = message_class("grpc.health.v1.HealthCheckResponse")
    assert check.FromString(call(daemon, "/grpc.health.v1.Health/Check", b"")).status == check.SERVING
    daemon.service.ready = False
    assert client.is_server_live()
    assert not client.is_server_ready()
    assert check.FromString(call(daemon, "/grpc.health.v1.Health/Check", b"")).status == check.NOT_SERVING


def test_the_health_of_a_service_that_is_not_there_is_not_found(daemon: Daemon) -> None:
    asked = message_class("grpc.health.v1.HealthCheckRequest")(service="another")
    with pytest.raises(grpc.RpcError) as refusal:
        call(daemon, "/grpc.health.v1.Health/Check", asked.SerializeToString())
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND


def test_tritons_client_reads_metadata_and_configuration(client: triton.InferenceServerClient) -> None:
    assert client.get_server_metadata().name == "anomvae"
    assert client.is_model_ready("press")
    assert client.is_model_ready("press", "7")
    found = client.get_model_metadata("press")
    assert [list(one.shape) for one in found.inputs] == [[-1, 3], [-1, 2]]
    config = client.get_model_config("press", as_json=True)["config"]
    assert config["input"][0] == {"name": "numeric", "data_type": "TYPE_FP32", "dims": ["-1", "3"]}
    assert config["input"][2]["optional"]


def test_the_repository_is_listed_and_a_model_loaded_on_demand(
    daemon: Daemon, client: triton.InferenceServerClient
) -> None:
    (entry,) = client.get_model_repository_index().models
    assert (entry.name, entry.version, entry.state) == ("press", "7", "READY")
    client.load_model("press")
    assert daemon.service.loaded == ["press"]
    with pytest.raises(InferenceServerException, match="NOT_FOUND"):
        client.load_model("other")
    with pytest.raises(InferenceServerException, match="INVALID_ARGUMENT"):
        client.load_model("press", config="{}")


def test_raw_tensors_get_the_answers_of_the_graph(
    daemon: Daemon, client: triton.InferenceServerClient, model: ServedModel
) -> None:
    found = client.infer("press", graph_inputs(), request_id="a", timeout=2_000_000, parameters={"alarm_rate": 0.2})
    for name, cells in model.session.run_in_chunks(EncodedRows(ROWS, CODES), tuple(model.outputs), 0.2).items():
        assert np.array_equal(found.as_numpy(name), cells)
    assert found.get_response().id == "a"


def test_columns_come_by_name_as_text(client: triton.InferenceServerClient) -> None:
    columns = [tensor(name, np.ones((2, 1))) for name in ("temperature", "pressure", "vibration")]
    words = [
        tensor("material", np.array(["steel", "granite"], dtype=object)),
        tensor("cooling", np.array([True, False])),
    ]
    found = client.infer("press", [*columns, *words], outputs=[triton.InferRequestedOutput("score")])
    assert found.as_numpy("score").shape == (2,)
    assert found.as_numpy("alarm") is None


def test_the_asynchronous_client_gets_its_own_rows_on_each_of_many_calls(daemon: Daemon, model: ServedModel) -> None:
    async def ask() -> list[Any]:
        async with triton_aio.InferenceServerClient(daemon.address) as client:
            inputs = [
                [tensor("numeric", ROWS[:1] + step, triton_aio), tensor("categorical", CODES[:1], triton_aio)]
                for step in range(20)
            ]
            return await asyncio.gather(*(client.infer("press", one) for one in inputs))

    scores = [found.as_numpy("score")[0] for found in daemon.run(ask())]
    numeric = np.concatenate([ROWS[:1] + np.float32(step) for step in range(20)])
    expected = model.session.run_in_chunks(EncodedRows(numeric, np.repeat(CODES[:1], 20, axis=0)), ("score",))
    assert np.array_equal(scores, expected["score"])


def test_an_unknown_model_or_version_is_not_found_and_counted(
    daemon: Daemon, client: triton.InferenceServerClient
) -> None:
    for name, version in (("other", ""), ("press", "8")):
        with pytest.raises(InferenceServerException) as refusal:
            client.infer(name, graph_inputs(), model_version=version)
        assert refusal.value.status() == "StatusCode.NOT_FOUND"
    assert daemon.service.turned_away == [
        ("other", "grpc", "UnknownModelError"),
        ("press", "grpc", "UnknownModelError"),
    ]


def test_a_wrong_tensor_is_an_invalid_argument_and_not_counted_twice(
    daemon: Daemon, client: triton.InferenceServerClient
) -> None:
    with pytest.raises(InferenceServerException, match="numeric") as refusal:
        client.infer("press", [tensor("numeric", ROWS[:, :2]), tensor("categorical", CODES)])
    assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert daemon.service.turned_away == []


def test_bytes_that_are_no_message_are_an_invalid_argument(daemon: Daemon) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        call(daemon, f"/{INFERENCE}/ModelInfer", b"\xff\xff\xff")
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_message_too_large_is_refused(client: triton.InferenceServerClient) -> None:
    many = np.zeros((MAX_MESSAGE_BYTES // 12, 3), np.float32)
    with pytest.raises(InferenceServerException) as refusal:
        client.infer("press", [tensor("numeric", many), tensor("categorical", CODES)])
    assert refusal.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


def test_a_compressed_message_too_large_is_refused(client: triton.InferenceServerClient) -> None:
    many = np.zeros((MAX_MESSAGE_BYTES, 3), np.float32)
    with pytest.raises(InferenceServerException) as refusal:
        client.infer("press", [tensor("numeric", many), tensor("categorical", CODES)], compression_algorithm="gzip")
    assert refusal.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


def test_a_call_without_a_token_is_not_authenticated(daemon: Daemon, client: triton.InferenceServerClient) -> None:
    daemon.service.locked = True
    with pytest.raises(InferenceServerException) as refusal:
        client.infer("press", graph_inputs())
    assert refusal.value.status() == "StatusCode.UNAUTHENTICATED"
    with pytest.raises(InferenceServerException):
        client.get_model_metadata("press")
    assert client.infer("press", graph_inputs(), headers=TOKEN).as_numpy("score").shape == (2,)


def test_a_busy_daemon_says_when_to_come_back(daemon: Daemon) -> None:
    daemon.service.fails = OverloadedError("more rows are in flight than may be", retry_after_s=3)
    asked = message_class("ModelInferRequest")(model_name="press")
    with pytest.raises(grpc.RpcError) as refusal:
        call(daemon, f"/{INFERENCE}/ModelInfer", asked.SerializeToString())
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ("retry-after", "3") in [tuple(entry) for entry in refusal.value.trailing_metadata()]


def test_what_was_not_foreseen_tells_nothing_of_itself(daemon: Daemon, client: triton.InferenceServerClient) -> None:
    daemon.service.fails = KeyError("sEcReT-77")
    with pytest.raises(InferenceServerException) as refusal:
        client.infer("press", graph_inputs())
    assert refusal.value.status() == "StatusCode.INTERNAL"
    assert "sEcReT" not in str(refusal.value)


def test_the_service_is_told_size_patience_and_trace(daemon: Daemon, client: triton.InferenceServerClient) -> None:
    client.infer("press", graph_inputs(), client_timeout=20, headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
    assert daemon.service.seen["protocol"] == "grpc"
    assert daemon.service.seen["timeout_s"] > 0
    assert daemon.service.seen["trace_id"] == TRACE
    assert daemon.service.seen["size_bytes"] > ROWS.nbytes + CODES.nbytes
    client.infer("press", graph_inputs(), headers={"traceparent": "none"})
    assert daemon.service.seen["timeout_s"] is None
    assert daemon.service.seen["trace_id"] is None


def test_a_caller_that_goes_away_cancels_its_own_answer(daemon: Daemon, client: triton.InferenceServerClient) -> None:
    daemon.service.hangs = True
    with pytest.raises(InferenceServerException, match="Deadline"):
        client.infer("press", graph_inputs(), client_timeout=0.2)
    assert daemon.service.cancelled.wait(10)
    daemon.service.hangs = False
    assert client.infer("press", graph_inputs()).as_numpy("score").shape == (2,)


def silent_calls(daemon: Daemon, n: int, method: str = "ModelInfer") -> Callable[[], Coroutine[Any, Any, list[Any]]]:
    """Opens n calls that never send their message; a function that tells how they ended, None for those that go on."""

    async def begin() -> tuple[grpc.aio.Channel, list[Any]]:
        channel = grpc.aio.insecure_channel(daemon.address, options=[("grpc.use_local_subchannel_pool", 1)])
        calls = [channel.stream_unary(f"/{INFERENCE}/{method}")() for _ in range(n)]
        for one in calls:
            await one.wait_for_connection()
        return channel, calls

    channel, calls = daemon.run(begin())

    async def end() -> list[Any]:
        codes = await asyncio.gather(*(one.code() for one in calls))
        await channel.close()
        return codes

    return end


def test_a_call_without_a_token_is_refused_before_its_message_comes(daemon: Daemon) -> None:
    daemon.service.locked = True
    assert daemon.run(silent_calls(daemon, 3)()) == [grpc.StatusCode.UNAUTHENTICATED] * 3


def test_a_probe_is_answered_before_its_message_comes(daemon: Daemon) -> None:
    assert daemon.run(silent_calls(daemon, 3, "ServerLive")()) == [grpc.StatusCode.OK] * 3


def test_a_message_that_does_not_come_ends_its_call(daemon: Daemon) -> None:
    assert daemon.run(silent_calls(daemon, 2)()) == [grpc.StatusCode.DEADLINE_EXCEEDED] * 2
    assert ("", "grpc", "SlowRequestError") in daemon.service.turned_away


def test_more_calls_than_may_be_are_shed_while_probes_are_answered(
    daemon: Daemon, client: triton.InferenceServerClient
) -> None:
    daemon.service.hangs = True

    async def fill() -> list[Any]:
        async with grpc.aio.insecure_channel(daemon.address) as channel:
            ask = channel.unary_unary(f"/{INFERENCE}/ModelInfer")
            asked = message_class("ModelInferRequest")(model_name="press").SerializeToString()
            calls = [ask(asked) for _ in range(MAX_CALLS)]
            async with asyncio.timeout(30):
                while daemon.service.hanging < MAX_CALLS:  # noqa: ASYNC110  another thread's count
                    await asyncio.sleep(0.01)
            more = [ask(asked), ask(asked)]
            codes = [await one.code() for one in more]
            live = await channel.unary_unary(f"/{INFERENCE}/ServerLive")(b"")
            assert message_class("ServerLiveResponse").FromString(live).live
            for one in calls:
                one.cancel()
            return codes

    assert asyncio.run(fill()) == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
    assert daemon.service.shed == [("", "connections")] * 2
    daemon.service.hangs = False
    assert daemon.service.cancelled.wait(10)
    assert client.infer("press", graph_inputs()).as_numpy("score").shape == (2,)


def test_a_large_message_is_read_off_the_event_loop_and_answered_alike(
    client: triton.InferenceServerClient, model: ServedModel
) -> None:
    many = EncodedRows(np.repeat(ROWS, 2500, axis=0), np.repeat(CODES, 2500, axis=0))
    found = client.infer("press", [tensor("numeric", many.numeric), tensor("categorical", many.categorical)])
    assert np.array_equal(found.as_numpy("score"), model.session.run_in_chunks(many, ("score",))["score"])
