"""A real Prometheus that scraped a daemon and streams under load answers what the dashboards and the rules ask."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.deploy.conftest import Prometheus, Query

pytestmark = pytest.mark.xdist_group("panels")

MAY_BE_EMPTY = {
    "Alerts",  # nothing fires
    "Answers other than OK",  # nobody erred
    "Shadow: verdicts that differ",  # there is no challenger
}


def test_the_daemon_is_scraped_with_its_token(prometheus: Prometheus) -> None:
    assert [series["value"][1] for series in prometheus.ask('up{job="anomvae"}')] == ["1"]


def test_streams_are_scraped_as_the_documentation_says(prometheus: Prometheus) -> None:
    assert [series["value"][1] for series in prometheus.ask('up{job="anomvae-stream"}')] == ["1", "1"]


def test_every_query_of_a_panel_is_answered_with_numbers(
    prometheus: Prometheus, queries: list[Query], panels: list[dict[str, object]]
) -> None:
    titles = {panel["title"] for panel in panels}
    empty = []
    for query in queries:
        answered = [series for series in prometheus.ask(query.expr) if not math.isnan(float(series["value"][1]))]
        if query.where in titles - MAY_BE_EMPTY and not answered:
            empty.append(f"{query.where}: {query.expr}")
    assert empty == []


def test_the_tenths_of_p_values_add_up_to_all_rows_or_records(prometheus: Prometheus, queries: list[Query]) -> None:
    (tenths,) = [query for query in queries if query.where == "P-values by tenths"]
    shares = {float(series["metric"]["le"]): float(series["value"][1]) for series in prometheus.ask(tenths.expr)}
    assert sorted(shares) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert math.isclose(shares[1.0], 1.0)


def test_prometheus_evaluates_every_rule_without_an_error(
    prometheus: Prometheus, rules: list[dict[str, object]]
) -> None:
    evaluated = prometheus.rules()
    assert {rule["name"] for rule in evaluated} == {rule.get("alert") or rule["record"] for rule in rules}
    assert {rule["name"]: rule.get("lastError") for rule in evaluated if rule["health"] != "ok"} == {}


def test_no_alert_fires_on_a_daemon_and_streams_in_good_health(prometheus: Prometheus) -> None:
    assert prometheus.ask('ALERTS{alertname=~"Anomvae.+"}') == []
