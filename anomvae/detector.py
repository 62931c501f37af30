"""A fitted detector in Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from anomvae.bundle import Bundle, read_bundle, write_bundle
from anomvae.data.encoding import encode
from anomvae.data.reading import open_rows
from anomvae.errors import MissingExtraError, SettingError
from anomvae.references import find_model
from anomvae.scoring import Scorer
from anomvae.scoring.discoveries import Discoveries
from anomvae.scoring.reasons import natural_reasons
from anomvae.scoring.series import SeriesScoring

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from anomvae.bundle import Manifest
    from anomvae.vae.model import TableVAE


class Detector:
    """A fitted, calibrated detector; scoring needs neither torch nor the training data.

    Args:
        bundle: A verified bundle.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._series = None if bundle.manifest.series is None else SeriesScoring(bundle)
        self._rows = Scorer(bundle) if self._series is None else None
        self._model: TableVAE | None = None

    @property
    def manifest(self) -> Manifest:
        """Columns, calibration, provenance."""
        return self._bundle.manifest

    @property
    def folder(self) -> Path:
        """Where the bundle lies: `scorer.onnx`, `report.html`, `card.md` and the rest."""
        return self._bundle.folder

    def __repr__(self) -> str:
        manifest = self.manifest
        return (
            f"Detector({manifest.name!r}, {manifest.model}, {len(manifest.columns)} columns, "
            f"alarm_rate={manifest.calibration.alarm_rate:g})"
        )

    @property
    def _scorer(self) -> Scorer:
        """Of a table detector.

        Raises:
            SettingError: It is one of series.
        """
        if self._rows is None:
            raise SettingError(f"the model {self.manifest.name!r} scores series; only `score` is for those")
        return self._rows

    def score(
        self,
        rows: Any,
        *,
        top: int = 3,
        alarm_rate: float | None = None,
        fdr: float | None = None,
        past_only: bool | None = None,
        stride: int | None = None,
    ) -> pd.DataFrame:
        """Scores rows, or the steps of series.

        Args:
            rows: A pandas or Arrow table with the columns the detector was fitted on, in any order.
            top: Reasons a row.
            alarm_rate: Replaces the detector's; the calibration rows must support it.
            fdr: In its place: expected share of false alarms among the alarms of all these rows (Benjamini-Hochberg); needs
                scipy. `p_adjusted` then stands before `alarm`.
            past_only: Series only: whether each row is judged by its past alone, as in a stream; None: as the detector says.
            stride: Series only: steps between the windows that judge a step together; None: as the detector says.

        Returns:
            A frame with a row per row and the index of `rows`: identifier columns, then `score` (nats; of
            series spreads of normal steps), `p_value`, `reconstruction_error`, `p_value_reconstruction`, `alarm` and `reasons` (a list of dicts `column`,
            `contribution`, `value`, `expected`, strongest first). Series have a `reason` too: why a row has no score.

        Raises:
            RowError: The rows do not fit the detector.
            TooFewRowsError: The calibration rows do not support the alarm rate.
            SettingError: A rate is no share, or both were stated.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtraError("Detector.score returns a pandas frame and", "train") from error
        given = open_rows(rows).table()
        table = self.score_arrow(given, top=top, alarm_rate=alarm_rate, fdr=fdr, past_only=past_only, stride=stride)
        frame: pd.DataFrame = table.drop_columns(["reasons"]).to_pandas()
        natural = natural_reasons(self.manifest)
        told = [[] if reasons is None else natural(reasons) for reasons in table["reasons"].to_pylist()]
        frame["reasons"] = pd.Series(told, dtype=object)
        return _indexed(frame, rows)

    def score_arrow(
        self,
        rows: pa.Table | pa.RecordBatch,
        *,
        top: int = 3,
        alarm_rate: float | None = None,
        fdr: float | None = None,
        past_only: bool | None = None,
        stride: int | None = None,
    ) -> pa.Table:
        """Scores an Arrow table into an Arrow table; see :meth:`score`."""
        if self._series is not None:
            if fdr is not None:
                raise SettingError(
                    "fdr takes rows that do not depend on one another, which steps of a series do: leave it out"
                )
            table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
            return self._series.score(table, top=top, alarm_rate=alarm_rate, past_only=past_only, stride=stride)
        if past_only is not None or stride is not None:
            raise SettingError(f"past_only and stride are for series; the model {self.manifest.name!r} scores rows")
        if fdr is None:
            return self._scorer.score(rows, top=top, alarm_rate=alarm_rate)
        if alarm_rate is not None:
            raise SettingError("fdr and alarm_rate exclude each other: state the one or the other")
        discoveries = Discoveries(self.manifest, fdr)
        return discoveries.decide(self._scorer.score(rows, top=top))

    def latent(self, rows: Any) -> npt.NDArray[np.float64]:
        """Posterior means of rows, shape ``(n, k)``."""
        encoded = encode(open_rows(rows).table(), self.manifest.columns)
        return self._scorer.answers(encoded, ["latent"])["latent"].astype(np.float64)

    def contributions(self, rows: Any) -> pd.DataFrame:
        """Nats each column adds, and the latent's part in `(latent)`; a row's entries sum to its score."""
        import pandas as pd

        encoded = encode(open_rows(rows).table(), self.manifest.columns)
        found = self._scorer.answers(encoded, ["contribution", "latent_contribution"])
        frame = pd.DataFrame(found["contribution"], columns=[column.name for column in self.manifest.scored])
        name = "(latent)"
        while name in frame:
            name = f"({name})"
        frame[name] = found["latent_contribution"]
        return _indexed(frame, rows)

    def sample(self, n: int, *, seed: int = 0) -> pd.DataFrame:
        """Rows drawn from the prior, as the decoder expects them (its noise left out); needs torch.

        An autoencoder has no prior of its own: its rows are decoded from N(0, I) all the same.

        Args:
            n: How many.
            seed: Seed of the draw.
        """
        if n < 1:
            raise SettingError("n must be at least 1")
        numbers, codes = self._torch_model().sample(n, seed)
        return self._frame(numbers.numpy(), codes.numpy())

    def interpolate(self, start: Any, end: Any, *, steps: int = 9) -> pd.DataFrame:
        """Rows on the straight line between the latent means of two rows; needs torch.

        Args:
            start: A table of one row.
            end: Another.
            steps: Rows on the line, both ends included.
        """
        ends = [self.latent(start), self.latent(end)]
        if any(len(latent) != 1 for latent in ends) or steps < 2:  # noqa: PLR2004
            raise SettingError("interpolate takes two tables of one row each, and at least 2 steps")
        share = np.linspace(0.0, 1.0, steps)[:, None]
        return self.decode((1 - share) * ends[0] + share * ends[1])

    def traverse(self, row: Any, dimension: int, *, reach: float = 3.0, steps: int = 7) -> pd.DataFrame:
        """Rows as one latent dimension goes from -reach to +reach, the others as in a row; needs torch.

        Args:
            row: A table of one row.
            dimension: Which, from 0.
            reach: To either side, in units of N(0, I).
            steps: Rows.
        """
        latent = np.repeat(self.latent(row)[:1], steps, axis=0)
        if not 0 <= dimension < latent.shape[1]:
            raise SettingError(f"dimension is {dimension}; the latent space has {latent.shape[1]}, counted from 0")
        latent[:, dimension] = np.linspace(-reach, reach, steps)
        return self.decode(latent)

    def decode(self, latent: npt.NDArray[np.floating[Any]]) -> pd.DataFrame:
        """Rows that the decoder expects at points of the latent space, shape ``(n, k)``; needs torch."""
        model = self._torch_model()
        import torch

        numbers, codes = model.decode_rows(torch.from_numpy(np.asarray(latent, dtype=np.float32)))
        return self._frame(numbers.numpy(), codes.numpy())

    def save(self, folder: str | Path) -> Path:
        """Writes the bundle to a folder, all at once or not at all.

        Raises:
            OutputError: The folder cannot be written, or holds something else.
            BundleError: The bundle was damaged since it was loaded.
        """
        read_bundle(self.folder)  # what was damaged since must not get fresh digests
        files = {name: (self.folder / name).read_bytes() for name in self.manifest.files}
        return write_bundle(Path(folder), self.manifest, files).folder

    def _torch_model(self) -> TableVAE:
        _ = self._scorer  # a table detector's
        if self._model is None:
            try:
                from anomvae.vae.weights import from_files
            except ImportError as error:
                raise MissingExtraError("sampling and decoding", "train") from error
            config = (self.folder / "config.json").read_text(encoding="utf-8")
            self._model = from_files((self.folder / "weights.safetensors").read_bytes(), config)
        return self._model

    def _frame(self, numbers: npt.NDArray[np.float32], codes: npt.NDArray[np.int64]) -> pd.DataFrame:
        import pandas as pd

        columns: dict[str, Any] = {}
        for j, column in enumerate(self.manifest.numeric):
            columns[column.name] = numbers[:, j].astype(np.float64)
        for j, column in enumerate(self.manifest.categorical):
            words = np.array([*column.categories, None], dtype=object)[codes[:, j]]  # None where no value is known
            is_flag = column.kind == "boolean" and column.categories
            columns[column.name] = words == "true" if is_flag else words
        return pd.DataFrame({column.name: columns[column.name] for column in self.manifest.columns})


def _indexed(frame: pd.DataFrame, rows: Any) -> pd.DataFrame:
    """A frame with the index of the rows it answers, where they are a pandas frame."""
    return frame.set_index(rows.index) if hasattr(rows, "iloc") else frame


def load(ref: str | Path, *, tracking_uri: str | None = None) -> Detector:
    """Loads a detector.

    Args:
        ref: A bundle's folder, or a registered model: `NAME`, `NAME@alias`, `NAME/3`, `models:/...`.
        tracking_uri: Registry to ask; None: MLFLOW_TRACKING_URI, else the SQLite file of the working folder.

    Raises:
        ModelReferenceError: Nothing answers to the reference.
        BundleError: The bundle is damaged or of a newer format.
        TrackingError: The registry does not answer.
    """
    return Detector(find_bundle(str(ref), tracking_uri=tracking_uri))


def find_bundle(ref: str, *, tracking_uri: str | None = None) -> Bundle:
    """The verified bundle of a reference; see :func:`load`."""
    return find_model(ref, tracking_uri=tracking_uri).bundle
