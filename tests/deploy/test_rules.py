"""Every alert fires when it should, and leads to a page that says what to do."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from pathlib import Path

HEADINGS = ("What it means", "What it does to callers", "First look", "What to do", "When to silence")


@pytest.fixture(scope="module")
def alerts(rules: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules if "alert" in rule}


def _run(*command: object) -> str:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_prometheus_takes_the_rules_and_its_configuration(deploy: Path) -> None:
    _run("promtool", "check", "rules", *(deploy / "prometheus/rules").glob("*.yml"))
    _run("promtool", "check", "config", "--syntax-only", deploy / "prometheus/prometheus.yml")


def test_alerts_fire_when_they_should_and_only_then(deploy: Path) -> None:
    _run("promtool", "test", "rules", *sorted((deploy / "prometheus/tests").glob("*.yml")))


def test_every_alert_is_tested_to_fire_and_to_keep_still_and_nothing_else_is(
    deploy: Path, alerts: dict[str, dict[str, Any]]
) -> None:
    files = {file.stem: yaml.safe_load(file.read_text()) for file in (deploy / "prometheus/tests").glob("*.yml")}
    assert set(files) == set(alerts)
    for name, file in files.items():
        checks = [check for test in file["tests"] for check in test["alert_rule_test"]]
        assert {check["alertname"] for check in checks} == {name}
        fired = [bool(check["exp_alerts"]) for check in checks]
        assert True in fired, name
        first = fired.index(True)
        assert False in fired[first:], f"{name} is never tested to resolve"


def test_every_alert_has_a_severity_words_and_a_page_and_every_page_an_alert(
    deploy: Path, alerts: dict[str, dict[str, Any]]
) -> None:
    for name, alert in alerts.items():
        assert name.startswith("Anomvae")
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
        assert alert["annotations"]["runbook_url"] == "{{ $externalLabels.runbooks }}/" + f"{name}.md"
    pages = {page.stem: page.read_text() for page in (deploy / "runbooks").glob("*.md")}
    assert set(pages) == set(alerts)
    for name, text in pages.items():
        assert text.startswith(f"# {name}\n\nSeverity: {alerts[name]['labels']['severity']}.")
        assert tuple(re.findall(r"^## (.+)$", text, re.MULTILINE)) == HEADINGS
        assert set(re.findall(r"\]\((\w+)\.md\)", text)) <= set(pages)


def test_alertmanager_takes_its_configuration_and_sends_each_severity_on_its_way(deploy: Path, tmp_path: Path) -> None:
    config = (deploy / "alertmanager/alertmanager.yml").read_text()
    assert "url_file: /run/secrets/alert_webhook_url" in config
    file = tmp_path / "alertmanager.yml"
    # amtool before 0.26 does not know url_file.
    file.write_text(config.replace("url_file: /run/secrets/alert_webhook_url", "url: http://127.0.0.1/"))
    _run("amtool", "check-config", file)
    for severity in ("critical", "warning"):
        routed = _run("amtool", "config", "routes", "test", f"--config.file={file}", f"severity={severity}")
        assert routed.strip() == "webhook"


def test_what_alertmanager_holds_back_are_alerts_that_exist(deploy: Path, alerts: dict[str, dict[str, Any]]) -> None:
    config = yaml.safe_load((deploy / "alertmanager/alertmanager.yml").read_text())
    assert config["route"]["group_by"] == ["alertname", "model"]
    for rule in config["inhibit_rules"]:
        named = set(re.findall(r"Anomvae\w+", str(rule)))
        assert named <= set(alerts)
