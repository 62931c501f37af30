"""The latent space: where rows lie in it, and how much each dimension tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from anomvae.report.svg import Figure, Scale, crosses, dots, drawing, roomy, tag, thin, x_axis, y_axis
from anomvae.report.wording import count, number, share

if TYPE_CHECKING:
    import numpy.typing as npt

    from anomvae.report.contents import FloatArray, ScoredRows
    from anomvae.vae.diagnostics import LatentUse

_LEFT, _RIGHT, _TOP = 58.0, 506.0, 34.0
_MOST_POINTS = 3000
_LEAST_NATS = 0.05


def latent_picture(normal: ScoredRows, labelled: ScoredRows | None) -> Figure | None:
    """Rows in the latent plane, darker for stranger ones; labelled anomalies as crosses.

    With more than two dimensions: the two principal components of the normal rows' posterior means. With one: a strip.

    Args:
        normal: Normal rows.
        labelled: Labelled anomalies, if any.
    """
    good = np.isfinite(normal.latent).all(axis=1) & np.isfinite(normal.score)
    latent, score = np.clip(normal.latent[good], -1e100, 1e100), normal.score[good]
    if latent.shape[1] == 0 or not len(latent):
        return None
    project, names, words = _projection(latent)
    plane = project(latent)
    strange = project(labelled.latent[np.isfinite(labelled.latent).all(axis=1)]) if labelled else plane[:0]
    flat = latent.shape[1] == 1
    floor, height = (150.0, 194.0) if flat else (392.0, 436.0)
    x, y = _robust_scale(plane[:, 0], _LEFT, _RIGHT), _robust_scale(plane[:, 1], floor, _TOP)
    outside = sum(int((~_within(points, x, y)).sum()) for points in (plane, strange))
    marks = [x_axis(x, floor, names[0], grid_top=_TOP)]
    marks.append(Markup("") if flat else y_axis(y, _LEFT, names[1], _RIGHT))
    shown = thin(np.flatnonzero(_within(plane, x, y)), _MOST_POINTS)
    levels = np.searchsorted(np.quantile(score, [0.5, 0.9, 0.99]), score[shown], "left")
    for level in range(4):
        chosen = plane[shown[levels == level]]
        marks.append(dots(x(chosen[:, 0]), y(chosen[:, 1]), f"rank{level}"))
    legend = [("rank0", "lower half of scores"), ("rank1", "to 90 %"), ("rank2", "to 99 %"), ("rank3", "strangest 1 %")]
    if len(strange):
        inside = strange[_within(strange, x, y)][:_MOST_POINTS]
        marks.append(crosses(x(inside[:, 0]), y(inside[:, 1]), "labelled"))
        legend.append(("labelled", "labelled anomalies"))
    words += f" {count(len(shown), 'normal row')} drawn, coloured by the rank of their score."
    if outside:
        words += f" {count(outside, 'row')} outside the frame {'is' if outside == 1 else 'are'} not drawn."
    return Figure(
        "Where rows lie in the latent space",
        drawing(*marks, height=height, says=f"Scatter of posterior means. {words}"),
        words,
        tuple(legend),
    )


def _projection(latent: FloatArray) -> tuple[_Projection, tuple[str, str], str]:
    """How to draw posterior means in a plane: the map, the names of its axes, and what to say of it."""
    size = latent.shape[1]
    if size == 1:
        return _Projection(latent.mean(0) * 0, None), ("latent dimension 1", ""), "Height is for legibility only."
    both = 2
    if size == both:
        return (
            _Projection(np.zeros(2), np.eye(2)),
            ("latent dimension 1", "latent dimension 2"),
            "The two latent dimensions as they are.",
        )
    centre = latent.mean(axis=0)
    scaled = (latent - centre) / max(float(np.abs(latent - centre).max()), 1e-300)
    directions, power, _ = np.linalg.svd(scaled.T @ scaled)  # of k by k: the same directions at a fraction of the cost
    kept = float(power[:2].sum() / max(float(power.sum()), 1e-300))
    plane = directions[:, :2].copy()
    plane *= np.where(plane[np.abs(plane).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    return (
        _Projection(centre, plane),
        ("first principal component", "second principal component"),
        f"The two principal components of {size} latent dimensions hold {share(kept)} of the variance.",
    )


class _Projection:
    """Posterior means to a plane."""

    def __init__(self, centre: FloatArray, plane: FloatArray | None) -> None:
        self.centre, self.plane = centre, plane

    def __call__(self, latent: FloatArray) -> FloatArray:
        """Points, shape ``(n, 2)``; of one dimension, spread in height by a fixed sequence."""
        if self.plane is None:
            golden = (np.arange(len(latent)) * 0.6180339887498949) % 1.0
            return np.column_stack([latent[:, 0], golden])
        return np.asarray((np.clip(latent, -1e100, 1e100) - self.centre) @ self.plane, dtype=np.float64)


def _robust_scale(values: FloatArray, start: float, end: float) -> Scale:
    """A scale that covers all but the farthest thousandth of normal rows, with room around."""
    low, high = float(np.quantile(values, 0.001)), float(np.quantile(values, 0.999))
    low, high = roomy(low, high)
    room = 0.3 * (high - low)
    return Scale(
        max(low - room, min(low, float(values.min())) - 0.1 * room),
        min(high + room, max(high, float(values.max())) + 0.1 * room),
        start,
        end,
    )


def _within(points: FloatArray, x: Scale, y: Scale) -> npt.NDArray[np.bool_]:
    """Which points lie within the frame."""
    across, up = points[:, 0], points[:, 1]
    return np.asarray((across >= x.low) & (across <= x.high) & (up >= y.low) & (up <= y.high))


def latent_use(use: LatentUse | None) -> Figure | None:
    """KL per latent dimension, largest first, the active ones counted; None for a plain autoencoder.

    Args:
        use: How validation rows use the latent space.
    """
    if use is None or not len(use.kl):
        return None
    order = np.argsort(-np.where(np.isfinite(use.kl), use.kl, -1.0), kind="stable")
    values = np.clip(np.where(np.isfinite(use.kl), use.kl, 0.0)[order], 0.0, 1e100)
    y = Scale(0.0, max(1.05 * float(values.max()), _LEAST_NATS), 392.0, _TOP)
    slot = (_RIGHT - _LEFT) / len(values)
    width = min(0.8 * slot, 46.0)
    lefts = np.asarray(_LEFT + slot * np.arange(len(values)) + (slot - width) / 2, dtype=np.float64)
    marks = [y_axis(y, _LEFT, "KL, nats", _RIGHT)]
    on = use.active[order]
    tops: FloatArray = np.minimum(y(values), 391.0)
    marks += [_bars(lefts[at], width, tops[at], style) for at, style in ((on, "validation"), (~on, "idle"))]
    marks.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=392.0, y2=392.0, class_="axis"))
    most_named = 24
    if len(values) <= most_named:
        marks += [
            tag("text", str(int(dim) + 1), x=float(left + width / 2), y=410, text_anchor="middle", class_="tick")
            for dim, left in zip(order, lefts, strict=True)
        ]
    marks.append(tag("text", "latent dimension", x=(_LEFT + _RIGHT) / 2, y=430, text_anchor="middle", class_="label"))
    caption = (
        f"Divergence from the prior, mean over normal rows. {int(on.sum())} of {count(len(values), 'dimension')} active: "
        f"they move from row to row. Together {number(float(values.sum()))} nats a row"
    )
    caption += f", and {number(use.choice)} to say which of the stored rows or pseudo-rows." if use.choice else "."
    return Figure(
        "How much each latent dimension tells",
        drawing(*marks, height=436, says=f"Bars of the KL divergence per latent dimension. {caption}"),
        caption,
    )


def _bars(lefts: FloatArray, width: float, tops: FloatArray, style: str) -> Markup:
    """Bars of one width on the floor of the latent figures."""
    from_svg = "".join(f"M{left:.1f} 392V{top:.1f}h{width:.1f}V392z" for left, top in zip(lefts, tops, strict=True))
    return tag("path", d=from_svg, class_=f"bar {style}")
