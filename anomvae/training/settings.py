"""Settings of the training loop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from anomvae.errors import SettingError

Device = Literal["auto", "cpu", "cuda"]
DEFAULT_STEPS = 3_000
DEFAULT_RATE = 3e-3


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How the weights are fitted.

    Attributes:
        max_steps: Most steps of the optimiser; None: by the effort of the fit.
        batch_rows: Rows a step; None: 64 with exemplars (each brings two), else 128 to 2,048, growing with the data.
        learning_rate: Peak rate of Adam, warmed up over 50 steps, then a cosine down to 5 %; None: 0.005 with exemplars,
            else 0.003.
        max_gradient_norm: Gradients are scaled down to this norm.
        patience: Checks without a gain after which training stops.
        min_gain: Smallest gain of the validation bound that counts, nats.
        seed: Seed of every draw.
        device: `auto` takes a GPU where there is one.
        threads: CPU threads of a step. One is quickest at these sizes, bears busy machines, and gives the same weights
            whatever the number of cores.
    """

    max_steps: int | None = None
    batch_rows: int | None = None
    learning_rate: float | None = None
    max_gradient_norm: float = 10.0
    patience: int = 12
    min_gain: float = 1e-3
    seed: int = 0
    device: Device = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuses values that train nothing.

        Raises:
            SettingError: Names the setting and what it may be.
        """
        positive = {
            "max_steps": self.steps,
            "learning_rate": self.rate,
            "max_gradient_norm": self.max_gradient_norm,
            "patience": self.patience,
            "threads": self.threads,
        }
        for name, value in positive.items():
            if not 0 < value < math.inf:
                raise SettingError(f"training.{name} must be a number above zero")
        if not 0 <= self.seed < 2**63:
            raise SettingError("training.seed must be a whole number from 0, below 2 to the power of 63")
        if self.batch_rows is not None and self.batch_rows < 1:
            raise SettingError("training.batch_rows must be at least 1")
        if not 0 <= self.min_gain < math.inf:
            raise SettingError("training.min_gain must be a number, not negative")
        if self.device not in ("auto", "cpu", "cuda"):
            raise SettingError(f"training.device is {self.device!r}; it must be auto, cpu or cuda")

    @property
    def steps(self) -> int:
        """Most steps in force."""
        return DEFAULT_STEPS if self.max_steps is None else self.max_steps

    @property
    def rate(self) -> float:
        """The peak rate in force."""
        return DEFAULT_RATE if self.learning_rate is None else self.learning_rate

    def batch_of(self, rows: int) -> int:
        """Rows a step for a number of training rows.

        Example:
            >>> [TrainingSettings().batch_of(n) for n in (100, 10_000, 1_000_000)]
            [100, 312, 2048]
        """
        return min(rows, self.batch_rows or min(2048, max(128, rows // 32)))
