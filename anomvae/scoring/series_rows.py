"""The member of single steps, asked once for each step: a step lies in as many windows as these have steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from anomvae.bundle.series import ROWS_GRAPH
from anomvae.scoring.session import GraphSession

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from pathlib import Path

    from anomvae.bundle import Manifest

ROW_TERMS = "row_terms"
"""Its output, and the optional input of the detector's graph that takes it."""


@dataclass(frozen=True, slots=True)
class SingleRows:
    """Steps as inputs of the graph of the row member, n of them.

    Attributes:
        rows: Raw units, NaN where missing, float32, shape ``(n, d)``.
        asset: Number of each one's asset, int64, shape ``(n,)``.
    """

    rows: npt.NDArray[np.float32]
    asset: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: npt.NDArray[np.int64] | slice) -> SingleRows:
        """Those named by position."""
        return SingleRows(self.rows[rows], self.asset[rows])

    def feeds(self) -> dict[str, npt.NDArray[np.generic]]:
        """The arrays by the names of the graph's inputs."""
        return {"rows": self.rows, "asset": self.asset}


def row_member(manifest: Manifest, session: GraphSession, graph: Path | bytes) -> RowMember | None:
    """The row member of a detector of series; None where it has none, or where its bundle was made before such a file was.

    Args:
        manifest: Of its bundle.
        session: Of its graph.
        graph: The file, or its content.
    """
    if ROWS_GRAPH not in manifest.files or ROW_TERMS not in session.optional_inputs:
        return None
    return RowMember(graph, len(manifest.columns))


class RowMember:
    """Says of steps what the row member says of them, to be given to the detector's graph with the windows they lie in.

    Args:
        graph: The file, or its content.
        channels: d.
    """

    def __init__(self, graph: Path | bytes, channels: int) -> None:
        self._session = GraphSession(graph, channels)
        self.width = 2 * channels + 1

    def terms(
        self,
        rows: npt.NDArray[np.float32],
        asset: npt.NDArray[np.int64],
        pool: Executor | None = None,
        *,
        spare: bool = True,
    ) -> npt.NDArray[np.float32]:
        """Nats of each channel, the rest of them, and what was expected of each channel, scaled; shape ``(n, 2d + 1)``.

        Args:
            rows: Raw units, NaN where missing, shape ``(n, d)``.
            asset: Number of each one's asset, shape ``(n,)``.
            pool: Runs it on several threads.
            spare: Whether rows on which the graph fails, as it may where memory runs out, are NaN and harm no others; else it
                raises what ONNX Runtime does.
        """
        given, found = SingleRows(rows, asset), np.empty((len(rows), self.width), dtype=np.float32)
        size = self._session.chunk_rows
        chunks = [slice(first, min(len(rows), first + size)) for first in range(0, len(rows), size)]

        def say(chunk: slice) -> None:
            if spare:
                self._spared(given.take(chunk), found[chunk])
            else:
                found[chunk] = self._session.run(given.take(chunk), (ROW_TERMS,))[ROW_TERMS]

        for _ in (map if pool is None or len(chunks) == 1 else pool.map)(say, chunks):
            pass
        return found

    def _spared(self, rows: SingleRows, found: npt.NDArray[np.float32]) -> None:
        """Fills in what the graph says of rows; where it fails, by halves, so that one row harms no other."""
        try:
            found[:] = self._session.run(rows, (ROW_TERMS,))[ROW_TERMS]
        except Exception:  # noqa: BLE001  ONNX Runtime raises classes of its own
            if len(rows) == 1:
                found[:] = np.nan
                return
            middle = len(rows) // 2
            for part in (slice(0, middle), slice(middle, None)):
                self._spared(rows.take(part), found[part])
