"""The manifest: what a bundle's graph expects, promises and comes from."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from anomvae.errors import BundleError

FORMAT_VERSION = 2
"""Format of the bundle. A reader refuses a newer one; it raises by one whenever an older reader would go wrong."""

ColumnKind = Literal["numeric", "date", "boolean", "categorical"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column the detector scores.

    Numbers and dates go into the graph's `numeric` input, booleans and categories into `categorical`, each in the
    manifest's order.

    Attributes:
        name: Name in the table.
        kind: What it is to the model.
        type: Arrow type it had in training, for people.
        categories: Known values in code order; the code after the last means unknown or missing.
        missing_code: Code of a missing cell where missing cells were seen in training: the model then leaves the cell
            out; None where they were not: a missing cell then counts as unknown.
        infinite_is_missing: Whether infinities were seen in training: they are then missing cells. Where they were not,
            an infinity is as strange as a number can be.
        missing_share: Share of missing cells in training, 0 to 1.
        low: Smallest finite value in training, raw units (numbers and dates); of a private bundle mean - 3 std.
        high: Largest finite value in training, raw units; of a private bundle mean + 3 std.
        mean: Mean in training, raw units; values far out are drawn in to 20 interquartile ranges from the median first.
        std: Standard deviation in training, raw units, likewise.
        origin: Dates only: ISO instant from which days are counted.
    """

    name: str
    kind: ColumnKind
    type: str
    categories: tuple[str, ...] = ()
    missing_code: int | None = None
    infinite_is_missing: bool = False
    missing_share: float = 0.0
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    std: float | None = None
    origin: str | None = None

    @property
    def is_numeric(self) -> bool:
        """Whether it goes into the graph's `numeric` input."""
        return self.kind in ("numeric", "date")

    @property
    def n_codes(self) -> int:
        """Number of codes of a category, missing and unknown included.

        Example:
            >>> Column("kind", "categorical", "string", categories=("a", "b")).n_codes
            3
        """
        return len(self.categories) + (self.missing_code is not None) + 1

    @property
    def unknown_code(self) -> int:
        """The last code: a value never seen in training."""
        return self.n_codes - 1


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
        train: Rows the weights were fitted on.
        validation: Rows that decided when to stop.
        calibration: Rows the p-values come from; the weights never saw them.
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
class GroupCalibration:
    """A group with a calibration table of its own.

    Attributes:
        name: Value of the group's column, as text.
        rows: Calibration rows of the group.
        score_threshold: Scores above it alarm at the stated rate, nats.
        reconstruction_threshold: The same for the reconstruction error.
    """

    name: str
    rows: int
    score_threshold: float
    reconstruction_threshold: float


@dataclass(frozen=True, slots=True)
class TailRecord:
    """A generalised Pareto tail of one score's calibration rows.

    Attributes:
        threshold: Where it begins, in the score's units.
        scale: In the score's units; 0 where none could be fitted: too few different scores lie above.
        shape: Above 0 heavier than exponential, below lighter.
        exceedances: Calibration scores above the threshold, that it was fitted on.
        ks: Kolmogorov-Smirnov distance between those and the fit; None where none could be fitted.
        ks_p: Its p-value; small where the fit is bad.
    """

    threshold: float
    scale: float
    shape: float
    exceedances: int
    ks: float | None
    ks_p: float | None


@dataclass(frozen=True, slots=True)
class Recalibration:
    """Rows that a detector was calibrated on again, after its fit.

    Attributes:
        data: Where they came from, as the user named it.
        digest: Digest of the rows, `sha256:...`.
        rows: Rows read.
        created: ISO instant, UTC.
    """

    data: str
    digest: str
    rows: int
    created: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the p-values and the verdict rest on.

    Attributes:
        method: `split`: rows that no fit has seen; `cross`: every row, scored by a network that has not seen it.
        rows: Number of calibration rows, m; with groups of all of them.
        alarm_rate: Stated share of normal rows that may alarm, the graph's default.
        smallest_alarm_rate: Smallest rate these rows support, in every group that has a table of its own; by a tail where
            there is one.
        decision: Which p-value gives the verdict: `elbo`, `reconstruction` or `both`.
        score_threshold: Scores above it alarm at the stated rate, nats; of the pooled table.
        reconstruction_threshold: The same for the reconstruction error. Where both give the verdict, either alarms.
        confidence: With this probability over the draw of the calibration rows the rate holds for these very rows; None:
            it holds on average over calibration sets.
        alarms_per_day: The budget as it was stated, where it was stated so.
        rows_per_day: Likewise.
        folds: Networks that scored rows they had not seen; 0 for `split`.
        by: Column whose groups have tables of their own; None without.
        by_type: Arrow type of that column's cells, by which they are read as text.
        groups: Those groups, in the order of the graph's input `group`; the number after the last means all others.
        groups_pooled: Groups of the calibration rows with too few rows for a table of their own.
        tail: Tails of the score and of the reconstruction error; None: no rate below 1 / (m + 1) is supported.
        recalibrated: The rows, where they are not the fit's own; None at a fit.
    """

    method: Literal["split", "cross"]
    rows: int
    alarm_rate: float
    smallest_alarm_rate: float
    decision: Literal["elbo", "reconstruction", "both", "either"]
    score_threshold: float
    reconstruction_threshold: float
    confidence: float | None = None
    alarms_per_day: float | None = None
    rows_per_day: float | None = None
    folds: int = 0
    by: str | None = None
    by_type: str = "string"
    groups: tuple[GroupCalibration, ...] = ()
    groups_pooled: int = 0
    tail: tuple[TailRecord, TailRecord] | None = None
    recalibrated: Recalibration | None = None

    @property
    def group_column(self) -> Column | None:
        """The column of the groups, coded as the graph's input `group`: its unknown code means the pooled table."""
        if self.by is None or not self.groups:
            return None
        return Column(self.by, "categorical", self.by_type, tuple(group.name for group in self.groups))

    @classmethod
    def from_raw(cls, raw: dict[str, Any]) -> Calibration:
        """From what JSON holds; raises what constructors raise on other things."""
        found = dict(raw)
        found["groups"] = tuple(GroupCalibration(**group) for group in found.get("groups", ()))
        if found.get("tail") is not None:
            score, reconstruction = (TailRecord(**tail) for tail in found["tail"])
            found["tail"] = (score, reconstruction)
        if found.get("recalibrated") is not None:
            found["recalibrated"] = Recalibration(**found["recalibrated"])
        if found["decision"] == "either":  # of format 1: each score at half the rate
            found["smallest_alarm_rate"] = 2.0 * found["smallest_alarm_rate"]
        return cls(**found)


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
        kind: What is scored: `table`.
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
        files: sha256 of every other file of the bundle, by name; on disk also of the manifest itself, less this entry.
        format_version: Format of the bundle.
    """

    name: str
    kind: Literal["table"]
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
        """Cells a row takes inside the graph: numbers with their masks, categories' values, a weight per exemplar."""
        return 2 * len(self.numeric) + sum(column.n_codes for column in self.categorical) + self.exemplars

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
            raw["files"] = dict(raw["files"])
            return cls(**raw)
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{where} is damaged: a field is missing or unknown") from error
