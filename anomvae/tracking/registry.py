"""The model registry: resolve, list, show and pull. Fetches files only; never runs a model's code.

Needs no more of MLflow than `mlflow-skinny` brings.
"""

from __future__ import annotations

import datetime as dt
import shutil
from dataclasses import dataclass
from pathlib import Path

from anomvae.bundle import Bundle, read_bundle, write_bundle
from anomvae.bundle.folder import MANIFEST
from anomvae.errors import ModelReferenceError
from anomvae.tracking.cache import default_cache, fetch_bundle
from anomvae.tracking.lookup import Found, find, list_registered, list_versions
from anomvae.tracking.reference import CANDIDATE, CHAMPION, is_registry_reference
from anomvae.tracking.session import Session, open_session
from anomvae.tracking.uri import local_folder

# The session sets MLflow up, so it is imported before anything of MLflow.
# isort: split
from mlflow.artifacts import download_artifacts

__all__ = [
    "ModelDetails",
    "ModelSummary",
    "ResolvedModel",
    "is_registry_reference",
    "list_models",
    "pull",
    "resolve",
    "show",
]

_BUNDLE_PATH = "data/bundle"


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A reference, resolved to a verified bundle on this machine.

    Attributes:
        folder: The bundle's folder, in the cache: read it, do not change it.
        title: What it is: `NAME/3`, or `models:/m-...`.
        model_id: Id of the logged model.
        aliases: Aliases of the version at this moment.
        note: What the user should be told, such as that there is no champion yet; None if nothing.
    """

    folder: Path
    title: str
    model_id: str
    aliases: tuple[str, ...]
    note: str | None


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A registered model, for lists.

    Attributes:
        name: Its name.
        versions: How many versions it has.
        newest: Number of the newest; None without versions.
        champion: Number of the version in service, if any.
        candidate: Number of the version fitted last, if any.
        alarm_rate: Alarm rate of the champion, else of the newest.
        updated: When it last changed, ISO instant, UTC.
    """

    name: str
    versions: int
    newest: int | None
    champion: int | None
    candidate: int | None
    alarm_rate: float | None
    updated: str


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """A version, in full.

    Attributes:
        title: `NAME/3`, or `models:/m-...`.
        version: Number of the version; None when a model or a run was named.
        aliases: Its aliases.
        run_id: Id of the run that logged it.
        model_id: Id of the logged model.
        created: When it was registered or logged, ISO instant, UTC.
        metrics: Its outcomes, by name.
        tags: Its tags.
        bundle: The verified bundle: columns, calibration and provenance are in its manifest.
        note: As in `ResolvedModel`.
    """

    title: str
    version: int | None
    aliases: tuple[str, ...]
    run_id: str | None
    model_id: str
    created: str
    metrics: dict[str, float]
    tags: dict[str, str]
    bundle: Bundle
    note: str | None


def resolve(
    ref: str, *, tracking_uri: str | None = None, cache: Path | None = None, timeout_s: float = 8.0
) -> ResolvedModel:
    """Resolves a reference to a verified bundle on this machine, downloading it at most once.

    Args:
        ref: `NAME` (its champion, else its newest version), `NAME@alias`, `NAME/3`, `models:/...` or `runs:/...`.
        tracking_uri: Where to look; by default `MLFLOW_TRACKING_URI`, else `mlflow.db` here.
        cache: Folder for fetched bundles; by default `ANOMVAE_CACHE`, else the user's cache folder.
        timeout_s: Longest wait for the server's first answer, in seconds.

    Raises:
        ModelReferenceError: Nothing answers to the reference.
        TrackingError: The server or database cannot be used.
        BundleError: The bundle is damaged or of a newer format.
        OutputError: The cache cannot be written.
    """
    with open_session(tracking_uri, timeout_s=timeout_s) as session:
        found = find(session.client, ref)
        bundle = fetch(session, found, cache)
    return ResolvedModel(bundle.folder, found.title, str(found.model.model_id), found.aliases, found.note)


def list_models(*, tracking_uri: str | None = None, timeout_s: float = 8.0) -> tuple[ModelSummary, ...]:
    """The registered models that anomvae made, by name.

    Args:
        tracking_uri: See `resolve`.
        timeout_s: See `resolve`.

    Raises:
        TrackingError: The server or database cannot be used.
    """
    with open_session(tracking_uri, timeout_s=timeout_s) as session:
        summaries = []
        for model in list_registered(session.client):
            versions = {int(item.version): item for item in list_versions(session.client, model.name)}
            aliases = {alias: int(number) for alias, number in model.aliases.items()}
            newest = max(versions, default=None)
            told = versions.get(aliases.get(CHAMPION, newest or 0))
            rate = told.tags.get("anomvae.alarm_rate") if told is not None else None
            summaries.append(
                ModelSummary(
                    name=model.name,
                    versions=len(versions),
                    newest=newest,
                    champion=aliases.get(CHAMPION),
                    candidate=aliases.get(CANDIDATE),
                    alarm_rate=float(rate) if rate else None,
                    updated=_instant(model.last_updated_timestamp),
                )
            )
    return tuple(sorted(summaries, key=lambda summary: summary.name))


def show(
    ref: str, *, tracking_uri: str | None = None, cache: Path | None = None, timeout_s: float = 8.0
) -> ModelDetails:
    """What is known of a version: MLflow's part and the bundle.

    Args:
        ref: See `resolve`.
        tracking_uri: See `resolve`.
        cache: See `resolve`.
        timeout_s: See `resolve`.

    Raises:
        ModelReferenceError: Nothing answers to the reference.
        TrackingError: The server or database cannot be used.
        BundleError: The bundle is damaged or of a newer format.
    """
    with open_session(tracking_uri, timeout_s=timeout_s) as session:
        found = find(session.client, ref)
        bundle = fetch(session, found, cache)
    model, version = found.model, found.version
    return ModelDetails(
        title=found.title,
        version=int(version.version) if version else None,
        aliases=found.aliases,
        run_id=model.source_run_id,
        model_id=str(model.model_id),
        created=_instant(version.creation_timestamp if version else model.creation_timestamp),
        metrics={metric.key: metric.value for metric in model.metrics or []},
        tags=dict(version.tags if version else model.tags),
        bundle=bundle,
        note=found.note,
    )


def pull(
    ref: str, out: Path, *, tracking_uri: str | None = None, cache: Path | None = None, timeout_s: float = 8.0
) -> ResolvedModel:
    """Copies a verified bundle into a folder of the user's.

    Args:
        ref: See `resolve`.
        out: Where the bundle shall lie; an older bundle there is replaced, anything else is left alone.
        tracking_uri: See `resolve`.
        cache: See `resolve`.
        timeout_s: See `resolve`.

    Raises:
        ModelReferenceError: Nothing answers to the reference.
        TrackingError: The server or database cannot be used.
        BundleError: The bundle is damaged or of a newer format.
        OutputError: The folder or the cache cannot be written, or something that is no bundle is in the way.
    """
    resolved = resolve(ref, tracking_uri=tracking_uri, cache=cache, timeout_s=timeout_s)
    bundle = read_bundle(resolved.folder)
    files = {name: (bundle.folder / name).read_bytes() for name in bundle.manifest.files}
    written = write_bundle(out, bundle.manifest, files)
    return ResolvedModel(written.folder, resolved.title, resolved.model_id, resolved.aliases, resolved.note)


def fetch(session: Session, found: Found, cache: Path | None) -> Bundle:
    """The bundle of what was found, from the cache or downloaded into it.

    Raises:
        ModelReferenceError: Its files are gone, or it holds no bundle.
        BundleError: The bundle is damaged or of a newer format.
        OutputError: The cache cannot be written.
    """
    location = str(found.model.artifact_location)
    uri = f"{location.rstrip('/')}/{_BUNDLE_PATH}"

    def download(staging: Path) -> Path:
        folder = local_folder(uri)
        if folder is None:
            return Path(download_artifacts(artifact_uri=uri, dst_path=str(staging), tracking_uri=session.uri))
        if not (folder / MANIFEST).is_file():
            raise ModelReferenceError(
                f"{found.title} holds no bundle: its files are gone from {folder}, or not anomvae's"
            )
        return Path(shutil.copytree(folder, staging / "bundle"))

    return fetch_bundle(cache or default_cache(), found.model.tags.get("anomvae.bundle_sha256"), download)


def _instant(timestamp_ms: int | None) -> str:
    """Milliseconds since 1970 as an ISO instant, UTC."""
    moment = dt.datetime.fromtimestamp((timestamp_ms or 0) / 1000, tz=dt.UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
