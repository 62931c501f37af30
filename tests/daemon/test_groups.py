"""A daemon that serves a model with groups: over the wire, in metrics, and when the model is swapped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton

from anomvae.data.encoding import encode_for
from anomvae.scoring import Scorer
from tests.calibrated import SITES, recalibrated, sites

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anomvae.bundle import Bundle
    from tests.conftest import Serve, Serving


@pytest.fixture(scope="module")
def grouped(fitted: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return recalibrated(fitted, tmp_path_factory.mktemp("grouped") / "press", by="site", decision="both", tail=True)


@pytest.fixture(scope="module")
def daemon(grouped: Bundle, request: pytest.FixtureRequest) -> Iterator[Serving]:
    kind = type(request.getfixturevalue("served"))
    started = kind((f"press={grouped.folder}",), {})
    yield started
    started.stop()


def metric(url: str, name: str) -> float:
    text = httpx.get(f"{url}/metrics").text
    (line,) = [line for line in text.splitlines() if line.startswith(name + '{model="press"}')]
    return float(line.rpartition(" ")[2])


def ask(url: str, rows: Any) -> list[dict[str, Any]]:
    reply = httpx.post(f"{url}/v1/models/press/score?top=0", json={"records": rows}, timeout=30)
    assert reply.status_code == 200, reply.text
    return reply.json()["answers"]  # type: ignore[no-any-return]


def test_rows_of_several_callers_keep_their_groups(daemon: Serving, grouped: Bundle) -> None:
    table = sites(60, seed=12)
    expected = Scorer(grouped).score(table).drop_columns(["reasons"]).to_pylist()
    before = metric(daemon.url, "anomvae_pooled_rows_total")
    rows = table.to_pylist()
    assert [{**row, "reasons": []} for row in expected] == ask(daemon.url, rows)
    for row, told in zip(rows[:10], expected, strict=False):  # the way of small requests
        assert ask(daemon.url, [row]) == [{**told, "reasons": []}]
    pooled = sum(row["pooled"] for row in expected) + sum(row["pooled"] for row in expected[:10])
    assert metric(daemon.url, "anomvae_pooled_rows_total") - before == pooled


def test_triton_over_grpc_sends_the_numbers_of_groups(daemon: Serving, grouped: Bundle) -> None:
    rows = encode_for(sites(30, seed=13), grouped.manifest)
    assert rows.group is not None
    client = triton.InferenceServerClient(daemon.grpc)
    optional = {one.name for one in client.get_model_config("press").config.input if one.optional}
    assert optional == {"alarm_rate", "group"}
    named = (
        ("numeric", rows.numeric, "FP32"),
        ("categorical", rows.categorical, "INT64"),
        ("group", rows.group, "INT64"),
    )
    inputs = []
    for name, cells, kind in named:
        one = triton.InferInput(name, list(cells.shape), kind)
        one.set_data_from_numpy(cells)
        inputs.append(one)
    found = client.infer("press", inputs)
    direct = Scorer(grouped).answers(rows, ["alarm", "tail", "pooled", "p_value_verdict"])
    for name, expected in direct.items():
        np.testing.assert_array_equal(found.as_numpy(name), expected)
    client.close()


def test_the_daemon_tells_what_verdicts_rest_on_and_names_no_group(daemon: Serving) -> None:
    ask(daemon.url, sites(20).to_pylist())
    (model,) = httpx.get(f"{daemon.url}/v1/models").json()["models"]
    facts = model["calibration"]
    assert (facts["method"], facts["rows"], facts["tail"], facts["groups"]) == ("split", 600, True, 2)
    assert facts["recalibrated"] is not None
    assert model["carried"] == ["part", "site"]
    for path in ("/metrics", "/v1/models", "/openapi.json", "/docs", "/v2/models/press/config"):
        text = httpx.get(daemon.url + path).text
        assert not any(name in text for name in SITES[:2]), path
    assert not any(name in str(daemon.events) for name in SITES[:2])


def test_rows_that_grew_stranger_cost_the_trust_until_another_version_is_loaded(
    serve: Serve, fitted: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "press"
    recalibrated(fitted, folder)
    daemon = serve(f"press={folder}", "--reload-every", "0.2")
    ask(daemon.url, sites(100, seed=14).to_pylist())
    assert metric(daemon.url, "anomvae_calibration_trusted") == 1
    strange = [{**row, "vibration": 9.0} for row in sites(60, seed=15).to_pylist()]
    for start in range(0, 60, 10):
        ask(daemon.url, strange[start : start + 10])
    assert metric(daemon.url, "anomvae_calibration_trusted") == 0
    assert metric(daemon.url, "anomvae_calibration_evidence_log10") > 2
    recalibrated(fitted, folder, alarm_rate=0.1)
    daemon.wait_for("model reloaded")
    assert metric(daemon.url, "anomvae_calibration_trusted") == 1
