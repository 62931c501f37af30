"""Several networks of one layout side by side: the same rows through all of them at once."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional

from anomvae.vae.exemplars import NOT_ITS_OWN, ExemplarPrior
from anomvae.vae.gaussian import LOG_VARIANCE_RANGE, Gaussian
from anomvae.vae.likelihoods import LOG_2PI, GaussianLikelihood
from anomvae.vae.mixture import SPREAD_RANGE
from anomvae.vae.objective import corrupted, shrinkage_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomvae.vae.model import TableVAE
    from anomvae.vae.objective import Noise
    from anomvae.vae.preparation import Rows

    Weights = dict[str, Tensor]

QUICK = ("likelihood.", "prior.")


class NetworkStack:
    """Copies of a model that are fitted in lock-step, each with weights of its own.

    Weights of a kind lie in one tensor, a network a row, so that an optimiser's step, the norm of each network's gradient
    and a copy of all weights are few operations whatever the number of networks.

    Args:
        model: Where all of them start; its weights are not touched.
        size: Networks.

    Attributes:
        networks: Weights of encoders and decoders, shape ``(size, p)``.
        quick: Those of likelihoods and priors, shape ``(size, q)``.
    """

    def __init__(self, model: TableVAE, size: int) -> None:
        self.model, self.size = model, size
        named = [(name, weight) for name, weight in model.named_parameters() if weight.numel()]
        self._empty = {name: weight for name, weight in model.named_parameters() if not weight.numel()}
        self._parts: list[list[tuple[str, torch.Size]]] = [[], []]
        flat: list[list[Tensor]] = [[], []]
        for name, weight in named:
            part = name.startswith(QUICK)
            self._parts[part].append((name, weight.shape))
            flat[part].append(weight.detach().reshape(1, -1).expand(size, -1))
        nothing = torch.empty(size, 0, device=named[0][1].device)
        self.networks, self.quick = (torch.cat([nothing, *each], dim=1).requires_grad_() for each in flat)

    @property
    def flat(self) -> tuple[Tensor, Tensor]:
        """All weights."""
        return self.networks, self.quick

    def weights(self) -> Weights:
        """The weights by name, a view of them with the networks along the first axis."""
        found: Weights = {}
        for parts, flat in zip(self._parts, self.flat, strict=True):
            pieces = torch.split(flat, [shape.numel() for _, shape in parts], dim=1) if parts else ()
            for (name, shape), piece in zip(parts, pieces, strict=True):
                found[name] = piece.reshape(self.size, *shape)
        for name, weight in self._empty.items():
            found[name] = weight.detach().expand(self.size, *weight.shape)
        return found

    def each(self, function: Callable[..., Tensor], *, per_network: tuple[bool, ...]) -> Callable[..., Tensor]:
        """A function of a model and tensors, of all networks at once.

        Args:
            function: Of the model, then tensors (or tuples of them); answers with one tensor.
            per_network: Of each of those, whether the networks lie along its first axis; else all take the same.
        """
        call, buffers = _Call(self.model, function), {f"model.{name}": b for name, b in self.model.named_buffers()}

        def one(weights: Weights, *given: Any) -> Tensor:
            named = {f"model.{name}": weight for name, weight in weights.items()}
            answer: Tensor = functional_call(call, {**named, **buffers}, given)
            return answer

        mapped = vmap(one, in_dims=(0, *(0 if each else None for each in per_network)))
        return lambda *given: mapped(self.weights(), *given)

    @torch.no_grad()
    def network(self, at: int) -> TableVAE:
        """A copy of the model with the weights of one network."""
        made = copy.deepcopy(self.model)
        self.write(at, made)
        return made

    @torch.no_grad()
    def write(self, at: int, model: TableVAE) -> None:
        """Puts the weights of one network into a model."""
        weights = self.weights()
        for name, weight in model.named_parameters():
            weight.copy_(weights[name][at])


class _Call(nn.Module):
    """A function of a model as a module whose weights can be swapped."""

    def __init__(self, model: TableVAE, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self._function = model, function

    def forward(self, *given: Any) -> Tensor:
        return self._function(self.model, *given)


def stacked_exemplar_objective(
    stack: NetworkStack, rows: Rows, exemplars: Rows, own: Tensor, closed: Tensor, noise: Noise
) -> tuple[Tensor, Tensor]:
    """What :func:`~anomvae.vae.objective.exemplar_objective_of_rows` and `shrinkage` are for every network, in few products.

    The same terms, put together in another order: vmap of that function takes nearly twice the time.

    Args:
        stack: Networks with an exemplar prior.
        rows: n rows, the same for all networks.
        exemplars: E rows.
        own: True where an exemplar is the row itself, shape ``(n, E)``.
        closed: True where a network must not meet an exemplar, shape ``(size, E)``.
        noise: For all n + E rows, the exemplars after the rows.

    Returns:
        The objective of rows, nats, shape ``(size, n)``, and the penalty, shape ``(size,)``.
    """
    model, weights, n = stack.model, stack.weights(), len(rows.observed)
    both = type(rows)(*(torch.cat(pair) for pair in zip(rows, exemplars, strict=True)))
    features = corrupted(model, both, noise).features()
    mean, log_variance = _through(weights, "encoder", features.expand(stack.size, -1, -1)).chunk(2, dim=2)
    posterior = Gaussian(mean, torch.clamp(log_variance, *LOG_VARIANCE_RANGE))
    decoded = _through(weights, "decoder", posterior.at(noise.latent))
    left, right, at_exemplar, at_row = _of_latents(weights, posterior, n)
    if model.layout.d:
        numbers = _of_numbers(model, weights, (both.x - decoded[..., : model.layout.d]) * both.observed, rows.observed)
        left, right, at_row = left + numbers[0], right + numbers[1], at_row + numbers[2]
    at_exemplar = at_exemplar.masked_fill(closed, -NOT_ITS_OWN)
    fit = torch.baddbmm(at_exemplar[:, None], torch.cat(left, dim=2), torch.cat(right, dim=2).transpose(1, 2))
    if model.layout.c:
        matches, constant = _of_categories(model, weights, decoded[:, :n, model.layout.d :], rows, exemplars)
        fit, at_row = fit + matches, at_row + constant
    fit = fit.masked_fill(own, -NOT_ITS_OWN)
    score = at_row - torch.logsumexp(fit, dim=2) + math.log(fit.shape[2])
    return score, shrinkage_of(_log_variance(model, weights))


def _log_variance(model: TableVAE, weights: Weights) -> Tensor:
    numeric = model.likelihood.numeric
    if not isinstance(numeric, GaussianLikelihood) or not isinstance(model.prior, ExemplarPrior):
        raise TypeError("the model has no exemplar prior")
    return torch.clamp(weights["likelihood.numeric.free_log_variance"], min=numeric.floor)


def _through(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Rows ``(size, n, f)`` through the layers of a name, SiLU between them."""
    layers = sum(each.startswith(f"{name}.") for each in weights) // 2
    for layer in range(layers):
        bias, weight = weights[f"{name}.{2 * layer}.bias"], weights[f"{name}.{2 * layer}.weight"]
        x = torch.baddbmm(bias[:, None], x if layer == 0 else functional.silu(x), weight.transpose(1, 2))
    return x


def _of_latents(weights: Weights, posterior: Gaussian, n: int) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """The divergences of rows from exemplars: both sides of the product, what exemplars add, what rows add."""
    mean, log_variance = (part[:, n:] for part in posterior)
    log_variance = log_variance + torch.clamp(weights["prior.spread_logit"], *SPREAD_RANGE)[:, None]
    precision = torch.exp(-log_variance)
    carried = mean * precision
    of_rows = Gaussian(*(part[:, :n] for part in posterior))
    left = [torch.exp(of_rows.log_variance) + of_rows.mean.square(), of_rows.mean]
    return (
        left,
        [-0.5 * precision, carried],
        -0.5 * (mean * carried + log_variance).sum(dim=2),
        -0.5 * (of_rows.log_variance + 1.0).sum(dim=2),
    )


def _of_numbers(
    model: TableVAE, weights: Weights, residual: Tensor, observed: Tensor
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """What numbers cost: both sides of the product, and what the decoder alone charges."""
    size, n = residual.shape[0], observed.shape[0]
    log_variance = _log_variance(model, weights)[:, None]
    precision = torch.exp(-log_variance)
    carried = torch.sigmoid(weights["prior.carry_logit"])[:, None] * residual[:, n:]
    weighed, of_rows = carried * precision, residual[:, :n]
    free = 0.5 * (of_rows.square() * precision + (log_variance + LOG_2PI) * observed)
    return [of_rows, observed.expand(size, -1, -1)], [weighed, -0.5 * carried * weighed], free.sum(dim=2)


def _of_categories(
    model: TableVAE, weights: Weights, logits: Tensor, rows: Rows, exemplars: Rows
) -> tuple[Tensor, Tensor]:
    """Log mass that matches add, shape ``(size, n, E)``, and what the decoder alone charges, shape ``(size, n)``."""
    categorical = model.likelihood.categorical
    generated, copy_logit = categorical.cost(logits, rows), weights["prior.copy_logit"][:, None]
    delta = functional.softplus(copy_logit + generated) * rows.known
    free = generated + functional.softplus(copy_logit) * (rows.known + rows.unknown)
    return (rows.onehot * (delta @ categorical.blocks.T)) @ exemplars.onehot.T, free.sum(dim=2)
