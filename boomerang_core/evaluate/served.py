"""Whether a running server of ours serves the very family of a folder; no lm-eval."""

from __future__ import annotations

import os
from dataclasses import asdict
from http import HTTPStatus
from itertools import zip_longest
from typing import Any

import requests

from boomerang_core.errors import SettingsError
from boomerang_core.family import Family

KEY = "OPENAI_API_KEY"
"""The variable with the API key, which lm-eval's client sends too."""


def longest_text(family: Family, url: str) -> int:
    """The most tokens of a text that the server at `url` takes.

    Raises `SettingsError` where it serves another family, or another student under the same name,
    and where it wants another key; what `requests` raises for a server that fails goes through.
    """
    cards = _data(url, "models")
    if {card.get("root") for card in cards} != {family.name}:
        raise SettingsError(f"the server at {url} serves no {family.name}")
    there = [
        _told(body["size"], body["layers"], body["params"], body["quality"])
        for body in _data(url, "sizes")
    ]
    here = [
        _told(row.id, row.layers, row.params, asdict(row.quality) if row.quality else None)
        for row in family.rows
    ]
    for own, served in zip_longest(here, there, fillvalue="no size more"):
        if own != served:
            raise SettingsError(
                f"the server at {url} serves another {family.name} than {family.root} is now: "
                f"{served} instead of {own}"
            )
    return int(cards[0]["max_model_len"])


def _told(name: str, layers: int, params: int, quality: dict[str, Any] | None) -> str:
    """A size in words.  Two students of the same shapes differ in what was measured of them."""
    known = {} if quality is None else quality
    measured = ", ".join(f"{what} {value}" for what, value in known.items()) or "not measured"
    return f"{name} of {layers} layers and {params:,} parameters, {measured}"


def _data(url: str, what: str) -> list[Any]:
    """What a reply lists."""
    headers = {"Authorization": f"Bearer {os.environ.get(KEY, '')}"}
    reply = requests.get(f"{url}/v1/{what}", headers=headers, timeout=30)
    if reply.status_code == HTTPStatus.UNAUTHORIZED:
        raise SettingsError(
            f"the server at {url} asks for an API key: set {KEY} to one that it knows"
        )
    reply.raise_for_status()
    data: list[Any] = reply.json()["data"]
    return data
