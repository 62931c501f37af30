"""Whether the graph answers as the model does; nothing is written where it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import torch

from anomvae.calibration import TIE
from anomvae.errors import ParityError
from anomvae.export.graph import input_names, output_names

if TYPE_CHECKING:
    import numpy.typing as npt

    from anomvae.export.detector import CalibratedDetector

    Arrays = dict[str, npt.NDArray[np.generic]]

BATCH_SIZES = (1, 7, 64, 1000)
TOLERANCE = 1e-4
ROUNDING = 64 * float(np.finfo(np.float32).eps)
"""Of a sum of products in float32, relative to its largest term."""
NATS = ("score", "contribution", "latent_contribution")
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
    detector: CalibratedDetector,
    numeric: npt.NDArray[np.float32],
    categorical: npt.NDArray[np.int64],
    alarm_rate: float,
) -> float:
    """Compares the graph with the model at batch sizes 1, 7, 64 and 1,000.

    A p-value is a step function of its score: where a calibration score lies within rounding of a row's, either step is
    right. P-values and verdicts are therefore held against those of the scores moved by the tolerance, both ways.

    Args:
        graph: The exported model.
        detector: The model.
        numeric: At least 1,000 probe rows, shape ``(n, d)``.
        categorical: Their codes, shape ``(n, c)``.
        alarm_rate: The graph's default.

    Returns:
        The largest relative difference seen.

    Raises:
        ParityError: Outputs differ by more than 1e-4 relative, or verdicts do.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = output_names(detector)
    worst = 0.0
    for size in BATCH_SIZES:
        rows = slice(len(numeric) - size, len(numeric))  # the spoilt rows stand last
        feeds: Arrays = {"numeric": numeric[rows], "categorical": categorical[rows]}
        try:
            found = session.run(list(names), {name: feeds[name] for name in input_names(detector)})
        except Exception as error:  # onnxruntime raises many classes of its own
            raise ParityError(f"the exported graph refuses a batch of {size} rows ({type(error).__name__})") from error
        with torch.no_grad():
            answers = detector(
                torch.from_numpy(feeds["numeric"]), torch.from_numpy(feeds["categorical"]), torch.tensor(alarm_rate)
            )
        wanted = {name: getattr(answers, name).numpy() for name in names}
        answered = dict(zip(names, found, strict=True))
        worst = max(worst, _compare(answered, wanted, detector, alarm_rate, size, _rounding(detector, feeds)))
        if "expected_category" in answered:
            _compare_categories(answered["expected_category"], detector, feeds, size)
    return worst


def _rounding(detector: CalibratedDetector, feeds: Arrays) -> npt.NDArray[np.float64]:
    """What float32 leaves uncertain of each row's score, nats, shape ``(n,)``."""
    with torch.no_grad():
        terms = detector.scorer.largest_term(torch.from_numpy(feeds["numeric"]), torch.from_numpy(feeds["categorical"]))
    rounding: npt.NDArray[np.float64] = ROUNDING * terms.numpy().astype(np.float64)
    return rounding


def _compare(
    found: Arrays,
    wanted: Arrays,
    detector: CalibratedDetector,
    alarm_rate: float,
    size: int,
    rounding: npt.NDArray[np.float64],
) -> float:
    """Largest relative difference; `rounding` is what float32 leaves uncertain of each row's score, nats."""
    worst = 0.0
    nats = np.abs(np.column_stack([wanted[name] for name in NATS]).astype(np.float64)).max(axis=1)
    for name in (*NATS, "reconstruction_error", "expected", "latent"):
        if name in found:
            floor = None
            if name == "expected":  # far out, the exemplars' shares hang on the last digits of large sums
                scale = detector.scorer.model.preparation.scale.numpy()
                floor = scale * np.maximum(1.0, rounding / TOLERANCE)[:, None]
            if name == "reconstruction_error":
                floor = np.maximum(1.0, rounding / TOLERANCE)
            if name in NATS:
                floor = np.maximum(np.maximum(nats, 1.0), rounding / TOLERANCE)
                floor = floor.reshape(-1, *[1] * (wanted[name].ndim - 1))
            worst = max(worst, _relative(found[name], wanted[name], name, size, floor))
    for name, score in (("p_value", "score"), ("p_value_reconstruction", "reconstruction_error")):
        low, high = _p_values_around(detector, wanted[score], name, rounding)
        p_value = np.asarray(found[name], np.float64)
        if not (np.all(p_value >= low - 1e-6) and np.all(p_value <= high + 1e-6)):
            raise ParityError(f"the exported graph's {name} differs from the model's at batch size {size}")
    differs = found["alarm"] != wanted["alarm"]
    if np.any(differs & ~_on_the_edge(detector, wanted, alarm_rate, rounding)):
        raise ParityError(f"the exported graph's verdicts differ from the model's at batch size {size}")
    return worst


def _compare_categories(found: npt.NDArray[np.generic], detector: CalibratedDetector, feeds: Arrays, size: int) -> None:
    """Refuses an expected category that the model finds less probable than another; where two are level, either is right."""
    model = detector.scorer.model
    with torch.no_grad():
        weights = detector.scorer.category_weights(
            torch.from_numpy(feeds["numeric"]), torch.from_numpy(feeds["categorical"])
        )
    for j, column in enumerate(torch.split(weights, list(model.layout.cardinalities), dim=1)):
        if not column.shape[1]:
            continue
        chosen = column.gather(1, torch.from_numpy(np.asarray(found)[:, j : j + 1].astype(np.int64)))[:, 0]
        if bool((column.max(dim=1).values - chosen > 1e-3).any()):  # noqa: PLR2004
            raise ParityError(f"the exported graph expects other categories than the model at batch size {size}")


def _relative(
    found: npt.NDArray[np.generic],
    wanted: npt.NDArray[np.generic],
    name: str,
    size: int,
    floor: npt.NDArray[np.floating[Any]] | None = None,
) -> float:
    """Largest difference relative to the larger of a floor and the magnitude.

    The floor of expected values is their column's scale: an expected value near zero is as good as its column is wide.
    That of all nats of a row is the largest of them, or 1, since they are summed. Elsewhere it is 1, and the entries of a
    row are measured by the largest of them.
    """
    left, right = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    if left.shape != right.shape or not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise ParityError(f"the exported graph's {name} is not finite, or of another shape, at batch size {size}")
    magnitude = np.abs(right)
    if floor is None:
        magnitude = np.maximum(magnitude if right.ndim == 1 else magnitude.max(axis=1, keepdims=True), 1.0)
    else:
        magnitude = np.maximum(magnitude, floor)
    worst = float((np.abs(left - right) / magnitude).max(initial=0.0))
    if worst > TOLERANCE:
        raise ParityError(
            f"the exported graph's {name} differs from the model's by {worst:.1e} relative at batch size {size}; "
            f"at most {TOLERANCE:g} is allowed"
        )
    return worst


def _p_values_around(
    detector: CalibratedDetector, score: npt.NDArray[np.generic], name: str, rounding: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    table = detector.p_score if name == "p_value" else detector.p_reconstruction
    exact = torch.from_numpy(np.asarray(score, np.float32))
    reach = TIE * torch.clamp(exact.abs(), min=1.0) + torch.from_numpy(rounding.astype(np.float32))
    with torch.no_grad():
        return table(exact + reach).numpy(), table(exact - reach).numpy()


def _on_the_edge(
    detector: CalibratedDetector, wanted: Arrays, alarm_rate: float, rounding: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Rows whose verdict a rounding of the score may turn."""
    edge = np.zeros(len(wanted["alarm"]), dtype=bool)
    names = (("p_value", "score"), ("p_value_reconstruction", "reconstruction_error"))
    for (name, score), share in zip(names, detector.shares, strict=True):
        low, high = _p_values_around(detector, wanted[score], name, rounding)
        rate = alarm_rate * share * (1.0 + 1e-6)
        edge |= (low <= rate) != (high <= rate)
    return edge
