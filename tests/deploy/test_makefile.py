"""Which tiers `make test` runs: those whose tools are there."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.charts import ROOT


@pytest.mark.parametrize("tool", ["promtool", "chromium"])
@pytest.mark.parametrize("there", [True, False])
def test_a_tier_is_left_out_only_where_its_tool_is_missing(
    tool: str, there: bool, tmp_path: Path
) -> None:
    make = shutil.which("make")
    assert make
    (tmp_path / "which").symlink_to(str(shutil.which("which")))
    if there:
        (tmp_path / tool).write_text("")
        (tmp_path / tool).chmod(0o755)
    done = subprocess.run(
        [make, "--dry-run", "test"],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    tier = {"promtool": "prometheus", "chromium": "browser"}[tool]
    assert "pytest -m" in done.stdout, done.stderr
    assert (f"not {tier}" in done.stdout) != there
