"""Verdicts on a whole batch of rows at a stated share of false alarms among the alarms."""

from __future__ import annotations

import math
import tempfile
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from anomvae.bundle.promise import rows_needed
from anomvae.calibration.conformal import ROUNDING
from anomvae.errors import MissingExtraError, OutputError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import numpy.typing as npt

    from anomvae.bundle import Manifest

    Array = npt.NDArray[np.float64]

ADJUSTED = "p_adjusted"


class Discoveries:
    """Verdicts by the procedure of Benjamini and Hochberg on the p-values of all rows of a batch.

    Of the rows that alarm, the expected share that is normal is at most the stated rate: p-values that share a calibration set
    depend on one another positively (PRDS), which the procedure allows. How many of all rows alarm is not stated.

    Args:
        manifest: The detector's.
        rate: Stated share of false alarms among the alarms.

    Raises:
        SettingError: The rate is no share.
        MissingExtraError: scipy is not installed.

    References:
        Controlling the false discovery rate (Benjamini and Hochberg, 1995).
        Testing for outliers with conformal p-values (Bates et al., 2023), arXiv:2104.08279

    Attributes:
        rows: Rows decided.
        alarms: Alarms among them.
        smallest: Rows among them with the smallest p-value that the calibration rows allow.
    """

    def __init__(self, manifest: Manifest, rate: float) -> None:
        if not 0.0 < rate < 1.0:
            raise SettingError(
                f"the false discovery rate is {rate:g}; it is a share of the alarms, above 0 and below 1 (0.1 is 10 %)"
            )
        try:
            from scipy.stats import false_discovery_control
        except ImportError as error:
            raise MissingExtraError("a false discovery rate", "train") from error
        self._adjust = false_discovery_control
        self._calibration, self._rate = manifest.calibration, rate
        self.rows = self.alarms = self.smallest = 0

    @staticmethod
    def schema(answers: pa.Schema) -> pa.Schema:
        """The schema of answers with `p_adjusted` before the verdict."""
        others = pa.schema([field for field in answers if field.name != ADJUSTED])
        return others.insert(others.get_field_index("alarm"), pa.field(ADJUSTED, pa.float64()))

    def decide(self, answers: pa.Table) -> pa.Table:
        """Answers with `p_adjusted` and the verdicts that follow from it."""
        adjusted = self._adjusted([_p_values(answers, self._calibration.decision)])
        batches, start = [], 0
        for batch in answers.to_batches():
            batches.append(self._decided(batch, adjusted[start : start + batch.num_rows]))
            start += batch.num_rows
        return pa.Table.from_batches(batches, self.schema(answers.schema))

    def decide_batches(
        self, batches: Iterable[pa.RecordBatch], schema: pa.Schema, folder: Path | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The same for a stream: answers wait on disk until all are there, in memory are the p-values alone.

        Args:
            batches: Answers, all of one schema.
            schema: That schema.
            folder: Where to let them wait; None: where the system keeps temporary files.

        Raises:
            OutputError: The disk is full, or cannot be written.
        """
        p_values: list[Array] = []
        try:
            spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed below
        except OSError as error:
            raise _no_room(folder, error) from error
        with spool:
            try:
                with pa.ipc.new_stream(spool, schema) as writer:
                    for batch in batches:
                        p_values.append(_p_values(batch, self._calibration.decision))
                        writer.write_batch(batch)
            except OSError as error:
                raise _no_room(folder, error) from error
            adjusted, start = self._adjusted(p_values), 0
            spool.seek(0)
            for batch in pa.ipc.open_stream(spool):
                yield self._decided(batch, adjusted[start : start + batch.num_rows])
                start += batch.num_rows

    @property
    def shortage(self) -> str | None:
        """Why nothing could alarm, as a sentence: too few calibration rows for so many rows; None if that is not why."""
        calibration = self._calibration
        each = max(1, self.smallest)
        least = calibration.smallest_alarm_rate * self.rows / self._rate
        if self.alarms or not self.rows or each >= least * (1.0 - ROUNDING):
            return None
        of_table = calibration.rows + 1
        needed = math.ceil(rows_needed(self._rate * each / self.rows) * calibration.smallest_alarm_rate * of_table)
        found = "none has" if not self.smallest else f"{self.smallest:,} {'has' if self.smallest == 1 else 'have'}"
        return (
            f"no row could alarm: of {self.rows:,} rows {found} the smallest p-value that {calibration.rows:,} "
            f"calibration rows allow, and at a false discovery rate of {self._rate:g} it takes {math.ceil(least - ROUNDING):,} "
            f"of them; with {needed:,} calibration rows {'one' if each == 1 else f'{each:,}'} would do"
        )

    def _adjusted(self, p_values: list[Array]) -> Array:
        p = np.concatenate(p_values) if p_values else np.empty(0)
        self.rows = len(p)
        self.smallest = int((p <= self._calibration.smallest_alarm_rate * (1.0 + ROUNDING)).sum())
        adjusted: Array = self._adjust(p) if len(p) else p
        self.alarms = int(self._alarm(adjusted).sum())
        return adjusted

    def _alarm(self, adjusted: Array) -> npt.NDArray[np.bool_]:
        return adjusted <= self._rate * (1.0 + ROUNDING)

    def _decided(self, batch: pa.RecordBatch, adjusted: Array) -> pa.RecordBatch:
        schema = self.schema(batch.schema)
        told = {"alarm": pa.array(self._alarm(adjusted)), ADJUSTED: pa.array(adjusted)}
        return pa.RecordBatch.from_arrays(
            [told.get(name, _column(batch, name)) for name in schema.names], schema=schema
        )


def _column(batch: pa.RecordBatch, name: str) -> pa.Array | None:
    return batch.column(name) if name in batch.schema.names else None


def _p_values(answers: pa.Table | pa.RecordBatch, decision: str) -> Array:
    """The p-values that the verdict is held against."""

    def column(name: str) -> Array:
        return np.asarray(answers.column(name).to_numpy(zero_copy_only=False), dtype=np.float64)

    if "p_value_verdict" in answers.schema.names:
        return column("p_value_verdict")
    if decision == "either":  # of bundles of format 1: each at half the rate
        return np.minimum(1.0, 2.0 * np.minimum(column("p_value"), column("p_value_reconstruction")))
    return column("p_value_reconstruction" if decision == "reconstruction" else "p_value")


def _no_room(folder: Path | None, error: OSError) -> OutputError:
    where = folder or tempfile.gettempdir()
    return OutputError(
        f"the answers cannot wait in {where} until all rows are scored: {error.strerror or 'the system refuses'}"
    )
