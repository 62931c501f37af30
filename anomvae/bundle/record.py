"""The record of a training run, kept in the bundle so that it can be tracked, now or later, from the bundle alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from anomvae.errors import BundleError

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """What a tracking server should know of a fit.

    Attributes:
        parameters: Settings and facts by name (`model.latent`, `training.max_steps`, `data.rows`, ...).
        metrics: Outcomes by name (`validation_loss`, `fit_seconds`, with labels `auroc`, ...).
        curves: Columns of equal length, one entry a check: `step`, `epoch`, `train_loss`, `validation_loss`,
            `learning_rate`, `seconds`.
        evaluation: Measures on labelled rows by name; empty without labels.
    """

    parameters: dict[str, Scalar]
    metrics: dict[str, float]
    curves: dict[str, list[float]]
    evaluation: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """The record as JSON text."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TrainingRecord:
        """Reads a record.

        Raises:
            BundleError: The text is damaged.
        """
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise BundleError("training.json is damaged") from error
