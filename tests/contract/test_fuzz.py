"""Damaged bodies at every decoder: each is answered or refused, and no cell turns up in an error or a log."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from anomvae.scoring import GraphSession
from anomvae.serving.model import ServedModel
from pipelines.fuzz import fuzz
from pipelines.hostile.bodies import KINDS, body_of
from pipelines.hostile.mutations import MARK, MARK_DIGITS
from pipelines.hostile.press import fit_press

if TYPE_CHECKING:
    from anomvae.bundle import Bundle

SHARE = 250
PATHS = {
    "v2-json": "/v2/models/press/infer",
    "v2-binary": "/v2/models/press/infer",
    "v1-json": "/v1/models/press/score",
    "v1-arrow": "/v1/models/press/score",
    "packed": "/v1/models/press/score",
    "mlflow-json": "/invocations",
    "mlflow-csv": "/invocations",
}


@pytest.fixture(scope="module")
def press(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return fit_press(tmp_path_factory.mktemp("fuzz") / "press", seed=1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_body_is_answered_or_refused(kind: str, press: Bundle) -> None:
    model = ServedModel("press", "1", press, GraphSession(press.graph, press.manifest.width))
    found = fuzz(kind, model, range(SHARE), seed=3)
    assert found.wrong == []
    assert found.answered > SHARE // 50  # else the bodies are too odd to reach far
    assert sum(found.refused.values()) > SHARE // 50


def test_the_daemon_neither_fails_on_them_nor_logs_a_cell(serve: Any, press: Bundle) -> None:
    daemon = serve(f"press={press.folder}")
    with httpx.Client(base_url=daemon.url, timeout=30) as client:
        for number in range(40 * len(PATHS)):
            kind = list(PATHS)[number % len(PATHS)]
            body = body_of(kind, random.Random(number))
            headers = {name: value for name, value in body.headers.items() if value.isascii() and value.isprintable()}
            headers = {
                name: value for name, value in headers.items() if value == value.strip()
            }  # httpx sends no others
            reply = client.post(PATHS[kind], content=body.content, headers=headers, params=body.query)
            assert reply.status_code in (200, 400, 413, 504), (kind, number, reply.status_code)
            if reply.status_code != 200:
                assert list(reply.json()) == ["error"]
        metrics = client.get("/metrics").text
    daemon.stop()
    for told in (json.dumps(daemon.events), metrics):
        assert MARK not in told
        assert MARK_DIGITS not in told
    assert all(event["event"] != "raw" for event in daemon.events)
