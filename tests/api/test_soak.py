"""A quarter of a minute of the soak: it can tell right answers, and the server gives them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from boomerang_core.family import Family

pytestmark = [pytest.mark.engine, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


def test_a_short_soak_loses_nothing(family: Family) -> None:
    command = [sys.executable, "-m", "bench.soak", str(family.root), "--minutes", "0.3"]
    command += ["--rate", "8", "--max-model-len", "256", "--dtype", "float32"]
    done = subprocess.run(
        [*command, "--kv-cache-bytes", "16MiB"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["lost_or_wrong"] == []
    assert report["outcomes"]["known: right"] > 5
    assert report["outcomes"]["bad: refused"] > 0
    assert set(report["at_rest"].values()) == {0.0}
