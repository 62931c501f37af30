"""The bundle: all that passes from training to whatever scores."""

from anomvae.bundle.folder import Bundle, read_bundle, write_bundle
from anomvae.bundle.manifest import FORMAT_VERSION, Calibration, Column, LeftOut, Manifest, Provenance, Split
from anomvae.bundle.record import TrainingRecord

__all__ = [
    "FORMAT_VERSION",
    "Bundle",
    "Calibration",
    "Column",
    "LeftOut",
    "Manifest",
    "Provenance",
    "Split",
    "TrainingRecord",
    "read_bundle",
    "write_bundle",
]
