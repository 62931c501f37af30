from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import np_to_triton_dtype

from anomvae.errors import InputError, RequestError
from anomvae.scoring import GraphSession
from anomvae.serving.datatypes import NUMBERS
from anomvae.serving.model import ServedModel
from anomvae.serving.v2 import HEADER_LENGTH, decode_infer

if TYPE_CHECKING:
    import numpy.typing as npt

    from anomvae.bundle import Bundle
    from anomvae.serving.exchange import Decoded

    Array = npt.NDArray[Any]

ROWS = np.array([[60.0, 2.5e5, 1.25], [61.5, np.nan, 0.5]], np.float32)
CODES = np.array([[0, 2], [1, 3]], np.int64)


@pytest.fixture(scope="module")
def model(fitted: Bundle) -> ServedModel:
    return ServedModel("press", "7", fitted, GraphSession(fitted.graph, fitted.manifest.width))


def triton_input(name: str, cells: Array, *, binary: bool = True) -> InferInput:
    given_in = InferInput(name, list(cells.shape), np_to_triton_dtype(cells.dtype))
    return given_in.set_data_from_numpy(cells, binary_data=binary)


def triton_request(*inputs: InferInput, **more: Any) -> tuple[bytes, dict[str, str]]:
    body, length = InferenceServerClient.generate_request_body(list(inputs), **more)
    return body, {} if length is None else {HEADER_LENGTH: str(length)}


def run(model: ServedModel, decoded: Decoded) -> tuple[Any, dict[str, Array]]:
    found = model.session.run_in_chunks(decoded.rows, decoded.outputs, decoded.alarm_rate)
    reply = decoded.encode(found)
    length = dict(reply.headers).get(HEADER_LENGTH)
    read = InferenceServerClient.parse_response_body(reply.body, header_length=length)
    return read, found


def framed(stated: dict[str, Any], raw: bytes, pad: int = 0) -> tuple[bytes, dict[str, str]]:
    """A body with its header as long as it is plus `pad` spaces."""
    text = orjson.dumps(stated) + b" " * pad
    return text + raw, {HEADER_LENGTH: str(len(text))}


def one_input(raw: bytes, size: Any = None, **changes: Any) -> dict[str, Any]:
    numeric = {"name": "numeric", "shape": [2, 3], "datatype": "FP32", **changes}
    numeric["parameters"] = {"binary_data_size": len(raw) if size is None else size}
    return {"inputs": [numeric, {"name": "categorical", "shape": [2, 2], "datatype": "INT64", "data": CODES.tolist()}]}


def test_tritons_client_reads_back_exactly_what_the_graph_says(model: ServedModel) -> None:
    body, headers = triton_request(triton_input("numeric", ROWS), triton_input("categorical", CODES), request_id="a")
    decoded = decode_infer(model, body, headers)
    assert decoded.protocol == "v2-binary"
    assert np.array_equal(decoded.rows.numeric, ROWS, equal_nan=True)
    assert np.array_equal(decoded.rows.categorical, CODES)
    read, found = run(model, decoded)
    assert read.get_response()["id"] == "a"
    for name, cells in found.items():
        assert np.array_equal(read.as_numpy(name), cells)
        assert read.as_numpy(name).dtype == cells.dtype


def test_json_and_bytes_are_mixed_as_asked(model: ServedModel) -> None:
    body, headers = triton_request(
        triton_input("numeric", np.nan_to_num(ROWS), binary=False),
        triton_input("categorical", CODES),
        outputs=[InferRequestedOutput("score", binary_data=False), InferRequestedOutput("alarm", binary_data=True)],
    )
    read, found = run(model, decode_infer(model, body, headers))
    assert np.array_equal(read.as_numpy("score"), found["score"])
    assert np.array_equal(read.as_numpy("alarm"), found["alarm"])
    assert "data" in read.get_output("score")
    assert "data" not in read.get_output("alarm")


def test_a_request_all_in_json_gets_json_unless_it_asks_for_bytes(model: ServedModel) -> None:
    inputs = [
        triton_input("numeric", np.nan_to_num(ROWS), binary=False),
        triton_input("categorical", CODES, binary=False),
    ]
    plain, _ = triton_request(*inputs, outputs=[InferRequestedOutput("score", binary_data=False)])
    decoded = decode_infer(model, plain, {})
    assert decoded.protocol == "v2-json"
    found = model.session.run_in_chunks(decoded.rows, decoded.outputs)
    assert decoded.encode(found).media_type == "application/json"
    asking, _ = triton_request(*inputs)  # Triton's client then asks for binary data
    decoded = decode_infer(model, asking, {})
    assert decoded.encode(model.session.run_in_chunks(decoded.rows, decoded.outputs)).media_type == (
        "application/octet-stream"
    )


def test_no_rows_get_empty_answers_in_bytes(model: ServedModel) -> None:
    body, headers = triton_request(triton_input("numeric", ROWS[:0]), triton_input("categorical", CODES[:0]))
    read, found = run(model, decode_infer(model, body, headers))
    for name, cells in found.items():
        assert read.as_numpy(name).shape == cells.shape


FLOATS = {"allow_nan": True, "allow_infinity": True}
WIDTHS = {"FP16": 16, "FP32": 32, "FP64": 64}


@st.composite
def numbers(draw: st.DrawFn) -> Array:
    datatype = draw(st.sampled_from(sorted(NUMBERS)))
    dtype = NUMBERS[datatype].dtype
    n = draw(st.integers(0, 5))
    elements = st.floats(**FLOATS, width=WIDTHS[datatype]) if datatype in WIDTHS else None  # type: ignore[arg-type]
    return draw(arrays_of.arrays(dtype, (n, 3), elements=elements))


@settings(max_examples=200, deadline=None)
@given(cells=numbers(), binary=st.booleans())
def test_whatever_tritons_client_sends_arrives_unchanged(model: ServedModel, cells: Array, *, binary: bool) -> None:
    if not binary and cells.dtype.kind == "f" and not np.isfinite(cells).all():
        cells = np.zeros_like(cells)  # it writes NaN into JSON, which is none
    codes = np.zeros((len(cells), 2), np.int64)
    body, headers = triton_request(triton_input("numeric", cells, binary=binary), triton_input("categorical", codes))
    arrived = decode_infer(model, body, headers).rows
    with np.errstate(over="ignore", invalid="ignore"):
        expected = cells.astype(np.float32)
    assert np.array_equal(arrived.numeric, expected, equal_nan=True)
    assert np.array_equal(arrived.categorical, codes)


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.text(max_size=8), max_size=5), binary=st.booleans())
def test_text_arrives_as_the_categories_it_names(model: ServedModel, words: list[str], *, binary: bool) -> None:
    words = [*words, "steel", "brass"]
    n = len(words)
    body, headers = triton_request(
        *(triton_input(name, np.ones(n)) for name in ("temperature", "pressure", "vibration")),
        triton_input("cooling", np.zeros(n, bool)),
        triton_input("material", np.array(words, dtype=object), binary=binary),
    )
    column = model.manifest.categorical[1]
    expected = [column.categories.index(word) if word in column.categories else column.unknown_code for word in words]
    assert decode_infer(model, body, headers).rows.categorical[:, 1].tolist() == expected


@pytest.mark.parametrize("pad", range(8))
def test_bytes_may_start_anywhere(model: ServedModel, pad: int) -> None:
    raw = ROWS.tobytes()
    decoded = decode_infer(model, *framed(one_input(raw), raw, pad))
    assert np.array_equal(decoded.rows.numeric, ROWS, equal_nan=True)
    assert decoded.rows.numeric.flags.aligned


def test_bytes_that_lie_well_are_not_copied(model: ServedModel) -> None:
    raw = np.zeros((5000, 3), np.float32).tobytes()
    stated = one_input(raw, shape=[5000, 3])
    stated["inputs"][1] = {"name": "categorical", "shape": [5000, 2], "datatype": "INT8", "data": [0] * 10_000}
    views = set()
    for pad in range(4):
        body, headers = framed(stated, raw, pad)
        decoded = decode_infer(model, body, headers)
        views.add(np.shares_memory(decoded.rows.numeric, np.frombuffer(body, np.uint8)))
    assert True in views


RAW = ROWS.tobytes()
BROKEN = {
    "fewer bytes than stated": (one_input(RAW), RAW[:-1]),
    "more bytes than stated": (one_input(RAW), RAW + b"x"),
    "a size that the shape does not take": (one_input(RAW, 20), RAW[:20]),
    "a negative size": (one_input(RAW, -1), RAW),
    "a size beyond 64 bits": (one_input(RAW, 1e300), RAW),
    "a size that is a flag": (one_input(RAW, size=True), RAW),
    "data twice": (one_input(RAW, data=[1.0] * 6), RAW),
    "a shape beyond memory": (one_input(RAW, shape=[2**62, 3]), RAW),
    "another datatype": (one_input(RAW, datatype="FP64"), RAW),
    "BF16": (one_input(RAW, datatype="BF16"), RAW),
    "no size": ({"inputs": [{"name": "numeric", "shape": [2, 3], "datatype": "FP32"}]}, RAW),
}


@pytest.mark.parametrize(("stated", "raw"), BROKEN.values(), ids=list(BROKEN))
def test_bytes_that_do_not_fit_are_refused(model: ServedModel, stated: dict[str, Any], raw: bytes) -> None:
    with pytest.raises(InputError):
        decode_infer(model, *framed(stated, raw))


@pytest.mark.parametrize("length", ["", "-1", "x", "1e3", "99999", "9" * 30, " 5", "\u0665", "0"])
def test_a_header_length_that_is_none_is_refused(model: ServedModel, length: str) -> None:
    body, _ = framed(one_input(RAW), RAW)
    with pytest.raises(RequestError):
        decode_infer(model, body, {HEADER_LENGTH: length})


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x01",
        b"\x09\x00\x00\x00steel",
        b"\xff\xff\xff\xff",
        b"\x01\x00\x00\x00\xff",
        b"\x01\x00\x00\x00a\x01\x00\x00\x00b",
    ],
)
def test_text_bytes_that_are_cut_off_or_no_utf8_are_refused(model: ServedModel, raw: bytes) -> None:
    inputs = [
        {"name": name, "shape": [1], "datatype": "FP32", "data": [1]}
        for name in ("temperature", "pressure", "vibration", "cooling")
    ]
    material = {"name": "material", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    with pytest.raises(RequestError, match="material"):
        decode_infer(model, *framed({"inputs": [*inputs, material]}, raw))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_damage_to_a_body_gives_rows_or_a_refusal(model: ServedModel, data: st.DataObject) -> None:
    whole, headers = triton_request(
        *(triton_input(name, np.ones(2)) for name in ("temperature", "pressure", "vibration")),
        triton_input("cooling", np.zeros(2, bool)),
        triton_input("material", np.array(["steel", "x"], dtype=object)),
    )
    body = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    if data.draw(st.booleans()):
        headers = {HEADER_LENGTH: str(data.draw(st.integers(0, len(body) + 3)))}
    try:
        decoded = decode_infer(model, bytes(body), headers)
    except InputError:
        return
    assert decoded.rows.numeric.shape[1] == 3
    assert len(decoded.rows.numeric) == len(decoded.rows.categorical)
