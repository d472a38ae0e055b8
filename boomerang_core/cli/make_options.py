"""The options of `make`; most set the field of a recipe that has their name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option(help="The family folder to write.")]
Preset = Annotated[str | None, typer.Option(help="A recipe by name: smollm2-135m, gpu, paper.")]
Recipe = Annotated[
    Path | None, typer.Option(help="A recipe.json, like the one in a family folder.")
]
Teacher = Annotated[
    str | None, typer.Option(help="A folder, a GGUF file, a hub id, or package:NAME/FILE.gguf.")
]
Name = Annotated[str | None, typer.Option(help="The family's name.")]
Layout = Annotated[
    str | None,
    typer.Option(help="pairs, every-second-and-last, first-two-then-every-second, or JSON blocks."),
]
Shared = Annotated[
    str | None, typer.Option(help="One-layer blocks shared with the teacher, as 0,1,2,29.")
]
Kept = Annotated[
    str | None,
    typer.Option(help="The layer each block starts from: measured, sequential, first, or 0,2,4,…"),
]
Kind = Annotated[str | None, typer.Option(help="full or lowrank.")]
Rank = Annotated[int | None, typer.Option(help="Rank of a lowrank student.")]
Maps = Annotated[
    str | None, typer.Option(help="Which maps of a lowrank student have deltas: all or mlp.")
]
OwnEmbeddings = Annotated[
    bool | None, typer.Option(help="A full student has its own embedding, final norm and head.")
]
Start = Annotated[
    str | None, typer.Option(help="Student to start from: blockwise, naive or random.")
]
Ladder = Annotated[str | None, typer.Option(help="last-to-first, first-to-last, or JSON steps.")]
Text = Annotated[
    list[str] | None,
    typer.Option(
        help="Text, JSONL or parquet, hub:NAME?split=train, python-reference; may be repeated."
    ),
]
TextTokens = Annotated[
    int | None, typer.Option(help="Tokens of that text to use (default: enough for --tokens).")
]
ChatShare = Annotated[
    float | None,
    typer.Option(help="Share of it that is chat (default: half, if there is any)."),
]
SampleTokens = Annotated[int | None, typer.Option(help="Tokens of text that the teacher writes.")]
SampleRows = Annotated[
    int | None, typer.Option(help="Prompts that it continues at once (as memory allows).")
]
RowLength = Annotated[int | None, typer.Option(help="Tokens per training row.")]
Steps = Annotated[int | None, typer.Option(help="Gradient steps per block.")]
BlockTokens = Annotated[int | None, typer.Option(help="Tokens to train each block on.")]
Tokens = Annotated[
    int | None, typer.Option(help="Tokens to distil the whole student on; 0 skips it.")
]
Precision = Annotated[
    str | None, typer.Option(help="Matrix products of that stage: fp32, bf16 or auto.")
]
EvalTokens = Annotated[int | None, typer.Option(help="Tokens to score each size on.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
EvalText = Annotated[
    Path | None, typer.Option(help="Text to measure on (default: held-out documents).")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another field of recipe.json, as end_to_end.learning_rate=3e-4."),
]
Work = Annotated[
    Path | None, typer.Option(help="Where finished stages are kept (default: OUT.work).")
]
Tensorboard = Annotated[
    Path | None, typer.Option(help="Folder for the metrics of that stage, for TensorBoard.")
]
