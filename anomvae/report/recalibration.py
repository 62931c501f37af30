"""The page of a recalibrated bundle: what was promised, and what is now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomvae.report.page import alarm_rule, calibration_facts
from anomvae.report.promise import headline, how, is_extrapolated
from anomvae.report.templates import filled
from anomvae.report.wording import NOTHING, count, instant, limit, rate, share

if TYPE_CHECKING:
    from anomvae.bundle import Calibration, Manifest
    from anomvae.calibration import Calibrated

_DECIDES = {
    "elbo": "the score",
    "reconstruction": "the reconstruction error",
    "both": "both scores together",
    "either": "either score, at half of the rate each",
}
_FEW = 10
_OWN = ("score threshold", "reconstruction threshold", "smallest alarm rate", "groups with thresholds of their own")
"""What each of the calibrations of a series has of its own."""


def render_recalibration(
    manifest: Manifest, before: Calibration, calibrated: Calibrated, whole_before: Calibration | None = None
) -> str:
    """The page as one HTML file: no script, no request, readable offline.

    It draws no uniformity: p-values of the rows that calibrated are even by construction.

    Args:
        manifest: Of the new bundle.
        before: The calibration that was replaced.
        calibrated: The new one, with its tails.
        whole_before: Of a series: the calibration of steps of whole series that was replaced; None: there was none.
    """
    now = manifest.calibration
    rows = now.recalibrated
    return filled(
        "recalibration.html",
        kind="recalibration",
        manifest=manifest,
        data=manifest.provenance.data if rows is None else rows.data,
        created=instant(manifest.provenance.created if rows is None else rows.created),
        digest=(manifest.provenance.digest if rows is None else rows.digest).removeprefix("sha256:")[:12],
        fitted=instant(manifest.provenance.created),
        rule=alarm_rule(now),
        amount=headline(now).removesuffix(" of normal rows alarm"),
        warnings=_warnings(now),
        changes=[*_changes(before, now), *_whole_changes(manifest, whole_before)],
        uniformity=[],
        rates=[],
        **calibration_facts(manifest, calibrated.tails),
    )


def _changes(before: Calibration, now: Calibration) -> list[tuple[str, str, str]]:
    """Facts that a reader compares: name, before, now."""
    facts = [(_facts(before), _facts(now))]
    return [
        (name, old[name], new[name])
        for old, new in facts
        for name in new
        if (old[name], new[name]) != (NOTHING, NOTHING)
    ]


def _whole_changes(manifest: Manifest, before: Calibration | None) -> list[tuple[str, str, str]]:
    """Likewise of steps of whole series, what is not the same for both; none of a detector of rows."""
    now = None if manifest.series is None else manifest.series.batch
    if now is None:
        return []
    old, new = {} if before is None else _facts(before), _facts(now)
    return [(f"whole series: {name}", old.get(name, NOTHING), new[name]) for name in _OWN if new[name] != NOTHING]


def _facts(facts: Calibration) -> dict[str, str]:
    per_day = facts.alarms_per_day is not None and facts.rows_per_day is not None
    return {
        "promise": headline(facts),
        "as alarms a day": f"{facts.alarms_per_day:,.15g} of {facts.rows_per_day:,.15g} rows" if per_day else NOTHING,
        "for these very rows": "on average" if facts.confidence is None else f"{share(facts.confidence)} confidence",
        "calibration": how(facts),
        "verdict from": _DECIDES[facts.decision],
        "score threshold": limit(facts.score_threshold) if facts.decision != "reconstruction" else NOTHING,
        "reconstruction threshold": limit(facts.reconstruction_threshold) if facts.decision != "elbo" else NOTHING,
        "smallest alarm rate": rate(facts.smallest_alarm_rate),
        "fitted tail": NOTHING if facts.tail is None else "yes",
        "groups with thresholds of their own": NOTHING if facts.by is None else f"{len(facts.groups):,}",
    }


def _warnings(now: Calibration) -> list[str]:
    """What a reader must see first."""
    if is_extrapolated(now):
        return [
            f"{count(now.rows, 'row')} are too few to count {rate(now.alarm_rate)}: the threshold is extrapolated by a tail, an "
            "estimate without guarantee."
        ]
    beyond = now.alarm_rate * (now.rows + 1)
    if beyond < _FEW:
        return [
            f"The threshold rests on the strangest {max(1, int(beyond + 1e-6)):,} of {count(now.rows, 'row')}; more rows make it "
            "steadier."
        ]
    return []
