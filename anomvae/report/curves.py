"""Curves: the loss during training, and how labelled anomalies rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anomvae.report.svg import Figure, Scale, drawing, finite, line, roomy, tag, thin, x_axis, y_axis
from anomvae.report.wording import count, number, share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup

    from anomvae.report.contents import FloatArray
    from anomvae.report.measures import Ranking, Share

_LEFT, _RIGHT, _TOP, _FLOOR, _HEIGHT = 58.0, 506.0, 34.0, 282.0, 326.0
_MOST_CURVE = 400


def training_curves(curves: Mapping[str, Sequence[float]]) -> Figure | None:
    """Training and validation loss over steps, the best validation loss marked; None where nothing was recorded."""
    lines = {
        name: np.asarray(curves.get(f"{name}_loss", ()), dtype=np.float64).ravel() for name in ("train", "validation")
    }
    known = [values for values in lines.values() if len(finite(values))]
    if not known:
        return None
    unit = next((name for name in ("step", "epoch") if len(curves.get(name, ())) >= max(map(len, known))), "check")
    checks = np.asarray(curves.get(unit, range(1, max(map(len, known)) + 1)), dtype=np.float64)
    checks = np.where(np.isfinite(checks), checks, np.arange(len(checks)))
    x = Scale(*roomy(float(checks.min()), float(checks.max())), _LEFT, _RIGHT)
    y, hidden = _loss_scale(known)
    marks = [x_axis(x, _FLOOR, unit), y_axis(y, _LEFT, "loss", _RIGHT)]
    legend = []
    for name, values in lines.items():
        good = np.isfinite(values)
        if good.any():
            places = thin(np.flatnonzero(good), _MOST_CURVE)
            marks.append(line(x(checks[places]), y(np.clip(values[places], -1e100, 1e100)), name))
            legend.append((name, name))
    words = []
    validation = lines["validation"]
    if np.isfinite(validation).any():
        best = int(np.nanargmin(np.where(np.isfinite(validation), validation, np.nan)))
        at, level = float(x(checks[best])), float(y(validation[best]))
        marks.append(tag("line", x1=at, x2=at, y1=_TOP, y2=_FLOOR, class_="best"))
        marks.append(tag("circle", cx=at, cy=level, r=4.5, class_="best-dot"))
        words.append(f"Best validation loss {number(float(validation[best]))} at {unit} {number(float(checks[best]))}.")
        legend.append(("best", "best validation loss"))
    if hidden:
        words.append(f"{count(hidden, 'early value')} above the frame {'is' if hidden == 1 else 'are'} cut off.")
    caption = " ".join(words)
    return Figure(
        "Loss during training",
        drawing(*marks, height=_HEIGHT, says=f"Training and validation loss. {caption}"),
        caption,
        tuple(legend),
    )


def _loss_scale(lines: Sequence[FloatArray]) -> tuple[Scale, int]:
    """A scale on which the end of training can be seen, and how many values lie above it."""
    pooled = np.concatenate([finite(values) for values in lines])
    low, high = float(pooled.min()), float(pooled.max())
    upper = float(np.quantile(pooled, 0.75))
    far = 8
    if high - low > far * (upper - low) > 0:
        high = upper + (upper - low)
    low, high = roomy(low, high)
    room = 0.05 * (high - low)
    return Scale(low - room, high + room, _FLOOR, _TOP), int((pooled > high + room).sum())


def roc(curves: Mapping[str, Ranking], false_alarms: Share, found: Share) -> Figure:
    """ROC curves by score, with the verdict as a point.

    Args:
        curves: Rankings by style class: `elbo`, `reconstruction`.
        false_alarms: Alarms among normal rows.
        found: Alarms among labelled anomalies.
    """
    x, y = Scale(0.0, 1.0, _LEFT, _RIGHT), Scale(0.0, 1.0, _FLOOR + 60, _TOP)
    marks = [x_axis(x, _FLOOR + 60, "false-alarm rate", grid_top=_TOP), y_axis(y, _LEFT, "anomalies found", _RIGHT)]
    marks.append(tag("line", x1=x.start, y1=y.start, x2=x.end, y2=y.end, class_="expected"))
    for style, ranking in curves.items():
        places = thin(np.arange(len(ranking.found)), _MOST_CURVE)
        marks.append(line(x(ranking.false_alarms[places]), y(ranking.found[places]), style))
    marks.append(_verdict(float(x(false_alarms.value)), float(y(found.value))))
    words = ", ".join(f"{_SCORES[style]} {ranking.auroc:.3f}" for style, ranking in curves.items())
    caption = f"Area under the curve: {words}. The dot is the verdict at its threshold; the dashed line is chance."
    return Figure(
        "ROC: anomalies found against false alarms",
        drawing(*marks, height=_HEIGHT + 60, says=f"ROC curves. {caption}"),
        caption,
        (*((style, _SCORES[style]) for style in curves), ("verdict", "verdict")),
    )


def precision_recall(curves: Mapping[str, Ranking], false_alarms: Share, found: Share) -> Figure:
    """Precision-recall curves by score, with the verdict as a point; arguments as of `roc`."""
    x, y = Scale(0.0, 1.0, _LEFT, _RIGHT), Scale(0.0, 1.0, _FLOOR + 60, _TOP)
    marks = [x_axis(x, _FLOOR + 60, "anomalies found (recall)", grid_top=_TOP), y_axis(y, _LEFT, "precision", _RIGHT)]
    chance = found.n / (found.n + false_alarms.n)
    marks.append(tag("line", x1=x.start, y1=float(y(chance)), x2=x.end, y2=float(y(chance)), class_="expected"))
    for style, ranking in curves.items():
        places = thin(np.arange(len(ranking.recall)), _MOST_CURVE)
        marks.append(line(x(ranking.recall[places]), y(ranking.precision[places]), style))
    alarms = found.hits + false_alarms.hits
    if alarms:
        marks.append(_verdict(float(x(found.value)), float(y(found.hits / alarms))))
    words = ", ".join(f"{_SCORES[style]} {ranking.average_precision:.3f}" for style, ranking in curves.items())
    caption = (
        f"Average precision: {words}. Precision depends on how many anomalies there are: here {share(chance)} of the "
        "rows compared (dashed line), in service surely fewer."
    )
    return Figure(
        "Precision and recall",
        drawing(*marks, height=_HEIGHT + 60, says=f"Precision-recall curves. {caption}"),
        caption,
        (*((style, _SCORES[style]) for style in curves), ("verdict", "verdict")),
    )


_SCORES = {"elbo": "score", "reconstruction": "reconstruction error"}


def _verdict(x: float, y: float) -> Markup:
    return tag("circle", cx=x, cy=y, r=5.5, class_="verdict-dot")
