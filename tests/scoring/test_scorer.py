from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomvae.calibration import p_values
from anomvae.data.encoding import encode
from anomvae.data.reading import open_rows
from anomvae.data.writing import Answers, write_answers
from anomvae.errors import SettingError, TooFewRowsError
from anomvae.scoring import Scorer
from anomvae.scoring.reasons import natural_reasons, top_columns
from tests.calibrated import recalibrated, sites

if TYPE_CHECKING:
    from pathlib import Path

    from anomvae.bundle import Bundle


@pytest.fixture(scope="module")
def scorer(fitted: Bundle) -> Scorer:
    return Scorer(fitted)


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    draw = np.random.default_rng(7)
    n = 700
    return pa.table(
        {
            "cooling": pa.array([None if k % 11 == 0 else bool(k % 2) for k in range(n)]),
            "part": [f"Q{k}" for k in range(n)],
            "material": pa.array([[None, "steel", "brass", "unobtainium"][k % 4] for k in range(n)]),
            "pressure": pa.array(np.where(draw.random(n) < 0.1, np.nan, draw.normal(2.5e5, 6e4, n)), from_pandas=True),
            "temperature": draw.normal(60, 12, n),
            "unrelated": ["x"] * n,
            "vibration": np.exp(draw.normal(size=n)),
        }
    )


def test_answers_come_row_for_row_in_order_behind_the_identifiers(scorer: Scorer, rows: pa.Table) -> None:
    answers = scorer.score(rows)
    assert answers.schema.names == [
        "part",
        "score",
        "p_value",
        "reconstruction_error",
        "p_value_reconstruction",
        "alarm",
        "tail",
        "reasons",
    ]
    assert answers["part"].to_pylist() == rows["part"].to_pylist()
    backwards = scorer.score(rows.take(pa.array(np.arange(rows.num_rows)[::-1])))
    assert answers["score"].to_pylist() == backwards["score"].to_pylist()[::-1]


@given(cuts=st.lists(st.integers(1, 699), max_size=6))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_rows_answers_do_not_depend_on_its_batch_to_the_last_bit(
    scorer: Scorer, rows: pa.Table, cuts: list[int]
) -> None:
    whole = scorer.score(rows)
    edges = [0, *sorted(set(cuts)), rows.num_rows]
    parts = [scorer.score(rows.slice(start, stop - start)) for start, stop in itertools.pairwise(edges)]
    assert pa.concat_tables(parts).equals(whole)


def test_contributions_and_the_latent_term_sum_to_the_score(scorer: Scorer, rows: pa.Table) -> None:
    encoded = encode(rows, scorer.manifest.columns)
    found = scorer.answers(encoded, ["score", "contribution", "latent_contribution"])
    total = found["contribution"].sum(axis=1) + found["latent_contribution"]
    assert np.allclose(total, found["score"], rtol=1e-4, atol=1e-4)


def test_a_missing_number_contributes_nothing_and_an_unknown_category_a_lot(scorer: Scorer, rows: pa.Table) -> None:
    encoded = encode(rows, scorer.manifest.columns)
    contribution = scorer.answers(encoded, ["contribution"])["contribution"]
    names = [column.name for column in scorer.manifest.scored]
    missing = np.isnan(encoded.numeric[:, 1])
    assert missing.any()
    assert (contribution[missing, names.index("pressure")] == 0).all()
    material = np.array([word or "" for word in rows["material"].to_pylist()])
    cost = contribution[:, names.index("material")]
    assert (cost[material == ""] == 0).all()
    assert cost[material == "unobtainium"].min() > cost[material == "steel"].max()
    unknown = cost[material == "unobtainium"]
    assert np.allclose(unknown, unknown[0])
    assert unknown[0] > np.log(scorer.manifest.split.train + 1)  # and what copying an exemplar's would have been worth


def test_p_values_are_exact_multiples_and_the_verdict_follows_them(scorer: Scorer, rows: pa.Table) -> None:
    calibration = scorer.manifest.calibration
    answers = scorer.score(rows, alarm_rate=0.1)
    p = answers["p_value"].to_numpy()
    assert np.array_equal(p, np.rint(p * (calibration.rows + 1)) / (calibration.rows + 1))
    assert np.array_equal(answers["alarm"].to_numpy(), p <= 0.1)
    assert scorer.score(rows)["alarm"].to_numpy().sum() < answers["alarm"].to_numpy().sum()
    above = answers["score"].to_numpy() > calibration.score_threshold * 1.001
    assert (p[above] <= calibration.alarm_rate).all()


def test_a_row_that_repeats_a_calibration_row_gets_that_rows_p_value(scorer: Scorer) -> None:
    table = np.array([1.0, 2.0, 2.0, 2.0, 5.0])
    nearly = np.nextafter(np.float32(2.0), np.float32(3.0))
    assert p_values(np.array([nearly]), table)[0] == p_values(np.array([2.0]), table)[0] == 5 / 6


def test_reasons_name_the_strongest_columns_with_what_they_hold_and_what_was_expected(
    scorer: Scorer, rows: pa.Table
) -> None:
    encoded = encode(rows, scorer.manifest.columns)
    contribution = scorer.answers(encoded, ["contribution"])["contribution"]
    names = [column.name for column in scorer.manifest.scored]
    natural = natural_reasons(scorer.manifest)
    for row, reasons in enumerate(scorer.score(rows, top=2)["reasons"].to_pylist()):
        told = natural(reasons)
        assert [reason["column"] for reason in told] == [names[j] for j in np.argsort(-contribution[row])[:2]]
        for reason in told:
            held = rows[reason["column"]][row].as_py()
            if isinstance(held, float):
                assert reason["value"] == pytest.approx(held, rel=1e-6)
            elif reason["column"] == "cooling":
                assert reason["value"] == held
            else:
                assert reason["value"] == held


@given(
    rows=st.lists(st.lists(st.floats(-50, 50, width=32), min_size=5, max_size=5), min_size=1, max_size=20),
    k=st.integers(0, 5),
)
@settings(max_examples=50, deadline=None)
def test_the_strongest_columns_are_those_a_full_sort_finds(rows: list[list[float]], k: int) -> None:
    contribution = np.array(rows, dtype=np.float32)
    found = top_columns(contribution, k)
    assert np.array_equal(found, np.argsort(-contribution, axis=1, kind="stable")[:, :k])


def test_no_rows_in_no_rows_out(scorer: Scorer, rows: pa.Table) -> None:
    answers = scorer.score(rows.slice(0, 0))
    assert answers.num_rows == 0
    assert answers.schema == scorer.schema(rows.schema)


def test_more_reasons_than_columns_gives_all_columns(scorer: Scorer, rows: pa.Table) -> None:
    assert {len(reasons) for reasons in scorer.score(rows, top=50)["reasons"].to_pylist()} == {5}
    assert {len(reasons) for reasons in scorer.score(rows, top=0)["reasons"].to_pylist()} == {0}
    with pytest.raises(SettingError, match="--top"):
        scorer.score(rows, top=-1)


def test_an_alarm_rate_below_the_smallest_is_refused_with_the_rows_it_takes(scorer: Scorer, rows: pa.Table) -> None:
    with pytest.raises(TooFewRowsError, match="999 calibration rows"):
        scorer.score(rows, alarm_rate=0.001)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".csv", ".jsonl"])
def test_every_format_holds_the_same_answers(scorer: Scorer, rows: pa.Table, tmp_path: Path, suffix: str) -> None:
    answers = scorer.score(rows)
    plain = {"reasons": natural_reasons(scorer.manifest)}
    out = tmp_path / f"answers{suffix}"
    assert write_answers(str(out), Answers(answers.to_batches(), answers.schema, plain)) == rows.num_rows
    read = open_rows(out).table()
    assert read.schema.names == answers.schema.names
    assert np.allclose(read["score"].to_numpy(), answers["score"].to_numpy())
    assert read["alarm"].to_pylist() == answers["alarm"].to_pylist()
    if suffix == ".jsonl":
        reasons = json.loads(out.read_text().splitlines()[0])["reasons"]
    else:
        reasons = read["reasons"][0].as_py()
        reasons = json.loads(reasons) if suffix == ".csv" else reasons
    assert [reason["column"] for reason in reasons] == [r["column"] for r in answers["reasons"][0].as_py()]
    assert list(tmp_path.iterdir()) == [out]


def test_an_answer_file_appears_only_when_it_is_whole(scorer: Scorer, rows: pa.Table, tmp_path: Path) -> None:
    answers = scorer.score(rows)
    out = tmp_path / "answers.parquet"
    out.write_bytes(b"yesterday's")

    def broken() -> object:
        yield from answers.to_batches()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_answers(str(out), Answers(broken(), answers.schema))  # type: ignore[arg-type]
    assert out.read_bytes() == b"yesterday's"
    assert list(tmp_path.iterdir()) == [out]


def test_a_stream_of_batches_is_scored_without_holding_them(scorer: Scorer, rows: pa.Table) -> None:
    alive = 0
    most = 0

    def batches() -> object:
        nonlocal alive, most
        for _ in range(40):
            alive += 1
            most = max(most, alive)
            yield from rows.combine_chunks().to_batches()

    seen = 0
    for answered in scorer.score_batches(batches(), rows.schema):  # type: ignore[arg-type]
        alive -= 1
        seen += answered.num_rows
    assert seen == 40 * rows.num_rows
    assert most <= scorer.threads + 3


def test_scores_are_those_of_the_graph_in_any_onnx_runtime(fitted: Bundle, scorer: Scorer, rows: pa.Table) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(fitted.graph), options)
    encoded = encode(rows, fitted.manifest.columns)
    found = session.run(["score", "alarm"], {"numeric": encoded.numeric, "categorical": encoded.categorical})
    answers = scorer.score(rows)
    assert np.allclose(found[0], answers["score"].to_numpy(), rtol=1e-5)
    assert np.array_equal(found[1], answers["alarm"].to_numpy())


def test_answers_of_a_file_are_those_of_its_table(scorer: Scorer, rows: pa.Table, tmp_path: Path) -> None:
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=100)
    source = open_rows(tmp_path / "rows.parquet")
    streamed = pa.Table.from_batches(list(scorer.score_batches(source.batches(batch_rows=64), source.schema)))
    assert streamed.equals(scorer.score(rows))


@pytest.fixture(scope="module")
def by_site(fitted: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    """A scorer of both scores together, whose sites have calibrations of their own."""
    folder = tmp_path_factory.mktemp("by_site") / "press"
    return Scorer(recalibrated(fitted, folder, by="site", decision="both"))


def test_a_row_is_held_against_its_own_group_and_says_where_it_was_not(by_site: Scorer) -> None:
    rows = sites(400, seed=8)
    answers = by_site.score(rows)
    assert answers.schema.names == [
        "part",
        "site",
        "score",
        "p_value",
        "reconstruction_error",
        "p_value_reconstruction",
        "p_value_verdict",
        "alarm",
        "tail",
        "pooled",
        "reasons",
    ]
    names = np.array(rows["site"].to_pylist())
    known = [group.name for group in by_site.manifest.calibration.groups]
    assert sorted(known) == ["north", "south"]
    np.testing.assert_array_equal(answers["pooled"].to_numpy(), ~np.isin(names, known))
    alone = by_site.score(rows.drop(["site"]))
    assert alone["pooled"].to_numpy().all()
    assert "site" not in alone.schema.names
    assert alone["score"].equals(answers["score"])
    assert not alone["p_value"].equals(answers["p_value"])
    calibration = by_site.manifest.calibration
    for group in calibration.groups:
        of = names == group.name
        clear = answers["score"].to_numpy()[of] > group.score_threshold * 1.001
        assert answers["alarm"].to_numpy()[of][clear].all()
    p = answers["p_value_verdict"].to_numpy()
    np.testing.assert_array_equal(answers["alarm"].to_numpy(), p <= calibration.alarm_rate * (1 + 1e-6))


def test_the_groups_may_come_in_any_type_that_says_the_same(by_site: Scorer) -> None:
    rows = sites(60, seed=9)
    wanted = by_site.score(rows).drop(["site"])
    cells = rows["site"].combine_chunks()
    place = rows.schema.get_field_index("site")
    for others in (cells.dictionary_encode(), cells.cast(pa.large_string()), pa.chunked_array([cells[:7], cells[7:]])):
        assert by_site.score(rows.set_column(place, "site", others)).drop(["site"]).equals(wanted)
    missing = by_site.score(rows.set_column(place, "site", pa.array(["nowhere", None, ""] * 20)))
    assert missing["pooled"].to_numpy().all()


def test_groups_do_not_depend_on_the_batch_either(by_site: Scorer) -> None:
    rows = sites(300, seed=10)
    whole = by_site.score(rows)
    parts = [by_site.score(rows.slice(start, size)) for start, size in ((0, 1), (1, 16), (17, 100), (117, 183))]
    assert pa.concat_tables(parts).equals(whole)
    assert by_site.score(rows.slice(0, 0)).schema == whole.schema


def test_a_rate_that_only_the_larger_group_supports_is_refused(by_site: Scorer) -> None:
    calibration = by_site.manifest.calibration
    assert calibration.smallest_alarm_rate > 1 / (max(group.rows for group in calibration.groups) + 1)
    by_site.check_alarm_rate(calibration.smallest_alarm_rate)
    with pytest.raises(TooFewRowsError, match="the smallest group of 'press' was calibrated on"):
        by_site.check_alarm_rate(calibration.smallest_alarm_rate * 0.9)


def test_verdicts_beyond_all_calibration_rows_are_flagged(fitted: Bundle, tmp_path: Path) -> None:
    scorer = Scorer(recalibrated(fitted, tmp_path / "tail", tail=True, alarm_rate=0.0005))
    rows = sites(200, seed=11)
    temperature = rows["temperature"].to_numpy().copy()
    temperature[::10] = 1e4
    odd = rows.set_column(rows.schema.get_field_index("temperature"), "temperature", pa.array(temperature))
    answers = scorer.score(odd)
    tail, alarm, p = (answers[name].to_numpy() for name in ("tail", "alarm", "p_value"))
    assert alarm[::10].all()
    assert not (alarm & ~tail).any()  # no row counts for so small a rate
    np.testing.assert_array_equal(tail, p < 0.999999 / (scorer.manifest.calibration.rows + 1))
