from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest

from anomvae.errors import BundleError
from anomvae.scoring import GraphSession
from anomvae.scoring.selftest import probe_rows
from tests.calibrated import recalibrated

if TYPE_CHECKING:
    import numpy.typing as npt

    from anomvae.bundle import Bundle
    from anomvae.data.encoding import EncodedRows

CPU = "CPUExecutionProvider"
REMOTE = "AzureExecutionProvider"


@pytest.fixture(scope="module")
def session(fitted: Bundle) -> GraphSession:
    return GraphSession(fitted.graph, fitted.manifest.width)


@pytest.fixture(scope="module")
def rows(fitted: Bundle) -> EncodedRows:
    return probe_rows(fitted.manifest, 100)


def test_any_choice_of_outputs_gives_what_all_of_them_give(session: GraphSession, rows: EncodedRows) -> None:
    everything = session.run(rows, session.outputs)
    draw = np.random.default_rng(0)
    choices = [(name,) for name in session.outputs]
    choices += [tuple(draw.permutation(session.outputs)[: draw.integers(1, 10)].tolist()) for _ in range(25)]
    for names in choices:
        found = session.run(rows, names)
        assert tuple(found) == names
        for name in names:
            np.testing.assert_array_equal(found[name], everything[name])
    assert session.run(rows, ()) == {}


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 100])
@pytest.mark.parametrize("alarm_rate", [None, 0.2])
def test_bound_inputs_and_outputs_give_the_same(
    session: GraphSession, rows: EncodedRows, n: int, alarm_rate: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = rows.take(slice(0, n))
    plain = session.run(some, session.outputs, alarm_rate)
    monkeypatch.setattr(session, "_on_device", True)
    bound = session.run(some, session.outputs, alarm_rate)
    assert list(bound) == list(plain)
    for name, array in plain.items():
        assert bound[name].dtype == array.dtype
        np.testing.assert_array_equal(bound[name], array)


def test_rows_out_of_a_larger_table_need_not_be_contiguous(session: GraphSession, rows: EncodedRows) -> None:
    every_other = rows.take(slice(0, 64, 2))
    feeds: dict[str, npt.NDArray[np.generic]] = {"numeric": every_other.numeric, "categorical": every_other.categorical}
    plain, bound = session._run(session.outputs, feeds), session._run_bound(session.outputs, feeds)
    for one, other in zip(plain, bound, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_alarm_rate_counts_for_its_call_alone(session: GraphSession, rows: EncodedRows) -> None:
    before = session.run(rows, ["alarm"])["alarm"]
    assert session.run(rows, ["alarm"], 0.9)["alarm"].sum() > before.sum()
    np.testing.assert_array_equal(session.run(rows, ["alarm"])["alarm"], before)


def test_a_session_says_what_it_really_runs_on(fitted: Bundle) -> None:
    assert GraphSession(fitted.graph).providers == (CPU,)


def test_on_the_cpu_strict_asks_nothing_more(fitted: Bundle) -> None:
    assert GraphSession(fitted.graph, providers=(CPU,), strict=True).providers == (CPU,)


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
@pytest.mark.parametrize("providers", [(REMOTE, CPU), (REMOTE,), ((REMOTE, {}), CPU)])
def test_strict_refuses_a_graph_that_the_first_provider_cannot_run(
    fitted: Bundle, providers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime as ort

    asked = []
    make = ort.InferenceSession

    def remember(*arguments: object, **settings: object) -> object:
        asked.append(settings["providers"])
        return make(*arguments, **settings)

    assert GraphSession(fitted.graph, providers=providers).providers[-1] == CPU
    monkeypatch.setattr(ort, "InferenceSession", remember)
    with pytest.raises(BundleError):
        GraphSession(fitted.graph, providers=providers, strict=True)
    assert asked == [[providers[0]]], "ONNX Runtime refuses the CPU beside the strict setting, whatever the graph"


def test_what_is_no_graph_is_refused(fitted: Bundle) -> None:
    with pytest.raises(BundleError, match="not a graph"):
        GraphSession(b"nothing")
    with pytest.raises(BundleError, match=r"manifest\.json"):
        GraphSession(fitted.folder / "manifest.json")


def test_calls_stay_within_the_processors_cache(fitted: Bundle) -> None:
    sizes = [GraphSession(fitted.graph, width).chunk_rows for width in (0, 10, 1_000, 5_000, 10**9)]
    assert sizes == sorted(sizes, reverse=True)
    assert all(size >= 16 and size % 16 == 0 for size in sizes)


def test_the_most_rows_a_call_can_be_lowered_but_on_the_processor_not_raised(fitted: Bundle) -> None:
    sizes = [GraphSession(fitted.graph, largest_chunk=largest).chunk_rows for largest in (1, 100, 1024, 65_536)]
    assert sizes == [16, 96, 1024, 1024]


@pytest.fixture(scope="module")
def by_site(fitted: Bundle, tmp_path_factory: pytest.TempPathFactory) -> GraphSession:
    folder = tmp_path_factory.mktemp("by_site") / "press"
    return GraphSession(recalibrated(fitted, folder, by="site").graph)


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 100])
@pytest.mark.parametrize("alarm_rate", [None, 0.2])
def test_rows_that_tell_their_group_are_answered_alike_bound_or_not_and_in_any_company(
    by_site: GraphSession, rows: EncodedRows, n: int, alarm_rate: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert by_site.has_groups
    group = np.arange(100) % 4 - 1
    told = dataclasses.replace(rows, group=group)
    whole, some = by_site.run(told, by_site.outputs, alarm_rate), told.take(slice(0, n))
    plain = by_site.run(some, by_site.outputs, alarm_rate)
    monkeypatch.setattr(by_site, "_on_device", True)
    bound = by_site.run(some, by_site.outputs, alarm_rate)
    for name, array in plain.items():
        assert array.tobytes() == bound[name].tobytes() == whole[name][:n].tobytes(), name
    np.testing.assert_array_equal(whole["pooled"], ~np.isin(group, (0, 1)))


def test_rows_that_tell_no_group_are_held_against_the_pooled_rows(by_site: GraphSession, rows: EncodedRows) -> None:
    untold = by_site.run(rows, by_site.outputs)
    assert untold["pooled"].all()
    for number in (-1, 2, 2**40):
        told = by_site.run(dataclasses.replace(rows, group=np.full(100, number)), by_site.outputs)
        for name, array in untold.items():
            assert array.tobytes() == told[name].tobytes()
    own = by_site.run(dataclasses.replace(rows, group=np.zeros(100, dtype=np.int64)), by_site.outputs)
    assert own["p_value"].tobytes() != untold["p_value"].tobytes()
    assert own["score"].tobytes() == untold["score"].tobytes()


def test_a_graph_without_groups_does_not_mind_being_told(session: GraphSession, rows: EncodedRows) -> None:
    assert not session.has_groups
    told = session.run(dataclasses.replace(rows, group=np.zeros(100, dtype=np.int64)), session.outputs)
    for name, array in session.run(rows, session.outputs).items():
        assert array.tobytes() == told[name].tobytes()


def test_the_group_and_the_rate_are_no_inputs_that_must_be_given(by_site: GraphSession) -> None:
    assert by_site.inputs == ("numeric", "categorical")
