"""How timed rows become the windows of a series detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from anomvae.bundle.calibration import Calibration
from anomvae.bundle.columns import Column

ROWS_GRAPH = "rows.onnx"
"""File with what the member of single steps says of a row; bundles made before it was, and those without the member, lack it."""


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """How timed rows become the windows that a series detector scores.

    Attributes:
        time: Column of the time.
        asset: Column whose values tell sequences apart; None: all rows are one sequence.
        asset_type: Arrow type of that column's cells, by which they are read as text.
        assets: Assets with a scaling of their own, in the order of the graph's input `asset`; the number after the last means
            all others.
        window: Steps a window, w.
        stride: Steps between the windows of a whole series.
        step_s: Length of a step, seconds; where the time is a number, in its unit.
        longest_gap: Most missing steps within a window in one piece; a longer gap begins a new sequence.
        past_only: Whether steps of a whole series are scored by their past alone, as in a stream.
        off: Condition under which an asset is off, as it was written; None: none.
        time_type: Arrow type of the time column's cells; numbers are taken as they are, in streams too.
        members: Who judges a window: `row`, the table detector on each step; `window`, a convolutional VAE, a linear forecast and
            the distance from known windows; or `both`.
        exemplar_windows: Windows of the fit's steps stored in the graph, which are its data scaled; 0 without. Steps that
            calibrated are among them unless they were kept out for good.
        batch: Calibration of the scores of whole series, each step's the mean over all windows that cover it; that of the
            newest step of a window is the manifest's own.
        refitted_on: Steps that the networks were trained on anew once others had scored those that calibrate, which are among
            them; None: they are the ones that scored them.
    """

    time: str
    asset: str | None
    asset_type: str
    assets: tuple[str, ...]
    window: int
    stride: int
    step_s: float
    longest_gap: int
    past_only: bool = False
    off: str | None = None
    time_type: str = "timestamp[us]"
    members: Literal["both", "row", "window"] = "both"
    exemplar_windows: int = 0
    batch: Calibration | None = None
    refitted_on: int | None = None

    @classmethod
    def from_raw(cls, raw: dict[str, Any]) -> SeriesFacts:
        """From what JSON holds; raises what constructors raise on other things."""
        batch = raw.get("batch")
        found = {**raw, "assets": tuple(raw["assets"]), "batch": batch and Calibration.from_raw(batch)}
        return cls(**found)

    @property
    def step(self) -> str:
        """Length of a step in words: numbers that count time have no unit that is known but their column's own."""
        return f"{self.step_s:g} (in units of {self.time!r})" if self.counts_time else f"{self.step_s:g} s"

    @property
    def counts_time(self) -> bool:
        """Whether the time is a number, taken as it is."""
        return self.time_type.startswith(("int", "uint", "float", "double", "halffloat", "decimal"))

    @property
    def asset_column(self) -> Column | None:
        """The column of the assets, coded as the graph's input `asset`: its unknown code means an asset not met before."""
        return None if self.asset is None else Column(self.asset, "categorical", self.asset_type, self.assets)
