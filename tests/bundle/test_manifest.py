"""The manifest as JSON: the same comes back, and damage is told from a bug."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomvae.bundle import Calibration, Column, Manifest, TrainingRecord
from anomvae.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False)
COLUMNS = st.builds(
    Column,
    name=TEXT,
    kind=st.sampled_from(["numeric", "date", "boolean", "categorical"]),
    type=TEXT,
    categories=st.lists(TEXT, max_size=4, unique=True).map(tuple),
    missing_code=st.none() | st.integers(0, 9),
    infinite_is_missing=st.booleans(),
    missing_share=st.floats(0, 1),
    low=NUMBERS,
    high=NUMBERS,
    mean=NUMBERS,
    std=NUMBERS,
    origin=st.none() | TEXT,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
)
FROM_FIXTURE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FROM_FIXTURE
@given(st.lists(COLUMNS, max_size=5).map(tuple))
def test_any_columns_come_back_from_json_as_they_were(manifest: Manifest, columns: tuple[Column, ...]) -> None:
    before = dataclasses.replace(manifest, columns=columns)
    assert Manifest.from_json(before.to_json()) == before


def test_numbers_and_dates_come_before_booleans_and_categories_each_in_table_order(manifest: Manifest) -> None:
    assert [column.name for column in manifest.numeric] == ["flow", "day"]
    assert [column.name for column in manifest.categorical] == ["Größe", "on"]
    assert [column.name for column in manifest.scored] == ["flow", "day", "Größe", "on"]
    assert manifest.carried == ("operator", "at")


def test_the_code_after_the_last_means_never_seen() -> None:
    seen, unseen = (
        Column("c", "categorical", "string", ("a", "b"), missing_code=2),
        Column("c", "categorical", "string", ("a",)),
    )
    assert (seen.n_codes, seen.unknown_code) == (4, 3)
    assert (unseen.n_codes, unseen.unknown_code) == (2, 1)


def test_numbers_that_json_does_not_have_are_not_written(manifest: Manifest) -> None:
    with pytest.raises(ValueError, match="JSON"):
        dataclasses.replace(manifest, columns=(Column("x", "numeric", "double", std=math.inf),)).to_json()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        '"text"',
        "{}",
        '{"format_version": "one"}',
        '{"format_version": null}',
        '{"format_version": 1e999}',
        "[" * 100_000,
    ],
)
def test_what_is_no_manifest_is_refused_with_where_it_came_from(text: str) -> None:
    with pytest.raises(BundleError, match=r"pumps/manifest\.json is not a bundle's manifest"):
        Manifest.from_json(text, where="pumps/manifest.json")


def places(raw: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    inner = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    for key, value in inner:
        yield from places(value, (*path, key))


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_manifest_with_any_one_value_spoilt_is_read_or_refused_but_never_a_crash(
    manifest: Manifest, data: st.DataObject
) -> None:
    raw = json.loads(manifest.to_json())
    spoilt = copy.deepcopy(raw)
    *path, last = data.draw(st.sampled_from(list(places(raw))))
    inner = spoilt
    for key in path:
        inner = inner[key]
    if data.draw(st.booleans()):
        del inner[last]
    else:
        inner[last] = data.draw(JSON)
    try:
        found = Manifest.from_json(json.dumps(spoilt))
    except BundleError:
        return
    assert isinstance(found.files, dict)
    assert all(isinstance(column, Column) for column in found.columns)


@pytest.mark.parametrize("field", ["columns", "left_out", "split", "calibration", "provenance"])
def test_a_manifest_that_lacks_a_part_is_refused(manifest: Manifest, field: str) -> None:
    raw = json.loads(manifest.to_json())
    del raw[field]
    with pytest.raises(BundleError, match="damaged: a field is missing or unknown"):
        Manifest.from_json(json.dumps(raw))
    with pytest.raises(BundleError, match="damaged"):
        Manifest.from_json(json.dumps({**json.loads(manifest.to_json()), "surprise": 1}))


@pytest.mark.parametrize("spoilt", [[], "text", 3, None, {}])
def test_a_calibration_that_is_none_is_refused(manifest: Manifest, spoilt: Any) -> None:
    with pytest.raises(BundleError, match="damaged"):
        Manifest.from_json(json.dumps({**json.loads(manifest.to_json()), "calibration": spoilt}))


def test_the_groups_with_a_table_of_their_own_are_coded_in_the_graphs_order(manifest: Manifest) -> None:
    column = manifest.calibration.group_column
    assert column is not None
    assert (column.name, column.categories, column.missing_code, column.unknown_code) == (
        "operator",
        ("Ü-7", "8"),
        None,
        2,
    )
    for without in ({"by": None, "groups": ()}, {"groups": ()}):
        assert dataclasses.replace(manifest.calibration, **without).group_column is None


def test_the_column_of_the_groups_goes_along_to_the_answers_once(manifest: Manifest) -> None:
    def carried(by: str) -> tuple[str, ...]:
        return dataclasses.replace(manifest, calibration=dataclasses.replace(manifest.calibration, by=by)).carried

    assert carried("operator") == ("operator", "at")
    assert carried("line") == ("operator", "at", "line")
    assert carried("Größe") == ("operator", "at")  # scored


FORMAT_1 = {
    "method": "split",
    "rows": 199,
    "alarm_rate": 0.05,
    "smallest_alarm_rate": 0.005,
    "decision": "either",
    "score_threshold": 9.5,
    "reconstruction_threshold": 1.25,
}


@pytest.mark.parametrize(("decision", "smallest"), [("elbo", 0.005), ("reconstruction", 0.005), ("either", 0.01)])
def test_a_manifest_of_format_1_still_reads_and_knows_of_no_groups_and_no_tail(
    manifest: Manifest, decision: str, smallest: float
) -> None:
    raw = {**json.loads(manifest.to_json()), "format_version": 1, "calibration": {**FORMAT_1, "decision": decision}}
    found = Manifest.from_json(json.dumps(raw))
    assert found.format_version == 1
    assert found.calibration == Calibration("split", 199, 0.05, smallest, decision, 9.5, 1.25)  # type: ignore[arg-type]
    assert found.calibration.group_column is None
    assert found.carried == ("operator", "at")


def test_a_training_record_comes_back_or_is_refused() -> None:
    record = TrainingRecord({"a": 1, "b": "x", "c": True}, {"loss": 0.5}, {"step": [1.0]}, {})
    assert TrainingRecord.from_json(record.to_json()) == record
    for text in ("", "{", "[]", "null", "{}", '{"parameters": {}}'):
        with pytest.raises(BundleError, match=r"training\.json is damaged"):
            TrainingRecord.from_json(text)
