"""The fitted tails: drawn where they were fitted and have a say, with what they cannot promise."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from anomvae.calibration import fit_tail
from anomvae.report import ReportContents, render
from anomvae.report.tails import tail_figures, tail_notes
from anomvae.report.trust import checks

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomvae.report.svg import Figure

    Make = Callable[..., ReportContents]


def figures(contents: ReportContents) -> list[Figure]:
    return tail_figures(contents.tails, contents.manifest.calibration)


@pytest.mark.parametrize(("decision", "drawn"), [("elbo", 1), ("reconstruction", 1), ("both", 2)])
def test_tails_of_deciding_scores_are_drawn(make_contents: Make, decision: str, drawn: int) -> None:
    contents = make_contents(tail=True, decision=decision)
    assert len(figures(contents)) == drawn
    assert contents.tails is not None
    html = render(contents)
    assert html.count("Tail of the") >= drawn
    assert ("Tail of the score" in html) == (decision != "reconstruction")
    assert "extrapolation without guarantee" in html


def test_without_a_tail_nothing_speaks_of_one(make_contents: Make) -> None:
    html = render(make_contents())
    assert "Pareto" not in html
    assert "Tail of the" not in html


def test_every_exceedance_is_a_dot_and_a_good_fit_lies_on_the_line(make_contents: Make) -> None:
    contents = make_contents(tail=True)
    facts = contents.manifest.calibration
    exponential = fit_tail(-np.log((np.arange(1, 1201) - 0.5) / 1200))
    (figure,) = tail_figures((exponential, exponential), facts)
    places = np.array(re.findall(r"M([\d.]+) ([\d.]+)h0", str(figure.svg)), dtype=float)
    assert len(places) == exponential.exceedances
    x, y = (places[:, 0] - 58) / 448, (302 - places[:, 1]) / 268
    assert np.median(np.abs(x - y)) < 0.02


@pytest.mark.parametrize(
    ("power", "words"),
    [(2.0, "lighter than exponential"), (1.0, "about exponential"), (-1.0, "heavier than exponential")],
)
def test_the_shape_is_said_in_words(make_contents: Make, power: float, words: str) -> None:
    survival = (np.arange(1, 20_001) - 0.5) / 20_000
    scores = {2.0: 1.0 - survival**0.5, 1.0: -np.log(survival), -1.0: survival**-0.5}[power]
    fit = fit_tail(scores)
    (figure,) = tail_figures((fit, fit), make_contents(tail=True).manifest.calibration)
    assert words in figure.caption
    assert ("ending at" in figure.caption) == (words == "lighter than exponential")


def test_a_bad_fit_is_said_to_be_one_and_fails_its_check(make_contents: Make) -> None:
    contents = make_contents(tail=True)
    assert contents.tails is not None
    good = dataclasses.replace(contents, tails=(dataclasses.replace(contents.tails[0], ks_p=0.4), contents.tails[1]))
    bad = dataclasses.replace(contents, tails=(dataclasses.replace(contents.tails[0], ks_p=0.005), contents.tails[1]))
    for asked, level, words in ((good, "good", "nothing speaks against"), (bad, "look", "do not trust rates")):
        assert next(check for check in checks(asked) if "tail" in check.claim).level == level
        assert words in figures(asked)[0].caption


def test_scores_without_a_tail_to_learn_are_said_to_have_none(make_contents: Make) -> None:
    contents = make_contents(tail=True)
    flat = fit_tail(np.repeat([1.0, 2.0], 600))
    assert flat.scale == 0
    facts = contents.manifest.calibration
    assert tail_figures((flat, flat), facts) == []
    assert any("No tail could be fitted to the score" in note for note in tail_notes((flat, flat), facts))
    assert "Rates that counting does not reach never alarm" in render(dataclasses.replace(contents, tails=(flat, flat)))


def test_the_threshold_of_an_extrapolated_rate_is_that_of_the_bundle_with_its_interval(make_contents: Make) -> None:
    for confidence in (None, 0.9):
        contents = make_contents(tail=True, rate=1e-4, confidence=confidence)
        caption = figures(contents)[0].caption
        threshold = contents.manifest.calibration.score_threshold
        found = re.search(r"puts the threshold at ([\d.]+); .* from ([\d.]+) to ([\d.]+)", caption)
        assert found is not None
        at, low, high = map(float, found.groups())
        assert at == pytest.approx(threshold, rel=0.01)
        assert low < at < high
        assert "needs it" in tail_notes(contents.tails, contents.manifest.calibration)[0]


def test_a_rate_that_counting_reaches_is_given_no_threshold_by_the_tail(make_contents: Make) -> None:
    contents = make_contents(tail=True)
    assert "puts the threshold" not in figures(contents)[0].caption
    assert "does not need it" in tail_notes(contents.tails, contents.manifest.calibration)[0]
