"""The event loop that a server runs in."""

import asyncio
import importlib.util

import pytest
from typer.testing import CliRunner

from boomerang_core import cli as commands
from server import cli
from server.process.lifecycle import Lifecycle


@pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="no uvloop")
def test_a_server_runs_in_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    """As vLLM's does: asyncio's own takes longer for each message of a stream."""
    loops: list[str] = []

    async def note(*_: object) -> Lifecycle:
        loops.append(type(asyncio.get_running_loop()).__module__)
        return Lifecycle()

    monkeypatch.setattr(cli, "serve_family", note)
    result = CliRunner().invoke(commands.app, ["serve", "smollm2-135m"])
    assert result.exit_code == 0, result.output
    assert loops == ["uvloop"]
