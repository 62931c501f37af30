"""What a comparison with a simpler detector comes to, in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomvae.evaluation.paired import CONFIDENCE

if TYPE_CHECKING:
    from anomvae.evaluation.paired import Comparison, Difference

WIDE = 0.05
"""A lead that an interval cannot rule out is named from here on: 5 points."""
_FINE = 0.01
_ROUNDED_AWAY = 0.0005
"""An end nearer to zero than this would lose its sign."""


def does_as_well(found: Comparison) -> bool:
    """Whether a simpler detector ranks as well as ours or better by one measure at least."""
    return "ours" not in {found.auroc.verdict} & {found.average_precision.verdict}


def sentence(name: str, found: Comparison, scarce: int) -> str:
    """Who does better, by how much, and what that means.

    Args:
        name: The simpler detector's.
        found: Its comparison with ours.
        scarce: Rows of the smaller class: what the interval rests on.

    Example:
        >>> from anomvae.evaluation.paired import Comparison, Difference, Ranking
        >>> alike = Difference(0.004, -0.008, 0.016)
        >>> sentence("1-NN", Comparison(Ranking(0.9, 0.8), alike, alike), 90)  # doctest: +ELLIPSIS
        '1-NN does as well here: difference in AUROC +0.4 points, 95 % interval -0.8 to +1.6; ...'
    """
    auroc, precision = found.auroc.verdict, found.average_precision.verdict
    by_auroc, by_precision = _told(found.auroc), _told(found.average_precision)
    both = f"difference in AUROC {by_auroc}; in average precision {by_precision}"
    if auroc == precision == "ours":
        return f"This detector does better than {name}: {both}."
    enough = f"a simpler detector may be enough{_caveat(found, scarce)}."
    if auroc == precision == "alike":
        return f"{name} does as well here: {both}; {enough}"
    if "ours" not in (auroc, precision):
        return f"{name} does better here: {both}; {enough.replace('may be enough', 'is enough here')}"
    measures = {"AUROC": (auroc, by_auroc), "average precision": (precision, by_precision)}
    ours, theirs = sorted(measures, key=lambda measure: measures[measure][0] != "ours")
    verdict = "better" if measures[theirs][0] == "theirs" else "as well"
    return (
        f"{name} does {verdict} by {theirs} (difference {measures[theirs][1]}), this detector does better by {ours} "
        f"(difference {measures[ours][1]}); where {theirs} counts, {enough}"
    )


def points(share: float, *, fine: bool = False) -> str:
    """A difference in points, hundredths of a measure, with its sign.

    Example:
        >>> points(0.0041), points(-0.0001), points(-0.0001, fine=True)
        ('+0.4', '+0.0', '-0.01')
    """
    digits = 2 if fine else 1
    return f"{round(100.0 * share, digits) + 0.0:+.{digits}f}"


def interval(found: Difference) -> tuple[str, str, str]:
    """A difference and its ends in points, as finely as the interval needs."""
    ends = abs(found.low), abs(found.high)
    fine = max(ends) < _FINE or any(0 < end < _ROUNDED_AWAY for end in ends)
    return points(found.estimate, fine=fine), points(found.low, fine=fine), points(found.high, fine=fine)


def _told(found: Difference) -> str:
    estimate, low, high = interval(found)
    return f"{estimate} points, {CONFIDENCE * 100:.0f} % interval {low} to {high}"


def _caveat(found: Comparison, scarce: int) -> str:
    alike = [part for part in (found.auroc, found.average_precision) if part.verdict == "alike" and part.high > WIDE]
    if not alike:
        return ""
    lead = points(max(part.high for part in alike)).removeprefix("+")
    return f", though the interval is wide: {scarce:,} rows of the rarer kind cannot rule out a lead of {lead} points"
