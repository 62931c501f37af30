"""What a run shows: parameters, metrics, curves, tags and the data set, all read from the bundle."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from dataclasses import dataclass
from importlib import metadata
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from mlflow.entities import Dataset, Metric, Param

from anomvae.bundle.folder import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from anomvae.bundle import Bundle, Calibration, Manifest, TrainingRecord

_FORBIDDEN = re.compile(r"[^\w\-. :/]", re.ASCII)  # in names of parameters and metrics
_MOST_PARAMS, _MOST_METRICS = 100, 900  # MLflow takes 100 and 1000 a call
_LONGEST_VALUE, _LONGEST_DIGEST, _LONGEST_NAME = 6000, 36, 250

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Times:
    """When the fit took place, in milliseconds since 1970.

    Attributes:
        start_ms: Its start.
        end_ms: Its end.
    """

    start_ms: int
    end_ms: int

    @classmethod
    def of(cls, manifest: Manifest) -> Times:
        """The times of the fit that made a bundle, however much later it is logged."""
        end = dt.datetime.fromisoformat(manifest.provenance.created)
        end = end if end.tzinfo else end.replace(tzinfo=dt.UTC)
        end_ms = round(end.timestamp() * 1000)
        return cls(end_ms - round(manifest.provenance.fit_seconds * 1000), end_ms)


def bundle_digest(bundle: Bundle) -> str:
    """sha256 of the manifest: since it holds those of all other files, it stands for the whole bundle."""
    return hashlib.sha256((bundle.folder / MANIFEST).read_bytes()).hexdigest()


def dataset_digest(manifest: Manifest) -> str:
    """The data set's digest as MLflow takes it: without the algorithm's name, cut to 36 characters."""
    return manifest.provenance.digest.rpartition(":")[2][:_LONGEST_DIGEST]


def make_tags(bundle: Bundle) -> dict[str, str]:
    """Tags of the run, the model and its version: enough to list models without fetching them."""
    manifest, calibration = bundle.manifest, bundle.manifest.calibration
    sure = {} if calibration.confidence is None else {"anomvae.confidence": repr(calibration.confidence)}
    return {
        "anomvae.version": metadata.version("anomvae"),
        "anomvae.kind": manifest.kind,
        "anomvae.model": manifest.model,
        "anomvae.format_version": str(manifest.format_version),
        "anomvae.bundle_sha256": bundle_digest(bundle),
        "anomvae.data_digest": manifest.provenance.digest,
        "anomvae.alarm_rate": repr(calibration.alarm_rate),
        "anomvae.calibration": calibration.method,
        "anomvae.calibration_rows": str(calibration.rows),
        "anomvae.decision": calibration.decision,
        "anomvae.tail": str(calibration.tail is not None),
        "anomvae.groups": str(len(calibration.groups)),
        **sure,
        "anomvae.fitted": manifest.provenance.created,
    }


def make_params(calibration: Calibration, record: TrainingRecord) -> Iterator[list[Param]]:
    """All parameters, and what the calibration was asked for, in batches that MLflow takes at once; no group's name."""
    asked = {
        "calibration": calibration.method,
        "calibration.confidence": calibration.confidence,
        "calibration.alarms_per_day": calibration.alarms_per_day,
        "calibration.rows_per_day": calibration.rows_per_day,
        "calibration.tail": calibration.tail is not None,
        "calibration.by": calibration.by,
    }
    parameters = {**{name: value for name, value in asked.items() if value is not None}, **record.parameters}
    params = (Param(_key(name), str(value)[:_LONGEST_VALUE]) for name, value in parameters.items())
    return _batches(params, _MOST_PARAMS)


def make_curves(record: TrainingRecord, times: Times) -> Iterator[list[Metric]]:
    """Every curve but `step`, at its steps and, where `seconds` tell, at its times; in batches."""
    curves = record.curves
    longest = max((len(curve) for curve in curves.values()), default=0)
    steps = curves.get("step", list(range(longest)))
    seconds = curves.get("seconds", [0.0] * longest)
    points = (
        Metric(_key(name), float(value), times.start_ms + round(second * 1000), round(step))
        for name, curve in curves.items()
        if name != "step"
        for value, step, second in zip(curve, steps, seconds, strict=False)
    )
    return _batches(points, _MOST_METRICS)


def make_metrics(
    calibration: Calibration, record: TrainingRecord, times: Times, dataset: Dataset, model_id: str
) -> Iterator[list[Metric]]:
    """The outcomes, tied to the model and the data set, at the last step of the curves; in batches."""
    found = {
        "calibration_rows": calibration.rows,
        "smallest_alarm_rate": calibration.smallest_alarm_rate,
    }
    if calibration.by is not None:
        found |= {"calibration_groups": len(calibration.groups), "calibration_groups_pooled": calibration.groups_pooled}
    step = round(max(record.curves.get("step", [0]), default=0))
    outcomes = (
        Metric(
            _key(name),
            float(value),
            times.end_ms,
            step,
            model_id=model_id,
            dataset_name=dataset.name,
            dataset_digest=dataset.digest,
        )
        for name, value in {**found, **record.metrics, **record.evaluation}.items()
    )
    return _batches(outcomes, _MOST_METRICS)


def make_dataset(manifest: Manifest) -> Dataset:
    """The training data as MLflow knows data sets: where from, digest, columns and counts; no data."""
    columns = [
        {"type": column.type, "name": column.name, "required": column.missing_share == 0} for column in manifest.columns
    ]
    source = manifest.provenance.data
    split = manifest.split
    return Dataset(
        name=_dataset_name(source),
        digest=dataset_digest(manifest),
        source_type="local",
        source=json.dumps({"uri": source}),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps(
            {
                "num_rows": manifest.provenance.rows,
                "train": split.train,
                "validation": split.validation,
                "calibration": split.calibration,
                "labelled": split.labelled,
            }
        ),
    )


def make_schema(manifest: Manifest) -> dict[str, object]:
    """The scored and the unscored columns, for people to read in the UI; no statistics and no categories."""
    return {
        "scored": [
            {"name": column.name, "kind": column.kind, "type": column.type, "categories": len(column.categories)}
            for column in manifest.columns
        ],
        "left_out": [
            {"name": column.name, "role": column.role, "reason": column.reason} for column in manifest.left_out
        ],
    }


def _key(name: str) -> str:
    return _FORBIDDEN.sub("_", name)[:_LONGEST_NAME]


def _dataset_name(source: str) -> str:
    return re.split(r"[/\\]", source.rstrip("/\\"))[-1][:_LONGEST_NAME] or "rows"


def _batches(items: Iterable[T], most: int) -> Iterator[list[T]]:
    """Consecutive lists of at most `most` items."""
    rest = iter(items)
    while batch := list(islice(rest, most)):
        yield batch
