"""Scores of windows: scaling by asset, time scales, what each channel adds, missing steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anomvae.vae.autoregression import Autoregression
from anomvae.vae.convolution import ConvolutionalVAE, ConvolutionSettings
from anomvae.vae.discords import WindowExemplars
from anomvae.vae.layout import Layout
from anomvae.vae.model import TableVAE
from anomvae.vae.scores import RowScorer
from anomvae.vae.series import SeriesPreparation, SeriesScorer, time_scales
from anomvae.vae.settings import ModelSettings

if TYPE_CHECKING:
    from torch import Tensor

WINDOW, CHANNELS = 16, 3
CENTRE = torch.tensor([[0.0, 1.0, 2.0], [10.0, 11.0, 12.0], [5.0, 6.0, 7.0]])
SPREAD = torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [6.0, 6.0, 6.0]])
MEMBERS = ("both", "row", "window")


def forecast(order: int = 4) -> Autoregression:
    """Coefficients drawn from the seed that is set."""
    kernel = 0.3 * torch.randn(CHANNELS, CHANNELS, order)
    return Autoregression(
        kernel,
        torch.randn(CHANNELS),
        0.1 + torch.rand(CHANNELS),
        1.0 + torch.rand(CHANNELS),
        torch.full((CHANNELS,), 20.0),
    )


def make(members: str = "both") -> SeriesScorer:
    """Weights drawn from a seed, and spreads that are not the same for all."""
    torch.manual_seed(1)
    network = ConvolutionalVAE(CHANNELS, WINDOW, ConvolutionSettings(width=8, latent=2))
    torch.nn.init.normal_(network.leave.weight)
    layout = Layout((0.0,) * CHANNELS, (1.0,) * CHANNELS, (False,) * CHANNELS, (), (), 0.01)
    row = RowScorer(TableVAE(layout, ModelSettings(layers=(8,), latent=2, prior="normal")))
    scorer = SeriesScorer(
        SeriesPreparation(CENTRE, SPREAD),
        row if members != "window" else None,
        None,
        network if members != "row" else None,
        WINDOW,
        None if members == "row" else WindowExemplars(torch.randn(20, WINDOW, CHANNELS)),
        None if members == "row" else forecast(),
    )
    if members != "row":
        scorer.trust({"window": 0.9, "distance": 0.8}, 0.09)
        scorer.distance_centre.fill_(0.6)
        scorer.distance_spread.fill_(0.3)
    n = len(scorer.members)
    scorer.member_centre.copy_(torch.tensor([3.0, 5.0, 1.0])[:n])
    scorer.member_spread.copy_(torch.tensor([1.5, 4.0, 2.0])[:n])
    scorer.scale_centre.copy_(torch.tensor([0.1, 0.2, 0.3]))
    scorer.scale_spread.copy_(torch.tensor([1.0, 0.7, 0.4]))
    return scorer.eval()


def windows(n: int = 6, spoilt: bool = True) -> tuple[Tensor, Tensor]:
    """Windows of all assets and of unknown ones; the later with missing, far and infinite cells, and missing steps."""
    torch.manual_seed(2)
    asset = torch.arange(n) % 4 - 1
    series = 3.0 * torch.randn(n, WINDOW, CHANNELS) + 5.0
    if spoilt:
        series[1:][torch.rand(n - 1, WINDOW, CHANNELS) < 0.2] = torch.nan
        series[2, 3, 1], series[2, 5, 0], series[2, -1, 2] = torch.inf, -torch.inf, 1e30
        series[3, 4:6] = torch.nan
        series[4, -1] = torch.nan
        series[5] = torch.nan
    return series, asset


# --- scaling


def test_each_asset_is_scaled_by_its_own_and_strangers_by_all() -> None:
    preparation = SeriesPreparation(CENTRE, SPREAD)
    for asset, row in ((0, 0), (1, 1), (2, 2), (7, 2), (-1, 2)):
        series = (CENTRE[row] + 2 * SPREAD[row]).reshape(1, 1, CHANNELS)
        scaled, mask = preparation(series, torch.tensor([asset]))
        torch.testing.assert_close(scaled, torch.full((1, 1, CHANNELS), 3.0).log())
        assert (mask == 1).all()


@given(st.floats(-1e6, 1e6, width=32), st.integers(-1, 3))
def test_scaling_can_be_undone(value: float, asset: int) -> None:
    preparation, number = SeriesPreparation(CENTRE, SPREAD), torch.tensor([asset])
    scaled, _ = preparation(torch.full((1, 1, CHANNELS), value), number)
    torch.testing.assert_close(
        preparation.raw(scaled, number), torch.full((1, 1, CHANNELS), value), rtol=1e-4, atol=1e-3
    )


def test_deviations_in_raw_units_are_the_slope_of_the_scaling() -> None:
    preparation, number = SeriesPreparation(CENTRE, SPREAD), torch.tensor([1])
    values = torch.linspace(-2, 2, 4)[:, None].expand(1, 4, CHANNELS) + 0.05
    step = 1e-3
    wanted = (preparation.raw(values + step, number) - preparation.raw(values - step, number)) / (2 * step)
    found = preparation.raw_deviation(values, torch.ones(CHANNELS), number)
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2)


# --- scores


@pytest.mark.parametrize("members", MEMBERS)
@torch.no_grad()
def test_contributions_and_the_rest_sum_to_the_score(members: str) -> None:
    told = make(members)(*windows())
    torch.testing.assert_close(told.contribution.sum(1) + told.latent_contribution, told.score)


@torch.no_grad()
def test_a_channel_far_off_adds_most() -> None:
    scorer = make()
    series, asset = windows(spoilt=False)
    series = CENTRE[2].expand_as(series).clone()
    series[:, -1, 1] += 1e4
    told = scorer(series, asset)
    assert (told.contribution.argmax(1) == 1).all()
    assert (told.step_contribution[:, -1].argmax(1) == 1).all()


@pytest.mark.parametrize("members", MEMBERS)
@torch.no_grad()
def test_all_answers_are_finite_whatever_is_missing_or_infinite(members: str) -> None:
    told = make(members)(*windows())
    for name, values in told._asdict().items():
        assert torch.isfinite(values).all(), name


@torch.no_grad()
def test_the_newest_step_is_judged_by_means_over_its_past() -> None:
    """The score by hand: evidence of each step, its means over 1, 2 and 16 observed steps, each in spreads; and the distance."""
    scorer = make()
    series, asset = windows()
    evidence, observed = scorer.evidence(series, asset)
    wanted = []
    for step, seen in zip(evidence, observed, strict=True):
        levels = []
        for scale, centre, spread in zip((1, 2, 16), scorer.scale_centre, scorer.scale_spread, strict=True):
            newest = step[-scale:][seen[-scale:] > 0]
            mean = newest.mean() if len(newest) else torch.tensor(0.0)
            levels.append((mean - centre) / spread)
        wanted.append(torch.stack(levels).mean())
    assert scorer.exemplars is not None
    far = (scorer.exemplars(*scorer.preparation(series, asset)).distance - 0.6) / 0.3
    odds = 0.6 / 0.4 / 3
    torch.testing.assert_close(scorer(series, asset).score, (torch.stack(wanted) + odds * far) / (1 + odds))


@torch.no_grad()
def test_from_both_sides_the_window_counts_twice() -> None:
    scorer = make("row")
    series, asset = windows(spoilt=False)
    evidence, _ = scorer.evidence(series, asset)
    t, levels = 7, []
    for scale, reach, centre, spread in zip(
        (1, 2, 16), (0, 1, 16), scorer.scale_centre, scorer.scale_spread, strict=True
    ):
        around = evidence[:, max(0, t - reach) : t + reach + 1] if scale < WINDOW else evidence
        levels.append((around.mean(1) - centre) / spread)
    torch.testing.assert_close(scorer(series, asset).step_score[:, t], (levels[0] + levels[1] + 2 * levels[2]) / 4)


@torch.no_grad()
def test_the_distance_is_told_cell_by_cell() -> None:
    scorer = make("window")
    series, asset = windows(spoilt=False)
    scorer.trust({"window": 0.5, "distance": 1.0})  # nine of ten parts
    whole = scorer(series, asset)
    scorer.trust({"window": 0.5, "distance": 0.5})
    rest = scorer(series, asset)
    assert scorer.exemplars is not None
    distance = scorer.exemplars(*scorer.preparation(series, asset)).distance
    share = 3.0 / 4.0  # nine time scales' worth beside three
    apart = whole.step_contribution - (1 - share) * rest.step_contribution
    torch.testing.assert_close(apart.sum(2).mean(1), share * distance / 0.3, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(whole.step_score - (1 - share) * rest.step_score, (share * (distance - 0.6) / 0.3)[:, None].expand(-1, WINDOW), rtol=1e-4, atol=1e-4)  # fmt: skip


def test_judges_count_by_what_they_tell_of_the_order_of_steps() -> None:
    scorer = make()
    scorer.trust({"window": 0.75, "distance": 0.75}, 0.16)
    torch.testing.assert_close(scorer.weights, torch.tensor([1.0, 0.25, 0.4]) / 1.65)
    scorer.trust({"window": 0.75, "distance": 0.75}, 0.9)  # never more than half of the judge of single steps
    torch.testing.assert_close(scorer.weights, torch.tensor([1.0, 0.25, 0.5]) / 1.75)
    torch.testing.assert_close(scorer.distance_weight, torch.tensor(1 / 3))
    scorer.trust({"window": 0.4, "distance": 0.3})
    torch.testing.assert_close(scorer.weights, torch.tensor([1.0, 0.0, 0.0]), rtol=0, atol=1e-5)
    assert scorer.distance_weight == 0
    scorer.trust({"window": 1.0, "distance": 1.0})
    torch.testing.assert_close(scorer.weights, torch.tensor([0.5, 0.5, 0.0]), rtol=0, atol=1e-5)
    assert scorer.distance_weight == 3
    without_steps = make("window")
    without_steps.trust({"window": 0.6, "distance": 0.5}, 0.9)  # a forecast alone would take lasting changes for normal
    torch.testing.assert_close(without_steps.weights, torch.tensor([1.0, 0.5]) / 1.5)
    alone = make("row")
    alone.trust({"window": 1.0, "distance": 1.0})
    assert alone.weights.tolist() == [1.0]
    assert alone.distance_weight == 0


@torch.no_grad()
def test_what_lies_far_out_is_drawn_in_by_a_square_root_and_the_rest_is_left() -> None:
    scorer = make("row")
    series, asset = windows(spoilt=False)
    costs, _ = scorer.member_costs(series, asset)
    plain = (costs[0] - scorer.member_centre[0]) / scorer.member_spread[0]
    wanted = torch.where(plain > 0, (1 + 2 * plain.clamp(min=0)).sqrt() - 1, plain)
    torch.testing.assert_close(scorer.evidence(series, asset)[0], wanted)


@torch.no_grad()
def test_steps_without_the_past_of_a_forecast_are_judged_by_the_others() -> None:
    scorer = make()
    series, asset = windows(spoilt=False)
    costs, _ = scorer.member_costs(series, asset)
    apart = (costs - scorer.member_centre[:, None, None]) / scorer.member_spread[:, None, None]
    weights = torch.tensor([1.0, 0.64, 0.3])
    for t, judges in ((0, 2), (3, 2), (4, 3), (WINDOW - 1, 3)):
        plain = (apart[:judges, :, t] * weights[:judges, None]).sum(0) / weights[:judges].sum()
        wanted = torch.where(plain > 0, (1 + 2 * plain.clamp(min=0)).sqrt() - 1, plain)
        torch.testing.assert_close(scorer.evidence(series, asset)[0][:, t], wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_forecast_is_no_part_of_the_reconstruction() -> None:
    scorer = make()
    series, asset = windows()
    before = scorer(series, asset)
    assert scorer.forecast is not None
    scorer.forecast.bias += 3.0
    after = scorer(series, asset)
    torch.testing.assert_close(after.step_error, before.step_error)
    assert not torch.equal(after.expected, before.expected)


@torch.no_grad()
def test_contributions_hold_still_where_the_evidence_is_nearly_nothing() -> None:
    """Just above zero a square root less one has no digits left; the share that is kept must not come from it."""
    scorer = make("window")
    series, asset = windows(1, spoilt=False)
    costs, _ = scorer.member_costs(series, asset)
    told = []
    for above in (1e-6, -1e-6):
        scorer.member_centre.copy_(costs[:, 0, -1] - above * scorer.member_spread)
        told.append(scorer(series, asset).contribution)
    torch.testing.assert_close(told[0], told[1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_missing_steps_leave_the_means() -> None:
    """An empty step has no evidence of its own; those around it speak for it."""
    scorer = make()
    series, asset = windows()
    _, observed = scorer.evidence(series, asset)
    assert observed[3, 4:6].tolist() == [0.0, 0.0]
    told = scorer(series, asset)
    assert (told.step_error[3, 4:6] == 0).all()
    assert told.reconstruction_error[4] == 0


@torch.no_grad()
def test_a_window_is_scored_alone_as_among_others() -> None:
    scorer = make()
    series, asset = windows()
    together = scorer(series, asset)
    for k in range(len(series)):
        for name, values in scorer(series[k : k + 1], asset[k : k + 1])._asdict().items():
            torch.testing.assert_close(values[0], getattr(together, name)[k], msg=name, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_no_windows_give_no_answers() -> None:
    told = make()(torch.zeros(0, WINDOW, CHANNELS), torch.zeros(0, dtype=torch.int64))
    assert told.score.shape == (0,)
    assert told.step_contribution.shape == (0, WINDOW, CHANNELS)


@torch.no_grad()
def test_the_last_step_of_a_window_knows_its_past_alone() -> None:
    """A step's own score looks both ways: a strange step raises those before it as those after it."""
    scorer = make("row")
    series = CENTRE[0].expand(1, WINDOW, CHANNELS).clone()
    asset = torch.zeros(1, dtype=torch.int64)
    usual = scorer(series, asset).step_score[0]
    series[0, 8] += 1e3
    raised = scorer(series, asset).step_score[0] - usual
    assert (raised > 0).all()
    torch.testing.assert_close(raised[7], raised[9])
    assert raised[8] > raised[9] > raised[12]


def test_short_windows_have_fewer_time_scales() -> None:
    assert time_scales(2) == (1, 2)
    assert time_scales(8) == (1, 8)
    assert time_scales(64) == (1, 8, 64)
