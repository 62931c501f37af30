from __future__ import annotations

import dataclasses
import re
import sys
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.calibration import p_values
from anomvae.detector import Detector
from anomvae.errors import MissingExtraError, OutputError, SettingError
from anomvae.scoring.discoveries import Discoveries

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from anomvae.bundle import Bundle, Manifest

    Array = npt.NDArray[np.float64]


def with_calibration(manifest: Manifest, m: int, decision: str = "elbo") -> Manifest:
    facts: dict[str, Any] = {"rows": m, "smallest_alarm_rate": 1 / (m + 1), "decision": decision}
    return dataclasses.replace(manifest, calibration=dataclasses.replace(manifest.calibration, **facts))


@pytest.fixture(scope="module")
def manifest(fitted: Bundle) -> Manifest:
    return with_calibration(fitted.manifest, 99)


def answers(p: Array, **others: Array) -> pa.Table:
    """Answers whose verdicts at a rate are of no account."""
    return pa.table({"part": np.arange(len(p)), "p_value": p, **others, "alarm": np.zeros(len(p), dtype=bool)})


def by_the_book(p: Array, rate: float) -> npt.NDArray[np.bool_]:
    """Benjamini and Hochberg (1995): all up to the last ordered p-value that is at most rate k / n."""
    ordered = np.sort(p)
    kept = np.flatnonzero(ordered <= rate * np.arange(1, len(p) + 1) / len(p) * (1 + 1e-6))
    return p <= ordered[kept[-1]] if len(kept) else np.zeros(len(p), dtype=bool)


ranks = st.lists(st.one_of(st.integers(1, 100), st.integers(1, 3)), min_size=1, max_size=80)


@settings(deadline=None)
@given(ranks, st.sampled_from([0.01, 0.05, 0.1, 0.25, 0.5]), st.integers(1, 30))
def test_verdicts_are_those_of_the_procedure_in_whatever_batches(
    manifest: Manifest, levels: list[int], rate: float, size: int
) -> None:
    p = np.array(levels) / 100
    table = answers(p)
    whole, stream = Discoveries(manifest, rate), Discoveries(manifest, rate)
    decided = whole.decide(table)
    assert decided["alarm"].to_numpy().tolist() == by_the_book(p, rate).tolist()
    batches = list(stream.decide_batches(table.to_batches(max_chunksize=size), table.schema))
    assert pa.Table.from_batches(batches, Discoveries.schema(table.schema)).equals(decided)
    assert (stream.rows, stream.alarms) == (whole.rows, whole.alarms) == (len(p), int(by_the_book(p, rate).sum()))
    assert decided.schema.names == ["part", "p_value", "p_adjusted", "alarm"]
    assert (decided["p_adjusted"].to_numpy() >= p).all()


def test_the_share_of_false_alarms_among_the_alarms_is_kept_by_p_values_of_one_calibration_set(
    manifest: Manifest,
) -> None:
    draw = np.random.default_rng(0)
    shares, found = [], []
    for _ in range(300):
        scores = draw.normal(size=200) + np.where(np.arange(200) < 20, 4.0, 0.0)
        discoveries = Discoveries(manifest, 0.2)
        alarm = discoveries.decide(answers(p_values(scores, draw.normal(size=1000))))["alarm"].to_numpy()
        shares.append(alarm[20:].sum() / max(1, alarm.sum()))
        found.append(alarm[:20].mean())
    assert 0.1 < np.mean(shares) <= 0.2 * 0.9 + 0.02  # times the share of normal rows
    assert np.mean(found) > 0.8


@pytest.mark.parametrize(
    ("decision", "verdict", "held"),
    [
        ("elbo", False, [0.01, 0.8]),
        ("reconstruction", False, [0.9, 0.02]),
        ("either", False, [0.02, 0.04]),
        ("elbo", True, [0.5, 0.06]),
    ],
)
def test_the_p_value_that_the_verdict_is_held_against_is_adjusted(
    manifest: Manifest, decision: str, verdict: bool, held: list[float]
) -> None:
    others = {"p_value_reconstruction": np.array([0.9, 0.02])}
    if verdict:
        others["p_value_verdict"] = np.array([0.5, 0.06])
    discoveries = Discoveries(with_calibration(manifest, 99, decision), 0.1)
    decided = discoveries.decide(answers(np.array([0.01, 0.8]), **others))
    assert min(held) * 2 >= decided["p_adjusted"].to_numpy().min() >= min(held)
    assert decided["p_adjusted"].to_numpy().argmin() == int(np.argmin(held))
    assert decided["p_adjusted"].to_numpy().max() == pytest.approx(max(held))


@pytest.mark.parametrize("strange", [0, 1, 4])
def test_where_too_few_calibration_rows_are_why_nothing_alarms_it_says_how_many_would_do(
    manifest: Manifest, strange: int
) -> None:
    p = np.concatenate([np.full(strange, 0.01), np.linspace(0.02, 1.0, 1000 - strange)])
    discoveries = Discoveries(manifest, 0.1)
    discoveries.decide(answers(p))
    told = discoveries.shortage
    assert told is not None
    assert "99 calibration rows allow" in told
    assert "it takes 100 of them" in told
    needed = int(re.findall(r"with ([\d,]+) calibration rows", told)[0].replace(",", ""))
    assert needed == 10_000 / max(1, strange) - 1
    for m, alarms in ((needed, max(1, strange)), (needed - 1, 0)):
        more = Discoveries(with_calibration(manifest, m), 0.1)
        more.decide(
            answers(np.concatenate([np.full(max(1, strange), 1 / (m + 1)), np.full(1000 - max(1, strange), 0.9)]))
        )
        assert more.alarms == alarms
        assert (more.shortage is None) == bool(alarms)


def test_nothing_is_said_where_rows_alarm_or_could_have(manifest: Manifest) -> None:
    for p in (np.array([0.01, 0.5]), np.array([0.5, 0.6]), np.array([])):
        discoveries = Discoveries(manifest, 0.1)
        discoveries.decide(answers(p))
        assert discoveries.shortage is None


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_what_is_no_share_of_alarms_is_refused(manifest: Manifest, rate: float) -> None:
    with pytest.raises(SettingError, match=r"a share of the alarms, above 0 and below 1"):
        Discoveries(manifest, rate)


def test_without_scipy_the_extra_is_named(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(MissingExtraError, match=r"anomvae\[train\]"):
        Discoveries(manifest, 0.1)


def test_answers_that_cannot_wait_on_disk_are_an_error_that_names_the_place(manifest: Manifest, tmp_path: Path) -> None:
    table = answers(np.array([0.5]))
    waiting = Discoveries(manifest, 0.1).decide_batches(table.to_batches(), table.schema, tmp_path / "nowhere")
    with pytest.raises(OutputError, match=r"cannot wait in .*nowhere until all rows are scored"):
        list(waiting)


def test_waiting_answers_are_not_held_in_memory_and_leave_nothing_on_disk(manifest: Manifest, tmp_path: Path) -> None:
    table = answers(np.full(1000, 0.5))
    alive: list[weakref.ref[Any]] = []
    most = 0

    def batches() -> Any:
        nonlocal most
        for _ in range(50):
            (batch,) = answers(np.full(1000, 0.5)).to_batches()
            alive.append(weakref.ref(batch))
            most = max(most, sum(each() is not None for each in alive))
            yield batch
            del batch

    decided = Discoveries(manifest, 0.1).decide_batches(batches(), table.schema, tmp_path)
    assert sum(batch.num_rows for batch in decided) == 50_000
    assert most <= 2
    assert list(tmp_path.iterdir()) == []


def test_a_detector_decides_a_frame_at_a_false_discovery_rate(fitted: Bundle, press: pa.Table) -> None:
    detector = Detector(fitted)
    frame = detector.score(press.to_pandas(), fdr=0.2)
    plain = detector.score(press.to_pandas())
    assert list(frame.columns) == [other for name in plain for other in (["p_adjusted"] * (name == "alarm") + [name])]
    assert frame["alarm"].tolist() == (frame["p_adjusted"] <= 0.2).tolist()
    assert frame.drop(columns=["p_adjusted", "alarm"]).equals(plain.drop(columns=["alarm"]))
    assert frame["alarm"].iloc[:60].all()
    with pytest.raises(SettingError, match="exclude each other"):
        detector.score(press.to_pandas(), fdr=0.2, alarm_rate=0.05)


@pytest.fixture(scope="module")
def press() -> pa.Table:
    """300 rows of the press, 60 of which shake as never before."""
    draw = np.random.default_rng(11)
    load = draw.normal(size=300)
    return pa.table(
        {
            "temperature": 60 + 8 * load + draw.normal(size=300),
            "pressure": 2.5e5 + 3e4 * load,
            "vibration": np.where(np.arange(300) < 60, 500.0, np.exp(0.4 * draw.normal(size=300) + 0.2 * load)),
            "cooling": load > 0,
            "material": pa.array(["steel"] * 300),
        }
    )
