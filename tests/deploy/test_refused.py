"""Values that are wrong are refused, by the name of the field."""

from pathlib import Path
from typing import Any

import helm_python as helm
import pytest

from tests.deploy.charts import DISTILL, SERVE, Object, render

GPU = {"image": {"flavour": "gpu"}, "accelerator": {"resource": "nvidia.com/gpu"}}
BAD: list[tuple[Path, Any, str]] = [
    (SERVE, {"replicas": "two"}, "/replicas"),
    (SERVE, {"replicsa": 2}, "replicsa"),
    (SERVE, {"settings": {"prot": 1}}, "prot"),
    (SERVE, {"settings": {"max_model_len": 0}}, "/settings/max_model_len"),
    (SERVE, {"settings": {"kv_cache_bytes": "lots"}}, "/settings/kv_cache_bytes"),
    (SERVE, {"settings": {"dtype": "int1"}}, "/settings/dtype"),
    (SERVE, {"settings": {"kv_cache_bytes": "8GiB"}}, "settings.kv_cache_bytes"),
    (SERVE, {"image": {"flavour": "tpu"}}, "/image/flavour"),
    (SERVE, {"image": {"flavour": "gpu"}}, "accelerator.resource"),
    (SERVE, {"accelerator": {"resource": "nvidia.com/gpu"}}, "image.flavour"),
    (SERVE, {"memoryBudget": {"from": "fixed", "fixed": "8GiB"}}, "memoryBudget.fixed"),
    (SERVE, {"memoryBudget": {"from": "fixed"}}, "/memoryBudget/fixed"),
    (SERVE, {"memoryBudget": {"from": "device"}}, "/memoryBudget/device"),
    (SERVE, {"memoryBudget": {"from": "limit", "reserve": "5Gi"}}, "memoryBudget.reserve"),
    (SERVE, {**GPU, "memoryBudget": {"from": "limit"}}, "memoryBudget.from"),
    (
        SERVE,
        {**GPU, "memoryBudget": {"from": "fixed", "device": "9Gi", "fixed": "10GiB"}},
        "memoryBudget.fixed",
    ),
    (
        SERVE,
        {
            "image": {"flavour": "gpu"},
            "accelerator": {"resource": "nvidia.com/mig-1g.10gb", "count": 2},
        },
        "accelerator.count",
    ),
    (SERVE, {"terminationGracePeriodSeconds": 20}, "terminationGracePeriodSeconds"),
    (SERVE, {"replicas": 2, "storage": {"create": True}}, "several replicas need ReadWriteMany"),
    (
        SERVE,
        {"replicas": 2, "storage": {"create": True, "accessMode": "ReadWriteOncePod"}},
        "several replicas need ReadWriteMany",
    ),
    (SERVE, {"storage": {"create": True}}, "strategy {maxSurge: 0, maxUnavailable: 1}"),
    (
        SERVE,
        {"storage": {"create": True, "accessMode": "ReadWriteOncePod"}},
        "with ReadWriteOncePod a new pod cannot start beside the old one",
    ),
    (
        SERVE,
        {"storage": {"create": True}, "strategy": {"maxSurge": "25%", "maxUnavailable": 0}},
        "strategy {maxSurge: 0, maxUnavailable: 1}",
    ),
    (SERVE, {"monitoring": {"podMonitor": True}}, "networkPolicy.metricsFrom"),
    (SERVE, {"autoscaling": {"kind": "keda"}}, "networkPolicy.metricsFrom"),
    (SERVE, {"extraEnv": [{"value": "x"}]}, "/extraEnv/0"),
    (DISTILL, {"teacher": "t", "texts": ["x"], "extraEnv": [{"value": "x"}]}, "/extraEnv/0"),
    (SERVE, {"family": {"source": "volume"}}, "storage.existingClaim"),
    (SERVE, {"family": {"source": "hub"}}, "/family/hub/re"),
    (
        SERVE,
        {"family": {"source": "hub", "hub": {"repository": "a/b", "revision": "main"}}},
        "/family/hub/revision",
    ),
    (SERVE, {"autoscaling": {"minReplicas": 9}}, "autoscaling.minReplicas"),
    (SERVE, {"autoscaling": {"kvUsage": 80}}, "/autoscaling/kvUsage"),
    (SERVE, {"keys": {"api": ["short"]}}, "/keys/api"),
    (SERVE, {"keys": {"admin": ["0123456789abcdef"]}}, "keys.admin"),
    (SERVE, {"gateway": {"pool": True, "endpointPicker": "x"}}, "gateway.pool"),
    (SERVE, {"resources": {"limits": {"memory": "plenty"}}}, "/resources/limits/memory"),
    (SERVE, {"startupSeconds": 1}, "/startupSeconds"),
    (DISTILL, {}, "/teacher"),
    (DISTILL, {"teacher": "t", "texts": []}, "/texts"),
    (DISTILL, {"teacher": "t", "texts": ["x"], "nodes": 0}, "/nodes"),
    (
        DISTILL,
        {"teacher": "t", "texts": ["x"], "nodes": 2, "accelerator": {"resource": ""}},
        "nodes",
    ),
]


@pytest.mark.parametrize(("chart", "given", "names"), BAD, ids=[names for _, _, names in BAD])
def test_bad_values_are_refused_by_name(chart: Path, given: Object, names: str) -> None:
    with pytest.raises(helm.HelmError) as refused:
        render(chart, given)
    assert names in str(refused.value)


ROLLS = {"maxSurge": 0, "maxUnavailable": 1}
HERE: Object = {"metricsFrom": [{"podSelector": {}}]}
GOOD: list[Object] = [
    {"storage": {"create": True}, "strategy": ROLLS},
    {"storage": {"create": True, "accessMode": "ReadWriteOncePod"}, "strategy": ROLLS},
    {"storage": {"create": True, "accessMode": "ReadWriteMany"}, "replicas": 3},
    {"storage": {"existingClaim": "families"}, "replicas": 3},
    {"monitoring": {"podMonitor": True}, "networkPolicy": HERE},
    {"monitoring": {"podMonitor": True}, "networkPolicy": {"enabled": False}},
]


@pytest.mark.parametrize("given", GOOD)
def test_what_is_right_is_not_refused(given: Object) -> None:
    assert render(SERVE, given)
