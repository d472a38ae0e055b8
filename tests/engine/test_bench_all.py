"""`make bench` from end to end, on a tiny family."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.__main__ import BENCHMARKS
from tests.engine.families import TinyFamily

pytestmark = [pytest.mark.engine, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


def test_every_benchmark_runs_and_is_reported(
    build: Callable[[str], TinyFamily], tmp_path: Path
) -> None:
    names = [benchmark.name for benchmark in BENCHMARKS]
    command = [sys.executable, "-m", "bench", str(build("lowrank").family.root)]
    command += ["--pairs", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in names:
        assert "tiny" in json.loads((tmp_path / f"{name}.json").read_text())["command"]
    report = (tmp_path / "report.md").read_text()
    assert report.count("\n## ") == len(names)
