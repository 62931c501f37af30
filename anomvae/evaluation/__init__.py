"""How well a detector ranks and decides where labels are known."""

from anomvae.evaluation.baselines import Baseline, score_baselines
from anomvae.evaluation.measures import Evaluation, clopper_pearson, evaluate
from anomvae.evaluation.paired import Comparison, Difference, Ranking, compare, ranking

__all__ = [
    "Baseline",
    "Comparison",
    "Difference",
    "Evaluation",
    "Ranking",
    "clopper_pearson",
    "compare",
    "evaluate",
    "ranking",
    "score_baselines",
]
