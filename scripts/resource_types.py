"""The types of the custom resources that the charts render, for tests/deploy.

    python scripts/resource_types.py MANIFEST… --source "PROJECT COMMIT, LICENCE" …
        --out tests/deploy/custom_resources.json

MANIFEST are the definitions (CustomResourceDefinition, YAML) that the operators publish.  Names,
types, required fields, enumerations and bounds are kept; texts and rules in CEL are not.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

KEPT = frozenset(
    (
        *("type", "required", "enum", "pattern", "nullable"),
        *("minimum", "maximum", "minLength", "maxLength"),
        *("minItems", "maxItems", "minProperties", "maxProperties"),
    )
)
_OPEN = "x-kubernetes-preserve-unknown-fields"
_EITHER = "x-kubernetes-int-or-string"

Schema = dict[str, Any]


def reduced(schema: Mapping[str, Any]) -> Schema:
    """The JSON schema of one field; a field that the definition does not know is an error."""
    if schema.get(_EITHER):
        return {"type": ["integer", "string"]}
    kept: Schema = {name: value for name, value in schema.items() if name in KEPT}
    if "pattern" in kept:  # Go takes a flag anywhere, Python at the start
        kept["pattern"] = re.sub(r"^\^(\(\?i\))", r"\1^", kept["pattern"])
    if "properties" in schema:
        kept["properties"] = {name: reduced(part) for name, part in schema["properties"].items()}
    more = schema.get("additionalProperties")
    if isinstance(more, Mapping):
        kept["additionalProperties"] = reduced(more)
    elif "properties" in schema and not schema.get(_OPEN):
        kept["additionalProperties"] = False
    if "items" in schema:
        kept["items"] = reduced(schema["items"])
    return kept


def kinds(definition: Mapping[str, Any]) -> Iterator[tuple[str, Schema]]:
    """`apiVersion/Kind` and schema of the version that a cluster stores."""
    spec = definition["spec"]
    for version in spec["versions"]:
        if version["storage"]:
            schema = reduced(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own
            yield f"{spec['group']}/{version['name']}/{spec['names']['kind']}", schema


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("manifest", type=Path, nargs="+")
    parser.add_argument("--source", action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = {
        name: schema
        for path in options.manifest
        for definition in yaml.safe_load_all(path.read_text())
        for name, schema in kinds(definition)
    }
    record = {"sources": options.source, "kinds": found}
    options.out.write_text(json.dumps(record, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
