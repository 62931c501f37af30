"""Contents of reports, made up but lifelike: a pump station with sensors, states and a few faults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest

from anomvae.bundle import Calibration, Column, LeftOut, Manifest, Provenance, Split, TrainingRecord
from anomvae.report import Reason, ReportContents, ScoredRows, StrangeRow
from anomvae.vae.diagnostics import LatentUse, Relations

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomvae.report.contents import FloatArray

SENSORS = ("suction_pressure_bar", "discharge_pressure_bar", "flow_m3_h", "motor_current_A", "bearing_temp_C")


def columns_of(n: int) -> tuple[Column, ...]:
    """So many columns: sensors, dates, flags and categories in turn."""
    made = []
    for at in range(n):
        name = f"{SENSORS[at % 5]}_{at // 5 + 1}" if at >= 5 else SENSORS[at]
        if at % 7 == 5:
            made.append(Column(f"mode_{at}", "categorical", "string", categories=("auto", "hand", "off", "service")))
        elif at % 7 == 6:
            made.append(Column(f"valve_open_{at}", "boolean", "bool", categories=("false", "true")))
        elif at % 11 == 8:
            made.append(
                Column(f"serviced_{at}", "date", "date32", low=3.0, high=400.0, origin="2024-01-01T00:00:00+00:00")
            )
        else:
            missing = 0.031 if at % 4 == 2 else 0.0
            made.append(Column(name, "numeric", "double", missing_share=missing, low=0.4 * at, high=12.5 + 31 * at))
    return tuple(made)


def curves_of(n: int) -> dict[str, list[float]]:
    """Curves of a training run of so many checks."""
    step = np.arange(1, n + 1) * 50.0
    fall = 40 * np.exp(-step / 400) + 6 * np.exp(-step / 3000)
    wiggle = 0.25 * np.sin(step / 130)
    return {
        "step": step.tolist(),
        "epoch": (step / 130).tolist(),
        "train_loss": (fall + 9 + wiggle).tolist(),
        "validation_loss": (fall + 11 + wiggle * 0.7 + 0.004 * np.maximum(0, step - 2500)).tolist(),
        "learning_rate": np.full(n, 1e-3).tolist(),
        "seconds": (step / 90).tolist(),
    }


def strangest_of(columns: tuple[Column, ...], rows: ScoredRows, rng: np.random.Generator) -> tuple[StrangeRow, ...]:
    """The strangest rows, with made-up cells."""
    found = []
    for at in np.argsort(-rows.score)[:12]:
        order = np.argsort(-rows.contribution[at])[:4]
        reasons = tuple(
            Reason(
                columns[each].name,
                float(rows.contribution[at][each]),
                None if rng.random() < 0.1 else f"{rng.normal(30, 9):.1f}",
                f"{rng.normal(25, 2):.1f}",
            )
            for each in order
        )
        part = ("validation", "calibration", "train")[int(rng.integers(3))]
        found.append(StrangeRow(int(at) * 7, part, float(rows.score[at]), float(rows.p_value[at]), reasons))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Plant:
    """What a report is made up of.

    Attributes:
        columns: Scored columns.
        rows: Rows to train, validate and calibrate.
        labelled: Labelled anomalies.
        latent: Size of the latent space.
        warnings: Warnings of the report.
        checks: Entries of the curves.
        decision: Which p-value decides.
        name: Name of the model.
        rate: Stated alarm rate.
    """

    columns: tuple[Column, ...] = columns_of(14)
    rows: tuple[int, int, int] = (2400, 800, 1200)
    labelled: int = 60
    latent: int = 6
    warnings: tuple[str, ...] = ()
    checks: int = 60
    decision: Literal["elbo", "reconstruction", "either"] = "elbo"
    name: str = "pump-station-7"
    rate: float = 0.01

    def contents(self) -> ReportContents:
        """The contents of the report; the same for the same plant."""
        rng = np.random.default_rng(3)
        table = np.empty(0)
        calibration = self.scored(self.rows[2], rng, table)
        table = np.sort(calibration.score)
        train, validation = (self.scored(n, rng, table) for n in self.rows[:2])
        kl = np.sort(rng.gamma(0.7, 0.8, self.latent))[::-1] * np.where(np.arange(self.latent) < 4, 1, 1e-3)
        return ReportContents(
            self.manifest(table),
            self.record(),
            train,
            validation,
            calibration,
            self.scored(self.labelled, rng, table, shift=5.0) if self.labelled else None,
            strangest_of(self.columns, validation, rng),
            LatentUse(kl, 0.8, kl) if self.latent else None,
            self.warnings,
            Relations(-11.2, -3.4, 7.6, 0.3, self.rows[1]),
        )

    def scored(self, n: int, rng: np.random.Generator, table: FloatArray, shift: float = 0.0) -> ScoredRows:
        """So many scored rows, shifted where they are anomalies; their p-values come from a table of scores."""
        d = len(self.columns)
        noise = rng.gamma(1.0, 1.0, (n, d)) - 1 + 0.3 * rng.gamma(1.0, 1.0, (n, 1))
        spikes = shift * (rng.random((n, d)) < 0.25) * rng.lognormal(0, 1.2, (n, d))
        contribution = np.linspace(-1.2, 1.4, d) + 0.6 * noise + spikes
        means = rng.standard_normal((n, self.latent)) * np.linspace(1.5, 0.2, self.latent) + shift / 4
        score = contribution.sum(axis=1) + 0.5 * (means**2).sum(axis=1)
        table = table if len(table) else np.sort(score)
        p = np.minimum(1.0, (1 + len(table) - np.searchsorted(table, score, "left")) / (len(table) + 1))
        return ScoredRows(score, error_of(score), p, p.copy(), p <= self.rate, contribution, means)

    def manifest(self, table: FloatArray) -> Manifest:
        """The manifest, with thresholds from calibration scores."""
        m = self.rows[2]
        threshold = float(table[-max(1, int(self.rate * (m + 1)))]) if m else 0.0
        return Manifest(
            name=self.name,
            kind="table",
            model="vae",
            columns=self.columns,
            left_out=(
                LeftOut("pump_id", "an identifier: every value occurs once", "identifier"),
                LeftOut("timestamp", "the time column: it decided the split", "time"),
                LeftOut("fault", "the label", "label"),
                LeftOut("firmware", "it is constant"),
            ),
            split=Split("time", "timestamp", *self.rows, labelled=self.labelled),
            calibration=Calibration(
                "split", m, self.rate, 1 / (m + 1), self.decision, threshold, float(error_of(np.array(threshold)))
            ),
            provenance=Provenance(
                "plant/pumps-2025.parquet",
                "sha256:" + "9f2c4e71ab" * 6 + "9f2c",
                sum(self.rows) + self.labelled,
                7,
                "2026-03-14T08:12:44+00:00",
                74.2,
                {"anomvae": "0.1.0", "numpy": "2.4.6", "onnxruntime": "1.31.1", "torch": "2.13.0"},
            ),
            latent=self.latent,
        )

    def record(self) -> TrainingRecord:
        """The record of the run."""
        return TrainingRecord(
            {
                "vae.latent": self.latent,
                "vae.hidden": "256, 256",
                "vae.exemplars": 2048,
                "training.max_steps": 4000,
                "training.learning_rate": 0.001,
                "calibration.alarm_rate": self.rate,
                "split.how": "time",
            },
            {"validation_bound": -11.27, "fit_seconds": 74.2, "steps": 3000.0, "best_step": 2400.0},
            curves_of(self.checks),
            {"auroc": 0.981, "average_precision": 0.93} if self.labelled else {},
        )


def error_of(score: FloatArray) -> FloatArray:
    """A reconstruction error that goes with a score, heavy tailed."""
    return np.asarray(np.exp(0.12 * np.minimum(score, 2000)) / 4)


@pytest.fixture(scope="session")
def make_contents() -> Callable[..., ReportContents]:
    """Makes contents from a plant's options."""
    return lambda **options: Plant(**options).contents()


@pytest.fixture(scope="session")
def labelled_contents() -> ReportContents:
    return Plant(warnings=("Two columns drift over the training period: flow_m3_h & motor_current_A.",)).contents()


@pytest.fixture(scope="session")
def unlabelled_contents() -> ReportContents:
    return Plant(labelled=0).contents()


@pytest.fixture(scope="session")
def columns_of_width() -> Callable[[int], tuple[Column, ...]]:
    """Makes so many columns."""
    return columns_of
