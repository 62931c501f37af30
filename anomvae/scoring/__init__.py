"""Scoring rows with a bundle's graph. ONNX Runtime, NumPy and Arrow alone."""

from anomvae.scoring.scorer import Scorer
from anomvae.scoring.session import GraphSession

__all__ = ["GraphSession", "Scorer"]
