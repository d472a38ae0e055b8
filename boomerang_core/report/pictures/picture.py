"""What every picture has: its file, its message in words, where its numbers come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Picture:
    """A PNG beside the page, and its message for those who cannot see it."""

    file: str
    caption: str
    alt: str


def where(note: Mapping[str, Any]) -> str:
    """Machine and date, as far as they were noted."""
    machine = note.get("hardware") or "machine not noted"
    date = note.get("date") or "date not noted"
    return f"{machine}; {date}"


def commands(notes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The commands that measured, each once."""
    found = dict.fromkeys(note["command"] for note in notes if note.get("command"))
    return [f"$ {command}" for command in found] or ["command not noted"]
