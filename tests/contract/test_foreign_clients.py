"""Clients that others wrote, as their users call them: they need not know whose daemon answers."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import requests
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tritonclient.utils import InferenceServerException

import anomvae
from anomvae.data.encoding import encode
from anomvae.scoring import Scorer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomvae.bundle import Bundle

ROWS = [
    {
        "part": f"P{number}",
        "temperature": 55.5 + number,
        "pressure": None if number == 3 else 240_000.0 + 500 * number,
        "vibration": 1.25 + number / 8,
        "cooling": number % 3 == 0,
        "material": ("steel", "brass", "wood", "alloy")[number % 4],
    }
    for number in range(11)
]
TABLE = pa.Table.from_pylist(ROWS)
OUTPUTS = ("score", "p_value", "alarm")
MLFLOW_WARNS = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred", "ignore::DeprecationWarning:mlflow")
"""MLflow warns of its own modules as it imports them."""
ARROW = {"content-type": "application/vnd.apache.arrow.stream"}


class Expected(NamedTuple):
    """What the bundle itself says of the rows."""

    numeric: Any
    categorical: Any
    arrays: dict[str, Any]
    answers: list[dict[str, Any]]


@pytest.fixture(scope="module")
def expected(fitted: Bundle) -> Expected:
    scorer = Scorer(fitted)
    rows = encode(TABLE, fitted.manifest.columns)
    return Expected(
        rows.numeric, rows.categorical, dict(scorer.answers(rows, OUTPUTS)), scorer.score(TABLE).to_pylist()
    )


@pytest.fixture
def over_http(served: Any) -> Iterator[Any]:
    client = triton_http.InferenceServerClient(_address(served), concurrency=4)
    yield client
    client.close()


@pytest.fixture
def over_grpc(served: Any) -> Iterator[Any]:
    client = triton_grpc.InferenceServerClient(served.grpc)
    yield client
    client.close()


def _address(served: Any) -> str:
    return str(served.url).removeprefix("http://")


def _tensors(module: Any, expected: Expected, **options: Any) -> list[Any]:
    inputs = [
        module.InferInput("numeric", expected.numeric.shape, "FP32"),
        module.InferInput("categorical", expected.categorical.shape, "INT64"),
    ]
    numeric = expected.numeric if options.get("binary_data", True) else np.nan_to_num(expected.numeric)
    inputs[0].set_data_from_numpy(numeric, **options)
    inputs[1].set_data_from_numpy(expected.categorical, **options)
    return inputs


def _columns(module: Any, *rows: dict[str, Any], **options: Any) -> list[Any]:
    inputs = []
    for name, datatype in (
        ("material", "BYTES"),
        ("cooling", "BOOL"),
        ("vibration", "FP64"),
        ("pressure", "FP32"),
        ("temperature", "FP64"),
    ):
        dtype = {"BYTES": object, "BOOL": np.bool_, "FP64": np.float64, "FP32": np.float32}[datatype]
        cells = [np.nan if row[name] is None else row[name] for row in rows]
        inputs.append(module.InferInput(name, [len(cells)], datatype))
        inputs[-1].set_data_from_numpy(np.array(cells, dtype=dtype), **options)
    return inputs


def _same(result: Any, expected: Expected, *names: str) -> None:
    for name in names or OUTPUTS:
        found = result.as_numpy(name)
        assert found.dtype == expected.arrays[name].dtype
        np.testing.assert_array_equal(found, expected.arrays[name])


@pytest.mark.parametrize("algorithm", [None, "gzip", "deflate"])
def test_triton_over_http_scores_tensors_packed_or_not(over_http: Any, expected: Expected, algorithm: str) -> None:
    inputs = _tensors(triton_http, expected)
    result = over_http.infer(
        "press", inputs, request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
    )
    _same(result, expected)


@pytest.mark.parametrize("binary_out", [False, True])
@pytest.mark.parametrize("binary_in", [False, True])
def test_triton_over_http_sends_and_takes_json_and_bytes(
    over_http: Any, fitted: Bundle, expected: Expected, *, binary_in: bool, binary_out: bool
) -> None:
    complete = [row for row in ROWS if row["pressure"] is not None]  # JSON of that client has no word for missing
    inputs = _columns(triton_http, *complete, binary_data=binary_in)
    outputs = [triton_http.InferRequestedOutput(name, binary_data=binary_out) for name in OUTPUTS]
    result = over_http.infer("press", inputs, outputs=outputs, request_id="a-1")
    head = result.get_response()
    assert (head["id"], head["model_name"]) == ("a-1", "press")
    assert all(("data" in output) is not binary_out for output in head["outputs"])
    direct = Scorer(fitted).answers(encode(pa.Table.from_pylist(complete), fitted.manifest.columns), OUTPUTS)
    for name in OUTPUTS:
        np.testing.assert_array_equal(result.as_numpy(name), direct[name])


def test_triton_over_http_asks_for_some_outputs_at_another_alarm_rate(over_http: Any, expected: Expected) -> None:
    outputs = [triton_http.InferRequestedOutput("p_value"), triton_http.InferRequestedOutput("alarm")]
    inputs = _tensors(triton_http, expected)
    result = over_http.infer("press", inputs, outputs=outputs, parameters={"alarm_rate": 0.25})
    assert [output["name"] for output in result.get_response()["outputs"]] == ["p_value", "alarm"]
    _same(result, expected, "p_value")
    strict = over_http.infer("press", inputs).as_numpy("alarm")
    assert result.as_numpy("alarm").sum() >= strict.sum()


def test_triton_over_http_has_many_requests_on_their_way(over_http: Any, expected: Expected) -> None:
    asked = [over_http.async_infer("press", _tensors(triton_http, expected), request_id=str(n)) for n in range(12)]
    for number, pending in enumerate(asked):
        result = pending.get_result()
        assert result.get_response()["id"] == str(number)
        _same(result, expected)


def test_triton_over_http_learns_of_the_model(over_http: Any, fitted: Bundle) -> None:
    version = over_http.get_model_repository_index()[0]["version"]
    assert over_http.is_server_live()
    assert over_http.is_server_ready()
    assert over_http.is_model_ready("press")
    assert over_http.is_model_ready("press", version)
    assert not over_http.is_model_ready("press", "other")
    assert not over_http.is_model_ready("other")
    assert over_http.get_server_metadata()["name"] == "anomvae"
    metadata = over_http.get_model_metadata("press", version)
    assert metadata["name"] == "press"
    assert [tensor["name"] for tensor in metadata["inputs"][:2]] == ["numeric", "categorical"]
    assert {tensor["name"] for tensor in metadata["outputs"]} >= set(OUTPUTS)
    assert over_http.get_model_config("press")["name"] == "press"
    over_http.load_model("press")
    assert over_http.is_model_ready("press", version)


def test_triton_over_http_raises_our_sentences(over_http: Any, expected: Expected) -> None:
    with pytest.raises(InferenceServerException, match="no model of that name is served here; there are press"):
        over_http.infer("other", _tensors(triton_http, expected))
    with pytest.raises(InferenceServerException, match="that version of 'press' is not served"):
        over_http.infer("press", _tensors(triton_http, expected), model_version="7")
    with pytest.raises(InferenceServerException, match="the request lacks input 'categorical'"):
        over_http.infer("press", _tensors(triton_http, expected)[:1])
    with pytest.raises(InferenceServerException, match="has no output 'scores'") as refused:
        over_http.infer("press", _tensors(triton_http, expected), outputs=[triton_http.InferRequestedOutput("scores")])
    assert refused.value.status() == "400"
    region = triton_http.InferRequestedOutput("score")
    region.set_shared_memory("region", 8)
    with pytest.raises(InferenceServerException, match="names shared memory"):
        over_http.infer("press", _tensors(triton_http, expected), outputs=[region])
    classes = triton_http.InferRequestedOutput("score", class_count=2)
    with pytest.raises(InferenceServerException, match="classification"):
        over_http.infer("press", _tensors(triton_http, expected), outputs=[classes])
    with pytest.raises(InferenceServerException, match="no such route"):
        over_http.unload_model("press")


def test_triton_gives_up_when_its_patience_is_over(over_http: Any, over_grpc: Any, expected: Expected) -> None:
    with pytest.raises(InferenceServerException) as late:
        over_http.infer("press", _tensors(triton_http, expected), timeout=1)  # a microsecond, told to the daemon
    assert late.value.status() == "504"
    with pytest.raises(InferenceServerException) as late:
        over_grpc.infer("press", _tensors(triton_grpc, expected), timeout=1)
    assert late.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    many = expected._replace(
        numeric=np.tile(expected.numeric, (5000, 1)), categorical=np.tile(expected.categorical, (5000, 1))
    )
    with pytest.raises(InferenceServerException) as late:  # a deadline of gRPC, which counts in milliseconds
        over_grpc.infer("press", _tensors(triton_grpc, many), client_timeout=0.001)
    assert late.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    _same(over_grpc.infer("press", _tensors(triton_grpc, expected), client_timeout=20), expected)


@pytest.mark.parametrize("algorithm", [None, "gzip", "deflate"])
def test_triton_over_grpc_scores_tensors_packed_or_not(over_grpc: Any, expected: Expected, algorithm: str) -> None:
    outputs = [triton_grpc.InferRequestedOutput("alarm"), triton_grpc.InferRequestedOutput("score")]
    inputs = _tensors(triton_grpc, expected)
    result = over_grpc.infer("press", inputs, outputs=outputs, request_id="a-2", compression_algorithm=algorithm)
    head = result.get_response()
    assert (head.id, head.model_name) == ("a-2", "press")
    assert [output.name for output in head.outputs] == ["alarm", "score"]
    _same(result, expected, "alarm", "score")


def test_triton_over_grpc_scores_by_column(over_grpc: Any, expected: Expected) -> None:
    _same(over_grpc.infer("press", _columns(triton_grpc, *ROWS)), expected)


def test_triton_over_grpc_has_many_requests_on_their_way(over_grpc: Any, expected: Expected) -> None:
    with ThreadPoolExecutor(12) as pool:
        asked = [
            pool.submit(over_grpc.infer, "press", _tensors(triton_grpc, expected), request_id=str(n)) for n in range(12)
        ]
        for number, pending in enumerate(asked):
            assert pending.result(30).get_response().id == str(number)
            _same(pending.result(), expected)
    told: asyncio.Queue[Any] = asyncio.Queue()
    loop = asyncio.new_event_loop()
    over_grpc.async_infer(
        "press",
        _tensors(triton_grpc, expected),
        lambda result, error: loop.call_soon_threadsafe(told.put_nowait, error or result),
    )
    _same(loop.run_until_complete(asyncio.wait_for(told.get(), 30)), expected)
    loop.close()


def test_triton_over_grpc_learns_of_the_model(over_grpc: Any) -> None:
    version = over_grpc.get_model_repository_index().models[0].version
    assert over_grpc.is_server_live()
    assert over_grpc.is_server_ready()
    assert over_grpc.is_model_ready("press", version)
    assert over_grpc.get_server_metadata().name == "anomvae"
    metadata = over_grpc.get_model_metadata("press", as_json=True)
    assert [tensor["name"] for tensor in metadata["inputs"][:2]] == ["numeric", "categorical"]
    assert over_grpc.get_model_config("press").config.name == "press"
    over_grpc.load_model("press")


def test_triton_over_grpc_raises_our_sentences(over_grpc: Any, expected: Expected) -> None:
    with pytest.raises(InferenceServerException, match="no model of that name is served here") as refused:
        over_grpc.infer("other", _tensors(triton_grpc, expected))
    assert refused.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(InferenceServerException, match="the request lacks input 'numeric'") as refused:
        over_grpc.infer("press", _tensors(triton_grpc, expected)[1:])
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    with pytest.raises(InferenceServerException) as refused:
        over_grpc.unload_model("press")
    assert refused.value.status() == "StatusCode.UNIMPLEMENTED"


def test_the_async_triton_clients_score(served: Any, expected: Expected) -> None:
    async def ask() -> None:
        over_http = triton_http_aio.InferenceServerClient(_address(served))
        over_grpc = triton_grpc_aio.InferenceServerClient(served.grpc)
        async with over_http, over_grpc:
            assert await over_http.is_model_ready("press")
            assert await over_grpc.is_model_ready("press")
            assert (await over_http.get_model_metadata("press"))["name"] == "press"
            answers = await asyncio.gather(
                *(over_http.infer("press", _tensors(triton_http_aio, expected)) for _ in range(8)),
                *(over_http.infer("press", _columns(triton_http_aio, *ROWS)) for _ in range(2)),
                *(over_grpc.infer("press", _tensors(triton_grpc_aio, expected)) for _ in range(8)),
                *(over_grpc.infer("press", _columns(triton_grpc_aio, *ROWS)) for _ in range(2)),
            )
            for answer in answers:
                _same(answer, expected)
            with pytest.raises(InferenceServerException, match="no model of that name"):
                await over_http.infer("other", _tensors(triton_http_aio, expected))
            with pytest.raises(InferenceServerException, match="no model of that name"):
                await over_grpc.infer("other", _tensors(triton_grpc_aio, expected))

    asyncio.run(ask())


@MLFLOW_WARNS
def test_mlflows_client_pings_and_invokes(served: Any, expected: Expected) -> None:
    pytest.importorskip("mlflow")
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    host, _, port = _address(served).partition(":")
    client: Any = ScoringServerClient(host, int(port))  # type: ignore[no-untyped-call]
    client.ping()
    assert client.get_version() == anomvae.__version__
    found = client.invoke(TABLE.to_pandas()).get_predictions()
    assert found["score"].tolist() == [answer["score"] for answer in expected.answers]
    assert found["alarm"].tolist() == [answer["alarm"] for answer in expected.answers]
    relaxed = client.invoke(TABLE.to_pandas(), params={"alarm_rate": 0.25}).get_predictions()
    assert relaxed["alarm"].sum() >= found["alarm"].sum()
    with pytest.raises(Exception, match="lack 'temperature'"):
        client.invoke(TABLE.to_pandas().drop(columns="temperature"))


@MLFLOW_WARNS
def test_what_mlflow_makes_of_an_input_example_is_understood(served: Any, expected: Expected) -> None:
    pytest.importorskip("mlflow")
    from mlflow.models import convert_input_example_to_serving_input

    body = convert_input_example_to_serving_input(TABLE.to_pandas())
    reply = requests.post(
        served.url + "/invocations", data=body, headers={"content-type": "application/json"}, timeout=30
    )
    assert [row["score"] for row in reply.json()["predictions"]] == [answer["score"] for answer in expected.answers]


@pytest.mark.parametrize(
    "form",
    [
        {"dataframe_split": {"columns": list(ROWS[0]), "data": [list(row.values()) for row in ROWS]}},
        {"dataframe_records": ROWS},
        {"instances": ROWS},
        {"inputs": {name: [row[name] for row in ROWS] for name in ROWS[0]}},
    ],
    ids=lambda form: next(iter(form)),
)
def test_every_form_of_mlflows_protocol_gets_the_same_predictions(
    served: Any, expected: Expected, form: dict[str, Any]
) -> None:
    predictions = requests.post(served.url + "/invocations", json=form, timeout=30).json()["predictions"]
    assert [(row["score"], row["alarm"]) for row in predictions] == [
        (answer["score"], answer["alarm"]) for answer in expected.answers
    ]


def test_csv_from_pandas_gets_the_same_predictions(served: Any, expected: Expected) -> None:
    text = TABLE.to_pandas().to_csv(index=False)
    for kind in ("text/csv", "text/csv; charset=utf-8"):
        reply = requests.post(served.url + "/invocations", data=text, headers={"content-type": kind}, timeout=30)
        predictions = reply.json()["predictions"]
        assert [row["score"] for row in predictions] == [answer["score"] for answer in expected.answers]


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_an_arrow_stream_may_come_in_chunks_of_any_size(
    served: Any, expected: Expected, compression: str | None
) -> None:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, TABLE.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as stream:
        stream.write_table(TABLE, max_chunksize=4)
    raw = sink.getvalue()
    for size in (97, 1024, len(raw)):
        chunks = (raw[start : start + size] for start in range(0, len(raw), size))
        reply = requests.post(served.url + "/v1/models/press/score", data=chunks, headers=ARROW, timeout=30)
        assert reply.headers["content-type"] == ARROW["content-type"]
        answers = pa.ipc.open_stream(reply.content).read_all()
        for name in ("part", "score", "p_value", "alarm"):
            assert answers[name].to_pylist() == [answer[name] for answer in expected.answers]
