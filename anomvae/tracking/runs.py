"""Logging a bundle: a run, one model with two flavours, and a registered version; from the bundle alone."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anomvae.bundle.folder import RECORD
from anomvae.errors import TrackingError
from anomvae.tracking.reference import CANDIDATE, CHAMPION, check_model_name
from anomvae.tracking.session import Session, artifact_root, error_code, open_session
from anomvae.tracking.uri import shown_uri, sqlite_path

# The session sets MLflow up, so it is imported before anything of MLflow.
# isort: split
from mlflow.entities import DatasetInput, InputTag, LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from anomvae.tracking.contents import (
    Times,
    make_curves,
    make_dataset,
    make_metrics,
    make_params,
    make_schema,
    make_tags,
)
from anomvae.tracking.flavours import save_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import MlflowClient
    from mlflow.entities import Dataset

    from anomvae.bundle import Bundle, Calibration, TrainingRecord

_PAGES = ("report.html", "card.md", RECORD)
_LONGEST_MODEL_PARAM = 5000
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # MLflow's pages: training, not GenAI


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """A bundle that has been logged.

    Attributes:
        run_id: Id of the run.
        experiment: Name of its experiment.
        model_name: Name of the registered model.
        version: Number of the version registered.
        aliases: Aliases that now point to it.
        model_id: Id of the logged model.
        tracking_uri: Where it was logged.
        how_to_open: What opens it: a shell command, or the address of the run's page.
    """

    run_id: str
    experiment: str
    model_name: str
    version: int
    aliases: tuple[str, ...]
    model_id: str
    tracking_uri: str
    how_to_open: str


def log_bundle(
    bundle: Bundle,
    *,
    tracking_uri: str | None = None,
    experiment: str = "anomvae",
    model_name: str | None = None,
    timeout_s: float = 8.0,
) -> LoggedRun:
    """Logs a bundle as a run and registers it as a new version, with the alias `candidate`.

    The version also becomes `champion` where the model has none. It is registered last, once everything it needs is
    stored: an interrupted call leaves at most a run marked as failed.

    Args:
        bundle: The bundle; it may have been fitted long ago, on another machine.
        tracking_uri: Tracking server or database; by default `MLFLOW_TRACKING_URI`, else `mlflow.db` here.
        experiment: Name of the experiment; made where it does not exist.
        model_name: Name to register it under; by default the manifest's.
        timeout_s: Longest wait for the server's first answer, in seconds.

    Raises:
        SettingError: The name cannot be a model's.
        TrackingError: The server or the database cannot be used. Nothing is lost: log the bundle again later.
    """
    fit = _Fit.of(bundle, check_model_name(model_name or bundle.manifest.name))
    with open_session(tracking_uri, write=True, timeout_s=timeout_s) as session:
        experiment_id = _find_experiment(session, experiment)
        with _run(session, experiment_id, fit) as run_id:
            _log_contents(session.client, run_id, fit)
            model_id = _log_model(session.client, experiment_id, run_id, fit)
        version = _register(session.client, run_id, model_id, fit)
        aliases = _point_aliases(session.client, fit.name, version)
    how_to_open = _how_to_open(session.uri, experiment_id, run_id)
    return LoggedRun(run_id, experiment, fit.name, version, aliases, model_id, session.uri, how_to_open)


@dataclass(frozen=True, slots=True)
class _Fit:
    """A bundle and what is made of it for logging."""

    bundle: Bundle
    name: str
    record: TrainingRecord
    times: Times
    dataset: Dataset
    tags: dict[str, str]
    note: str

    @property
    def calibration(self) -> Calibration:
        """What its verdicts rest on."""
        return self.bundle.manifest.calibration

    @classmethod
    def of(cls, bundle: Bundle, name: str) -> _Fit:
        manifest = bundle.manifest
        note = (
            f"{manifest.model} on {len(manifest.columns)} columns of {manifest.provenance.rows} rows, calibrated on "
            f"{_promise(manifest.calibration)}."
        )
        record, times, dataset = bundle.read_record(), Times.of(manifest), make_dataset(manifest)
        return cls(bundle, name, record, times, dataset, make_tags(bundle), note)


def _promise(calibration: Calibration) -> str:
    said = f"{calibration.rows} rows to alarm on {calibration.alarm_rate:.4g} of normal rows"
    if calibration.confidence is not None:
        said += f" with {100 * calibration.confidence:g} % confidence"
    if calibration.groups:
        said += f", {len(calibration.groups)} groups each on its own"
    return said + (", by a fitted tail where its rows do not suffice" if calibration.tail is not None else "")


def _find_experiment(session: Session, name: str) -> str:
    """The experiment's id; it is made where it does not exist."""
    client = session.client
    found = client.get_experiment_by_name(name)
    if found is None:
        database = sqlite_path(session.uri)
        location = (artifact_root(database) / name.replace("/", "-")).as_uri() if database else None
        try:
            return client.create_experiment(name, artifact_location=location, tags=_EXPERIMENT_TAGS)
        except MlflowException as error:
            if error_code(error) != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another fit was faster
    if found is None or found.lifecycle_stage != "active":
        raise TrackingError(f"the experiment {name!r} was deleted: name another, or `mlflow experiments restore` it")
    return str(found.experiment_id)


@contextlib.contextmanager
def _run(session: Session, experiment_id: str, fit: _Fit) -> Iterator[str]:
    """A run that ends as finished, as failed on an error, or as killed when interrupted."""
    client, times = session.client, fit.times
    tags = {**fit.tags, "mlflow.note.content": fit.note, "mlflow.source.name": "anomvae"}
    fitted = fit.bundle.manifest.provenance.created[:16].replace("T", " ")
    run_id = client.create_run(experiment_id, times.start_ms, tags, run_name=f"{fit.name} {fitted}").info.run_id
    try:
        yield run_id
    except BaseException as error:
        with contextlib.suppress(Exception):  # the first error is the one to tell
            client.set_terminated(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    client.set_terminated(run_id, "FINISHED", end_time=times.end_ms)


def _log_contents(client: MlflowClient, run_id: str, fit: _Fit) -> None:
    """Logs all that the run shows."""
    for params in make_params(fit.calibration, fit.record):
        client.log_batch(run_id, params=params)
    for points in make_curves(fit.record, fit.times):
        client.log_batch(run_id, metrics=points)
    client.log_inputs(run_id, [DatasetInput(fit.dataset, [InputTag("mlflow.data.context", "training")])])
    for page in _PAGES:
        if page in fit.bundle.manifest.files:
            client.log_artifact(run_id, str(fit.bundle.folder / page))
    client.log_dict(run_id, make_schema(fit.bundle.manifest), "schema.json")


def _log_model(client: MlflowClient, experiment_id: str, run_id: str, fit: _Fit) -> str:
    """Logs the model with the outcomes; returns its id."""
    params = {
        param.key: param.value[:_LONGEST_MODEL_PARAM]
        for batch in make_params(fit.calibration, fit.record)
        for param in batch
    }
    made = client.create_logged_model(experiment_id, fit.name, run_id, fit.tags, params, "anomvae")
    model_id = str(made.model_id)
    try:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
        for metrics in make_metrics(fit.calibration, fit.record, fit.times, fit.dataset, model_id):
            client.log_batch(run_id, metrics=metrics)
        model = Model(artifact_path=made.artifact_location, run_id=run_id, model_uuid=model_id, model_id=model_id)
        with tempfile.TemporaryDirectory(prefix="anomvae-") as staging:
            save_model(fit.bundle, Path(staging) / "model", model)
            client.log_model_artifacts(model_id, str(Path(staging) / "model"))
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the one to tell
            client.finalize_logged_model(model_id, "FAILED")
        raise
    client.finalize_logged_model(model_id, "READY")
    return model_id


def _register(client: MlflowClient, run_id: str, model_id: str, fit: _Fit) -> int:
    """Registers the model as a new version; returns its number."""
    kind = {"anomvae.kind": fit.bundle.manifest.kind}
    try:
        client.create_registered_model(fit.name, kind, "Anomaly detector made by anomvae.")
    except MlflowException as error:
        if error_code(error) != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"models:/{model_id}"
    made = client.create_model_version(fit.name, source, run_id, fit.tags, description=fit.note, model_id=model_id)
    return int(made.version)


def _point_aliases(client: MlflowClient, name: str, version: int) -> tuple[str, ...]:
    """Points `candidate` to the version, and `champion` where there is none yet."""
    taken = client.get_registered_model(name).aliases
    aliases = (CANDIDATE,) if CHAMPION in taken else (CANDIDATE, CHAMPION)
    for alias in aliases:
        client.set_registered_model_alias(name, alias, str(version))
    return aliases


def _how_to_open(uri: str, experiment_id: str, run_id: str) -> str:
    if uri.startswith("http"):
        return f"{shown_uri(uri)}/#/experiments/{experiment_id}/runs/{run_id}"
    return f"mlflow ui --backend-store-uri {shlex.quote(shown_uri(uri))}"
