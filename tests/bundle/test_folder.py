"""A bundle on disk: all of it or none of it, verified when read, and nobody else's files touched."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from anomvae.bundle import FORMAT_VERSION, Manifest, read_bundle, write_bundle
from anomvae.errors import BundleError, InputError, OutputError

if TYPE_CHECKING:
    from collections.abc import Callable

    Files = dict[str, bytes]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def folder(parent: Path, manifest: Manifest, files: Files) -> Path:
    """A bundle that stands."""
    write_bundle(parent / "pumps", manifest, files)
    return parent / "pumps"


def test_a_bundle_comes_back_as_it_was_written(parent: Path, manifest: Manifest, files: Files) -> None:
    written = write_bundle(parent / "pumps", manifest, files)
    read = read_bundle(parent / "pumps")
    assert read == written
    assert dataclasses.replace(read.manifest, files={}) == manifest
    assert read.manifest.files == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert read.graph.read_bytes() == files["scorer.onnx"]
    assert read.read_record().metrics == {"validation_loss": 1.5}
    assert set(contents(parent / "pumps")) == {*files, "manifest.json"}
    assert os.listdir(parent) == ["pumps"]  # noqa: PTH208  hidden ones too


def test_parents_are_made_and_others_may_read_the_folder(tmp_path: Path, manifest: Manifest, files: Files) -> None:
    folder = tmp_path / "a" / "b" / "c"
    write_bundle(folder, manifest, files)
    assert folder.stat().st_mode & 0o777 == 0o755
    read_bundle(folder)


def test_an_older_bundle_is_replaced_whole(folder: Path, manifest: Manifest) -> None:
    write_bundle(folder, dataclasses.replace(manifest, name="valves"), {"scorer.onnx": b"new"})
    assert read_bundle(folder).manifest.name == "valves"
    assert set(contents(folder)) == {"scorer.onnx", "manifest.json"}
    assert os.listdir(folder.parent) == ["pumps"]  # noqa: PTH208


def test_an_empty_folder_is_taken(parent: Path, manifest: Manifest, files: Files) -> None:
    (parent / "pumps").mkdir(parents=True)
    write_bundle(parent / "pumps", manifest, files)
    read_bundle(parent / "pumps")


def full_disk_at_sync(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    calls = iter(range(100))

    def fsync(descriptor: int) -> None:
        if next(calls) == count:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)


def full_disk_at_write(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    calls, opened = iter(range(100)), Path.open

    def fail_to_open(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "w" in mode and next(calls) == count:
            stream = opened(path, mode, *args, **kwargs)
            stream.write(b"half")
            stream.close()
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", fail_to_open)


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("fill", [full_disk_at_sync, full_disk_at_write])
@pytest.mark.parametrize("old", [True, False])
def test_a_full_disk_leaves_the_old_bundle_and_no_droppings(  # noqa: PLR0913, PLR0917
    parent: Path,
    manifest: Manifest,
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
    fill: Callable[[pytest.MonkeyPatch, int], None],
    count: int,
    old: bool,
) -> None:
    parent.mkdir()
    if old:
        write_bundle(parent / "pumps", manifest, files)
    before = contents(parent)
    with monkeypatch.context() as patch:
        fill(patch, count)
        with pytest.raises(OutputError, match=r"cannot be written to .*pumps: No space left on device"):
            write_bundle(parent / "pumps", manifest, {**files, "card.md": b"# new\n"})
    assert contents(parent) == before
    assert os.listdir(parent) == (["pumps"] if old else [])  # noqa: PTH208
    if old:
        read_bundle(parent / "pumps")


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("failure", [OSError(errno.EACCES, "Permission denied"), KeyboardInterrupt()])
def test_a_swap_that_fails_half_way_leaves_the_old_bundle_and_no_droppings(
    folder: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, failing: int, failure: BaseException
) -> None:
    before, calls, rename = contents(folder), iter(range(100)), Path.rename

    def fail(path: Path, target: Path) -> Path:
        if next(calls) == failing:
            raise failure
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else OutputError):
            write_bundle(folder, manifest, {"scorer.onnx": b"new"})
    assert contents(folder) == before
    assert os.listdir(folder.parent) == ["pumps"]  # noqa: PTH208


def test_an_old_bundle_that_cannot_be_put_back_is_at_least_not_deleted(
    folder: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename = contents(folder), Path.rename

    def fail(path: Path, target: Path) -> Path:
        if target == folder:
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(OutputError):
            write_bundle(folder, manifest, {"scorer.onnx": b"new"})
    (kept,) = folder.parent.glob(".pumps-old-*/pumps")
    assert contents(kept) == before


def test_no_permission_is_the_callers_to_mend(
    parent: Path, manifest: Manifest, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    parent.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkdtemp", refuse)
        with pytest.raises(OutputError, match="Permission denied") as caught:
            write_bundle(parent / "pumps", manifest, files)
    assert isinstance(caught.value, InputError)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(OutputError, match="Permission denied"):
            write_bundle(parent / "deeper" / "pumps", manifest, files)
    assert os.listdir(parent) == []  # noqa: PTH208


def test_a_folder_that_may_not_be_looked_into_is_refused(
    folder: Path, manifest: Manifest, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    for method in ("iterdir", "read_text"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, refuse)
            with pytest.raises(OutputError, match="cannot be looked into: Permission denied"):
                write_bundle(folder, manifest, files)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        with pytest.raises(BundleError, match="cannot be read"):
            read_bundle(folder)


@pytest.mark.parametrize(
    "others",
    [
        {"thesis.docx": "years of work"},
        {"manifest.json": '{"name": "my web app", "icons": []}', "index.html": "<p>"},
        {"manifest.json": "[]"},
        {"manifest.json": "not json", "notes.txt": "mine"},
    ],
)
def test_a_folder_of_something_else_is_refused_and_not_touched(
    parent: Path, manifest: Manifest, files: Files, others: dict[str, str]
) -> None:
    folder = parent / "pumps"
    folder.mkdir(parents=True)
    for name, text in others.items():
        (folder / name).write_text(text)
    with pytest.raises(OutputError, match="holds something that is not a bundle"):
        write_bundle(folder, manifest, files)
    assert contents(folder) == {name: text.encode() for name, text in others.items()}
    assert os.listdir(parent) == ["pumps"]  # noqa: PTH208


def test_a_file_in_the_way_is_refused_and_not_touched(parent: Path, manifest: Manifest, files: Files) -> None:
    parent.mkdir()
    (parent / "pumps").write_text("mine")
    with pytest.raises(OutputError, match="is a file; name a folder"):
        write_bundle(parent / "pumps", manifest, files)
    assert (parent / "pumps").read_text() == "mine"


@pytest.mark.parametrize("name", ["scorer.onnx", "training.json", "card.md"])
def test_a_damaged_file_is_refused_by_name(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name} is damaged"):
        read_bundle(folder)


@pytest.mark.parametrize("name", ["scorer.onnx", "training.json", "card.md"])
def test_a_missing_file_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=rf"incomplete: {name} is missing"):
        read_bundle(folder)


def test_what_is_no_bundle_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(BundleError, match="there is no bundle at"):
        read_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="there is no bundle at"):
        read_bundle(folder / "card.md")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"is not a bundle: it has no manifest\.json"):
        read_bundle(tmp_path / "empty")


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))))


def test_a_newer_format_is_refused_with_what_to_do(folder: Path) -> None:
    rewrite(folder, lambda raw: {**raw, "format_version": FORMAT_VERSION + 1, "surprise": {}})
    with pytest.raises(BundleError, match=rf"format {FORMAT_VERSION + 1}.* up to {FORMAT_VERSION}: upgrade anomvae"):
        read_bundle(folder)


def test_a_bundle_of_a_newer_format_may_still_be_replaced(folder: Path, manifest: Manifest, files: Files) -> None:
    rewrite(folder, lambda raw: {**raw, "format_version": FORMAT_VERSION + 1})
    write_bundle(folder, manifest, files)
    read_bundle(folder)


def test_a_manifest_without_a_graph_is_refused(folder: Path) -> None:
    rewrite(folder, lambda raw: {**raw, "files": {"card.md": raw["files"]["card.md"]}})
    with pytest.raises(BundleError, match=r"names no scorer\.onnx"):
        read_bundle(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "sub/file", "..", ".", "", "a/../../secret"])
def test_names_that_lead_out_of_the_folder_are_refused(folder: Path, name: str) -> None:
    secret = folder.parent / "secret"
    secret.write_bytes(b"secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    rewrite(folder, lambda raw: {**raw, "files": {**raw["files"], name: digest}})
    with pytest.raises(BundleError) as caught:
        read_bundle(folder)
    if "/" in name:
        assert "names a file outside the bundle" in str(caught.value)


def test_the_folder_may_move_and_its_name_does_not_matter(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "elsewhere with spaces")
    assert read_bundle(tmp_path / "elsewhere with spaces").manifest == read_bundle(folder).manifest
