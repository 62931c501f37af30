"""The Open Inference Protocol, version 2, over HTTP: requests and answers in JSON, tensors in JSON or as bytes after it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from anomvae.errors import RequestError
from anomvae.serving.datatypes import known_datatype, quoted, raw_of
from anomvae.serving.exchange import BINARY, Decoded, Reply
from anomvae.serving.v2_plan import plan_of
from anomvae.serving.v2_tensors import Tensor, checked_shape, refuse_outputs_beyond_tensors, refuse_shared_memory
from anomvae.serving.wishes import MAX_ROWS, refuse_large_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomvae.serving.exchange import Arrays
    from anomvae.serving.model import ServedModel
    from anomvae.serving.v2_plan import InferPlan

HEADER_LENGTH = "inference-header-content-length"
"""Header that says how much of a body is JSON, where bytes of tensors follow it."""
_LONGEST_LENGTH = 19


def decode_infer(model: ServedModel, body: bytes, headers: Mapping[str, str], *, max_rows: int = MAX_ROWS) -> Decoded:
    """Decodes the body of `POST v2/models/{name}/infer`.

    Inputs are the graph's: `numeric` ``[n, d]``, any datatype of numbers, null or NaN where missing; `categorical`
    ``[n, c]``, codes of the manifest's categories; `alarm_rate`, one number, if not the model's own; and, where groups have
    calibrations of their own, `group` ``[n]`` or ``[1]``, their numbers in the manifest, any other meaning none of them. Or they
    are the detector's columns, one input each; see :func:`~anomvae.serving.v2_columns.rows_by_column`.

    Outputs are the graph's: those named, or all. Where an answer is JSON, an output that is not finite is null, since
    JSON has no word for it; ask for binary data where that matters.

    Request parameters: `alarm_rate`, `timeout` in microseconds, `binary_data_output`; others are not looked at.

    Args:
        model: The model that is to answer.
        body: Of the request.
        headers: Of the request, by lower-case name.
        max_rows: Most rows.

    Raises:
        RequestTooLargeError: The request has too many rows, or too much JSON.
        InputError: It cannot be read, does not fit the model, or asks for what it cannot give.
    """
    length = headers.get(HEADER_LENGTH)
    if length is None:
        request, raw = _parsed(body), None
    else:
        end = _header_length(length, len(body))
        whole = memoryview(body)
        request, raw = _parsed(whole[:end]), whole[end:]
    plan = plan_of(model)
    tensors = _tensors(request.get("inputs"), raw)
    parameters = _mapping(request.get("parameters"), "the request")
    by_default = _flag(parameters, "binary_data_output", default=False) if parameters else False
    wanted, binary = _outputs(request.get("outputs"), by_default)
    asked = plan.understand(tensors, wanted, parameters, max_rows=max_rows)
    request_id = request.get("id")
    if request_id is not None and type(request_id) is not str:
        raise RequestError("the request's 'id' is no text")
    if by_default and not wanted:
        binary = set(asked.outputs)
    if binary:
        encode = partial(_with_bytes, plan, request_id, asked.outputs, binary)
    else:
        encode = partial(_as_json, plan, request_id, asked.outputs)
    protocol = "v2-json" if length is None else "v2-binary"
    return Decoded(asked.rows, asked.outputs, encode, protocol, asked.alarm_rate, asked.timeout_s)


def _parsed(text: bytes | memoryview) -> dict[str, Any]:
    refuse_large_json(len(text))
    try:
        request = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RequestError(
            f"the request is no JSON, first at line {error.lineno}, column {error.colno} (a missing number is null there)"
        ) from None
    if type(request) is not dict:
        raise RequestError("the request is JSON but no object; it takes one with 'inputs'")
    return request


def _header_length(stated: str, size: int) -> int:
    if not (stated.isascii() and stated.isdigit() and len(stated) <= _LONGEST_LENGTH and int(stated) <= size):
        raise RequestError(f"the header {HEADER_LENGTH} is no number of bytes up to the body's {size:,}")
    return int(stated)


def _mapping(value: Any, where: str) -> dict[str, Any] | None:
    if value is None or type(value) is dict:
        return value
    raise RequestError(f"the parameters of {where} are no object")


def _flag(parameters: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = parameters.get(key)
    if value is None:
        return default
    if type(value) is not bool:
        raise RequestError(f"parameter {key!r} is neither true nor false")
    return value


def _tensors(inputs: Any, raw: memoryview | None) -> list[Tensor]:
    """The inputs, those sent as bytes with theirs."""
    if type(inputs) is not list or not inputs:
        raise RequestError("the request has no list of 'inputs'")
    tensors, at = [], 0
    for stated in inputs:
        if type(stated) is not dict or type(stated.get("name")) is not str:
            raise RequestError("an entry of 'inputs' is no object with a 'name'")
        name: str = stated["name"]
        parameters = stated.get("parameters")
        size = None if parameters is None else _bytes_stated(parameters, name)
        cells = stated.get("data")
        if size is not None:
            if raw is None or size > len(raw) - at or cells is not None:
                raise RequestError(
                    f"input {quoted(name)} states 'binary_data_size' {size:,}; it takes as many bytes after the JSON, "
                    f"the header {HEADER_LENGTH}, and no 'data'"
                )
            cells = raw[at : at + size]
            at += size
        tensors.append(_tensor(name, stated, cells))
    if raw is not None and at != len(raw):
        raise RequestError(f"{len(raw) - at:,} bytes after the JSON belong to no input's 'binary_data_size'")
    return tensors


def _tensor(name: str, stated: Mapping[str, Any], cells: Any) -> Tensor:
    shape = checked_shape(stated.get("shape"), name)
    if type(cells) is not list and type(cells) is not memoryview:
        if shape or cells is None or type(cells) is dict:
            raise RequestError(f"input {quoted(name)} has no list of 'data' and no 'binary_data_size'")
        cells = [cells]
    return Tensor(name, known_datatype(stated.get("datatype"), name), shape, cells)


def _bytes_stated(parameters: Any, name: str) -> int | None:
    where = f"input {quoted(name)}"
    found = _mapping(parameters, where) or {}
    refuse_shared_memory(found, where)
    size = found.get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise RequestError(f"'binary_data_size' of {where} is no number of bytes")
    return size


def _outputs(stated: Any, by_default: bool) -> tuple[list[str], set[str]]:
    """Names of the outputs asked for, and of those asked for as bytes."""
    names: list[str] = []
    binary: set[str] = set()
    if stated is None:
        return names, binary
    if type(stated) is not list:
        raise RequestError("the request's 'outputs' are no list")
    for output in stated:
        if type(output) is not dict or type(output.get("name")) is not str:
            raise RequestError("an entry of 'outputs' is no object with a 'name'")
        name = output["name"]
        names.append(name)
        parameters = output.get("parameters")
        if parameters is not None:
            where = f"output {quoted(name)}"
            parameters = _mapping(parameters, where) or {}
            refuse_outputs_beyond_tensors(parameters, where)
            if _flag(parameters, "binary_data", default=by_default):
                binary.add(name)
        elif by_default:
            binary.add(name)
    return names, binary


def _answer(plan: InferPlan, request_id: str | None, outputs: list[dict[str, Any]]) -> dict[str, Any]:
    if request_id is None:
        return {**plan.identity, "outputs": outputs}
    return {**plan.identity, "id": request_id, "outputs": outputs}


def _as_json(plan: InferPlan, request_id: str | None, names: tuple[str, ...], arrays: Arrays) -> Reply:
    datatypes = plan.datatypes
    outputs = [
        {"name": name, "datatype": datatypes[name], "shape": arrays[name].shape, "data": arrays[name].ravel()}
        for name in names
    ]
    return Reply(orjson.dumps(_answer(plan, request_id, outputs), option=orjson.OPT_SERIALIZE_NUMPY))


def _with_bytes(
    plan: InferPlan, request_id: str | None, names: tuple[str, ...], binary: set[str], arrays: Arrays
) -> Reply:
    outputs: list[dict[str, Any]] = []
    chunks: list[bytes | memoryview] = []
    for name in names:
        array = arrays[name]
        output: dict[str, Any] = {"name": name, "datatype": plan.datatypes[name], "shape": array.shape}
        if name in binary:
            raw = raw_of(array)
            output["parameters"] = {"binary_data_size": raw.nbytes}
            chunks.append(raw.data.cast("B") if raw.nbytes else b"")
        else:
            output["data"] = array.ravel()
        outputs.append(output)
    text = orjson.dumps(_answer(plan, request_id, outputs), option=orjson.OPT_SERIALIZE_NUMPY)
    return Reply(b"".join([text, *chunks]), BINARY, ((HEADER_LENGTH, str(len(text))),))
