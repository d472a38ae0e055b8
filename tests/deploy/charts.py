"""The charts, rendered as Helm renders them, without a cluster."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

ROOT = Path(__file__).parents[2]
SERVE = ROOT / "deploy" / "helm" / "boomerang"
DISTILL = ROOT / "deploy" / "helm" / "boomerang-distill"

Object = dict[str, Any]
CUSTOM: Object = json.loads((ROOT / "tests/deploy/custom_resources.json").read_text())["kinds"]
"""Schemas of what operators define, by version and kind."""


def profiles(chart: Path) -> list[Path]:
    return sorted((chart / "profiles").glob("*.yaml"))


def values(profile: Path | None) -> Object:
    return {} if profile is None else yaml.safe_load(profile.read_text()) or {}


def rendered(chart: Path, given: Object, release: str) -> dict[str, str]:
    """The text of every template by its name, for a release in the namespace `llm`."""
    templates = helm.Chart.load(str(chart)).render(given, name=release, namespace="llm")
    return {Path(path).name: text for path, text in templates.items()}


def render(chart: Path, given: Object, release: str = "boomerang") -> list[Object]:
    """Every object of such a release."""
    templates = rendered(chart, given, release)
    files = (text for name, text in templates.items() if name.endswith(".yaml"))
    documents = (document for text in files for document in yaml.safe_load_all(text))
    return [document for document in documents if document]


def only(objects: list[Object], kind: str) -> Object:
    (found,) = (item for item in objects if item["kind"] == kind)
    return found


def pod_spec(item: Object) -> Object:
    spec: Object = item["spec"]["template"]["spec"]
    return spec


def containers(spec: Object) -> Iterator[Object]:
    yield from spec.get("initContainers", [])
    yield from spec["containers"]


def cases() -> list[tuple[Path, Path | None]]:
    """(chart, profile) of everything that is rendered, the charts' own defaults too."""
    return [
        (SERVE, None),
        *((chart, path) for chart in (SERVE, DISTILL) for path in profiles(chart)),
    ]
