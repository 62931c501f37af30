"""Groups with calibrations of their own, whatever the rows come in; answers hold what the graph has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
import tritonclient.grpc as triton_grpc
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from anomvae.data.encoding import encode_for
from anomvae.errors import ColumnMismatchError, InputError, RequestError, RowError
from anomvae.scoring import Scorer
from anomvae.serving.arrow import decode_score_arrow
from anomvae.serving.exchange import ARROW_STREAM
from anomvae.serving.invocations import decode_invocations
from anomvae.serving.messages import ModelInferRequest
from anomvae.serving.metadata import calibration_facts, model_config, model_metadata
from anomvae.serving.model import ServedModel
from anomvae.serving.records import decode_score
from anomvae.serving.v2 import HEADER_LENGTH, decode_infer
from anomvae.serving.v2_messages import decode_infer_message
from tests.calibrated import SITES, recalibrated, sites

if TYPE_CHECKING:
    from pathlib import Path

    from anomvae.bundle import Bundle
    from anomvae.serving.exchange import Decoded

CELLS = ["north", "south", "east", None, "never seen", "north"]
"""Of the sites: two with calibrations of their own, four ways to have none, and one again."""
CODES = {"north": 0, "south": 1}
NUMBERS = [CODES.get(str(cell), 2) for cell in CELLS]
FLAGS = ("alarm", "tail", "pooled")


@pytest.fixture(scope="module")
def scorer(grouped: Bundle) -> Scorer:
    assert [group.name for group in grouped.manifest.calibration.groups] == ["north", "south"]
    return Scorer(grouped)


@pytest.fixture(scope="module")
def model(grouped: Bundle, scorer: Scorer) -> ServedModel:
    return ServedModel("press", "1", grouped, scorer.session)


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """Rows near the thresholds, so that it matters whose they are held against; the last is far out."""
    rows = sites(len(CELLS), seed=11)
    heat = pa.array([85.0, 85.0, 85.0, 85.0, 60.0, 600.0])
    rows = rows.set_column(rows.column_names.index("temperature"), "temperature", heat)
    return rows.set_column(rows.column_names.index("site"), "site", pa.array(CELLS, pa.string()))


def stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def arrays(model: ServedModel, decoded: Decoded) -> dict[str, Any]:
    return model.session.run_in_chunks(decoded.rows, decoded.outputs, decoded.alarm_rate)


def answers(model: ServedModel, decoded: Decoded) -> list[dict[str, Any]]:
    body = json.loads(decoded.encode(arrays(model, decoded)).body)
    return body.get("answers") or body["predictions"]  # type: ignore[no-any-return]


def without(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{name: cell for name, cell in row.items() if name not in names} for row in rows]


@pytest.mark.parametrize("form", ["records", "columns"])
def test_named_columns_are_judged_by_their_group_as_the_scorer_judges_them(
    model: ServedModel, scorer: Scorer, table: pa.Table, form: str
) -> None:
    rows = table.to_pylist() if form == "records" else table.to_pydict()
    found = answers(model, decode_score(model, orjson.dumps({form: rows}), {}, {}))
    assert without(found, "reasons") == scorer.score(table).drop_columns(["reasons"]).to_pylist()
    assert [row["site"] for row in found] == CELLS
    assert [row["pooled"] for row in found] == [number == 2 for number in NUMBERS]
    assert [type(row[flag]) for row in found for flag in FLAGS] == [bool] * len(CELLS) * len(FLAGS)
    assert len({row["p_value"] for row in found[:3]}) > 1, "the groups are to differ"


def test_rows_without_a_group_are_held_against_all(model: ServedModel, table: pa.Table) -> None:
    bare = table.drop_columns(["site"])
    for body in ({"records": bare.to_pylist()}, {"columns": bare.to_pydict()}):
        decoded = decode_score(model, orjson.dumps(body), {}, {})
        found = answers(model, decoded)
        assert all(row["pooled"] for row in found)
        assert all("site" not in row for row in found)
    some = [{**row, **({"site": "north"} if number == 2 else {})} for number, row in enumerate(bare.to_pylist())]
    found = answers(model, decode_score(model, orjson.dumps(some), {}, {}))
    assert [row["pooled"] for row in found] == [number != 2 for number in range(len(CELLS))]


@pytest.mark.parametrize("cells", ["text", "large", "view", "dictionary"])
def test_arrow_streams_hold_groups_as_any_text(model: ServedModel, scorer: Scorer, table: pa.Table, cells: str) -> None:
    kinds = {"text": pa.string(), "large": pa.large_string(), "view": pa.string_view()}
    column = table["site"].dictionary_encode() if cells == "dictionary" else table["site"].cast(kinds[cells])
    dressed = table.set_column(table.column_names.index("site"), "site", column)
    decoded = decode_score_arrow(model, stream(dressed), {}, {"top": "2"})
    assert decoded.rows.group is not None
    assert decoded.rows.group.tolist() == NUMBERS
    found = pa.ipc.open_stream(decoded.encode(arrays(model, decoded)).body).read_all()
    expected = scorer.score(table, top=2)
    assert found.column_names == expected.column_names
    assert found.drop_columns(["site"]).equals(expected.drop_columns(["site"]))
    assert found["site"].to_pylist() == CELLS
    assert [found.schema.field(flag).type for flag in FLAGS] == [pa.bool_()] * 3


def test_mlflows_forms_and_csv_hold_groups_too(model: ServedModel, scorer: Scorer, table: pa.Table) -> None:
    expected = scorer.score(table).drop_columns(["reasons"]).to_pylist()
    rows = table.to_pylist()
    split = {"columns": table.column_names, "data": [list(row.values()) for row in rows]}
    for body in (
        {"dataframe_split": split},
        {"dataframe_records": rows},
        {"instances": rows},
        {"inputs": table.to_pydict()},
    ):
        found = answers(model, decode_invocations(model, orjson.dumps(body), {}))
        assert without(found, "reasons") == expected
    lines = [
        ",".join(table.column_names),
        *(",".join("" if cell is None else str(cell) for cell in row.values()) for row in rows),
    ]
    found = answers(model, decode_invocations(model, "\n".join(lines).encode(), {"content-type": "text/csv"}))
    assert [row["pooled"] for row in found] == [row["pooled"] for row in expected]
    assert [row["site"] for row in found] == CELLS


def test_a_group_may_be_a_column_that_is_scored(fitted: Bundle, tmp_path: Path, table: pa.Table) -> None:
    bundle = recalibrated(fitted, tmp_path / "material", by="material")
    scorer = Scorer(bundle)
    model = ServedModel("press", "1", bundle, scorer.session)
    expected = scorer.score(table).drop_columns(["reasons"]).to_pylist()
    found = answers(model, decode_score(model, orjson.dumps(table.to_pylist()), {}, {}))
    assert without(found, "reasons", "site") == without(expected, "site")
    assert {row["pooled"] for row in found} <= {True, False}
    decoded = decode_infer(model, orjson.dumps({"inputs": by_column(table)[:-1]}), {})
    assert decoded.rows.group is not None
    assert arrays(model, decoded)["pooled"].tolist() == [row["pooled"] for row in expected]


@settings(max_examples=100, deadline=None)
@given(
    cells=st.lists(
        st.none() | st.sampled_from(SITES) | st.text(max_size=5) | st.integers(0, 99) | st.booleans() | st.floats(),
        min_size=1,
        max_size=6,
    )
)
def test_cells_of_any_kind_name_a_group_or_none(model: ServedModel, cells: list[Any]) -> None:
    row = {"temperature": 60.0, "pressure": 2.5e5, "vibration": 1.0, "cooling": True, "material": "steel"}
    decoded = decode_score(model, orjson.dumps([{**row, "site": cell} for cell in cells]), {}, {})
    assert decoded.rows.group is not None
    assert decoded.rows.group.tolist() == [CODES.get(str(cell), 2) for cell in cells]


def test_a_cell_of_several_is_no_group(model: ServedModel, table: pa.Table) -> None:
    row = {**table.to_pylist()[0], "site": ["north"]}
    with pytest.raises(InputError, match="'site' holds a list"):
        decode_score(model, orjson.dumps([row]), {}, {})


def tensors(table: pa.Table, model: ServedModel, **group: Any) -> list[dict[str, Any]]:
    rows = encode_for(table, model.manifest)
    numeric = [[None if np.isnan(cell) else float(cell) for cell in row] for row in rows.numeric]
    found = [
        {"name": "numeric", "shape": list(rows.numeric.shape), "datatype": "FP32", "data": numeric},
        {
            "name": "categorical",
            "shape": list(rows.categorical.shape),
            "datatype": "INT64",
            "data": rows.categorical.tolist(),
        },
    ]
    if group:
        found.append({"name": "group", "datatype": "INT64", "shape": [len(group["data"])], **group})
    return found


def by_column(table: pa.Table) -> list[dict[str, Any]]:
    kinds = {
        "temperature": "FP64",
        "pressure": "FP64",
        "vibration": "FP64",
        "cooling": "BOOL",
        "material": "BYTES",
        "site": "BYTES",
    }
    return [
        {"name": name, "shape": [table.num_rows], "datatype": kind, "data": table[name].to_pylist()}
        for name, kind in kinds.items()
    ]


@pytest.mark.parametrize("numbers", [NUMBERS, [0, 1, -1, 99, -(2**63), 0]])
def test_tensors_may_come_with_the_numbers_of_groups(
    model: ServedModel, scorer: Scorer, table: pa.Table, numbers: list[int]
) -> None:
    decoded = decode_infer(model, orjson.dumps({"inputs": tensors(table, model, data=numbers)}), {})
    assert decoded.outputs == tuple(model.outputs)
    found, expected = arrays(model, decoded), scorer.answers(encode_for(table, model.manifest), list(model.outputs))
    for name in model.outputs:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    told = {output["name"]: output for output in json.loads(decoded.encode(found).body)["outputs"]}
    assert told["pooled"]["datatype"] == told["tail"]["datatype"] == "BOOL"
    assert told["p_value_verdict"]["datatype"] == "FP32"
    assert told["pooled"]["data"] == [number == 2 for number in NUMBERS]


def test_one_number_is_the_group_of_all_rows_and_none_at_all_of_no_row(model: ServedModel, table: pa.Table) -> None:
    for group, pooled in (({"data": [1]}, False), ({"data": [7]}, True), ({}, True)):
        found = arrays(model, decode_infer(model, orjson.dumps({"inputs": tensors(table, model, **group)}), {}))
        assert found["pooled"].tolist() == [pooled] * len(CELLS)


def test_columns_may_come_with_that_of_the_groups(model: ServedModel, scorer: Scorer, table: pa.Table) -> None:
    expected = scorer.score(table)
    decoded = decode_infer(model, orjson.dumps({"inputs": by_column(table)}), {})
    found = arrays(model, decoded)
    for name in ("alarm", "pooled", "tail"):
        assert found[name].tolist() == expected[name].to_pylist()
    bare = decode_infer(model, orjson.dumps({"inputs": by_column(table)[:-1]}), {})
    assert bare.rows.group is None


@pytest.mark.parametrize(
    ("group", "error", "said"),
    [
        ({"data": [0, 1]}, RowError, r"shape \[2\]; beside 6 rows it takes \[6\] or \[1\]"),
        ({"data": [0.0] * 6, "datatype": "FP32"}, RowError, "has datatype FP32"),
        ({"data": ["a"] * 6, "datatype": "BYTES"}, RequestError, "has datatype BYTES where numbers"),
        ({"data": [[0]] * 6, "shape": [6, 1]}, RowError, r"shape \[6, 1\]"),
    ],
)
def test_numbers_of_groups_that_are_none_are_refused(
    model: ServedModel, table: pa.Table, group: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        decode_infer(model, orjson.dumps({"inputs": tensors(table, model, **group)}), {})


def test_numbers_of_groups_do_not_go_with_columns_nor_with_a_model_without_groups(
    model: ServedModel, fitted: Bundle, table: pa.Table
) -> None:
    number = tensors(table, model, data=NUMBERS)[-1]
    with pytest.raises(
        RequestError, match="goes with numeric and categorical; beside columns send that of the groups, 'site'"
    ):
        decode_infer(model, orjson.dumps({"inputs": [*by_column(table)[:-1], number]}), {})
    plain = ServedModel("press", "1", fitted, Scorer(fitted).session)
    with pytest.raises(RequestError, match="'press' has no groups"):
        decode_infer(plain, orjson.dumps({"inputs": tensors(table, model, data=NUMBERS)}), {})
    with pytest.raises(ColumnMismatchError):
        decode_infer(model, orjson.dumps({"inputs": by_column(table)[1:]}), {})


def test_tritons_http_client_sends_groups_as_bytes_and_reads_the_flags(
    model: ServedModel, scorer: Scorer, table: pa.Table
) -> None:
    rows = encode_for(table, model.manifest)
    assert rows.group is not None
    inputs = []
    for name, cells, kind in (
        ("numeric", rows.numeric, "FP32"),
        ("categorical", rows.categorical, "INT64"),
        ("group", rows.group, "INT64"),
    ):
        inputs.append(InferInput(name, list(cells.shape), kind).set_data_from_numpy(cells))
    wanted = [InferRequestedOutput(name, binary_data=True) for name in (*FLAGS, "p_value_verdict")]
    body, length = InferenceServerClient.generate_request_body(inputs, outputs=wanted)
    decoded = decode_infer(model, body, {HEADER_LENGTH: str(length)})
    reply = decoded.encode(arrays(model, decoded))
    read = InferenceServerClient.parse_response_body(reply.body, header_length=int(dict(reply.headers)[HEADER_LENGTH]))
    for name in (*FLAGS, "p_value_verdict"):
        expected = scorer.answers(rows, [name])[name]
        assert read.as_numpy(name).dtype == expected.dtype
        np.testing.assert_array_equal(read.as_numpy(name), expected)


def test_tritons_grpc_client_sends_groups_and_reads_the_flags(
    model: ServedModel, scorer: Scorer, table: pa.Table
) -> None:
    rows = encode_for(table, model.manifest)
    assert rows.group is not None
    request = ModelInferRequest(model_name="press")
    for name, cells, kind in (
        ("numeric", rows.numeric, "FP32"),
        ("categorical", rows.categorical, "INT64"),
        ("group", rows.group, "INT64"),
    ):
        one = triton_grpc.InferInput(name, list(cells.shape), kind)
        one.set_data_from_numpy(cells)
        request.inputs.add(name=name, datatype=kind, shape=one.shape())
        request.raw_input_contents.append(one._get_content())
    decoded = decode_infer_message(model, request)
    message = triton_grpc.service_pb2.ModelInferResponse.FromString(
        decoded.encode(arrays(model, decoded)).SerializeToString()
    )
    read = triton_grpc.InferResult(message)
    for name in (*FLAGS, "p_value_verdict"):
        np.testing.assert_array_equal(read.as_numpy(name), scorer.answers(rows, [name])[name])


def test_the_model_tells_of_groups_without_naming_them(model: ServedModel, fitted: Bundle) -> None:
    assert [spec["name"] for spec in model_metadata(model)["inputs"]] == ["numeric", "categorical"]
    optional = [spec for spec in model_config(model)["input"] if spec["optional"]]
    assert optional == [
        {"name": "alarm_rate", "data_type": "TYPE_FP32", "dims": [1], "optional": True},
        {"name": "group", "data_type": "TYPE_INT64", "dims": [-1], "optional": True},
    ]
    plain = ServedModel("press", "1", fitted, Scorer(fitted).session)
    assert [spec["name"] for spec in model_config(plain)["input"]] == ["numeric", "categorical", "alarm_rate"]
    outputs = {spec["name"]: spec["datatype"] for spec in model_metadata(model)["outputs"]}
    assert (outputs["tail"], outputs["pooled"], outputs["p_value_verdict"]) == ("BOOL", "BOOL", "FP32")
    facts = calibration_facts(model.manifest)
    assert (facts["groups"], facts["groups_pooled"], facts["group_column"], facts["tail"]) == (2, 1, "site", True)
    assert not any(name in json.dumps(facts) for name in SITES[:2])


def test_bundles_of_the_first_format_answer_as_they_did(fitted: Bundle, table: pa.Table) -> None:
    class Old:
        """A graph without what came later."""

        has_groups = False

        def __init__(self) -> None:
            self._session = Scorer(fitted).session
            later = ("tail", "pooled", "p_value_verdict")
            self.input_specs = self._session.input_specs
            self.output_specs = tuple(spec for spec in self._session.output_specs if spec.name not in later)

    model = ServedModel("press", "1", fitted, Old())  # type: ignore[arg-type]
    decoded = decode_score(model, orjson.dumps(table.to_pylist()), {"accept": ARROW_STREAM}, {"top": "0"})
    assert decoded.outputs == ("score", "p_value", "reconstruction_error", "p_value_reconstruction", "alarm")
    found = pa.ipc.open_stream(
        decoded.encode(Scorer(fitted).session.run(decoded.rows, decoded.outputs)).body
    ).read_all()
    assert found.column_names == ["part", *decoded.outputs]


def test_a_carried_column_makes_room_only_for_answers_that_there_are(
    fitted: Bundle, grouped: Bundle, table: pa.Table
) -> None:
    import dataclasses

    from anomvae.bundle import Bundle, LeftOut

    for bundle, kept in ((fitted, True), (grouped, False)):
        left_out = (*bundle.manifest.left_out, LeftOut("pooled", "an id", "identifier"))
        told = Bundle(bundle.folder, dataclasses.replace(bundle.manifest, left_out=left_out))
        model = ServedModel("press", "1", told, Scorer(bundle).session)
        rows = [{**row, "pooled": "mine"} for row in table.to_pylist()]
        found = answers(model, decode_score(model, orjson.dumps(rows), {}, {}))
        assert [row["pooled"] == "mine" for row in found] == [kept] * len(CELLS)
