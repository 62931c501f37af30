"""References to models: a bundle's folder, or a name in the registry; both end in a verified bundle."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anomvae.bundle import Bundle, read_bundle
from anomvae.bundle.folder import MANIFEST
from anomvae.errors import BundleError, MissingExtraError, ModelReferenceError
from anomvae.tracking.reference import CHALLENGER

if TYPE_CHECKING:
    from anomvae.tracking.registry import ResolvedModel

SHORT_DIGEST = 12
ATTEMPTS = 5
PAUSE_S = 0.05
"""How often, and how long apart in seconds, a folder is read that is being replaced meanwhile."""


@dataclass(frozen=True, slots=True)
class FoundModel:
    """What a reference names at this moment.

    Attributes:
        name: Of the registered model; for a folder, of the bundle.
        version: The registry's number; for a folder, or a model without a number, the first 12 digits of `digest`.
        bundle: The verified bundle.
        digest: sha256 of the bundle's manifest, which names those of all its files.
        title: What it is, for people: `NAME/3`, or the folder.
        note: What the user should be told, such as that there is no champion yet; None if nothing.
    """

    name: str
    version: str
    bundle: Bundle
    digest: str
    title: str
    note: str | None = None


def find_model(ref: str, *, tracking_uri: str | None = None) -> FoundModel:
    """Finds what a reference names.

    Args:
        ref: A bundle's folder, or a registered model: `NAME`, `NAME@alias`, `NAME/3`, `models:/...`.
        tracking_uri: Registry to ask; None: MLFLOW_TRACKING_URI, else the SQLite file of the working folder.

    Raises:
        ModelReferenceError: Nothing answers to the reference.
        BundleError: The bundle is damaged or of a newer format.
        TrackingError: The registry does not answer.
        MissingExtraError: The registry has to be asked, and MLflow is not installed.
    """
    path = Path(ref).expanduser()
    is_path = path.exists() or ref.startswith((".", "/", "~")) or (ref.count("/") > 1 and ":" not in ref)
    if is_path and _is_there(path):
        bundle, digest = _read_whole(path)
        return FoundModel(bundle.manifest.name, digest[:SHORT_DIGEST], bundle, digest, str(path))
    if is_path:
        raise ModelReferenceError(f"there is no bundle at {ref}; name a bundle's folder, or a registered model")
    resolved = _resolve(ref, tracking_uri)
    bundle, digest = _read_whole(resolved.folder)
    name, _, number = resolved.title.rpartition("/")
    registered = bool(name) and number.isdecimal()
    return FoundModel(
        name if registered else bundle.manifest.name,
        number if registered else digest[:SHORT_DIGEST],
        bundle,
        digest,
        resolved.title,
        resolved.note,
    )


def _is_there(path: Path) -> bool:
    """Whether it is a folder; one that is being replaced is gone for an instant, and may be replaced again and again."""
    for _ in range(ATTEMPTS):
        if path.exists():
            break
        time.sleep(PAUSE_S)
    return path.is_dir()


def find_challenger(ref: str, *, tracking_uri: str | None = None) -> FoundModel | None:
    """The challenger of what a reference names; None where it follows no alias, or there is none.

    Raises:
        TrackingError: The registry does not answer.
        BundleError: The challenger's bundle is damaged or of a newer format.
    """
    name, _, alias = ref.removeprefix("models:/").partition("@")
    if Path(ref).expanduser().is_dir() or "/" in name or ":" in name or alias == CHALLENGER:
        return None
    try:
        return find_model(f"{name}@{CHALLENGER}", tracking_uri=tracking_uri)
    except ModelReferenceError:
        return None


def _resolve(ref: str, tracking_uri: str | None) -> ResolvedModel:
    try:
        from anomvae.tracking.registry import resolve
        from anomvae.tracking.uri import choose_tracking_uri, sqlite_path
    except ImportError as error:
        raise MissingExtraError(f"there is no folder {ref!r}, and asking the registry for it", "mlflow") from error
    database = sqlite_path(choose_tracking_uri(tracking_uri))
    if database is not None and not database.exists():
        raise ModelReferenceError(
            f"there is no folder {ref!r}, and no registry at {database} that may know such a model; name a bundle's folder, "
            "or the registry with --tracking-uri"
        )
    return resolve(ref, tracking_uri=tracking_uri)


def _read_whole(folder: Path) -> tuple[Bundle, str]:
    """A bundle and its digest; read anew where the folder was replaced meanwhile, so that they belong together."""
    for attempt in range(1, ATTEMPTS + 1):
        before = _digest(folder)
        try:
            bundle = read_bundle(folder)
        except BundleError:
            if attempt == ATTEMPTS or (before and before == _digest(folder)):
                raise
        else:
            if before and before == _digest(folder):
                return bundle, before
        time.sleep(PAUSE_S)
    raise BundleError(f"{folder} changed each time it was read; let whatever writes it come to an end")


def _digest(folder: Path) -> str:
    """sha256 of a bundle's manifest; empty if it cannot be read."""
    try:
        return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    except OSError:
        return ""
