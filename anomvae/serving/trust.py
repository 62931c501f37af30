"""Whether rows are still distributed as those that a served model was calibrated on, by what its callers send."""

from __future__ import annotations

import math
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anomvae.calibration import CalibrationHealth

if TYPE_CHECKING:
    from anomvae.bundle import Calibration

    Floats = npt.NDArray[np.floating[Any]]
    IntArray = npt.NDArray[np.int64]

ERROR = 0.01
"""Largest probability, over all time, that a model whose rows stay as they were loses the trust."""
BATCH_SAMPLE = 32
"""Most rows of a batch that are tested, evenly spaced: more of a bulk request would cost scoring time and tell little."""
BLOCK = 512
"""Rows of a table that are tested at once; a block costs little more than a row."""


class Trust:
    """The tests of one version of a model: one for each table of its calibration. Any thread may note and ask.

    P-values of different tables do not go together, so each table has its own test, at `ERROR` divided by their number. Tests
    look for stranger rows alone: the p-values of the calibration rows, which would show rows that are all too normal, are not
    in the bundle.

    Args:
        calibration: Of the model.
    """

    def __init__(self, calibration: Calibration) -> None:
        self._table_rows = (*(group.rows for group in calibration.groups), calibration.rows)
        self._tests: dict[int, CalibrationHealth] = {}
        self._waiting: dict[int, list[Floats]] = {}
        self._unsorted: list[tuple[Floats, IntArray | None]] = []
        self._n_unsorted = 0
        self._lock = Lock()

    def note(self, p_values: Floats, table: IntArray | None = None) -> None:
        """Takes note of a batch; most of the work is put off until a block is full, or somebody asks.

        Args:
            p_values: That the verdicts are held against, shape ``(n,)``.
            table: Number of the table of each row, the pooled one last, shape ``(n,)``; None: the pooled one.
        """
        step = -(-len(p_values) // BATCH_SAMPLE) or 1
        sampled = p_values[::step].copy(), None if table is None else table[::step]
        with self._lock:
            self._unsorted.append(sampled)
            self._n_unsorted += len(sampled[0])
            if self._n_unsorted >= BLOCK:
                self._sort()
                self._test(BLOCK)

    @property
    def evidence(self) -> float:
        """Log10 of the evidence that rows have become stranger: of the strongest test, divided by their number."""
        with self._lock:
            self._test_all()
            found = max((test.log_evidence for test in self._tests.values()), default=0.0)
        return found - math.log10(len(self._table_rows))

    @property
    def is_trusted(self) -> bool:
        """Whether no test has lost the trust; it does not come back."""
        with self._lock:
            self._test_all()
            return all(test.is_trusted for test in self._tests.values())

    def _test_all(self) -> None:
        self._sort()
        self._test(1)

    def _sort(self) -> None:
        """Puts what was noted to the tables it belongs to."""
        noted, self._unsorted, self._n_unsorted = self._unsorted, [], 0
        if not noted:
            return
        pooled = len(self._table_rows) - 1
        p = np.concatenate([values for values, _ in noted])
        table = np.concatenate([np.full(len(values), pooled) if at is None else at for values, at in noted])
        sound = (p > 0) & (p <= 1)  # what is not comes of a graph that no fit has made
        p, table = p[sound], table[sound]
        if not pooled:
            self._waiting.setdefault(0, []).append(p)
            return
        order = np.argsort(table, kind="stable")
        numbers, starts = np.unique(table[order], return_index=True)
        for number, part in zip(numbers.tolist(), np.split(p[order], starts[1:]), strict=True):
            self._waiting.setdefault(number, []).append(part)

    def _test(self, least: int) -> None:
        """Tests the rows of tables for which at least so many wait."""
        for number, parts in list(self._waiting.items()):
            if sum(map(len, parts)) >= least:
                if number not in self._tests:
                    self._tests[number] = CalibrationHealth(
                        self._table_rows[number], error=ERROR / len(self._table_rows)
                    )
                self._tests[number].update(np.concatenate(self._waiting.pop(number)).astype(np.float64))
