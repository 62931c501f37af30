"""The chapter on serving is true: its requests are answered, its Python runs, its settings and probes are those of the daemon."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from anomvae.daemon.settings import ServeSettings, flag_of, load_settings
from anomvae.serving.openapi import openapi

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
LOCAL = "localhost:8080"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def requests() -> list[str]:
    """The lines that ask the daemon of the chapter, of which `#` begins a comment."""
    return [line for line in "\n".join(blocks("sh")).splitlines() if line.startswith("curl ") and LOCAL in line]


def sent(url: str, line: str) -> httpx.Response:
    """Does what a line of curl says."""
    words = shlex.split(line, comments=True)[1:]
    method, target, content, headers = "GET", "", None, {}
    while words:
        word = words.pop(0)
        match word:
            case "--data":
                content, method = words.pop(0), "POST"
            case "--request":
                method = words.pop(0)
            case "--header":
                name, _, value = words.pop(0).partition(": ")
                headers[name] = value
            case _:
                assert LOCAL in word, f"{word} of {line}"
                target = word.replace(LOCAL, url.removeprefix("http://"), 1)
    headers.setdefault("content-type", "application/x-www-form-urlencoded")  # as curl has it
    return httpx.request(method, f"http://{target}", content=content, headers=headers, timeout=30)


@pytest.mark.parametrize("line", requests())
def test_a_request_of_the_chapter_is_answered(served: Any, line: str) -> None:
    reply = sent(served.url, line)
    assert reply.status_code == 200, reply.text


def test_every_route_stands_in_the_chapter() -> None:
    asked = {
        re.sub(r"\?.*", "", word).partition(LOCAL)[2]
        for line in requests()
        for word in shlex.split(line, comments=True)
        if LOCAL in word
    }
    asked |= set(re.findall(r"/[a-z0-9/]+", PAGE))
    for path in openapi((), secured=False)["paths"]:
        if "/versions/" not in path:  # said once for all of them
            assert path.replace("{model}", "press") in asked, path
    assert "/v2/models/press/versions/3/..." in PAGE


@pytest.mark.filterwarnings("ignore:.*type hint is inferred:UserWarning")  # MLflow of itself, as it is imported
def test_the_python_of_the_chapter_runs(served: Any, fitted: Any) -> None:
    names: dict[str, Any] = {}
    for block in blocks("python"):
        if "MlflowClient" in block:  # sets an alias in a registry, of which there is none here
            compile(block, "serving.md", "exec")
            continue
        source = block.replace("localhost:8081", served.grpc)
        source = source.replace('"localhost", 8080', '"127.0.0.1", ' + served.url.rpartition(":")[2])
        source = source.replace(LOCAL, served.url.removeprefix("http://"))
        exec(compile(source, "serving.md", "exec"), names)  # noqa: S102  the chapter is ours
    assert names["answers"].column_names[:3] == ["score", "p_value", "reconstruction_error"]
    assert names["alarms"].shape == (2,)
    assert len(names["predictions"]) == 1


def test_the_settings_of_the_chapter_are_settings(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(blocks("toml")[0])
    assert load_settings({}, {}, file).models == tuple(tomllib.loads(blocks("toml")[0])["models"])
    known = {flag_of(name) for name in ServeSettings.__dataclass_fields__}
    flags = {word for line in re.findall(r"anomvae serve .*", PAGE) for word in re.findall(r"--[a-z-]+", line)}
    assert flags <= known | {"--config"}


def test_the_numbers_of_the_chapter_are_the_defaults() -> None:
    for name, number in re.findall(r"`([a-z-]+)` \(([\d,.]+)", PAGE):
        default = getattr(ServeSettings(models=("bundle",)), name.replace("-", "_"))
        assert default == float(number.replace(",", "")) or default == 0, name


def test_the_probes_of_the_chapter_are_routes() -> None:
    pod = yaml.safe_load(blocks("yaml")[0])
    routes = openapi((), secured=True)["paths"]
    container = pod["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert routes[container[probe]["httpGet"]["path"]]["get"]["security"] == []
    settings = ServeSettings(models=("bundle",))
    assert pod["terminationGracePeriodSeconds"] > 5 + settings.drain_timeout


def test_every_link_of_the_chapter_leads_somewhere() -> None:
    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-")
        for line in re.findall(r"^#+ (.*)", reference, re.MULTILINE)
    }
    for target, anchor in re.findall(r"\]\(([^)#]+)#?([^)]*)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
        assert not anchor or anchor in anchors, anchor
