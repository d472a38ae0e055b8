"""The names and budgets in the examples for people are right for the family that they ask."""

import re
from pathlib import Path

import pytest

from boomerang_core.family import load_family
from boomerang_core.sizes import parse_bytes

ROOT = Path(__file__).parents[2]
FAMILY = load_family(ROOT / "boomerang_core" / "families" / "smollm2-135m")
ON_A_CPU, ON_A_GPU = 4, 2  # bytes of a parameter, unless the server is told otherwise


@pytest.mark.parametrize("page", ["README.md", "docs/clients.md"])
@pytest.mark.parametrize("bytes_per_param", [ON_A_CPU, ON_A_GPU])
def test_every_budget_and_every_name_of_an_example_finds_a_size(
    page: str, bytes_per_param: int
) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    budgets = re.findall(r'"memory_budget": "([^"]+)"', text)
    names = re.findall(r"\bsmollm2-135m@(\w+)", text)
    assert budgets
    assert names
    table = FAMILY.served_in(bytes_per_param).table
    for budget in budgets:
        table.within(parse_bytes(budget), FAMILY.footprint_tokens)
    for name in names:
        table.named(name)
