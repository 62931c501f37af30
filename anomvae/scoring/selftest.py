"""A model is tried on made-up rows before it may answer anyone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anomvae.data.encoding import EncodedRows
from anomvae.errors import BundleError
from anomvae.scoring.session import ALIGNMENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.bundle import Manifest
    from anomvae.scoring.session import GraphSession

    Arrays = dict[str, npt.NDArray[np.generic]]

PROBE_ROWS = 64
ALIGNMENTS = (8, ALIGNMENT)
"""Fillings-up to try, smallest first: a single row is scored as so many."""
WINDOWS = tuple((start, size) for start in (0, 13) for size in (1, 2, 3, 5, 7, 8, 9, 12, 15, 17, 33))
SHARES = (2, 4, 8)
"""Chunks to try beside the largest, as shares of it."""
WORTHWHILE = 0.93
"""A smaller chunk must be quicker by this factor: measuring is noisy, and larger ones cost fewer calls."""
DEVICE_TOLERANCE = 1e-3
"""Largest difference of a score between a device and the CPU, relative to max(1, |score|)."""


def probe_rows(manifest: Manifest, n: int = PROBE_ROWS, seed: int = 0) -> EncodedRows:
    """Rows drawn around the training data's means, a tenth of the cells missing, every category in turn.

    Args:
        manifest: Columns and their means and standard deviations.
        n: How many.
        seed: Of the draw.
    """
    draw = np.random.default_rng(seed)
    mean = np.array([column.mean or 0.0 for column in manifest.numeric])
    spread = np.array([column.std or 1.0 for column in manifest.numeric])
    with np.errstate(over="ignore"):
        numeric = (mean + spread * draw.normal(size=(n, len(mean)))).astype(np.float32)
    numeric[draw.random(numeric.shape) < 0.1] = np.nan  # noqa: PLR2004
    codes = [np.arange(n) % column.n_codes for column in manifest.categorical]
    categorical = np.stack(codes, axis=1) if codes else np.empty((n, 0))
    return EncodedRows(numeric, categorical.astype(np.int64))


def self_test(session: GraphSession, manifest: Manifest, reference: GraphSession | None = None) -> float:
    """Tries a session on probe rows: warms it up, and refuses one that does not answer as it should.

    Args:
        session: What is to serve.
        manifest: Of its bundle.
        reference: A session of the same graph on the CPU, where `session` runs on another device.

    Returns:
        Largest relative difference of a score from the reference's; 0 without one.

    Raises:
        BundleError: Its answers are not finite, depend on the rows around them, or differ from the reference's.
    """
    rows = probe_rows(manifest)
    try:
        together = session.run(rows, session.outputs)
        settled = reference is not None or _settle_alignment(session, rows, together)
    except Exception as error:  # noqa: BLE001  ONNX Runtime raises classes of its own
        raise BundleError(
            f"{manifest.name!r} fails on probe rows ({type(error).__name__}); fit or pull it again"
        ) from None
    if not {"score", "p_value", "alarm"} <= together.keys():
        raise BundleError(f"{manifest.name!r} has a graph without scores, p-values or alarms; fit or pull it again")
    scores, p_value = together["score"], np.asarray(together["p_value"], dtype=np.float64)
    if not np.isfinite(np.asarray(scores, dtype=np.float64)).all() or not ((p_value > 0) & (p_value <= 1)).all():
        raise BundleError(f"{manifest.name!r} gives scores or p-values on probe rows that are none; fit it again")
    if not settled:
        raise BundleError(f"{manifest.name!r} scores a row otherwise when others come with it; fit it again")
    if reference is None:
        return 0.0
    return _difference(manifest, together, reference.run(rows, reference.outputs))


def settle_chunk(session: GraphSession, manifest: Manifest, outputs: Sequence[str] = ("score", "alarm")) -> None:
    """Finds the chunk at which a session scores most rows a second on this machine, and has it use that.

    Args:
        session: Tried already.
        manifest: Of its bundle.
        outputs: To compute meanwhile.
    """
    largest = session.chunk_rows
    rows = probe_rows(manifest, largest)
    best, best_s = largest, _seconds_a_row(session, rows, outputs)
    for share in SHARES:
        size = max(session.alignment, largest // share)
        a_row_s = _seconds_a_row(session, rows.take(slice(0, size)), outputs)
        if a_row_s < WORTHWHILE * best_s:
            best, best_s = size, a_row_s
    session.chunk_rows = best


def _seconds_a_row(session: GraphSession, rows: EncodedRows, outputs: Sequence[str]) -> float:
    took = []
    for _ in range(3):
        started = time.perf_counter()
        session.run(rows, outputs)
        took.append(time.perf_counter() - started)
    return min(took) / len(rows)


def _settle_alignment(session: GraphSession, rows: EncodedRows, together: Arrays) -> bool:
    """Finds the smallest filling-up with which rows get the same answers in any company, and has the session use that."""
    for alignment in ALIGNMENTS:
        session.alignment = alignment
        if all(_same(session, rows, together, start, size) for start, size in WINDOWS):
            return True
    return False


def _same(session: GraphSession, rows: EncodedRows, together: Arrays, start: int, size: int) -> bool:
    here = slice(start, start + size)
    found = session.run(rows.take(here), session.outputs)
    return all(np.array_equal(array[here], found[name], equal_nan=_is_float(array)) for name, array in together.items())


def _difference(manifest: Manifest, found: Arrays, expected: Arrays) -> float:
    here = np.asarray(found["score"], dtype=np.float64)
    there = np.asarray(expected["score"], dtype=np.float64)
    apart = np.abs(here - there) / np.maximum(1.0, np.abs(there))
    far = np.abs(there - manifest.calibration.score_threshold) > DEVICE_TOLERANCE * np.maximum(1.0, np.abs(there))
    other_verdict = (found["alarm"] != expected["alarm"]) & far
    largest = float(apart.max(initial=0.0))
    if not largest <= DEVICE_TOLERANCE or (manifest.calibration.decision == "elbo" and other_verdict.any()):
        raise BundleError(
            f"{manifest.name!r} scores probe rows otherwise on this device than on the CPU (by up to {largest:.2g}, relative)"
        )
    return largest


def _is_float(array: npt.NDArray[Any]) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))
