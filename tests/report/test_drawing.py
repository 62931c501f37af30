"""Scales, ticks and histograms hold whatever numbers come."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from anomvae.report.curves import training_curves
from anomvae.report.histograms import Part, score_strips
from anomvae.report.latent import _projection
from anomvae.report.svg import Scale, labels, roomy, tag, thin
from anomvae.report.wording import number, share, short

NUMBERS = st.floats(-1e12, 1e12)


@given(NUMBERS, NUMBERS)
def test_ticks_lie_within_their_scale_ascend_and_have_texts_of_their_own(one: float, other: float) -> None:
    scale = Scale(*roomy(min(one, other), max(one, other)), 0.0, 100.0)
    ticks = scale.ticks()
    room = 1e-6 * (scale.high - scale.low)
    assert 2 <= len(ticks) <= 8
    assert all(scale.low - room <= tick <= scale.high + room for tick in ticks)
    assert ticks == sorted(set(ticks))
    assert len(labels(ticks)) == len(ticks)


@given(st.floats(1e-9, 1e9), st.floats(1.5, 1e9))
def test_logarithmic_ticks_lie_within_their_scale(low: float, times: float) -> None:
    scale = Scale(low, low * times, 0.0, 100.0, log=True)
    ticks = scale.ticks()
    assert ticks
    assert all(low * (1 - 1e-6) <= tick <= low * times * (1 + 1e-6) for tick in ticks)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=40), st.floats(allow_nan=True))
def test_histograms_draw_any_scores_with_any_threshold(values: list[float], threshold: float) -> None:
    figure = score_strips("Score", "nats", [Part("normal", "train", np.array(values))], threshold)
    assert (figure is None) == (not np.isfinite(values).any())
    if figure is not None:
        assert "nan" not in re.sub(r'aria-label="[^"]*"', "", str(figure.svg))


def test_rows_below_and_above_the_threshold_never_share_a_bar() -> None:
    values = np.array([0.0, 1.0, 2.0, 2.9999, 3.0, 3.0001, 5.0])
    figure = score_strips("Score", "nats", [Part("normal", "train", values)], 3.0)
    assert figure is not None
    assert "28.6" in str(figure.svg)
    quiet, loud = re.findall(r'<path d="([^"]*)" class="bar train(?: quiet)?"', str(figure.svg))
    assert loud.count("M") == 2
    assert quiet.count("M") >= 3


def test_the_best_check_is_the_one_with_the_lowest_validation_loss() -> None:
    figure = training_curves({"step": [10.0, 20, 30], "train_loss": [3.0, 2, 1], "validation_loss": [3.0, 1.5, 2]})
    assert figure is not None
    assert "Best validation loss 1.5 at step 20" in figure.caption


def test_texts_and_attributes_are_escaped() -> None:
    assert str(tag("text", "<b>", class_='"x"')) == '<text class="&#34;x&#34;">&lt;b&gt;</text>'


def test_thinning_keeps_the_ends() -> None:
    places = thin(np.arange(1000), 10)
    assert len(places) == 10
    assert (places[0], places[-1]) == (0, 999)


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_every_number_has_a_short_text(value: float) -> None:
    assert 1 <= len(number(value)) <= 12
    assert share(value)


@pytest.mark.parametrize("most", [2, 5, 60])
@given(text=st.text(max_size=120))
def test_short_texts_are_no_longer_than_asked(most: int, text: str) -> None:
    assert len(short(text, most)) <= most


def test_the_latent_picture_is_the_principal_component_analysis_of_scikit_learn() -> None:
    rng = np.random.default_rng(4)
    latent = rng.normal(size=(200, 6)) * np.array([5.0, 3.0, 1.0, 0.5, 0.2, 0.1]) + 7
    expected = PCA(2).fit(latent)
    project, _, words = _projection(latent)
    assert np.allclose(np.abs(project(latent)), np.abs(expected.transform(latent)))
    assert share(float(expected.explained_variance_ratio_.sum())) in words
