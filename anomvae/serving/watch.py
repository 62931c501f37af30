"""What is noted of the rows that a model answers: how strange they are, how they are judged, what is missing in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from anomvae.serving.trust import Trust

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from anomvae.data.encoding import EncodedRows
    from anomvae.observability import Metrics
    from anomvae.serving.model import ServedModel

    IntArray = npt.NDArray[np.int64]


class RowWatch:
    """Notes batches of one version of a model, on the threads that ran them. It does not hold the model.

    Args:
        model: The version.
        metrics: Told of what is seen.

    Attributes:
        trust: Of the version's calibration.
    """

    def __init__(self, model: ServedModel, metrics: Metrics) -> None:
        manifest = model.manifest
        calibration, categories = manifest.calibration, manifest.categorical
        self.trust = Trust(calibration)
        self._name, self._metrics = model.name, metrics
        self._verdict_p_value = model.verdict_p_value
        self._pooled = len(calibration.groups)
        of_groups = [group.score_threshold for group in calibration.groups]
        self._threshold = calibration.score_threshold
        self._thresholds = np.array([*of_groups, calibration.score_threshold], dtype=np.float32)
        self._unknown = np.array([column.unknown_code for column in categories], dtype=np.int64)
        self._missing = np.array(
            [-1 if column.missing_code is None else column.missing_code for column in categories], dtype=np.int64
        )

    def at_own_rate(self, rows: EncodedRows, found: Mapping[str, Any]) -> None:
        """Notes rows judged at the model's own alarm rate."""
        table = self._note(rows, found, verdicts=True)
        p_values = found.get(self._verdict_p_value)
        if p_values is not None:
            self.trust.note(p_values, table)

    def at_another_rate(self, rows: EncodedRows, found: Mapping[str, Any]) -> None:
        """Notes rows without their verdicts: at another rate they say nothing of the stated one."""
        self._note(rows, found, verdicts=False)

    def _note(self, rows: EncodedRows, found: Mapping[str, Any], *, verdicts: bool) -> IntArray | None:
        """Counts rows and cells; the table of each row, None: the pooled one."""
        table = self._tables(rows)
        self._metrics.rows(
            self._name,
            scores=found.get("score"),
            p_values=found.get(self._verdict_p_value),
            alarms=found.get("alarm") if verdicts else None,
            tails=found.get("tail") if verdicts else None,
            threshold=self._threshold if table is None else self._thresholds[table],
        )
        if self._pooled:
            pooled = len(rows) if table is None else int(np.count_nonzero(table == self._pooled))
            self._metrics.pooled(self._name, pooled)
        gone, strange = int(np.count_nonzero(np.isnan(rows.numeric))), 0
        if len(self._unknown):
            gone += int(np.count_nonzero(rows.categorical == self._missing))
            strange = int(np.count_nonzero(rows.categorical == self._unknown))
        if gone or strange:
            self._metrics.cells(self._name, missing=gone, unknown=strange)
        return table

    def _tables(self, rows: EncodedRows) -> IntArray | None:
        if not self._pooled or rows.group is None:
            return None
        own = (rows.group >= 0) & (rows.group < self._pooled)
        tables: IntArray = np.where(own, rows.group, self._pooled)
        return tables
