"""The benchmark of budgets, on a tiny teacher: every way, charged for all that it uses."""

import json
from pathlib import Path

import pytest

from bench import budgets
from boomerang_core.report.files import read_curves
from tests.core.conftest import tiny_recipe, tiny_teacher, tiny_tokenizer


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("budgets")
    tiny_teacher("llama", True).save_pretrained(root / "teacher")
    tiny_tokenizer().save_pretrained(root / "teacher")
    text = " ".join(f"w{4 + i * i % 50}" for i in range(4000))
    (root / "text.txt").write_text("\n\n".join([text] * 20))
    recipe = tiny_recipe(str(root / "teacher")).to_json()
    keep = (
        "teacher",
        "shared",
        "ladder",
        "rank",
        "row_length",
        "heldout_every",
        "kept_tokens",
        "eval_tokens",
    )
    settings = [f"{name}={json.dumps(recipe[name])}" for name in keep]
    settings += ["sample_tokens=0", "text_tokens=8000", "block_tokens=2000", "batch_rows=4"]
    settings += ["end_to_end.batch_rows=4", "end_to_end.micro_rows=4", "end_to_end.compiled=false"]
    settings += ["end_to_end.precision=fp32", "steps=4"]
    words = ["budgets", "--text", str(root / "text.txt"), "--eval-text", str(root / "text.txt")]
    words += ["--tokens", "512", "--steps", "0", "4", "--work", str(root / "work")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [*words, "--out", str(root / "curves.json"), "--set", *settings])
        budgets.main()
    return root / "curves.json"


def test_the_report_reads_every_way(curves: Path) -> None:
    found = {curve.name: len(curve.points) for curve in read_curves(curves)}
    ways = (budgets.BLOCKWISE, budgets.BOTH, budgets.END_TO_END, budgets.PAPER)
    assert found == {way: 2 if way == budgets.BLOCKWISE else 1 for way in ways}


def test_a_way_that_goes_on_from_blocks_is_charged_for_them(curves: Path) -> None:
    points = {row["name"]: row["points"] for row in json.loads(curves.read_text())}
    both, blocks = points[budgets.BOTH][0], points[budgets.BLOCKWISE]
    fitted = {point["steps"]: point["seconds"] for point in blocks}
    assert both["seconds"] >= fitted[both["steps"]] > 0
    assert both["tokens"] == 512
    assert points[budgets.END_TO_END][0]["steps"] == 0


def test_the_papers_way_keeps_blocks_text_and_batch() -> None:
    ours = tiny_recipe("x")
    paper = budgets.papers(ours)
    assert (paper.kind, paper.own_embeddings, paper.start) == ("full", True, "naive")
    assert paper.end_to_end.objective.aligned_by == "cosine"
    same = ("layout", "shared", "text", "row_length", "seed")
    assert all(getattr(paper, name) == getattr(ours, name) for name in same)
    assert paper.end_to_end.batch_rows == ours.end_to_end.batch_rows
