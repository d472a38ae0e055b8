"""What the README says is what the project has."""

import json
import re
from itertools import pairwise
from pathlib import Path

from typer.testing import CliRunner

from boomerang_core.family import load_family
from boomerang_core.sizes import format_bytes
from scripts.settings_table import table as settings_table
from scripts.sizing_table import table as sizing_table
from server.cli import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FAMILY = ROOT / "boomerang_core" / "families" / "smollm2-135m"


def table() -> list[str]:
    """The rows of the README's table of sizes, from the shipped family."""
    family = load_family(FAMILY)
    naive = json.loads((FAMILY / "report" / "naive.json").read_text())
    rows = []
    for row, pruned in zip(family.rows, naive, strict=True):
        quality = row.quality
        assert quality is not None
        footprint = format_bytes(row.footprint_bytes(family.footprint_tokens))
        cells = [f"`{row.id}`", str(row.layers), f"{row.params:,}", footprint]
        cells += [f"{quality.kl:.3f}", f"{pruned['kl']:.3f}"]
        cells += [f"{quality.top1:.3f}", f"{quality.perplexity:.1f}"]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def test_the_table_of_sizes_is_the_familys() -> None:
    for row in table():
        assert row in README


def test_the_table_says_how_many_tokens_were_scored() -> None:
    quality = load_family(FAMILY).rows[0].quality
    assert quality is not None
    assert f"n = {quality.n:,} tokens" in README


def test_the_settings_are_those_that_the_server_has() -> None:
    assert settings_table() in (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")


def test_the_sizing_table_is_what_its_script_computes() -> None:
    assert sizing_table() in (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def test_every_benchmark_is_in_the_list_of_figures() -> None:
    listed = (ROOT / "docs" / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "bench").rglob("*.py"):
        if '"__main__"' in path.read_text(encoding="utf-8"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            assert f"`python -m {module.removesuffix('.__main__')}" in listed, module


def test_every_command_of_the_readme_exists() -> None:
    help_text = CliRunner().invoke(app, ["--help"]).output
    for command in set(re.findall(r"^boomerang (\w+)", README, re.MULTILINE)):
        assert re.search(rf"\b{command}\b", help_text), command


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make (\w+)`", README)) <= targets
    assert set(re.findall(r"^make (\w+)", README, re.MULTILINE)) <= targets


def test_every_file_that_the_architecture_names_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:server|boomerang_core)/[\w/]+(?:\.py|/))`", text):
        assert (ROOT / name).exists(), name


def test_every_file_that_the_readme_links_exists() -> None:
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", README)
    assert "docs/images/quality.png" in links
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_shipped_ladder_is_smooth() -> None:
    """KL to the teacher falls with every step to zero, below naive pruning at every size."""
    kl = [row.quality.kl for row in load_family(FAMILY).rows if row.quality is not None]
    assert len(kl) == len(load_family(FAMILY).rows)
    assert all(later < earlier for earlier, later in pairwise(kl))
    assert kl[-1] == 0
    naive = [row["kl"] for row in json.loads((FAMILY / "report" / "naive.json").read_text())]
    assert all(ours < pruned for ours, pruned in zip(kl[:-1], naive[:-1], strict=True))
