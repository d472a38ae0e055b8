"""Tiny random teachers of every architecture row, students of both kinds, a recipe."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from boomerang_core.architectures import architecture_of, model_shape
from boomerang_core.blocks import BlockMap
from boomerang_core.distill.recipe import Recipe
from boomerang_core.distill.schedule import EndToEnd
from boomerang_core.family import Family
from boomerang_core.initial_student import initial_student
from boomerang_core.ladder import Ladder
from boomerang_core.route import FamilyDesign, StudentKind
from boomerang_core.student import Student, save_student
from tests.folders import write_tiny

VOCABULARY, HIDDEN, LAYERS, RANK = 64, 32, 6, 3
ROW_LENGTH = 32
# A kept layer that is not its block's first, a shared block, steps of two blocks each.
BLOCKS = BlockMap.from_layers([[0, 1], [2], [3], [4, 5]], kept=[1, 2, 3, 4], shared=[2])
LADDER = Ladder(4, ((3, 2), (1, 0)))

_SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = {**_SMALL, "num_key_value_heads": 2}
# Layers of both kinds, so that a wrong place shows: 8 tokens of attention, then all.
_MIXED = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 3}

CONFIGS: dict[str, Callable[[bool], Any]] = {
    "llama": lambda tied: LlamaConfig(**_GROUPED, tie_word_embeddings=tied),
    "mistral": lambda tied: MistralConfig(**_GROUPED, sliding_window=4, tie_word_embeddings=tied),
    "qwen2": lambda tied: Qwen2Config(**_GROUPED, **_MIXED, tie_word_embeddings=tied),
    "qwen3": lambda tied: Qwen3Config(**_GROUPED, **_MIXED, head_dim=8, tie_word_embeddings=tied),
    "gpt_neox": lambda tied: GPTNeoXConfig(**_SMALL, tie_word_embeddings=tied),
    "gpt2": lambda tied: GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=HIDDEN,
        n_layer=LAYERS,
        n_head=4,
        n_positions=64,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=tied,
    ),
}


def tiny_teacher(architecture: str, tied: bool) -> Any:
    """A random teacher whose norms and biases are random too, so that a mix-up shows."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[architecture](tied))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            noise = 0.2 * torch.randn_like(parameter)
            parameter.data = noise if name.endswith("bias") else 1 + noise
    return model.eval().requires_grad_(False)


def tiny_student(teacher: Any, kind: StudentKind, own_embeddings: bool = False) -> Student:
    """A student moved away from where it starts."""
    torch.manual_seed(1)
    start = initial_student(teacher, BLOCKS, kind, RANK, own_embeddings)
    return start.with_tensors(
        {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in start.tensors.items()}
    )


def tiny_design(kind: StudentKind, own_embeddings: bool = False) -> FamilyDesign:
    return FamilyDesign(BLOCKS, LADDER, kind, own_embeddings)


def tiny_recipe(teacher: str) -> Recipe:
    """Small enough that a whole run takes a second."""
    return Recipe(
        name="tiny",
        teacher=teacher,
        shared=(0, LAYERS - 1),
        rank=4,
        sample_tokens=3000,
        row_length=ROW_LENGTH,
        heldout_every=4,
        kept_tokens=100,
        block_tokens=98_304,
        steps=4,
        end_to_end=EndToEnd(tokens=0),
        eval_tokens=200,
    )


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    words |= {f"w{i}": i for i in range(4, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}",
    )


def beginning_tokenizer() -> PreTrainedTokenizerFast:
    """One that puts its begin token before every text, as Llama's and Mistral's do."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def write_tiny_family(
    folder: Path, teacher: Any, student: Student, design: FamilyDesign, relative: bool = False
) -> Family:
    """A family folder with its teacher inside, written and read back."""
    teacher_dir = folder / "teacher" if relative else folder.parent / f"{folder.name}-teacher"
    teacher.save_pretrained(teacher_dir)
    tiny_tokenizer().save_pretrained(teacher_dir)
    save_student(student, folder / "student")
    return write_tiny(
        folder,
        design,
        model_shape(teacher),
        "teacher" if relative else teacher_dir,
        architecture=architecture_of(teacher.config).name,
        student_params=student.num_params,
        footprint_tokens=64,
        provenance={"seed": 0},
    )


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Of a tiny Llama; read only."""
    folder = tmp_path_factory.mktemp("teacher")
    tiny_teacher("llama", True).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return tiny_recipe(str(folder))


def student_bytes(family: Family) -> bytes:
    return (family.student_dir / "model.safetensors").read_bytes()
