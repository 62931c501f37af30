"""The manifest: what a bundle's graph expects, promises and comes from."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from anomvae.bundle.calibration import Calibration, GroupCalibration, Recalibration, TailRecord
from anomvae.bundle.columns import Column, ColumnKind
from anomvae.bundle.series import ROWS_GRAPH, SeriesFacts
from anomvae.errors import BundleError

__all__ = [
    "Calibration",
    "Column",
    "ColumnKind",
    "GroupCalibration",
    "LeftOut",
    "Manifest",
    "Provenance",
    "Recalibration",
    "SeriesFacts",
    "Split",
    "TailRecord",
]

FORMAT_VERSION = 3
"""Format of the bundle. A reader refuses a newer one; it raises by one whenever an older reader would go wrong."""


HIDDEN = 96
"""Cells a step takes in the hidden layers of the member of windows."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A column the detector does not score, and why.

    Attributes:
        name: Name in the table.
        reason: Why, as a clause for people.
        role: `identifier`, `time`, `group` and `label` columns are known for what they are; `none` are just left out.
    """

    name: str
    reason: str
    role: Literal["identifier", "time", "group", "label", "none"] = "none"


@dataclass(frozen=True, slots=True)
class Split:
    """How the normal rows were divided.

    Attributes:
        how: `random`, `time` or `group`.
        column: The column that decided, if one did.
        train: Rows the weights were fitted on; of a series see `series.refitted_on`, too.
        validation: Rows that decided when to stop.
        calibration: Rows the p-values come from; the weights that scored them never saw them.
        labelled: Labelled anomalies, kept out of all three and used to evaluate.
        folds: Networks that scored rows they had not seen; every row then trains, validates and calibrates. 0: parts apart.
    """

    how: Literal["random", "time", "group"]
    column: str | None
    train: int
    validation: int
    calibration: int
    labelled: int = 0
    folds: int = 0


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a bundle comes from.

    Attributes:
        data: Where the rows came from, as the user named it.
        digest: Digest of the rows, `sha256:...`.
        rows: Rows read, labelled ones included.
        seed: Seed of every draw.
        created: ISO instant, UTC.
        fit_seconds: Wall time of the fit.
        versions: Versions of the packages that took part.
    """

    data: str
    digest: str
    rows: int
    seed: int
    created: str
    fit_seconds: float
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that a reader of a bundle must know beside the graph.

    Attributes:
        name: Name of the model.
        kind: What is scored: `table` or `series`.
        model: Kind of model: `vae`, `beta-vae`, `autoencoder`, `denoising-autoencoder`, ...
        columns: Scored columns, in the table's order.
        left_out: Columns not scored, with reasons.
        split: How the rows were divided.
        calibration: What p-values and verdict rest on.
        provenance: Where it comes from.
        latent: Size of the latent space.
        prior: Prior of the latent space: `exemplars`, `pseudo-rows` or `normal`.
        exemplars: Training rows stored in the graph, which are training data in all but name; 0 without.
        effort: What ranking was allowed to cost: `quick`, `default` or `best`.
        private: Whether the bundle was made to hold no training row and no rare value.
        series: How rows become windows; None for tables.
        files: sha256 of every other file of the bundle, by name; on disk also of the manifest itself, less this entry.
        format_version: Format of the bundle.
    """

    name: str
    kind: Literal["table", "series"]
    model: str
    columns: tuple[Column, ...]
    left_out: tuple[LeftOut, ...]
    split: Split
    calibration: Calibration
    provenance: Provenance
    latent: int
    prior: Literal["exemplars", "pseudo-rows", "normal"] = "normal"
    exemplars: int = 0
    effort: Literal["quick", "default", "best"] = "default"
    private: bool = False
    series: SeriesFacts | None = None
    files: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def numeric(self) -> tuple[Column, ...]:
        """Columns of the graph's `numeric` input, in its order."""
        return tuple(column for column in self.columns if column.is_numeric)

    @property
    def categorical(self) -> tuple[Column, ...]:
        """Columns of the graph's `categorical` input, in its order."""
        return tuple(column for column in self.columns if not column.is_numeric)

    @property
    def scored(self) -> tuple[Column, ...]:
        """Columns in the order of the graph's `contribution` output: numeric ones, then categories."""
        return self.numeric + self.categorical

    @property
    def width(self) -> int:
        """Cells a row, or all steps of a window, takes inside the graph: numbers with their masks, categories' values, a weight per exemplar."""
        cells = 2 * len(self.numeric) + sum(column.n_codes for column in self.categorical)
        if self.series is None:
            return cells + self.exemplars
        asked = (
            1 if ROWS_GRAPH in self.files else self.series.window
        )  # steps of which the row member is asked with a window
        hidden = 0 if self.series.members == "row" else HIDDEN
        return (cells + hidden) * self.series.window + self.exemplars * asked + self.series.exemplar_windows

    @property
    def carried(self) -> tuple[str, ...]:
        """Names of the columns that go along to the answers unscored: identifiers, time and group."""
        names = [column.name for column in self.left_out if column.role in ("identifier", "time", "group")]
        by = self.calibration.by
        scored = {column.name for column in self.columns}
        return tuple(names) if by is None or by in names or by in scored else (*names, by)

    def to_json(self) -> str:
        """The manifest as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "manifest.json") -> Manifest:
        """Reads a manifest.

        Args:
            text: JSON text.
            where: Where it came from, for messages.

        Raises:
            BundleError: The text is damaged, or its format is newer than this reader.
        """
        try:
            raw: dict[str, Any] = json.loads(text)
            version = int(raw["format_version"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise BundleError(f"{where} is not a bundle's manifest: it is damaged or something else") from error
        if version > FORMAT_VERSION:
            raise BundleError(
                f"{where} has bundle format {version}, this anomvae reads up to {FORMAT_VERSION}: upgrade anomvae"
            )
        try:
            raw["columns"] = tuple(
                Column(**{**column, "categories": tuple(column["categories"])}) for column in raw["columns"]
            )
            raw["left_out"] = tuple(LeftOut(**column) for column in raw["left_out"])
            raw["split"] = Split(**raw["split"])
            raw["calibration"] = Calibration.from_raw(raw["calibration"])
            raw["provenance"] = Provenance(**raw["provenance"])
            if raw.get("series") is not None:
                raw["series"] = SeriesFacts.from_raw(raw["series"])
            raw["files"] = dict(raw["files"])
            return cls(**raw)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{where} is damaged: a field is missing or unknown") from error
