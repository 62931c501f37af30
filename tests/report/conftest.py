"""Contents of reports, made up but lifelike: a pump station with sensors, states and a few faults."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest

from anomvae.bundle import Calibration, Column, LeftOut, Manifest, Provenance, Split, TrainingRecord
from anomvae.calibration import Budget, Calibrated, CalibrationRows, CalibrationTables, Table, calibrate
from anomvae.evaluation.power import measure_power
from anomvae.evaluation.power_result import PowerResult, PowerSettings
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
        folds: Networks of a cross calibration of the calibration rows; 0 for a split one.
        confidence: Of the promise.
        tail: Whether tails are fitted.
        groups: Groups of the calibration rows.
        per_day: Alarms a day and rows a day.
        private: Whether the bundle is private.
        power: Whether power was measured.
    """

    columns: tuple[Column, ...] = columns_of(14)
    rows: tuple[int, int, int] = (2400, 800, 1200)
    labelled: int = 60
    latent: int = 6
    warnings: tuple[str, ...] = ()
    checks: int = 60
    decision: Literal["elbo", "reconstruction", "both"] = "elbo"
    name: str = "pump-station-7"
    rate: float = 0.01
    folds: int = 0
    confidence: float | None = None
    tail: bool = False
    groups: tuple[str, ...] = ()
    per_day: tuple[float, float] | None = None
    private: bool = False
    power: bool = False

    def contents(self) -> ReportContents:
        """The contents of the report; the same for the same plant."""
        rng = np.random.default_rng(3)
        calibration = self.scored(self.rows[2], rng)
        calibrated = self.calibrated(calibration)
        calibration = self.judged(calibration, calibrated)
        train, validation = (self.judged(self.scored(n, rng), calibrated) for n in self.rows[:2])
        labelled = self.judged(self.scored(self.labelled, rng, shift=5.0), calibrated) if self.labelled else None
        strange = validation
        if self.folds:
            fold = np.arange(self.rows[2]) % self.folds
            strange = train = validation = calibration = dataclasses.replace(calibration, fold=fold)
        kl = np.sort(rng.gamma(0.7, 0.8, self.latent))[::-1] * np.where(np.arange(self.latent) < 4, 1, 1e-3)
        return ReportContents(
            self.manifest(calibrated),
            self.record(),
            train,
            validation,
            calibration,
            labelled,
            strangest_of(self.columns, strange, rng),
            LatentUse(kl, 0.8, kl) if self.latent else None,
            self.warnings,
            Relations(-11.2, -3.4, 7.6, 0.3, self.rows[1]),
            calibrated.tails,
            power_of(self.columns) if self.power else None,
        )

    def calibrated(self, rows: ScoredRows) -> Calibrated:
        """The calibration, also where the rows support no such rate."""
        m = len(rows.score)
        alarms, a_day = self.per_day or (None, None)
        rate = self.rate if self.per_day is None else self.per_day[0] / self.per_day[1]
        group = [self.groups[at % len(self.groups)] for at in range(m)] if self.groups else None
        if not self.tail and (m + 1) * rate < 1.0:
            table = Table(rows.score, rows.reconstruction_error)
            facts = Calibration("split", m, rate, 1 / (m + 1), self.decision, np.inf, np.inf)
            return Calibrated(CalibrationTables.of([table], self.decision), facts, None)
        return calibrate(
            CalibrationRows(rows.score, rows.reconstruction_error, group),
            Budget(rate, alarms, a_day, self.confidence),
            decision=self.decision,
            tail=self.tail,
            by="station" if self.groups else None,
            folds=self.folds,
        )

    def judged(self, rows: ScoredRows, calibrated: Calibrated) -> ScoredRows:
        """The rows with p-values and verdicts."""
        found = calibrated.tables.verdicts(rows.score, rows.reconstruction_error, calibrated.facts.alarm_rate)
        return dataclasses.replace(
            rows,
            p_value=found.p_value.astype(np.float64),
            p_value_reconstruction=found.p_value_reconstruction.astype(np.float64),
            p_value_verdict=found.p_value_verdict.astype(np.float64),
            alarm=found.alarm,
        )

    def scored(self, n: int, rng: np.random.Generator, shift: float = 0.0) -> ScoredRows:
        """So many scored rows, shifted where they are anomalies, still without p-values."""
        d = len(self.columns)
        noise = rng.gamma(1.0, 1.0, (n, d)) - 1 + 0.3 * rng.gamma(1.0, 1.0, (n, 1))
        spikes = shift * (rng.random((n, d)) < 0.25) * rng.lognormal(0, 1.2, (n, d))
        contribution = np.linspace(-1.2, 1.4, d) + 0.6 * noise + spikes
        means = rng.standard_normal((n, self.latent)) * np.linspace(1.5, 0.2, self.latent) + shift / 4
        score = contribution.sum(axis=1) + 0.5 * (means**2).sum(axis=1)
        p = np.ones(n)
        return ScoredRows(score, error_of(score), p, p, p, p < 0, contribution, means)

    def manifest(self, calibrated: Calibrated) -> Manifest:
        """The manifest, with thresholds from calibration scores."""
        everywhere = self.rows[2]
        rows = (everywhere, everywhere, everywhere) if self.folds else self.rows
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
            split=Split(
                "random" if self.folds else "time", None if self.folds else "timestamp", *rows, labelled=self.labelled
            ),
            calibration=calibrated.facts,
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
            private=self.private,
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


def power_of(columns: tuple[Column, ...]) -> PowerResult:
    """Power of a limit at 3 on the first number column alone."""
    draw = np.random.default_rng(0)
    d = sum(column.is_numeric for column in columns)
    return measure_power(
        lambda numbers, codes, of: np.asarray(np.abs(numbers[:, 0]) > 3),
        draw.normal(size=(60, d)).astype(np.float32),
        draw.integers(0, 2, (60, len(columns) - d)),
        tuple(dataclasses.replace(column, mean=0.0, std=1.0) if column.is_numeric else column for column in columns),
        PowerSettings(0.02, rows=60, budget_rows=10_000),
    )


def error_of(score: FloatArray) -> FloatArray:
    """A reconstruction error that goes with a score, heavy tailed."""
    return np.asarray(np.exp(0.12 * np.minimum(score, 500)) / 4)


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
