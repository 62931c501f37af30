"""What MLflow should know of a detector's rows: a signature and an example, both made from the manifest alone."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType, Array, Object, Property

from anomvae.tracking.pyfunc import DEFAULT_TOP

if TYPE_CHECKING:
    from anomvae.bundle import Calibration, Column, Manifest, SeriesFacts

_ANY = AnyType()  # type: ignore[no-untyped-call]  # MLflow leaves this constructor untyped
NUMBERS = ("score", "p_value", "reconstruction_error", "p_value_reconstruction", "p_value_verdict")
"""Columns of numbers in the answers, in order; the last only where both scores give the verdict."""
FLAGS = ("alarm", "tail", "pooled")
"""Columns of flags after them; the last only with groups, and bundles of format 1 have the first alone."""


def make_signature(manifest: Manifest) -> ModelSignature:
    """The signature of the detector as a `python_function`.

    All inputs are optional, since a cell may be missing, and a group need not be told; but for a series its time and, where
    assets are told apart, the asset. MLflow refuses whole numbers for `double`, 0/1 for
    `boolean` and pandas categories for `string`; such columns are therefore of its type `any`, and the scorer judges
    them.

    Args:
        manifest: The bundle's manifest.
    """
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(_input_type(column), column.name, required=False) for column in manifest.columns
    ]
    order, answered, in_series = _order(manifest), _answered(manifest), manifest.series is not None
    inputs += [ColSpec(_ANY, name) for name in order]
    inputs += [ColSpec(_ANY, name, required=False) for name in manifest.carried if name not in order]
    outputs: list[ColSpec | TensorSpec] = [
        *(ColSpec(_ANY, name, required=False) for name in manifest.carried),
        *(ColSpec(DataType.double, name, required=not in_series) for name in NUMBERS if name in answered),
        *(ColSpec(DataType.boolean, name) for name in FLAGS if name in answered),
        *([ColSpec(DataType.string, "reason", required=False)] if in_series else []),
        ColSpec(Array(_reason_type(manifest)), "reasons", required=not in_series),
    ]
    params = ParamSchema(
        [
            ParamSpec("top", DataType.integer, DEFAULT_TOP),
            ParamSpec("alarm_rate", DataType.double, manifest.calibration.alarm_rate),
        ]
    )
    return ModelSignature(Schema(inputs), Schema(outputs), params)


def make_example(manifest: Manifest) -> pd.DataFrame:
    """One made-up row: means, and the first category of each; never a row of the data. Of a series a window of such rows.

    Args:
        manifest: The bundle's manifest.

    Returns:
        A frame with the scored columns, and what puts the rows of a series in order.
    """
    n = 1 if manifest.series is None else manifest.series.window
    frame = pd.DataFrame({column.name: [_example_cell(column)] * n for column in manifest.columns})
    if manifest.series is not None:
        frame[manifest.series.time] = _example_times(manifest.series)
        if manifest.series.asset is not None:
            frame[manifest.series.asset] = "any"
    return frame


def _order(manifest: Manifest) -> tuple[str, ...]:
    """Columns without which rows of a series are none."""
    facts = manifest.series
    if facts is None:
        return ()
    return (facts.time,) if facts.asset is None else (facts.time, facts.asset)


def _example_times(facts: SeriesFacts) -> list[float] | list[str]:
    steps = [facts.step_s * step for step in range(facts.window)]
    if facts.counts_time:
        return steps
    first = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
    return [(first + dt.timedelta(seconds=step)).isoformat() for step in steps]


def _answered(manifest: Manifest) -> set[str]:
    """Columns of the answers; the graph would tell, but logging a bundle does not start ONNX Runtime."""
    left_out = {
        "p_value_verdict": manifest.calibration.decision != "both",
        "tail": manifest.format_version == 1,
        "pooled": not any(each.groups for each in _calibrations(manifest)),
    }
    return {name for name in (*NUMBERS, *FLAGS) if not left_out.get(name)}


def _calibrations(manifest: Manifest) -> tuple[Calibration, ...]:
    """That of rows, or of newest steps and of whole series."""
    batch = None if manifest.series is None else manifest.series.batch
    return (manifest.calibration,) if batch is None else (manifest.calibration, batch)


def _input_type(column: Column) -> DataType | AnyType:
    textual = column.type in ("string", "large_string", "string_view")
    if column.kind == "numeric" and column.type in ("float", "double", "halffloat", "float32", "float64"):
        return DataType.double
    if column.kind == "date" and column.type.startswith(("timestamp", "date")) and "tz=" not in column.type:
        return DataType.datetime
    if column.kind == "categorical" and textual:
        return DataType.string
    return _ANY


def _reason_type(manifest: Manifest) -> Object:
    cell = DataType.string if manifest.categorical else DataType.double
    return Object(
        [
            Property("column", DataType.string),
            Property("contribution", DataType.double),
            Property("value", cell, required=False),
            Property("expected", cell, required=False),
        ]
    )


def _example_cell(column: Column) -> float | int | bool | str | dt.datetime | None:
    if column.kind == "date":
        return _middle_day(column)
    if column.kind == "numeric":
        mean = column.mean if column.mean is not None else 0.0
        return round(mean) if column.type.startswith(("int", "uint")) else mean
    if column.kind == "boolean" and column.type == "bool":
        return True
    first = column.categories[0] if column.categories else None
    return int(first) if first is not None and column.type.startswith(("int", "uint")) else first


def _middle_day(column: Column) -> dt.datetime | str | None:
    if column.origin is None:
        return None
    day = dt.datetime.fromisoformat(column.origin) + dt.timedelta(days=column.mean or 0.0)
    day = day.replace(microsecond=0)
    return day.replace(tzinfo=None) if isinstance(_input_type(column), DataType) else day.isoformat()
