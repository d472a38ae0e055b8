"""Our own benchmarks from end to end, on a tiny family: they run, and what they write is whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import BENCHMARKS
from boomerang_core.family import Family
from tests.api.servers import ROOT

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]

PNG = b"\x89PNG\r\n\x1a\n"


def run(module: str, *arguments: str) -> str:
    """What a benchmark prints; it must end well."""
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **threads},
        capture_output=True,
        text=True,
        timeout=1700,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_short_soak_loses_nothing(family: Family) -> None:
    load = ("--minutes", "0.2", "--rate", "8", "--tokens", "24")
    limits = ("--max-model-len", "256", "--dtype", "float32", "--kv-cache-bytes", "16MiB")
    report = json.loads(run("bench.soak", str(family.root), *load, *limits))
    assert report["lost_or_wrong"] == []
    assert set(report["at_rest"].values()) == {0.0}
    outcomes = report["outcomes"]
    assert outcomes["known: right"] > 5
    for kind in ("whole: right", "stream: right", "cancelled: left", "bad: refused"):
        assert outcomes[kind] > 0
    assert report["memory"]["end"]["bytes"].keys() == report["memory"]["warm"]["bytes"].keys()


def test_make_bench_runs_every_benchmark_and_reports_it(family: Family, tmp_path: Path) -> None:
    run("bench", str(family.root), "--pairs", "1", "--out", str(tmp_path))
    names = [benchmark.name for benchmark in BENCHMARKS]
    for name in names:
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert found["family"] == family.name
    report = (tmp_path / "report.md").read_text()
    assert report.count("\n## ") == len(names)
    assert "low-rank student, merged" in report
    assert "low-rank student" in report
    assert (tmp_path / "report.png").read_bytes().startswith(PNG)

    (tmp_path / "report.md").unlink()
    run("bench", str(family.root), "--report", "--out", str(tmp_path))
    assert (tmp_path / "report.md").read_text() == report
