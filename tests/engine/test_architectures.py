"""Every architecture that vLLM can route, both student kinds: sizes equal the core's models.

The families come from the core's own `initial_student`, randomised; the oracle is the core's
`assemble`, by reference, run by transformers.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from boomerang_core.architectures import ARCHITECTURES, Maps, model_shape
from boomerang_core.assemble import assemble
from boomerang_core.initial_student import initial_student
from boomerang_core.merging import merge_family
from boomerang_core.route import FamilyDesign, StudentKind, build_route
from boomerang_core.student import load_student, save_student
from server.engine import compat
from server.engine.architectures import ENGINE_ARCHITECTURES, EngineArchitecture
from server.engine.loader import engine_arguments
from tests.engine.conftest import LIMITS
from tests.engine.families import BLOCKS, LADDER, LAYERS, TinyFamily
from tests.engine.test_equality import BATCH, greedy, greedy_reference
from tests.folders import write_tiny

pytestmark = pytest.mark.engine

_LLAMA_LIKE: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "dtype": "float32",
}
CONFIGS: dict[str, PretrainedConfig] = {
    "LlamaForCausalLM": LlamaConfig(**_LLAMA_LIKE, attention_bias=True, tie_word_embeddings=True),
    "MistralForCausalLM": MistralConfig(**_LLAMA_LIKE, sliding_window=None),
    "Qwen2ForCausalLM": Qwen2Config(**_LLAMA_LIKE, tie_word_embeddings=True),
    "Qwen3ForCausalLM": Qwen3Config(**_LLAMA_LIKE, head_dim=32),
    "GPT2LMHeadModel": GPT2Config(
        vocab_size=256, n_positions=256, n_embd=64, n_layer=LAYERS, n_head=2, dtype="float32"
    ),
}


def randomise(tensors: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Large weights, so that sizes disagree; norms' scales (one-dimensional weights) near 1."""
    generator = torch.Generator().manual_seed(seed)

    def noise(name: str, tensor: torch.Tensor) -> torch.Tensor:
        value = 0.2 * torch.randn(tensor.shape, generator=generator)
        return 1 + value if tensor.dim() == 1 and name.endswith("weight") else value

    return {name: noise(name, tensor) for name, tensor in tensors.items()}


ALL, MERGED, READ_MERGED, ONLY_MLP = "all", "attention merged", "merged when read", "mlp"
"""Where a low-rank student of the tests has deltas."""


def make(folder: Path, architecture: str, kind: StudentKind, deltas: str) -> TinyFamily:
    """A family."""
    torch.manual_seed(0)
    teacher = AutoModelForCausalLM.from_config(CONFIGS[architecture]).eval()
    with torch.no_grad():
        for name, value in randomise(dict(teacher.named_parameters()), 3).items():
            teacher.get_parameter(name).copy_(value)
    teacher.save_pretrained(folder / "teacher")
    own_ends = kind is StudentKind.FULL
    maps = Maps.MLP if deltas == ONLY_MLP else Maps.ALL
    student = initial_student(teacher, BLOCKS, kind, 4, own_ends, maps)
    tensors = randomise(dict(student.tensors), 4)
    save_student(replace(student, tensors=tensors), folder / "family/student")
    design = FamilyDesign(BLOCKS, LADDER, kind, own_ends)
    teacher_dir, shape = folder / "teacher", model_shape(teacher)
    family = write_tiny(folder / "family", design, shape, teacher_dir, architecture=architecture)
    if deltas == MERGED:
        family = merge_family(family, folder / "merged", Maps.ATTENTION)
    if deltas == READ_MERGED:
        family = family.merged_when_read()
    return TinyFamily(family, teacher_dir)


QUICK = ("GPT2LMHeadModel", StudentKind.FULL)
"""The compiled one of the quick tests: each takes 15 seconds, and only GPT-2's layers are called
differently from those of `test_compiled`, where both kinds are quick."""


def cases() -> Iterator[Any]:
    for name, kind in product(CONFIGS, StudentKind):
        yield pytest.param(name, False, kind, ALL)
        slow = [pytest.mark.slow] * ((name, kind) != QUICK)
        yield pytest.param(name, True, kind, ALL, marks=slow)
    for name in ("Qwen2ForCausalLM", "GPT2LMHeadModel"):  # maps with biases; and stored transposed
        for deltas in (MERGED, READ_MERGED, ONLY_MLP):
            yield pytest.param(name, False, StudentKind.LOWRANK, deltas)


@pytest.mark.parametrize(("architecture", "compiled", "kind", "deltas"), cases())
def test_every_size_of_an_architecture_in_one_mixed_batch(
    architecture: str,
    compiled: bool,
    kind: StudentKind,
    deltas: str,
    tmp_path: Path,
    keep: Callable[[Any], Any],
) -> None:
    from vllm import LLM

    tiny = make(tmp_path, architecture, kind, deltas)
    arguments = engine_arguments(tiny.family, tiny.teacher_dir, compiled=compiled, **LIMITS)
    engine = keep(LLM(**arguments))
    teacher = AutoModelForCausalLM.from_pretrained(tiny.teacher_dir, dtype=torch.float32).eval()
    student = load_student(tiny.family.student_dir)
    batch = BATCH[:8]
    want = [
        greedy_reference(assemble(teacher, student, build_route(tiny.family.design, size)), batch)
        for size in tiny.sizes
    ]
    assert all(one != other for i, one in enumerate(want) for other in want[:i])
    sizes = [index % len(tiny.sizes) for index in range(len(batch))]
    assert greedy(engine, batch, sizes) == [want[size][i] for i, size in enumerate(sizes)]


def test_every_row_of_the_core_is_routed_but_gpt_neox() -> None:
    assert set(ENGINE_ARCHITECTURES) == set(CONFIGS) == set(ARCHITECTURES) - {"GPTNeoXForCausalLM"}


def test_the_names_of_the_bare_model_are_the_same() -> None:
    row = ENGINE_ARCHITECTURES["LlamaForCausalLM"]
    for name in ("layers.3.mlp.up_proj.weight", "embed_tokens.weight", "norm.weight"):
        assert row.local_name(name) == row.local_name(f"model.{name}")
    assert row.local_name("lm_head.weight") == "head.weight"


@pytest.mark.parametrize("row", ENGINE_ARCHITECTURES.values(), ids=ENGINE_ARCHITECTURES)
def test_a_row_names_classes_in_the_table_of_vllm_names(row: EngineArchitecture) -> None:
    assert {row.layer, row.model} <= compat.NAMES.keys()
