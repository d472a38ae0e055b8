"""Values that are wrong are refused, by the name of the field."""

from pathlib import Path
from typing import Any

import helm_python as helm
import pytest

from tests.deploy.charts import DISTILL, SERVE, Object, render

GPU: Object = {"image": {"flavour": "gpu"}, "accelerator": {"resource": "nvidia.com/gpu"}}
HERE: Object = {"teacher": "/families/t", "texts": ["/families/x"]}
MIG: Object = {"resource": "nvidia.com/mig-1g.10gb"}
HUB: Object = {"source": "hub", "hub": {"repository": "o/f", "revision": "0" * 40}}
ROLLS: Object = {"maxSurge": 0, "maxUnavailable": 1}
SCRAPED: Object = {"metricsFrom": [{"podSelector": {}}]}
PROXY: Object = {"to": [{"ipBlock": {"cidr": "10.0.0.9/32"}}]}


def memory(amount: str) -> Object:
    """A pod of so much memory."""
    return {"resources": {"requests": {"memory": amount}, "limits": {"memory": amount}}}


FAR: Object = {"parent": "g", "parentNamespace": "elsewhere"}
NEAR: Object = {"parent": "g"}
TLS: Object = {"secret": "my-tls"}

BAD: list[tuple[Path, Any, str]] = [
    (SERVE, {"replicas": "two"}, "/replicas"),
    (SERVE, {"replicsa": 2}, "replicsa"),
    (SERVE, {"settings": {"prot": 1}}, "prot"),
    (SERVE, {"settings": {"max_model_len": 0}}, "/settings/max_model_len"),
    (SERVE, {"settings": {"kv_cache_bytes": "lots"}}, "/settings/kv_cache_bytes"),
    (SERVE, {"settings": {"dtype": "int1"}}, "/settings/dtype"),
    (SERVE, {"settings": {"vllm_options": {"enable_lora": True}}}, "enable_lora"),
    (SERVE, {"settings": {"kv_cache_bytes": "8GiB"}}, "settings.kv_cache_bytes"),
    (SERVE, {"image": {"flavour": "tpu"}}, "/image/flavour"),
    (SERVE, {"image": {"flavour": "gpu"}}, "accelerator.resource"),
    (SERVE, {"accelerator": {"resource": "nvidia.com/gpu"}}, "image.flavour"),
    (SERVE, {"memoryBudget": {"from": "fixed", "fixed": "8GiB"}}, "memoryBudget.fixed"),
    (SERVE, {"memoryBudget": {"from": "fixed"}}, "/memoryBudget/fixed"),
    (SERVE, {"memoryBudget": {"from": "device"}}, "/memoryBudget/device"),
    (SERVE, {"memoryBudget": {"from": "limit", "reserve": "5Gi"}}, "memoryBudget.reserve"),
    (SERVE, {"memoryBudget": {"from": "limit", "reserve": "1Gi"}}, "memoryBudget.reserve"),
    (SERVE, {"memoryBudget": {"from": "fixed", "fixed": "1537MiB"}}, "memoryBudget.fixed"),
    (SERVE, {"memoryBudget": {"from": "device", "device": "3Gi"}}, "memoryBudget.from"),
    (SERVE, {"memoryBudget": {"from": "fixed", "fixed": "256MiB"}}, "settings.kv_cache_bytes"),
    (SERVE, {"memoryBudget": {"from": "limit", "reserve": "3900Mi"}}, "settings.kv_cache_bytes"),
    (SERVE, {"settings": {"kv_cache_bytes": "1.5GiB"}}, "settings.kv_cache_bytes"),
    (
        SERVE,
        {"settings": {"kv_cache_bytes": None}, "memoryBudget": {"from": "fixed", "fixed": 1000}},
        "settings.kv_cache_bytes: 256MiB",
    ),
    (SERVE, {**memory("2560Mi"), "sharedMemory": "8Mi"}, "resources.limits.memory"),
    (SERVE, {**GPU, "memoryBudget": {"from": "limit"}}, "memoryBudget.from"),
    (
        SERVE,
        {
            **GPU,
            "memoryBudget": {"from": "device", "device": "10Gi"},
            "settings": {"kv_cache_bytes": "7.5GiB"},
        },
        "settings.kv_cache_bytes",
    ),
    (
        SERVE,
        {**GPU, "memoryBudget": {"from": "device", "device": "2Gi"}},
        "memoryBudget.reserve",
    ),
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
    (SERVE, {"accelerator": {"count": 2}}, "accelerator.count: 2 of what?"),
    (
        SERVE,
        {**GPU, "accelerator": {"resource": "nvidia.com/gpu", "count": 2}},
        "sharedMemory: 64Mi is too little",
    ),
    (SERVE, {"memoryBudget": {"fixed": "1GiB"}}, "memoryBudget.fixed: is not used"),
    (SERVE, {**GPU, "memoryBudget": {"device": "10Gi"}}, "memoryBudget.device: is not used"),
    (SERVE, {"family": {"hub": {"repository": "o/f"}}}, "family.hub.repository: is not used"),
    (SERVE, {"family": {"image": {"reference": "r/f:1"}}}, "family.image.reference: is not used"),
    (SERVE, {"family": {"rclone": {"remote": "s3:f"}}}, "family.rclone.remote: is not used"),
    (SERVE, {"storage": {"create": True, "existingClaim": "families"}}, "storage.create"),
    (SERVE, {"user": 0}, "/user"),
    (SERVE, {"autoscaling": {"waiting": 4}}, "waiting"),
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
    (SERVE, {"resources": {"requests": {"memory": "5Gi"}}}, "resources.requests.memory"),
    (SERVE, {"resources": {"limits": {"cpu": "1500m"}}}, "resources.requests.cpu"),
    (
        SERVE,
        {"resources": {"limits": {"ephemeral-storage": "2Gi"}}},
        "resources.requests.ephemeral-storage: 3072Mi",
    ),
    (SERVE, {"initResources": {"requests": {"memory": "2Gi"}}}, "initResources.requests.memory"),
    (SERVE, {"initResources": {"limits": {"memory": "much"}}}, "/initResources/limits/memory"),
    (SERVE, {"fetchSeconds": -1}, "/fetchSeconds"),
    (SERVE, {"resources": {"requests": {"cpu": "banana"}}}, "/resources/requests/cpu"),
    (SERVE, {"resources": {"requests": {"cpu": 0}}}, "/resources/requests/cpu"),
    (SERVE, {"resources": {"limits": {"cpu": "2 cores"}}}, "/resources/limits/cpu"),
    (SERVE, {"sharedMemory": "4Gi"}, "sharedMemory"),
    (SERVE, {"strategy": {"maxSurge": 0, "maxUnavailable": "0%"}}, "strategy"),
    (SERVE, {"strategy": {"maxSurge": "banana"}}, "/strategy/maxSurge"),
    (SERVE, {"strategy": {"maxSurge": -1}}, "/strategy/maxSurge"),
    (SERVE, {"strategy": {"maxUnavailable": "101%"}}, "/strategy/maxUnavailable"),
    (SERVE, {"podDisruptionBudget": {"maxUnavailable": 0}}, "/podDisruptionBudget/maxUnavailable"),
    (
        SERVE,
        {"podDisruptionBudget": {"maxUnavailable": "0%"}},
        "/podDisruptionBudget/maxUnavailable",
    ),
    (SERVE, {"preStopSeconds": 0, "settings": {"linger_seconds": 0}}, "settings.linger_seconds"),
    (SERVE, {"podLabels": {"app.kubernetes.io/name": "x"}}, "podLabels:"),
    (SERVE, {"podAnnotations": {"checksum/config": "x"}}, "podAnnotations:"),
    (SERVE, {"family": HUB}, "networkPolicy.internet"),
    (
        SERVE,
        {"family": {"source": "rclone", "rclone": {"remote": "s3:f", "configSecret": "s3"}}},
        "networkPolicy.internet",
    ),
    (SERVE, {"family": {"teacherTokenSecret": "token"}}, "networkPolicy.internet"),
    (SERVE, {"networkPolicy": {"dns": {"port": "dns"}}}, "/networkPolicy/dns/port"),
    (SERVE, {"gateway": {"models": ["m@1b"]}}, "gateway.models"),
    (SERVE, {"gateway": FAR}, "networkPolicy.from: gateway.parent is in the namespace elsewhere"),
    (SERVE, {"gateway": NEAR, "tls": TLS}, "tls.secret: a Gateway speaks plain HTTP"),
    (
        SERVE,
        {
            "gateway": {**NEAR, "pool": True, "endpointPicker": "x", "backendTLSPolicy": True},
            "tls": TLS,
        },
        "tls.secret: a Gateway and an endpoint picker",
    ),
    (SERVE, {"gateway": {"backendTLSPolicy": True}}, "gateway.backendTLSPolicy"),
    (SERVE, {"keys": {"existingAdmin": True}}, "keys.existingAdmin"),
    (SERVE, {"keys": {"existingAdmin": True, "api": ["0123456789abcdef"]}}, "keys.existingAdmin"),
    (SERVE, {"monitoring": {"podMonitor": True}}, "networkPolicy.metricsFrom"),
    (SERVE, {"autoscaling": {"kind": "keda"}}, "networkPolicy.metricsFrom"),
    (SERVE, {"extraEnv": [{"value": "x"}]}, "/extraEnv/0"),
    (SERVE, {"extraVolumes": [{"name": "storage", "emptyDir": {}}]}, "/extraVolumes/0/name"),
    (SERVE, {"extraVolumes": [{"name": "x", "hostPath": {"path": "/"}}]}, "/extraVolumes/0"),
    (SERVE, {"extraVolumeMounts": [{"name": "x"}]}, "/extraVolumeMounts/0"),
    (SERVE, {"gateway": {**NEAR, "hostnames": ["https://x"]}}, "/gateway/hostnames/0"),
    (DISTILL, {**HERE, "extraEnv": [{"value": "x"}]}, "/extraEnv/0"),
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
    (DISTILL, {**HERE, "nodes": 0}, "/nodes"),
    (DISTILL, {**HERE, "nodes": 2, "accelerator": {"resource": ""}}, "nodes"),
    (DISTILL, {**HERE, "resources": {"requests": {"cpu": "many"}}}, "/resources/requests/cpu"),
    (DISTILL, {**HERE, "resources": {"requests": {"memory": "65Gi"}}}, "resources.requests.memory"),
    (DISTILL, {**HERE, "resources": {"limits": {"cpu": 7.5}}}, "resources.requests.cpu"),
    (DISTILL, {**HERE, "sharedMemory": "64Gi"}, "sharedMemory"),
    (DISTILL, {**HERE, "teacher": "Qwen/Qwen3-4B-Base"}, "internet: Qwen/Qwen3-4B-Base"),
    (DISTILL, {**HERE, "texts": ["/families/x", "hub:o/t?split=train"]}, "internet: o/t"),
    (DISTILL, {**HERE, "accelerator": {**MIG, "perNode": 2}}, "accelerator.perNode"),
    (DISTILL, {**HERE, "accelerator": MIG, "nodes": 2}, "accelerator.resource"),
    (DISTILL, {**HERE, "sharding": "fsdp"}, "sharding: fsdp"),
    (DISTILL, {**HERE, "sharding": "zero"}, "/sharding"),
    (DISTILL, {**HERE, "podLabels": {"app.kubernetes.io/instance": "x"}}, "podLabels:"),
    (DISTILL, {**HERE, "image": {"digest": "sha256:short"}}, "/image/digest"),
]


@pytest.mark.parametrize(("chart", "given", "names"), BAD, ids=[names for _, _, names in BAD])
def test_bad_values_are_refused_by_name(chart: Path, given: Object, names: str) -> None:
    with pytest.raises(helm.HelmError) as refused:
        render(chart, given)
    assert names in str(refused.value)


GOOD: list[tuple[Path, Object]] = [
    (SERVE, {"storage": {"create": True}, "strategy": ROLLS}),
    (SERVE, {"storage": {"create": True, "accessMode": "ReadWriteOncePod"}, "strategy": ROLLS}),
    (SERVE, {"storage": {"create": True, "accessMode": "ReadWriteMany"}, "replicas": 3}),
    (SERVE, {"storage": {"existingClaim": "families"}, "replicas": 3}),
    (SERVE, {"monitoring": {"podMonitor": True}, "networkPolicy": SCRAPED}),
    (SERVE, {"monitoring": {"podMonitor": True}, "networkPolicy": {"enabled": False}}),
    (SERVE, {"memoryBudget": {"from": "fixed", "fixed": "1536MiB"}}),
    (SERVE, {**GPU, "settings": {"kv_cache_bytes": "60GiB"}}),
    (SERVE, {"resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": 0.5}}}),
    (SERVE, {"strategy": {"maxSurge": "25%", "maxUnavailable": "25%"}}),
    (SERVE, {"podDisruptionBudget": {"maxUnavailable": "50%"}}),
    (SERVE, {"preStopSeconds": 0, "settings": {"linger_seconds": None}}),
    (SERVE, {"preStopSeconds": 2, "settings": {"linger_seconds": 0}}),
    (SERVE, {"family": HUB, "networkPolicy": {"egress": [PROXY]}}),
    (SERVE, {"family": HUB, "networkPolicy": {"enabled": False}}),
    (SERVE, {"family": {"source": "image", "image": {"reference": "r/f:1"}}}),
    (SERVE, {"keys": {"existingSecret": "keys", "existingAdmin": True}}),
    (SERVE, {"gateway": NEAR}),
    (SERVE, {"gateway": {**NEAR, "parentNamespace": "llm"}}),
    (SERVE, {"gateway": FAR, "networkPolicy": {"from": [{"namespaceSelector": {}}]}}),
    (SERVE, {"gateway": FAR, "networkPolicy": {"enabled": False}}),
    (SERVE, {"gateway": {**NEAR, "backendTLSPolicy": True}, "tls": TLS}),
    (DISTILL, {**HERE, "accelerator": MIG}),
    (DISTILL, {**HERE, "teacher": "o/t", "internet": True}),
    (DISTILL, {**HERE, "texts": ["hub:o/t"], "egress": [PROXY]}),
]


@pytest.mark.parametrize(("chart", "given"), GOOD)
def test_what_is_right_is_not_refused(chart: Path, given: Object) -> None:
    assert render(chart, given)
