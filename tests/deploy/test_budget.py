"""What the charts say of memory and disk: the budget of the server, the requests of a pod."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from boomerang_core.memory_plan import LEAST_KV_BYTES
from boomerang_core.sizes import parse_bytes
from server.memory.cgroup import PROCESS_BYTES
from tests.deploy.charts import DISTILL, SERVE, Object, only, pod_spec, render, values


def test_the_budget_follows_the_limit() -> None:
    objects = render(SERVE, {"memoryBudget": {"from": "limit", "reserve": "2100Mi"}})
    server = pod_spec(only(objects, "Deployment"))["containers"][0]
    source = next(item for item in server["env"] if item["name"] == "MEMORY_LIMIT")
    assert source["valueFrom"]["resourceFieldRef"]["resource"] == "limits.memory"
    script = server["args"][0].replace(
        "exec boomerang serve", "sh -c 'echo $BOOMERANG_MEMORY_BUDGET'"
    )
    (reserve,) = (item["value"] for item in server["env"] if item["name"] == "MEMORY_RESERVE")
    env = {"MEMORY_LIMIT": str(3 << 30), "MEMORY_RESERVE": reserve}
    said = subprocess.run(["/bin/sh", "-ec", script], env=env, capture_output=True, text=True)
    assert int(said.stdout) == (3 << 30) - (2100 << 20)


def settings_of(given: Object) -> Object:
    """The server's environment."""
    maps = [item for item in render(SERVE, given) if item["kind"] == "ConfigMap"]
    (data,) = (each["data"] for each in maps if "BOOMERANG_FAMILY" in each["data"])
    return {str(name): value for name, value in data.items()}


def test_slices_of_different_memory_get_different_budgets() -> None:
    budgets = [
        int(settings_of(values(SERVE / "profiles" / f"mig-{size}.yaml"))["BOOMERANG_MEMORY_BUDGET"])
        for size in ("10gb", "20gb")
    ]
    assert budgets == [int(9.5 * 2**30) - (2560 << 20), int(19.5 * 2**30) - (2560 << 20)]


@pytest.mark.parametrize("count", [1, 4])
def test_the_budget_is_of_all_gpus_together(count: int) -> None:
    given = {
        "image": {"flavour": "gpu"},
        "accelerator": {"resource": "nvidia.com/gpu", "count": count},
        "memoryBudget": {"from": "device", "device": "80Gi", "reserve": "2Gi"},
        "sharedMemory": "1Gi",
    }
    assert settings_of(given)["BOOMERANG_MEMORY_BUDGET"] == str(count * (78 << 30))


@pytest.mark.parametrize("profile", ["one-gpu", "several-gpus"])
def test_whole_gpus_tell_their_memory_themselves(profile: str) -> None:
    """The server takes its budget from the GPUs; every GPU holds an equal share of the cache."""
    data = settings_of(values(SERVE / "profiles" / f"{profile}.yaml"))
    assert "BOOMERANG_MEMORY_BUDGET" not in data
    count = int(data.get("BOOMERANG_TENSOR_PARALLEL_SIZE", 1))
    assert parse_bytes(data["BOOMERANG_KV_CACHE_BYTES"]) == count * (16 << 30)


def test_the_charts_know_what_a_cpu_server_takes_by_itself() -> None:
    reserve = yaml.safe_load((SERVE / "values.yaml").read_text())["memoryBudget"]["reserve"]
    assert parse_bytes(reserve) == PROCESS_BYTES
    checks = (SERVE / "templates" / "_quantities.tpl").read_text()
    assert f'(include "boomerang.bytes" "{reserve}" | int64)' in checks


def test_the_charts_know_the_least_kv_cache() -> None:
    """They refuse a budget that has no room for it, where no cache is stated."""
    checks = (SERVE / "templates" / "_checks.tpl").read_text()
    (least,) = re.findall(r'kv_cache_bytes \| default "(\w+)"', checks)
    assert parse_bytes(least) == LEAST_KV_BYTES


@pytest.mark.parametrize(
    ("chart", "profile", "disk"),
    [
        (SERVE, None, "3072Mi"),  # storage and temporary
        (SERVE, "one-gpu", "1024Mi"),  # the claim is no part of the node's disk
        (SERVE, "mig-10gb", "52224Mi"),
        (DISTILL, "one-gpu", "61440Mi"),
    ],
)
def test_a_pod_asks_for_the_disk_of_its_volumes(
    chart: Path, profile: str | None, disk: str
) -> None:
    given = values(chart / "profiles" / f"{profile}.yaml" if profile else None)
    kind = "Job" if chart == DISTILL else "Deployment"

    def asked(given: Object) -> Object:
        main = pod_spec(only(render(chart, given), kind))["containers"][0]
        requests: Object = main["resources"]["requests"]
        return requests

    assert asked(given)["ephemeral-storage"] == disk
    given.setdefault("resources", {}).setdefault("requests", {})["ephemeral-storage"] = "7Gi"
    assert asked(given)["ephemeral-storage"] == "7Gi"


FETCHED: Object = {
    "family": {"source": "hub", "hub": {"repository": "o/f", "revision": "0" * 40}},
    "networkPolicy": {"internet": True},
}
CLAIMED: Object = {"storage": {"create": True, "accessMode": "ReadWriteMany"}}


@pytest.mark.parametrize(("given", "size"), [({}, "2Gi"), (FETCHED, "20Gi")])
def test_what_is_fetched_has_more_room(given: Object, size: str) -> None:
    (storage, *_) = pod_spec(only(render(SERVE, given), "Deployment"))["volumes"]
    assert storage["emptyDir"] == {"sizeLimit": size}
    claim = only(render(SERVE, {**given, **CLAIMED}), "PersistentVolumeClaim")
    assert claim["spec"]["resources"]["requests"]["storage"] == "20Gi"
