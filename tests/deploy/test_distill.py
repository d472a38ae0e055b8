"""The Job that makes a family: its command, its failures, where it runs, what it reaches."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from torch.distributed.run import get_args_parser

from boomerang_core.cli import app
from boomerang_core.cli.make import RECIPES
from tests.deploy.charts import DISTILL, ROOT, Object, only, pod_spec, profiles, render, values

LOCAL: Object = {"teacher": "/families/t", "texts": ["/families/x"]}


@pytest.mark.parametrize("profile", profiles(DISTILL), ids=lambda path: path.stem)
def test_the_job_makes_a_family(profile: Path) -> None:
    """Its options are options of `boomerang make`; several nodes meet at the first pod's name."""
    given = values(profile)
    objects = render(DISTILL, given)
    job = only(objects, "Job")
    command = pod_spec(job)["containers"][0]["command"]
    told = command[command.index("make") + 1 :]
    options = {option for parameter in click_command("make").params for option in parameter.opts}
    assert {word for word in told if word.startswith("--")} <= options
    if given.get("nodes", 1) > 1:
        service = only(objects, "Service")
        first = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
        host = f"{first}.$(POD_NAMESPACE).svc.cluster.local"
        assert f"--rdzv-endpoint={host}:29500" in command
        assert "POD_NAMESPACE" in {each["name"] for each in pod_spec(job)["containers"][0]["env"]}
        assert not any(word.startswith("--node-rank") for word in command)  # c10d ignores it
        assert job["spec"]["completionMode"] == "Indexed"
        assert pod_spec(job)["subdomain"] == service["metadata"]["name"]
        assert service["spec"]["clusterIP"] == "None"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, ["--preset", "gpu"]),
        ({"arguments": ["--tokens", "9"]}, ["--tokens", "9"]),
        ({"accelerator": {"resource": ""}}, []),
    ],
)
def test_a_gpu_has_the_settings_for_one_unless_it_is_told(given: Object, told: list[str]) -> None:
    job = only(render(DISTILL, {**LOCAL, **given}), "Job")
    command = pod_spec(job)["containers"][0]["command"]
    device = [] if given.get("accelerator") else ["--device", "cuda"]
    assert command[command.index("--out") + 2 :] == [*device, *told]


@pytest.mark.parametrize(("resource", "flavour"), [("nvidia.com/gpu", "gpu"), ("", "cpu")])
def test_the_image_is_of_the_accelerator(resource: str, flavour: str) -> None:
    given = {**LOCAL, "accelerator": {"resource": resource}}
    (make,) = pod_spec(only(render(DISTILL, given), "Job"))["containers"]
    assert make["image"] == f"boomerang:0.1.0-{flavour}"


@pytest.mark.parametrize("nodes", [1, 2])
def test_torchrun_leaves_its_processes_the_time_to_save(nodes: int) -> None:
    """Nearly all that the kubelet gives; its own 30 seconds are little for a state of gigabytes."""
    given = {**LOCAL, "nodes": nodes, "accelerator": {"perNode": 8}}
    spec = pod_spec(only(render(DISTILL, given), "Job"))
    command = spec["containers"][0]["command"]
    read = get_args_parser().parse_args(command[command.index("torchrun") + 1 :])
    assert 60 < read.shutdown_timeout < spec["terminationGracePeriodSeconds"]
    assert (read.nproc_per_node, read.training_script) == ("8", "boomerang_core")


def test_sharding_is_what_the_file_for_accelerate_says() -> None:
    """accelerate's launcher gives its fields to the processes as environment, by the same names."""
    said = yaml.safe_load((RECIPES / "fsdp.yaml").read_text())["fsdp_config"]
    expected = {name.upper(): str(value).lower() for name, value in said.items()}
    several = {**LOCAL, "accelerator": {"perNode": 8}}
    for sharding, told in (("fsdp", {**expected, "ACCELERATE_USE_FSDP": "true"}), ("none", {})):
        job = only(render(DISTILL, {**several, "sharding": sharding}), "Job")
        (make,) = pod_spec(job)["containers"]
        env = {each["name"]: each["value"] for each in make["env"]}
        assert {name: env[name] for name in env if "FSDP" in name} == told
        assert "torchrun" in make["command"]


def test_the_file_for_accelerate_is_in_the_wheel() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = data["package-data"]["boomerang_core"]
    assert any(fnmatch(f"{RECIPES.name}/fsdp.yaml", pattern) for pattern in patterns)


def click_command(name: str) -> Any:
    """A command of the offline command line."""
    group: Any = typer.main.get_command(app)
    return group.commands[name]


def test_a_wrong_input_fails_the_job_at_once() -> None:
    """Exit status 2; others, 75 for a network that failed among them, are tried again."""
    rules = only(render(DISTILL, LOCAL), "Job")["spec"]["podFailurePolicy"]["rules"]
    (fails,) = (rule for rule in rules if rule["action"] == "FailJob")
    assert fails["onExitCodes"] == {"containerName": "make", "operator": "In", "values": [2]}


PLACED: Object = {
    **LOCAL,
    "image": {"repository": "r/boomerang", "digest": "sha256:" + "a" * 64},
    "accelerator": {"runtimeClass": "nvidia"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "podLabels": {"team": "llm"},
    "podAnnotations": {"note": "x"},
    "ttlSecondsAfterFinished": 0,
}


def test_where_and_how_the_job_runs_is_said_as_in_the_serving_chart() -> None:
    job = only(render(DISTILL, PLACED), "Job")["spec"]
    spec = job["template"]["spec"]
    assert spec["containers"][0]["image"] == f"r/boomerang@sha256:{'a' * 64}"
    assert spec["runtimeClassName"] == "nvidia"
    assert spec["tolerations"] == PLACED["tolerations"]
    assert spec["affinity"] == PLACED["affinity"]
    assert job["template"]["metadata"]["labels"].items() >= {"team": "llm"}.items()
    assert job["template"]["metadata"]["annotations"] == {"note": "x"}
    assert job["ttlSecondsAfterFinished"] == 0
    assert "ttlSecondsAfterFinished" not in only(render(DISTILL, LOCAL), "Job")["spec"]


def test_the_way_out_to_a_proxy() -> None:
    rule = {"to": [{"ipBlock": {"cidr": "10.0.0.9/32"}}], "ports": [{"port": 3128}]}
    policy = only(render(DISTILL, {**LOCAL, "teacher": "o/t", "egress": [rule]}), "NetworkPolicy")
    assert rule in policy["spec"]["egress"]
    assert 443 not in {
        each["port"] for one in policy["spec"]["egress"] for each in one.get("ports", [])
    }
