"""A model is tried on made-up rows before it may answer anyone."""

from __future__ import annotations

import time
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anomvae.data.encoding import EncodedRows
from anomvae.errors import BundleError, ScoringError
from anomvae.scoring.session import ALIGNMENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
DEVICE_SIZES = (1, 17, PROBE_ROWS)
"""Sizes of calls at which a device must give a row the same score, up to the tolerance."""
FOR_GOOD = ("InvalidArgument", "NotImplemented")
"""Errors of ONNX Runtime that come back with every run: the graph takes other inputs, or needs what is not there."""


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
        BundleError: Its answers are not finite, depend on the rows around them, or differ from the reference's; or it does
            not take a bundle's rows.
        ScoringError: Running it failed otherwise, perhaps for a reason that passes, such as a lack of memory.
    """
    rows = probe_rows(manifest)
    with _running(manifest):
        together = session.run(rows, session.outputs)
    if not {"score", "p_value", "alarm"} <= together.keys():
        raise BundleError(f"{manifest.name!r} has a graph without scores, p-values or alarms; fit or pull it again")
    scores, p_value = together["score"], np.asarray(together["p_value"], dtype=np.float64)
    if not np.isfinite(np.asarray(scores, dtype=np.float64)).all() or not ((p_value > 0) & (p_value <= 1)).all():
        raise BundleError(f"{manifest.name!r} gives scores or p-values on probe rows that are none; fit it again")
    with _running(manifest):
        settled = _settle_alignment(session, rows, together) if reference is None else _settled(session, rows, together)
    if not settled:
        raise BundleError(f"{manifest.name!r} scores a row otherwise when others come with it; fit it again")
    if reference is None:
        return 0.0
    with _running(manifest):
        expected = reference.run(rows, reference.outputs)
    return _difference(manifest, together, expected)


def settle_chunk(session: GraphSession, manifest: Manifest, outputs: Sequence[str] = ("score", "alarm")) -> None:
    """Finds the chunk at which a session scores most rows a second on this machine, and has it use that.

    A chunk that cannot be run, for lack of memory perhaps, is not taken.

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
        if a_row_s < WORTHWHILE * best_s or best_s == inf:
            best, best_s = size, a_row_s
    session.chunk_rows = best


def _seconds_a_row(session: GraphSession, rows: EncodedRows, outputs: Sequence[str]) -> float:
    took = []
    for _ in range(3):
        started = time.perf_counter()
        try:
            session.run(rows, outputs)
        except Exception:  # noqa: BLE001  ONNX Runtime raises classes of its own
            return inf
        took.append(time.perf_counter() - started)
    return min(took) / len(rows)


@contextmanager
def _running(manifest: Manifest) -> Iterator[None]:
    """Tells apart what will fail again from what may pass."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  ONNX Runtime raises classes of its own
        name = type(error).__name__
        if name in FOR_GOOD:
            raise BundleError(f"{manifest.name!r} fails on probe rows ({name}); fit or pull it again") from None
        raise ScoringError(f"{manifest.name!r} fails on probe rows ({name}); try it again later") from None


def _settled(session: GraphSession, rows: EncodedRows, together: Arrays) -> bool:
    """Whether a device gives rows the same scores in calls of other sizes, up to the tolerance."""
    for size in DEVICE_SIZES:
        found = session.run(rows.take(slice(0, size)), session.outputs)
        if not _apart(found["score"], together["score"][:size]).max(initial=0.0) <= DEVICE_TOLERANCE:
            return False
    return True


def _apart(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    here, there = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    return np.abs(here - there) / np.maximum(1.0, np.abs(there))


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
    there = np.asarray(expected["score"], dtype=np.float64)
    apart = _apart(found["score"], there)
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
