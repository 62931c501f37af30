"""A daemon of its own process, asked as its users ask it."""

from __future__ import annotations

import io
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from anomvae.data.encoding import encode
from anomvae.scoring import Scorer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomvae.bundle import Bundle

TOKEN = "a-token-of-sufficient-length"  # noqa: S105  made up
RECORD = {
    "part": "P1",
    "temperature": 61.5,
    "pressure": 251_000.0,
    "vibration": 1.25,
    "cooling": True,
    "material": "steel",
}


@pytest.fixture
def client(served: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=30) as client:
        yield client


def score(client: httpx.Client, records: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    reply = client.post("/v1/models/press/score", json={"records": records or [RECORD]})
    assert reply.status_code == 200, reply.text
    answers: list[dict[str, Any]] = reply.json()["answers"]
    return answers


def test_all_protocols_give_the_same_answers(client: httpx.Client, served: Any, fitted: Bundle) -> None:
    table = pa.Table.from_pylist(
        [RECORD, {**RECORD, "temperature": 190.0, "material": "wood"}, {**RECORD, "pressure": None}]
    )
    expected = Scorer(fitted).score(table)
    scores, alarms = expected["score"].to_pylist(), expected["alarm"].to_pylist()

    people = score(client, table.to_pylist())
    assert [answer["score"] for answer in people] == scores

    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    arrow = {"content-type": "application/vnd.apache.arrow.stream"}
    reply = client.post("/v1/models/press/score", content=sink.getvalue(), headers=arrow)
    answers = pa.ipc.open_stream(reply.content).read_all()
    assert answers["score"].to_pylist() == scores
    assert answers["alarm"].to_pylist() == alarms

    frame = {"dataframe_records": table.to_pylist()}
    assert [row["score"] for row in client.post("/invocations", json=frame).json()["predictions"]] == scores

    rows = encode(table, fitted.manifest.columns)
    body = {
        "inputs": [
            {
                "name": "numeric",
                "shape": list(rows.numeric.shape),
                "datatype": "FP32",
                "data": [None if np.isnan(cell) else float(cell) for cell in rows.numeric.ravel()],
            },
            {
                "name": "categorical",
                "shape": list(rows.categorical.shape),
                "datatype": "INT64",
                "data": rows.categorical.ravel().tolist(),
            },
        ],
        "outputs": [{"name": "score"}, {"name": "alarm"}],
    }
    outputs = client.post("/v2/models/press/infer", json=body).json()["outputs"]
    assert [np.float32(cell) for cell in outputs[0]["data"]] == [np.float32(cell) for cell in scores]
    assert outputs[1]["data"] == alarms

    import tritonclient.grpc as triton

    remote = triton.InferenceServerClient(served.grpc)
    inputs = [
        triton.InferInput("numeric", rows.numeric.shape, "FP32"),
        triton.InferInput("categorical", rows.categorical.shape, "INT64"),
    ]
    inputs[0].set_data_from_numpy(rows.numeric)
    inputs[1].set_data_from_numpy(rows.categorical)
    found = remote.infer("press", inputs).as_numpy("score")
    assert found.tolist() == [np.float32(cell) for cell in scores]
    remote.close()


def test_what_it_serves_can_be_asked(client: httpx.Client, fitted: Bundle) -> None:
    assert client.get("/v2/health/live").status_code == client.get("/v2/health/ready").status_code == 200
    assert client.get("/ping").status_code == client.get("/health").status_code == 200
    (model,) = client.get("/v1/models").json()["models"]
    assert model["alarm_rate"] == fitted.manifest.calibration.alarm_rate
    metadata = client.get("/v2/models/press").json()
    assert client.get(f"/v2/models/press/versions/{metadata['versions'][0]}/ready").status_code == 200
    assert client.get("/v2/models/press/versions/0").status_code == 404
    assert client.post("/v2/models/nobody/infer", json={}).status_code == 404
    assert client.get("/v2/models/press/infer").status_code == 405
    assert client.get("/nowhere").json() == {"error": "there is no such route; GET /docs lists them"}
    assert "press" in client.get("/docs").text
    assert "/v1/models/{model}/score" in client.get("/openapi.json").json()["paths"]


def test_metrics_tell_what_was_answered(client: httpx.Client) -> None:
    def value(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return float(next((line for line in lines if line.startswith(name)), "0").rpartition(" ")[2])

    asked = 'anomvae_requests_total{code="200",model="press",protocol="v1-json"}'
    before, alarms, unknown = (
        value(asked),
        value('anomvae_alarms_total{model="press"}'),
        value('anomvae_unknown_category_cells_total{model="press"}'),
    )
    score(client, [{**RECORD, "temperature": 500.0, "material": "wood"}])
    assert value(asked) == before + 1
    assert value('anomvae_alarms_total{model="press"}') == alarms + 1
    assert value('anomvae_unknown_category_cells_total{model="press"}') == unknown + 1


def test_a_trace_id_becomes_an_exemplar(client: httpx.Client) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    client.post("/v1/models/press/score", json=[RECORD], headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    openmetrics = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert f'trace_id="{trace}"' in openmetrics.text


def test_a_wrong_request_is_told_in_one_sentence_and_no_log(client: httpx.Client, served: Any) -> None:
    seen = len(served.events)
    reply = client.post("/v1/models/press/score", json=[{**RECORD, "temperature": "secret-value"}])
    assert reply.status_code == 400
    assert "'temperature'" in reply.json()["error"]
    assert "secret-value" not in reply.text
    assert not any("secret-value" in str(event) for event in served.events[seen:])


def test_tokens_are_wanted_on_every_route_but_the_probes_and_can_change(
    serve: Any, fitted: Bundle, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"# the plant\n{TOKEN}\nanother-token-for-prometheus\n")
    daemon = serve(f"press={fitted.folder}", "--tokens-file", tokens)
    with httpx.Client(base_url=daemon.url) as client:
        assert client.get("/v2/health/ready").status_code == client.get("/ping").status_code == 200
        for path in ("/metrics", "/v2/models/press", "/docs", "/nowhere"):
            reply = client.get(path)
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer"), path
        assert client.post("/v1/models/press/score", json=[RECORD]).status_code == 401
        assert client.get("/metrics", headers={"authorization": f"Basic {TOKEN}"}).status_code == 401
        assert client.get("/metrics", headers={"authorization": "Bearer wrong"}).status_code == 401
        for token in (TOKEN, "another-token-for-prometheus"):
            assert client.get("/metrics", headers={"authorization": f"Bearer {token}"}).status_code == 200
        tokens.write_text("short\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for("tokens not reloaded")
        assert client.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        tokens.write_text("the-only-token-from-now-on\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for("tokens reloaded")
        assert client.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 401
        assert client.get("/metrics", headers={"authorization": "Bearer the-only-token-from-now-on"}).status_code == 200

    import tritonclient.grpc as triton

    remote = triton.InferenceServerClient(daemon.grpc)
    with pytest.raises(triton.InferenceServerException, match="UNAUTHENTICATED"):
        remote.get_server_metadata()
    assert remote.get_server_metadata(headers={"authorization": "Bearer the-only-token-from-now-on"}).name
    assert remote.is_server_live()
    remote.close()
    assert TOKEN not in str(daemon.events)


def test_tls_serves_both_and_refuses_plain_text(serve: Any, fitted: Bundle, tmp_path: Path) -> None:
    cert, key = _certificate(tmp_path)
    daemon = serve(f"press={fitted.folder}", "--tls-cert", cert, "--tls-key", key)
    import ssl

    trusting = ssl.create_default_context(cafile=str(cert))
    with httpx.Client(base_url=daemon.url.replace("127.0.0.1", "localhost"), verify=trusting) as client:
        assert score(client)[0]["part"] == "P1"
    with pytest.raises(httpx.HTTPError):
        httpx.get(daemon.url.replace("https", "http") + "/ping")
    import tritonclient.grpc as triton

    port = daemon.grpc.rpartition(":")[2]
    remote = triton.InferenceServerClient(f"localhost:{port}", ssl=True, root_certificates=str(cert))
    assert remote.is_model_ready("press")
    remote.close()


def _certificate(folder: Path) -> tuple[Path, Path]:
    import datetime as dt

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "cert.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def test_what_is_too_large_too_slow_or_too_much_is_refused(serve: Any, fitted: Bundle) -> None:
    limits = ("--max-body-mb", "0.1", "--max-inflight-rows", "50", "--body-timeout", "0.3", "--header-timeout", "0.3")
    daemon = serve(f"press={fitted.folder}", *limits, "--max-header-kb", "4")
    with httpx.Client(base_url=daemon.url, timeout=30) as client:
        path = "/v1/models/press/score"
        large = client.post(path, content=b"x" * 200_000)
        assert (large.status_code, large.headers["connection"]) == (413, "close")
        assert client.post(path, content=(b"x" * 1000 for _ in range(200))).status_code == 413  # chunked
        import gzip

        bomb = gzip.compress(b" " * 10_000_000)
        assert client.post(path, content=bomb, headers={"content-encoding": "gzip"}).status_code == 413
        packed = gzip.compress(httpx.Request("POST", "http://x", json=[RECORD]).content)
        assert client.post(path, content=packed, headers={"content-encoding": "gzip"}).status_code == 200
        assert client.post(path, content=b"no", headers={"content-encoding": "gzip"}).status_code == 400
        assert client.post(path, content=b"no", headers={"content-encoding": "br"}).status_code == 400
        assert client.post(path, json=[RECORD] * 51).status_code == 413
        assert client.post(path, json=[RECORD] * 50).status_code == 200
        assert client.get("/ping", headers={"x-long": "y" * 5000}).status_code == 431
        assert client.get("/ping", headers={f"x-{number}": "y" for number in range(120)}).status_code == 431
    port = int(daemon.url.rpartition(":")[2])
    assert b" 408 " in _raw(port, b"GET /ping HTTP/1.1\r\nHost: x\r\nX-Slow:")
    assert b" 408 " in _raw(port, b"")
    assert b" 408 " in _raw(port, b"POST /v1/models/press/score HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n[")
    assert b" 400 " in _raw(port, b"\x16\x03\x01 not http at all\r\n\r\n")


def _raw(port: int, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(sent)
        return connection.recv(65_536)


def test_every_accepted_request_is_answered_when_it_is_told_to_stop_under_load(serve: Any, fitted: Bundle) -> None:
    daemon = serve(f"press={fitted.folder}", "--drain-delay", "0.5")
    with httpx.Client(base_url=daemon.url) as client:
        expected = {
            material: score(client, [{**RECORD, "material": material}])[0]["score"]
            for material in ("steel", "brass", "alloy")
        }
    told = threading.Event()
    failures: list[str] = []
    answered = [0] * 8

    def ask(number: int) -> None:
        material = ("steel", "brass", "alloy")[number % 3]
        body = [{**RECORD, "material": material}] * (1 + 40 * (number % 2))
        with httpx.Client(base_url=daemon.url, timeout=30) as client:
            while True:
                try:
                    answers = score(client, body)
                except httpx.ConnectError:  # it listens no more: never accepted
                    if not told.is_set():
                        failures.append("refused before it was told to stop")
                    return
                except httpx.HTTPError as error:
                    failures.append(f"accepted and not answered: {type(error).__name__}")
                    return
                if any(answer["score"] != expected[material] for answer in answers):
                    failures.append("a wrong answer")
                answered[number] += 1

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, number) for number in range(8)]
        time.sleep(0.5)
        told.set()
        daemon.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        ready = httpx.get(daemon.url + "/v2/health/ready")
        assert ready.status_code == 503  # others learn of it while requests are still taken
        for future in asking:
            future.result(60)
    assert daemon.process.wait(30) == 0
    assert failures == []
    assert min(answered) > 0
    assert [event["event"] for event in daemon.events if event["event"] in ("draining", "stopped")] == [
        "draining",
        "stopped",
    ]


def test_it_starts_on_a_read_only_file_system_as_any_user(serve: Any, fitted: Bundle, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o500)
    before = Path.cwd()
    os.chdir(empty)
    try:
        daemon = serve(f"press={fitted.folder}", HOME="/nonexistent", PYTHONDONTWRITEBYTECODE="1")
    finally:
        os.chdir(before)
    with httpx.Client(base_url=daemon.url) as client:
        score(client)
    assert daemon.stop() == 0
    assert not list(empty.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing to serve"),
        (("nowhere/at/all",), "there is no bundle at nowhere/at/all"),
        (("{bundle}", "{bundle}"), "two models would be served as 'press'"),
        (("{bundle}", "--providers", "quantum"), "--providers has 'quantum', which ONNX Runtime does not know"),
        (("{bundle}", "--providers", "cuda", "--strict-providers"), "'cuda' is not installed here"),
        (("{bundle}", "--tokens-file", "none"), "the tokens file none cannot be read"),
        (("{bundle}", "--host", "192.0.2.1"), "cannot listen on 192.0.2.1"),
        (("{bundle}", "--tls-cert", "a", "--tls-key", "b"), "a and b are no certificate"),
    ],
)
def test_what_cannot_start_says_why_with_exit_code_2(
    cli: Any, fitted: Bundle, arguments: tuple[str, ...], said: str
) -> None:
    ended = cli("serve", *(word.format(bundle=fitted.folder) for word in arguments), "--port", "0", "--grpc-port", "-1")
    assert ended.code == 2
    assert said in ended.err
    assert ended.err.count("error:") == 1
