"""The parts of `compose.yaml` fit together: names, ports, files, secrets, and how little each may do."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import fields
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml

from anomvae.daemon.settings import ServeSettings, variable_of
from anomvae.serving.tokens import read_tokens

if TYPE_CHECKING:
    from pathlib import Path

SECRETS = {"anomvae_tokens", "prometheus_token", "alert_webhook_url"}


@pytest.fixture(scope="module")
def compose(deploy: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((deploy / "compose.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


@pytest.fixture(scope="module")
def scrape(deploy: Path) -> dict[str, dict[str, Any]]:
    """Scrape jobs by name."""
    config = yaml.safe_load((deploy / "prometheus/prometheus.yml").read_text())
    return {job["job_name"]: job for job in config["scrape_configs"]}


@pytest.fixture
def initialised(deploy: Path, tmp_path: Path) -> Path:
    """A copy of what `init.sh` needs, after it ran."""
    for name in ("init.sh", ".env.example"):
        shutil.copy(deploy / name, tmp_path / name)
    subprocess.run(["bash", tmp_path / "init.sh"], check=True, capture_output=True)
    return tmp_path


def _mounts(service: dict[str, Any]) -> list[list[str]]:
    return [mount.split(":") for mount in service.get("volumes", ())]


def _target(service: dict[str, Any], inside: str) -> str:
    """The file or folder of the repository that a service sees at a path."""
    found = [source + inside.removeprefix(at) for source, at, *_ in _mounts(service) if inside.startswith(at)]
    assert found, f"nothing is mounted at {inside}"
    return found[0]


def test_every_mounted_file_exists_and_is_read_only(
    deploy: Path, compose: dict[str, Any], services: dict[str, dict[str, Any]]
) -> None:
    for name, service in services.items():
        for source, _, *mode in _mounts(service):
            if source.startswith("."):
                assert (deploy / source).exists(), source
                assert mode == ["ro"], f"{name} may write {source}"
            else:
                assert source in compose["volumes"]
        assert set(service["networks"]) <= set(compose["networks"])
        assert set(service.get("secrets", ())) <= set(compose["secrets"])


def test_images_are_pinned_and_the_registry_is_the_version_that_is_tested(
    repository: Path, services: dict[str, dict[str, Any]]
) -> None:
    for name, service in services.items():
        assert re.search(r":v?\d+\.\d+\.\d+\}?$", service["image"]), name
    mlflow = re.search(r"^mlflow==(.+)$", (repository / "constraints.txt").read_text(), re.MULTILINE)
    assert mlflow is not None
    assert services["mlflow"]["image"].endswith(f":v{mlflow[1]}")


def test_every_container_gives_up_what_it_does_not_need(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert all(port.startswith("${ANOMVAE_BIND:-127.0.0.1}:") for port in service["ports"]), name
        if name != "mlflow":
            assert service["read_only"] is True, name
            assert not service["user"].startswith(("0", "root")), name


def test_the_daemon_has_longer_to_stop_than_its_drain_takes(services: dict[str, dict[str, Any]]) -> None:
    settings = ServeSettings()
    assert float(services["anomvae"]["stop_grace_period"].removesuffix("s")) > (
        settings.drain_delay + settings.drain_timeout + 5
    )


def test_the_daemon_is_given_only_variables_it_knows(repository: Path, services: dict[str, dict[str, Any]]) -> None:
    known = {variable_of(field.name) for field in fields(ServeSettings)}
    dockerfile = (repository / "deploy/serve.Dockerfile").read_text()
    named = set(services["anomvae"]["environment"]) | set(re.findall(r"\b(\w+)=", dockerfile))
    assert {name for name in named if name.startswith("ANOMVAE_SERVE_")} <= known
    assert services["anomvae"]["environment"]["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert "--allowed-hosts=mlflow:5000,localhost:*,127.0.0.1:*" in services["mlflow"]["command"]


def test_prometheus_finds_the_daemon_its_token_its_rules_and_alertmanager(
    deploy: Path, services: dict[str, dict[str, Any]], scrape: dict[str, dict[str, Any]]
) -> None:
    assert scrape["anomvae"]["static_configs"] == [{"targets": [f"anomvae:{ServeSettings().port}"]}]
    (secret,) = services["prometheus"]["secrets"]
    assert scrape["anomvae"]["authorization"] == {"type": "Bearer", "credentials_file": f"/run/secrets/{secret}"}
    config = yaml.safe_load((deploy / "prometheus/prometheus.yml").read_text())
    (pattern,) = config["rule_files"]
    assert list((deploy / _target(services["prometheus"], "/etc/prometheus/rules")).parent.glob(pattern))
    (manager,) = config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert manager == "alertmanager:9093"
    for one, other in (("prometheus", "anomvae"), ("prometheus", "alertmanager"), ("grafana", "prometheus")):
        assert set(services[one]["networks"]) & set(services[other]["networks"]), f"{one} cannot reach {other}"
    assert "registry" in services["anomvae"]["networks"]


def test_programs_find_their_configuration_where_it_is_mounted(
    deploy: Path, services: dict[str, dict[str, Any]]
) -> None:
    for name in ("prometheus", "alertmanager"):
        (file,) = [flag.split("=")[1] for flag in services[name]["command"] if flag.startswith("--config.file")]
        assert (deploy / _target(services[name], file)).is_file()
    manager = yaml.safe_load((deploy / "alertmanager/alertmanager.yml").read_text())
    (hook,) = manager["receivers"][0]["webhook_configs"]
    assert hook["url_file"] == f"/run/secrets/{services['alertmanager']['secrets'][0]}"


def test_grafana_is_given_its_data_source_and_its_dashboard_and_lets_nobody_in_unasked(
    deploy: Path, services: dict[str, dict[str, Any]], dashboard: dict[str, Any]
) -> None:
    grafana = services["grafana"]
    provisioned = deploy / _target(grafana, "/etc/grafana/provisioning")
    (source,) = yaml.safe_load((provisioned / "datasources/prometheus.yaml").read_text())["datasources"]
    url = urlsplit(source["url"])
    assert url.hostname in services
    assert any(port.endswith(f":{url.port}") for port in services[url.hostname]["ports"])
    assert dashboard["templating"]["list"][0]["current"]["value"] == source["uid"]
    (provider,) = yaml.safe_load((provisioned / "dashboards/anomvae.yaml").read_text())["providers"]
    assert (deploy / _target(grafana, provider["options"]["path"]) / "anomvae.json").is_file()
    environment = grafana["environment"]
    assert (deploy / _target(grafana, environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])).is_file()
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert environment["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_ADMIN_PASSWORD:?")


def test_the_example_of_settings_names_every_variable_and_no_other(deploy: Path) -> None:
    used = set(re.findall(r"\$\{(\w+)", (deploy / "compose.yaml").read_text()))
    assert set(re.findall(r"^(\w+)=", (deploy / ".env.example").read_text(), re.MULTILINE)) == used


def test_init_makes_secrets_that_fit_together(initialised: Path, compose: dict[str, Any]) -> None:
    secrets = initialised / "secrets"
    assert {file.name for file in secrets.iterdir()} == SECRETS == set(compose["secrets"])
    tokens = read_tokens(secrets / "anomvae_tokens")
    assert len(tokens) == len(set(tokens)) == 2
    assert (secrets / "prometheus_token").read_text() == tokens[0]
    assert secrets.stat().st_mode & 0o077 == 0
    assert (initialised / ".env").stat().st_mode & 0o077 == 0
    assert re.search(r"^GRAFANA_ADMIN_PASSWORD=\w{64}$", (initialised / ".env").read_text(), re.MULTILINE)


def test_init_leaves_alone_what_is_there(initialised: Path) -> None:
    files = [initialised / ".env", *(initialised / "secrets").iterdir()]
    before = [file.read_text() for file in files]
    subprocess.run(["bash", initialised / "init.sh"], check=True, capture_output=True)
    assert [file.read_text() for file in files] == before


def test_secrets_are_kept_out_of_the_repository_and_of_the_image(repository: Path) -> None:
    assert {"/.env", "/secrets/"} <= set((repository / "deploy/.gitignore").read_text().split())
    allowed = (repository / "deploy/serve.Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in allowed
    assert not any("secrets" in line or ".env" in line for line in allowed if line.startswith("!"))
