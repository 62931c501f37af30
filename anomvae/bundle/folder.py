"""A bundle on disk: written all at once or not at all, and verified when read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anomvae.bundle.manifest import Manifest
from anomvae.bundle.record import TrainingRecord
from anomvae.errors import BundleError, OutputError

if TYPE_CHECKING:
    from collections.abc import Mapping

MANIFEST = "manifest.json"
GRAPH = "scorer.onnx"
RECORD = "training.json"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle.

    Attributes:
        folder: Where it lies.
        manifest: What its graph expects, promises and comes from.
    """

    folder: Path
    manifest: Manifest

    @property
    def graph(self) -> Path:
        """The ONNX file."""
        return self.folder / GRAPH

    def read_record(self) -> TrainingRecord:
        """The record of the training run."""
        return TrainingRecord.from_json((self.folder / RECORD).read_text(encoding="utf-8"))


def write_bundle(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Writes a bundle atomically: a reader sees the old bundle, the new one, or for an instant none; never half of one.

    Args:
        folder: Where it shall lie. An older bundle there is replaced; anything else there is not touched.
        manifest: The manifest; the digests of the files are filled in here.
        files: Contents by name.

    Raises:
        OutputError: The folder cannot be written, the disk is full, or something that is no bundle is in the way.
    """
    folder = folder.absolute()
    refuse_occupied(folder)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    manifest = dataclasses.replace(manifest, files=digests)
    digests[MANIFEST] = manifest_digest(manifest.to_json())
    manifest = dataclasses.replace(manifest, files=digests)
    staging: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        for name, content in {**files, MANIFEST: manifest.to_json().encode()}.items():
            _write_durably(staging / name, content)
        staging.chmod(0o755)
        _swap_in(staging, folder)
    except OSError as error:
        raise OutputError(f"the bundle cannot be written to {folder}: {error.strerror or error}") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    del digests[MANIFEST]
    return Bundle(folder, dataclasses.replace(manifest, files=digests))


def read_bundle(folder: Path) -> Bundle:
    """Reads and verifies a bundle.

    Args:
        folder: Where it lies.

    Raises:
        BundleError: It is not there, incomplete, of a newer format, or a file is not what the manifest says.
    """
    if not folder.is_dir():
        raise BundleError(f"there is no bundle at {folder}")
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{folder / MANIFEST} cannot be read: it is damaged or not readable by this user") from error
    manifest = Manifest.from_json(text, where=str(folder / MANIFEST))
    own = manifest.files.get(MANIFEST)
    files = {name: digest for name, digest in manifest.files.items() if name != MANIFEST}
    manifest = dataclasses.replace(manifest, files=files)
    for name, digest in files.items():
        _verify(folder, name, digest)
    if GRAPH not in manifest.files:
        raise BundleError(f"{folder} is incomplete: its manifest names no {GRAPH}")
    if own != manifest_digest(text):
        raise BundleError(f"{folder / MANIFEST} is damaged or was changed by hand; fit or pull it again")
    return Bundle(folder, manifest)


def manifest_digest(text: str) -> str:
    """sha256 of a manifest's content without its own entry, whatever its white space and order."""
    raw = json.loads(text)
    raw["files"] = {name: digest for name, digest in raw["files"].items() if name != MANIFEST}
    return hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()


def refuse_occupied(folder: Path) -> None:
    """Refuses a folder that holds something other than a bundle.

    Raises:
        OutputError: It is a file, or a folder with other things in it.
    """
    if folder.is_file():
        raise OutputError(f"{folder} is a file; name a folder for the bundle")
    try:
        occupied = folder.is_dir() and any(folder.iterdir()) and not _is_bundle(folder)
    except OSError as error:
        raise OutputError(f"{folder} cannot be looked into: {error.strerror}") from error
    standing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        Path(tempfile.mkdtemp(prefix=".anomvae-", dir=folder.parent if standing == folder else standing)).rmdir()
    except OSError as error:
        raise OutputError(
            f"the bundle cannot be written to {folder}: {error.strerror or 'the system refuses'}"
        ) from error
    if occupied:
        raise OutputError(f"{folder} holds something that is not a bundle; name another folder")


def _is_bundle(folder: Path) -> bool:
    """Whether a folder's manifest is one of ours, of whatever version; web apps have a `manifest.json` too."""
    try:
        raw = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(raw, dict) and {"format_version", "files"} <= raw.keys()


def _verify(folder: Path, name: str, digest: str) -> None:
    if Path(name).name != name:
        raise BundleError(f"{folder / MANIFEST} names a file outside the bundle")
    try:
        with (folder / name).open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{folder} is incomplete: {name} is missing or cannot be read") from error
    if found != digest:
        raise BundleError(f"{folder / name} is damaged: its sha256 is not the one in {MANIFEST}; fit or pull it again")


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _swap_in(staging: Path, folder: Path) -> None:
    """Puts the finished folder in place; an older bundle goes only once the new one stands."""
    if not folder.exists():
        staging.rename(folder)
        return
    retired = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    old = retired / folder.name
    try:
        folder.rename(old)
        staging.rename(folder)
    except BaseException:  # an interrupt too
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        if folder.exists():  # where neither rename back worked, the old bundle stays in `retired`
            shutil.rmtree(retired, ignore_errors=True)
