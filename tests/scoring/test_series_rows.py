"""The member of single steps is asked once for each step, and what it says is what it would say with each window."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

from anomvae.bundle import read_bundle, write_bundle
from anomvae.bundle.series import ROWS_GRAPH
from anomvae.data.windows import EncodedWindows
from anomvae.scoring import GraphSession
from anomvae.scoring.series import SeriesScoring
from anomvae.scoring.series_rows import ROW_TERMS, RowMember, SingleRows, row_member
from anomvae.streaming.codec import make_codec
from anomvae.streaming.contracts import Origin, Record
from anomvae.streaming.graph_runner import StreamModel
from anomvae.streaming.series_lane import SeriesLane
from anomvae.streaming.settings import AnswerSettings
from tests.streamed import WINDOW, assert_same, expected, pump_rows, pump_table, pumps

if TYPE_CHECKING:
    import pyarrow as pa

    from anomvae.bundle import Bundle

NOW_S = 1_700_000_600.0
D = 2


@cache
def without_rows_graph(seed: int = 0) -> Bundle:
    """The same detector as a bundle without the graph of single steps."""
    bundle = pumps(seed)
    files = {name: (bundle.folder / name).read_bytes() for name in bundle.manifest.files if name != ROWS_GRAPH}
    return write_bundle(Path(mkdtemp(prefix="pumps-")) / "pumps", bundle.manifest, files)


def member_of(bundle: Bundle) -> RowMember:
    member = row_member(bundle.manifest, GraphSession(bundle.graph), bundle.folder / ROWS_GRAPH)
    assert member is not None
    return member


def spoilt(n: int = 24) -> EncodedWindows:
    """Windows with missing cells, steps and channels, far and infinite values, of known and unknown assets."""
    draw = np.random.default_rng(5)
    series = draw.normal(size=(n, WINDOW, D)).astype(np.float32)
    dice = draw.random(series.shape)
    series[dice < 0.1] = np.nan
    series[dice > 0.98] *= 1e4
    series[dice > 0.995] = np.inf
    series[0], series[1, -1], series[2, :, 0], series[3, 4:9] = np.nan, np.nan, np.nan, np.nan
    return EncodedWindows(series, np.arange(n, dtype=np.int64) % 5 - 1)


def terms_of(windows: EncodedWindows) -> np.ndarray:
    rows, asset = windows.series.reshape(-1, D), np.repeat(windows.asset, WINDOW)
    return member_of(pumps()).terms(rows, asset).reshape(len(windows), WINDOW, -1)


def close(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name, right in wanted.items():
        scale = max(1.0, float(np.abs(right[np.isfinite(right)]).max(initial=0.0)))
        np.testing.assert_allclose(found[name].astype(float), right.astype(float), atol=1e-5 * scale, err_msg=name)


# --- the graphs


@pytest.mark.parametrize("known", [0, 1, 7, WINDOW - 1])
def test_the_graph_answers_the_same_whether_it_knows_the_terms_of_steps_or_not(known: int) -> None:
    session, windows = GraphSession(pumps().graph), spoilt()
    terms = np.ascontiguousarray(terms_of(windows)[:, :known])
    found = session.run(replace(windows, row_terms=terms), session.outputs)
    close(found, session.run(windows, session.outputs))


def test_nats_alone_do_for_the_newest_step_and_steps_not_asked_about_have_none() -> None:
    session, windows = GraphSession(pumps().graph), spoilt()
    terms = terms_of(windows)[:, :-1, : D + 1].copy()
    terms[np.isnan(windows.series[:, :-1]).all(axis=2)] = np.nan
    found = session.run(replace(windows, row_terms=terms), session.outputs)
    wanted = session.run(windows, session.outputs)
    told = ("score", "reconstruction_error", "p_value", "contribution", "latent_contribution", "expected", "step_score")
    close(found, {name: wanted[name] for name in told})
    assert np.isnan(found["step_expected"][:, :-1]).all()
    close({"it": found["step_expected"][:, -1]}, {"it": wanted["step_expected"][:, -1]})


def test_what_is_told_of_a_step_counts() -> None:
    session, windows = GraphSession(pumps().graph), spoilt()
    terms = np.ascontiguousarray(terms_of(windows)[:, :-1])
    plain = session.run(replace(windows, row_terms=terms), ["score"])["score"]
    terms[:, -1, 0] += 100.0
    moved = session.run(replace(windows, row_terms=terms), ["score"])["score"]
    seen = ~np.isnan(windows.series[:, -2]).all(axis=1)
    assert (moved[seen].astype(float) - plain[seen].astype(float) > 0.1).all()
    np.testing.assert_array_equal(moved[~seen], plain[~seen])


@pytest.mark.parametrize("size", [1, 3, 16, 24 * WINDOW])
def test_terms_do_not_depend_on_the_rows_beside_them(size: int) -> None:
    windows = spoilt()
    rows, asset = windows.series.reshape(-1, D), np.repeat(windows.asset, WINDOW)
    member = member_of(pumps())
    parts = [member.terms(rows[at : at + size], asset[at : at + size]) for at in range(0, len(rows), size)]
    np.testing.assert_array_equal(np.concatenate(parts), member.terms(rows, asset))
    assert np.concatenate(parts).shape == (len(rows), 2 * D + 1)


def test_a_row_that_the_graph_fails_on_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    member, run = member_of(pumps()), GraphSession.run

    def failing(self: GraphSession, rows: Any, *arguments: Any) -> Any:
        if (rows.rows == 13.0).any():
            raise RuntimeError("bad row")
        return run(self, rows, *arguments)

    rows = np.random.default_rng(0).normal(size=(37, D)).astype(np.float32)
    wanted = member.terms(rows, np.zeros(37, dtype=np.int64))
    rows[20] = 13.0
    monkeypatch.setattr(GraphSession, "run", failing)
    found = member.terms(rows, np.zeros(37, dtype=np.int64))
    assert np.isnan(found[20]).all()
    np.testing.assert_array_equal(np.delete(found, 20, axis=0), np.delete(wanted, 20, axis=0))
    with pytest.raises(RuntimeError, match="bad row"):
        member.terms(rows, np.zeros(37, dtype=np.int64), spare=False)


def test_a_whole_series_is_not_scored_without_a_member_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    run = GraphSession.run

    def failing(self: GraphSession, rows: Any, *arguments: Any) -> Any:
        if isinstance(rows, SingleRows):
            raise MemoryError("no memory")  # noqa: TRY004  the type tells which graph fails
        return run(self, rows, *arguments)

    scoring = SeriesScoring(pumps())
    monkeypatch.setattr(GraphSession, "run", failing)
    for past_only in (True, False):
        with pytest.raises(MemoryError, match="no memory"):
            scoring.score(pump_table(40), past_only=past_only)


def test_a_bundle_without_the_graph_has_no_such_member() -> None:
    bundle = without_rows_graph()
    assert row_member(bundle.manifest, GraphSession(bundle.graph), b"") is None
    assert ROW_TERMS in GraphSession(bundle.graph).optional_inputs


# --- whole series


@pytest.mark.parametrize(("past_only", "stride"), [(True, None), (False, 1), (False, 3), (False, WINDOW)])
def test_a_series_is_scored_the_same_without_it(past_only: bool, stride: int | None) -> None:
    rows = pump_table(70, seed=4)
    found, wanted = (
        SeriesScoring(bundle).score(rows, past_only=past_only, stride=stride)
        for bundle in (pumps(), without_rows_graph())
    )
    assert found["reason"].equals(wanted["reason"])
    assert found["alarm"].equals(wanted["alarm"])
    for name in ("score", "p_value", "reconstruction_error"):
        np.testing.assert_allclose(_numbers(found, name), _numbers(wanted, name), rtol=1e-5, atol=1e-5)


def _numbers(answers: pa.Table, name: str) -> np.ndarray:
    return np.asarray(answers[name].to_numpy(), dtype=float)


# --- streams


def lane_of(bundle: Bundle, version: str) -> SeriesLane:
    session = GraphSession(bundle.graph, bundle.manifest.width)
    member = row_member(bundle.manifest, session, bundle.folder / ROWS_GRAPH)
    model = StreamModel(bundle.manifest, session, version, member)
    return SeriesLane(model, make_codec("json", None), AnswerSettings(threads=1), clock=lambda: NOW_S)


def answered(lane: SeriesLane, rows: list[dict[str, Any]], start: int) -> list[dict[str, Any]]:
    records = [Record(orjson.dumps(row), Origin("in", 0, start + i), stamp_s=NOW_S) for i, row in enumerate(rows)]
    return [orjson.loads(answer.payload) for answer in lane.answer(records, None, NOW_S).answers]


@pytest.mark.parametrize("before", ["another model", "without the graph"])
@pytest.mark.parametrize("after", ["with the graph", "without the graph"])
def test_windows_that_another_model_left_are_judged_by_the_new_one_alone(before: str, after: str) -> None:
    old = pumps(1) if before == "another model" else without_rows_graph(1)
    new = pumps() if after == "with the graph" else without_rows_graph()
    rows = [row for row in pump_rows(60, seed=8, strange_from=70) if row["i"] not in (30, 31, 33)]
    for number, row in enumerate(rows):
        row["i"] = number
    first, second = lane_of(old, "1"), lane_of(new, "2")
    assert_same(answered(first, rows[:60], 0), expected(rows, old))
    second.inherit(first)
    found = answered(second, rows[60:], 60)
    assert {answer["model_version"] for answer in found} == {"2"}
    assert sum(answer.get("reason") is None for answer in found) > 40
    assert_same(found, expected(rows, new))


def test_a_stream_without_the_graph_answers_as_one_with_it() -> None:
    rows = pump_rows(50, seed=3)
    found = answered(lane_of(without_rows_graph(), "1"), rows, 0)
    assert_same(found, expected(rows, read_bundle(pumps().folder)))
