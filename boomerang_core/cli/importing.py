"""`import`: a family from a teacher and a student that exist already, as the paper's.

    boomerang import --teacher Qwen/Qwen3-4B-Base --student Harvard-DCML/boomerang-qwen3-2.3B \\
        --out qwen3-4b
    boomerang import --teacher openai-community/gpt2 --student distilbert/distilgpt2 \\
        --kept 0,2,4,7,9,11 --out gpt2
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boomerang_core.cli.common import (
    Device,
    RowLength,
    Teacher,
    Threads,
    Tokens,
    app,
    layer_list,
    limit_threads,
    plain_errors,
    print_sizes,
    refuse_without,
    require_folder_place,
)
from boomerang_core.family import Family


@app.command("import")
def import_(
    context: typer.Context,
    teacher: Teacher,
    student: Annotated[str, typer.Option(help="The same, with one layer per block.")],
    out: Annotated[Path, typer.Option(help="The family folder to write.")],
    ladder: Annotated[
        str, typer.Option(help="last-to-first, first-to-last (the paper's for Llama), or JSON.")
    ] = "last-to-first",
    kept: Annotated[
        str | None,
        typer.Option(
            help="The teacher layer that each student layer started from, if there is no "
            "student_config.json: 0,2,4,7,9,11 for DistilGPT2."
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="Or every-second-and-last, first-two-then-every-second, JSON blocks."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The family's name (default: OUT's).")] = None,
    text: Annotated[Path | None, typer.Option(help="Measure every size on this text.")] = None,
    tokens: Tokens = 8192,
    row_length: RowLength = 512,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Make a family of a teacher and a student; nothing is trained.

    boomerang import --teacher openai-community/gpt2 --student distilbert/distilgpt2
    --kept 0,2,4,7,9,11 --out gpt2
    """
    with plain_errors():
        refuse_without(context, "text", "tokens", "row_length", "device")
        layers = None if kept is None else tuple(layer_list(kept, "--kept"))
        require_folder_place(out)
        limit_threads(threads)
        from boomerang_core.architectures import check_row_length
        from boomerang_core.checkpoint import load_config, load_tokenizer, parse_teacher
        from boomerang_core.devices import usable_device
        from boomerang_core.evaluate.ladder import evaluate_family
        from boomerang_core.evaluate.record import save_measured
        from boomerang_core.importing import Pair, import_pair
        from boomerang_core.text.evaluation import Sample

        pair = Pair(parse_teacher(teacher), parse_teacher(student), ladder, layout, layers)
        where = usable_device(device)

        sample = None if text is None else Sample(text, tokens, row_length)

        def measure(family: Family) -> None:
            if sample is not None:
                measured = evaluate_family(family, sample, device=where)
                save_measured(family, measured, sample.text)

        if sample is not None:  # too short a text, too long a row show before the slow part
            check_row_length(load_config(pair.teacher), row_length)
            sample.rows(load_tokenizer(pair.teacher))
        print_sizes(import_pair(pair, out, name, measure))
        if text is None:
            typer.echo(f"not measured yet: boomerang evaluate {out} --text FILE --save")
