"""The Grafana dashboard is sound as a file, and asks only for what the daemon tells."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from pathlib import Path

    from tests.deploy.conftest import Query

OURS = {"up": (), "ALERTS": ("alertname", "alertstate", "severity")}
OF_PROCESS = re.compile(r"process_(cpu_seconds_total|resident_memory_bytes|start_time_seconds|open_fds|max_fds)")
EVERYWHERE = {"job", "instance"}
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


def test_the_viewer_chooses_data_source_daemon_and_model(dashboard: dict[str, Any]) -> None:
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "instance", "model"]
    assert dashboard["uid"] == "anomvae"


def test_every_query_parses(queries: list[Query], tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    recorded = [{"record": f"query:{number}", "expr": query.expr} for number, query in enumerate(queries)]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    ended = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_only_metrics_and_labels_that_exist_are_asked_for(queries: list[Query], rules: list[dict[str, Any]]) -> None:
    from anomvae.observability.instruments import INSTRUMENTS

    labels: dict[str, set[str]] = {name: set(known) for name, known in OURS.items()}
    for instrument in INSTRUMENTS:
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


def test_every_metric_the_daemon_tells_is_looked_at(queries: list[Query]) -> None:
    from anomvae.observability.instruments import INSTRUMENTS

    asked = {name for query in queries for name in _metrics(query.expr)}
    ends = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in asked}
    assert {instrument.name for instrument in INSTRUMENTS} - ends == {"anomvae_shadow_info"}
