"""FlashAttention in bfloat16, as a GPU serves by default: likelihoods as transformers has them.

Greedy tokens cannot be compared there: rounding turns near-ties.  So what the engine answers is
read again by transformers in float32, and each token must be as likely as the engine said.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from server.engine.loader import engine_arguments
from tests.engine.conftest import LIMITS, token_prompts
from tests.engine.families import TinyFamily
from tests.engine.test_equality import BATCH, parameters

pytestmark = pytest.mark.gpu

Answer = tuple[list[int], list[float]]
"""Tokens, and the log-likelihood of each as the engine gave it, in nats."""

ROUNDING = 0.1
"""Nats by which bfloat16 likelihoods may be off in a batch's mean; on a CPU they are by 0.05."""


@pytest.fixture(scope="module", params=["lowrank", "full-own-ends"])
def tiny(request: pytest.FixtureRequest, build: Callable[[str], TinyFamily]) -> TinyFamily:
    """A family of each kind."""
    return build(request.param)


@pytest.fixture(scope="module", params=["graphs", "eager", "compiled"])
def engine(request: pytest.FixtureRequest, tiny: TinyFamily, keep: Callable[[Any], Any]) -> Any:
    """Its engine on the GPU."""
    from vllm import LLM

    limits = {**LIMITS, "dtype": "bfloat16", "attention_backend": "FLASH_ATTN"}
    way = {"compiled": request.param == "compiled", "graphs": request.param != "eager"}
    return keep(LLM(**engine_arguments(tiny.family, tiny.teacher_dir, **way, **limits)))


def answers(engine: Any, sizes: Sequence[int]) -> list[Answer]:
    """What `BATCH` answers at those sizes, all at once."""
    asked = [parameters(size, logprobs=0) for size in sizes]
    results = engine.generate(token_prompts(BATCH), asked, use_tqdm=False)
    return [
        (
            list(result.outputs[0].token_ids),
            [next(iter(one.values())).logprob for one in result.outputs[0].logprobs],
        )
        for result in results
    ]


def misjudged(model: Any, prompt: Sequence[int], answer: Answer) -> float:
    """The mean distance of an answer's likelihoods from those of a transformers model, in nats."""
    tokens, given = answer
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
    read = logits.log_softmax(-1).gather(1, torch.tensor(tokens).unsqueeze(1)).squeeze(1)
    return float((read - torch.tensor(given)).abs().mean())


def test_likelihoods_of_a_mixed_batch(tiny: TinyFamily, engine: Any) -> None:
    sizes = [index % len(tiny.sizes) for index in range(len(BATCH))]
    random.Random(0).shuffle(sizes)
    models = [
        LlamaForCausalLM.from_pretrained(tiny.export_dir(size), dtype=torch.float32)
        for size in tiny.sizes
    ]
    got = list(zip(BATCH, sizes, answers(engine, sizes), strict=True))
    own = [misjudged(models[size], prompt, answer) for prompt, size, answer in got]
    other = [misjudged(models[size - 1], prompt, answer) for prompt, size, answer in got]
    assert sum(own) / len(own) < ROUNDING, own
    assert sum(other) / len(other) > 10 * ROUNDING, "or the test would prove nothing"
