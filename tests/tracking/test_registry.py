"""References, the cache, lists and pulls."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anomvae.bundle import read_bundle
from anomvae.errors import BundleError, ModelReferenceError, OutputError
from anomvae.tracking import registry
from anomvae.tracking.reference import is_registry_reference, parse_reference
from anomvae.tracking.runs import LoggedRun, log_bundle

# The product sets MLflow up, so it is imported before anything of MLflow.
# isort: split
from mlflow import MlflowClient

if TYPE_CHECKING:
    from tests.tracking.conftest import MakeBundle


@pytest.fixture
def logged(make_bundle: MakeBundle, uri: str, monkeypatch: pytest.MonkeyPatch) -> list[LoggedRun]:
    """Three versions: 1 is champion, 3 is candidate."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return [log_bundle(make_bundle(f"bundle{number}", latent=number)) for number in (1, 2, 3)]


@pytest.mark.parametrize(
    ("ref", "version"),
    [
        ("pumps", 1),
        ("pumps@champion", 1),
        ("pumps@candidate", 3),
        ("pumps/2", 2),
        ("models:/pumps", 1),
        ("models:/pumps/2", 2),
        ("models:/pumps@candidate", 3),
    ],
)
def test_a_reference_finds_its_version(ref: str, version: int, logged: list[LoggedRun]) -> None:
    resolved = registry.resolve(ref)
    assert resolved.title == f"pumps/{version}"
    assert resolved.note is None
    assert read_bundle(resolved.folder).manifest.latent == version


def test_models_and_runs_are_found_by_id(logged: list[LoggedRun]) -> None:
    second = logged[1]
    by_model = registry.resolve(f"models:/{second.model_id}")
    by_run = registry.resolve(f"runs:/{second.run_id}")
    by_run_and_path = registry.resolve(f"runs:/{second.run_id}/pumps")
    assert by_model.title == f"models:/{second.model_id}"
    assert by_model.folder == by_run.folder == by_run_and_path.folder == registry.resolve("pumps/2").folder


def test_without_a_champion_a_name_means_the_newest_and_says_so(logged: list[LoggedRun], uri: str) -> None:
    MlflowClient(tracking_uri=uri).delete_registered_model_alias("pumps", "champion")
    resolved = registry.resolve("pumps")
    assert resolved.title == "pumps/3"
    assert resolved.note == "'pumps' has no champion: this is its newest version, 3"


@pytest.mark.parametrize(
    ("ref", "told"),
    [
        ("pump", "the registry has no model 'pump'; it has 'pumps'"),
        ("pumps@best", "has no alias 'best'; it has candidate, champion"),
        ("pumps/9", "has no version 9; it has 3, 2, 1"),
        (f"models:/m-{'0' * 32}", "does not exist"),
        ("runs:/0123", "does not exist"),
        ("models:/pumps/Production", "does not name a model"),
        ("models:/", "does not name a model"),
        ("a/b/c", "does not name a model"),
    ],
)
def test_an_unknown_reference_is_told_with_what_exists(ref: str, told: str, logged: list[LoggedRun]) -> None:
    with pytest.raises(ModelReferenceError, match=told):
        registry.resolve(ref)


def test_an_empty_registry_is_told(uri: str) -> None:
    with pytest.raises(ModelReferenceError, match="it has none; fit one first"):
        registry.resolve("pumps", tracking_uri=uri)


def test_what_names_a_model_and_what_a_folder(tmp_path: Path) -> None:
    Path("pumps").mkdir()
    assert not is_registry_reference("pumps")
    assert is_registry_reference("models:/pumps")
    assert is_registry_reference("valves@champion")
    assert is_registry_reference("valves/3")
    for path in ("./valves", "/srv/valves", "~/valves", "out/valves", "..", "valves\\3"):
        assert not is_registry_reference(path)


@pytest.mark.parametrize("ref", ["", "@", "a@", "a/b", "a@b/3", "runs:/", "models:/a/", "a:b"])
def test_malformed_references_never_pass_as_something_else(ref: str) -> None:
    if ref == "models:/a/":
        assert parse_reference(ref).name == "a"
        return
    with pytest.raises(ModelReferenceError, match="does not name a model"):
        parse_reference(ref)


def test_a_bundle_is_downloaded_once(logged: list[LoggedRun], uri: str) -> None:
    first = registry.resolve("pumps")
    location = MlflowClient(tracking_uri=uri).get_logged_model(logged[0].model_id).artifact_location
    shutil.rmtree(location.removeprefix("file://"))
    assert registry.resolve("pumps").folder == first.folder


def test_a_damaged_cache_mends_itself(logged: list[LoggedRun]) -> None:
    folder = registry.resolve("pumps").folder
    (folder / "scorer.onnx").write_bytes(b"damaged")
    assert registry.resolve("pumps").folder == folder
    read_bundle(folder)
    assert [path.name for path in folder.parent.parent.iterdir()] == ["bundles"]


def test_a_damaged_registry_is_told_and_leaves_nothing(logged: list[LoggedRun], uri: str, tmp_path: Path) -> None:
    location = MlflowClient(tracking_uri=uri).get_logged_model(logged[0].model_id).artifact_location
    graph = Path(location.removeprefix("file://")) / "data" / "bundle" / "scorer.onnx"
    graph.write_bytes(b"damaged")
    with pytest.raises(BundleError, match="is damaged"):
        registry.resolve("pumps")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_bundle_put_in_anothers_place_is_noticed(logged: list[LoggedRun], uri: str) -> None:
    client = MlflowClient(tracking_uri=uri)
    first, second = (
        Path(client.get_logged_model(run.model_id).artifact_location.removeprefix("file://")) / "data" / "bundle"
        for run in logged[:2]
    )
    shutil.rmtree(first)
    shutil.copytree(second, first)
    with pytest.raises(BundleError, match="were changed"):
        registry.resolve("pumps")


def test_files_that_are_gone_are_told(logged: list[LoggedRun], uri: str) -> None:
    location = MlflowClient(tracking_uri=uri).get_logged_model(logged[0].model_id).artifact_location
    shutil.rmtree(location.removeprefix("file://"))
    with pytest.raises(ModelReferenceError, match="its files are gone"):
        registry.resolve("pumps")


def test_a_cache_that_cannot_be_written_is_told(logged: list[LoggedRun], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match="name another with ANOMVAE_CACHE"):
        registry.resolve("pumps", cache=tmp_path / "taken")


def test_a_pull_writes_a_verified_bundle(logged: list[LoggedRun], tmp_path: Path) -> None:
    pulled = registry.pull("pumps/2", tmp_path / "out" / "pumps")
    assert read_bundle(pulled.folder).manifest.latent == 2
    registry.pull("pumps/3", tmp_path / "out" / "pumps")
    assert read_bundle(pulled.folder).manifest.latent == 3


def test_a_pull_spares_what_is_no_bundle(logged: list[LoggedRun], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not a bundle"):
        registry.pull("pumps", tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_models_are_listed_with_their_aliases(logged: list[LoggedRun], make_bundle: MakeBundle, uri: str) -> None:
    log_bundle(make_bundle("valves"), model_name="a valve")
    MlflowClient(tracking_uri=uri).create_registered_model("not ours")
    valve, pumps = registry.list_models()
    assert (valve.name, valve.versions, valve.newest, valve.champion, valve.candidate) == ("a valve", 1, 1, 1, 1)
    assert (pumps.name, pumps.versions, pumps.newest, pumps.champion, pumps.candidate) == ("pumps", 3, 3, 1, 3)
    assert pumps.alarm_rate == 0.1
    assert pumps.updated.endswith("Z")


def test_a_version_is_shown_in_full(logged: list[LoggedRun]) -> None:
    details = registry.show("pumps@candidate")
    assert (details.title, details.version, details.aliases) == ("pumps/3", 3, ("candidate",))
    assert (details.run_id, details.model_id) == (logged[2].run_id, logged[2].model_id)
    calibrated = {"calibration_rows": 10.0, "smallest_alarm_rate": 1 / 11}
    assert details.metrics == {"validation_bound": 1.5, "fit_seconds": 12.5, **calibrated}
    assert details.tags["anomvae.alarm_rate"] == "0.1"
    assert [column.name for column in details.bundle.manifest.columns] == ["flow", "kind", "starts"]


def test_the_registry_needs_neither_pandas_nor_torch_nor_onnx(logged: list[LoggedRun]) -> None:
    code = (
        "import sys\n"
        "for name in ('pandas', 'torch', 'onnx', 'sklearn', 'matplotlib', 'scipy'): sys.modules[name] = None\n"
        "from anomvae.tracking import registry\n"
        "print(registry.resolve('pumps').title)\n"
    )
    environment = {"MLFLOW_ALLOW_MODEL_CODE_EXECUTION": "false", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    import os

    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("pumps/1\n", "")


def test_telling_references_apart_does_not_import_mlflow() -> None:
    code = "import sys; import anomvae.tracking.reference, anomvae.tracking.uri; assert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)


def test_without_mlflow_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['mlflow'] = None\n"
        "from anomvae.errors import MissingExtraError\n"
        "try:\n    import anomvae.tracking.registry\n"
        "except MissingExtraError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True
    )
    assert "pip install 'anomvae[mlflow]'" in done.stdout
