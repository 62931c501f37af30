"""A daemon follows the aliases of a registry: promotion, rollback, a challenger in shadow, an outage."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anomvae.bundle import Bundle
    from tests.conftest import Serve, Serving
    from tests.daemon.conftest import Remake

pytestmark = pytest.mark.xdist_group("registry")

ROW = {"temperature": 61.5, "pressure": 251_000.0, "vibration": 1.25, "cooling": True, "material": "steel"}
WITHIN_S = 60.0


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def alias(uri: str, fitted: Bundle, remake: Remake, tmp_path: Path) -> Callable[[str, int | None], None]:
    """Two versions of `press` are logged, the second one never alarms; moves aliases, or takes them away."""
    from anomvae.tracking.runs import log_bundle

    # The product sets MLflow up, so it is imported before anything of MLflow.
    # isort: split
    from mlflow import MlflowClient

    for number in (1, 2):
        provenance = dataclasses.replace(fitted.manifest.provenance, created=f"203{number}-01-01T00:00:00+00:00")
        graph = fitted.graph.read_bytes() if number == 1 else _never_alarms(fitted)
        bundle = remake(fitted, tmp_path / f"version-{number}", graph=graph, provenance=provenance)
        assert log_bundle(bundle, tracking_uri=uri).version == number

    client = MlflowClient(tracking_uri=uri)  # once there are tables: the product keeps MLflow's own warnings away

    def move(name: str, number: int | None) -> None:
        if number is None:
            client.delete_registered_model_alias("press", name)
        else:
            client.set_registered_model_alias("press", name, str(number))

    return move


def _never_alarms(bundle: Bundle) -> bytes:
    """The graph with a verdict that is always no."""
    import onnx
    from onnx import helper

    model = onnx.load(bundle.graph)
    (maker,) = [node for node in model.graph.node if "alarm" in node.output]
    maker.output[list(maker.output).index("alarm")] = "alarm_before"
    model.graph.node.append(helper.make_node("Xor", ["alarm_before", "alarm_before"], ["alarm"]))
    return bytes(model.SerializeToString())


@pytest.fixture
def client(serve: Serve, alias: object, uri: str) -> Iterator[tuple[Serving, httpx.Client]]:
    del alias  # there is something to serve
    daemon = serve("press@champion", "--tracking-uri", uri, "--reload-every", "0.3", "--shadow-share", "1")
    with httpx.Client(base_url=daemon.url, timeout=30) as client:
        yield daemon, client


def test_aliases_are_followed(  # noqa: PLR0915  one story, since a daemon on a registry is slow to start
    client: tuple[Serving, httpx.Client], alias: Callable[[str, int | None], None], tmp_path: Path
) -> None:
    daemon, asking = client

    def value(series: str) -> float | None:
        lines = [line for line in asking.get("/metrics").text.splitlines() if line.startswith(series)]
        return float(lines[0].rpartition(" ")[2]) if lines else None

    def until(true: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + WITHIN_S
        while not true():
            assert time.monotonic() < until, f"never: {what}; {daemon.events[-5:]}"
            time.sleep(0.05)

    def serves(number: int) -> bool:
        known, ready, after = (asking.get(f"/v2/models/press{path}") for path in ("", f"/versions/{number}/ready", ""))
        if known.json() == after.json():  # else it was swapped in between
            assert ready.status_code == (200 if after.json()["versions"] == [str(number)] else 404)
        return bool(after.json()["versions"] == [str(number)])

    def alarms() -> bool:
        """Whether a row that is nothing but strange alarms."""
        reply = asking.post("/v1/models/press/score", json=[{**ROW, "temperature": 1e6}]).raise_for_status()
        return bool(reply.json()["answers"][0]["alarm"])

    unresolved = 'anomvae_model_reference_unresolved{model="press"}'
    shadow = 'anomvae_shadow_info{model="press",version="2"}'
    assert serves(1)
    assert alarms()
    assert value(shadow) is None

    alias("challenger", 2)
    until(lambda: value(shadow) == 1, "2 is in shadow")
    before = value('anomvae_shadow_rows_total{model="press"}') or 0
    for _ in range(5):
        assert alarms()  # the champion's word
    until(lambda: (value('anomvae_shadow_rows_total{model="press"}') or 0) > before, "rows are scored in shadow")
    assert value('anomvae_shadow_disagreements_total{model="press"}') == value(
        'anomvae_shadow_rows_total{model="press"}'
    )

    alias("champion", 2)
    until(lambda: serves(2), "2 is promoted")
    assert not alarms()
    until(lambda: value(shadow) is None, "what serves is no challenger of its own")
    assert asking.post("/v2/repository/models/press/load").status_code == 200

    alias("champion", 1)
    until(lambda: serves(1), "1 is back")
    assert alarms()
    until(lambda: value(shadow) == 1, "2 is in shadow again")
    alias("challenger", None)
    until(lambda: value(shadow) is None, "the shadow has ended")

    (tmp_path / "mlflow.db").rename(tmp_path / "away.db")
    until(lambda: value(unresolved) == 1, "the registry is missed")
    assert alarms()
    assert asking.get("/v2/health/ready").status_code == 200
    assert asking.post("/v2/repository/models/press/load").status_code in (400, 500)
    (tmp_path / "away.db").rename(tmp_path / "mlflow.db")
    until(lambda: value(unresolved) == 0, "the registry is back")
    assert serves(1)

    alias("champion", None)
    until(lambda: value(unresolved) == 1, "the alias is missed")
    assert alarms()
    alias("champion", 2)
    until(lambda: serves(2), "2 is promoted again")
    assert value(unresolved) == 0
    assert value('anomvae_model_reload_refused{model="press"}') == 0


def test_a_name_without_a_champion_serves_the_newest_and_says_so(
    serve: Serve, alias: Callable[[str, int | None], None], uri: str
) -> None:
    alias("champion", None)
    daemon = serve("press", "--shadow-share", "0", "--reload-every", "0", MLFLOW_TRACKING_URI=uri)
    assert httpx.get(f"{daemon.url}/v2/models/press").json()["versions"] == ["2"]
    assert "has no champion" in daemon.wait_for("note")["note"]
