"""Every architecture that vLLM can route, both student kinds: sizes equal the core's models.

The families come from the core's own `initial_student`, randomised; the oracle is the core's
`assemble`, by reference, run by transformers.
"""

from collections.abc import Callable
from dataclasses import replace
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

from boomerang_core.architectures import ARCHITECTURES, model_shape
from boomerang_core.assemble import assemble
from boomerang_core.family import Family, TeacherRef, build_rows, load_family, write_family
from boomerang_core.route import FamilyDesign, StudentKind, build_route
from boomerang_core.student import initial_student, load_student, save_student
from server.engine import compat
from server.engine.loader import engine_arguments
from server.engine.rows import ROWS
from tests.engine.conftest import LIMITS
from tests.engine.families import BLOCKS, LADDER, LAYERS, TinyFamily
from tests.engine.test_equality import BATCH, greedy, greedy_reference

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


def make(folder: Path, architecture: str, kind: StudentKind) -> TinyFamily:
    torch.manual_seed(0)
    teacher = AutoModelForCausalLM.from_config(CONFIGS[architecture]).eval()
    with torch.no_grad():
        for name, value in randomise(dict(teacher.named_parameters()), 3).items():
            teacher.get_parameter(name).copy_(value)
    teacher.save_pretrained(folder / "teacher")
    own_ends = kind is StudentKind.FULL
    student = initial_student(teacher, BLOCKS, kind, 4, own_ends)
    tensors = randomise(dict(student.tensors), 4)
    save_student(replace(student, tensors=tensors), folder / "family/student")
    design = FamilyDesign(BLOCKS, LADDER, kind, own_ends)
    shape = model_shape(teacher)
    rows = build_rows(design, shape)
    reference = TeacherRef("folder", str(folder / "teacher"))
    family = Family("tiny", architecture, design, shape, reference, rows, 1, 256, len(rows) - 1)
    write_family(family, folder / "family")
    return TinyFamily(load_family(folder / "family"), folder / "teacher")


@pytest.mark.parametrize("kind", StudentKind)
@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_size_of_an_architecture_in_one_mixed_batch(
    architecture: str, kind: StudentKind, tmp_path: Path, keep: Callable[[Any], Any]
) -> None:
    from vllm import LLM

    tiny = make(tmp_path, architecture, kind)
    engine = keep(LLM(**engine_arguments(tiny.family, tiny.teacher_dir, **LIMITS)))
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


def test_every_row_of_the_core_that_vllm_knows_is_routed() -> None:
    known = {name for name, row in ARCHITECTURES.items() if row.vllm_layer is not None}
    assert set(ROWS) == set(CONFIGS) == known


def test_both_tables_name_the_same_vllm_layers() -> None:
    assert {row.names.vllm_layer for row in ROWS.values()} <= set(compat.NAMES.values())
