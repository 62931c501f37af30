"""How well a detector ranks and decides where labels are known."""

from anomvae.evaluation.measures import Evaluation, clopper_pearson, evaluate

__all__ = ["Evaluation", "clopper_pearson", "evaluate"]
