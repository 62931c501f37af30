"""Moving `champion`: only to a version that takes the same columns and is not worse, unless forced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomvae.errors import BundleError, ModelReferenceError, PromotionError
from anomvae.tracking.lookup import find, registered_model
from anomvae.tracking.reference import CHALLENGER, CHAMPION
from anomvae.tracking.registry import fetch
from anomvae.tracking.session import open_session

if TYPE_CHECKING:
    from pathlib import Path

    from anomvae.bundle import Bundle, Manifest
    from anomvae.tracking.lookup import Found
    from anomvae.tracking.session import Session

_MEASURES = ("average_precision", "auroc")  # the first that both versions have decides


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promotion did.

    Attributes:
        model_name: Name of the model.
        version: Number of the version that is champion now.
        previous: Number of the version that was; None if there was none, the same if nothing moved.
        comparison: What the two versions' comparison said, as a sentence.
        forced: Whether it was done although the comparison spoke against it.
    """

    model_name: str
    version: int
    previous: int | None
    comparison: str
    forced: bool = False

    @property
    def moved(self) -> bool:
        """Whether the champion is another version than before."""
        return self.version != self.previous


def promote(
    ref: str,
    *,
    force: bool = False,
    tracking_uri: str | None = None,
    cache: Path | None = None,
    timeout_s: float = 8.0,
) -> Promotion:
    """Makes a version the champion; promoting an older version again is how one rolls back.

    Args:
        ref: A registered version: `NAME@candidate`, `NAME/3`, ...
        force: Promote it although its columns differ or its evaluation is worse.
        tracking_uri: See `registry.resolve`.
        cache: See `registry.resolve`.
        timeout_s: See `registry.resolve`.

    Raises:
        PromotionError: Its columns differ from the champion's, or its evaluation is worse; with the reason.
        ModelReferenceError: Nothing answers to the reference, or it names no registered version.
        TrackingError: The server or database cannot be used.
    """
    with open_session(tracking_uri, timeout_s=timeout_s) as session:
        found = find(session.client, ref)
        if found.version is None:
            raise ModelReferenceError(f"{ref!r} names no registered version; promote NAME@candidate or NAME/3")
        name, number = found.version.name, int(found.version.version)
        aliases = session.client.get_registered_model(name).aliases
        previous = int(aliases[CHAMPION]) if CHAMPION in aliases else None
        if previous == number:
            return Promotion(name, number, previous, "it was the champion already")
        objection, comparison = _judge(session, found, previous, cache)
        if objection is not None and not force:
            raise PromotionError(f"{found.title} was not promoted: {objection}; force it if that is meant")
        session.client.set_registered_model_alias(name, CHAMPION, str(number))
    return Promotion(name, number, previous, objection or comparison, forced=objection is not None)


def challenge(ref: str, *, tracking_uri: str | None = None, timeout_s: float = 8.0) -> tuple[str, int]:
    """Makes a version the challenger, which the daemon scores in the champion's shadow.

    Args:
        ref: A registered version: `NAME@candidate`, `NAME/3`, ...
        tracking_uri: See `registry.resolve`.
        timeout_s: See `registry.resolve`.

    Returns:
        Name of the model and number of the version.

    Raises:
        PromotionError: It is the champion.
        ModelReferenceError: Nothing answers to the reference, or it names no registered version.
        TrackingError: The server or database cannot be used.
    """
    with open_session(tracking_uri, timeout_s=timeout_s) as session:
        found = find(session.client, ref)
        if found.version is None:
            raise ModelReferenceError(f"{ref!r} names no registered version; name NAME@candidate or NAME/3")
        name, number = found.version.name, int(found.version.version)
        if CHAMPION in found.aliases:
            raise PromotionError(f"{found.title} is the champion; a challenger is another version")
        session.client.set_registered_model_alias(name, CHALLENGER, str(number))
    return name, number


def end_challenge(name: str, *, tracking_uri: str | None = None, timeout_s: float = 8.0) -> None:
    """Ends a model's challenge; nothing happens if there is none.

    Args:
        name: Of the registered model.
        tracking_uri: See `registry.resolve`.
        timeout_s: See `registry.resolve`.

    Raises:
        ModelReferenceError: The registry has no such model.
        TrackingError: The server or database cannot be used.
    """
    with open_session(tracking_uri, timeout_s=timeout_s) as session:
        if CHALLENGER in registered_model(session.client, name).aliases:
            session.client.delete_registered_model_alias(name, CHALLENGER)


def _judge(session: Session, found: Found, previous: int | None, cache: Path | None) -> tuple[str | None, str]:
    """What speaks against a promotion, if anything does, and what the comparison said."""
    new = fetch(session, found, cache)
    if previous is None or found.version is None:
        return None, "there was no champion to compare it with"
    try:
        champion = fetch(session, find(session.client, f"{found.version.name}/{previous}"), cache)
    except (BundleError, ModelReferenceError) as error:
        return f"the champion, version {previous}, cannot be read to compare them ({error})", ""
    difference = compare_columns(new.manifest, champion.manifest)
    if difference is not None:
        return difference, ""
    return compare_evaluations(new, champion)


def compare_columns(new: Manifest, champion: Manifest) -> str | None:
    """How the scored columns differ, as a clause; None when they do not.

    Args:
        new: Manifest of the version to be promoted.
        champion: Manifest of the version in service.
    """
    ours = {column.name: column.kind for column in new.columns}
    theirs = {column.name: column.kind for column in champion.columns}
    changes = {
        "adds": [name for name in ours if name not in theirs],
        "lacks": [name for name in theirs if name not in ours],
        "retypes": [name for name in ours if name in theirs and ours[name] != theirs[name]],
    }
    told = [f"{verb} {', '.join(map(repr, names))}" for verb, names in changes.items() if names]
    return f"against the champion it {' and '.join(told)}" if told else None


def compare_evaluations(new: Bundle, champion: Bundle) -> tuple[str | None, str]:
    """Compares the evaluations on labelled rows: average precision, or AUROC where either lacks it.

    Args:
        new: The version to be promoted.
        champion: The version in service.

    Returns:
        The objection, if the new one is worse, and what the comparison said.
    """
    ours, theirs = new.read_record().evaluation, champion.read_record().evaluation
    measure = next((name for name in _MEASURES if name in ours and name in theirs), None)
    if measure is None:
        return None, "they were not both evaluated on labelled rows, so only their columns were compared"
    said = f"its {measure.replace('_', ' ')} is {ours[measure]:.4f}, the champion's {theirs[measure]:.4f}"
    same = new.manifest.provenance.digest == champion.manifest.provenance.digest
    said += ", on the same data set" if same else ", measured on different data sets"
    return (said, "") if ours[measure] < theirs[measure] else (None, said)
