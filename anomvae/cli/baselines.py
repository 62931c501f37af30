"""Simpler detectors beside ours: what `anomvae evaluate --baselines` finds and prints."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from anomvae.cli.console import err, escape, out, table

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from anomvae.bundle import Manifest
    from anomvae.data.comparison import ComparisonRows, LabelledRows
    from anomvae.evaluation import Baseline, Comparison, Difference, Ranking

PER_COMPARISON = (
    "Differences are this detector's measure less the other's, in points (hundredths); intervals by a paired bootstrap of "
    "{resamples:,} resamples. Each holds at {confidence:.0f} % by itself and is not widened for four comparisons: that this "
    "detector beats all four needs no widening, that some one of four beats it may be chance."
)


@dataclass(frozen=True, slots=True)
class Beside:
    """Our score beside simpler detectors on the same rows.

    Attributes:
        ours: How our score ranks the rows compared on.
        score: Which of our scores: that of the verdict.
        rows: Rows compared on.
        anomalies: Of these, anomalous.
        chosen: Where the normal rows came from, and what to say of them.
        learnt: Normal rows the simpler detectors learnt from.
        seed: Of every draw.
        found: Each simpler detector and the comparison.
    """

    ours: Ranking
    score: str
    rows: int
    anomalies: int
    chosen: ComparisonRows
    learnt: int
    seed: int
    found: list[tuple[Baseline, Comparison]]

    @property
    def scarce(self) -> int:
        """Rows of the rarer kind, anomalous or normal."""
        return min(self.anomalies, self.rows - self.anomalies)

    def as_json(self) -> dict[str, Any]:
        """All of it by name, for `--json`."""
        from anomvae.evaluation.paired import CONFIDENCE, RESAMPLES
        from anomvae.evaluation.verdicts import does_as_well, sentence

        detectors = [
            {
                "key": other.key,
                "name": other.name,
                "detail": other.detail,
                **asdict(comparison.ranking),
                "auroc_difference": _difference(comparison.auroc),
                "average_precision_difference": _difference(comparison.average_precision),
                "does_as_well": does_as_well(comparison),
                "says": sentence(other.name, comparison, self.scarce),
            }
            for other, comparison in self.found
        ]
        return {
            "rows": self.rows,
            "anomalies": self.anomalies,
            "score": self.score,
            **asdict(self.ours),
            "normal": self.chosen.name,
            "normal_rows": len(self.chosen.normal),
            "normal_rows_learnt_from": self.learnt,
            "seed": self.seed,
            "resamples": RESAMPLES,
            "confidence": CONFIDENCE,
            "intervals": "per comparison",
            "detectors": detectors,
            "warnings": list(self.chosen.warnings),
            "notes": list(self.chosen.notes),
        }


def put_beside(
    evaluated: LabelledRows, scores: dict[str, npt.NDArray[np.float64]], manifest: Manifest, normal: str | None
) -> Beside:
    """Fits simpler detectors and compares them with ours.

    Args:
        evaluated: The labelled rows.
        scores: `score` and `reconstruction_error` of all of them.
        manifest: The model's.
        normal: Path of normal rows; None: those the model was fitted on.

    Raises:
        InputError: There are no rows to learn from or to compare on; the message says what to do.
    """
    import numpy as np

    from anomvae.data.comparison import comparison_rows
    from anomvae.evaluation import compare, ranking, score_baselines
    from anomvae.evaluation.baselines import MAX_NORMAL_ROWS
    from anomvae.scoring.needs import arrow_types

    seed = manifest.provenance.seed
    with err().status("fitting simpler detectors"):
        chosen = comparison_rows(evaluated, manifest, normal, arrow_types(manifest))
        rows, anomalous = np.flatnonzero(chosen.compared), evaluated.labels.anomalous[chosen.compared]
        others = score_baselines(manifest.columns, chosen.normal, evaluated.rows.take(rows), seed=seed)
        by = "reconstruction_error" if manifest.calibration.decision == "reconstruction" else "score"
        ours = scores[by][rows]
        found = compare(ours, {other.key: other.score for other in others}, anomalous, seed=seed)
    return Beside(
        ours=ranking(ours, anomalous),
        score=by,
        rows=len(rows),
        anomalies=int(anomalous.sum()),
        chosen=chosen,
        learnt=min(len(chosen.normal), MAX_NORMAL_ROWS),
        seed=seed,
        found=[(other, found[other.key]) for other in others],
    )


def show_beside(beside: Beside, name: str) -> None:
    """Prints the comparison: a table, then a sentence a detector.

    Args:
        beside: What was found.
        name: The model's name.
    """
    numbers = ("AUROC", "average precision", "difference in AUROC", "difference in average precision")
    lines = [(f"{name} (this detector)", f"{beside.ours.auroc:.4f}", f"{beside.ours.average_precision:.4f}", "", "")]
    for other, comparison in beside.found:
        ranked = comparison.ranking
        apart = [_with_interval(part) for part in (comparison.auroc, comparison.average_precision)]
        lines.append((other.name, f"{ranked.auroc:.4f}", f"{ranked.average_precision:.4f}", apart[0], apart[1]))
    console = out()
    console.print(table("beside simpler detectors", ("by", *numbers), lines, right=numbers))
    for line in _sentences(beside):
        console.print(escape(line), soft_wrap=True)


def _sentences(beside: Beside) -> list[str]:
    """What stands under the table, a line each."""
    from anomvae.evaluation.paired import CONFIDENCE, RESAMPLES
    from anomvae.evaluation.verdicts import does_as_well, sentence

    normal = beside.rows - beside.anomalies
    verdicts = [sentence(other.name, comparison, beside.scarce) for other, comparison in beside.found]
    if not any(does_as_well(comparison) for _, comparison in beside.found):
        verdicts.append("No simpler detector does as well here.")
    return [
        f"compared on {beside.rows:,} rows: {beside.anomalies:,} anomalies, {normal:,} normal",
        f"simpler detectors learnt from {_learnt(beside)}",
        "; ".join(f"{other.name}: {other.detail}" for other, _ in beside.found),
        *beside.chosen.notes,
        "",
        *verdicts,
        "",
        PER_COMPARISON.format(resamples=RESAMPLES, confidence=100 * CONFIDENCE),
    ]


def _learnt(beside: Beside) -> str:
    rows = len(beside.chosen.normal)
    if beside.learnt == rows:
        return f"{rows:,} normal rows of {beside.chosen.name}"
    return f"{beside.learnt:,} of {rows:,} normal rows of {beside.chosen.name}, drawn by seed {beside.seed}"


def _with_interval(found: Difference) -> str:
    from anomvae.evaluation.verdicts import interval

    estimate, low, high = interval(found)
    return f"{estimate} ({low} to {high})"


def _difference(found: Difference) -> dict[str, Any]:
    return {**asdict(found), "verdict": found.verdict}
