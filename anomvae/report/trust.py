"""Whether to trust a detector: a few checks, each with what it found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from anomvae.report.measures import Share, above, rate_interval, sameness
from anomvae.report.wording import between, count, number, share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomvae.report.contents import ReportContents

Level = Literal["good", "look", "bad", "open"]


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a detector.

    Attributes:
        level: `good`, `look` (worth a look), `bad`, or `open` (could not be checked).
        claim: What should hold.
        finding: What was found.
    """

    level: Level
    claim: str
    finding: str


def checks(contents: ReportContents) -> tuple[Check, ...]:
    """All checks that apply, in the order in which a reader asks them."""
    return tuple(_all(contents))


def _all(contents: ReportContents) -> Iterator[Check]:
    yield from _answers(contents)
    yield _promise(contents)
    yield _kept(contents)
    yield from _same(contents)
    yield from _memorised(contents)
    yield from _settled(contents)
    yield from _latent(contents)
    yield from _relations(contents)
    yield from _labels(contents)


def _answers(contents: ReportContents) -> Iterator[Check]:
    """Speaks up only where a score is no number."""
    parts = (contents.train, contents.validation, contents.calibration)
    broken = sum(int(np.count_nonzero(~np.isfinite(part.score))) for part in parts)
    if broken:
        yield Check(
            "bad", "Every row gets a score", f"{count(broken, 'normal row')} got no finite score; plots leave them out."
        )


def _promise(contents: ReportContents) -> Check:
    """Whether the calibration rows carry the stated rate."""
    facts = contents.manifest.calibration
    claim = f"Enough calibration rows for {share(facts.alarm_rate)}"
    if facts.alarm_rate < facts.smallest_alarm_rate:
        return Check(
            "bad",
            claim,
            f"{count(facts.rows, 'row')} support {share(facts.smallest_alarm_rate)} at the least: "
            "it will never alarm at the stated rate.",
        )
    rate = facts.alarm_rate / 2 if facts.decision == "either" else facts.alarm_rate
    beyond, enough = math.floor(rate * (facts.rows + 1) + 1e-9), 10
    low, high = rate_interval(facts.rows, rate)
    each = "each of the two thresholds" if facts.decision == "either" else "the threshold"
    finding = (
        f"{count(facts.rows, 'row')}; {each} rests on the strangest {beyond:,}. "
        f"In service, expect {between((low, high))} false alarms{' from each' if 'each' in each else ''} (95 % sure)."
    )
    return Check("good" if beyond >= enough else "look", claim, finding)


def _kept(contents: ReportContents) -> Check:
    """Whether rows the threshold never saw alarm as promised."""
    rate = contents.manifest.calibration.alarm_rate
    alarms = Share(int(np.count_nonzero(contents.validation.alarm)), len(contents.validation.alarm))
    claim = "Held-out rows alarm no more than promised"
    if not alarms.n:
        return Check("open", claim, "There are no validation rows to check it on.")
    finding = (
        f"{alarms.hits:,} of {count(alarms.n, 'validation row')} alarmed: {share(alarms.value)} "
        f"(95 % interval {between(alarms.interval)}; promised {share(rate)})."
    )
    return Check("good" if alarms.interval[0] <= rate else "bad", claim, finding)


def _same(contents: ReportContents) -> Iterator[Check]:
    """Whether validation and calibration rows look alike; they do not where conditions changed."""
    if not len(contents.validation.score) or not len(contents.calibration.score):
        return
    gap, p = sameness(contents.validation.score, contents.calibration.score)
    small_gap, unlikely = 0.08, 0.01
    alike = p > unlikely or gap < small_gap
    split = contents.manifest.split
    why = {
        "time": "; conditions may have changed over time",
        "group": "; groups differ from one another",
        "random": "",
    }[split.how]
    yield Check(
        "good" if alike else "look",
        "Normal rows look alike in both held-out parts",
        f"The score distributions of validation and calibration rows differ by at most {share(gap)}"
        + ("." if alike else f", more than chance explains{why}: the promised rate may not hold for later rows."),
    )


def _memorised(contents: ReportContents) -> Iterator[Check]:
    """Whether rows of the training part score as new rows do."""
    chance = above(contents.train.score, contents.calibration.score)
    if math.isnan(chance):
        return
    most = 0.7
    yield Check(
        "good" if chance <= most else "look",
        "It knows new normal rows as well as those it learnt from",
        f"A calibration row is stranger than a training row {share(chance)} of the time (50 % is ideal)."
        + ("" if chance <= most else " It learnt rows by heart; more rows would find more anomalies."),
    )


def _settled(contents: ReportContents) -> Iterator[Check]:
    """Whether training ended because nothing more was to be gained."""
    losses = np.asarray(contents.record.curves.get("validation_loss", ()), dtype=np.float64)
    fewest, much, late = 5, 0.05, 0.8
    if len(losses) < fewest or not np.isfinite(losses).all():
        return
    whole, rest = losses.max() - losses.min(), losses[int(late * len(losses))] - losses[-1]
    falling = bool(losses[-1] == losses.min() and whole > 0 and rest > much * whole)
    yield Check(
        "look" if falling else "good",
        "Training had settled",
        "The validation loss was still falling when training ended; more steps may help."
        if falling
        else "The validation loss no longer fell when training ended.",
    )


def _latent(contents: ReportContents) -> Iterator[Check]:
    """Whether the latent space carries anything."""
    if contents.latent_use is None:
        return
    active, size = int(contents.latent_use.active.sum()), len(contents.latent_use.active)
    finding = f"{active} of {count(size, 'dimension')} {'tells' if active == 1 else 'tell'} rows apart."
    if not active and contents.manifest.prior == "exemplars":
        finding += " Relations between columns then rest on the stored rows alone."
    yield Check("good" if active else "look", "The latent space is used", finding)


def _relations(contents: ReportContents) -> Iterator[Check]:
    """Whether columns together say more than each on its own."""
    found = contents.relations
    if found is None:
        return
    both = f"Held-out rows cost {number(found.fit)} nats with all columns together and {number(found.independent)} one by one"
    finding = (
        f"{both}; most rows gain {number(found.gain)} nats."
        if found.help
        else f"{both}: no better. They add nothing here, or the fit has not learnt them; a simpler detector may do as well."
    )
    yield Check("good" if found.help else "look", "Relations between columns help", finding)


def _labels(contents: ReportContents) -> Iterator[Check]:
    """Whether labelled anomalies are found."""
    if contents.labelled is None or not len(contents.labelled.alarm):
        return
    found = Share(int(np.count_nonzero(contents.labelled.alarm)), len(contents.labelled.alarm))
    half = 0.5
    yield Check(
        "good" if found.value >= half else "look",
        "It finds the labelled anomalies",
        f"{found.hits:,} of {count(found.n, 'anomaly', 'anomalies')} alarmed: {share(found.value)} "
        f"(95 % interval {between(found.interval)}).",
    )
