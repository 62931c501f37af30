"""What the times of rows tell besides their order: a unit, columns that are known, assets that are not."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from anomvae.bundle import SeriesFacts
from anomvae.data.off import parse_off
from anomvae.data.sequences import interval_words, sequence_concerns, sequence_words
from anomvae.data.series import asset_numbers, known_columns, sequences_for
from anomvae.data.step import EPOCH_UNITS, TimeUnit, stated_step
from anomvae.data.strangers import find_strangers
from anomvae.errors import ColumnMismatchError, SchemaError, SettingError
from anomvae.streaming.times import MILLISECONDS_FROM
from tests.data.test_series import laid, manifest


def test_numbers_have_the_unit_that_their_size_tells() -> None:
    assert EPOCH_UNITS[2] == (MILLISECONDS_FROM, "ms", 1e3)  # streams take numbers alike
    for first, step, words in (
        (0.0, 3.0, "3 (in units of 't')"),
        (1.7e9, 1.0, "1 s"),
        (1.7e12, 1e3, "1,000 ms"),
        (1.7e15, 1e6, "1,000,000 us"),
    ):
        found = laid({"t": first + step * np.arange(9), "x": np.zeros(9)})
        assert f"9 steps of {words} in 1 sequence" in sequence_words(found)
    stamps = pa.array(np.arange(9) * 1_000, pa.timestamp("ms"))
    assert laid({"t": stamps, "x": np.zeros(9)}).unit == TimeUnit()
    assert laid({"t": 1.7e12 + 900.0 * np.arange(9), "x": np.zeros(9)}, every_s=1.0).cadence.step_s == 1_000.0


def test_columns_that_a_model_knows_are_never_told_as_unknown() -> None:
    facts = SeriesFacts("t", "unit", "int64", ("1",), window=4, stride=1, step_s=2.0, longest_gap=3, off="rpm > 90")
    known = manifest(facts)
    assert set(known_columns(known)) == {"t", "unit", "rpm", "x"}
    for lacking, unknown in ((["x"], ()), (["rpm", "t"], ()), (["x"], ("note",))):
        cells = {name: [1.0] for name in ("t", "unit", "rpm", "x", *unknown) if name not in lacking}
        with pytest.raises(ColumnMismatchError) as refusal:
            sequences_for(pa.table(cells), known)
        assert (set(refusal.value.missing), refusal.value.unknown) == (set(lacking), unknown)
    with pytest.raises(ColumnMismatchError, match="lack 'x', which the detector needs; rename"):
        laid({"t": [1], "unit": [1], "rpm": [1]}, asset="unit", off=parse_off("rpm < 1"))


def test_strangers_are_the_assets_whose_number_is_unknown() -> None:
    facts = SeriesFacts("t", "unit", "int64", ("1", "2"), window=4, stride=1, step_s=2.0, longest_gap=3,
                        time_type="int64")  # fmt: skip
    for unit in (
        pa.array([1, 7, 7, 8]),
        pa.array(["01", "7", "7.0", "8"]),
        pa.array(["1", "7", "7", "8"]).dictionary_encode(),
    ):
        rows = pa.table({"t": [1, 2, 3, 4], "x": [0.0] * 4, "unit": unit})
        found = sequences_for(rows, manifest(facts))
        codes = asset_numbers(found, rows, facts.asset_column)
        strangers = find_strangers(rows, facts)
        assert (
            tuple(strangers)
            == ((codes == 2).sum(), found.rows_of_asset[codes == 2].sum(), "unit", len(found.assets), 4)
            == (2, 3, "unit", 3, 4)
        )
        assert "2 of the 3 assets of 'unit' are not known to the model (3 of 4 rows)" in (strangers.words or "")
    assert find_strangers(pa.table({"unit": [1, 2]}), facts).words is None
    assert "the one asset of 'unit' is not known" in (find_strangers(pa.table({"unit": [5]}), facts).words or "")


@pytest.mark.parametrize(("kind", "per_second"), [("int64", 1), ("int64", 1e3), ("int64", 1e6), ("double", 1e3)])
def test_numbers_since_1970_are_laid_out_as_the_timestamps_that_the_fit_had(kind: str, per_second: float) -> None:
    facts = SeriesFacts("t", None, "string", (), window=4, stride=1, step_s=2.0, longest_gap=3)
    seconds = 1_700_000_000 + np.array([0, 2, 6])
    counts = pa.array(np.round(seconds * per_second).astype(np.int64)).cast(kind)
    for cells in (counts, pa.array([str(count) for count in counts.to_pylist()])):
        found = sequences_for(pa.table({"t": cells, "x": [0.0, 1.0, 2.0]}), manifest(facts))
        assert found.time_s.tolist() == seconds.tolist()
        assert (found.unit, found.row.tolist()) == (TimeUnit(), [0, 1, -1, 2])


@pytest.mark.parametrize(
    ("time_type", "cells", "words"),
    [
        (
            "timestamp[us]",
            pa.array([0, 2, 4]),
            "holds numbers of an unknown unit, and the model's step of 2 s goes by timestamps",
        ),
        (
            "int64",
            pa.array([0, 2, 4], pa.timestamp("s")),
            "dates or timestamps, and the model's step of 2 (in units of 't')",
        ),
        ("int64", pa.array(["2026-01-01"] * 3), "dates or timestamps, and the model's step of 2 (in units of 't')"),
    ],
)
def test_times_of_another_kind_than_the_fits_are_refused(time_type: str, cells: pa.Array, words: str) -> None:
    facts = SeriesFacts("t", None, "string", (), window=4, stride=1, step_s=2.0, longest_gap=3, time_type=time_type)
    with pytest.raises(SchemaError) as refusal:
        sequences_for(pa.table({"t": cells, "x": [0.0, 1.0, 2.0]}), manifest(facts))
    assert words in str(refusal.value)


def test_numbers_that_may_count_in_another_unit_than_the_fits_are_told_as_such() -> None:
    facts = SeriesFacts("t", None, "string", (), window=4, stride=1, step_s=10_000.0, longest_gap=3, time_type="int64")
    for per_step, is_told in ((10, True), (60_000, False)):
        rows = pa.table({"t": 1_700_000_000_000 + per_step * np.arange(9), "x": np.zeros(9)})
        words = interval_words(sequences_for(rows, manifest(facts)))
        assert words is not None
        assert ("if both are in one unit: see whether the times are written as at the fit" in words) is is_told


def test_a_clock_that_was_set_back_is_named_as_a_cause_of_repeated_rows() -> None:
    local = np.concatenate([np.arange(8), np.arange(4, 12)])
    for kind, is_told in ((pa.timestamp("s"), True), (pa.int64(), False)):
        found = laid({"t": pa.array(local).cast(kind), "x": np.zeros(16)})
        words = " ".join(concern.message for concern in sequence_concerns(found, 4, time="t"))
        assert "follow the row before within half a step" in words
        assert ("if a local clock was set back, as at the end of daylight saving time" in words) is is_told


def test_a_step_longer_than_the_usual_interval_is_refused_since_it_would_not_thin_rows_evenly() -> None:
    assert stated_step(1.4, TimeUnit(), 1.0, 2) == 1.4
    assert stated_step(2.0, TimeUnit(), None, 2) == 2.0
    assert stated_step(2.0, TimeUnit(), 0.0, 2) == 2.0
    with pytest.raises(SettingError, match=r"--every is 5 s, and rows lie 1 s apart: .* resample"):
        stated_step(5.0, TimeUnit(), 1.0, 2)
