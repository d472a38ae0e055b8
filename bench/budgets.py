"""What a second of distillation buys: KL of the student against time, for each way to make one.

    python -m bench.budgets --text FILE --eval-text FILE --work DIR --out curves.json
        [--preset smollm2-135m] [--tokens 16384 32768] [--steps 0 20 60] [--set FIELD=VALUE]

Every point is a whole run of `make` with a budget of its own, its learning rate falling to the
end of that budget.  Its seconds are those of the stages that make the student (blocks, end to
end), which `make` notes, and not of loading, reading text or measuring.  Runs go one after
another, the ways in turn, so that a machine that slows down does so for all of them.

`boomerang report FAMILY --curves curves.json` draws the lines.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from boomerang_core.cli.make import RECIPES, assignment, recipe_of
from boomerang_core.distill.pipeline import make
from boomerang_core.distill.recipe import Recipe
from boomerang_core.distill.settings import read_settings
from boomerang_core.files import save_json
from boomerang_core.provenance import provenance

BLOCKWISE = "blockwise"
BOTH = "blockwise, then end to end"
END_TO_END = "end to end"
PAPER = "end to end, the paper's objective and a full student"


@dataclass(frozen=True)
class Run:
    """One point: the way it is made, and its recipe."""

    way: str
    recipe: Recipe


def runs(recipe: Recipe, steps: Sequence[int], tokens: Sequence[int]) -> Iterator[Run]:
    """Every point, small budgets first, the ways in turn."""
    for count in steps:
        yield Run(BLOCKWISE, replace(_budget(recipe, 0), steps=count))
    for count in tokens:
        yield Run(BOTH, _budget(recipe, count))
        yield Run(END_TO_END, replace(_budget(recipe, count), start="naive"))
        yield Run(PAPER, _budget(papers(recipe), count))


def _budget(recipe: Recipe, tokens: int) -> Recipe:
    return replace(recipe, end_to_end=replace(recipe.end_to_end, tokens=tokens))


def papers(recipe: Recipe) -> Recipe:
    """The same blocks, text and batch, trained as in arXiv 2510.05064, section 3."""
    paper = read_settings(RECIPES / "paper.json")
    ours = recipe.to_json()
    own = {
        name: ours["end_to_end"][name]
        for name in ("batch_rows", "micro_rows", "precision", "compiled")
    }
    student = {name: paper[name] for name in ("kind", "own_embeddings", "start")}
    stage = {**paper["end_to_end"], **own}
    return Recipe.from_json({**ours, **student, "end_to_end": stage})


def measure(run: Run, folder: Path, eval_text: Path, fitted: dict[Path, float]) -> dict[str, Any]:
    """The point of a run.

    Blocks are fitted once for each number of steps and then shared through their work folder;
    `fitted` remembers what that took, and every run that uses them is charged for it.
    """
    blockwise = run.recipe.start == "blockwise"
    work = folder.parent / f"blocks-{run.recipe.steps}" if blockwise else Path(f"{folder}.work")
    family = make(run.recipe, folder, work, eval_text)
    quality = family.rows[0].quality
    assert quality is not None
    seconds = family.provenance["seconds"]
    charged = fitted.setdefault(work, seconds["blocks"]) + seconds["end_to_end"]
    return {
        "seconds": round(charged, 3),
        "tokens": run.recipe.end_to_end.tokens,
        "steps": run.recipe.steps if blockwise else 0,
        "kl": quality.kl,
        "n": quality.n,
    }


def main() -> None:
    """Make every point and write them as JSON."""
    options = _options()
    changes = [{"text": options.text}, *map(assignment, options.set)]
    recipe = recipe_of(options.preset, None, Path("budgets"), changes)
    curves: dict[str, list[dict[str, Any]]] = {}
    fitted: dict[Path, float] = {}
    for place, run in enumerate(runs(recipe, options.steps, options.tokens)):
        point = measure(run, options.work / f"family-{place}", options.eval_text, fitted)
        curves.setdefault(run.way, []).append(point)
        print(run.way, point, flush=True)
    origin = provenance(recipe.seed, threads=torch.get_num_threads(), recipe=recipe.to_json())
    for points in curves.values():
        points.sort(key=itemgetter("seconds"))
    record = [
        {"name": name, "points": points, "provenance": origin} for name, points in curves.items()
    ]
    save_json(record, options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.budgets", description=__doc__)
    parser.add_argument("--preset", default="smollm2-135m")
    parser.add_argument("--text", nargs="+", required=True)
    parser.add_argument("--eval-text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, nargs="+", default=[16384, 32768, 65536])
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 20, 60])
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
