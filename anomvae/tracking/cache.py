"""Fetched bundles, kept by content: a bundle is downloaded once, and verified whenever it is used."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from anomvae.bundle import Bundle, read_bundle
from anomvae.bundle.folder import MANIFEST
from anomvae.errors import BundleError, OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def default_cache() -> Path:
    """The folder for fetched bundles: `ANOMVAE_CACHE`, else `anomvae` in the user's cache folder."""
    if chosen := os.environ.get("ANOMVAE_CACHE"):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "anomvae"


def fetch_bundle(cache: Path, digest: str | None, download: Callable[[Path], Path]) -> Bundle:
    """A verified bundle from the cache, downloaded into it if need be.

    Args:
        cache: The folder for fetched bundles.
        digest: sha256 of the bundle's manifest, if it is known beforehand.
        download: Fetches the bundle into a folder and returns where it lies in there.

    Raises:
        BundleError: What was downloaded is damaged, or not the bundle that was asked for.
        OutputError: The cache cannot be written.
    """
    kept = _kept(cache, digest) if digest else None
    if kept is not None:
        return kept
    with _staging(cache) as staging:
        folder = download(staging)
        bundle = read_bundle(folder)
        found = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
        if digest is not None and found != digest:
            raise BundleError(
                "the registry's files are not those of the registered bundle: they were changed; fit again"
            )
        place = _place(cache, found)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            _replace(folder, place, staging)
        except OSError as error:
            raise _unwritable(cache, error) from error
    return Bundle(place, bundle.manifest)


def _place(cache: Path, digest: str) -> Path:
    return cache / "bundles" / digest


def _kept(cache: Path, digest: str) -> Bundle | None:
    """The bundle if the cache holds it whole."""
    folder = _place(cache, digest)
    try:
        bundle = read_bundle(folder)
        intact = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest() == digest
    except BundleError:
        return None
    return bundle if intact else None


@contextlib.contextmanager
def _staging(cache: Path) -> Iterator[Path]:
    """A folder next to the bundles, gone afterwards."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".fetch-", dir=cache))
    except OSError as error:
        raise _unwritable(cache, error) from error
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _replace(folder: Path, place: Path, staging: Path) -> None:
    """Moves a bundle to its place; a damaged one there goes, an intact one from another process may stay."""
    try:
        folder.rename(place)
    except OSError:
        if not place.exists():
            raise
        place.rename(staging / "replaced")
        folder.rename(place)


def _unwritable(cache: Path, error: OSError) -> OutputError:
    return OutputError(
        f"the cache {cache} cannot be written: {error.strerror or error}; name another with ANOMVAE_CACHE"
    )
