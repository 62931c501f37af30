"""The `python_function` flavour: MLflow calls `_load_pyfunc`, which scores pandas frames with the bundle's graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from anomvae.bundle import read_bundle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomvae.bundle import Bundle
    from anomvae.scoring import Scorer
    from anomvae.scoring.series import SeriesScoring

DEFAULT_TOP = 3
"""Reasons a row gets unless the caller asks for more."""


class FrameScorer:
    """Scores pandas frames as MLflow wants it.

    Args:
        bundle: The bundle.
        scorer: The scorer of that bundle: of rows, or of series.
    """

    def __init__(self, bundle: Bundle, scorer: Scorer | SeriesScoring) -> None:
        self._bundle, self._scorer = bundle, scorer

    def predict(self, frame: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Scores rows.

        Args:
            frame: Rows in raw units, by column name; missing cells are welcome. A series detector takes whole series, in any
                order: their time and, where assets are told apart, the asset too.
            params: `top`, the reasons a row gets, and `alarm_rate`, the share of normal rows that may alarm.

        Returns:
            A row each: identifiers, `score`, `p_value`, `reconstruction_error`, `p_value_reconstruction`, `alarm`, `tail` and
            `reasons`, a list of what each column adds (series: `reason` before it, why a row has no score); with both scores in the verdict also `p_value_verdict`, with groups
            also `pooled`.

        Raises:
            RowError: The rows do not fit the detector.
            SettingError: A parameter is out of range.
            TooFewRowsError: The calibration rows do not support the alarm rate.
        """
        asked = dict(params or {})
        rate = asked.get("alarm_rate")
        if rate == self._bundle.manifest.calibration.alarm_rate:
            rate = None  # the graph's own
        answers = self._scorer.score(to_rows(frame), top=int(asked.get("top", DEFAULT_TOP)), alarm_rate=rate)
        scored: pd.DataFrame = answers.drop_columns(["reasons"]).to_pandas()
        for name in answers.column_names:
            if name == "reasons" or answers[name].null_count:  # what is missing is None: NaN is no JSON
                scored[name] = pd.Series(answers[name].to_pylist(), index=scored.index, dtype=object)
        scored.index = frame.index
        return scored


def to_rows(frame: pd.DataFrame) -> pa.Table:
    """A frame as an Arrow table; a column that mixes types, such as true and 0, becomes text for the scorer to read."""
    return pa.table({str(name): _to_cells(frame.iloc[:, place]) for place, name in enumerate(frame.columns)})


def _to_cells(cells: pd.Series[Any]) -> pa.Array:
    try:
        return pa.Array.from_pandas(cells)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array(
            [None if gone else str(cell) for cell, gone in zip(cells, cells.isna(), strict=True)], pa.string()
        )


def _load_pyfunc(path: str) -> FrameScorer:
    """Loads the bundle; MLflow's contract for a loader module.

    Args:
        path: The bundle's folder inside the MLflow model.

    Raises:
        BundleError: The bundle is damaged or of a newer format.
    """
    from anomvae.scoring import Scorer  # starts ONNX Runtime; logging a bundle must not

    bundle = read_bundle(Path(path))
    if bundle.manifest.series is not None:
        from anomvae.scoring.series import SeriesScoring

        return FrameScorer(bundle, SeriesScoring(bundle))
    return FrameScorer(bundle, Scorer(bundle))
