"""A daemon follows its references while it serves: no request fails, and every answer is of the version it names."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pyarrow as pa
import pytest

from anomvae.data.encoding import encode
from anomvae.references import find_model
from anomvae.scoring import Scorer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anomvae.bundle import Bundle
    from tests.conftest import Serve, Serving
    from tests.daemon.conftest import Remake

ROW = {"temperature": 61.5, "pressure": 251_000.0, "vibration": 1.25, "cooling": True, "material": "steel"}
WITHIN_S = 30.0


def until(true: Callable[[], bool], what: str) -> None:
    """Waits for what must come to be."""
    until = time.monotonic() + WITHIN_S
    while not true():
        assert time.monotonic() < until, f"never: {what}"
        time.sleep(0.02)


class Asking:
    """Looks at a daemon from outside."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=30)

    def version(self) -> str:
        (version,) = self.client.get("/v2/models/press").json()["versions"]
        return str(version)

    def value(self, name: str, **labels: str) -> float:
        """A metric of the model's."""
        inside = ",".join(f'{key}="{value}"' for key, value in sorted({"model": "press", **labels}.items()))
        text = self.client.get("/metrics").text
        lines = [line for line in text.splitlines() if line.startswith(f"{name}{{{inside}}}")]
        return float(lines[0].rpartition(" ")[2]) if lines else 0.0

    def troubles(self) -> tuple[float, float]:
        """Gauges: refused, unresolved."""
        return self.value("anomvae_model_reload_refused"), self.value("anomvae_model_reference_unresolved")

    def load(self) -> httpx.Response:
        return self.client.post("/v2/repository/models/press/load")

    def scores(self) -> bool:
        return self.client.post("/v1/models/press/score", json=[ROW]).status_code == 200


@pytest.fixture
def look_at() -> Iterator[Callable[[str], Asking]]:
    """Looks at daemons until the test ends."""
    with contextlib.ExitStack() as stack:

        def look(url: str) -> Asking:
            asking = Asking(url)
            stack.enter_context(asking.client)
            return asking

        yield look


@pytest.fixture
def other(fitted: Bundle, remake: Remake, tmp_path: Path) -> Bundle:
    """A version that is as sound, and scores otherwise."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(fitted.graph)
    changed = 0
    for weight in model.graph.initializer:
        array = numpy_helper.to_array(weight)
        if array.dtype == "float32" and array.ndim == 2:
            weight.CopyFrom(numpy_helper.from_array(array * array.dtype.type(1.01), weight.name))
            changed += 1
    assert changed
    provenance = dataclasses.replace(fitted.manifest.provenance, created="2030-01-01T00:00:00+00:00")
    graph = bytes(model.SerializeToString())
    return remake(fitted, tmp_path / "other" / "press", graph=graph, provenance=provenance)


def test_versions_change_under_load_without_a_failed_or_mixed_up_answer(
    serve: Serve,
    fitted: Bundle,
    other: Bundle,
    remake: Remake,
    look_at: Callable[[str], Asking],
    tmp_path: Path,
) -> None:
    folder = remake(fitted, tmp_path / "press").folder
    expected: dict[str, float] = {}
    for bundle in (fitted, other):
        score = Scorer(bundle).score(pa.Table.from_pylist([ROW]))["score"][0].as_py()
        expected[find_model(str(bundle.folder)).version] = score
    first, second = expected
    assert expected[first] != expected[second]
    daemon = serve(f"press={folder}", "--reload-every", "0.2")
    rows = encode(pa.Table.from_pylist([ROW]), fitted.manifest.columns)
    infer = {
        "inputs": [
            {"name": "numeric", "shape": rows.numeric.shape, "datatype": "FP32", "data": rows.numeric[0].tolist()},
            {
                "name": "categorical",
                "shape": rows.categorical.shape,
                "datatype": "INT64",
                "data": rows.categorical[0].tolist(),
            },
        ],
        "outputs": [{"name": "score"}],
    }
    stop, failures, seen = threading.Event(), [], set()

    def post(client: httpx.Client, number: int) -> httpx.Response:
        return (
            client.post("/v2/models/press/infer", json=infer)
            if number % 2
            else client.post("/v1/models/press/score", json=[ROW])
        )

    def asking(number: int) -> None:
        with httpx.Client(base_url=daemon.url, timeout=30) as client:
            while not stop.is_set():
                reply = post(client, number)
                if reply.status_code != 200:
                    failures.append(reply.text)
                    return
                version, score = _told(reply.json())
                seen.add(version)
                if abs(score - expected[version]) > 1e-5 * abs(score):
                    failures.append(f"{version} is named, and did not score this")

    threads = [threading.Thread(target=asking, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    look = look_at(daemon.url)
    try:
        for bundle, version in ((other, second), (fitted, first), (other, second)):
            remake(bundle, folder)
            until(lambda version=version: look.version() == version, f"{version} serves")  # type: ignore[misc]
            time.sleep(0.2)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert seen == {first, second}
    assert look.value("anomvae_model_reloads_total", outcome="loaded") == 3
    assert look.troubles() == (0, 0)
    assert look.value("anomvae_failed_batches_total") == 0
    assert daemon.stop() == 0


def _told(answer: dict[str, Any]) -> tuple[str, float]:
    """The version an answer names, and its score."""
    if "outputs" in answer:
        return answer["model_version"], answer["outputs"][0]["data"][0]
    return answer["version"], answer["answers"][0]["score"]


@pytest.fixture
def following(
    serve: Serve, fitted: Bundle, remake: Remake, look_at: Callable[[str], Asking], tmp_path: Path
) -> tuple[Serving, Path, Asking]:
    """A daemon that looks ten times a second, the folder it looks at, and one who asks it."""
    folder = remake(fitted, tmp_path / "press").folder
    daemon = serve(f"press={folder}", "--reload-every", "0.1")
    return daemon, folder, look_at(daemon.url)


def test_what_is_damaged_is_refused_until_it_is_mended(
    following: tuple[Serving, Path, Asking], fitted: Bundle, remake: Remake, nan_graph: bytes, tmp_path: Path
) -> None:
    daemon, folder, look = following
    version = look.version()

    def put(damage: Callable[[], object], troubles: tuple[float, float]) -> None:
        damage()
        until(lambda: look.troubles() == troubles, f"troubles are {troubles}")
        assert look.version() == version
        assert look.scores()
        refusal = look.load()
        assert refusal.status_code == 400
        assert refusal.json()["error"]

    def mend() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(fitted.folder, folder)
        until(lambda: look.troubles() == (0, 0), "all is well again")
        assert look.version() == version
        assert look.load().status_code == 200

    put(lambda: (folder / "scorer.onnx").write_bytes(b"changed"), (1, 0))
    mend()
    put(lambda: (folder / "manifest.json").write_text("{"), (1, 0))
    mend()
    put(lambda: folder.rename(tmp_path / "away"), (0, 1))
    mend()
    put((folder / "manifest.json").unlink, (1, 0))
    mend()
    remake(fitted, folder)

    for graph in (nan_graph, b"no graph"):
        refused = look.value("anomvae_model_reloads_total", outcome="refused")
        put(lambda graph=graph: remake(fitted, folder, graph=graph), (1, 0))  # type: ignore[misc]
        time.sleep(0.5)  # five looks
        # once when it came, once when it was asked for
        assert look.value("anomvae_model_reloads_total", outcome="refused") == refused + 2
        mend()
    assert not any(event["event"] in ("raw", "reload failed") for event in daemon.events)


def test_columns_decide_whether_a_version_may_follow(
    following: tuple[Serving, Path, Asking], fitted: Bundle, remake: Remake
) -> None:
    daemon, folder, look = following
    version = look.version()
    first, *others = fitted.manifest.columns
    remake(fitted, folder, columns=(dataclasses.replace(first, name="heat"), *others))
    until(lambda: look.troubles() == (1, 0), "it is refused")
    assert look.version() == version
    assert "--accept-new-columns" in look.load().json()["error"]
    columns = [
        dataclasses.replace(column, categories=column.categories[::-1]) if column.name == "material" else column
        for column in fitted.manifest.columns
    ]
    remake(fitted, folder, columns=tuple(columns))
    until(lambda: look.version() != version, "it serves")
    assert look.troubles() == (0, 0)
    assert look.scores()
    daemon.wait_for("category codes changed")


def test_new_columns_may_be_wanted(
    serve: Serve, fitted: Bundle, remake: Remake, look_at: Callable[[str], Asking], tmp_path: Path
) -> None:
    folder = remake(fitted, tmp_path / "press").folder
    daemon = serve(f"press={folder}", "--reload-every", "0", "--accept-new-columns")
    look = look_at(daemon.url)
    first, *others = fitted.manifest.columns
    remake(fitted, folder, columns=(dataclasses.replace(first, name="heat"), *others))
    assert look.load().status_code == 200
    reply = look.client.post("/v1/models/press/score", json=[ROW])
    assert reply.status_code == 400
    assert "heat" in reply.json()["error"]
    heat = {("heat" if name == first.name else name): cell for name, cell in ROW.items()}
    assert look.client.post("/v1/models/press/score", json=[heat]).status_code == 200
