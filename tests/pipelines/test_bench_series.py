from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

import anomvae
from anomvae.errors import DataFileError, SettingError, TooFewRowsError
from pipelines import bench_series
from pipelines.accuracy_bench.runs import Outcome, Run, append_outcome, read_outcomes
from pipelines.sections import find_section, write_section
from pipelines.series_bench import page, runs
from pipelines.series_bench.generated import GENERATED, LEAD_IN
from pipelines.series_bench.measures import alarm_figures, ranking_figures
from pipelines.series_bench.ours import DEFAULT, OURS, RATES
from pipelines.series_bench.peers import PEERS
from pipelines.series_bench.runs import MODES, SUITE, key
from pipelines.series_bench.sources import (
    ASSET,
    CONTEXT,
    EXTRA,
    NAMES,
    READERS,
    TIME,
    WINDOW,
    Dataset,
    extra_names,
    load,
    read_folder,
)
from pipelines.series_bench.steps import Scaling, lay_out, scores_of_windows, training_windows
from pipelines.series_bench.summary import FAMILIES, RECALL, Results

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anomvae.data.series import Sequences

BEGIN = pd.Timestamp("2024-03-01")


def frame(assets: dict[str, int], seed: int, *, after_s: float = 0.0) -> pd.DataFrame:
    """Two channels that move together a second, each asset at a level of its own."""
    rng = np.random.default_rng(seed)
    parts = []
    for number, (asset, n) in enumerate(assets.items()):
        times = BEGIN + pd.to_timedelta(after_s + np.arange(n), unit="s")
        level = 10.0 * number
        shared, (a, b) = np.sin(np.arange(n) / 7.0 + number), 0.1 * rng.normal(size=(2, n))
        parts.append(pd.DataFrame({TIME: times, ASSET: asset, "a": level + shared + a, "b": shared + b - level}))
    return pd.concat(parts, ignore_index=True)


def broken(rows: pd.DataFrame, asset: str, steps: range) -> pd.DataFrame:
    """Rows with a label, where one of an asset's channels leaps."""
    chosen = (rows[ASSET] == asset).to_numpy().nonzero()[0][list(steps)]
    label = np.zeros(len(rows), dtype=np.int64)
    label[chosen] = 1
    rows = rows.assign(label=label)
    rows.loc[chosen, "a"] += 6.0
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of one data set whose test rows go on from the training rows."""
    own = tmp_path / "extra" / "pumps"
    own.mkdir(parents=True)
    frame({"p": 400, "q": 400, "only": 200}, 0).to_parquet(own / "train.parquet")
    test = broken(frame({"p": 260, "q": 200}, 1, after_s=400.0), "p", range(150, 190))
    test.to_parquet(own / "test.parquet")
    told = {"time": TIME, "label": "label", "asset": ASSET, "alarms_per_day": 600, "follows": True}
    (own / "series.json").write_text(json.dumps(told))
    return tmp_path / "extra"


@pytest.fixture
def data(folder: Path) -> Dataset:
    return read_folder(folder / "pumps")


def laid_out(rows: pd.DataFrame, train: Sequences | None = None) -> Sequences:
    cadence = None if train is None else train.cadence
    return lay_out(pa.Table.from_pandas(rows), TIME, ASSET, ["a", "b"], WINDOW, cadence)


def cells_of(sequences: Sequences) -> Any:
    return sequences.values.astype(np.float64)  # noqa: PD011  no frame


def test_steps_by_all_windows_are_means_over_those_that_cover_them_and_by_the_past_of_the_last_alone() -> None:
    sequences = laid_out(frame({"p": 30, "q": 12, "r": 3}, 0))
    w = 5
    by_window = scores_of_windows(sequences, w, lambda windows: windows[:, :, 0].max(axis=1).astype(np.float64))
    by_step = scores_of_windows(sequences, w, lambda windows: (windows[:, :, 0] * windows[:, :1, 1]).astype(np.float64))
    values, begin, length = cells_of(sequences), sequences.begin, sequences.length
    for first, count in zip(begin, length, strict=True):
        for step in range(first, first + count):
            starts = [s for s in range(max(first, step - w + 1), step + 1) if s + w <= first + count]
            if not starts:
                assert np.isnan(by_window.batch[step])
                continue
            highest = [values[s : s + w, 0].max() for s in starts]
            assert by_window.batch[step] == pytest.approx(np.mean(highest))
            products = [values[step, 0] * values[s, 1] for s in starts]
            assert by_step.batch[step] == pytest.approx(np.mean(products), rel=1e-5)
            if step - first >= w - 1:
                assert by_window.online[step] == pytest.approx(highest[0])
                assert by_step.online[step] == pytest.approx(products[0], rel=1e-5)
            else:
                assert np.isnan(by_window.online[step])


def test_each_asset_is_scaled_by_its_own_training_rows_and_others_by_all() -> None:
    rows = frame({"p": 400, "q": 300}, 0)
    train = laid_out(rows)
    scaling = Scaling.of(train)
    scaled = scaling(train)
    for asset in range(2):
        own = cells_of(scaled)[scaled.asset == asset]
        assert own.mean(axis=0) == pytest.approx([0.0, 0.0], abs=1e-4)
        assert own.std(axis=0) == pytest.approx([1.0, 1.0], rel=1e-3)
    stranger = scaling(laid_out(rows.assign(**{ASSET: "new"}).head(400), train))
    whole = rows[["a", "b"]].to_numpy()
    assert cells_of(stranger) == pytest.approx(
        (whole[:400] - whole.mean(axis=0)) / whole.std(axis=0), rel=1e-3, abs=1e-4
    )


def test_an_asset_that_hardly_moved_keeps_a_tenth_of_the_usual_spread() -> None:
    rows = frame({"p": 400, "q": 300, "r": 300}, 0)
    still = rows[ASSET] == "r"
    rows.loc[still, "a"] = 3.0
    found = Scaling.of(laid_out(rows))
    usual = np.median([rows.loc[rows[ASSET] == asset, "a"].std(ddof=0) for asset in ("p", "q", "r")])
    assert found.spread["r"][0] == pytest.approx(0.1 * usual, rel=1e-4)


def test_a_missing_cell_repeats_the_one_before_it_in_its_own_sequence() -> None:
    rows = frame({"p": 100, "q": 100}, 0)
    rows.loc[[0, 50, 51, 100], "a"] = np.nan
    train = laid_out(rows)
    scaled = cells_of(Scaling.of(train)(train))
    assert np.isfinite(scaled).all()
    assert scaled[0, 0] == scaled[100, 0] == 0.0  # the mean: nothing came before
    assert scaled[50, 0] == scaled[51, 0] == scaled[49, 0]


def test_training_windows_are_thinned_evenly() -> None:
    train = laid_out(frame({"p": 400, "q": 300}, 0))
    every = training_windows(train, 16, 10_000)
    assert every.shape == (385 + 285, 16, 2)
    some = training_windows(train, 16, 50)
    assert len(some) == 50
    assert (some[0] == every[0]).all()
    assert (some[-1] == every[-1]).all()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the benchmark's own processes have it; small fits on several threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


FEW = {"CNN forecaster": {"epochs": 8}, "PyOD VAE": {"epoch_num": 5}}
"""Settings that make a fit quick."""


@pytest.mark.parametrize(
    "method", ["PCA rows", "1-NN rows", "k-means 16 drawn in", *(f"{name} 16" for name in FAMILIES if name not in OURS)]
)
def test_every_peer_ranks_a_leap_above_what_is_normal(
    data: Dataset, method: str, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = PEERS[method]
    if peer.package == "pyod":
        pytest.importorskip("pyod")
    monkeypatch.setitem(PEERS, method, replace(peer, settings={**peer.settings, **FEW.get(peer.family, {})}))
    found = runs.figures(Run(SUITE, "pumps", 0, method, 0.0, ""), data)
    for mode in MODES:
        assert found[key(mode, "auroc")] > 0.85
        assert found[key(mode, "vus_pr")] > 0.6
        assert found[key(mode, "runs_ranked")] == 1
        assert found[key(mode, "unscored")] == 0
    assert (found["train_rows"], found["judged"], found["anomalies"], found["assets"]) == (1_000, 460, 40, 2)


def test_test_rows_that_go_on_are_all_judged_and_those_before_only_fill_windows(data: Dataset) -> None:
    assert len(data.scored) == 460 + 2 * CONTEXT
    assert data.judged.sum() == 460
    for asset in ("p", "q"):
        own = (data.scored[ASSET] == asset).to_numpy()
        assert data.scored[TIME][own].is_monotonic_increasing
        assert not data.judged[own][:CONTEXT].any()
        assert data.judged[own][CONTEXT:].all()
    assert data.anomalous.sum() == 40
    assert not (data.anomalous & ~data.judged).any()
    assert data.channels == ["a", "b"]
    assert set(data.train[ASSET]) == {"p", "q", "only"}


def test_test_rows_that_follow_nothing_fill_their_first_windows(folder: Path) -> None:
    path = folder / "pumps" / "series.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "follows": False, "channels": ["b"]}))
    found = read_folder(folder / "pumps")
    assert len(found.scored) == 460
    assert found.channels == ["b"]
    for asset in ("p", "q"):
        own = found.judged[(found.scored[ASSET] == asset).to_numpy()]
        assert own.tolist() == [False] * (WINDOW - 1) + [True] * (len(own) - WINDOW + 1)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"time": "when", "label": "label"}, "does not fit the columns: KeyError: 'when'"),
        ({"label": "label"}, "does not fit the columns"),
        ([], "must hold an object"),
    ],
)
def test_a_folder_whose_settings_do_not_fit_is_refused(folder: Path, told: Any, message: str) -> None:
    (folder / "pumps" / "series.json").write_text(json.dumps(told))
    with pytest.raises(DataFileError, match=message):
        read_folder(folder / "pumps")


def test_a_folder_without_rows_or_settings_is_refused(folder: Path) -> None:
    assert extra_names(folder) == [EXTRA + "pumps"]
    (folder / "pumps" / "test.parquet").unlink()
    with pytest.raises(DataFileError, match=r"must hold train\.parquet and test\.parquet"):
        load(EXTRA + "pumps", folder, folder)
    (folder / "pumps" / "series.json").unlink()
    with pytest.raises(DataFileError, match="cannot be read as JSON"):
        read_folder(folder / "pumps")
    with pytest.raises(DataFileError, match=r"no folder with a series\.json"):
        extra_names(folder)


@pytest.mark.parametrize("name", GENERATED)
def test_generated_series_are_the_same_each_time_and_normal_where_they_train(name: str, tmp_path: Path) -> None:
    first, second = (load(name, tmp_path, None) for _ in range(2))
    pd.testing.assert_frame_equal(first.scored, second.scored)
    assert set(first.train[ASSET]) == set(first.scored[ASSET])
    assert np.isfinite(first.train[first.channels].to_numpy()).all()
    assert 0.05 < first.anomalous[first.judged].mean() < 0.4
    for asset, own in first.scored.groupby(ASSET):
        label = first.anomalous[own.index]
        assert label.any()
        assert not label[: LEAD_IN // 2].any()
        known = first.train[first.train[ASSET] == asset]
        assert known[TIME].max() < own[TIME].min()


def test_ranking_is_the_mean_over_runs_that_have_anomalies_and_unscored_rows_are_least_strange(data: Dataset) -> None:
    score = np.random.default_rng(3).normal(size=len(data.scored)) + 2.0 * data.anomalous
    first_bad = int(np.flatnonzero(data.anomalous)[0])
    score[first_bad] = np.nan
    found = ranking_figures(score, data)
    own = data.judged & (data.scored[ASSET] == "p").to_numpy()
    least = np.where(np.isnan(score), -1e9, score)[own]
    assert found["auroc"] == pytest.approx(roc_auc_score(data.anomalous[own], least))
    assert found["average_precision"] == pytest.approx(average_precision_score(data.anomalous[own], least))
    assert (found["runs_ranked"], found["unscored"], found["ranges"]) == (1, 1, 1)


def test_false_alarms_are_counted_on_normal_judged_scored_rows_and_after_the_first_day_apart() -> None:
    hours = pd.DataFrame({
        TIME: [BEGIN + pd.Timedelta(hours=h) for _ in range(2) for h in range(30)],
        ASSET: ["x"] * 30 + ["y"] * 30,
        "a": 0.0,
    })  # fmt: skip
    judged = np.tile(np.arange(30) >= 2, 2)
    anomalous = np.tile(np.arange(30) == 29, 2)
    found = Dataset("t", hours, hours, judged, anomalous, ["a"], 1.0)
    alarm = np.zeros(60, dtype=np.bool_)
    alarm[[0, 5, 27, 29, 58]] = True  # not judged; counted; later; anomalous; later, of the other asset
    scored = np.ones(60, dtype=np.bool_)
    scored[10] = False
    figures = alarm_figures(alarm, scored, found)
    assert (figures["normal"], figures["alarms"]) == (53, 3)
    assert (figures["later_normal"], figures["later_alarms"]) == (6, 2)
    assert figures["asset_least"] == pytest.approx(1 / 27)
    assert figures["asset_most"] == pytest.approx(2 / 26)


@dataclass
class Stub:
    """A detector that finds a leap of `a`, and supports no rate below its own."""

    least: float

    def score(self, rows: pd.DataFrame, *, past_only: bool, alarm_rate: float | None = None) -> pd.DataFrame:
        if alarm_rate is not None and alarm_rate < self.least:
            raise TooFewRowsError("too few rows", 1_000)
        score = (rows["a"] - rows["a"].groupby(rows[ASSET]).transform("median")).abs()
        score = score.where(np.arange(len(rows)) >= WINDOW) if past_only else score
        return pd.DataFrame({"score": score, "alarm": (score > 4.0).to_numpy()})


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Fits of the product are stubs that support 5 %; the list gets their settings."""
    asked: list[dict[str, Any]] = []

    def fit(rows: pd.DataFrame, **settings: Any) -> Stub:
        asked.append({"rows": len(rows), **settings})
        if settings["alarm_rate"] < 0.05:
            raise TooFewRowsError("too few rows", 1_000)
        return Stub(0.05)

    monkeypatch.setattr(anomvae, "fit", fit)
    return asked


def test_ours_is_fitted_at_the_first_rate_its_rows_support_and_judged_at_those(
    data: Dataset, stub: list[dict[str, Any]]
) -> None:
    found = runs.figures(Run(SUITE, "pumps", 7, "anomvae rows", 0.0, ""), data)
    told = {"rows": 1_000, "time": TIME, "by": ASSET, "window": WINDOW, "seed": 7, "members": "row"}
    assert stub == [{**told, "alarm_rate": 0.01}, {**told, "alarm_rate": 0.05}]
    for mode in MODES:
        assert found[key(mode, "auroc")] > 0.95
        assert found[key(mode, "normal", 0.05)] == 420
        assert found[key(mode, "alarms", 0.05)] < 5
        assert key(mode, "alarms", 0.01) not in found
    assert found["train_assets"] == 3


def test_a_run_that_fails_leaves_the_type_of_its_error_and_the_message_of_our_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: Exception) -> Any:
        def fit(*_: Any) -> Any:
            raise error

        return fit

    run = Run(SUITE, EXTRA + "pumps", 0, "PCA rows", 0.0, "")
    monkeypatch.setitem(PEERS, "PCA rows", replace(PEERS["PCA rows"], fit=fail(ValueError("a value of 4711"))))
    assert runs.measure(run, folder, folder).error == "ValueError"
    monkeypatch.setitem(PEERS, "PCA rows", replace(PEERS["PCA rows"], fit=fail(SettingError("state less"))))
    assert runs.measure(run, folder, folder).error == "SettingError: state less"


def outcome(method: str, table: str, vus_pr: float, seed: int = 0, **more: float) -> Outcome:
    figures: dict[str, float] = {
        "fit_s": 2.0, "train_rows": 1_000, "train_assets": 1, "channels": 8, "judged": 500, "anomalies": 50, "assets": 4,
        "alarms_per_day_stated": 24.0,
    }  # fmt: skip
    for mode in MODES:
        ranked = {"vus_pr": vus_pr, "vus_roc": vus_pr, "auroc": 0.9, "average_precision": 0.5, "score_s": 0.5}
        found = {RECALL: 0.5, "event_recall_by_chance_at_budget": 0.1, "ranges": 7, "normal_days": 0.5}
        figures |= {key(mode, name): value for name, value in {**ranked, **found}.items()}
        if method in OURS:
            for rate, alarms in zip(RATES, (60, 4), strict=True):
                counted = {"normal": 1_000, "alarms": alarms, "later_normal": 500, "later_alarms": alarms // 4}
                spread = {"asset_least": 0.0, "asset_median": 0.05, "asset_most": 0.2}
                figures |= {key(mode, name, rate): value for name, value in {**counted, **spread}.items()}
    run = Run(SUITE, table, seed, method, 0.0, runs.version_of(method))
    return Outcome(run, {**figures, **{name.replace("__", " "): value for name, value in more.items()}})


def sample() -> list[Outcome]:
    return [
        outcome(DEFAULT, "tep", 0.90),
        outcome(DEFAULT, "tep", 0.94, seed=1, batch__later_normal=0.0),
        outcome(DEFAULT, "skab", 0.80),
        outcome("PCA 16", "tep", 0.99),
        outcome("PCA 16", "skab", 0.50),
        outcome("PCA rows", "tep", 0.70),
        outcome("PCA rows", "skab", 0.85),
        outcome("k-means 16", "tep", 0.9202),
        outcome("k-means 16", "skab", 0.81),
        Outcome(Run(SUITE, "skab", 0, "1-NN 16", 0.0, runs.version_of("1-NN 16")), {}, "MemoryError"),
    ]


def lines_of(text: str, begin: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(begin)]


def test_a_detector_stands_with_its_best_setting_of_each_table_and_ours_with_its_mean_over_seeds() -> None:
    results = Results(sample())
    assert results.mean("tep", DEFAULT, "batch vus_pr") == pytest.approx(0.92)
    assert results.best(["tep"], "batch") == {"PCA": "PCA 16", "k-means": "k-means 16", DEFAULT: DEFAULT}
    assert list(results.best(["skab"], "online").values()) == ["PCA rows", "k-means 16", DEFAULT]
    assert results.best(["tep", "skab"], "batch")["PCA"] == "PCA rows"  # 77.5 against 74.5
    (loss,) = results.losses(["tep"], "batch", ("vus_pr",))  # k-means is level
    assert loss.theirs == {"PCA 16": 0.99}
    assert results.losses(["tep"], "batch", ("auroc",)) == []
    assert results.over(["tep", "skab"], "1-NN 16", "batch vus_pr") is None


def test_the_section_says_where_ours_is_not_the_best_and_where_it_is() -> None:
    text = page.section(sample())
    (mine,) = lines_of(text, "- Tennessee Eastman, by all windows that cover a step: above")
    assert mine.endswith("above anomvae in VUS-PR (92.0): PCA 16 99.0; in VUS-ROC (92.0): PCA 16 99.0.")
    (both,) = lines_of(text, "- Mean over the measured series, by the past alone")
    assert both.endswith("above anomvae in VUS-PR (86.0): k-means 16 86.5.")
    best = page.section([outcome(DEFAULT, "skab", 0.8), outcome("PCA 16", "skab", 0.7)])
    (line,) = lines_of(best, "- SKAB, by all windows that cover a step: no detector")
    assert line.endswith("no detector is above anomvae in VUS-PR, VUS-ROC, AUROC, AP, events found.")
    assert "### Means" not in best


def test_the_section_shows_every_setting_the_sizes_and_what_failed() -> None:
    text = page.section(sample())
    assert "| PCA rows | 70.0 | 70.0 | 85.0 | 85.0 |" in text
    assert "| **anomvae** | 92.0 | 92.0 | 80.0 | 80.0 |" in text
    assert "at a budget of 24 alarms a day and asset: 12 alarms in the 0.5 days of normal rows" in text
    assert "- 1-NN 16, SKAB, seed 0: `MemoryError`" in text
    (row,) = [line for line in lines_of(text, "| PCA rows | 85.0 | 85.0 | 90.0") if "-" in line][:1]
    assert row == "| PCA rows | 85.0 | 85.0 | 90.0 | 50.0 | 50.0 | 10.0 | - | 2.0 | 0.5 |"
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert all(len({line.count("|") for line in lines}) == 1 for lines in blocks)
    assert len(blocks) == 2 + 2 * 2 + 1 + 1


def test_the_section_holds_realised_against_stated_rates_after_the_first_day_where_there_is_one() -> None:
    text = page.section([outcome(DEFAULT, "tep", 0.9)])
    (at_five, at_one) = lines_of(text, "- Tennessee Eastman, by the past alone: stated")
    assert "stated 5 %, realised 3.0 % (after the first day): within a factor of 1.5: **no**, too few." in at_five
    assert "stated 1 %, realised 0.2 % (after the first day): within a factor of 1.5: **no**, too few." in at_one
    assert (
        "| Tennessee Eastman | **anomvae** | online | 5 % | 6.0 % | 1.20 | 1,000 | 3.0 % | 0.60 | 500 | 0.0 | 5.0 | 20.0 |"
        in text
    )
    nothing_later = {key(mode, "later_normal", rate).replace(" ", "__", 1): 0.0 for mode in MODES for rate in RATES}
    short = outcome(DEFAULT, "skab", 0.9)
    for name in nothing_later:
        short.figures[name.replace("__", " ")] = 0.0
    (line, _) = lines_of(page.section([short]), "- SKAB, by all windows that cover a step: stated")
    assert "realised 6.0 % (of all normal rows, none is later than a day): within a factor of 1.5: **yes**." in line
    del short.figures[key("batch", "normal", 0.01)]
    assert "- SKAB, anomvae, by all windows that cover a step: the training rows do not support 1 %." in page.section(
        [short]
    )


def test_the_page_holds_the_present_versions_of_the_benchmarks_own_series_and_keeps_other_sections(
    tmp_path: Path,
) -> None:
    results, path = tmp_path / "results.jsonl", tmp_path / "page.md"
    old = outcome(DEFAULT, "tep", 0.123)
    append_outcome(results, replace(old, run=replace(old.run, version="an older one")))
    append_outcome(results, outcome(DEFAULT, EXTRA + "secret", 0.3))
    with pytest.raises(SettingError, match="no run of the present methods"):
        bench_series.write_page(results, path)
    append_outcome(results, outcome(DEFAULT, "plant", 0.7))
    append_outcome(results, outcome(DEFAULT, "tep", 0.9))
    path.write_text("# Accuracy\n")
    write_section(path, "accuracy", "other figures")
    bench_series.write_page(results, path)
    text = find_section(path.read_text(), page.SECTION)
    assert find_section(path.read_text(), "accuracy")
    assert "12.3" not in text
    assert "secret" not in text
    assert text.index("### Tennessee Eastman") < text.index("### plant (generated)")


def options_of(folder: Path, *arguments: str) -> list[str]:
    given = {"--data": folder, "--results": folder / "results.jsonl", "--page-path": folder / "page.md"}
    return [*(str(part) for pair in given.items() for part in pair), "--processes", "1", *arguments]


def test_other_series_are_measured_once_and_told_on_the_console_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = options_of(folder, "--extra", str(folder), "--methods", "PCA rows")
    assert bench_series.main(options) == 0
    out = capsys.readouterr().out
    assert "0 of 1 runs" in out
    assert "extra/pumps seed 0: PCA rows VUS-PR batch" in out
    assert "### pumps\n" in out
    (found,) = read_outcomes(folder / "results.jsonl").values()
    assert found.error is None
    assert found.figures["judged"] == 460
    assert bench_series.main(options) == 0
    assert "1 of 1 runs" in capsys.readouterr().out
    assert not (folder / "page.md").exists()


def test_runs_are_planned_by_setting_or_detector_and_drawn_once_where_nothing_is(tmp_path: Path) -> None:
    data = tmp_path
    for name in READERS:
        (data / name).mkdir()

    def planned(**changes: Any) -> list[tuple[str, str, int]]:
        given = {"methods": None, "series": None, "seeds": (0, 1, 2), "extra": None, "data": data, **changes}
        return [(run.table, run.method, run.seed) for run in bench_series.planned(argparse.Namespace(**given))]

    assert {table for table, *_ in planned()} == set(NAMES)
    one = planned(methods="k-means 16,PCA", series="tep")
    assert [seed for _, method, seed in one if method == "k-means 16"] == [0, 1, 2]
    assert [(method, seed) for _, method, seed in one if method != "k-means 16"] == [
        (name, 0) for name in PEERS if PEERS[name].family == "PCA"
    ]


def test_a_package_that_is_not_installed_is_left_out_and_said_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in PEERS if PEERS[name].family == "PyOD VAE"]:
        monkeypatch.setitem(PEERS, name, replace(PEERS[name], package="no-such-package"))
    given = argparse.Namespace(methods=None, series="plant", seeds=(0,), extra=None, data=None)
    assert not any("PyOD" in run.method for run in bench_series.planned(given))
    assert "no-such-package is not installed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "ARIMA"], "--methods names ARIMA"),
        (["--series", "nowhere"], "--series names nowhere"),
        (["--extra", "nowhere"], "holds no folder with a series.json"),
        (["--seeds", "-1"], "whole numbers"),
        ([], "tep; name the one that holds tep/ with --data"),
    ],
)
def test_wrong_options_are_the_callers_fault(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = bench_series.main(options_of(folder, *arguments))
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err
