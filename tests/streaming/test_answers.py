"""An answer is one JSON object: what came along, then what was found."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomvae.streaming.answers import LARGE, RESERVED, AnswerWriter, Verdicts, outgoing


def verdicts(n: int, **more: Any) -> Verdicts:
    numbers = np.arange(n, dtype=np.float64)
    made = Verdicts(numbers, numbers / 10, numbers, numbers > 1, {}, {})
    return made._replace(**more)


def write(rows: list[dict[str, Any]], found: Verdicts | None = None) -> list[dict[str, Any]]:
    writer = AnswerWriter({"flow"}, "7")
    ids = [f"id {i}" for i in range(len(rows))]
    payloads = writer.write(writer.beginnings(rows), found or verdicts(len(rows)), ids, np.full(len(rows), 0.25))
    return [orjson.loads(payload) for payload in payloads]


def test_fields_that_are_not_scored_go_along_as_they_came_and_before_the_rest() -> None:
    row = {"b": [1, {"x": None}], "flow": 3.5, "a": "text", "n": 1e300}
    (answer,) = write([row])
    assert answer == {
        "b": [1, {"x": None}], "a": "text", "n": 1e300, "score": 0.0, "p_value": 0.0, "reconstruction_error": 0.0,
        "alarm": False, "reasons": [], "event_id": "id 0", "model_version": "7", "latency_s": 0.25,
    }  # fmt: skip
    assert list(answer)[:4] == ["b", "a", "n", "score"]


def test_records_of_other_fields_lie_side_by_side() -> None:
    answers = write([{"a": 1}, {"b": 2, "a": 1}, {"flow": 1}, {"a": 1}])
    assert [[name for name in answer if name not in RESERVED] for answer in answers] == [["a"], ["b", "a"], [], ["a"]]


CELLS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.sampled_from(['x",', '","', "\\", "%b"])
    | st.lists(st.integers(), max_size=2) | st.dictionaries(st.text(max_size=2), st.none(), max_size=2)
)  # fmt: skip


@given(st.data(), st.lists(st.sampled_from(["a", "b%", 'c"', "flow", "score", "d"]), unique=True))
def test_rows_of_the_same_fields_are_written_as_each_would_be_alone(data: st.DataObject, names: list[str]) -> None:
    of_one_kind = [st.text(alphabet='",\\x%'), st.integers(-5, 5), st.none() | st.floats(), CELLS]
    kinds = [data.draw(st.sampled_from(of_one_kind)) for _ in names]
    rows = [{name: data.draw(kind) for name, kind in zip(names, kinds, strict=True)} for _ in range(4)]
    writer = AnswerWriter({"flow"}, "7")
    assert writer.beginnings(rows) == [writer.beginnings([row])[0] for row in rows]
    for row, found in zip(rows, write(rows), strict=True):
        along = {name: cell for name, cell in row.items() if name not in {"flow", "score"}}
        assert {name: found[name] for name in along} == orjson.loads(orjson.dumps(along))


def test_a_field_that_has_the_name_of_an_answers_own_does_not_go_along() -> None:
    (answer,) = write([dict.fromkeys(RESERVED, "theirs")])
    assert "theirs" not in answer.values()
    assert "tail" not in answer


@pytest.mark.parametrize("name", ["kind", "shortened"])
def test_no_field_makes_an_answer_look_like_an_event_or_a_shortened_one(name: str) -> None:
    assert [name in answer for answer in write([{name: "event", "a": 1}, {"a": 2}])] == [False, False]


def test_numbers_that_are_not_finite_are_null() -> None:
    wild = np.array([np.nan, np.inf])
    answers = write([{"a": float("nan")}, {}], verdicts(2, score=wild, p_value=wild, reconstruction_error=-wild))
    assert [[answer[name] for name in ("score", "p_value", "reconstruction_error")] for answer in answers] == [
        [None] * 3
    ] * 2
    assert answers[0]["a"] is None


def test_reasons_and_remarks_stand_with_their_rows() -> None:
    reasons = [{"column": "flow", "contribution": 1.5, "value": 2.0, "expected": 1.0}]
    answers = write(
        [{}, {}, {}], verdicts(3, reasons={2: reasons}, extras={0: {"reason": "filling"}, 2: {"tail": True}})
    )
    assert [answer["reasons"] for answer in answers] == [[], [], reasons]
    assert ([answer.get("reason") for answer in answers], answers[2]["tail"]) == (["filling", None, None], True)


def test_a_field_nested_too_deep_to_be_written_stays_behind() -> None:
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    answers = write([{"deep": deep, "a": 1}, {"a": 2}])
    assert [answer["a"] for answer in answers] == [1, 2]
    assert "deep" not in answers[0]


@pytest.mark.parametrize("depth", range(250, 258))
def test_how_deep_a_field_may_be_does_not_hang_by_its_neighbours_or_its_size(depth: int) -> None:
    deep: Any = 1
    for _ in range(depth):
        deep = [deep]
    row = {"deep": deep, "blob": "x" * LARGE, "a": 1}
    writer = AnswerWriter({"flow"}, "7")
    alone, beside, _ = [*writer.beginnings([row]), *writer.beginnings([row, {"a": 2}])]
    assert alone == beside == writer.beginnings([row, {**row, "a": 2}])[0]
    (payload,) = writer.write([alone], verdicts(1), ["0"], np.zeros(1))
    brief = outgoing(payload, None).brief
    assert brief is not None
    assert orjson.loads(brief.payload)["a"] == 1


def test_a_brief_form_tells_of_long_categories_and_of_many_reasons_in_brief() -> None:
    reason = {"column": "kind", "contribution": 3.5, "value": "q" * 1_000_000, "expected": "pump"}
    payload = orjson.dumps({"id": 1, "score": 2.0, "reasons": [reason] * 1000})
    brief = outgoing(payload, None).brief
    assert brief is not None
    assert len(brief.payload) < 20_000
    said = orjson.loads(brief.payload)
    assert said["reasons"][0]["value"] == "q" * 200 + "..."
    assert said["reasons"][0]["expected"] == "pump"
    assert (said["id"], said["score"], said["shortened"]) == (1, 2.0, True)


def test_a_large_answer_has_a_brief_form_with_all_that_was_found() -> None:
    rows: list[dict[str, Any]] = [{"id": 1, "blob": "x" * LARGE, **{f"f{i}": i for i in range(90)}}, {"id": 2}]
    found = [outgoing(orjson.dumps(answer), b"k" * LARGE) for answer in write(rows)]
    small = outgoing(b'{"id":2}', b"k")
    assert (small.payload, small.key, small.brief) == (b'{"id":2}', b"k", None)
    brief = found[0].brief
    assert brief is not None
    assert brief.key is not None
    assert len(brief.payload) + len(brief.key) < 4_000
    said, whole = orjson.loads(brief.payload), orjson.loads(found[0].payload)
    assert "blob" not in said
    assert said["shortened"] is True
    own = set(RESERVED) & whole.keys()
    assert {name: said[name] for name in own} == {name: whole[name] for name in own}
    keys = {
        made.brief.key for made in (outgoing(b"{}", b"k" * LARGE), outgoing(b"{}", b"k" * (LARGE + 1))) if made.brief
    }
    assert len(keys) == 2
