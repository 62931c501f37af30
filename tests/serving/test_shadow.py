"""A challenger sees the champion's rows as its own table would have them, and nobody notices it."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.bundle import Column, GroupCalibration
from anomvae.data.encoding import codes_of, encode
from anomvae.errors import ColumnMismatchError, ScoringError, StoppingError
from anomvae.observability import Metrics
from anomvae.scoring.jobs import Answered
from anomvae.serving.exchange import Decoded
from anomvae.serving.models import ModelTable
from anomvae.serving.shadow import Shadow, Translation
from tests.conftest import mixed_table

if TYPE_CHECKING:
    from anomvae.bundle import Bundle, Manifest
    from anomvae.data.encoding import EncodedRows

WORDS = ("steel", "brass", "alloy", "wood", "7", "true", "")
DAYS = st.dates(dt.date(2000, 1, 1), dt.date(2040, 1, 1))
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "numeric": st.none() | st.floats(-1e6, 1e6, width=32) | st.just(float("inf")),
    "date": st.none() | st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(2040, 1, 1)),  # noqa: DTZ001
    "categorical": st.none() | st.sampled_from(WORDS),
    "boolean": st.none() | st.booleans(),
}
ARROW = {"numeric": pa.float64(), "date": pa.timestamp("us"), "categorical": pa.string(), "boolean": pa.bool_()}


@st.composite
def columns(draw: st.DrawFn, names: tuple[tuple[str, str], ...]) -> tuple[Column, ...]:
    """Columns of these names and kinds as some training saw them."""
    made = []
    for name, kind in draw(st.permutations(names)):
        if kind == "date":
            made.append(Column(name, "date", "timestamp[us]", origin=draw(DAYS).isoformat()))
        elif kind == "numeric":
            made.append(Column(name, "numeric", "double"))
        else:
            known = WORDS if kind == "categorical" else ("false", "true")
            categories = tuple(draw(st.lists(st.sampled_from(known), unique=True)))
            missing_code = len(categories) if draw(st.booleans()) else None
            made.append(Column(name, kind, "string", categories=categories, missing_code=missing_code))  # type: ignore[arg-type]
    return tuple(made)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[tuple[Column, ...], tuple[Column, ...], pa.Table]:
    """A champion's columns, some of them as a challenger has them, and a table."""
    kinds = draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=6))
    names = tuple((f"{kind}-{place}", kind) for place, kind in enumerate(kinds))
    kept = tuple(name for name in names if draw(st.booleans()))
    n = draw(st.integers(0, 5))
    table = pa.table({name: pa.array(draw(_cells(kind, n)), ARROW[kind]) for name, kind in names})
    return draw(columns(names)), draw(columns(kept)), table


def _cells(kind: str, n: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(CELLS[kind], min_size=n, max_size=n)


def _with(manifest: Manifest, columns: tuple[Column, ...]) -> Manifest:
    return dataclasses.replace(manifest, columns=columns)


def _forget(rows: EncodedRows, champion: tuple[Column, ...], challenger: tuple[Column, ...]) -> EncodedRows:
    """What the challenger would see of a table in which the champion's eyes have blurred what they do not know."""
    blurred = rows.categorical.copy()
    sources = {column.name: column for column in champion if not column.is_numeric}
    for place, target in enumerate(column for column in challenger if not column.is_numeric):
        source = sources[target.name]
        unseen = [code for code, word in enumerate(target.categories) if word not in source.categories]
        blurred[np.isin(blurred[:, place], unseen), place] = target.unknown_code
        if source.missing_code is None and target.missing_code is not None:
            blurred[blurred[:, place] == target.missing_code, place] = target.unknown_code
    return dataclasses.replace(rows, categorical=blurred)


@settings(max_examples=200, deadline=None)
@given(scene=scenes())
def test_translated_rows_are_what_the_challenger_would_have_read_itself(
    fitted: Bundle, scene: tuple[tuple[Column, ...], tuple[Column, ...], pa.Table]
) -> None:
    champion, challenger, table = scene
    translation = Translation(_with(fitted.manifest, champion), _with(fitted.manifest, challenger))
    rows = encode(table, champion)
    translated = translation(rows)
    expected = _forget(encode(table, challenger), champion, challenger)
    assert translated.categorical.dtype == np.int64
    assert translated.numeric.dtype == np.float32
    assert translated.categorical.tolist() == expected.categorical.tolist()
    days = [column.kind == "date" for column in challenger if column.is_numeric]
    np.testing.assert_array_equal(
        np.delete(translated.numeric, np.flatnonzero(days), axis=1),
        np.delete(expected.numeric, np.flatnonzero(days), axis=1),
    )
    # a day in float32 is known to 2 ** -10 at 40 years from the origin, and that is added to another such number
    np.testing.assert_allclose(translated.numeric[:, days], expected.numeric[:, days], rtol=0, atol=0.005)


@pytest.mark.parametrize(
    "column",
    [
        Column("other", "numeric", "double"),
        Column("a", "categorical", "string"),
        Column("b", "numeric", "double"),
        Column("day", "numeric", "double"),
        Column("a", "date", "date32[day]", origin="2020-01-01"),
    ],
    ids=lambda column: f"{column.name}-{column.kind}",
)
def test_a_challenger_that_wants_what_callers_do_not_send_is_refused(fitted: Bundle, column: Column) -> None:
    source = _with(
        fitted.manifest,
        (
            Column("a", "numeric", "double"),
            Column("b", "categorical", "string"),
            Column("day", "date", "date32[day]", origin="2020-01-01"),
        ),
    )
    with pytest.raises(ColumnMismatchError, match=column.name):
        Translation(source, _with(fitted.manifest, (column,)))


def _grouped(manifest: Manifest, by: str, *names: str) -> Manifest:
    groups = tuple(GroupCalibration(name, 100, 1.0, 1.0) for name in names)
    calibration = dataclasses.replace(manifest.calibration, by=by, groups=groups)
    return dataclasses.replace(manifest, calibration=calibration)


def test_groups_are_known_again_by_name(fitted: Bundle) -> None:
    champion = _grouped(fitted.manifest, "site", "north", "south", "east")
    challenger = _grouped(fitted.manifest, "site", "west", "south", "north")
    cells = ["north", "south", "east", "west", None]
    rows = encode(mixed_table(len(cells)), fitted.manifest.columns)
    rows = dataclasses.replace(rows, group=codes_of(pa.array(cells), champion.calibration.group_column))  # type: ignore[arg-type]
    found = Translation(champion, challenger)(rows)
    assert found.group is not None
    # The champion knows no west; what it cannot tell is pooled, as is what the challenger does not know.
    assert found.group.tolist() == [2, 1, 3, 3, 3]
    odd = Translation(champion, challenger)(dataclasses.replace(rows, group=np.array([-1, 3, 99, -(2**63), 1])))
    assert odd.group is not None
    assert odd.group.tolist() == [3, 3, 3, 3, 1]


def test_groups_of_another_column_or_of_none_are_pooled(fitted: Bundle) -> None:
    champion = _grouped(fitted.manifest, "site", "north")
    rows = dataclasses.replace(encode(mixed_table(3), fitted.manifest.columns), group=np.zeros(3, dtype=np.int64))
    for challenger in (_grouped(fitted.manifest, "line", "north"), fitted.manifest):
        assert Translation(champion, challenger)(rows).group is None
    assert Translation(fitted.manifest, champion)(dataclasses.replace(rows, group=None)).group is None
    assert Translation(champion, champion)(dataclasses.replace(rows, group=None)).group is None


class Batcher:
    """Takes jobs, and answers them when the test says so."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Any, asyncio.Future[Answered]]] = []
        self.trouble: Exception | None = None

    def submit(self, job: Any) -> asyncio.Future[Answered]:
        if self.trouble is not None:
            raise self.trouble
        self.jobs.append((job, asyncio.get_running_loop().create_future()))
        return self.jobs[-1][1]

    async def answer(self, alarms: list[bool] | Exception) -> None:
        _, future = self.jobs[-1]
        if isinstance(alarms, Exception):
            future.set_exception(alarms)
        else:
            future.set_result(Answered({"alarm": np.array(alarms)}, 0.0, 0.0))
        await asyncio.sleep(0)


def _served(bundle: Bundle, chunk_rows: int) -> Any:
    session = SimpleNamespace(chunk_rows=chunk_rows)
    return SimpleNamespace(name="press", manifest=bundle.manifest, session=session)


class Scene:
    """A champion, a challenger, and what is counted of them."""

    def __init__(self, bundle: Bundle, share: float = 1.0, chunk_rows: int = 64) -> None:
        self.champion, self.challenger = (_served(bundle, chunk_rows) for _ in range(2))
        self.batcher, self.metrics, self.models = Batcher(), Metrics(), ModelTable(["press"])
        facts = {"version": "1", "kind": "vae", "digest": "0", "reference": "press"}
        self.metrics.model_loaded("press", alarm_rate=0.1, at=0.0, **facts)
        self.models.put(self.champion)
        self.shadow = Shadow(self.models, self.batcher, self.metrics, share)  # type: ignore[arg-type]
        self.shadow.prepare(self.champion, self.challenger)
        self.models.put_challenger("press", self.challenger)
        self.columns = bundle.manifest

    def look(self, alarms: list[bool], rows: EncodedRows | None = None, output: str = "alarm") -> None:
        n = len(alarms)
        if rows is None:
            table = {column.name: [None] * n for column in self.columns.columns}
            rows = encode(pa.table(table), self.columns.columns)
        decoded = Decoded(rows, (output,), lambda _: None, "v1-json")
        self.shadow.look(self.champion, decoded, {output: np.array(alarms)})

    def counted(self) -> tuple[float, ...]:
        """Rows, disagreements, dropped rows."""
        names = ("shadow_rows", "shadow_disagreements", "shadow_dropped_rows")
        values = [self.metrics.registry.get_sample_value(f"anomvae_{name}_total", {"model": "press"}) for name in names]
        return tuple(value or 0.0 for value in values)


def test_verdicts_are_compared_row_by_row(fitted: Bundle) -> None:
    async def story() -> None:
        scene = Scene(fitted)
        scene.look([True, False, False])
        job, _ = scene.batcher.jobs[0]
        assert (job.runner, job.outputs, job.quiet) == (scene.challenger.session, ("alarm",), True)
        await scene.batcher.answer([True, True, False])
        assert scene.counted() == (3, 1, 0)

    asyncio.run(story())


def test_there_is_never_more_than_one_call_in_flight_and_what_is_left_out_is_counted(fitted: Bundle) -> None:
    async def story() -> None:
        scene = Scene(fitted, chunk_rows=4)
        scene.look([True] * 10)
        scene.look([True] * 3)
        scene.look([True] * 10)
        (job, _) = scene.batcher.jobs[0]
        assert (len(scene.batcher.jobs), len(job.rows)) == (1, 4)
        assert scene.counted() == (0, 0, 3 + 4)
        await scene.batcher.answer([False] * 4)
        assert scene.counted() == (4, 4, 7)
        scene.look([True])
        assert len(scene.batcher.jobs) == 2

    asyncio.run(story())


@pytest.mark.parametrize(("share", "looks"), [(0.0, 0), (0.1, 10), (0.25, 25), (1.0, 100)])
def test_the_share_asked_for_is_looked_at(fitted: Bundle, share: float, looks: int) -> None:
    async def story() -> None:
        scene = Scene(fitted, share)
        for _ in range(100):
            scene.look([True])
            if len(scene.batcher.jobs) and not scene.batcher.jobs[-1][1].done():
                await scene.batcher.answer([True])
        assert abs(len(scene.batcher.jobs) - looks) <= 1

    asyncio.run(story())


@pytest.mark.parametrize("trouble", [ScoringError("the graph failed"), RuntimeError("no")])
def test_a_challenger_that_fails_is_counted_and_tried_again(fitted: Bundle, trouble: Exception) -> None:
    async def story() -> None:
        scene = Scene(fitted)
        scene.look([True, True])
        await scene.batcher.answer(trouble)
        assert scene.counted() == (0, 0, 2)
        scene.look([True])
        assert len(scene.batcher.jobs) == 2

    asyncio.run(story())


@pytest.mark.parametrize("trouble", [StoppingError("stopping"), RuntimeError("no")])
def test_rows_that_cannot_be_sent_concern_nobody(fitted: Bundle, trouble: Exception) -> None:
    async def story() -> None:
        scene = Scene(fitted)
        scene.batcher.trouble = trouble
        scene.look([True, True])
        assert scene.counted() == (0, 0, 2)
        scene.batcher.trouble = None
        scene.look([True])
        assert len(scene.batcher.jobs) == 1

    asyncio.run(story())


def test_rows_that_cannot_be_translated_concern_nobody(fitted: Bundle) -> None:
    async def story() -> None:
        scene = Scene(fitted)
        rows = encode(pa.table({c.name: [None] for c in fitted.manifest.columns}), fitted.manifest.columns)
        scene.look([True], dataclasses.replace(rows, categorical=rows.categorical + 100))
        assert (scene.counted(), scene.batcher.jobs) == ((0, 0, 1), [])

    asyncio.run(story())


def test_answers_of_a_challenger_that_make_no_sense_are_counted_as_dropped(fitted: Bundle) -> None:
    async def story() -> None:
        scene = Scene(fitted)
        scene.look([True, True])
        await scene.batcher.answer([True, True, True])
        assert scene.counted() == (0, 0, 2)

    asyncio.run(story())


def test_requests_without_verdicts_and_without_rows_are_not_looked_at(fitted: Bundle) -> None:
    async def story() -> None:
        scene = Scene(fitted)
        scene.look([True], output="score")
        scene.look([])
        scene.models.put_challenger("press", None)
        scene.look([True])
        assert (scene.counted(), scene.batcher.jobs) == ((0, 0, 0), [])

    asyncio.run(story())


def test_versions_that_were_replaced_are_not_kept(fitted: Bundle) -> None:
    scene = Scene(fitted)
    for _ in range(50):
        scene.shadow.prepare(SimpleNamespace(**vars(scene.champion)), SimpleNamespace(**vars(scene.challenger)))  # type: ignore[arg-type]
    assert len(scene.shadow._translations) == 1
