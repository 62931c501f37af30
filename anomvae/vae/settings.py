"""Settings of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from anomvae.errors import SettingError
from anomvae.vae.likelihoods import NUMERIC_LIKELIHOODS, NumericLikelihoodName

ModelKind = Literal["vae", "beta-vae", "autoencoder", "denoising-autoencoder"]
MODEL_KINDS: tuple[ModelKind, ...] = get_args(ModelKind)
PriorName = Literal["exemplars", "pseudo-rows", "normal"]
PRIORS: tuple[PriorName, ...] = get_args(PriorName)
DEFAULT_EXEMPLARS = 1_000
PSEUDO_ROWS = 64
DEFAULT_BETA: dict[ModelKind, float] = {"vae": 1.0, "beta-vae": 4.0, "autoencoder": 0.0, "denoising-autoencoder": 0.0}
DEFAULT_NOISE: dict[ModelKind, float] = {"vae": 0.0, "beta-vae": 0.0, "autoencoder": 0.0, "denoising-autoencoder": 0.5}


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What is fitted. Everything the field knows is a configuration of the one model.

    Attributes:
        kind: `vae`; `beta-vae` (KL weighted by `beta`, default 4); `autoencoder` (no noise, no KL: the vanilla one);
            `denoising-autoencoder` (the same, fed noisy numbers, asked for clean ones).
        likelihood: Of numbers: `gaussian` (learnt variance per column), `mse` (unit variance), `bernoulli` (binary
            cross-entropy of columns scaled to 0..1), `student-t` (heavy tails). Flags and categories always have theirs.
        layers: Hidden widths of the encoder; the decoder mirrors them.
        latent: Size of the latent space; None: as many as scored columns, 2 to 32.
        beta: Weight of the KL in training; None: the kind's own. The score always weighs it 1.
        input_noise: Standard deviation of Gaussian noise on the encoder's scaled numbers in training; None: the kind's own.
        mask_rate: Share of cells hidden from the encoder at random in training, so that missing cells do no harm.
        score_draws: Fixed antithetic draws of z that the score averages over; 1: the posterior mean alone.
        log_variance_floor: Smallest log variance a numeric column may learn, in scaled units.
        prior: `exemplars` (a row is an edit of a stored normal row), `pseudo-rows` (VampPrior: learnt, none is stored) or
            `normal` (N(0, I)). None: exemplars for a VAE with the Gaussian likelihood, one draw and beta 1, else normal.
        exemplars: Rows stored; None: by the effort of the fit. More rank better and cost more.
        novelty: Whether values, and pairs of values, that training never held count: by the Good-Turing estimate, in
            nats. None: where the prior has exemplars or pseudo-rows.
        novelty_least: Other rows that must hold a value for it to count as seen; more than one keeps rare values out of
            the bundle.
    """

    kind: ModelKind = "vae"
    likelihood: NumericLikelihoodName = "gaussian"
    layers: tuple[int, ...] = (64, 64)
    latent: int | None = None
    beta: float | None = None
    input_noise: float | None = None
    mask_rate: float = 0.02
    score_draws: int = 1
    log_variance_floor: float = -9.0
    prior: PriorName | None = None
    exemplars: int | None = None
    novelty: bool | None = None
    novelty_least: int = 1

    def __post_init__(self) -> None:
        """Refuses values that make no model.

        Raises:
            SettingError: Names the setting and what it may be.
        """
        _one_of("model.kind", self.kind, MODEL_KINDS)
        _one_of("model.likelihood", self.likelihood, NUMERIC_LIKELIHOODS)
        if not self.layers or any(width < 1 for width in self.layers):
            raise SettingError("model.layers must be widths of at least 1, for example [64, 64]")
        if self.latent is not None and self.latent < 1:
            raise SettingError("model.latent must be at least 1")
        if self.beta is not None and not 0.0 <= self.beta < math.inf:
            raise SettingError("model.beta must be a number, not negative")
        if self.beta and not self.is_variational:
            raise SettingError(f"model.beta weighs the KL of a VAE; model.kind {self.kind!r} has none")
        if self.input_noise is not None and not 0.0 <= self.input_noise < math.inf:
            raise SettingError("model.input_noise must be a number, not negative")
        if not 0.0 <= self.mask_rate < 1.0:
            raise SettingError("model.mask_rate must be in [0, 1)")
        if not 1 <= self.score_draws <= 256:  # noqa: PLR2004
            raise SettingError("model.score_draws must be 1 to 256")
        self._check_prior()

    def _check_prior(self) -> None:
        if self.prior is not None:
            _one_of("model.prior", self.prior, PRIORS)
        if self.exemplars is not None and self.exemplars < 2:  # noqa: PLR2004  a row never answers for itself
            raise SettingError("model.exemplars must be at least 2")
        if self.exemplars is not None and self.prior_in_force == "normal":
            raise SettingError("model.exemplars counts stored rows or pseudo-rows; model.prior = 'normal' has none")
        if self.beta is not None and self.beta != 1.0 and self.prior == "exemplars":
            raise SettingError(
                "model.beta weighs the KL of model.prior = 'normal' or 'pseudo-rows'; exemplars have none to weigh"
            )
        if self.novelty_least < 1:
            raise SettingError("model.novelty_least must be at least 1")
        if self.prior == "exemplars" and (self.kind != "vae" or self.likelihood != "gaussian"):
            raise SettingError(
                "model.prior = 'exemplars' edits stored rows under model.kind = 'vae' and model.likelihood = 'gaussian'; "
                "choose those, or model.prior = 'normal'"
            )
        if self.prior == "pseudo-rows" and not self.is_variational:
            raise SettingError(f"model.prior = 'pseudo-rows' is a VAE's; model.kind {self.kind!r} has no prior")
        if self.score_draws > 1 and self.prior_in_force == "exemplars":
            raise SettingError(
                "model.score_draws averages under model.prior = 'normal'; exemplars score at the posterior mean"
            )

    @property
    def is_variational(self) -> bool:
        """Whether the latent is a distribution; an autoencoder's is a point."""
        return self.kind in ("vae", "beta-vae")

    @property
    def prior_in_force(self) -> PriorName:
        """The prior in force; an autoencoder has none and answers `normal`."""
        if self.prior is not None:
            return self.prior
        weighted = self.beta is not None and self.beta != 1.0  # exemplars have no KL to weigh
        by_default = self.kind == "vae" and self.likelihood == "gaussian" and self.score_draws == 1 and not weighted
        return "exemplars" if by_default else "normal"

    @property
    def has_novelty(self) -> bool:
        """Whether never-seen values count."""
        return self.prior_in_force != "normal" if self.novelty is None else self.novelty

    @property
    def kl_weight(self) -> float:
        """The beta in force."""
        return DEFAULT_BETA[self.kind] if self.beta is None else self.beta

    @property
    def noise(self) -> float:
        """The input noise in force."""
        return DEFAULT_NOISE[self.kind] if self.input_noise is None else self.input_noise

    def latent_size(self, columns: int) -> int:
        """Size of the latent space for a number of scored columns.

        Example:
            >>> ModelSettings().latent_size(6), ModelSettings(latent=2).latent_size(6)
            (6, 2)
        """
        return min(max(columns, 2), 32) if self.latent is None else self.latent


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SettingError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
