"""The field's autoencoders are configurations of the one model: each objective against one written out here."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional

from anomvae.errors import SettingError
from anomvae.vae.objective import Noise, corrupted, draw_noise, objective
from anomvae.vae.settings import ModelSettings

if TYPE_CHECKING:
    from torch import Tensor

    from anomvae.vae.model import TableVAE
    from anomvae.vae.preparation import Rows
    from tests.vae.conftest import MakeModel, MakeRaw

N, D, K = 16, 3, 2


def prepared(model: TableVAE, make_raw: MakeRaw) -> tuple[Tensor, Rows]:
    """The scaled numbers, computed here, and the rows."""
    numeric, codes = make_raw(model.layout, N)
    scaled = (numeric - torch.tensor(model.layout.offset)) / torch.tensor(model.layout.scale)
    rows: Rows = model.preparation(numeric, codes)
    return scaled, rows


def encoded(model: TableVAE, scaled: Tensor) -> Tensor:
    """The encoder's answer to rows of numbers without missing cells."""
    answer: Tensor = model.encoder(torch.cat([scaled, torch.zeros_like(scaled)], dim=1))
    return answer


def kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """As in Appendix B of Kingma and Welling."""
    return -0.5 * (1 + log_variance - mean.pow(2) - log_variance.exp()).sum(dim=1)


def noise_for(model: TableVAE, seed: int = 3) -> Noise:
    return draw_noise(model, N, torch.Generator().manual_seed(seed))


def make(make_model: MakeModel, **settings: Any) -> TableVAE:
    return make_model(D, **{"latent": K, **settings})


def test_a_vanilla_autoencoder_minimises_the_squared_error_and_nothing_else(
    make_model: MakeModel, make_raw: MakeRaw
) -> None:
    model = make(make_model, kind="autoencoder", likelihood="mse")
    scaled, rows = prepared(model, make_raw)
    reconstruction = model.decoder(encoded(model, scaled))
    wanted = 0.5 * D * (functional.mse_loss(reconstruction, scaled) + math.log(2 * math.pi))
    torch.testing.assert_close(objective(model, rows, noise_for(model)), wanted)
    assert torch.equal(objective(model, rows, noise_for(model, 3)), objective(model, rows, noise_for(model, 4)))


def test_a_denoising_autoencoder_reads_noise_and_is_asked_for_the_clean_row(
    make_model: MakeModel, make_raw: MakeRaw
) -> None:
    model = make(make_model, kind="denoising-autoencoder", likelihood="mse", input_noise=0.3)
    scaled, rows = prepared(model, make_raw)
    noise = noise_for(model)
    assert noise.numbers is not None
    reconstruction = model.decoder(encoded(model, scaled + 0.3 * noise.numbers))
    wanted = 0.5 * D * (functional.mse_loss(reconstruction, scaled) + math.log(2 * math.pi))
    torch.testing.assert_close(objective(model, rows, noise), wanted)
    assert not torch.equal(objective(model, rows, noise), objective(model, rows, noise_for(model, 4)))


@pytest.mark.parametrize(("settings", "beta"), [({"kind": "vae"}, 1.0), ({"kind": "beta-vae"}, 4.0)])
@pytest.mark.parametrize("likelihood", ["mse", "bernoulli"])
def test_a_vae_adds_its_divergence_weighted_by_beta(
    make_model: MakeModel, make_raw: MakeRaw, settings: dict[str, Any], beta: float, likelihood: str
) -> None:
    model = make(make_model, likelihood=likelihood, **settings)
    scaled, rows = prepared(model, make_raw)
    noise = noise_for(model)
    mean, log_variance = encoded(model, scaled).chunk(2, dim=1)
    log_variance = log_variance.clamp(-10, 5)
    reconstruction = model.decoder(mean + torch.exp(0.5 * log_variance) * noise.latent[0])
    if likelihood == "mse":
        error = 0.5 * D * (functional.mse_loss(reconstruction, scaled) + math.log(2 * math.pi))
    else:
        error = D * functional.binary_cross_entropy_with_logits(reconstruction, scaled)
    torch.testing.assert_close(objective(model, rows, noise), error + beta * kl(mean, log_variance).mean())


def test_a_vae_with_learnt_variances_minimises_the_gaussian_log_likelihood(
    make_model: MakeModel, make_raw: MakeRaw
) -> None:
    model = make(make_model, kind="vae", likelihood="gaussian")
    scaled, rows = prepared(model, make_raw)
    noise = noise_for(model)
    mean, log_variance = encoded(model, scaled).chunk(2, dim=1)
    reconstruction = model.decoder(mean + torch.exp(0.5 * log_variance.clamp(-10, 5)) * noise.latent[0])
    variance = torch.exp(dict(model.likelihood.named_parameters())["numeric.free_log_variance"]).expand(N, D)
    error = D * functional.gaussian_nll_loss(reconstruction, scaled, variance, full=True)
    torch.testing.assert_close(objective(model, rows, noise), error + kl(mean, log_variance.clamp(-10, 5)).mean())


def test_an_autoencoder_of_categories_minimises_the_cross_entropy(make_model: MakeModel, make_raw: MakeRaw) -> None:
    model = make_model(0, (4,), kind="autoencoder", latent=K)
    numeric, codes = make_raw(model.layout, N)
    rows: Rows = model.preparation(numeric, codes)
    onehot = functional.one_hot(codes[:, 0], 4).float()
    logits = model.decoder(model.encoder(torch.cat([onehot, torch.zeros(N, 1)], dim=1)))
    wanted = functional.cross_entropy(20 * torch.tanh(logits / 20), codes[:, 0]) - math.log1p(
        -model.layout.unknown_mass
    )
    torch.testing.assert_close(objective(model, rows, noise_for(model)), wanted)


def test_gradients_are_those_of_the_written_out_objective(make_model: MakeModel, make_raw: MakeRaw) -> None:
    model = make(make_model, kind="beta-vae", likelihood="mse", beta=2.5)
    scaled, rows = prepared(model, make_raw)
    noise = noise_for(model)
    mean, log_variance = encoded(model, scaled).chunk(2, dim=1)
    reconstruction = model.decoder(mean + torch.exp(0.5 * log_variance) * noise.latent[0])
    written = 0.5 * (reconstruction - scaled).square().sum(dim=1).mean() + 2.5 * kl(mean, log_variance).mean()
    parameters = [*model.encoder.parameters(), *model.decoder.parameters()]
    wanted = torch.autograd.grad(written, parameters)
    found = torch.autograd.grad(objective(model, rows, noise), parameters)
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_a_cell_hidden_in_training_is_kept_from_the_encoder_but_still_asked_for(
    make_model: MakeModel, make_raw: MakeRaw
) -> None:
    model = make_model(D, (3,), kind="autoencoder", likelihood="mse", latent=K, mask_rate=0.9)
    numeric, codes = make_raw(model.layout, N)
    rows: Rows = model.preparation(numeric, codes)
    hidden = torch.zeros(N, D + 1, dtype=torch.bool)
    hidden[:, 0] = hidden[:, D] = True
    noise = Noise(torch.zeros(1, N, K), None, hidden)
    seen = corrupted(model, rows, noise)
    assert (seen.x[:, 0] == 0).all()
    assert (seen.onehot == 0).all()
    features = seen.features()
    assert (features[:, D] == 1).all()  # the mask says that the number is gone
    assert (features[:, -1] == 1).all()
    torch.testing.assert_close(features[:, 1:D], rows.x[:, 1:])
    other = rows._replace(x=rows.x + torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(corrupted(model, other, noise).features(), features)
    assert not torch.isclose(objective(model, rows, noise), objective(model, other, noise))


def test_masking_hides_about_the_stated_share_of_cells(make_model: MakeModel) -> None:
    model = make_model(10, (3, 3), mask_rate=0.2)
    hidden = draw_noise(model, 4000, torch.Generator().manual_seed(0)).hidden
    assert hidden is not None
    assert hidden.shape == (4000, 12)
    assert hidden.float().mean().item() == pytest.approx(0.2, abs=0.02)


def test_nothing_is_drawn_that_the_settings_do_not_ask_for(make_model: MakeModel) -> None:
    noise = noise_for(make(make_model, kind="vae"))
    assert noise.numbers is None
    assert noise.hidden is None
    assert noise.latent.shape == (1, N, K)


def test_input_noise_leaves_missing_cells_missing(make_model: MakeModel, make_raw: MakeRaw) -> None:
    model = make(make_model, kind="denoising-autoencoder")
    numeric, codes = make_raw(model.layout, N)
    numeric[:, 1] = torch.nan
    rows: Rows = model.preparation(numeric, codes)
    seen = corrupted(model, rows, noise_for(model))
    assert (seen.x[:, 1] == 0).all()
    assert (seen.observed[:, 1] == 0).all()
    assert not torch.equal(seen.x[:, 0], rows.x[:, 0])


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"kind": "gan"}, "model.kind"),
        ({"likelihood": "poisson"}, "model.likelihood"),
        ({"layers": ()}, "model.layers"),
        ({"layers": (8, 0)}, "model.layers"),
        ({"latent": 0}, "model.latent"),
        ({"beta": -1.0}, "model.beta"),
        ({"beta": math.nan}, "model.beta"),
        ({"beta": math.inf}, "model.beta"),
        ({"kind": "autoencoder", "beta": 1.0}, "model.beta"),
        ({"input_noise": -0.1}, "model.input_noise"),
        ({"input_noise": math.nan}, "model.input_noise"),
        ({"mask_rate": 1.0}, "model.mask_rate"),
        ({"mask_rate": math.nan}, "model.mask_rate"),
        ({"score_draws": 0}, "model.score_draws"),
        ({"score_draws": 257}, "model.score_draws"),
    ],
)
def test_settings_that_make_no_model_are_refused_by_name(settings: dict[str, Any], names: str) -> None:
    with pytest.raises(SettingError, match=names):
        ModelSettings(**settings)
