"""The fitted tails: how well they fit, and how far the extrapolation is to be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anomvae.report.promise import is_extrapolated
from anomvae.report.rates import Steps
from anomvae.report.svg import Figure, Scale, dots, drawing, roomy, tag, thin, x_axis, y_axis
from anomvae.report.wording import count, number, p_value, rate

if TYPE_CHECKING:
    from anomvae.bundle import Calibration
    from anomvae.calibration import TailFit

_LEFT, _RIGHT, _TOP, _FLOOR, _HEIGHT = 58.0, 506.0, 34.0, 302.0, 346.0
_MOST_DOTS = 600
_BAD_FIT, _EXPONENTIAL = 0.05, 0.05


def tail_figures(tails: tuple[TailFit, TailFit] | None, facts: Calibration) -> list[Figure]:
    """Quantiles of the fitted tails against those observed, of the scores that have a say in the verdict."""
    if tails is None:
        return []
    wanted = {"elbo": (0,), "reconstruction": (1,)}.get(facts.decision, (0, 1))
    names = ("score, nats", "reconstruction error, scaled units")
    return [_figure(tails[side], names[side], facts) for side in wanted if tails[side].scale > 0]


def tail_notes(tails: tuple[TailFit, TailFit] | None, facts: Calibration) -> list[str]:
    """What stands over the figures: that it is an extrapolation, what it is used for, and where none could be fitted."""
    if tails is None:
        return []
    counted = Steps.of(facts).smallest
    use = (
        f"The stated rate of {rate(facts.alarm_rate)} needs it: {count(facts.rows, 'row')} reach {rate(counted)} by counting."
        if is_extrapolated(facts)
        else f"The stated rate of {rate(facts.alarm_rate)} does not need it; rates below {rate(counted)} do."
    )
    notes = [
        f"Beyond the strangest calibration row nothing was seen: p-values there come from a generalised Pareto tail. This is an "
        f"extrapolation without guarantee. {use}"
    ]
    if facts.groups:
        notes.append("Groups with thresholds of their own have no tail: their rows never alarm at rates that need one.")
    deciding = {"elbo": (0,), "reconstruction": (1,)}.get(facts.decision, (0, 1))
    notes += [
        f"No tail could be fitted to the {('score', 'reconstruction error')[side]}: too few different values lie at its upper "
        "end, or some are infinite. Rates that counting does not reach never alarm by it."
        for side in deciding
        if not tails[side].scale > 0
    ]
    return notes


def _figure(fit: TailFit, name: str, facts: Calibration) -> Figure:
    expected, observed = fit.quantiles()
    low, high = roomy(fit.threshold, float(max(expected[-1], observed[-1])))
    x, y = Scale(low, high, _LEFT, _RIGHT), Scale(low, high, _FLOOR, _TOP)
    shown = thin(np.arange(len(observed)), _MOST_DOTS)
    title = f"Tail of the {name.partition(',')[0]}: expected against found"
    marks = [
        x_axis(x, _FLOOR, f"{name}, as the tail expects it", grid_top=_TOP),
        y_axis(y, _LEFT, "as found", _RIGHT),
        tag("line", x1=x.start, y1=y.start, x2=x.end, y2=y.end, class_="expected"),
        dots(x(expected[shown]), y(observed[shown]), "rank2"),
    ]
    caption = f"{_fit_words(fit)} {_reach_words(fit, facts)}".strip()
    return Figure(title, drawing(*marks, height=_HEIGHT, says=f"{title}. {caption}"), caption)


def _fit_words(fit: TailFit) -> str:
    """Threshold, shape and goodness of fit."""
    if abs(fit.shape) < _EXPONENTIAL:
        shape = "about exponential"
    elif fit.shape > 0:
        shape = "heavier than exponential: far scores are to be expected"
    else:
        shape = f"lighter than exponential, ending at {number(fit.threshold - fit.scale / fit.shape)}"
    fits = (
        "the tail does not fit; do not trust rates that rest on it"
        if fit.ks_p < _BAD_FIT
        else "nothing speaks against the fit"
    )
    return (
        f"Fitted to the {count(fit.exceedances, 'row')} above {number(fit.threshold)}. Shape {number(fit.shape)}, {shape}. "
        f"Kolmogorov-Smirnov p = {p_value(fit.ks_p)}: {fits}. Points on the dashed line fit."
    )


def _reach_words(fit: TailFit, facts: Calibration) -> str:
    """The threshold of the stated rate with its interval; nothing where the rate does not rest on the tail."""
    if not is_extrapolated(facts):
        return ""
    asked = facts.alarm_rate / 2.0 if facts.decision == "both" else facts.alarm_rate
    share = Steps.of(facts).tables[-1][1][fit.exceedances]  # a confidence puts it higher than the fit does
    meant = asked * fit.share / float(share)
    if not fit.smallest_rate <= meant <= fit.share:
        return ""
    low, high = fit.interval(meant)
    half = ", half of the stated rate" if facts.decision == "both" else ""
    return (
        f"At {rate(asked)}{half}, it puts the threshold at {number(fit.score_at(meant))}; by its own scatter alone, anywhere from "
        f"{number(low)} to {number(high)} (90\N{NARROW NO-BREAK SPACE}%)."
    )
