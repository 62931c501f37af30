"""The detector as a scikit-learn estimator: for pipelines, searches and benchmarks that speak scikit-learn."""
# ruff: noqa: N803  scikit-learn calls the rows X, and callers may name them

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from anomvae.bundle.promise import rows_needed
from anomvae.calibration import p_values, threshold
from anomvae.calibration.conformal import raised
from anomvae.data.encoding import EncodedRows
from anomvae.data.schema import Schema, describe
from anomvae.data.splits import MIN_CROSS_ROWS, RowSplit, calibration_method, split_rows
from anomvae.errors import MissingExtraError, SchemaError, TooFewRowsError
from anomvae.training.settings import TrainingSettings

try:
    import torch
    from sklearn.base import BaseEstimator, OutlierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data

    from anomvae.fitting.model import SCORING_CHUNK, calibration_scores, fit_model
    from anomvae.fitting.preparation import PreparedData
    from anomvae.fitting.settings import FitSettings
    from anomvae.training.loop import choose_device
    from anomvae.vae.scores import RowScorer
    from anomvae.vae.settings import ModelSettings
except ModuleNotFoundError as error:
    raise MissingExtraError("anomvae.sklearn", "train") from error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from anomvae.training.settings import Device
    from anomvae.vae.likelihoods import NumericLikelihoodName
    from anomvae.vae.settings import ModelKind

    FloatArray = npt.NDArray[np.float64]

MIN_ROWS = 3
"""One row to train, one to decide when to stop, one to calibrate: enough to run, not to detect."""
TEXT_REFUSED = "X holds text where numbers belong; encode it before this step, or use anomvae.fit on the table"


class AlarmRateWarning(UserWarning):
    """The rows cannot support the stated alarm rate; the smallest one they support stands in for it."""


class VAEDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """A variational autoencoder of normal rows, with scikit-learn's outlier contract.

    Fits and calibrates as :func:`anomvae.fit` does, with the same weights and scores for the same table, settings and
    seed, but writes no bundle. Fit it on normal rows. Every column is a number, flags and codes too; categories are for
    `anomvae.fit`, or for an encoder before this step. NaN is a missing cell, wherever it stands. Columns without any
    value are not scored; constant ones are, which `anomvae.fit` leaves out unless told.

    At most half of the rows are held out to calibrate. A table too small for `anomvae.fit` is fitted all the same. If
    its held-out rows cannot support the stated rate, the threshold is the largest of their scores,
    `supported_alarm_rate_` is the rate that this keeps, and an :class:`AlarmRateWarning` says so.

    Args:
        alarm_rate: Share of normal rows that may get a -1.
        kind: `vae`, `beta-vae`, `autoencoder` or `denoising-autoencoder`.
        likelihood: Of the columns: `gaussian`, `mse`, `bernoulli` or `student-t`.
        layers: Hidden widths of the encoder; the decoder mirrors them.
        latent: Size of the latent space; None: as many as columns, 2 to 32.
        beta: Weight of the KL in training; None: the kind's own.
        max_steps: Most steps of the optimiser.
        batch_rows: Rows a step; None: 64 with exemplars, else 128 to 2,048, growing with the data.
        learning_rate: Peak rate of Adam.
        keep_constant: Whether columns of one value are scored: another value in them is then strange.
        device: `cpu`, `cuda`, or `auto`: a GPU to train on where there is one.
        random_state: Seed of every draw; an int is that of `anomvae.fit`, None draws another for each fit.

    Attributes:
        offset_: Rows that score below it are outliers. A score closer to the threshold than the calibration tells apart
            is none, hence `predict` agrees with `p_values`.
        supported_alarm_rate_: Share of normal rows that may get a -1 with this `offset_`: `alarm_rate` where the rows
            support it, else the smallest rate they do.
        calibration_scores_: Negated `score_samples` of the held-out rows, ascending, nats, shape ``(m,)``.
        n_features_in_: Columns.
        feature_names_in_: Their names, where X had names.

    Example:
        >>> import numpy as np
        >>> normal = np.random.default_rng(0).normal(size=(300, 3))
        >>> detector = VAEDetector(alarm_rate=0.05, layers=(16,), max_steps=100, random_state=0).fit(normal)
        >>> detector.predict([[0.0, 0.0, 0.0], [9.0, -9.0, 9.0], [np.nan, 0.0, 0.0]]).tolist()
        [1, -1, 1]
    """

    def __init__(  # noqa: PLR0913  scikit-learn wants one flat parameter per setting
        self,
        *,
        alarm_rate: float = 0.01,
        kind: ModelKind = "vae",
        likelihood: NumericLikelihoodName = "gaussian",
        layers: Sequence[int] = (64, 64),
        latent: int | None = None,
        beta: float | None = None,
        max_steps: int | None = None,
        batch_rows: int | None = None,
        learning_rate: float | None = None,
        keep_constant: bool = True,
        device: Device = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.alarm_rate = alarm_rate
        self.kind = kind
        self.likelihood = likelihood
        self.layers = layers
        self.latent = latent
        self.beta = beta
        self.max_steps = max_steps
        self.batch_rows = batch_rows
        self.learning_rate = learning_rate
        self.keep_constant = keep_constant
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: ARG002  the contract has a y
        """Fits and calibrates.

        Args:
            X: Normal rows, shape ``(n, d)``, n at least 3; NaN where missing.
            y: Ignored.

        Raises:
            ValueError: X is no table of finite numbers and NaN, or has too few rows.
            TypeError: X is sparse.
            SettingError: A parameter is wrong.
            SchemaError: No column has anything to learn.
        """
        settings = self._settings()
        rows = self._rows(X, reset=True)
        split = _split(len(rows), settings)
        scored = _columns_to_score(rows, keep_constant=self.keep_constant)
        prepared = _prepared(rows[:, scored], split)
        fitted = fit_model(prepared, settings, choose_device(settings.training.device))
        self.calibration_scores_: FloatArray = np.sort(calibration_scores(fitted, prepared)[0].astype(np.float64))
        self._scored = scored
        self._scorer = RowScorer(fitted.model).double().eval()  # float64: a row's score then owes nothing to its batch
        if fitted.model.novelty is not None:
            fitted.model.novelty.float()  # seen values are float32 and compared exactly
        self.supported_alarm_rate_ = max(float(self.alarm_rate), 1.0 / (len(split.calibration) + 1))
        limit = np.float32(threshold(np.sort(raised(self.calibration_scores_)), self.supported_alarm_rate_))
        self.offset_ = -(float(limit) + float(np.nextafter(limit, np.float32(np.inf)))) / 2.0  # p-values are of float32
        return self

    def score_samples(self, X: Any) -> FloatArray:
        """The detector's score, negated: an estimate of log p(x). Nats, shape ``(n,)``; lower is stranger.

        Args:
            X: Rows, shape ``(n, d)``.
        """
        check_is_fitted(self, "offset_")
        return -self._nats(self._rows(X, reset=False))

    def decision_function(self, X: Any) -> FloatArray:
        """`score_samples` less `offset_`, shape ``(n,)``; below zero is an outlier."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> npt.NDArray[np.int64]:
        """1 for normal rows and -1 for outliers, shape ``(n,)``; what cannot be scored is not normal."""
        return np.where(self.decision_function(X) >= 0, 1, -1).astype(np.int64)

    def p_values(self, X: Any) -> FloatArray:
        """Conformal p-values, shape ``(n,)``: the share of normal rows at least this strange.

        See :func:`anomvae.calibration.p_values`. The smallest is 1 / (m + 1) with m rows, each scored by a network that has not seen it.
        """
        return p_values(-self.score_samples(X), self.calibration_scores_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _settings(self) -> FitSettings:
        return FitSettings(
            alarm_rate=self.alarm_rate,
            keep_constant=self.keep_constant,
            model=ModelSettings(self.kind, self.likelihood, tuple(self.layers), self.latent, self.beta),
            training=TrainingSettings(
                max_steps=self.max_steps,
                batch_rows=self.batch_rows,
                learning_rate=self.learning_rate,
                seed=self._seed(),
                device=self.device,
            ),
        )

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _rows(self, X: Any, *, reset: bool) -> npt.NDArray[np.float32]:
        """Rows as the graph would take them: float32, beyond it infinite, which is as strange as a number can be."""
        try:
            checked = validate_data(
                self,
                X,
                reset=reset,
                dtype=[np.float64, np.float32],
                ensure_all_finite="allow-nan",
                ensure_min_samples=MIN_ROWS if reset else 1,
            )
        except ValueError as error:
            if not str(error).startswith("could not convert"):
                raise
            raise ValueError(TEXT_REFUSED) from None  # the message of numpy repeats the cell
        with np.errstate(over="ignore"):
            return np.asarray(checked).astype(np.float32)

    def _nats(self, rows: npt.NDArray[np.float32]) -> FloatArray:
        """Scores, higher is stranger."""
        numbers = torch.from_numpy(rows[:, self._scored].astype(np.float64))
        found = []
        for part in torch.split(numbers, SCORING_CHUNK):
            with torch.no_grad():
                found.append(self._scorer(part, part.new_empty(len(part), 0)).score.numpy())
        return np.concatenate(found)


def _split(n: int, settings: FitSettings) -> RowSplit:
    """The pipeline's where it has one for n rows; where it refuses, one that supports the rate as far as they go."""
    rate, seed = settings.budget.alarm_rate, settings.training.seed
    rows, method = pa.table({"row": np.arange(n)}), calibration_method("auto", n)
    try:
        return split_rows(rows, alarm_rate=rate, seed=seed, calibration=method)
    except TooFewRowsError as refusal:
        calibration = n if n >= MIN_CROSS_ROWS else min(n // 2, 2 * rows_needed(rate))
        if calibration < rows_needed(rate):
            warnings.warn(
                f"{n:,} rows leave {calibration:,} to calibrate, which support an alarm rate of "
                f"{1 / (calibration + 1):.2g} and not {rate:g}; offset_ is set for the former. Ask for a higher "
                f"alarm_rate, or bring at least {refusal.rows_needed:,} rows",
                AlarmRateWarning,
                stacklevel=3,
            )
    if n >= MIN_CROSS_ROWS:
        return split_rows(rows, alarm_rate=1.0 / (n + 1), seed=seed, calibration="cross")
    validation = max(1, n // 10)
    parts = np.split(np.random.default_rng([seed, 1]).permutation(n), [calibration, calibration + validation])
    return RowSplit(np.sort(parts[2]), np.sort(parts[1]), np.sort(parts[0]), "random", None)


def _columns_to_score(rows: npt.NDArray[np.float32], *, keep_constant: bool) -> npt.NDArray[np.int64]:
    finite = np.where(np.isfinite(rows), rows, np.nan)
    low, high = np.fmin.reduce(finite, axis=0), np.fmax.reduce(finite, axis=0)
    kept = np.flatnonzero(low <= high if keep_constant else low < high)
    if not len(kept):
        raise SchemaError("no column is left to learn from: each is empty, or constant and keep_constant is False")
    return kept


def _prepared(rows: npt.NDArray[np.float32], split: RowSplit) -> PreparedData:
    """Rows of an array, as if read from a table whose columns are all declared numeric."""
    names = [f"x{j}" for j in range(rows.shape[1])]
    schema = Schema(dict.fromkeys(names, "numeric"), ())
    table = pa.table([pa.array(column) for column in rows.T], names=names)
    n, no_rows = len(rows), np.empty(0, dtype=np.int64)
    normal = EncodedRows(rows, np.empty((n, 0), dtype=np.int64))
    return PreparedData(
        name="an array",
        digest="",
        n_rows=n,
        schema=schema,
        columns=describe(table, schema.kinds, split.train),
        split=split,
        normal=normal,
        normal_rows=np.arange(n),
        labelled=normal.take(no_rows),
        labelled_rows=no_rows,
        unlabelled=0,
    )
