"""What the scalers go by: no pod goes that is needed, and none because it is not scraped."""

import math
import re

import httpx
import pytest
import yaml

from server.settings import Settings
from tests.api.servers import Running
from tests.deploy.charts import ROOT, SERVE, Object, only, render
from tests.deploy.scraped import wait_for

SCRAPED: Object = {"networkPolicy": {"metricsFrom": [{"podSelector": {}}]}}
MOST = Settings.model_fields["max_num_seqs"].default


def scaler(kind: str, **given: Object) -> Object:
    """The spec of the object that scales."""
    objects = render(SERVE, {"autoscaling": {"kind": kind}, **SCRAPED, **given})
    found = {"keda": "ScaledObject", "hpa": "HorizontalPodAutoscaler"}[kind]
    spec: Object = only(objects, found)["spec"]
    return spec


def by_requests() -> tuple[str, int]:
    """(query, requests per pod) of KEDA's trigger."""
    (trigger,) = (
        each["metadata"]
        for each in scaler("keda")["triggers"]
        if each["metricType"] == "AverageValue"
    )
    return trigger["query"], int(trigger["threshold"])


@pytest.mark.parametrize(
    ("running", "waiting", "pods"),
    [
        (4 * MOST, 0, 6),  # all four pods are full and nothing waits yet: none may go
        (4 * MOST, 8, 6),
        (2 * MOST, 0, 3),  # in balance: three have two thirds of what they take
        (3, 0, 1),
    ],
)
def test_the_replicas_that_a_load_gets(running: int, waiting: int, pods: int) -> None:
    """As the autoscaler computes them: ⌈sum ÷ target⌉, whatever the number of replicas is now."""
    query, target = by_requests()
    load = {"vllm:num_requests_running": running, "vllm:num_requests_waiting": waiting}
    counted = sum(load[name] for name in re.findall(r"sum\((vllm:\w+)\{", query))
    assert math.ceil(counted / target) == pods


@pytest.mark.parametrize("kind", ["keda", "hpa"])
def test_the_target_follows_the_requests_that_a_pod_runs(kind: str) -> None:
    def target(**given: Object) -> int:
        spec = scaler(kind, **given)
        if kind == "keda":
            return int(spec["triggers"][0]["metadata"]["threshold"])
        return int(spec["metrics"][0]["pods"]["target"]["averageValue"])

    assert target(settings={"max_num_seqs": None}) == 3 * MOST / 4
    assert target(settings={"max_num_seqs": 256}) == 192
    assert target(settings={"max_num_seqs": 1}) == 1
    assert target(autoscaling={"kind": kind, "requests": 5}) == 5


def adapter() -> tuple[str, str]:
    """The metric's name by the runbook's rule for Prometheus-adapter, and its query for one pod."""
    runbook = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(- seriesQuery.+?)```", runbook, re.DOTALL)
    (rule,) = yaml.safe_load(text)
    query = rule["metricsQuery"].replace("<<.Series>>", rule["seriesQuery"].partition("{")[0])
    query = query.replace("<<.LabelMatchers>>", 'namespace="llm",pod="boomerang-7d9c5b6f4-x2k8p"')
    return rule["name"]["as"], query.replace("<<.GroupBy>>", "pod")


def test_pods_that_are_not_scraped_are_not_taken_for_idle() -> None:
    for trigger in scaler("keda")["triggers"]:
        assert trigger["metadata"]["ignoreNullValues"] == "false"


def test_replicas_go_slowly() -> None:
    """A new pod takes minutes to load."""
    keda = scaler("keda")["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert scaler("hpa")["behavior"] == keda
    assert keda["scaleDown"]["stabilizationWindowSeconds"] >= 300


def test_the_adapter_serves_what_the_scaler_asks_for() -> None:
    """By the rule of the runbook: both metrics of KEDA's query, by the name in the values."""
    name, query = adapter()
    (metric,) = scaler("hpa")["metrics"]
    assert name == metric["pods"]["metric"]["name"]
    assert re.findall(r"vllm:\w+", query) == re.findall(r"vllm:\w+", by_requests()[0])


@pytest.mark.engine
@pytest.mark.prometheus
def test_every_query_of_the_scalers_has_data(pod: Running, prometheus: httpx.Client) -> None:
    queries = {each["metadata"]["query"] for each in scaler("keda")["triggers"]}
    wait_for({*queries, adapter()[1]}, pod, prometheus)
