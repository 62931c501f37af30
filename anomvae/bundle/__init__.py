"""The bundle: all that passes from training to whatever scores."""

from anomvae.bundle.folder import Bundle, read_bundle, write_bundle
from anomvae.bundle.manifest import (
    FORMAT_VERSION,
    Calibration,
    Column,
    GroupCalibration,
    LeftOut,
    Manifest,
    Provenance,
    Recalibration,
    SeriesFacts,
    Split,
    TailRecord,
)
from anomvae.bundle.record import TrainingRecord

__all__ = [
    "FORMAT_VERSION",
    "Bundle",
    "Calibration",
    "Column",
    "GroupCalibration",
    "LeftOut",
    "Manifest",
    "Provenance",
    "Recalibration",
    "SeriesFacts",
    "Split",
    "TailRecord",
    "TrainingRecord",
    "read_bundle",
    "write_bundle",
]
