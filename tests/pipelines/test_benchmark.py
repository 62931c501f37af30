from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from anomvae.errors import SettingError
from anomvae.training.settings import TrainingSettings
from pipelines import benchmark
from pipelines.accuracy_bench import ours, page, runs
from pipelines.accuracy_bench.ours import DEFAULT, OURS, Variant
from pipelines.accuracy_bench.peers import PEERS, Peer
from pipelines.accuracy_bench.runs import Outcome, Run, append_outcome, measure, measure_all, plan, read_outcomes
from pipelines.accuracy_bench.summary import compare, current, differences
from pipelines.sections import find_section, write_section

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipelines.accuracy_bench.peers import Score
    from pipelines.accuracy_bench.protocol import Floats


def write_table(data: Path, name: str, *, n: int = 200, anomalies: int = 40, shift: float = 4.0) -> None:
    (data / "adbench").mkdir(parents=True, exist_ok=True)
    label = np.arange(n) < anomalies
    rows = np.random.default_rng(n).normal(size=(n, 3)) + shift * label[:, None]
    np.savez(data / "adbench" / f"{name}.npz", X=rows, y=label.astype(int))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_table(tmp_path, "1_first")
    write_table(tmp_path, "2_second", n=220)
    return tmp_path


def run_of(method: str = "1-NN", **changes: Any) -> Run:
    return replace(Run("adbench", "1_first", 0, method, 0.0, runs.version_of(method)), **changes)


def outcome(method: str, table: str, auroc: float, *, seed: int = 0, dirty: float = 0.0, kept: float = 0.9) -> Outcome:
    figures = {
        "auroc": auroc,
        "average_precision": auroc - 0.1,
        "kept_auroc": kept,
        "kept_average_precision": kept - 0.1,
        "fit_s": 2.0,
        "score_s": 0.25,
        "train_rows": 1_234,
        "columns": 7,
        "test_rows": 2_000,
        "anomalies": 321,
    }
    return Outcome(run_of(method, table=table, seed=seed, dirty=dirty), figures)


def command(data: Path, *arguments: str) -> list[str]:
    given = {"--suite": "adbench", "--data": str(data), "--results": str(data / "results.jsonl"), "--processes": "1"}
    return [*(part for pair in given.items() for part in pair), "--page-path", str(data / "page.md"), *arguments]


def test_finished_runs_are_not_measured_again(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = data / "results.jsonl"
    options = ("--methods", "1-NN,PCA", "--seeds", "0", "--no-page")
    assert benchmark.main(command(data, *options, "--max-tables", "1")) == 0
    assert "0 of 2 runs" in capsys.readouterr().out
    first = results.read_bytes()
    assert benchmark.main(command(data, *options)) == 0
    out = capsys.readouterr().out
    assert "2 of 4 runs" in out
    assert "1_first" not in out
    assert results.read_bytes().startswith(first)
    assert len(read_outcomes(results)) == 4
    assert not (data / "page.md").exists()


def test_a_table_that_fails_is_recorded_and_stops_nothing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(data, "0_without", anomalies=0)
    options = command(data, "--methods", "1-NN", "--seeds", "0")
    assert benchmark.main(options) == 0
    assert "0_without seed 0: 1-NN failed: ValueError" in capsys.readouterr().out
    errors = {found.run.table: found.error for found in read_outcomes(data / "results.jsonl").values()}
    assert errors == {"0_without": "ValueError", "1_first": None, "2_second": None}
    assert "| 1-NN | adbench | 0_without | 0% | 0 | `ValueError` |" in (data / "page.md").read_text()
    assert benchmark.main(options) == 0
    assert "3 of 3 runs" in capsys.readouterr().out
    assert benchmark.main([*options, "--retry"]) == 0
    assert "failed: ValueError" in capsys.readouterr().out


def test_a_method_that_fails_leaves_the_type_of_its_error(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(rows: Floats, settings: Mapping[str, Any], seed: int) -> Score:
        raise ZeroDivisionError("a value of 4711 is nothing for a log")

    monkeypatch.setitem(PEERS, "1-NN", Peer("scikit-learn", {}, fail))
    found = measure(run_of(), data)
    assert (found.error, found.figures) == ("ZeroDivisionError", {})
    assert "4711" not in found.to_json()


def test_a_worker_that_dies_fails_its_run_alone(data: Path) -> None:
    def kill_the_first() -> None:
        while not stop.wait(0.01):
            for child in psutil.Process().children():
                if "spawn_main" in " ".join(child.cmdline()):
                    child.kill()
                    return

    stop = threading.Event()
    killer = threading.Thread(target=kill_the_first)
    killer.start()
    try:
        found = list(measure_all([run_of(), run_of("PCA")], data, 1))
    finally:
        stop.set()
        killer.join()
    assert [one.error for one in found] == ["worker died", None]


def test_figures_are_those_of_the_ranking(data: Path) -> None:
    found = measure(run_of("PCA"), data).figures
    assert found["auroc"] > 0.95
    assert (found["train_rows"], found["test_rows"], found["anomalies"], found["columns"]) == (80, 120, 40, 3)
    scores, anomalous = np.array([1.0, np.inf, 2.0, -np.inf]), np.array([False, True, True, False])
    assert runs.ranking(scores, anomalous) == (1.0, 1.0)
    assert runs.ranking(np.zeros(4), anomalous) == (0.5, 0.5)
    for wrong in (np.array([1.0, np.nan, 2.0, 3.0]), np.zeros(3)):
        with pytest.raises(ValueError, match="missing"):
            runs.ranking(wrong, anomalous)


def test_clean_and_dirty_runs_are_compared_on_the_same_test_rows(data: Path) -> None:
    clean, dirty = (measure(run_of(dirty=share), data).figures for share in (0.0, 0.1))
    assert clean["anomalies"] == 40
    assert dirty["anomalies"] == 20
    assert dirty["kept_auroc"] == dirty["auroc"] < clean["kept_auroc"]


def test_dirty_runs_are_planned_where_there_are_anomalies_enough(data: Path) -> None:
    write_table(data, "3_few", anomalies=3)
    planned = plan("adbench", data, ["1_first", "3_few"], [0], ["1-NN"], [0.02, 0.1])
    assert [(run.table, run.dirty) for run in planned] == [
        ("1_first", 0.0), ("1_first", 0.02), ("1_first", 0.1), ("3_few", 0.0),
    ]  # fmt: skip


def test_our_detector_is_measured_as_a_bundle_and_again_when_its_code_changes(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OURS, "quickest", Variant({"alarm_rate": 0.02}))
    few_steps = TrainingSettings(max_steps=30)
    monkeypatch.setattr(ours, "TrainingSettings", lambda seed, max_steps=30: replace(few_steps, seed=seed))
    found = measure(run_of("quickest"), data)
    assert found.error is None  # 80 rows do not support the rate; a higher one is taken
    assert found.figures["auroc"] > 0.8
    assert current([found]) == []  # a variant that is not offered
    default = run_of(DEFAULT)
    assert runs.version_of("quickest") != default.version
    monkeypatch.setattr(ours, "code_digest", lambda: "other code")
    assert run_of(DEFAULT).version != default.version


def test_variants_are_offered_where_the_product_has_their_settings() -> None:
    found = ours.offered({"plain": {}, "rate": {"alarm_rate": 0.1}, "other": {"no_such_setting": 1}})
    assert list(found) == ["plain", "rate"]


def test_outcomes_survive_the_file_and_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    first, second = outcome("PCA", "1_first", 0.8), Outcome(run_of("LOF"), {}, "MemoryError")
    append_outcome(path, first)
    path.write_text(path.read_text() + first.to_json()[:50])
    append_outcome(path, second)
    path.write_text(path.read_text() + json.dumps({"suite": "adbench"}) + "\n")
    assert list(read_outcomes(path).values()) == [first, second]
    append_outcome(path, outcome("PCA", "1_first", 0.7))
    assert read_outcomes(path)[first.run].figures["auroc"] == 0.7


def test_comparisons_pair_tables_and_seeds() -> None:
    first = {("a", 0): 0.9, ("a", 1): 0.8, ("b", 0): 0.5, ("c", 0): 0.70001, ("d", 0): 1.0}
    second = {("a", 0): 0.8, ("b", 0): 0.6, ("c", 0): 0.7, ("e", 0): 0.0}
    assert differences(first, second) == pytest.approx({"a": 0.1, "b": -0.1, "c": 0.00001})
    found = compare(first, second)
    assert (found.wins, found.ties, found.losses) == (1, 1, 1)
    assert compare(first, first).p == 1.0
    better = {("t", seed): 0.5 for seed in range(3)} | {(f"t{n}", 0): 0.5 + n / 100 for n in range(10)}
    assert compare(better, {key: figure - 0.01 * (1 + key[1]) for key, figure in better.items()}).p < 0.01


def lines_of(text: str, begin: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(begin)]


def outcomes() -> list[Outcome]:
    def both(table: str, mine: Sequence[float], theirs: Sequence[float]) -> list[Outcome]:
        pairs = ((DEFAULT, mine), ("PCA", theirs))
        return [outcome(name, table, figure, seed=n) for name, of in pairs for n, figure in enumerate(of)]

    return [
        *both("10_last", [0.9, 0.8], [0.7, 0.7]),
        *both("2_next", [0.7], [0.75]),
        *both("3_odd", [0.6], [0.65]),
        outcome("PCA", "2_next", 0.5, dirty=0.05),
        outcome(DEFAULT, "2_next", 0.875, dirty=0.05),
        Outcome(run_of("LOF", table="2_next"), {}, "MemoryError"),
    ]


def test_the_section_tells_means_wins_losses_failures_and_how() -> None:
    text = page.section(outcomes(), {"2_next": "because of this."})
    (mine,) = lines_of(text, f"| **{DEFAULT}** |")
    assert mine == f"| **{DEFAULT}** | 3 | 71.7 | 61.7 | 70.0 |  |  |  |  | 2.0 | 2.0 | 0.25 |"
    (theirs, dirty) = lines_of(text, "| PCA |")
    assert theirs.startswith("| PCA | 3 | 70.0 | 60.0 | 70.0 | 1-0-2 | 1.000 | 1-0-2 |")
    assert dirty == "| PCA | 40.0 / 40.0 |"
    assert lines_of(text, f"| {DEFAULT} |") == [f"| {DEFAULT} | 2.5 / 2.5 |"]
    tables = [line.split(" | ")[0] for line in lines_of(text, "| ") if "1,234" in line]
    assert tables == ["| 2_next", "| 3_odd", "| 10_last"]
    assert "| 10_last | 1,234 | 7 | 321 of 2,000 | 85.0 / 75.0 | failed | 70.0 / 60.0 |" in text
    assert "- 2_next, 5.0 points: because of this." in text
    assert "- 3_odd, 5.0 points: not explained yet." in text
    assert "- 5 %: 1 of 3 tables: 2_next" in text
    assert "| LOF | adbench | 2_next | 0% | 0 | `MemoryError` |" in text
    assert "LOF (scikit-learn, novelty True)" in text
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert all(len({line.count("|") for line in lines}) == 1 for lines in blocks)


def test_a_section_of_peers_alone_compares_with_nobody() -> None:
    text = page.section([found for found in outcomes() if found.run.method == "PCA" and not found.run.dirty], {})
    assert "below PCA" not in text
    assert "### Anomalies" not in text
    assert "| PCA | 3 | 70.0 | 60.0 | 70.0 |  |  |  |  | 2.0 |" in text


def test_the_page_holds_the_present_versions_and_keeps_other_sections(data: Path) -> None:
    results, path = data / "results.jsonl", data / "page.md"
    old = outcome("PCA", "1_first", 0.111)
    append_outcome(results, replace(old, run=replace(old.run, version="an older one")))
    append_outcome(results, outcome("PCA", "2_second", 0.9))
    benchmark.write_page(results, path)
    write_section(path, "accuracy", "other figures")
    before = find_section(path.read_text(), "accuracy")
    append_outcome(results, outcome("PCA", "3_third", 0.9))
    benchmark.write_page(results, path)
    text = path.read_text()
    assert text.startswith("# Accuracy\n")
    assert find_section(text, "accuracy") == before
    assert "11.1" not in text
    assert "| 3_third |" in text
    assert text.count("## Ranking") == 1


def test_results_of_older_versions_alone_make_no_page(data: Path) -> None:
    old = outcome("PCA", "1_first", 0.9)
    append_outcome(data / "results.jsonl", replace(old, run=replace(old.run, version="an older one")))
    with pytest.raises(SettingError, match="no run of the present methods"):
        benchmark.write_page(data / "results.jsonl", data / "page.md")


def test_the_repository_s_page_and_explanations_are_sound() -> None:
    assert find_section(benchmark.PAGE.read_text(), "accuracy")
    assert isinstance(page.read_explanations(benchmark.EXPLANATIONS), dict)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "PCA,nonsense"], "--methods names nonsense"),
        (["--tables", "9*"], "no table is called '9*'"),
        (["--data", "nowhere"], "holds no tables"),
        (["--seeds", "-1"], "whole numbers from 0"),
        (["--processes", "0"], "whole numbers from 1"),
        (["--dirty", "0.1,5"], "shares between 0 and 1"),
        (["--dirty", "much"], "shares between 0 and 1"),
    ],
)
def test_wrong_options_are_the_callers_fault(
    data: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = benchmark.main(command(data, *arguments))
    except SystemExit as stop:  # argparse's own way
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_a_peer_that_is_not_installed_is_asked_for(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PEERS, "PyOD VAE", replace(PEERS["PCA"], package="no-such-package"))
    assert benchmark.main(command(data, "--methods", "PyOD VAE")) == 2
    assert "PyOD VAE cannot run: no-such-package is not installed" in capsys.readouterr().err
    assert benchmark.main(command(data, "--methods", "PCA", "--seeds", "0")) == 0  # the page does without


def test_a_file_of_explanations_that_is_none_is_told(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = data / "explanations.toml"
    for wrong in ("[table]\na = 1", "= nothing"):
        path.write_text(wrong)
        with pytest.raises(SettingError, match=r"explanations\.toml"):
            page.read_explanations(path)
