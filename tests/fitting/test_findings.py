"""What a fit says of its own data: metrics, warnings, and rows that do not answer for themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from anomvae.fitting import FitResult, FitSettings, fit_bundle
from anomvae.training.settings import TrainingSettings
from anomvae.vae.settings import ModelSettings

if TYPE_CHECKING:
    from pathlib import Path

NO_BETTER, COLLAPSED = "than each column on its own", "Posterior collapse"


def unrelated(n: int, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    return pa.table(
        {
            **{f"x{j}": draw.normal(size=n) for j in range(3)},
            "steps": draw.integers(0, 9, n) * 1.5,
            "kind": draw.choice(["a", "b", "c"], n),
        }
    )


def related(n: int, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    cause = draw.normal(size=n)
    numbers = {f"x{j}": (j + 1) * cause + 0.2 * draw.normal(size=n) for j in range(4)}
    return pa.table({**numbers, "kind": np.array(["low", "high"])[(cause > 0).astype(int)]})


def fitted(rows: pa.Table, folder: Path, **settings: Any) -> FitResult:
    steps = TrainingSettings(max_steps=settings.pop("max_steps", 250))
    return fit_bundle(rows, FitSettings(effort="quick", alarm_rate=0.05, training=steps, **settings), folder / "bundle")


def says(result: FitResult, words: str) -> bool:
    return any(words in warning for warning in result.warnings)


@pytest.mark.parametrize("private", [False, True], ids=["exemplars", "private"])
def test_columns_that_say_nothing_of_one_another_are_warned_of(tmp_path: Path, private: bool) -> None:
    result = fitted(unrelated(900), tmp_path, private=private)
    assert says(result, NO_BETTER) != says(result, COLLAPSED)  # one of the two: a collapse explains the other
    assert not says(result, COLLAPSED) or private
    metrics = result.bundle.read_record().metrics
    assert metrics["validation_score"] > metrics["independent_score"] - 0.3
    report = (result.bundle.folder / "report.html").read_text()
    assert "Relations between columns help" in report
    assert "a simpler detector may do as well" in report


@pytest.mark.parametrize("private", [False, True], ids=["exemplars", "private"])
def test_columns_that_move_together_are_not(tmp_path: Path, private: bool) -> None:
    result = fitted(related(900), tmp_path, private=private, max_steps=800 if private else 250)
    assert not says(result, NO_BETTER)
    assert not says(result, COLLAPSED)
    metrics = result.bundle.read_record().metrics
    assert metrics["validation_score"] < metrics["independent_score"] - 1
    assert metrics["latent_dimensions"] == result.bundle.manifest.latent
    assert 1 <= metrics["active_dimensions"] <= metrics["latent_dimensions"]
    assert 0.1 < metrics["mean_kl"] < 10


def test_a_collapsed_latent_space_is_warned_of_under_the_standard_normal_and_not_under_exemplars(
    tmp_path: Path,
) -> None:
    crushed = ModelSettings(kind="beta-vae", beta=200.0)
    plain = fitted(related(400), tmp_path / "plain", model=crushed)
    assert plain.bundle.manifest.prior == "normal"
    assert says(plain, COLLAPSED)
    assert not says(plain, NO_BETTER)
    assert plain.record.metrics["active_dimensions"] == 0


def test_an_autoencoder_has_no_latent_figures_and_no_comparison(tmp_path: Path) -> None:
    result = fitted(unrelated(300), tmp_path, model=ModelSettings(kind="autoencoder"), max_steps=30)
    assert not {"validation_score", "mean_kl", "active_dimensions"} & result.record.metrics.keys()
    assert not says(result, NO_BETTER)


def test_rows_that_the_model_stores_are_not_taken_for_normal_by_themselves(tmp_path: Path) -> None:
    """Every row is an exemplar here, and the graph finds each at no distance from itself."""
    rows = related(340)
    wild = rows["x3"].to_numpy().copy()
    wild[17] += 40.0
    result = fitted(rows.set_column(3, "x3", pa.array(wild)), tmp_path)
    assert result.bundle.manifest.exemplars == 340
    report = (result.bundle.folder / "report.html").read_text()
    strangest = report[report.index('id="strangest"') :]
    assert strangest.index(">18<") < strangest.index("</tr>", strangest.index("<tbody>"))
