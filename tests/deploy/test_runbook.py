"""Every `helm` command of the runbook renders, and asks for an image that a registry can have."""

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.charts import ROOT, Object, containers, only, render, values

RUNBOOK = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
COMMANDS = re.findall(
    r"^helm (?:install|upgrade) (.+)$", RUNBOOK.replace("\\\n", " "), re.MULTILINE
)
PROFILE = "deploy/helm/boomerang/profiles/one-gpu.yaml"
"""What stands for the reader's own choice."""


def merged(over: Object, under: Object) -> Object:
    """`over` laid over `under`, as helm lays files."""
    both = {**under, **over}
    for name in under.keys() & over.keys():
        if isinstance(under[name], dict) and isinstance(over[name], dict):
            both[name] = merged(over[name], under[name])
    return both


def stated(text: str) -> Object:
    """What `--set` says: NAME.NAME=VALUE or NAME={VALUE,…}."""
    path, _, value = text.partition("=")
    given: Any = value[1:-1].split(",") if value.startswith("{") else value
    for name in reversed(path.split(".")):
        given = {name: given}
    found: Object = given
    return found


def values_file(name: str) -> Object:
    """A file of the command line; `my-values.yaml` is what the runbook writes into it."""
    if name == "my-values.yaml":
        (text,) = re.findall(r"printf '(.+)\\n' > my-values.yaml", RUNBOOK)
        own: Object = yaml.safe_load(text)
        return own
    return values(ROOT / name.replace("PROFILE", PROFILE))


def given_by(words: list[str]) -> Object:
    """The values that a command's options give."""
    found: Object = {}
    for option, word in pairwise(words):
        if option in ("-f", "--set"):
            more = values_file(word) if option == "-f" else stated(word)
            found = merged(more, found)
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_it_renders_with_an_image_of_a_registry(command: str) -> None:
    release, chart, *options = shlex.split(command, comments=True)
    objects = render(ROOT / chart, given_by(options), release)
    pods = [
        item["spec"]["template"]["spec"] for item in objects if "template" in item.get("spec", {})
    ]
    images = {each["image"] for pod in pods for each in containers(pod)}
    assert images
    assert all(image.startswith("REGISTRY/boomerang:0.1.0-") for image in images)


def test_what_one_asks_first_finds_the_pods_and_their_containers() -> None:
    """With every source of a family, the runbook names what brings it."""
    (label,) = re.findall(r"^kubectl get \S*pods -l (\S+)$", RUNBOOK, re.MULTILINE)
    given: Object = {
        "family": {"source": "hub", "hub": {"repository": "o/f", "revision": "0" * 40}},
        "networkPolicy": {"internet": True},
    }
    deployment = only(render(ROOT / "deploy/helm/boomerang", given), "Deployment")
    template = deployment["spec"]["template"]
    for labels in (deployment["metadata"]["labels"], template["metadata"]["labels"]):
        assert label in {f"{name}={value}" for name, value in labels.items()}
    named = set(re.findall(r"-c (\w+)", RUNBOOK))
    assert named == {each["name"] for each in template["spec"]["initContainers"]}


def test_there_are_such_commands() -> None:
    assert len(COMMANDS) >= 5
    assert {Path(line.split()[1]).name for line in COMMANDS} == {"boomerang", "boomerang-distill"}


def test_the_keys_of_the_secret_are_those_that_the_server_reads() -> None:
    given = {"keys": {"existingSecret": "boomerang-keys", "existingAdmin": True}}
    data = only(render(ROOT / "deploy/helm/boomerang", given), "ConfigMap")["data"]
    read = {data[f"BOOMERANG_{kind}_KEYS_FILE"] for kind in ("API", "ADMIN")}
    made = re.findall(r"--from-file=(\S+)", RUNBOOK)
    assert {f"/keys/{name}" for name in made} == read


@pytest.mark.parametrize("command", re.findall(r"^docker (?:run|push) .+$", RUNBOOK, re.MULTILINE))
def test_what_is_run_is_what_was_built(command: str) -> None:
    (built,) = set(re.findall(r"^docker build .*-t (\S+)", RUNBOOK, re.MULTILINE))
    assert built in command.split()
