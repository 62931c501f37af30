"""Whether to trust a detector: a few checks, each with what it found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from anomvae.calibration.conformal import ROUNDING
from anomvae.report.measures import Share, above, sameness
from anomvae.report.promise import is_extrapolated
from anomvae.report.rates import Steps, checked_rows
from anomvae.report.wording import between, count, number, p_value, rate, share, short

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomvae.report.contents import ReportContents, ScoredRows

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
    yield from _tail(contents)
    yield from _power(contents)
    yield from _labels(contents)


def _answers(contents: ReportContents) -> Iterator[Check]:
    """Speaks up only where a score is no number."""
    crossed = contents.manifest.calibration.method == "cross"
    parts = [contents.calibration] if crossed else [contents.train, contents.validation, contents.calibration]
    broken = sum(int(np.count_nonzero(~np.isfinite(part.score))) for part in parts)
    if broken:
        yield Check(
            "bad", "Every row gets a score", f"{count(broken, 'normal row')} got no finite score; plots leave them out."
        )


def _promise(contents: ReportContents) -> Check:
    """Whether the calibration rows carry the stated rate."""
    facts = contents.manifest.calibration
    claim = f"Enough calibration rows for {rate(facts.alarm_rate)}"
    if facts.alarm_rate * (1.0 + ROUNDING) < facts.smallest_alarm_rate:
        return Check(
            "bad",
            claim,
            f"{count(facts.rows, 'row')} support {rate(facts.smallest_alarm_rate)} at the least: "
            "it will never alarm at the stated rate.",
        )
    if is_extrapolated(facts):
        return Check(
            "look",
            claim,
            f"{count(facts.rows, 'row')} are too few to count by: the threshold is extrapolated by a tail, an estimate "
            "without guarantee.",
        )
    steps, enough = Steps.of(facts), 10
    beyond = steps.beyond(facts.alarm_rate)
    rests = "both thresholds rest" if facts.decision == "both" else "the threshold rests"
    where = " of the smallest group" if facts.groups else ""
    finding = (
        f"{count(facts.rows, 'row')}; {rests} on the strangest {beyond:,}{where}. "
        f"In service, expect {between(steps.interval(facts.alarm_rate))} false alarms (95 % sure)."
    )
    return Check("good" if beyond >= enough else "look", claim, finding)


def _kept(contents: ReportContents) -> Check:
    """Whether rows the threshold never saw alarm as promised."""
    facts, parts = contents.manifest.calibration, checked_rows(contents)
    asked = facts.alarm_rate
    claim = "Held-out rows alarm no more than promised"
    if not parts:
        lacking = "validation rows" if facts.method == "split" else "folds"
        return Check("open", claim, f"There are no {lacking} to check it on.")
    most = min(parts, key=lambda part: len(part.p)).expected(asked)[1]
    shares = [part.alarms(asked) for part in parts]
    worst = max(shares, key=lambda each: each.value)
    level: Level = "good" if worst.value <= max(most, asked) else "bad" if facts.method == "split" else "look"
    promised = f"promised {rate(asked)}" + (f"; by chance up to {share(most)}" if most > asked else "")
    if len(parts) == 1:
        finding = f"{worst.hits:,} of {count(worst.n, 'validation row')} alarmed: {share(worst.value)} ({promised})."
    else:
        low = min(each.value for each in shares)
        finding = (
            f"Fold by fold, scored by a network that had not seen them and held against the other folds, "
            f"{between((low, worst.value))} of rows alarm ({promised})."
        )
        if level != "good":
            finding += f" {_why_folds_differ(contents)}"
    return Check(level, claim, finding)


def _why_folds_differ(contents: ReportContents) -> str:
    if contents.manifest.split.how == "group":
        return "Groups differ: rows of a group never seen may alarm as often."
    return "The networks score unlike one another, so the rate of the detector itself is less certain; more rows or steps help."


def _same(contents: ReportContents) -> Iterator[Check]:
    """Whether normal rows look alike in both held-out parts, or in every fold; they do not where conditions changed."""
    small_gap, unlikely = 0.08, 0.01
    if contents.manifest.calibration.method == "cross":
        gap, p = _folds_alike(contents.calibration)
        claim, compared = "Normal rows look alike in every fold", "a fold and the others"
    else:
        gap, p = sameness(contents.validation.score, contents.calibration.score)
        claim, compared = "Normal rows look alike in both held-out parts", "validation and calibration rows"
    if math.isnan(gap):
        return
    alike = p > unlikely or gap < small_gap
    why = {
        "time": "; conditions may have changed over time",
        "group": "; groups differ from one another",
        "random": "",
    }[contents.manifest.split.how]
    yield Check(
        "good" if alike else "look",
        claim,
        f"The score distributions of {compared} differ by at most {share(gap)}"
        + ("." if alike else f", more than chance explains{why}: the promised rate may not hold for later rows."),
    )


def _folds_alike(rows: ScoredRows) -> tuple[float, float]:
    """Largest gap between a fold and the others, and its p-value, for that it is one of several."""
    if rows.fold is None:
        return math.nan, 1.0
    folds = np.unique(rows.fold)
    found = [sameness(rows.score[rows.fold == fold], rows.score[rows.fold != fold]) for fold in folds]
    known = [(gap, p) for gap, p in found if not math.isnan(gap)]
    if not known:
        return math.nan, 1.0
    return max(gap for gap, _ in known), min(1.0, len(known) * min(p for _, p in known))


def _memorised(contents: ReportContents) -> Iterator[Check]:
    """Whether rows of the training part score as new rows do; under cross calibration no row is only trained on."""
    if contents.manifest.calibration.method == "cross":
        return
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


def _tail(contents: ReportContents) -> Iterator[Check]:
    """Whether the tails that a verdict may rest on fit."""
    if contents.tails is None:
        return
    decision, unlikely = contents.manifest.calibration.decision, 0.05
    deciding = contents.tails[decision == "reconstruction" :][: 2 if decision == "both" else 1]
    if any(not fit.scale > 0 for fit in deciding):
        yield Check(
            "look", "The fitted tail fits", "None could be fitted: rates beyond the calibration rows never alarm by it."
        )
        return
    worst = min(fit.ks_p for fit in deciding)
    yield Check(
        "good" if worst >= unlikely else "look",
        "The fitted tail fits",
        f"Kolmogorov-Smirnov p = {p_value(worst)}"
        + (
            ": nothing speaks against it."
            if worst >= unlikely
            else ": it does not; do not trust rates that rest on it."
        ),
    )


def _power(contents: ReportContents) -> Iterator[Check]:
    """Whether a gross fault is noticed in every column."""
    if contents.power is None:
        return
    blind, most = contents.power.blind, 6
    named = ", ".join(short(name, 40) for name in blind[:most])
    more = f" and {len(blind) - most:,} more" if len(blind) > most else ""
    yield Check(
        "look" if blind else "good",
        "It notices a gross fault in every column",
        f"Blind to {count(len(blind), 'column')}: {named}{more}."
        if blind
        else f"Faults were put into {count(len(contents.power.columns), 'column')}: no column is blind.",
    )


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
