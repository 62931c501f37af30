"""Every Grafana dashboard is sound as a file, and asks only for what the daemon, or a stream, tells."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from anomvae.observability.instruments import INSTRUMENTS
from anomvae.observability.stream_metrics import STREAM_INSTRUMENTS
from tests.deploy.conftest import DASHBOARDS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.deploy.conftest import Query

OURS = {"up": (), "ALERTS": ("alertname", "alertstate", "severity")}
OF_PROCESS = re.compile(r"process_(cpu_seconds_total|resident_memory_bytes|start_time_seconds|open_fds|max_fds)")
EVERYWHERE = {"job", "instance"}
CHOICES = {"anomvae": ["datasource", "instance", "model"], "anomvae-stream": ["datasource", "instance"]}
TOLD = {"anomvae": INSTRUMENTS, "anomvae-stream": STREAM_INSTRUMENTS}
NOT_SHOWN = {
    "anomvae": {
        "anomvae_shadow_info",  # who the challenger is; panels of what it does name the champion
        "anomvae_calibration_trusted",  # the evidence by which it is judged is shown, with the line that it must not cross
    },
    "anomvae-stream": set[str](),
}
WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "offset", "bool"}


def _metrics(expr: str) -> dict[str, set[str]]:
    """Names of the metrics in an expression, with the labels each is matched by."""
    bare = re.sub(r'"[^"]*"', '""', expr)
    bare = re.sub(r"\[[^\]]*\]", " ", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    bare = re.sub(r"\boffset\s+\w+", " ", bare)
    found: dict[str, set[str]] = {}
    for name, after in re.findall(r"([a-zA-Z_][\w:]*)\s*(\{[^}]*\}|\(|)", re.sub(r"\{[^}]*\}", _shielded, bare)):
        if after != "(" and name not in WORDS:
            found.setdefault(name, set()).update(re.findall(r"\w+", after))
    return found


def _shielded(matchers: re.Match[str]) -> str:
    """Matchers by the names of their labels alone."""
    return "{" + ",".join(re.findall(r"(\w+)\s*[=!]", matchers[0])) + "}"


def test_panels_have_numbers_of_their_own_and_do_not_lie_on_each_other(dashboard: dict[str, Any]) -> None:
    everything = dashboard["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    assert len({panel["title"] for panel in everything}) == len(everything)
    for one, other in combinations([panel["gridPos"] for panel in everything], 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
        assert one["x"] + one["w"] <= 24


def test_every_panel_says_what_it_shows_in_which_unit_and_from_where(panels: list[dict[str, Any]]) -> None:
    for panel in panels:
        title = panel["title"]
        assert len(panel["description"]) > 20, title
        assert panel["fieldConfig"]["defaults"]["unit"], title
        assert panel["targets"], title
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]), title
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, title
        if panel["type"] == "timeseries":
            assert all(target["legendFormat"] for target in panel["targets"]), title


def test_the_viewer_chooses_data_source_daemon_or_stream_and_model(dashboard: dict[str, Any]) -> None:
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == CHOICES[dashboard["uid"]]


def test_every_dashboard_is_tested_and_known_by_the_name_of_its_file(
    deploy: Path, dashboard: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    assert {file.stem for file in (deploy / "grafana/dashboards").iterdir()} == set(DASHBOARDS)
    assert dashboard["uid"] == request.node.callspec.params["dashboard"]


def test_a_dashboard_looks_at_its_own_job_alone(dashboard: dict[str, Any], panels: list[dict[str, Any]]) -> None:
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    asked += [note["expr"] for note in dashboard["annotations"]["list"] if "expr" in note]
    asked += [variable["definition"] for variable in dashboard["templating"]["list"] if "definition" in variable]
    for expr in asked:
        for name, matchers in re.findall(r"([\w:]+)\{([^}]*)\}", expr):
            job = re.findall(r'\bjob="([^"]*)"', matchers)
            assert job == ([] if name == "ALERTS" else [dashboard["uid"]]), expr


def test_every_alert_is_named_by_a_panel(deploy: Path, dashboard: dict[str, Any], panels: list[dict[str, Any]]) -> None:
    alerts = _alerts(deploy, dashboard["uid"])
    assert set(re.findall(r"Anomvae\w+", " ".join(panel["description"] for panel in panels))) == set(alerts)


def test_lines_lie_at_the_thresholds_of_the_alerts_they_are_said_to_be(
    deploy: Path, dashboard: dict[str, Any], panels: list[dict[str, Any]]
) -> None:
    alerts = _alerts(deploy, dashboard["uid"])
    lines = 0
    for panel in panels:
        for alert in re.findall(r"The line is the threshold of (\w+)", panel["description"]):
            defaults = panel["fieldConfig"]["defaults"]
            assert defaults["custom"]["thresholdsStyle"] == {"mode": "dashed"}
            (threshold,) = re.findall(r" > ([\d.]+)$", alerts[alert], re.MULTILINE)
            assert defaults["thresholds"]["steps"][-1]["value"] == float(threshold), panel["title"]
            lines += 1
    assert lines >= 2


def test_a_stream_that_alarms_too_often_crosses_the_line_that_its_alert_goes_by(deploy: Path) -> None:
    flood = _alerts(deploy, "anomvae-stream")["AnomvaeStreamAlarmFlood"]
    (times,) = re.findall(r"\((\d+) \* max by", flood)
    dashboard = json.loads((deploy / "grafana/dashboards/anomvae-stream.json").read_text())
    panels = {panel["title"]: panel for panel in dashboard["panels"]}
    drawn = panels["Share of alarms against the stated rate"]["targets"][-1]
    assert drawn["legendFormat"] == "{{instance}} alert"
    assert drawn["expr"].startswith(f"{times} * max by (instance) (anomvae_stream_model_alarm_rate{{")
    steps = panels["Alarms against stated rate"]["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert steps[-1]["value"] == float(times)


def _alerts(deploy: Path, name: str) -> dict[str, str]:
    """Expressions of the alerts of the rules of this name."""
    groups = yaml.safe_load((deploy / f"prometheus/rules/{name}.yml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"] if "alert" in rule}


def test_every_query_parses(queries: list[Query], tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    recorded = [{"record": f"query:{number}", "expr": query.expr} for number, query in enumerate(queries)]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    ended = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_only_metrics_and_labels_that_exist_are_asked_for(queries: list[Query], rules: list[dict[str, Any]]) -> None:
    labels: dict[str, set[str]] = {name: set(known) for name, known in OURS.items()}
    for instrument in (*INSTRUMENTS, *STREAM_INSTRUMENTS):
        known = set(instrument.labels)
        if instrument.type == "histogram":
            labels |= {f"{instrument.name}_{end}": known for end in ("sum", "count")}
            labels[f"{instrument.name}_bucket"] = known | {"le"}
        else:
            labels[instrument.name] = known
    labels |= {rule["record"]: {"model", "protocol"} for rule in rules if "record" in rule}
    for query in queries:
        found = _metrics(query.expr)
        assert found, query
        for name, matched in found.items():
            if not OF_PROCESS.fullmatch(name):
                assert name in labels, f"{query.where} asks for {name}"
                assert matched <= labels[name] | EVERYWHERE, f"{query.where} matches {name} by {matched}"


def test_every_metric_that_is_told_is_shown(dashboard: dict[str, Any], panels: list[dict[str, Any]]) -> None:
    asked = {name for panel in panels for target in panel["targets"] for name in _metrics(target["expr"])}
    ends = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in asked}
    told = {instrument.name for instrument in TOLD[dashboard["uid"]]}
    assert told - ends == NOT_SHOWN[dashboard["uid"]]
