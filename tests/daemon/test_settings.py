"""Settings come from flags, then variables, then the file, then defaults; each is checked once, wherever it came from."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from anomvae.daemon.settings import ServeSettings, flag_of, load_settings, variable_of
from anomvae.errors import SettingError

VALUES: dict[str, tuple[str, Any, Any]] = {
    "models": ("a b=c", ["a", "b=c"], ("a", "b=c")),
    "host": ("0.0.0.0", "0.0.0.0", "0.0.0.0"),  # noqa: S104  a value, no socket
    "port": ("9000", 9000, 9000),
    "grpc_port": ("-1", -1, -1),
    "providers": ("cuda,cpu", "cuda,cpu", "cuda,cpu"),
    "strict_providers": ("true", True, True),
    "threads": ("3", 3, 3),
    "max_batch_rows": ("64", 64, 64),
    "max_wait_ms": ("0.5", 0.5, 0.5),
    "max_inflight_rows": ("1000", 1000, 1000),
    "max_body_mb": ("1", 1, 1.0),
    "max_buffered_mb": ("2", 2, 2.0),
    "request_timeout": ("5", 5, 5.0),
    "body_timeout": ("6", 6, 6.0),
    "header_timeout": ("7", 7, 7.0),
    "keep_alive": ("8", 8, 8.0),
    "max_header_kb": ("9", 9, 9.0),
    "max_connections": ("10", 10, 10),
    "tokens_file": ("tokens", "tokens", Path("tokens")),
    "tls_cert": ("cert.pem", "cert.pem", Path("cert.pem")),
    "tls_key": ("key.pem", "key.pem", Path("key.pem")),
    "reload_every": ("0", 0, 0.0),
    "accept_new_columns": ("on", True, True),
    "shadow_share": ("0.5", 0.5, 0.5),
    "drain_delay": ("0", 0, 0.0),
    "drain_timeout": ("3", 3, 3.0),
    "log_format": ("text", "text", "text"),
    "tracking_uri": ("http://mlflow:5000", "http://mlflow:5000", "http://mlflow:5000"),
}
"""By setting: as a variable, as TOML has it, as the settings have it."""


def _toml(values: dict[str, Any]) -> str:
    def written(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')

    return "\n".join(f"{key} = {written(value)}" for key, value in values.items())


def test_every_setting_is_tried_here() -> None:
    assert set(VALUES) == {known.name for known in fields(ServeSettings)}


def test_every_setting_can_come_from_a_variable() -> None:
    settings = load_settings({}, {variable_of(name): value[0] for name, value in VALUES.items()})
    assert {name: getattr(settings, name) for name in VALUES} == {name: value[2] for name, value in VALUES.items()}


@pytest.mark.parametrize("dashes", [False, True])
def test_every_setting_can_come_from_the_file(tmp_path: Path, dashes: bool) -> None:
    file = tmp_path / "serve.toml"
    keys = {name.replace("_", "-") if dashes else name: value[1] for name, value in VALUES.items()}
    file.write_text(_toml(keys))
    settings = load_settings({}, {}, file)
    assert {name: getattr(settings, name) for name in VALUES} == {name: value[2] for name, value in VALUES.items()}


def test_flags_win_over_variables_and_variables_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text('models = ["file"]\nport = 1\nthreads = 1\nmax_batch_rows = 1')
    environment = {"ANOMVAE_SERVE_CONFIG": str(file), "ANOMVAE_SERVE_PORT": "2", "ANOMVAE_SERVE_THREADS": "2"}
    settings = load_settings({"port": 3, "threads": None, "models": ()}, environment)
    assert (settings.port, settings.threads, settings.max_batch_rows, settings.models) == (3, 2, 1, ("file",))


def test_every_setting_is_an_option_of_the_command(cli: Any) -> None:
    said = cli("serve", "--help")
    assert said.code == 0
    for known in fields(ServeSettings):
        assert flag_of(known.name) in said.out, known.name


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"ANOMVAE_SERVE_PORTS": "1"}, "ANOMVAE_SERVE_PORTS is no setting; did you mean ANOMVAE_SERVE_PORT?"),
        ({"ANOMVAE_SERVE_PORT": "http"}, "ANOMVAE_SERVE_PORT must be a whole number"),
        ({"ANOMVAE_SERVE_MAX_WAIT_MS": "soon"}, "ANOMVAE_SERVE_MAX_WAIT_MS must be a number"),
        ({"ANOMVAE_SERVE_STRICT_PROVIDERS": "maybe"}, "ANOMVAE_SERVE_STRICT_PROVIDERS must be true or false"),
        ({"ANOMVAE_SERVE_PORT": "70000"}, "--port is 70000; it must be 0 to 65535"),
        ({"ANOMVAE_SERVE_MAX_WAIT_MS": "nan"}, "--max-wait-ms is nan; it must be 0 to 60000"),
        ({"ANOMVAE_SERVE_SHADOW_SHARE": "1.5"}, "--shadow-share is 1.5; it must be 0 to 1"),
        ({"ANOMVAE_SERVE_TLS_CERT": "c.pem"}, "--tls-cert and --tls-key go together"),
        ({"ANOMVAE_SERVE_LOG_FORMAT": "xml"}, "--log-format is 'xml'; it must be json or text"),
        ({"ANOMVAE_SERVE_GRPC_PORT": "8080"}, "--port and --grpc-port are both 8080"),
        ({"ANOMVAE_SERVE_MODELS": ""}, "nothing to serve"),
        ({"ANOMVAE_SERVE_CONFIG": "nowhere.toml"}, "the configuration nowhere.toml cannot be read"),
    ],
)
def test_a_wrong_variable_is_named_in_one_sentence(environment: dict[str, str], said: str) -> None:
    with pytest.raises(SettingError, match=said.replace("?", r"\?")):
        load_settings({}, {"ANOMVAE_SERVE_MODELS": "bundle", **environment})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ports = 1", "unknown key 'ports'; did you mean port"),
        ('port = "http"', "port in .* must be a whole number"),
        ("port = true", "port in .* must be a whole number"),
        ('strict_providers = "yes"', "strict_providers in .* must be true or false"),
        ('models = "bundle"', "models in .* must be a list of texts"),
        ("host = 1", "host in .* must be a text"),
        ("log_format = 1", "log_format in .* must be a text"),
        ("port = ", "is not TOML"),
        ("[serve]\nport = 1", "unknown key 'serve'"),
    ],
)
def test_a_wrong_key_is_named_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(text)
    with pytest.raises(SettingError, match=said):
        load_settings({"models": ("bundle",)}, {}, file)


def test_variables_that_kubernetes_sets_for_a_service_of_the_daemons_name_are_no_settings() -> None:
    linked = {
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT": "8080",
        "SERVICE_PORT_HTTP": "8080",
        "PORT": "tcp://10.0.0.1:8080",
        "PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "PORT_8080_TCP_PROTO": "tcp",
        "PORT_8080_TCP_PORT": "8080",
        "PORT_8080_TCP_ADDR": "10.0.0.1",
        "PRESS_SERVICE_HOST": "10.0.0.2",
        "PRESS_PORT_53_UDP_ADDR": "10.0.0.2",
        "GRPC_PORT": "udp://10.0.0.2:53",
    }
    environment = {f"ANOMVAE_SERVE_{name}": text for name, text in linked.items()}
    assert load_settings({"models": ("bundle",)}, environment) == load_settings({"models": ("bundle",)}, {})
    assert load_settings({"models": ("bundle",)}, environment | {"ANOMVAE_SERVE_PORT": "90"}).port == 90
