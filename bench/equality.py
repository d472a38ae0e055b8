"""Greedy tokens of the server's engine against the same sizes in transformers, in float32.

    python -m bench.equality FAMILY [NUMBER_OF_SIZES]

Every size alone, then all of them mixed in one batch of 16, in three orders.  Prints JSON with
the number of identical answers.  Also prints the engine's resident bytes beside the teacher's.
"""

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import torch

from boomerang_core.assemble import assemble
from boomerang_core.checkpoint import load_teacher, load_tokenizer, teacher_folder
from boomerang_core.cli import family_folder
from boomerang_core.family import load_family
from boomerang_core.footprint import teacher_params
from boomerang_core.provenance import provenance
from boomerang_core.route import build_route
from boomerang_core.student import load_student

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a small village,",
    "Water boils at a temperature of",
    "The three primary colours are",
)
TOKENS = 16
BATCH = 16


def main() -> None:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # read when vLLM is imported
    from vllm import LLM, SamplingParams

    from server.engine.loader import engine_arguments
    from server.engine.sizes import SIZE_KEY

    family = load_family(family_folder(Path(sys.argv[1])))
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    top = len(family.rows) - 1
    sizes = sorted({round(index * top / (count - 1)) for index in range(count)})
    folder = teacher_folder(family)
    tokenizer = load_tokenizer(folder)
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    expected = _transformers(family, sizes, prompts)
    engine: Any = LLM(
        **engine_arguments(
            family,
            folder,
            dtype="float32",
            max_model_len=256,
            kv_cache_memory_bytes=256 << 20,
            skip_tokenizer_init=True,
        )
    )

    def run(work: list[tuple[int, int]]) -> int:
        parameters = [
            SamplingParams(
                temperature=0,
                max_tokens=TOKENS,
                ignore_eos=True,
                detokenize=False,
                extra_args={SIZE_KEY: size},
            )
            for size, _ in work
        ]
        inputs = [{"prompt_token_ids": prompts[place]} for _, place in work]
        outputs = engine.generate(inputs, parameters, use_tqdm=False)
        answers = [list(output.outputs[0].token_ids) for output in outputs]
        return sum(a == expected[key] for a, key in zip(answers, work, strict=True))

    alone = [(size, place) for size in sizes for place in range(len(prompts))]
    mixed = random.Random(0).choices(alone, k=BATCH)
    orders = [random.Random(seed).sample(mixed, BATCH) for seed in range(3)]
    (resident,) = engine.collective_rpc("resident_bytes")
    teacher = 4 * teacher_params(family.shape)
    report = {
        "sizes": [family.rows[size].id for size in sizes],
        "tokens": TOKENS,
        "one_at_a_time": [sum(run([key]) for key in alone), len(alone)],
        "mixed": [[run(order), BATCH] for order in orders],
        "distinct_answers": len({tuple(answer) for answer in expected.values()}),
        "resident_bytes": resident,
        "resident_over_teacher": round(resident / teacher, 4),
        **provenance(0),
    }
    print(json.dumps(report, indent=1))


def _transformers(
    family: Any, sizes: list[int], prompts: list[list[int]]
) -> dict[tuple[int, int], list[int]]:
    """The answers of each (size, prompt) by greedy generation in transformers."""
    teacher = load_teacher(family, torch.float32)
    student = load_student(family.student_dir).to(next(teacher.parameters()))
    answers = {}
    for size in sizes:
        model = assemble(teacher, student, build_route(family.design, size), merged=True)
        model.generation_config.eos_token_id = None  # as `ignore_eos` in the engine
        for place, prompt in enumerate(prompts):
            ids = model.generate(torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False)
            answers[size, place] = ids[0, len(prompt) :].tolist()
    return answers


if __name__ == "__main__":
    main()
