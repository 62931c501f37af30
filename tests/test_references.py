"""References to folders lead to one whole bundle, whatever happens to the folder meanwhile."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import threading
from typing import TYPE_CHECKING

import pytest

from anomvae import references
from anomvae.bundle import read_bundle, write_bundle
from anomvae.bundle.folder import MANIFEST
from anomvae.errors import BundleError, ModelReferenceError
from anomvae.references import find_challenger, find_model

if TYPE_CHECKING:
    from pathlib import Path

    from anomvae.bundle import Bundle


@pytest.fixture
def folder(fitted: Bundle, tmp_path: Path) -> Path:
    return _copied(fitted, tmp_path / "press")


def _copied(bundle: Bundle, folder: Path) -> Path:
    shutil.copytree(bundle.folder, folder)
    return folder


def _other(bundle: Bundle, folder: Path, created: str) -> Path:
    """The same bundle, made at another time."""
    provenance = dataclasses.replace(bundle.manifest.provenance, created=created)
    files = {name: (bundle.folder / name).read_bytes() for name in bundle.manifest.files}
    return write_bundle(folder, dataclasses.replace(bundle.manifest, provenance=provenance), files).folder


def test_a_folder_is_named_after_its_bundle_and_its_manifest(folder: Path) -> None:
    found = find_model(str(folder))
    digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    assert (found.name, found.version, found.digest, found.title) == ("press", digest[:12], digest, str(folder))
    assert found.note is None


@pytest.mark.parametrize("ref", ["./none", "/none/here", "~/none-of-that-name", "a/b/c", "a/b/"])
def test_what_looks_like_a_folder_and_is_none_is_told_so(ref: str) -> None:
    with pytest.raises(ModelReferenceError, match="there is no bundle at"):
        find_model(ref)


def test_a_file_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelReferenceError, match="there is no bundle at file"):
        find_model("file")


def test_a_name_without_a_registry_is_told_where_one_was_looked_for() -> None:
    with pytest.raises(ModelReferenceError, match=r"no registry at .*mlflow\.db"):
        find_model("press@champion")


def test_a_damaged_bundle_is_told(folder: Path) -> None:
    (folder / "card.md").write_bytes(b"changed")
    with pytest.raises(BundleError, match=r"card\.md is damaged"):
        find_model(str(folder))


@pytest.mark.parametrize("ref", ["press/2", "models:/press/2", "models:/m-0123", "runs:/0123", "press@challenger"])
def test_what_follows_no_alias_has_no_challenger(ref: str) -> None:
    assert find_challenger(ref) is None


def test_a_folder_has_no_challenger(folder: Path) -> None:
    assert find_challenger(str(folder)) is None


def test_bundles_copied_over_one_another_never_mix(
    fitted: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = _other(fitted, tmp_path / "other", "2030-01-01T00:00:00+00:00")
    changes = iter([other])

    def read_and_change(path: Path) -> Bundle:
        bundle = read_bundle(path)
        for new in changes:  # once: after it was read, and before anything else is
            shutil.rmtree(path)
            shutil.copytree(new, path)
        return bundle

    monkeypatch.setattr(references, "read_bundle", read_and_change)
    found = find_model(str(folder))
    assert found.digest == hashlib.sha256((other / MANIFEST).read_bytes()).hexdigest()
    assert found.bundle.manifest == read_bundle(other).manifest


def test_a_folder_that_is_replaced_again_and_again_is_always_found_whole(fitted: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "press"
    digests = {}
    for number in range(2):
        made = _other(fitted, tmp_path / f"made{number}", f"203{number}-01-01T00:00:00+00:00")
        digests[find_model(str(made)).digest] = read_bundle(made).manifest.provenance.created
    _copied(read_bundle(tmp_path / "made0"), folder)
    stop = threading.Event()

    def replace() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            _other(fitted, folder, f"203{number % 2}-01-01T00:00:00+00:00")
            stop.wait(0.02)  # a moment's peace: who replaces without end is never done

    replacing = threading.Thread(target=replace)
    replacing.start()
    try:
        for _ in range(60):
            found = find_model(str(folder))
            assert found.bundle.manifest.provenance.created == digests[found.digest]
    finally:
        stop.set()
        replacing.join()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_told(folder: Path) -> None:
    folder.chmod(0)
    try:
        with pytest.raises(BundleError):
            find_model(str(folder))
    finally:
        folder.chmod(0o700)
