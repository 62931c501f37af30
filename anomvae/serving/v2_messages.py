"""The Open Inference Protocol, version 2, as messages of gRPC."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from anomvae.errors import RequestError
from anomvae.serving.datatypes import BYTES, known_datatype, quoted, raw_of
from anomvae.serving.exchange import Decoded
from anomvae.serving.messages import ModelInferResponse
from anomvae.serving.v2_plan import plan_of
from anomvae.serving.v2_tensors import Tensor, checked_shape, refuse_outputs_beyond_tensors, refuse_shared_memory

if TYPE_CHECKING:
    from anomvae.serving.exchange import Arrays
    from anomvae.serving.model import ServedModel
    from anomvae.serving.v2_plan import InferPlan

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
"""Field of a tensor's contents by datatype. FP16 has none: it comes as raw contents."""


def decode_infer_message(model: ServedModel, request: Any) -> Decoded:
    """Decodes a `ModelInferRequest`; :func:`~anomvae.serving.v2.decode_infer` says what may be in one.

    Tensors come as raw contents or as typed ones. The answer has raw contents alone.

    Args:
        model: The model that is to answer.
        request: A message of :mod:`anomvae.serving.messages`.

    Raises:
        InputError: The request cannot be read, does not fit the model, or asks for what it cannot give.
    """
    plan = plan_of(model)
    for output in request.outputs:
        refuse_outputs_beyond_tensors(_parameters(output.parameters), f"output {quoted(output.name)}")
    asked = plan.understand(
        _tensors(request), [output.name for output in request.outputs], _parameters(request.parameters)
    )
    encode = partial(_as_message, plan, request.id, asked.outputs)
    return Decoded(asked.rows, asked.outputs, encode, "grpc", asked.alarm_rate, asked.timeout_s)


def _tensors(request: Any) -> list[Tensor]:
    stated, raw = request.inputs, request.raw_input_contents
    if not stated:
        raise RequestError("the request has no inputs")
    if raw and (len(raw) != len(stated) or any(one.HasField("contents") for one in stated)):
        raise RequestError(
            f"the request has {len(stated):,} inputs and {len(raw):,} raw contents; send one for each, and no contents beside"
        )
    return [_tensor(one, raw[position] if raw else None) for position, one in enumerate(stated)]


def _tensor(stated: Any, raw: bytes | None) -> Tensor:
    name = stated.name
    if stated.parameters:
        refuse_shared_memory(_parameters(stated.parameters), f"input {quoted(name)}")
    datatype = known_datatype(stated.datatype, name)
    shape = checked_shape(list(stated.shape), name)
    if raw is not None:
        return Tensor(name, datatype, shape, memoryview(raw))
    if datatype not in CONTENTS:
        raise RequestError(f"input {quoted(name)} has datatype {datatype}, which comes in raw_input_contents only")
    return Tensor(name, datatype, shape, list(getattr(stated.contents, CONTENTS[datatype])))


def _parameters(parameters: Any) -> dict[str, Any]:
    found = {}
    for key, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        found[key] = None if choice is None else getattr(parameter, choice)
    return found


def _as_message(plan: InferPlan, request_id: str, names: tuple[str, ...], arrays: Arrays) -> Any:
    answer = ModelInferResponse(id=request_id, **plan.identity)
    for name in names:
        array = arrays[name]
        answer.outputs.add(name=name, datatype=plan.datatypes[name], shape=array.shape)
        answer.raw_output_contents.append(raw_of(array).tobytes())
    return answer
