"""Whether the graph answers as the model does; nothing is written where it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
import torch

from anomvae.errors import ParityError
from anomvae.export.agreement import Exact, hold
from anomvae.export.calibration_graph import GROUP, SCORES, calibration_outputs
from anomvae.export.graph import input_names
from anomvae.scoring.session import GraphSession

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from anomvae.calibration import CalibrationTables
    from anomvae.data.encoding import EncodedRows
    from anomvae.export.agreement import Doubles, Magnitude
    from anomvae.vae.scores import RowScorer

    Arrays = dict[str, npt.NDArray[np.generic]]

BATCH_SIZES = (1, 7, 64, 1000)
P_VALUE_TOLERANCE = 1e-6
NATS = ("score", "contribution", "latent_contribution")
COMPARED = (*NATS, "reconstruction_error", "expected", "latent")
PROBE_ROWS = 1000


def probe_rows(
    numeric: npt.NDArray[np.float32], categorical: npt.NDArray[np.int64], cardinalities: tuple[int, ...], seed: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Rows that try the graph: real ones with cells missing, out of range, infinite, and categories never seen.

    Args:
        numeric: Real rows, shape ``(n, d)``.
        categorical: Their codes, shape ``(n, c)``.
        cardinalities: Known values per category.
        seed: Seed of the draws.

    Returns:
        1,000 rows.
    """
    draw = np.random.default_rng([seed, 3])
    rows = draw.integers(0, len(numeric), PROBE_ROWS)
    numbers, codes = numeric[rows].copy(), categorical[rows].copy()
    spoilt = np.arange(PROBE_ROWS) >= PROBE_ROWS // 2
    if numbers.shape[1]:
        dice = draw.random(numbers.shape)
        with np.errstate(over="ignore", invalid="ignore"):
            numbers = np.where(spoilt[:, None] & (dice < 0.05), numbers * np.float32(1e3), numbers)  # noqa: PLR2004
        numbers[spoilt[:, None] & (dice > 0.8)] = np.nan  # noqa: PLR2004
        numbers[-1], numbers[-2], numbers[-3] = np.nan, np.inf, -np.inf
    if codes.shape[1]:
        dice = draw.random(codes.shape)
        last = np.asarray(cardinalities, dtype=np.int64)
        codes = np.where(spoilt[:, None] & (dice < 0.2), last, codes)  # noqa: PLR2004
        codes = np.where(spoilt[:, None] & (dice > 0.9), last + 1, codes)  # noqa: PLR2004
    return numbers.astype(np.float32), codes


def check_parity(
    graph: bytes,
    scorer: RowScorer,
    tables: CalibrationTables,
    numeric: npt.NDArray[np.float32],
    categorical: npt.NDArray[np.int64],
    alarm_rate: float,
) -> float:
    """Compares the graph with the model and the calibration tables at batch sizes 1, 7, 64 and 1,000.

    Scores are held against the model's; p-values and verdicts against the tables' for the graph's own scores, so that what
    is left to differ there is arithmetic alone.

    Args:
        graph: The exported model.
        scorer: The model.
        tables: The calibration.
        numeric: At least 1,000 probe rows, shape ``(n, d)``.
        categorical: Their codes, shape ``(n, c)``.
        alarm_rate: The graph's default.

    Returns:
        The largest relative difference of a score's seen.

    Raises:
        ParityError: Scores differ by more than 1e-4 relative and than float32 leaves open, p-values by more than 1e-6, or
            verdicts do; or a score is no number.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    worst, magnitude = 0.0, _magnitude(scorer)
    exact = Exact(
        scorer,
        [name for name in COMPARED if name in names],
        [frozenset(NATS), frozenset({"expected", "reconstruction_error"})],
    )
    for size in BATCH_SIZES:
        rows = slice(len(numeric) - size, len(numeric))  # the spoilt rows stand last
        feeds: Arrays = {"numeric": numeric[rows], "categorical": categorical[rows]}
        given = {name: feeds[name] for name in input_names(scorer)}
        group = None
        if tables.has_groups:
            group = given[GROUP] = np.arange(size, dtype=np.int64) % (len(tables.rows) + 1)
        answered = _answers(session, names, given, size)
        answers = exact.answers(numeric[rows], categorical[rows], magnitude)
        worst = max(worst, hold(answered, answers, magnitude, finite=COMPARED))
        if "expected_category" in answered:
            _compare_categories(answered["expected_category"], scorer, feeds, size)
        compare_verdicts(answered, tables, alarm_rate, group)
    return worst


def _answers(session: ort.InferenceSession, names: list[str], given: Arrays, size: int) -> Arrays:
    try:
        return dict(zip(names, session.run(names, given), strict=True))
    except Exception as error:  # onnxruntime raises many classes of its own
        raise ParityError(f"the exported graph refuses a batch of {size} rows ({type(error).__name__})") from error


def compare_verdicts(
    answered: Arrays, tables: CalibrationTables, alarm_rate: float, group: npt.NDArray[np.int64] | None
) -> None:
    """Holds a graph's p-values and verdicts against the tables' for the graph's own scores.

    Raises:
        ParityError: A p-value differs by more than 1e-6, or a verdict does.
    """
    score, error = (np.asarray(answered[name], np.float32) for name in SCORES)
    wanted = tables.verdicts(score, error, alarm_rate, group)
    for name in calibration_outputs(tables):
        found, right = np.asarray(answered[name], np.float64), np.asarray(getattr(wanted, name), np.float64)
        apart = np.abs(found - right) > P_VALUE_TOLERANCE
        if name in ("alarm", "tail"):  # an extrapolated p-value may lie on the alarm rate but for rounding
            edge = np.abs(wanted.p_value_verdict / np.float32(alarm_rate) - 1.0) < 10 * P_VALUE_TOLERANCE
            apart &= ~(wanted.tail & edge)
        if apart.any():
            raise ParityError(
                f"the exported graph's {name} differs from its calibration tables' at batch size {len(found)}"
            )


def check_recalibrated(graph: bytes, tables: CalibrationTables, rows: EncodedRows, alarm_rate: float) -> None:
    """Holds the p-values and verdicts of a graph with another calibration against its tables.

    Args:
        graph: The graph.
        tables: The calibration.
        rows: Real rows; at most 1,000 are tried.
        alarm_rate: The graph's default.

    Raises:
        ParityError: They differ.
    """
    session = GraphSession(graph)
    tried = rows.take(slice(0, PROBE_ROWS))
    group = np.arange(len(tried), dtype=np.int64) % (len(tables.rows) + 1) if tables.has_groups else None
    answered = session.run(replace(tried, group=group), session.outputs)
    compare_verdicts(answered, tables, alarm_rate, group)


def _magnitude(scorer: RowScorer) -> Magnitude:
    """What answers are measured by: nats by the row's largest, expected values by their column's scale, at the least 1.

    An expected value near zero is as good as its column is wide; nats are summed, so that what a column adds is as good as
    the sum is.
    """
    scale = scorer.model.preparation.scale.numpy().astype(np.float64)

    def magnitude(name: str, answers: Mapping[str, Doubles]) -> Doubles:
        size = np.abs(answers[name])
        if name == "expected":
            return np.maximum(size, scale)
        if name in NATS:
            size = np.abs(np.column_stack([answers[each] for each in NATS if each in answers]))
        largest = size if size.ndim == 1 else size.max(axis=1, initial=0.0)
        return np.maximum(largest, 1.0).reshape(-1, *[1] * (answers[name].ndim - 1))

    return magnitude


def _compare_categories(found: npt.NDArray[np.generic], scorer: RowScorer, feeds: Arrays, size: int) -> None:
    """Refuses an expected category that the model finds less probable than another; where two are level, either is right."""
    model = scorer.model
    with torch.no_grad():
        weights = scorer.category_weights(torch.from_numpy(feeds["numeric"]), torch.from_numpy(feeds["categorical"]))
    for j, column in enumerate(torch.split(weights, list(model.layout.cardinalities), dim=1)):
        if not column.shape[1]:
            continue
        chosen = column.gather(1, torch.from_numpy(np.asarray(found)[:, j : j + 1].astype(np.int64)))[:, 0]
        if bool((column.max(dim=1).values - chosen > 1e-3).any()):  # noqa: PLR2004
            raise ParityError(f"the exported graph expects other categories than the model at batch size {size}")
