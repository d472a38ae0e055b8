"""Tiny random families, and an oracle that writes a size out as a plain checkpoint.

The oracle shares no code with the engine: it copies the tensors of a route into a Llama
checkpoint, with low-rank deltas added to the weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from boomerang_core.architectures import model_shape
from boomerang_core.blocks import BlockMap
from boomerang_core.family import Family
from boomerang_core.ladder import Ladder
from boomerang_core.route import FamilyDesign, Owner, StudentKind, build_route
from boomerang_core.sizes import Quality
from boomerang_core.student import Student, save_student
from tests.folders import write_tiny

VOCABULARY, HIDDEN, LAYERS, RANK = 256, 64, 7, 4
PREFIX = "model.layers"
LINEAR = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)
NORMS = ("input_layernorm", "post_attention_layernorm")
# Kept layers that are not the block's first, a shared block, an order that is not monotone.
BLOCKS = BlockMap.from_layers([[0, 1], [2], [3, 4], [5, 6]], kept=[1, 2, 3, 6], shared=[2])
LADDER = Ladder(4, ((2,), (0, 1), (3,)))

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TinyFamily:
    """A family folder, its teacher's folder, and where its exports go."""

    family: Family
    teacher_dir: Path

    @property
    def sizes(self) -> range:
        return range(self.family.design.ladder.num_sizes)

    def export_dir(self, size: int) -> Path:
        """The size as a plain checkpoint, written on first use."""
        folder = self.family.root.parent / f"export-{size}"
        if not folder.exists():
            untied = LlamaConfig.from_pretrained(self.teacher_dir, tie_word_embeddings=False)
            model = LlamaForCausalLM(untied)
            model.load_state_dict(route_tensors(self, size))
            model.save_pretrained(folder)
        return folder


def config(tied: bool, hidden: int = HIDDEN) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=VOCABULARY - 1,
        dtype="float32",
    )


def randomise(tensors: Tensors, generator: torch.Generator) -> Tensors:
    """Large weights, so that sizes disagree and greedy choices are clear."""

    def noise(tensor: torch.Tensor) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator)

    return {
        name: 1 + 0.3 * noise(tensor) if "norm" in name else 0.2 * noise(tensor)
        for name, tensor in tensors.items()
    }


def make_family(
    folder: Path,
    kind: StudentKind,
    own_embeddings: bool,
    tied: bool,
    hidden: int = HIDDEN,
    quality: Mapping[int, Quality] | None = None,
    attention: bool = False,
) -> TinyFamily:
    """A family with random weights; `hidden` is the width of two attention heads.

    `attention`: a low-rank student with attention weights of its own instead of deltas.
    """
    generator = torch.Generator().manual_seed(7 if kind is StudentKind.FULL else 8)
    teacher = LlamaForCausalLM(config(tied, hidden))
    tensors = randomise(teacher.state_dict(), generator)
    if tied:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    teacher.load_state_dict(tensors)
    teacher_dir = folder / "teacher"
    teacher.save_pretrained(teacher_dir)

    design = FamilyDesign(BLOCKS, LADDER, kind, own_embeddings)
    student = (full if kind is StudentKind.FULL else lowrank)(tensors, design, generator, tied)
    if attention:
        student = with_attention(student, tensors, generator)
    root = folder / "family"
    save_student(
        Student("LlamaForCausalLM", kind, BLOCKS, own_embeddings, student), root / "student"
    )
    family = write_tiny(
        root,
        design,
        replace(model_shape(teacher), bytes_per_param=4),  # served in float32
        teacher_dir,
        quality,
        student_params=sum(value.numel() for value in student.values()),
    )
    return TinyFamily(family, teacher_dir)


def full(teacher: Tensors, design: FamilyDesign, generator: torch.Generator, tied: bool) -> Tensors:
    """A student with random layers and, where the design says so, random ends."""
    own = {
        f"{PREFIX}.{index}.{name}": teacher[f"{PREFIX}.{block.kept}.{name}"]
        for index, block in enumerate(design.block_map)
        if not block.shared
        for name in (*(f"{linear}.weight" for linear in LINEAR), *(f"{n}.weight" for n in NORMS))
    }
    if design.own_embeddings:
        names = ["model.embed_tokens.weight", "model.norm.weight"]
        own |= {name: teacher[name] for name in names + ([] if tied else ["lm_head.weight"])}
    return randomise(own, generator)


def lowrank(
    teacher: Tensors, design: FamilyDesign, generator: torch.Generator, tied: bool
) -> Tensors:
    """Random deltas on every linear map, of different ranks within a layer, and own norms."""
    own: Tensors = {}
    for index, block in enumerate(design.block_map):
        if block.shared:
            continue
        kept = layer_of(teacher, block.kept)
        for linear in LINEAR:
            rows, columns = kept[f"{linear}.weight"].shape
            rank = RANK // 2 if linear.endswith("k_proj") else RANK
            own[f"{PREFIX}.{index}.{linear}.lora_A"] = torch.empty(rank, columns)
            own[f"{PREFIX}.{index}.{linear}.lora_B"] = torch.empty(rows, rank)
        own |= {f"{PREFIX}.{index}.{norm}.weight": kept[f"{norm}.weight"] for norm in NORMS}
    return randomise(own, generator)


def with_attention(student: Tensors, teacher: Tensors, generator: torch.Generator) -> Tensors:
    """A low-rank student whose deltas of attention give way to random weights."""
    deltas = [name for name in student if "self_attn" in name]
    own = {name.replace(".lora_A", ".weight"): name for name in deltas if name.endswith("lora_A")}
    weights = {name: torch.empty_like(teacher[name]) for name in own}
    return {n: t for n, t in student.items() if n not in deltas} | randomise(weights, generator)


def route_tensors(tiny: TinyFamily, size: int) -> Tensors:
    """The state dict of a size.  Layers that a route leaves out stay, as identities."""
    design = tiny.family.design
    teacher = LlamaForCausalLM.from_pretrained(tiny.teacher_dir).state_dict()
    student = load_file(tiny.family.student_dir / "model.safetensors")
    route = build_route(design, size)
    result: Tensors = {}
    for place, layer in enumerate(route.layers):
        if layer.owner is Owner.TEACHER:
            source = layer_of(teacher, layer.index)
        elif design.kind is StudentKind.FULL and not tiny.family.merges_deltas:
            source = layer_of(student, layer.index)
        else:
            kept = layer_of(teacher, design.block_map[layer.index].kept)
            source = merged(kept, layer_of(student, layer.index))
        result |= {f"{PREFIX}.{place}.{name}": value for name, value in source.items()}
    for place in range(len(route.layers), LAYERS):  # writes nothing to the residual stream
        source = layer_of(teacher, 0)
        for name in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
            source[name] = torch.zeros_like(source[name])
        result |= {f"{PREFIX}.{place}.{name}": value for name, value in source.items()}
    embedding = teacher if route.embedding is Owner.TEACHER else student
    ends = teacher if route.head is Owner.TEACHER else student
    result["model.embed_tokens.weight"] = embedding["model.embed_tokens.weight"]
    result["model.norm.weight"] = ends["model.norm.weight"]
    result["lm_head.weight"] = ends.get("lm_head.weight", ends["model.embed_tokens.weight"])
    return result


def layer_of(tensors: Tensors, index: int) -> Tensors:
    prefix = f"{PREFIX}.{index}."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def merged(kept: Tensors, student: Tensors) -> Tensors:
    result = kept | {name: value for name, value in student.items() if name.endswith(".weight")}
    for linear in LINEAR:
        if f"{linear}.weight" in student:
            continue
        delta = student[f"{linear}.lora_B"] @ student[f"{linear}.lora_A"]
        result[f"{linear}.weight"] = kept[f"{linear}.weight"] + delta
    return result
