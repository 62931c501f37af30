"""What is served: detectors fitted on made-up sensors, rows to score, and the answers that must come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
import pyarrow as pa

from pipelines.bench import sensor_rows

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

FIT_ROWS = 20_000
ROWS = 10_000
STEPS = 300
DRAWS = {"small": 8, "small-mean": 1}
"""Fixed draws of z that the score averages over, by name of the model."""
TITLES = {"small": "8 fixed draws of z", "small-mean": "posterior mean"}
OUTPUTS = ("score", "alarm")


@dataclass(frozen=True, slots=True)
class Scores:
    """Answers to n rows.

    Attributes:
        score: Shape ``(n,)``.
        alarm: Shape ``(n,)``.
    """

    score: npt.NDArray[np.float64]
    alarm: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to serve.

    Attributes:
        name: Its name.
        folder: Its bundle.
        graph: The bundle's ONNX graph.
        columns: Names of its columns.
        rows: Normal rows that the fit has not seen, float32, shape ``(10000, 32)``.
        right: What ONNX Runtime alone answers to them.
    """

    name: str
    folder: Path
    graph: Path
    columns: tuple[str, ...]
    rows: npt.NDArray[np.float32]
    right: Scores

    def check(self, found: Scores, first: int = 0) -> None:
        """Makes sure that a server computes what it should before its speed is measured.

        Args:
            found: Answers to as many rows.
            first: The first of those rows.

        Raises:
            ValueError: Answers are missing or wrong.
        """
        span = slice(first, first + len(found.score))
        score, alarm = self.right.score[span], self.right.alarm[span]
        if found.score.shape != score.shape or not np.allclose(found.score, score, rtol=1e-4, atol=1e-3):
            raise ValueError(f"the scores of {self.name} are wrong")
        if np.mean(found.alarm != alarm) > 1e-3:  # noqa: PLR2004  a row on the threshold may go either way
            raise ValueError(f"the alarms of {self.name} are wrong")


def fit_subject(name: str, folder: Path) -> Subject:
    """Fits a model of 32 columns, encoder 128-64, latent 8, decoder 64-128, on few steps: speed needs no more.

    Args:
        name: `small` or `small-mean`.
        folder: Where the bundle goes, under its name.
    """
    from anomvae.fitting import FitSettings, fit_bundle
    from anomvae.training.settings import TrainingSettings
    from anomvae.vae.settings import ModelSettings

    rows = sensor_rows(FIT_ROWS + ROWS)
    columns = tuple(f"sensor_{j:02d}" for j in range(rows.shape[1]))
    table = pa.table(dict(zip(columns, rows[:FIT_ROWS].astype(np.float64).T, strict=True)))
    settings = FitSettings(
        name=name,
        model=ModelSettings(layers=(128, 64), latent=8, score_draws=DRAWS[name], prior="normal"),
        training=TrainingSettings(max_steps=STEPS),
    )
    bundle = fit_bundle(table, settings, folder / name).bundle
    session = open_graph(bundle.graph)
    score, alarm = session.run(list(OUTPUTS), {"numeric": rows[FIT_ROWS:]})
    right = Scores(score.astype(np.float64), alarm)
    return Subject(name, bundle.folder, bundle.graph, columns, rows[FIT_ROWS:], right)


def open_graph(graph: Path) -> ort.InferenceSession:
    """A session of one thread a call, for callers that run side by side."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
