"""A version is loaded only if it is what its manifest says and answers as it should."""

from __future__ import annotations

import dataclasses
from io import StringIO
from typing import TYPE_CHECKING

import pytest

from anomvae.bundle import GroupCalibration
from anomvae.daemon.loading import Loader, same_codes, same_inputs
from anomvae.errors import BundleError, ModelReferenceError
from anomvae.observability import Log, Metrics
from anomvae.references import find_model
from anomvae.scoring.providers import choose_providers
from anomvae.scoring.selftest import probe_rows
from tests.streamed import pumps

if TYPE_CHECKING:
    from pathlib import Path

    from anomvae.bundle import Bundle, Manifest
    from tests.daemon.conftest import Remake


@pytest.fixture
def told() -> StringIO:
    return StringIO()


@pytest.fixture
def loader(told: StringIO) -> Loader:
    return Loader(choose_providers("cpu", strict=False), Metrics(), Log(told))


def test_a_sound_version_is_ready_to_score(loader: Loader, fitted: Bundle, told: StringIO) -> None:
    model = loader.load("press", find_model(str(fitted.folder)))
    assert {"score", "p_value", "alarm"} <= model.outputs.keys()
    assert len(model.session.run(probe_rows(model.manifest, 5), ("score",))["score"]) == 5
    assert '"event":"model loaded"' in told.getvalue()


@pytest.mark.parametrize("graph", [b"", b"no graph at all"])
def test_a_graph_that_does_not_load_is_refused(
    loader: Loader, fitted: Bundle, remake: Remake, tmp_path: Path, graph: bytes
) -> None:
    bundle = remake(fitted, tmp_path / "bad", graph=graph)
    with pytest.raises(BundleError, match="not a graph that ONNX Runtime can load"):
        loader.load("press", find_model(str(bundle.folder)))


def test_a_graph_whose_answers_are_no_numbers_is_refused(
    loader: Loader, fitted: Bundle, remake: Remake, tmp_path: Path, nan_graph: bytes
) -> None:
    bundle = remake(fitted, tmp_path / "bad", graph=nan_graph)
    with pytest.raises(BundleError, match="probe rows"):
        loader.load("press", find_model(str(bundle.folder)))


def test_a_manifest_never_serves_with_the_graph_of_another_version(
    loader: Loader, fitted: Bundle, remake: Remake, tmp_path: Path
) -> None:
    folder = remake(fitted, tmp_path / "press").folder
    found = find_model(str(folder))
    other = fitted.graph.read_bytes() + b"\x92\x06\x00"  # the same graph with an empty note of its own at the end
    remake(fitted, folder, graph=other)  # after it was found, before it is loaded
    with pytest.raises(ModelReferenceError, match="has changed since it was read"):
        loader.load("press", found)
    loader.load("press", find_model(str(folder)))


def test_a_folder_that_went_away_since_it_was_found_is_not_loaded(
    loader: Loader, fitted: Bundle, remake: Remake, tmp_path: Path
) -> None:
    folder = remake(fitted, tmp_path / "press").folder
    found = find_model(str(folder))
    folder.rename(tmp_path / "away")
    with pytest.raises(ModelReferenceError, match="has changed since it was read"):
        loader.load("press", found)


def _changed(manifest: Manifest, which: str, **changes: object) -> Manifest:
    columns = tuple(
        dataclasses.replace(column, **changes) if column.name == which else column  # type: ignore[arg-type]
        for column in manifest.columns
    )
    return dataclasses.replace(manifest, columns=columns)


def test_columns_are_compared_as_callers_send_them(fitted: Bundle) -> None:
    manifest = fitted.manifest
    swapped = dataclasses.replace(manifest, columns=manifest.columns[::-1])
    assert same_inputs(manifest, manifest)
    assert same_codes(manifest, manifest)
    assert not same_inputs(manifest, swapped)
    assert not same_inputs(manifest, _changed(manifest, "temperature", name="heat"))
    assert not same_inputs(manifest, _changed(manifest, "temperature", kind="categorical"))
    other = _changed(manifest, "material", categories=("wood",))
    assert same_inputs(manifest, other)
    assert not same_codes(manifest, other)
    assert not same_codes(manifest, _changed(manifest, "temperature", origin="2020-01-01"))


def test_numbers_of_groups_are_codes_too(fitted: Bundle) -> None:
    def grouped(by: str, *names: str) -> Manifest:
        groups = tuple(GroupCalibration(name, 100, 1.0, 1.0) for name in names)
        calibration = dataclasses.replace(fitted.manifest.calibration, by=by, groups=groups)
        return dataclasses.replace(fitted.manifest, calibration=calibration)

    before = grouped("site", "north", "south")
    assert same_codes(before, grouped("site", "north", "south"))
    for other in (grouped("site", "south", "north"), grouped("site", "north"), fitted.manifest):
        assert same_inputs(before, other)
        assert not same_codes(before, other)
        assert not same_codes(other, before)


def test_a_version_of_series_is_refused(loader: Loader) -> None:
    with pytest.raises(BundleError, match="'pumps' scores series, which the daemon does not serve"):
        loader.load("pumps", find_model(str(pumps().folder)))
