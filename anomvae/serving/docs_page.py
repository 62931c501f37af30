"""The page at `/docs`: an OpenAPI document as one HTML file that needs no script and no internet."""

from __future__ import annotations

import json
import math
import re
import shlex
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Document = dict[str, Any]

_VERBS = ("get", "post")
_MOST_CATEGORIES = 12
_LONGEST_CURL_BODY = 400
_ADDRESS = "http://localhost:8080"


def docs_page(document: Document, address: str = _ADDRESS) -> bytes:
    """An OpenAPI document for people: routes with parameters, examples and a line for curl; models; errors.

    Args:
        document: Of :func:`anomvae.serving.openapi.openapi`.
        address: Where the daemon answers, for the lines for curl.
    """
    info, secured = document["info"], "security" in document
    tags = [tag["name"] for tag in document["tags"]]
    groups: dict[str, list[str]] = {tag: [] for tag in tags}
    for path, item in document["paths"].items():
        for verb in _VERBS:
            if verb in item:
                groups[item[verb]["tags"][0]].append(_route(document, path, verb, address))
    models = document.get("x-models", [])
    how = "<p>Send a token with every request but the probes: <code>Authorization: Bearer TOKEN</code>.</p>"
    parts = [
        f"<header><h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>",
        f"<p>{escape(info['description'])}</p>{how if secured else ''}",
        f"<nav>{''.join(_link(name) for name in ('Models', *tags, 'Errors'))}</nav></header><main>",
        f'<h2 id="{_anchor("Models")}">Models</h2>',
        *(map(_model, models) if models else ["<p>No model is loaded yet.</p>"]),
        *(part for tag in tags for part in (f'<h2 id="{_anchor(tag)}">{escape(tag)}</h2>', *groups[tag])),
        f'<h2 id="{_anchor("Errors")}">Errors</h2>',
        '<p>Every error is answered with <code>{"error": "one sentence"}</code>, which never holds a value of yours.</p>',
        _errors(document["components"]["responses"]),
        '</main><footer><p>The same for programs: <a href="openapi.json">openapi.json</a></p></footer>',
    ]
    style = (files("anomvae.serving") / "docs_page.css").read_text(encoding="utf-8")
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])}</title><style>\n{style}</style></head><body>\n"
    )
    return (head + "\n".join(parts) + "\n</body></html>\n").encode()


def _route(document: Document, path: str, verb: str, address: str) -> str:
    item = document["paths"][path]
    operation = item[verb]
    parameters = [*item.get("parameters", []), *operation.get("parameters", [])]
    inner = [_parameters(parameters)] if parameters else []
    inner += [f"<h3>Try it</h3><pre>{escape(_curl(document, path, verb, address))}</pre>"]
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        examples = content.get("examples", {})
        for name, example in examples.items():
            inner.append(
                f"<details><summary>Body <code>{escape(media_type)}</code>, {escape(name)}</summary>"
                f"<div><pre>{escape(_pretty(example['value']))}</pre></div></details>"
            )
        if not examples:
            inner.append(f"<p>Also takes <code>{escape(media_type)}</code>.</p>")
    inner.append(_answers(operation["responses"]))
    return (
        f'<details><summary><span class="verb {verb}">{verb.upper()}</span><code class="path">{escape(path)}</code>'
        f'<span class="said soft">{_prose(operation["summary"])}</span></summary><div>{"".join(inner)}</div></details>'
    )


def _parameters(parameters: Sequence[Document]) -> str:
    rows = (
        (
            f"<code>{escape(parameter['name'])}</code>",
            escape(parameter["in"]),
            _prose(parameter.get("description", "")) + _values(parameter["schema"].get("enum", [])),
        )
        for parameter in parameters
    )
    return "<h3>Parameters</h3>" + _table(("name", "where", "meaning"), rows)


def _values(values: Sequence[Any]) -> str:
    return " One of " + ", ".join(f"<code>{escape(str(value))}</code>" for value in values) + "." if values else ""


def _answers(responses: Document) -> str:
    kinds = ", ".join(f"<code>{escape(kind)}</code>" for kind in responses["200"]["content"])
    errors = ", ".join(escape(code) for code in responses if code != "200")
    return f'<p class="soft">Answers {kinds}; errors {errors}.</p>'


def _curl(document: Document, path: str, verb: str, address: str) -> str:
    """A line to paste into a shell, with the first example as its body."""
    operation, models = document["paths"][path][verb], document.get("x-models", [])
    if models:
        path = path.replace("{model}", models[0]["name"]).replace("{version}", models[0]["version"])
    words = ["curl", *(("-X", "POST") if verb == "post" else ()), shlex.quote(f"{address}{path}")]
    if "security" in document and operation.get("security") != []:
        words.append('-H "authorization: Bearer $TOKEN"')
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        example = next(iter(content.get("examples", {}).values()), None)
        if example is not None:
            body = json.dumps(example["value"], ensure_ascii=False)
            short = len(body) <= _LONGEST_CURL_BODY
            words += [
                "-H",
                shlex.quote(f"content-type: {media_type}"),
                "-d",
                shlex.quote(body if short else "@body.json"),
            ]
            break
    return " ".join(words)


def _model(model: Document) -> str:
    rows = (
        (
            f"<code>{escape(column['name'])}</code>",
            escape(column["kind"]),
            ", ".join(part for part in (_range(column), "may be missing" if column["may_be_missing"] else "") if part),
        )
        for column in model["columns"]
    )
    carried = ", ".join(f"<code>{escape(name)}</code>" for name in model["carried"])
    also = f" Goes along to the answers unscored: {carried}." if carried else ""
    count = len(model["columns"])
    return (
        f"<details{' open' if count <= _MOST_CATEGORIES else ''}><summary><strong>{escape(model['name'])}</strong> "
        f'<span class="soft">version {escape(model["version"])}, {count:,} columns</span></summary><div>'
        f"<p>Alarms on {100 * model['alarm_rate']:g} % of normal rows unless <code>alarm_rate</code> says otherwise; the "
        f"smallest it supports is {_rounded_up(100 * model['smallest_alarm_rate'])}\u00a0%. {_calibration(model['calibration'])}{also}</p>"
        + _table(("column", "kind", "in training"), rows)
        + "</div></details>"
    )


def _calibration(facts: Document) -> str:
    """What verdicts rest on, in a sentence or two."""
    parts = [f"Calibrated on {facts['rows']:,} rows" + (" again after its fit" if facts["recalibrated"] else "")]
    if facts["alarms_per_day"] is not None:
        parts.append(f"for {facts['alarms_per_day']:,.12g} alarms a day of {facts['rows_per_day']:,.12g} rows")
    if facts["confidence"] is not None:
        parts.append(f"with {100 * facts['confidence']:g}\u00a0% confidence")
    said = " ".join(parts) + "."
    if facts["tail"]:
        said += " Below what its rows support p-values are extrapolated, and <code>tail</code> says where."
    if facts["groups"]:
        column = escape(facts["group_column"])
        said += f" {facts['groups']:,} groups of <code>{column}</code> have calibrations of their own; of others "
        said += "<code>pooled</code> is true."
    return said


def _range(column: Document) -> str:
    """What training saw of a column: the ends of its numbers, or its categories."""
    if column["categories"]:
        shown = ", ".join(escape(word) for word in column["categories"][:_MOST_CATEGORIES])
        more = len(column["categories"]) - _MOST_CATEGORIES
        return shown + (f" and {more:,} more" if more > 0 else "")
    if column["from"] is None or column["to"] is None:
        return ""
    ends = (f"{end:g}" if isinstance(end, int | float) else str(end)[:10] for end in (column["from"], column["to"]))
    return escape(" to ".join(ends))


def _errors(responses: Document) -> str:
    return _table(
        ("status", "meaning"), ((escape(code), _prose(told["description"])) for code, told in responses.items())
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{titles}</tr>{body}</table></div>'


def _pretty(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def _prose(text: str) -> str:
    """Text whose words in backticks are code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _link(name: str) -> str:
    return f'<a href="#{_anchor(name)}">{escape(name)}</a>'


def _rounded_up(share: float) -> str:
    """A smallest share to three digits, such that what is read is not too small."""
    digits = 2 - math.floor(math.log10(share))
    return f"{math.ceil(share * 10**digits - 1e-9) / 10**digits:.{max(digits, 0)}f}"
