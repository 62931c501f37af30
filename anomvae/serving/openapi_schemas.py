"""What requests to a model may hold, and an example of each, all made from its manifest."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from anomvae.data.encoding import NUMBER_TYPE
from anomvae.scoring.exact import FLAGS
from anomvae.scoring.scorer import MAX_TOP, answer_outputs
from anomvae.serving.metadata import GROUP, calibration_facts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.bundle import Column
    from anomvae.serving.model import ServedModel

    Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
NUMBER_OR_NULL: Schema = {"type": ["number", "null"]}
ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "description": "What was wrong, where, and what to do; never a value."}},
}
OPTIONS: Schema = {
    "top": {"type": "integer", "minimum": 0, "maximum": MAX_TOP, "description": "Reasons a row gets."},
    "alarm_rate": {
        "type": "number",
        "exclusiveMinimum": 0,
        "exclusiveMaximum": 1,
        "description": "Share of normal rows that may alarm, in place of the model's own.",
    },
}
MEANINGS = {
    "score": "Negative log likelihood bound in nats; higher is stranger.",
    "p_value": "Share of normal rows whose score is at least this strange.",
    "reconstruction_error": "Mean squared error in scaled units; higher is stranger.",
    "p_value_reconstruction": "Share of normal rows whose reconstruction error is at least this large.",
    "p_value_verdict": "Share of normal rows at least this strange by both together: the verdict is held against it.",
    "alarm": "The verdict.",
    "tail": "The verdict's p-value is extrapolated: the row is stranger than all rows that calibrated.",
    "pooled": "The row was held against the rows of all groups, since its group is not known or was too small.",
}
"""Of what an answer may hold for each row, in words."""
_TYPES = {"FP32": ["number", "null"], "INT64": ["integer"], "BOOL": ["boolean"]}
_DATATYPES = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"]


def options(models: Sequence[ServedModel]) -> Schema:
    """What a caller may ask for beside scores; alarm rates from the smallest on that any of the models supports."""
    smallest = [model.manifest.calibration.smallest_alarm_rate for model in models]
    if not smallest:
        return OPTIONS
    rate = {key: value for key, value in OPTIONS["alarm_rate"].items() if key != "exclusiveMinimum"}
    return {**OPTIONS, "alarm_rate": {**rate, "minimum": min(smallest)}}


def record_schema(model: ServedModel) -> Schema:
    """A row by column name; columns beyond these are not looked at, identifiers go along to the answer."""
    columns = model.manifest.columns
    cells = {column.name: _cell(column) for column in columns}
    carried = {name: {"type": ["string", "number", "boolean", "null"]} for name in model.manifest.carried}
    return {"type": "object", "required": [column.name for column in columns], "properties": {**carried, **cells}}


def columns_schema(model: ServedModel) -> Schema:
    """Lists of cells by column name."""
    record = record_schema(model)
    lists = {name: {"type": "array", "items": cell} for name, cell in record["properties"].items()}
    return {**record, "properties": lists, "additionalProperties": {"type": "array"}}


def score_schema(models: Sequence[ServedModel]) -> Schema:
    """Body of `/v1/models/{model}/score`."""
    records = {"type": "array", "items": any_of([record_schema(model) for model in models])}
    columns = any_of([columns_schema(model) for model in models])
    more = options(models)
    return {"oneOf": [_closed({"records": records}, more), _closed({"columns": columns}, more), records]}


def invocations_schema(model: ServedModel | None) -> Schema:
    """Body of `/invocations`, which asks the default model."""
    record: Schema = {"type": "object"} if model is None else record_schema(model)
    columns: Schema = {"type": "object"} if model is None else columns_schema(model)
    names = [] if model is None else [column.name for column in model.manifest.columns]
    row: Schema = {"type": "array", "minItems": len(names), "maxItems": max(1, len(names))}
    lists: Schema = {"type": "array", "items": row}
    split = _closed(
        {"columns": {"type": "array", "items": TEXT, "uniqueItems": True}, "data": lists}, {"index": {"type": "array"}}
    )
    if names:
        split["properties"]["columns"] = {"const": names}
    records: Schema = {"type": "array", "items": record}
    more = options([] if model is None else [model])
    params = {"params": {"type": "object", "properties": more, "additionalProperties": False}}
    forms: Schema = {
        "dataframe_split": split,
        "dataframe_records": records,
        "instances": {"anyOf": [records, lists]},
        "inputs": {"anyOf": [columns, lists]},
    }
    return {"oneOf": [_closed({name: form}, params) for name, form in forms.items()]}


def infer_schema(models: Sequence[ServedModel]) -> Schema:
    """Body of `/v2/models/{model}/infer`."""
    outputs = list(dict.fromkeys(name for model in models for name in model.outputs))
    tensor: Schema = {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {**TEXT, "description": f"{_inputs(models)}, or the names of the columns."},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 2},
            "datatype": {"enum": [*_DATATYPES, "BYTES"]},
            "parameters": {"type": "object"},
            "data": {"type": "array", "description": "Flat or nested, row by row; null is a missing number."},
        },
    }
    wanted: Schema = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"enum": outputs} if outputs else TEXT, "parameters": {"type": "object"}},
    }
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {**TEXT, "description": "Comes back with the answer."},
            "inputs": {"type": "array", "items": tensor, "minItems": 1},
            "outputs": {"type": "array", "items": wanted, "description": "Only these are computed; all if left out."},
            "parameters": {
                "type": "object",
                "properties": {
                    "alarm_rate": options(models)["alarm_rate"],
                    "timeout": {"type": "integer", "minimum": 1, "description": "The caller's patience, microseconds."},
                    "binary_data_output": {**FLAG, "description": "Answer with bytes after the JSON."},
                },
            },
        },
    }


def example_record(model: ServedModel) -> dict[str, Any]:
    """One made-up row: means to three digits and the first category of each; never a row of the data."""
    return {column.name: _example(column) for column in model.manifest.columns}


def example_infer(model: ServedModel) -> dict[str, Any]:
    """The same row as tensors."""
    manifest, inputs = model.manifest, []
    for spec in model.inputs:
        if spec.name == "numeric":
            data: list[Any] = [rounded(column.mean) for column in manifest.numeric]
        else:
            data = [0 for _ in manifest.categorical]
        inputs.append({"name": spec.name, "shape": [1, len(data)], "datatype": spec.datatype, "data": data})
    return {"inputs": inputs, "outputs": [{"name": "score"}, {"name": "p_value"}, {"name": "alarm"}]}


def described(model: ServedModel) -> dict[str, Any]:
    """A model for people: its columns with what training saw of them, rounded."""
    return {
        "name": model.name,
        "version": model.version,
        "alarm_rate": model.manifest.calibration.alarm_rate,
        "smallest_alarm_rate": rounded(model.manifest.calibration.smallest_alarm_rate),
        "carried": list(model.manifest.carried),
        "calibration": calibration_facts(model.manifest),
        "columns": [
            {
                "name": column.name,
                "kind": column.kind,
                "from": _shown(column, column.low),
                "to": _shown(column, column.high),
                "categories": list(column.categories),
                "may_be_missing": column.missing_share > 0,
            }
            for column in model.manifest.columns
        ],
    }


def answer_schema(models: Sequence[ServedModel]) -> Schema:
    """What a row is answered with; beside it stand the carried columns."""
    cell = {"type": ["number", "string", "boolean", "null"]}
    reason = {"column": TEXT, "contribution": NUMBER_OR_NULL, "value": cell, "expected": cell}
    reasons = {"type": "array", "items": {"type": "object", "required": list(reason), "properties": reason}}
    names = answer_outputs({name for model in models for name in model.outputs} or MEANINGS)
    answer = {name: {**(FLAG if name in FLAGS else NUMBER_OR_NULL), "description": MEANINGS[name]} for name in names}
    always = [name for name in names if all(name in model.outputs for model in models)] if models else []
    return {"type": "object", "required": [*always, "reasons"], "properties": {**answer, "reasons": reasons}}


def tensor_schema() -> Schema:
    """A tensor of an answer."""
    return {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {"name": TEXT, "shape": {"type": "array", "items": {"type": "integer"}}, "datatype": TEXT},
    }


def any_of(schemas: Sequence[Schema]) -> Schema:
    """Any of some schemas; of none: an object."""
    if not schemas:
        return {"type": "object"}
    return schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}


def rounded(number: float | None) -> float | None:
    """Three digits of a number.

    Example:
        >>> rounded(61.4937)
        61.5
    """
    return None if number is None else float(f"{number:.3g}")


def _inputs(models: Sequence[ServedModel]) -> str:
    """The graph's inputs in words."""
    grouped = any(model.manifest.calibration.group_column is not None for model in models)
    names = ("numeric", "categorical", "alarm_rate", *((GROUP.name,) if grouped else ()))
    return ", ".join(f"`{name}`" for name in names)


def _closed(required: Schema, optional: Schema) -> Schema:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **optional},
        "additionalProperties": False,
    }


def _cell(column: Column) -> Schema:
    if column.kind == "numeric":
        return {"type": ["number", "null"]}
    if column.kind == "date":
        return {"type": ["string", "null"], "format": "date-time"}
    if column.kind == "boolean":
        return {"type": ["boolean", "null"]}
    return {"type": ["integer", "string", "null"] if NUMBER_TYPE.fullmatch(column.type) else ["string", "null"]}


def _example(column: Column) -> Any:
    if column.kind == "date":
        return _shown(column, column.mean)
    if column.kind == "numeric":
        return rounded(column.mean)
    if column.kind == "boolean":
        return True
    return column.categories[0] if column.categories else None


def _shown(column: Column, value: float | None) -> Any:
    """A number to three digits; a day, of dates."""
    if value is None or column.origin is None:
        return rounded(value)
    try:
        day = dt.datetime.fromisoformat(column.origin) + dt.timedelta(days=value)
    except OverflowError:
        return None
    return day.date().isoformat() + "T00:00:00"
