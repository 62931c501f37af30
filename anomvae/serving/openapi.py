"""The daemon's HTTP routes as an OpenAPI document, made for the models it serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anomvae import __version__
from anomvae.serving import openapi_schemas as schemas
from anomvae.serving.exchange import ARROW_STREAM, BINARY, JSON
from anomvae.serving.openapi_schemas import FLAG, TEXT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.serving.model import ServedModel

    Document = dict[str, Any]

ERRORS = {
    400: "The request cannot be read, or its rows do not fit the model.",
    401: "The request carries no valid token.",
    404: "No such route, model or version is served.",
    405: "The route does not take this method.",
    413: "The body, or its number of rows, is larger than the daemon takes.",
    429: "More rows are in flight than may be; try again after `Retry-After` seconds.",
    500: "The daemon failed; its log says how.",
    503: "The daemon is about to stop, or not ready.",
    504: "The caller's time was up before its rows were answered.",
}
_ANYWHERE = (401, 405, 500)
_MODEL = (400, 404, 503)
_SCORING = (400, 404, 413, 429, 503, 504)
_BYTES: Document = {"type": "string", "format": "binary"}
_OBJECT: Document = {"type": "object"}
_PATIENCE: Document = {
    "name": "x-request-timeout",
    "in": "header",
    "schema": {"type": "number", "exclusiveMinimum": 0},
    "description": "The caller's patience in seconds; what cannot be answered by then is dropped.",
}
SCORE, V2, MLFLOW, WATCH, ABOUT = "Score rows", "Open Inference Protocol", "MLflow", "Watch", "About"


def openapi(models: Sequence[ServedModel], *, secured: bool, version: str = __version__) -> Document:
    """The OpenAPI 3.1 document of all HTTP routes.

    Names of models, columns and categories stand in it, and means and ranges of training to three digits; no row does.

    Args:
        models: Those in service, the default first.
        secured: Whether requests need a token.
        version: Of the daemon.
    """
    document: Document = {
        "openapi": "3.1.0",
        "info": {
            "title": "anomvae",
            "version": version,
            "description": "Scores rows: how strange each is, whether it alarms, and which columns say so.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name} for name in (SCORE, V2, MLFLOW, WATCH, ABOUT)],
        "paths": {**_people(models), **_mlflow(models), **_v2(models), **_watch()},
        "components": {
            "schemas": {"Error": schemas.ERROR, "Answers": _answers(models)},
            "responses": {str(code): _error(code) for code in ERRORS},
        },
        "x-models": [schemas.described(model) for model in models],
    }
    if secured:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _people(models: Sequence[ServedModel]) -> Document:
    examples: Document = {}
    for model in models:
        row = schemas.example_record(model)
        examples[f"{model.name}: records"] = {"value": {"records": [row], "top": 3}}
        examples[f"{model.name}: columns"] = {"value": {"columns": {name: [cell] for name, cell in row.items()}}}
    score = _route(
        SCORE,
        "Scores named columns: numbers, verdict and reasons, a row for a row",
        {JSON: {"$ref": "#/components/schemas/Answers"}, ARROW_STREAM: _BYTES},
        _SCORING,
        body={JSON: (schemas.score_schema(models), examples), ARROW_STREAM: (_BYTES, {})},
    )
    score["parameters"] += [
        {"name": name, "in": "query", "schema": schema, "description": schema["description"]}
        for name, schema in schemas.options(models).items()
    ]
    listing = {"type": "object", "required": ["models"], "properties": {"models": {"type": "array", "items": _OBJECT}}}
    return {
        "/v1/models/{model}/score": {"parameters": [_model_parameter(models)], "post": score},
        "/v1/models": {"get": _route(SCORE, "Models with columns, thresholds and alarm rates", {JSON: listing})},
    }


def _mlflow(models: Sequence[ServedModel]) -> Document:
    default = models[0] if models else None
    examples: Document = {}
    lines = ""
    if default is not None:
        row = schemas.example_record(default)
        examples = {
            "dataframe_records": {"value": {"dataframe_records": [row]}},
            "dataframe_split": {"value": {"dataframe_split": {"columns": list(row), "data": [list(row.values())]}}},
        }
        lines = ",".join(row) + "\n" + ",".join("" if cell is None else str(cell) for cell in row.values()) + "\n"
    predictions = {
        "type": "object",
        "required": ["predictions"],
        "properties": {"predictions": {"type": "array", "items": _OBJECT}},
    }
    body: dict[str, tuple[Document, Document]] = {
        JSON: (schemas.invocations_schema(default), examples),
        "text/csv": (TEXT, {"csv": {"value": lines}} if lines else {}),
    }
    said = "Scores rows of the first model, as `mlflow models serve` does"
    return {
        "/invocations": {"post": _route(MLFLOW, said, {JSON: predictions}, _SCORING, body=body)},
        "/ping": {"get": _probe(MLFLOW, "Whether requests are taken, as MLflow and SageMaker ask it", "ready")},
        "/health": {"get": _probe(MLFLOW, "The same", "ready")},
        "/version": {"get": _route(MLFLOW, "Version of the daemon", {"text/plain": TEXT})},
    }


def _v2(models: Sequence[ServedModel]) -> Document:
    examples = {model.name: {"value": schemas.example_infer(model)} for model in models}
    answer = {
        "type": "object",
        "required": ["model_name", "outputs"],
        "properties": {
            "model_name": TEXT,
            "model_version": TEXT,
            "outputs": {"type": "array", "items": schemas.tensor_schema()},
        },
    }
    body = {JSON: (schemas.infer_schema(models), examples), BINARY: (_BYTES, {})}
    tensors = {"type": "array", "items": schemas.tensor_schema()}
    metadata = {
        "type": "object",
        "required": ["name", "platform", "inputs", "outputs"],
        "properties": {"name": TEXT, "platform": TEXT, "inputs": tensors, "outputs": tensors},
    }
    model, one_version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    paths: Document = {"/v2": {"get": _route(V2, "Name, version and extensions of the daemon", {JSON: _OBJECT})}}
    for base in (model, one_version):
        parameters = [_model_parameter(models)]
        if base == one_version:
            parameters.append(_version_parameter(models))
        infer = _route(
            V2, "Scores tensors, in JSON or as bytes after it", {JSON: answer, BINARY: _BYTES}, _SCORING, body=body
        )
        ready = _route(V2, "Whether the model takes requests", {JSON: _OBJECT}, _MODEL)
        paths |= {
            f"{base}/infer": {"parameters": parameters, "post": infer},
            base: {
                "parameters": parameters,
                "get": _route(V2, "Inputs and outputs of the model", {JSON: metadata}, _MODEL),
            },
            f"{base}/ready": {"parameters": parameters, "get": ready},
            f"{base}/config": {
                "parameters": parameters,
                "get": _route(V2, "The model's configuration", {JSON: _OBJECT}, _MODEL),
            },
        }
    index = {"type": "array", "items": {"type": "object", "required": ["name", "state"]}}
    load = _route(V2, "Looks at the model's reference now, and loads what it names", {JSON: _OBJECT}, _MODEL)
    paths["/v2/repository/index"] = {"post": _route(V2, "Models and their states", {JSON: index}, (400, 413))}
    paths["/v2/repository/models/{model}/load"] = {"parameters": [_model_parameter(models)], "post": load}
    return paths


def _watch() -> Document:
    text = {"text/plain": TEXT, "application/openmetrics-text": TEXT}
    return {
        "/v2/health/live": {"get": _probe(WATCH, "Whether the process answers", "live", always=True)},
        "/v2/health/ready": {"get": _probe(WATCH, "Whether all models are loaded and requests taken", "ready")},
        "/metrics": {"get": _route(WATCH, "Metrics for Prometheus", text)},
        "/openapi.json": {"get": _route(ABOUT, "This document", {JSON: _OBJECT})},
        "/docs": {"get": _route(ABOUT, "This document for people", {"text/html": TEXT})},
    }


def _route(
    tag: str,
    summary: str,
    content: Document,
    errors: Sequence[int] = (),
    *,
    body: dict[str, tuple[Document, Document]] | None = None,
) -> Document:
    """One operation; a body is a schema and examples by media type."""
    responses: Document = {
        "200": {"description": "OK", "content": {kind: {"schema": schema} for kind, schema in content.items()}}
    }
    for code in sorted({*errors, *_ANYWHERE}):
        responses[str(code)] = {"$ref": f"#/components/responses/{code}"}
    operation: Document = {"tags": [tag], "summary": summary, "responses": responses}
    if body is not None:
        operation["parameters"] = [_PATIENCE]
        operation["requestBody"] = {
            "required": True,
            "content": {
                kind: {"schema": schema, **({"examples": examples} if examples else {})}
                for kind, (schema, examples) in body.items()
            },
        }
    return operation


def _probe(tag: str, summary: str, key: str, *, always: bool = False) -> Document:
    """A probe: it needs no token, and tells by its status."""
    told = {"type": "object", "required": [key], "properties": {key: FLAG}}
    probe = {**_route(tag, summary, {JSON: told}), "security": []}
    del probe["responses"]["401"]
    if not always:
        probe["responses"]["503"] = {"description": ERRORS[503], "content": {JSON: {"schema": told}}}
    return probe


def _model_parameter(models: Sequence[ServedModel]) -> Document:
    names = [model.name for model in models]
    schema = {**TEXT, "enum": names} if names else TEXT
    return {"name": "model", "in": "path", "required": True, "schema": schema, "description": "Name of the model."}


def _version_parameter(models: Sequence[ServedModel]) -> Document:
    versions = list(dict.fromkeys(model.version for model in models))
    schema = {**TEXT, "enum": versions} if versions else TEXT
    said = "The version that must be in service."
    return {"name": "version", "in": "path", "required": True, "schema": schema, "description": said}


def _error(code: int) -> Document:
    response: Document = {
        "description": ERRORS[code],
        "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    if code == 429:  # noqa: PLR2004  the status that the header belongs to
        response["headers"] = {"Retry-After": {"schema": TEXT, "description": "Seconds."}}
    return response


def _answers(models: Sequence[ServedModel]) -> Document:
    told = {
        "model": TEXT,
        "version": TEXT,
        "alarm_rate": {"type": "number"},
        "answers": {"type": "array", "items": schemas.answer_schema(models)},
    }
    return {"type": "object", "required": list(told), "properties": told}
