"""Greedy answers by transformers: what every engine must say."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from boomerang_core.assemble import assemble
from boomerang_core.checkpoint import load_teacher
from boomerang_core.family import Family
from boomerang_core.route import build_route
from boomerang_core.student import load_student

TOKENS = 16
PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a small village,",
    "Water boils at a temperature of",
    # longer than two KV blocks, so that it can be found in the prefix cache
    "The history of the steam engine begins long before the railways. In the first century, Hero "
    "of Alexandria described a hollow sphere that turned when the water in it boiled. Sixteen "
    "hundred years later, miners who went below the water table needed something stronger than "
    "horses to keep their shafts dry, and in Cornwall an ironmonger named",
)

Key = tuple[int, int]
"""A size and the place of a prompt."""
Answers = dict[Key, list[int]]


def in_transformers(family: Family, keys: Sequence[Key], prompts: Sequence[list[int]]) -> Answers:
    """Greedy generation on the assembled model, one prompt at a time, in float32."""
    teacher = load_teacher(family, torch.float32)
    student = load_student(family.student_dir).to(next(teacher.parameters()))
    answers = {}
    for size in sorted({size for size, _ in keys}):
        model = assemble(teacher, student, build_route(family.design, size), merged=True)
        model.generation_config.eos_token_id = None  # the engines ignore it too
        for place in (place for other, place in keys if other == size):
            ids_BL = torch.tensor([prompts[place]])
            out_BL = model.generate(ids_BL, max_new_tokens=TOKENS, do_sample=False)
            answers[size, place] = out_BL[0, len(prompts[place]) :].tolist()
    return answers
