"""Alert rules and dashboard, read by a real Prometheus: Debian's package `prometheus`."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry

from server.metrics import SizeMetrics
from server.refusals import Refusal
from tests.api.servers import Running
from tests.deploy.charts import ROOT, SERVE, Object, only, render
from tests.deploy.scraped import ALERTS, wait_for

CASES = Path(__file__).parent / "alerts_test.yaml"
DASHBOARD = json.loads((SERVE / "files" / "dashboard.json").read_text())
VARIABLES = DASHBOARD["templating"]["list"]
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
SCRAPED: Object = {"networkPolicy": {"metricsFrom": [{"podSelector": {}}]}}


def test_every_alert_is_in_the_runbook() -> None:
    runbook = (ROOT / "docs" / "operations.md").read_text()
    for rule in RULES:
        assert f"`{rule['alert']}`" in runbook


def test_every_reason_of_a_refusal_is_in_the_runbook() -> None:
    runbook = (ROOT / "docs" / "operations.md").read_text()
    for reason in Refusal:
        assert f"\n| `{reason}` |" in runbook


def test_every_alert_has_a_unit_test() -> None:
    tests = yaml.safe_load(CASES.read_text())["tests"]
    tested = [case for test in tests for case in test["alert_rule_test"]]
    for rule in RULES:
        cases = [case for case in tested if case["alertname"] == rule["alert"]]
        assert any(case["exp_alerts"] for case in cases), rule["alert"]
        assert any(not case["exp_alerts"] for case in cases), rule["alert"]


SERIES = r"((?:boomerang_|vllm:|container_|kube_pod_)\w+)(?:\{([^}]*)\})?"
"""A series in a query: its name and what it is selected by."""


def test_every_alert_is_about_the_pods_of_its_release() -> None:
    for rule in RULES:
        for name, selected in re.findall(SERIES, rule["expr"]):
            assert {"namespace", "pod"} <= set(re.findall(r"(\w+)=", selected)), (rule, name)


def test_every_panel_follows_the_variables() -> None:
    """Two releases of a namespace are two jobs; what is known by size follows the size too."""
    assert [each["name"] for each in VARIABLES] == ["datasource", "namespace", "job", "size"]
    registry = CollectorRegistry()
    SizeMetrics(registry)
    by_size = {metric.name for metric in registry.collect()}
    by_size |= {"boomerang_requests", "boomerang_size_footprint_bytes"}
    for query in QUERIES:
        ((name, selected),) = re.findall(SERIES, query)
        labels = {"namespace", "job"}
        labels |= {"size"} if re.sub("_(total|bucket)$", "", name) in by_size else set()
        assert {f'{label}=~"${label}"' for label in labels} <= set(selected.split(",")), query


def test_two_releases_have_two_dashboards() -> None:
    """In Grafana's one folder of files, and in its own folder of titles."""
    given = {"monitoring": {"dashboard": True}}
    boards = {}
    for release in ("small", "large"):
        maps = [item for item in render(SERVE, given, release) if item["kind"] == "ConfigMap"]
        (data,) = (item["data"] for item in maps if item["metadata"]["name"].endswith("-dashboard"))
        boards |= {name: json.loads(text) for name, text in data.items()}
    assert set(boards) == {"llm-small-boomerang.json", "llm-large-boomerang.json"}
    for field in ("uid", "title"):
        assert len({board[field] for board in boards.values()}) == 2
    for board in boards.values():
        assert re.fullmatch(r"[a-z0-9-]{1,40}", board["uid"])  # Grafana takes no longer one
        assert board["panels"] == DASHBOARD["panels"]


def test_a_dashboard_opens_on_its_own_release() -> None:
    """Not on the sum of all; the operator names a job after the PodMonitor, NAMESPACE/NAME."""
    given = {"monitoring": {"dashboard": True, "podMonitor": True}, **SCRAPED}
    objects = render(SERVE, given, "small")
    (text,) = (
        item["data"]["llm-small-boomerang.json"]
        for item in objects
        if item["metadata"]["name"].endswith("-dashboard")
    )
    monitor = only(objects, "PodMonitor")["metadata"]["name"]
    chosen = {
        each["name"]: each["current"]["value"]
        for each in json.loads(text)["templating"]["list"]
        if "current" in each
    }
    assert chosen == {"namespace": ["llm"], "job": [f"llm/{monitor}"], "size": "$__all"}


def test_a_pod_is_missing_once_it_has_had_its_time_to_start() -> None:
    given: Object = {"monitoring": {"rules": True}, "startupSeconds": 3600}
    objects = render(SERVE, given)
    deadline = only(objects, "Deployment")["spec"]["progressDeadlineSeconds"]
    rules = only(objects, "PrometheusRule")["spec"]["groups"][0]["rules"]
    (missing,) = (rule for rule in rules if rule["alert"] == "BoomerangPodsMissing")
    assert missing["for"] == f"{deadline}s"


def test_what_is_known_by_size_is_shown_by_size() -> None:
    shown = {name for query in QUERIES for name, _ in re.findall(SERIES, query)}
    assert shown >= {
        "boomerang_first_token_seconds_bucket",
        "boomerang_token_seconds_bucket",
        "boomerang_requests_in_flight",
        "boomerang_generated_tokens_total",
    }
    assert shown >= {"boomerang_step_sizes_bucket", "boomerang_kv_cache_used_bytes"}


@pytest.mark.prometheus
def test_alerts_fire_and_stay_silent(tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(ALERTS))
    shutil.copy(CASES, tmp_path)
    for command in (["check", "rules", "alerts.yaml"], ["test", "rules", CASES.name]):
        done = subprocess.run(["promtool", *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def filled(query: str) -> str:
    """A panel's query with Grafana's variables filled in."""
    query = query.replace("$__rate_interval", "1m").replace("$namespace", "llm")
    query = query.replace("$job", "boomerang").replace("$size", ".*")
    assert "$" not in query
    return query


@pytest.mark.engine
@pytest.mark.prometheus
def test_every_query_of_the_dashboard_has_data(pod: Running, prometheus: httpx.Client) -> None:
    wait_for({filled(query) for query in QUERIES}, pod, prometheus)


@pytest.mark.engine
@pytest.mark.prometheus
def test_the_rules_name_metrics_that_exist(pod: Running, prometheus: httpx.Client) -> None:
    named = {
        name for rule in RULES for name in re.findall(r"(?:boomerang_|vllm:)\w+", rule["expr"])
    }
    assert len(named) >= 6
    wait_for(named, pod, prometheus)
    groups = prometheus.get("/rules").json()["data"]["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}


@pytest.mark.engine
@pytest.mark.prometheus
def test_our_metrics_are_well_named(pod: Running) -> None:
    text = httpx.get(f"{pod.url}/metrics").text
    ours = "".join(line + "\n" for line in text.splitlines() if "boomerang_" in line)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=ours, capture_output=True, text=True
    )
    said = [line for line in done.stderr.splitlines() if "_created" not in line]
    assert said == []
