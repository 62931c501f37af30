from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import jsonschema  # type: ignore[import-untyped]
import orjson
import pytest
import schemathesis

from anomvae.bundle import Column
from anomvae.scoring import Scorer
from anomvae.serving.docs_page import docs_page
from anomvae.serving.exchange import JSON
from anomvae.serving.invocations import decode_invocations
from anomvae.serving.model import ServedModel
from anomvae.serving.openapi import openapi
from anomvae.serving.openapi_schemas import described, example_record
from anomvae.serving.records import decode_score
from anomvae.serving.v2 import decode_infer
from tests.calibrated import SITES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomvae.bundle import Bundle

ROUTES = {
    "GET /v2",
    "GET /v2/health/live",
    "GET /v2/health/ready",
    "GET /v2/models/{model}",
    "GET /v2/models/{model}/ready",
    "GET /v2/models/{model}/config",
    "POST /v2/models/{model}/infer",
    "GET /v2/models/{model}/versions/{version}",
    "GET /v2/models/{model}/versions/{version}/ready",
    "GET /v2/models/{model}/versions/{version}/config",
    "POST /v2/models/{model}/versions/{version}/infer",
    "POST /v2/repository/index",
    "POST /v2/repository/models/{model}/load",
    "POST /v1/models/{model}/score",
    "GET /v1/models",
    "POST /invocations",
    "GET /ping",
    "GET /health",
    "GET /version",
    "GET /metrics",
    "GET /openapi.json",
    "GET /docs",
}


@pytest.fixture(scope="module")
def model(fitted: Bundle) -> ServedModel:
    return ServedModel("press", "1", fitted, Scorer(fitted).session)


@pytest.fixture(scope="module")
def document(model: ServedModel) -> dict[str, Any]:
    told = json.loads(json.dumps(openapi([model], secured=True)))
    assert isinstance(told, dict)
    return told


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for verb in ("get", "post"):
            if verb in item:
                yield f"{verb.upper()} {path}", item[verb]


def examples(document: dict[str, Any], path: str, kind: str = JSON) -> list[Any]:
    content = document["paths"][path]["post"]["requestBody"]["content"][kind]
    return [example["value"] for example in content["examples"].values()]


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("secured", [False, True])
def test_the_document_is_openapi_whatever_is_served(model: ServedModel, count: int, secured: bool) -> None:
    other = ServedModel("other", "2", model.bundle, model.session)
    document = openapi([model, other][:count], secured=secured)
    schema = schemathesis.openapi.from_dict(document)
    schema.validate()
    assert {f"{found.ok().method.upper()} {found.ok().path}" for found in schema.get_all_operations()} == ROUTES


def test_every_route_names_its_errors_and_only_probes_need_no_token(document: dict[str, Any]) -> None:
    for route, operation in operations(document):
        codes = set(operation["responses"])
        open_to_all = operation.get("security") == []
        assert open_to_all == (route.split()[1] in {"/ping", "/health", "/v2/health/live", "/v2/health/ready"})
        assert {"200", "405", "500"} <= codes
        assert open_to_all or "401" in codes
        if "requestBody" in operation:
            assert {"400", "404", "413", "429", "503", "504"} <= codes


def test_every_example_fits_its_schema(document: dict[str, Any]) -> None:
    checked = 0
    for _, operation in operations(document):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            for example in content.get("examples", {}).values():
                jsonschema.Draft202012Validator(content["schema"]).validate(example["value"])
                checked += 1
    assert checked >= 7


def test_every_example_is_answered(document: dict[str, Any], model: ServedModel) -> None:
    for body in examples(document, "/v1/models/{model}/score"):
        assert len(decode_score(model, orjson.dumps(body), {}, {}).rows) == 1
    for body in examples(document, "/v2/models/{model}/infer"):
        assert len(decode_infer(model, orjson.dumps(body), {}).rows) == 1
    for body in examples(document, "/invocations"):
        assert len(decode_invocations(model, orjson.dumps(body), {}).rows) == 1
    (text,) = examples(document, "/invocations", "text/csv")
    assert len(decode_invocations(model, text.encode(), {"content-type": "text/csv"}).rows) == 1


def test_answers_are_as_described(document: dict[str, Any], model: ServedModel) -> None:
    decoded = decode_score(model, orjson.dumps([example_record(model)]), {}, {})
    told = json.loads(decoded.encode(model.session.run_in_chunks(decoded.rows, decoded.outputs)).body)
    jsonschema.Draft202012Validator(document["components"]["schemas"]["Answers"]).validate(told)


def test_every_kind_of_column_has_a_schema_and_an_example_that_is_read(fitted: Bundle) -> None:
    from dataclasses import replace

    columns = (
        Column("n", "numeric", "double", mean=61.4937, low=-1e300, high=1e300),
        Column("none", "numeric", "double"),
        Column("d", "date", "timestamp[us]", mean=1.5, low=0, high=1e12, origin="2026-01-01T00:00:00"),
        Column("b", "boolean", "bool", categories=("false", "true")),
        Column("c", "categorical", "int64", categories=("3", "4")),
        Column("w", "categorical", "string", categories=("a",)),
        Column("empty", "categorical", "string"),
    )
    bundle = replace(fitted, manifest=replace(fitted.manifest, columns=columns))
    other = ServedModel("other", "1", bundle, Scorer(fitted).session)
    row = {"n": 61.5, "none": None, "d": "2026-01-02T00:00:00", "b": True, "c": "3", "w": "a", "empty": None}
    assert example_record(other) == row
    assert decode_score(other, orjson.dumps([row]), {}, {}).rows.categorical.tolist() == [[1, 0, 0, 0]]
    assert [column["to"] for column in described(other)["columns"]][2] is None
    document = json.loads(json.dumps(openapi([other], secured=False)))
    body = document["paths"]["/v1/models/{model}/score"]["post"]["requestBody"]["content"][JSON]["schema"]
    jsonschema.Draft202012Validator(body).validate([row])
    assert docs_page(document)


@pytest.fixture(scope="module")
def grouped_model(grouped: Bundle) -> ServedModel:
    return ServedModel("grouped", "2", grouped, Scorer(grouped).session)


def test_answers_of_every_model_are_as_described(model: ServedModel, grouped_model: ServedModel) -> None:
    for served in ([model], [grouped_model], [model, grouped_model]):
        document = json.loads(json.dumps(openapi(served, secured=False)))
        schema = document["components"]["schemas"]["Answers"]
        row = schema["properties"]["answers"]["items"]
        for one in served:
            decoded = decode_score(one, orjson.dumps([{**example_record(one), "site": "north"}]), {}, {})
            told = json.loads(decoded.encode(one.session.run_in_chunks(decoded.rows, decoded.outputs)).body)
            jsonschema.Draft202012Validator(schema).validate(told)
            assert told["answers"][0].keys() - {"site"} <= row["properties"].keys()
        assert set(row["required"]) == {"reasons"}.union(*[one.answered for one in served]) & {
            "reasons",
            *set.intersection(*[set(one.answered) for one in served]),
        }


def test_groups_are_described_and_never_named(model: ServedModel, grouped_model: ServedModel) -> None:
    document = json.loads(json.dumps(openapi([grouped_model], secured=False)))
    page = docs_page(document).decode()
    for text in (json.dumps(document), page):
        assert not any(name in text for name in SITES[:2])  # the third, east, hides in least
    assert "2 groups of <code>site</code> have calibrations of their own" in page
    assert "extrapolated" in page
    infer = document["paths"]["/v2/models/{model}/infer"]["post"]["requestBody"]["content"][JSON]["schema"]
    assert "`group`" in infer["properties"]["inputs"]["items"]["properties"]["name"]["description"]
    assert "`group`" not in json.dumps(openapi([model], secured=False))
    record = document["paths"]["/v1/models/{model}/score"]["post"]["requestBody"]["content"][JSON]["schema"]
    jsonschema.Draft202012Validator(record).validate([{**example_record(grouped_model), "site": "north"}])
    facts = described(grouped_model)["calibration"]
    assert (facts["groups"], facts["groups_pooled"], facts["tail"]) == (2, 1, True)


def test_the_smallest_rate_is_that_of_the_verdict(grouped_model: ServedModel) -> None:
    document = openapi([grouped_model], secured=False)
    (rate,) = [
        p for p in document["paths"]["/v1/models/{model}/score"]["post"]["parameters"] if p["name"] == "alarm_rate"
    ]
    assert rate["schema"]["minimum"] == grouped_model.manifest.calibration.smallest_alarm_rate


class Page(HTMLParser):
    """Tags, the attributes that could fetch something, and whether all that opens also closes."""

    VOID = ("meta", "br")

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.handlers += [name for name, _ in attrs if name.startswith("on") or name == "style"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_shows_every_route_error_and_column_and_fetches_nothing(document: dict[str, Any]) -> None:
    page = docs_page(document)
    parsed = Page(page)
    assert parsed.open == []
    assert parsed.tags.isdisjoint({"script", "link", "img", "iframe", "object", "form"})
    assert parsed.handlers == []
    assert all(link.startswith("#") or link == "openapi.json" for link in parsed.links)
    assert not re.search(rb"@import|url\(", page)
    text = page.decode()
    for route in ROUTES:
        assert f'<code class="path">{route.split()[1]}</code>' in text
    for name in ["temperature", "pressure", "vibration", "cooling", "material", *document["components"]["responses"]]:
        assert name in text
    assert "$TOKEN" in text


def test_anchors_of_the_page_lead_somewhere(document: dict[str, Any]) -> None:
    text = docs_page(document).decode()
    for anchor in re.findall(r'href="#([^"]+)"', text):
        assert f'id="{anchor}"' in text


def test_names_cannot_break_out_of_the_page(fitted: Bundle) -> None:
    from dataclasses import replace

    evil = "</style><script>alert('1')</script>\"&"
    columns = (
        replace(fitted.manifest.columns[0], name=evil),
        Column(evil + "2", "categorical", "string", categories=(evil,)),
    )
    bundle = replace(fitted, manifest=replace(fitted.manifest, columns=columns))
    model = ServedModel(evil, evil, bundle, Scorer(fitted).session)
    page = docs_page(openapi([model], secured=True))
    assert b"<script" not in page
    assert Page(page).open == []


def test_a_page_without_models_says_so() -> None:
    assert b"No model is loaded yet" in docs_page(openapi([], secured=False))
