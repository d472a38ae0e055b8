"""Every profile of the charts: linted, valid, safe."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import helm_python as helm
import jsonschema
import kubernetes_validate
import pytest
import yaml

from server.settings import Settings, read_settings
from server.vllm_options import VllmOptions
from tests.deploy.charts import (
    CUSTOM,
    DISTILL,
    ROOT,
    SERVE,
    Object,
    cases,
    containers,
    only,
    pod_spec,
    profiles,
    render,
    values,
)

MINORS = ("1.30", "1.34", "1.35", "1.36", "1.37")
IMAGE_VOLUMES = "1.35"
"""The first that has them without a gate."""
OURS = {"family", "host", "port", "cache", "memory_budget", "tensor_parallel_size"}
OURS |= {"api_keys_file", "admin_keys_file", "tls_cert_file", "tls_key_file"}
IDS = [f"{chart.name}-{path.stem if path else 'defaults'}" for chart, path in cases()]
every_case = pytest.mark.parametrize(("chart", "profile"), cases(), ids=IDS)


@every_case
def test_lint_has_nothing_to_say(chart: Path, profile: Path | None) -> None:
    report = helm.lint(str(chart), values(profile), strict=True)
    said = [message["error"] for message in report["messages"]]
    assert report["errors"] == []
    assert [text for text in said if text != "icon is recommended"] == []


def versions(profile: Path | None) -> tuple[str, ...]:
    """Those that a profile can be installed on."""
    from_image = values(profile).get("family", {}).get("source") == "image"
    return tuple(minor for minor in MINORS if not from_image or minor >= IMAGE_VOLUMES)


@pytest.mark.parametrize(
    ("chart", "profile", "minor"),
    [
        pytest.param(chart, profile, minor, id=f"{name}-{minor}")
        for name, (chart, profile) in zip(IDS, cases(), strict=True)
        for minor in versions(profile)
    ],
)
def test_objects_are_valid(chart: Path, profile: Path | None, minor: str) -> None:
    checked = 0
    for item in render(chart, values(profile)):
        if not is_custom(item):
            kubernetes_validate.validate(item, minor, strict=True)
            checked += 1
    assert checked >= 2


def is_custom(item: Object) -> bool:
    """Whether an operator's definition, not Kubernetes, says what such an object is."""
    return f"{item['apiVersion']}/{item['kind']}" in CUSTOM


@every_case
def test_custom_resources_are_valid(chart: Path, profile: Path | None) -> None:
    for item in filter(is_custom, render(chart, values(profile))):
        jsonschema.validate(item, CUSTOM[f"{item['apiVersion']}/{item['kind']}"])


def test_every_custom_resource_is_rendered_somewhere() -> None:
    rendered = [item for chart, profile in cases() for item in render(chart, values(profile))]
    assert {f"{item['apiVersion']}/{item['kind']}" for item in rendered} >= set(CUSTOM)


@pytest.mark.parametrize(
    ("kind", "path", "wrong"),
    [
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "interval"), 15),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0, "for"), "soon"),
        ("ScaledObject", ("spec", "maxReplicaCount"), "three"),
        ("HTTPRoute", ("spec", "rules", 0, "backendRefs", 0, "port"), 70_000),
        ("InferencePool", ("spec", "targetPorts", 0, "number"), "http"),
    ],
)
def test_a_wrong_custom_resource_is_noticed(kind: str, path: tuple[Any, ...], wrong: Any) -> None:
    rendered = (item for chart, profile in cases() for item in render(chart, values(profile)))
    item = next(item for item in rendered if item["kind"] == kind)
    parent: Any = item
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = wrong
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(item, CUSTOM[f"{item['apiVersion']}/{item['kind']}"])


@pytest.mark.parametrize("chart", [SERVE, DISTILL])
def test_no_older_kubernetes_is_let_in_than_is_tested(chart: Path) -> None:
    """The pause before SIGTERM is there from 1.30 on."""
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    assert about["kubeVersion"] == f">={MINORS[0]}.0-0"


@pytest.mark.parametrize("minor", MINORS)
def test_image_volumes_are_refused_where_there_are_none(
    minor: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Linting, which is told a version, lets a refusal pass and logs it."""
    family = {"source": "image", "image": {"reference": "r/f:1"}}
    helm.lint(str(SERVE), {"family": family}, kube_version=f"{minor}.2")
    refused = "family.source: image needs image volumes" in capfd.readouterr().err
    assert refused == (minor < IMAGE_VOLUMES)


@every_case
def test_every_container_is_confined(chart: Path, profile: Path | None) -> None:
    specs = [
        pod_spec(item)
        for item in render(chart, values(profile))
        if "template" in item.get("spec", {})
    ]
    assert specs
    for spec in specs:
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert not any("hostPath" in volume for volume in spec["volumes"])
        for container in containers(spec):
            assert_confined(container)


def assert_confined(container: Object) -> None:
    security = container["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["runAsNonRoot"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "privileged" not in security
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]


@every_case
def test_every_mount_has_its_volume(chart: Path, profile: Path | None) -> None:
    for item in render(chart, values(profile)):
        if "template" in item.get("spec", {}):
            spec = pod_spec(item)
            names = {volume["name"] for volume in spec["volumes"]}
            used = {mount["name"] for c in containers(spec) for mount in c["volumeMounts"]}
            assert used == names


@pytest.mark.parametrize("profile", [None, *profiles(SERVE)])
def test_selectors_meet_the_pods(profile: Path | None) -> None:
    objects = render(SERVE, values(profile))
    labels = only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    assert only(objects, "Service")["spec"]["selector"].items() <= labels
    for kind in ("PodDisruptionBudget", "NetworkPolicy", "PodMonitor", "InferencePool"):
        for item in (item for item in objects if item["kind"] == kind):
            spec = item["spec"]
            selector = spec.get("selector") or spec["podSelector"]
            assert selector["matchLabels"].items() <= labels


def test_the_server_takes_the_default_settings() -> None:
    """Read by the real reader of the environment, in a process that has nothing else set."""
    data = only(render(SERVE, {}), "ConfigMap")["data"]
    code = "from server.settings import read_settings; print(read_settings().model_dump_json())"
    clean = {name: text for name, text in os.environ.items() if not name.startswith("BOOMERANG_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **data},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert (read["host"], read["port"], read["max_model_len"]) == ("0.0.0.0", 8000, 2048)
    assert read["kv_cache_bytes"] is None  # its own default fits the family: it knows the shapes


def test_pods_with_ipv6_addresses_listen_on_both() -> None:
    data = only(render(SERVE, {"host": "::"}), "ConfigMap")["data"]
    assert data["BOOMERANG_HOST"] == "::"


def test_the_schema_knows_every_setting() -> None:
    schema = json.loads((SERVE / "values.schema.json").read_text())
    known = set(schema["properties"]["settings"]["properties"])
    assert set(Settings.model_fields) - OURS <= known
    assert not known & OURS
    options = schema["properties"]["settings"]["properties"]["vllm_options"]["properties"]
    assert set(options) == set(VllmOptions.model_fields)


def test_vllms_options_reach_the_server_as_they_are_told() -> None:
    told = {"max_num_batched_tokens": 2000000, "override_generation_config": {"temperature": 0.5}}
    objects = render(SERVE, {"settings": {"vllm_options": told}})
    text = only(objects, "ConfigMap")["data"]["BOOMERANG_VLLM_OPTIONS"]
    assert read_settings(vllm_options=text).vllm_options == VllmOptions.model_validate(told)


@pytest.mark.parametrize("settings", [{}, {"linger_seconds": 7.5, "drain_seconds": 120}])
@pytest.mark.parametrize("pre_stop", [0, 5])
def test_grace_covers_what_the_end_takes(settings: Object, pre_stop: int) -> None:
    """preStop, linger, drain, and 20 seconds that the server gives its engine to stop."""
    objects = render(SERVE, {"settings": settings, "preStopSeconds": pre_stop})
    data = only(objects, "ConfigMap")["data"]
    spec = pod_spec(only(objects, "Deployment"))
    hook = spec["containers"][0].get("lifecycle", {"preStop": {"sleep": {"seconds": 0}}})
    ends = hook["preStop"]["sleep"]["seconds"]
    ends += float(data["BOOMERANG_LINGER_SECONDS"]) + float(data["BOOMERANG_DRAIN_SECONDS"]) + 20
    assert int(spec["terminationGracePeriodSeconds"]) > ends


def test_a_pod_is_unready_before_it_stops_accepting() -> None:
    """Readiness must fail for its threshold within preStop and linger, or requests are lost."""
    objects = render(SERVE, {})
    probe = pod_spec(only(objects, "Deployment"))["containers"][0]["readinessProbe"]
    linger = float(only(objects, "ConfigMap")["data"]["BOOMERANG_LINGER_SECONDS"])
    assert probe["periodSeconds"] * probe["failureThreshold"] <= linger / 2
