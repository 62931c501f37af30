from __future__ import annotations

from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError
from grpc_tools import protoc
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import InferInput, model_config_pb2, service_pb2
from tritonclient.utils import np_to_triton_dtype

from anomvae.errors import InputError, RequestError, SettingError, TooFewRowsError
from anomvae.scoring import GraphSession
from anomvae.serving.messages import DESCRIPTORS, HEALTH, INFERENCE, ModelInferRequest, message_class, methods_of
from anomvae.serving.model import ServedModel
from anomvae.serving.v2_messages import CONTENTS, decode_infer_message

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from anomvae.bundle import Bundle
    from anomvae.serving.exchange import Decoded

ROWS = np.array([[60.0, 2.5e5, 1.25], [61.5, np.nan, 0.5]], np.float32)
CODES = np.array([[0, 2], [1, 3]], np.int64)
SOURCES = ("open_inference.proto", "health.proto")


@pytest.fixture(scope="module")
def model(fitted: Bundle) -> ServedModel:
    return ServedModel("press", "7", fitted, GraphSession(fitted.graph, fitted.manifest.width))


def stored() -> descriptor_pb2.FileDescriptorSet:
    content = files("anomvae.serving").joinpath(DESCRIPTORS).read_bytes()
    return descriptor_pb2.FileDescriptorSet.FromString(content)


def raw_request(**tensors: npt.NDArray[Any]) -> Any:
    asked = ModelInferRequest(model_name="press")
    for name, cells in tensors.items():
        asked.inputs.add(name=name, datatype=np_to_triton_dtype(cells.dtype), shape=cells.shape)
        asked.raw_input_contents.append(cells.tobytes())
    return asked


def typed_request(**tensors: tuple[str, list[int], dict[str, list[Any]]]) -> Any:
    asked = ModelInferRequest(model_name="press")
    for name, (datatype, shape, contents) in tensors.items():
        asked.inputs.add(name=name, datatype=datatype, shape=shape, contents=contents)
    return asked


def run(model: ServedModel, decoded: Decoded) -> Any:
    return decoded.encode(model.session.run_in_chunks(decoded.rows, decoded.outputs, decoded.alarm_rate))


def test_the_descriptors_are_those_of_the_proto_files(tmp_path: Path) -> None:
    made = tmp_path / "made.binpb"
    with as_file(files("anomvae.serving")) as folder:
        assert protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={made}", *SOURCES]) == 0
    assert descriptor_pb2.FileDescriptorSet.FromString(made.read_bytes()) == stored()


def theirs() -> dict[str, descriptor_pb2.DescriptorProto]:
    """Messages of Triton's client by name, nested ones as `Outer.Inner`."""
    found = {}
    for module in (service_pb2, model_config_pb2):
        file = descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
        found.update(flattened(file.message_type))
    return found


def flattened(messages: Any, prefix: str = "") -> dict[str, Any]:
    found = {}
    for message in messages:
        found[prefix + message.name] = message
        found.update(flattened(message.nested_type, f"{prefix}{message.name}."))
    return found


def test_every_field_is_the_one_that_tritons_client_knows() -> None:
    (inference,) = (file for file in stored().file if file.package == "inference")
    known = theirs()
    for name, message in flattened(inference.message_type).items():
        fields = {field.name: field for field in known[name].field}
        for field in message.field:
            other = fields[field.name]
            mine = (field.number, field.type, field.label, field.type_name)
            assert mine == (other.number, other.type, other.label, other.type_name), f"{name}.{field.name}"
    datatypes = inference.enum_type[0]
    assert [(value.name, value.number) for value in datatypes.value] == list(model_config_pb2.DataType.items())


def test_every_method_is_one_that_tritons_client_calls() -> None:
    known = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    for name, method in methods_of(INFERENCE).items():
        assert method.request.DESCRIPTOR.full_name == known[name].input_type.full_name
        assert method.response.DESCRIPTOR.full_name == known[name].output_type.full_name
    assert list(methods_of(HEALTH)) == ["Check"]


def test_messages_pass_between_this_package_and_tritons() -> None:
    given_in = InferInput("numeric", [2, 3], "FP32").set_data_from_numpy(ROWS)
    sent = service_pb2.ModelInferRequest(model_name="press", inputs=[given_in._get_tensor()])
    sent.raw_input_contents.append(given_in._get_content())
    read = ModelInferRequest.FromString(sent.SerializeToString())
    assert read.inputs[0].name == "numeric"
    assert read.SerializeToString(deterministic=True) == sent.SerializeToString(deterministic=True)


def test_raw_tensors_are_answered_with_raw_tensors(model: ServedModel) -> None:
    asked = raw_request(numeric=ROWS, categorical=CODES)
    asked.id = "a"
    asked.outputs.add(name="score")
    asked.outputs.add(name="alarm")
    decoded = decode_infer_message(model, asked)
    assert decoded.protocol == "grpc"
    assert np.array_equal(decoded.rows.numeric, ROWS, equal_nan=True)
    expected = model.session.run_in_chunks(decoded.rows, ("score", "alarm"))
    answered = run(model, decoded)
    assert (answered.model_name, answered.model_version, answered.id) == ("press", "7", "a")
    assert [(one.name, one.datatype, list(one.shape)) for one in answered.outputs] == [
        ("score", "FP32", [2]),
        ("alarm", "BOOL", [2]),
    ]
    assert np.array_equal(np.frombuffer(answered.raw_output_contents[0], np.float32), expected["score"])
    assert np.array_equal(np.frombuffer(answered.raw_output_contents[1], np.bool_), expected["alarm"])


@pytest.mark.parametrize("datatype", [name for name in CONTENTS if name != "BYTES"])
def test_typed_contents_are_read_by_their_datatype(model: ServedModel, datatype: str) -> None:
    cells = [1, 0, 1, 0, 1, 1]
    asked = typed_request(
        numeric=(datatype, [2, 3], {CONTENTS[datatype]: cells}),
        categorical=("INT64", [2, 2], {"int64_contents": [0, 2, 1, 3]}),
    )
    rows = decode_infer_message(model, asked).rows
    assert rows.numeric.ravel().tolist() == cells
    assert rows.categorical.tolist() == CODES.tolist()


def test_columns_of_text_come_typed(model: ServedModel) -> None:
    asked = typed_request(
        material=("BYTES", [2], {"bytes_contents": [b"steel", b"granite"]}),
        cooling=("BOOL", [2], {"bool_contents": [True, False]}),
        **{name: ("FP64", [2, 1], {"fp64_contents": [1.0, 2.0]}) for name in ("temperature", "pressure", "vibration")},
    )
    assert decode_infer_message(model, asked).rows.categorical.tolist() == [[1, 2], [0, 4]]


def test_parameters_are_read_by_what_they_are(model: ServedModel) -> None:
    asked = raw_request(numeric=ROWS, categorical=CODES)
    asked.parameters["alarm_rate"].double_param = 0.2
    asked.parameters["timeout"].int64_param = 500_000
    asked.parameters["unset"].SetInParent()
    decoded = decode_infer_message(model, asked)
    assert (decoded.alarm_rate, decoded.timeout_s) == (0.2, 0.5)
    asked.parameters["alarm_rate"].double_param = 1e-6
    with pytest.raises(TooFewRowsError):
        decode_infer_message(model, asked)
    for wrong in (float("nan"), -1.0, 5e-324):
        asked.parameters["alarm_rate"].double_param = wrong
        with pytest.raises(SettingError):
            decode_infer_message(model, asked)


def _broken() -> dict[str, Any]:
    whole: dict[str, npt.NDArray[Any]] = {"numeric": ROWS, "categorical": CODES}
    both, short, shared, asked_twice, classes = (raw_request(**whole) for _ in range(5))
    both.inputs[0].contents.fp32_contents.append(1.0)
    del short.raw_input_contents[1]
    shared.inputs[0].parameters["shared_memory_region"].string_param = "x"
    for _ in range(2):
        asked_twice.outputs.add(name="score")
    classes.outputs.add(name="score").parameters["classification"].int64_param = 2
    negative = raw_request(**whole)
    negative.inputs[0].shape[0] = -1
    codes = ("INT64", [2, 2], {"int64_contents": [0, 2, 1, 3]})
    return {
        "nothing": ModelInferRequest(),
        "raw and typed contents": both,
        "fewer raw contents than inputs": short,
        "shared memory": shared,
        "an output twice": asked_twice,
        "classes": classes,
        "a negative extent": negative,
        "half precision typed": typed_request(
            numeric=("FP16", [2, 3], {"fp32_contents": [1.0] * 6}), categorical=codes
        ),
        "contents of another datatype": typed_request(
            numeric=("FP32", [2, 3], {"fp64_contents": [1.0] * 6}), categorical=codes
        ),
        "a whole number too large": typed_request(
            numeric=("INT8", [2, 3], {"int_contents": [300] * 6}), categorical=codes
        ),
        "no datatype": typed_request(numeric=("", [2, 3], {"fp32_contents": [1.0] * 6}), categorical=codes),
    }


BROKEN = _broken()


@pytest.mark.parametrize("asked", BROKEN.values(), ids=list(BROKEN))
def test_a_message_that_does_not_fit_is_refused(model: ServedModel, asked: Any) -> None:
    with pytest.raises(RequestError):
        decode_infer_message(model, asked)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_damage_to_a_message_gives_rows_or_a_refusal(model: ServedModel, data: st.DataObject) -> None:
    body = bytearray(raw_request(numeric=ROWS, categorical=CODES).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        asked = ModelInferRequest.FromString(bytes(body))
    except DecodeError:
        return
    try:
        decoded = decode_infer_message(model, asked)
    except InputError:
        return
    assert len(decoded.rows.numeric) == len(decoded.rows.categorical)


def test_message_classes_are_found_by_short_and_full_name() -> None:
    assert message_class("ModelInferRequest") is ModelInferRequest
    assert message_class("grpc.health.v1.HealthCheckResponse")(status="SERVING").status == 1
