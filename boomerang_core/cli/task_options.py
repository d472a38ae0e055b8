"""The options of tasks, which `evaluate` and `compare` share."""

from __future__ import annotations

from typing import Annotated

import typer

from boomerang_core.evaluate.tasks import DTYPES, GROUPS

Tasks = Annotated[
    str | None,
    typer.Option(help=f"lm-eval's names, YAML files, {', '.join(GROUPS)}; separated by commas."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Items per task (default: all).")]
FewShot = Annotated[
    int | None, typer.Option(min=0, help="Examples in the prompt (default: the task's).")
]
Chat = Annotated[bool, typer.Option(help="Use the teacher's chat template.")]
Dtype = Annotated[str, typer.Option(help=f"Number format for tasks: {', '.join(DTYPES)}.")]

OPTIONS = ("limit", "few_shot", "chat", "batch_size", "dtype")
"""What both have for tasks alone, by the names of their parameters."""
