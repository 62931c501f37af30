"""A manifest and files, as little as a bundle needs."""

from __future__ import annotations

import pytest

from anomvae.bundle import (
    Calibration,
    Column,
    GroupCalibration,
    LeftOut,
    Manifest,
    Provenance,
    Recalibration,
    Split,
    TailRecord,
    TrainingRecord,
)

RECORD = TrainingRecord({"model.latent": 2}, {"validation_loss": 1.5}, {"step": [1.0, 2.0]}, {"auroc": 0.9})


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        name="pumps",
        kind="table",
        model="vae",
        columns=(
            Column("flow", "numeric", "double", low=-4.0, high=4.0, mean=0.25, std=1.0, infinite_is_missing=True),
            Column("Größe", "categorical", "string", categories=("a", "ü"), missing_code=2, missing_share=0.25),
            Column("day", "date", "timestamp[us]", origin="2024-01-01T00:00:00"),
            Column("on", "boolean", "bool", categories=("false", "true")),
        ),
        left_out=(LeftOut("operator", "one value a row", "identifier"), LeftOut("at", "orders the rows", "time")),
        split=Split("time", "at", 80, 10, 19, labelled=5),
        calibration=Calibration(
            "split",
            119,
            0.05,
            1 / 41,
            "both",
            9.5,
            1.25,
            by="operator",
            groups=(GroupCalibration("Ü-7", 60, 9.0, 1.0), GroupCalibration("8", 40, 9.9, 1.5)),
            groups_pooled=2,
            tail=(TailRecord(4.0, 1.5, 0.1, 24, 0.1, 0.5), TailRecord(1.0, 0.0, 0.0, 0, None, None)),
            recalibrated=Recalibration("later.parquet", "sha256:cd", 120, "2026-02-02T03:04:05+00:00"),
        ),
        provenance=Provenance(
            "pumps.parquet", "sha256:ab", 114, 7, "2026-01-02T03:04:05+00:00", 12.5, {"anomvae": "0.1.0"}
        ),
        latent=2,
    )


@pytest.fixture
def files() -> dict[str, bytes]:
    return {"scorer.onnx": b"graph" * 1000, "training.json": RECORD.to_json().encode(), "card.md": b"# pumps\n"}
