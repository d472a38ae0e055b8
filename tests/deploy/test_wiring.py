"""What the charts' objects say to each other, and to what runs beside them."""

import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests.deploy.charts import (
    CUSTOM,
    DISTILL,
    SERVE,
    Object,
    containers,
    only,
    pod_spec,
    profiles,
    render,
    rendered,
    values,
)

GENERATED = 58
"""What Kubernetes keeps of a pod's generated name, before the five characters that it adds."""
every_profile = pytest.mark.parametrize("profile", profiles(SERVE), ids=lambda path: path.stem)


LOCAL: Object = {"teacher": "/families/t", "texts": ["/families/x"]}
"""What the chart that distils must be told."""


def hub(revision: str) -> Object:
    return {
        "family": {
            "source": "hub",
            "name": "mine",
            "hub": {"repository": "o/f", "revision": revision},
        },
        "networkPolicy": {"internet": True},
    }


def pod_of(given: Object, chart: Path = SERVE) -> Object:
    return pod_spec(only(render(chart, given), "Job" if chart == DISTILL else "Deployment"))


def container(spec: Object, name: str) -> Object:
    (found,) = (each for each in containers(spec) if each["name"] == name)
    return found


def env(spec: Object, name: str) -> Object:
    """A container's environment by name; a name that is there twice fails."""
    listed = container(spec, name).get("env", [])
    assert len({each["name"] for each in listed}) == len(listed)
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in listed}


def test_another_revision_is_another_folder() -> None:
    """So that it is fetched although the claim has the old one, which a rollback finds again."""
    folders = []
    for revision in ("a" * 40, "b" * 40):
        objects = render(SERVE, hub(revision))
        spec = pod_spec(only(objects, "Deployment"))
        folder = next(
            item["data"]["BOOMERANG_FAMILY"]
            for item in objects
            if "BOOMERANG_FAMILY" in item.get("data", {})
        )
        assert folder == f"/families/mine-{revision[:12]}"
        assert env(spec, "fetch")["TARGET"] == env(spec, "verify")["TARGET"] == folder
        folders.append(folder)
    assert len(set(folders)) == 2


def test_both_charts_see_the_same_folders_of_a_claim() -> None:
    mounts = [
        each
        for chart, given in (
            (SERVE, hub("a" * 40)),
            (DISTILL, LOCAL),
        )
        for one in containers(pod_of(given, chart))
        for each in one["volumeMounts"]
        if each["mountPath"] == "/families"
    ]
    assert len(mounts) == 4
    assert {each["subPath"] for each in mounts} == {"families"}


def test_tokens_reach_those_who_fetch() -> None:
    given = hub("a" * 40)
    given["family"]["hub"]["tokenSecret"] = "123"
    given["family"]["teacherTokenSecret"] = "teacher-token"
    spec = pod_of(given)
    assert env(spec, "fetch")["HF_TOKEN"]["secretKeyRef"]["name"] == "123"  # and no number
    assert env(spec, "server")["HF_TOKEN"]["secretKeyRef"]["name"] == "teacher-token"
    assert "HF_TOKEN" not in env(spec, "verify")


def test_a_rollout_waits_for_the_fetch() -> None:
    """Else a Deployment counts as failed while its first pod still fetches."""

    def seconds(given: Object) -> int:
        deadline = only(render(SERVE, given), "Deployment")["spec"]["progressDeadlineSeconds"]
        assert f"--timeout {deadline}s" in rendered(SERVE, given, "boomerang")["NOTES.txt"]
        return int(deadline)

    more = {"startupSeconds": 100, "fetchSeconds": 5000}
    assert seconds(more) == 400
    assert seconds({**hub("a" * 40), **more}) == 5400


def test_what_fetches_takes_what_it_is_given() -> None:
    given = {"requests": {"cpu": "1", "memory": "3Gi"}, "limits": {"memory": "3Gi"}}
    spec = pod_of({**hub("a" * 40), "initResources": given})
    assert [each["resources"] for each in spec["initContainers"]] == [given, given]


def test_extra_environment() -> None:
    """It reaches whatever speaks with the world, and wins over what the chart sets."""
    extra = [{"name": "HTTPS_PROXY", "value": "p"}, {"name": "OMP_NUM_THREADS", "value": "3"}]
    spec = pod_of({**hub("a" * 40), "extraEnv": extra})
    job = pod_of({**LOCAL, "extraEnv": extra}, DISTILL)
    for one, name in ((spec, "server"), (spec, "fetch"), (job, "make")):
        assert env(one, name)["HTTPS_PROXY"] == "p"
        assert env(one, name)["OMP_NUM_THREADS"] == "3"


def test_extra_volumes() -> None:
    """A private CA reaches whatever speaks with the world."""
    volume = {"name": "ca", "configMap": {"name": "our-ca"}}
    mount = {"name": "ca", "mountPath": "/ca", "readOnly": True}
    extra = {"extraVolumes": [volume], "extraVolumeMounts": [mount]}
    spec = pod_of({**hub("a" * 40), **extra})
    assert volume in spec["volumes"]
    mounted = [each["name"] for each in containers(spec) if mount in each["volumeMounts"]]
    assert mounted == ["fetch", "server"]
    kubernetes_validate.validate(only(render(SERVE, extra), "Deployment"), "1.30", strict=True)


def test_a_route_is_of_its_hosts() -> None:
    hosts = ["llm.example", "*.llm.example"]
    route = only(render(SERVE, {"gateway": {"parent": "g", "hostnames": hosts}}), "HTTPRoute")
    assert route["spec"]["hostnames"] == hosts
    jsonschema.validate(route, CUSTOM["gateway.networking.k8s.io/v1/HTTPRoute"])
    bare = only(render(SERVE, {"gateway": {"parent": "g"}}), "HTTPRoute")
    assert "hostnames" not in bare["spec"]


def test_a_cpu_server_takes_the_cores_that_it_asked_for() -> None:
    """And is bound to none: vLLM would choose the same ones in every pod of a node."""
    spec = pod_of({})
    threads = env(spec, "server")["OMP_NUM_THREADS"]["resourceFieldRef"]
    assert threads == {"containerName": "server", "resource": "requests.cpu"}
    assert env(spec, "server")["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    gpu = {"image": {"flavour": "gpu"}, "accelerator": {"resource": "nvidia.com/gpu"}}
    assert env(pod_of(gpu), "server") == {}


@every_profile
def test_who_asks_for_metrics_gets_them(profile: Path) -> None:
    """A profile that scales or alerts has its pods scraped, and lets the scraper in."""
    objects = render(SERVE, values(profile))
    kinds = {item["kind"] for item in objects}
    if kinds & {"ScaledObject", "HorizontalPodAutoscaler", "PrometheusRule", "PodMonitor"}:
        assert "PodMonitor" in kinds
        assert "monitoring" in admitted(objects)


@every_profile
def test_a_teacher_on_a_hub_can_be_fetched(profile: Path) -> None:
    """Families that come from elsewhere have their teacher on a hub, as a rule."""
    given = values(profile)
    if given.get("family", {}).get("source") in ("hub", "image", "rclone"):
        egress = only(render(SERVE, given), "NetworkPolicy")["spec"]["egress"]
        assert any(rule["ports"][0]["port"] == 443 for rule in egress)


def admitted(objects: list[Object]) -> set[str]:
    """The namespaces that the policy lets in; `own` is the release's."""
    (rule,) = only(objects, "NetworkPolicy")["spec"]["ingress"]
    return {
        peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        if "namespaceSelector" in peer
        else "own"
        for peer in rule["from"]
    }


@pytest.mark.parametrize(("size", "pool"), [("small", False), ("large", True)])
def test_scale_out_admits_gateway_and_picker(size: str, pool: bool) -> None:
    """The picker of a pool runs in the pool's namespace and asks its pods for their queues."""
    objects = render(SERVE, values(SERVE / "profiles" / f"scale-out-{size}.yaml"))
    assert admitted(objects) == {"gateway", "monitoring"} | ({"own"} if pool else set())
    (parent,) = only(objects, "HTTPRoute")["spec"]["parentRefs"]
    assert parent["namespace"] in admitted(objects)


def pod_name(deployment: str) -> str:
    return f"{deployment}-7d9c5b6f4c-"[:GENERATED] + "x2k8p"


@pytest.mark.parametrize("release", ["boomerang", "large", "boomerang-" + "x" * 43])
def test_a_release_counts_its_own_pods(release: str) -> None:
    """In the scaler and the alerts, with releases beside it whose names begin alike."""
    given: Object = {
        "autoscaling": {"kind": "keda"},
        "monitoring": {"rules": True},
        "networkPolicy": {"metricsFrom": [{"podSelector": {}}]},
    }
    objects = render(SERVE, given, release)
    name = only(objects, "Deployment")["metadata"]["name"]
    scaled = [
        each["metadata"]["query"] for each in only(objects, "ScaledObject")["spec"]["triggers"]
    ]
    rules: list[Any] = only(objects, "PrometheusRule")["spec"]["groups"][0]["rules"]
    exprs = [rule["expr"] for rule in rules]
    patterns = re.findall(r'pod=~"([^"]+)"', " ".join(scaled + exprs))
    assert len(patterns) >= 4
    assert all(re.fullmatch(pattern, pod_name(name)) for pattern in patterns)
    if release == "boomerang":
        for other in (f"{name}-large", f"my-{name}"):
            assert not any(re.fullmatch(pattern, pod_name(other)) for pattern in patterns)
    assert not re.search("NAMESPACE|RELEASE|PODS", str(rules))


KEYS = {"keys": {"existingSecret": "my-keys"}, "tls": {"secret": "my-tls"}}


@pytest.mark.parametrize("given", [{}, KEYS], ids=["open", "keys and tls"])
def test_the_notes_lead_to_an_answer(given: Object) -> None:
    notes = rendered(SERVE, given, "boomerang")["NOTES.txt"]
    assert "kubectl -n llm port-forward service/boomerang 8000:80" in notes
    assert ("http://localhost:8000/v1/completions" in notes) == (not given)
    assert ("get secret my-keys" in notes) == bool(given)
    assert ('curl -k -H "authorization: Bearer $KEY" https://localhost:8000/v1/' in notes) == bool(
        given
    )
    assert ("There are no keys" in notes) == (not given)


def test_where_names_are_asked() -> None:
    """OpenShift asks them elsewhere than others."""
    for chart, given in ((SERVE, {}), (DISTILL, LOCAL)):
        assert dns(chart, given) == ("kube-system", {53})
    other = {"namespace": "openshift-dns", "port": 5353}
    assert dns(SERVE, {"networkPolicy": {"dns": other}}) == ("openshift-dns", {5353})
    assert dns(DISTILL, {**LOCAL, "dns": other}) == ("openshift-dns", {5353})


def dns(chart: Path, given: Object) -> tuple[str, set[int]]:
    """The namespace and the ports of the rule that lets UDP out."""
    (rule,) = (
        each
        for each in only(render(chart, given), "NetworkPolicy")["spec"]["egress"]
        if "UDP" in {port["protocol"] for port in each.get("ports", [])}
    )
    (peer,) = rule["to"]
    name = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    return name, {port["port"] for port in rule["ports"]}


CLOSED = "nobody outside gets an answer until networkPolicy.from"


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        ({}, False),
        ({"service": {"type": "LoadBalancer"}}, True),
        ({"service": {"type": "NodePort"}}, True),
        ({"service": {"type": "LoadBalancer"}, "networkPolicy": {"enabled": False}}, False),
        (
            {
                "service": {"type": "LoadBalancer"},
                "networkPolicy": {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
            },
            False,
        ),
    ],
)
def test_the_notes_warn_of_a_policy_that_shuts_out_a_balancer(given: Object, warned: bool) -> None:
    assert (CLOSED in rendered(SERVE, given, "boomerang")["NOTES.txt"]) == warned


@pytest.mark.parametrize("internet", [False, True])
def test_the_notes_warn_of_a_teacher_out_of_reach(internet: bool) -> None:
    given = {
        "family": {"source": "image", "image": {"reference": "r/f:1"}},
        "networkPolicy": {"internet": internet},
    }
    warned = (
        "The NetworkPolicy lets nothing out" in rendered(SERVE, given, "boomerang")["NOTES.txt"]
    )
    assert warned != internet
