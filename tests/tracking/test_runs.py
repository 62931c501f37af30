"""What a run holds, as `mlflow ui` would read it back."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from anomvae.bundle import read_bundle
from anomvae.errors import SettingError, TrackingError
from anomvae.tracking import registry, runs
from anomvae.tracking.runs import LoggedRun, log_bundle

# The product sets MLflow up, so it is imported before anything of MLflow.
# isort: split
import mlflow
import mlflow.data
from mlflow import MlflowClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomvae.bundle import Bundle
    from tests.tracking.conftest import MakeBundle


CALIBRATION = {"calibration": "split", "calibration.tail": "False"}
"""Parameters that every run has beside those of the fit's record."""


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=uri)


@pytest.fixture
def logged(make_bundle: MakeBundle, uri: str) -> LoggedRun:
    return log_bundle(make_bundle(evaluation={"auroc": 0.9, "average_precision": 0.8}), tracking_uri=uri)


def test_the_run_holds_all_parameters_and_outcomes(logged: LoggedRun, client: MlflowClient) -> None:
    run = client.get_run(logged.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["vae.latent"] == "1"
    assert run.data.params["data.path"] == "plant/pumps.parquet"
    assert run.data.params["long"] == "x" * 6000
    assert run.data.metrics["validation_bound"] == 1.5
    assert run.data.metrics["auroc"] == 0.9
    assert run.data.tags["anomvae.alarm_rate"] == "0.1"
    assert "calibrated on 10 rows" in run.data.tags["mlflow.note.content"]


def test_the_run_tells_what_was_promised_and_on_what_it_rests(
    make_grouped: Callable[[], Bundle], logged: LoggedRun, uri: str, client: MlflowClient
) -> None:
    plain = client.get_run(logged.run_id).data
    assert {name: cell for name, cell in plain.params.items() if name.startswith("calibration")} == CALIBRATION
    assert {**plain.metrics, "calibration_rows": 10.0, "smallest_alarm_rate": 1 / 11} == plain.metrics
    assert "calibration_groups" not in plain.metrics
    assert (plain.tags["anomvae.calibration"], plain.tags["anomvae.tail"], plain.tags["anomvae.groups"]) == (
        "split",
        "False",
        "0",
    )
    assert "anomvae.confidence" not in plain.tags
    grouped = client.get_run(log_bundle(make_grouped(), tracking_uri=uri).run_id).data
    asked = {"calibration.confidence": "0.9", "calibration.tail": "True", "calibration.by": "operator"}
    assert {**grouped.params, **asked} == grouped.params
    assert (grouped.metrics["calibration_groups"], grouped.metrics["calibration_groups_pooled"]) == (1.0, 2.0)
    told = {"anomvae.confidence": "0.9", "anomvae.tail": "True", "anomvae.groups": "1", "anomvae.decision": "both"}
    assert {**grouped.tags, **told} == grouped.tags
    note = grouped.tags["mlflow.note.content"]
    assert "with 90 % confidence, 1 groups each on its own, by a fitted tail" in note


def test_a_run_takes_place_when_the_fit_did_not_when_it_was_logged(logged: LoggedRun, client: MlflowClient) -> None:
    info = client.get_run(logged.run_id).info
    assert info.end_time - info.start_time == 12_500
    assert time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(info.end_time / 1000)) == "2026-01-02T03:04:05"


def test_curves_keep_their_steps_and_times(logged: LoggedRun, client: MlflowClient) -> None:
    history = client.get_metric_history(logged.run_id, "train_loss")
    assert [(point.step, point.value) for point in history] == [(0, 4.0), (100, 3.0), (200, 2.0), (300, 1.5)]
    assert [point.timestamp - history[0].timestamp for point in history] == [0, 4000, 8000, 12_000]
    assert [point.value for point in client.get_metric_history(logged.run_id, "epoch")] == [0.0, 1.0, 2.0, 3.0]
    assert client.get_metric_history(logged.run_id, "step") == []


def test_long_curves_are_logged_whole(make_bundle: MakeBundle, uri: str, client: MlflowClient) -> None:
    bundle = make_bundle()
    record = json.loads((bundle.folder / "training.json").read_text())
    record["curves"] = {"step": list(range(1500)), "train_loss": [float(step) for step in range(1500)]}
    record["parameters"] = {f"p{number}": number for number in range(150)}
    (bundle.folder / "training.json").write_text(json.dumps(record))
    logged = log_bundle(bundle, tracking_uri=uri)
    assert len(client.get_metric_history(logged.run_id, "train_loss")) == 1500
    assert len(client.get_run(logged.run_id).data.params) == 150 + len(CALIBRATION)


def test_the_data_set_is_known_by_its_digest(logged: LoggedRun, client: MlflowClient) -> None:
    inputs = client.get_run(logged.run_id).inputs
    assert inputs is not None
    (used,) = inputs.dataset_inputs
    assert used.dataset.name == "pumps.parquet"
    assert used.dataset.digest == ("ab" * 32)[:36]
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]
    columns = json.loads(str(used.dataset.schema))["mlflow_colspec"]
    assert [column["name"] for column in columns] == ["flow", "kind", "starts"]
    assert mlflow.data.get_source(used).to_dict() == {"uri": "plant/pumps.parquet"}


def test_people_find_the_report_the_card_and_the_schema(logged: LoggedRun, client: MlflowClient) -> None:
    names = {item.path for item in client.list_artifacts(logged.run_id)}
    assert {"report.html", "card.md", "schema.json", "training.json"} <= names
    schema = json.loads(Path(client.download_artifacts(logged.run_id, "schema.json")).read_text())
    assert schema["scored"][1] == {"name": "kind", "kind": "categorical", "type": "string", "categories": 2}
    assert schema["left_out"][0]["role"] == "identifier"


def test_the_model_carries_the_outcomes_with_their_data_set(logged: LoggedRun, client: MlflowClient) -> None:
    model = client.get_logged_model(logged.model_id)
    assert str(model.status) == "READY"
    (auroc,) = [metric for metric in model.metrics or [] if metric.key == "auroc"]
    assert (auroc.value, auroc.dataset_name, auroc.dataset_digest) == (0.9, "pumps.parquet", ("ab" * 32)[:36])
    outputs = client.get_run(logged.run_id).outputs
    assert outputs is not None
    assert [output.model_id for output in outputs.model_outputs] == [logged.model_id]


def test_the_first_version_is_champion_and_every_new_one_candidate(make_bundle: MakeBundle, uri: str) -> None:
    first = log_bundle(make_bundle(), tracking_uri=uri)
    second = log_bundle(make_bundle(), tracking_uri=uri)
    assert (first.version, first.aliases) == (1, ("candidate", "champion"))
    assert (second.version, second.aliases) == (2, ("candidate",))
    registered = MlflowClient(tracking_uri=uri).get_registered_model("pumps")
    assert {alias: int(number) for alias, number in registered.aliases.items()} == {"candidate": 2, "champion": 1}


def test_stages_are_never_used(logged: LoggedRun, client: MlflowClient) -> None:
    assert client.get_model_version("pumps", "1").current_stage in (None, "None")


def test_a_second_log_takes_less_than_two_seconds(logged: LoggedRun, make_bundle: MakeBundle, uri: str) -> None:
    start = time.process_time()  # of the processor, since other tests may run beside this one
    log_bundle(make_bundle("again"), tracking_uri=uri)
    assert time.process_time() - start < 2.0


def test_the_bundle_can_be_read_from_another_working_folder(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = log_bundle(make_bundle())  # the default: mlflow.db in the working folder
    assert logged.tracking_uri == f"sqlite:///{tmp_path / 'work' / 'mlflow.db'}"
    assert (tmp_path / "work" / "mlruns").is_dir()
    monkeypatch.chdir(tmp_path)
    assert registry.resolve("pumps", tracking_uri=logged.tracking_uri).title == "pumps/1"
    assert logged.how_to_open == f"mlflow ui --backend-store-uri {logged.tracking_uri}"


def test_a_database_elsewhere_leaves_nothing_in_the_working_folder(logged: LoggedRun) -> None:
    assert list(Path.cwd().iterdir()) == []


def test_nothing_is_printed_and_nothing_stays_changed(
    make_bundle: MakeBundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before, default = dict(os.environ), mlflow.get_tracking_uri()
    log_bundle(make_bundle(), tracking_uri=f"sqlite:///{tmp_path / 'fresh' / 'mlflow.db'}")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert dict(os.environ) == before
    assert mlflow.get_tracking_uri() == default


def test_the_callers_own_tracking_uri_survives(make_bundle: MakeBundle, uri: str, tmp_path: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'theirs.db'}")
    try:
        log_bundle(make_bundle(), tracking_uri=uri)
        assert mlflow.get_tracking_uri() == f"sqlite:///{tmp_path / 'theirs.db'}"
        assert not (tmp_path / "theirs.db").exists()
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # what MLflow itself does to forget it


def test_a_bundle_whose_server_was_down_is_logged_later(make_bundle: MakeBundle, uri: str) -> None:
    bundle = make_bundle()
    with pytest.raises(TrackingError):
        log_bundle(bundle, tracking_uri="http://127.0.0.1:9")
    assert log_bundle(read_bundle(bundle.folder), tracking_uri=uri).version == 1


@pytest.mark.parametrize("fails_in", ["save_model", "make_curves", "_register", "_point_aliases"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full")])
def test_an_interrupted_log_does_not_harm_the_next(
    fails_in: str, error: BaseException, make_bundle: MakeBundle, uri: str, client: MlflowClient
) -> None:
    bundle = make_bundle()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, fails_in, _raiser(error))
        with pytest.raises((KeyboardInterrupt, TrackingError)):
            log_bundle(bundle, tracking_uri=uri)
    (run,) = client.search_runs([experiment_id(client)])
    in_the_run = fails_in in ("save_model", "make_curves")
    assert run.info.status == (("FAILED" if isinstance(error, Exception) else "KILLED") if in_the_run else "FINISHED")
    logged = log_bundle(bundle, tracking_uri=uri)
    assert "champion" in logged.aliases
    assert registry.resolve("pumps@candidate", tracking_uri=uri).title == f"pumps/{logged.version}"


def experiment_id(client: MlflowClient) -> str:
    experiment = client.get_experiment_by_name("anomvae")
    assert experiment is not None
    return str(experiment.experiment_id)


def _raiser(error: BaseException | type[BaseException]) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("name", ["a/b", "a:b", "a@b", "", " a", "a'b", "50%"])
def test_a_name_that_cannot_be_referred_to_is_refused(name: str, make_bundle: MakeBundle, uri: str) -> None:
    with pytest.raises(SettingError, match="cannot be a model's name"):
        log_bundle(make_bundle(name=name), tracking_uri=uri)


def test_a_deleted_experiment_is_told(make_bundle: MakeBundle, uri: str, client: MlflowClient) -> None:
    log_bundle(make_bundle(), tracking_uri=uri)
    client.delete_experiment(experiment_id(client))
    with pytest.raises(TrackingError, match="was deleted"):
        log_bundle(make_bundle(), tracking_uri=uri)


def test_the_experiment_and_the_model_can_be_named(make_bundle: MakeBundle, uri: str) -> None:
    logged = log_bundle(make_bundle(), tracking_uri=uri, experiment="line 1/pumps", model_name="other")
    assert logged.experiment == "line 1/pumps"
    assert registry.resolve("other", tracking_uri=uri).title == "other/1"


def test_a_database_of_another_mlflow_is_told(make_bundle: MakeBundle, uri: str, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    shutil.copy(tmp_path / "mlflow.db", other)
    with closing(sqlite3.connect(other)) as database:
        database.execute("UPDATE alembic_version SET version_num = 'feedfacecafe'")
        database.commit()
    with pytest.raises(TrackingError, match="made by another version of MLflow"):
        log_bundle(make_bundle(), tracking_uri=f"sqlite:///{other}")
