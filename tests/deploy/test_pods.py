"""What makes a pod roll, who it runs as, what it tells of its end."""

import shutil
from pathlib import Path

import kubernetes_validate
import pytest

from tests.deploy.charts import (
    DISTILL,
    SERVE,
    Object,
    containers,
    only,
    pod_spec,
    profiles,
    render,
    values,
)

LOCAL: Object = {"teacher": "/families/t", "texts": ["/families/x"]}
FETCHED: Object = {
    "family": {"source": "hub", "hub": {"repository": "o/f", "revision": "0" * 40}},
    "networkPolicy": {"internet": True},
    "keys": {"existingSecret": "keys"},
}
both_charts = pytest.mark.parametrize(
    ("chart", "kind", "given"), [(SERVE, "Deployment", FETCHED), (DISTILL, "Job", LOCAL)]
)


def template(chart: Path, given: Object) -> Object:
    """What a Deployment makes its pods from: another one rolls them."""
    found: Object = only(render(chart, given), "Deployment")["spec"]["template"]
    return found


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """The chart in its next version, in which nothing else has changed."""
    chart = tmp_path / SERVE.name
    shutil.copytree(SERVE, chart)
    about = chart / "Chart.yaml"
    about.write_text(about.read_text().replace("\nversion: 0.1.0", "\nversion: 0.1.1"))
    return chart


KEYS: Object = {"keys": {"api": ["0123456789abcdef"]}}


@pytest.mark.parametrize("given", [{}, KEYS])
def test_another_version_of_the_chart_alone_rolls_no_pod(given: Object, newer: Path) -> None:
    """Each would load its weights again, for minutes."""
    labels = only(render(newer, given), "Deployment")["metadata"]["labels"]
    assert labels["helm.sh/chart"] == "boomerang-0.1.1"
    assert template(newer, given) == template(SERVE, given)


@pytest.mark.parametrize(
    "other",
    [
        {"settings": {"max_num_seqs": 33}},
        {"keys": {"api": ["0123456789abcdef"], "admin": ["fedcba9876543210"]}},
        {"keys": {"api": []}},
    ],
)
def test_a_changed_setting_rolls_the_pods(other: Object) -> None:
    """Also whether there are keys, and an /admin, which a server decides when it starts."""
    assert template(SERVE, {**KEYS, **other}) != template(SERVE, KEYS)


def test_a_changed_key_rolls_no_pod() -> None:
    """The server follows the file of the mounted Secret."""
    others: Object = {"keys": {"api": ["0123456789abcdeg  # team-one"]}}
    assert template(SERVE, others) == template(SERVE, KEYS)


@both_charts
@pytest.mark.parametrize("user", [10001, 1000660000])
def test_pods_run_as_the_user_that_is_stated(
    chart: Path, kind: str, given: Object, user: int
) -> None:
    security = pod_spec(only(render(chart, {**given, "user": user}), kind))["securityContext"]
    assert {security[name] for name in ("runAsUser", "runAsGroup", "fsGroup")} == {user}


@both_charts
def test_the_cluster_may_choose_the_user(chart: Path, kind: str, given: Object) -> None:
    """OpenShift gives each namespace a range, and refuses pods that state a user outside of it."""
    item = only(render(chart, {**given, "user": None}), kind)
    kubernetes_validate.validate(item, "1.30", strict=True)
    spec = pod_spec(item)
    for security in (
        spec["securityContext"],
        *(each["securityContext"] for each in containers(spec)),
    ):
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(security)
        assert security["runAsNonRoot"] is True


@both_charts
def test_the_last_lines_of_a_log_are_in_the_pods_status(
    chart: Path, kind: str, given: Object
) -> None:
    """`kubectl describe` then says why it ended, also where its log is gone."""
    for each in containers(pod_spec(only(render(chart, given), kind))):
        assert each["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_a_busy_pod_stays_among_those_that_serve() -> None:
    """A slow probe takes a pod out no sooner than it restarts it; the others have as much to do."""
    (server,) = pod_spec(only(render(SERVE, {}), "Deployment"))["containers"]
    patience = {
        name: server[f"{name}Probe"]["timeoutSeconds"] for name in ("readiness", "liveness")
    }
    assert patience["readiness"] >= patience["liveness"] >= 5


def test_a_job_on_cpus_takes_all_its_cores() -> None:
    """There it is one process; the processes of several GPUs share them."""
    for resource, threads in (
        ("", {"valueFrom": {"resourceFieldRef": CORES}}),
        ("nvidia.com/gpu", {"value": "4"}),
    ):
        job = only(render(DISTILL, {**LOCAL, "accelerator": {"resource": resource}}), "Job")
        kubernetes_validate.validate(job, "1.30", strict=True)
        (make,) = pod_spec(job)["containers"]
        assert {"name": "OMP_NUM_THREADS", **threads} in make["env"]


CORES = {"containerName": "make", "resource": "requests.cpu"}


def test_no_profile_states_a_number_that_its_scaler_overrules() -> None:
    for profile in profiles(SERVE):
        given = values(profile)
        assert "replicas" not in given or "autoscaling" not in given, profile.stem
