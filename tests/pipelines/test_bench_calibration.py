from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom, binomtest

from anomvae.calibration import conditional_p_values, p_values
from anomvae.errors import SettingError
from anomvae.training.settings import TrainingSettings
from pipelines import bench_calibration
from pipelines.accuracy_bench import ours
from pipelines.accuracy_bench.ours import Variant, as_table
from pipelines.accuracy_bench.peers import PEERS, Standardiser
from pipelines.accuracy_bench.protocol import SUITES
from pipelines.accuracy_bench.runs import Outcome, Run, append_outcome, measure, read_outcomes
from pipelines.calibration_bench import page, runs
from pipelines.calibration_bench.runs import (
    BOTH,
    DEFAULT,
    METHODS,
    OURS,
    PEER,
    RATES,
    SPLIT,
    SURE,
    calibration_figures,
    key,
    steps_within,
    sure_steps_within,
)
from pipelines.calibration_bench.summary import Count, Realised, counts_of, limits_of
from pipelines.sections import find_section, write_section

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "adbench").mkdir()
    for name, n in (("1_first", 400), ("2_second", 420)):
        label = np.arange(n) < 40
        rows = np.random.default_rng(n).normal(size=(n, 3)) + 2.0 * label[:, None]
        np.savez(tmp_path / "adbench" / f"{name}.npz", X=rows, y=label.astype(int))
    return tmp_path


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    few = TrainingSettings(max_steps=30)
    monkeypatch.setattr(ours, "TrainingSettings", lambda seed, max_steps=30: replace(few, seed=seed))


def run_of(method: str = PEER, **changes: Any) -> Run:
    return replace(Run("adbench", "1_first", 0, method, 0.0, runs.version_of(method)), **changes)


def outcome(method: str, table: str, alarms: float, *, seed: int = 0, m: int = 999, folds: int = 5) -> Outcome:
    """A run that alarms on a share of 1,000 unseen normal rows at 5 %, a tenth of it at 1 %, and never at 0.1 %."""
    figures: dict[str, float] = {
        "auroc": 0.9 - 0.1 * (method == SPLIT),
        "average_precision": 0.5,
        "train_rows": 1_000,
        "columns": 7,
        "unseen": 1_000,
        "anomalies": 50,
        "m": m,
        "folds": folds if method == DEFAULT else 0,
        "fit_s": 2.0,
    }
    for quantity in runs.QUANTITIES[method]:
        for rate, share, found in ((0.05, alarms, 40), (0.01, alarms / 10, 20), (0.001, 0.0, 10)):
            steps = steps_within(m, rate)
            if steps:
                counted = {"steps": steps, "alarms": round(1_000 * share), "found": found - 5 * (method == PEER)}
                figures |= {key(name, quantity, rate): number for name, number in counted.items()}
                if method in (DEFAULT, SPLIT):
                    fewer = {"steps": max(1, steps // 2), "alarms": round(500 * share), "found": found // 2}
                    figures |= {key(name, SURE + quantity, rate): number for name, number in fewer.items()}
    return Outcome(run_of(method, table=table, seed=seed), figures)


def command(data: Path, *arguments: str) -> list[str]:
    given_paths = {"--data": data, "--results": data / "results.jsonl", "--page-path": data / "page.md"}
    return [*(str(part) for pair in given_paths.items() for part in pair), "--processes", "1", *arguments]


@given(st.integers(1, 3_000), st.sampled_from([*RATES, 0.1, 0.2]))
def test_alarms_are_the_p_values_that_do_not_exceed_the_rate(m: int, rate: float) -> None:
    scores = np.arange(1.0, m + 1)
    found = p_values(np.append(scores + 0.5, 0.0), scores)
    assert int((found <= rate * (1 + 1e-9)).sum()) == steps_within(m, rate)
    assert (steps_within(m, rate) >= 1) == (rate * (m + 1) >= 1 - 1e-9)


def test_alarms_with_confidence_are_the_ranks_whose_bound_does_not_exceed_the_rate() -> None:
    for m in (60, 500, 5_000):
        table = conditional_p_values(m, 0.95)
        for rate in RATES:
            within = sure_steps_within(m, rate)
            assert (table[:within] <= rate).all()
            assert (table[within:] > rate).all()
            assert within < steps_within(m, rate) or within == 0
        assert sure_steps_within(m, float(table[3])) >= 4


@pytest.mark.parametrize(("method", "calibrated"), [(DEFAULT, 180), (SPLIT, 38), (BOTH, 180)])
def test_counts_are_the_alarms_that_users_get(data: Path, few_steps: None, method: str, calibrated: int) -> None:
    split = SUITES["adbench"].load(data, "1_first", 3)
    figures = calibration_figures(run_of(method, seed=3), split)
    scorer = OURS[method].scorer(as_table(split.train), 3)
    assert scorer.manifest.calibration.method == ("split" if method == SPLIT else "cross")
    assert (figures["m"], figures["unseen"], figures["anomalies"]) == (calibrated, 180, 40)
    assert (figures["folds"] > 0) == (method != SPLIT)
    quantity = "verdict" if method == BOTH else "score"
    for rate in (0.05, 0.01):
        told = [key(name, quantity, rate) for name in ("alarms", "found")]
        if rate * (calibrated + 1) < 1:
            assert not set(told) & figures.keys()
            continue
        alarm = scorer.score(as_table(split.test), alarm_rate=rate)["alarm"].to_numpy(zero_copy_only=False)
        assert [figures[name] for name in told] == [alarm[~split.anomalous].sum(), alarm[split.anomalous].sum()]
    assert figures[key("found", quantity, 0.05)] > 0
    assert key("alarms", quantity, 0.001) not in figures


def test_counts_with_confidence_are_those_of_a_detector_that_states_it(data: Path, few_steps: None) -> None:
    split = SUITES["adbench"].load(data, "1_first", 0)
    figures = calibration_figures(run_of(DEFAULT), split)
    sure = Variant({"alarm_rate": 0.05, "confidence": 0.95}).scorer(as_table(split.train), 0)
    assert sure.manifest.calibration.rows == figures["m"]
    alarm = sure.score(as_table(split.test))["alarm"].to_numpy(zero_copy_only=False)
    assert figures[key("alarms", "sure score", 0.05)] == alarm[~split.anomalous].sum()
    assert figures[key("found", "sure score", 0.05)] == alarm[split.anomalous].sum() > 0


def test_the_peer_s_threshold_is_its_own(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ecod = pytest.importorskip("pyod.models.ecod").ECOD
    monkeypatch.setitem(PEERS, PEER, PEERS["ECOD"])  # draws nothing, so that two fits are alike
    split = SUITES["adbench"].load(data, "1_first", 0)
    figures = calibration_figures(run_of(), split)
    standardise = Standardiser.of(split.train)
    for rate in (0.05, 0.01):
        alarm = ecod(contamination=rate).fit(standardise(split.train)).predict(standardise(split.test)) == 1
        assert figures[key("alarms", "score", rate)] == alarm[~split.anomalous].sum()
        assert figures[key("found", "score", rate)] == alarm[split.anomalous].sum()
    assert figures["m"] == 180


def test_a_run_that_fails_leaves_the_type_of_its_error(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("a value of 4711")

    monkeypatch.setitem(PEERS, PEER, replace(PEERS["ECOD"], fit=fail))
    found = measure(run_of(), data, calibration_figures)
    assert (found.error, found.figures) == ("ZeroDivisionError", {})


def test_every_method_has_its_seeds_and_one_seed_covers_all_tables() -> None:
    planned = runs.plan("adbench", ["a", "b"], None, [DEFAULT, PEER])
    assert [(run.seed, run.table, run.method) for run in planned[:5]] == [
        (0, "a", DEFAULT), (0, "a", PEER), (0, "b", DEFAULT), (0, "b", PEER), (1, "a", DEFAULT),
    ]  # fmt: skip
    assert [sum(run.method == name for run in planned) for name in (DEFAULT, PEER)] == [20, 6]
    assert {run.seed for run in runs.plan("adbench", ["a"], [7, 8], METHODS)} == {7, 8}
    assert {run.seed for run in runs.plan("oddbench", ["a"], None, METHODS)} == {0}


def test_limits_are_those_of_exact_p_values() -> None:
    draw = np.random.default_rng(0)
    m, unseen, rate = 150, 300, 0.05
    steps = steps_within(m, rate)
    limits = limits_of(m, steps, unseen, rate)
    assert limits.bound == betabinom.ppf(0.95, unseen, steps, m + 1 - steps)
    assert limits.stated == 15
    assert binomtest(limits.tested, unseen, rate, alternative="greater").pvalue > 0.05
    assert binomtest(limits.tested + 1, unseen, rate, alternative="greater").pvalue <= 0.05
    calibration = draw.random((4_000, m))
    alarms = (draw.random((4_000, unseen)) > np.sort(calibration, axis=1)[:, [-steps]]).sum(axis=1)
    beyond = [(alarms > limit).mean() for limit in (limits.bound, limits.stated, limits.tested)]
    assert beyond == pytest.approx(limits.exact, abs=0.02)
    assert limits.exact[0] < 0.05


def test_realised_rates_are_means_over_tables_of_means_over_seeds() -> None:
    def count(table: str, seed: int, alarms: int) -> Count:
        return Count(table, seed, 0.05, 150, steps_within(150, 0.05), 200, alarms, alarms / 40)

    found = Realised.of([count("a", 0, 10), count("a", 1, 20), count("b", 0, 40)])
    assert (found.runs, found.tables, found.rate) == (3, 2, 0.05)
    assert found.ratio == pytest.approx((1.5 + 4.0) / 2)
    assert found.error == pytest.approx(1.25)
    assert found.median == pytest.approx(2.0)
    assert found.exact_ratio == pytest.approx(7 / 151 / 0.05)
    assert found.recall == pytest.approx((0.375 + 1.0) / 2)
    assert found.above_stated.seen == pytest.approx(2 / 3)  # ten of 200 are the stated 5 %
    assert found.above_bound.seen == pytest.approx(2 / 3)
    assert found.above_bound.exact == pytest.approx(limits_of(150, 7, 200, 0.05).exact[0])
    assert np.isnan(Realised.of([count("a", 0, 10)]).error)


def test_runs_count_only_where_their_rows_allow_the_rate() -> None:
    outcomes = [outcome(DEFAULT, "1_first", 0.05), outcome(DEFAULT, "2_second", 0.05, m=150)]
    assert [len(counts_of(outcomes, DEFAULT, "score", rate)) for rate in RATES] == [2, 2, 1]
    failed = replace(outcomes[0], error="MemoryError")
    assert counts_of([failed], DEFAULT, "score", 0.05) == []


def sample() -> list[Outcome]:
    return [
        outcome(DEFAULT, "1_first", 0.052),
        outcome(DEFAULT, "1_first", 0.050, seed=1),
        outcome(DEFAULT, "10_last", 0.047, m=150),
        outcome(DEFAULT, "33_large", 0.05, folds=0),
        outcome(SPLIT, "1_first", 0.04),
        outcome(SPLIT, "33_large", 0.05),
        outcome(BOTH, "1_first", 0.05),
        outcome(PEER, "1_first", 0.09),
        Outcome(run_of(PEER, table="10_last"), {}, "MemoryError"),
    ]


def lines_of(text: str, begin: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(begin)]


def test_the_section_tells_verdicts_from_the_figures() -> None:
    text = page.section(sample())
    (mine,) = lines_of(text, "- anomvae, score: stated 5 %")
    assert "realised 4.93 % (3 tables): within 10 %: **yes**" in mine
    (theirs,) = lines_of(text, "- PyOD VAE, score: stated 5 %")
    assert "realised 9 % (1 table): within 10 %: **no**" in theirs
    (low,) = lines_of(text, "- anomvae, score: stated 0.1 %")
    assert (
        "realised 0 % (2 tables): within 10 %: **no**; exact p-values would give 0.1 %: within 10 % of that: no" in low
    )
    (sure,) = lines_of(text, "- anomvae, score, 95 % confidence: stated 5 %")
    assert "in 0.0 % of 4 runs (3 tables;" in sure
    assert "at most 5 %: **yes**" in sure
    worse = page.section([outcome(SPLIT, "1_first", 0.2)])
    assert lines_of(worse, "- anomvae (split), score, 95 % confidence: stated 5 %")[0].endswith("at most 5 %: **no**.")


def test_the_section_tells_rates_finds_ranking_tables_and_failures() -> None:
    text = page.section(sample())
    (line,) = lines_of(text, "| 5 % | PyOD VAE | score |")
    assert line.startswith("| 5 % | PyOD VAE | score | 1 (1) | 1.80 | 1.00 | 1.80 | 100.0 % (")
    plain, sure = lines_of(text, "| 5 % | anomvae (split) | score |")
    assert plain.startswith("| 5 % | anomvae (split) | score | 2 (2) | 0.90 ± 0.10 | 1.00 | 0.90 | 0.0 % (")
    assert sure.startswith("| 5 % | anomvae (split) | score | 2 (2) | 0.45 ± 0.05 | 0.50 | 0.45 | 0.0 % (")
    assert "| 5 % | PyOD VAE | 1 | 80.0 % | 70.0 % | 1-0-0 | 1.000 | 1.04 | 1.80 |" in text
    assert (
        "| AUROC | 1 | 90.0 | 80.0 | +10.00 | 1-0-0 | 1.000 |" in text
    )  # without the table where the default is split
    assert "33_large have rows enough for the default to be split" in text
    tables = [
        line.split(" | ")[0] for line in text.split("by table")[1].splitlines() if line.startswith(("| 1", "| 3"))
    ]
    assert tables == ["| 1_first", "| 10_last", "| 33_large"]
    assert "| 10_last | 1,000 | 150 | failed | failed | failed | 0.94 / 0.50 | - / - | - / - | - / - |" in text
    assert "- PyOD VAE, adbench/10_last, seed 0: `MemoryError`" in text
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert all(len({line.count("|") for line in lines}) == 1 for lines in blocks)
    assert len(blocks) == 5


def test_a_peer_that_is_not_installed_is_left_out_and_said_so(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PEERS, PEER, replace(PEERS["PCA"], package="no-such-package"))
    options = argparse.Namespace(methods=None, suite="adbench", data=data, tables="*", seeds=[0])
    assert {run.method for run in bench_calibration.planned(options)} == set(OURS)
    assert "PyOD VAE is left out: no-such-package is not installed" in capsys.readouterr().out
    text = page.section([outcome(DEFAULT, "1_first", 0.05)])
    assert "PyOD VAE is left out: no-such-package is not installed." in text
    assert "| PyOD VAE |" not in text


def test_the_page_holds_the_present_versions_and_keeps_other_sections(data: Path) -> None:
    results, path = data / "results.jsonl", data / "page.md"
    old = outcome(DEFAULT, "1_first", 0.123)
    append_outcome(results, replace(old, run=replace(old.run, version="an older one")))
    with pytest.raises(SettingError, match="no run of the present methods"):
        bench_calibration.write_page(results, path)
    append_outcome(results, outcome(DEFAULT, "2_second", 0.05))
    path.write_text("# Accuracy\n")
    write_section(path, "accuracy", "other figures")
    before = find_section(path.read_text(), "accuracy")
    bench_calibration.write_page(results, path)
    text = path.read_text()
    assert find_section(text, "accuracy") == before
    assert "1_first" not in text
    assert "| 2_second |" in find_section(text, page.SECTION)


def test_finished_runs_are_not_measured_again(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyod")
    options = command(data, "--methods", PEER, "--seeds", "0", "--tables", "1_*")
    assert bench_calibration.main(options) == 0
    out = capsys.readouterr().out
    assert "0 of 1 runs" in out
    assert "1_first seed 0: PyOD VAE" in out
    assert "at 5 %" in out
    (found,) = read_outcomes(data / "results.jsonl").values()
    assert found.error is None
    assert found.figures["m"] == 180
    assert "| 1_first | 180 | 180 |" in (data / "page.md").read_text()
    assert bench_calibration.main(options) == 0
    assert "1 of 1 runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "cross"], "--methods names cross"),
        (["--tables", "9*"], "no table is called '9*'"),
        (["--data", "nowhere"], "holds no tables"),
        (["--seeds", "-1"], "whole numbers from 0"),
    ],
)
def test_wrong_options_are_the_callers_fault(
    data: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = bench_calibration.main(command(data, *arguments))
    except SystemExit as stop:  # argparse's own way
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err
