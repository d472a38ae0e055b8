"""The routed model: teacher and student behind one vLLM model, one plan per step.

Every block knows how to run a step whose first rows are the teacher's (`blocks.py`); this module
holds the weights, walks the blocks, and splits embedding, final norm and head where the student
has its own.  The runner sets `plan` before a forward pass; without one (vLLM's dummy runs) every
row is the teacher's.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from boomerang_core.errors import CheckpointError
from boomerang_core.route import FamilyDesign, StudentKind
from server.engine.blocks import BlockRun, LayerCall, State, build_block
from server.engine.compat import (
    AutoWeightsLoader,
    DefaultModelLoader,
    LogitsComputer,
    ParallelLMHead,
    VocabParallelEmbedding,
)
from server.engine.loader import carried, design_of, resident_bytes, student_shapes
from server.engine.lowrank import LowRankLayer
from server.engine.plan import Ranks, Side, StepPlan
from server.engine.rows import EngineRow, row_of

_STUDENT = "student."
Weights = Iterable[tuple[str, torch.Tensor]]


class Party(nn.Module):
    """The weights of one owner: layers by index and, where it has its own, the two ends."""

    def __init__(self, layers: dict[int, nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(index): layer for index, layer in layers.items()})
        self.tied = False

    def add_ends(self, row: EngineRow, config: Any, tied: bool, prefix: str) -> None:
        """Give the party an embedding, a final norm and a head; `tied`: head = embedding."""
        self.tied = tied
        self.embedding = VocabParallelEmbedding(config.vocab_size, config.hidden_size)
        if row.names.positions:
            self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.norm = row.make_norm(config)
        head = ParallelLMHead(config.vocab_size, config.hidden_size, prefix=f"{prefix}.head")
        self.head = head.tie_weights(self.embedding) if tied else head

    def embed(self, ids_T: torch.Tensor, positions_T: torch.Tensor) -> torch.Tensor:
        """(T,) → (T, hidden)."""
        hidden: torch.Tensor = self.embedding(ids_T)
        if hasattr(self, "positions"):
            hidden = hidden + self.positions(positions_T)
        return hidden

    def final_norm(self, state: State) -> torch.Tensor:
        """The last state → (T, hidden)."""
        normed: Any = self.norm(*state)
        hidden: torch.Tensor = normed[0] if len(state) > 1 else normed
        return hidden


class BoomerangForCausalLM(nn.Module):
    """Teacher and student; the class that vLLM loads."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        self.config = vllm_config.model_config.hf_config
        self.quant_config = vllm_config.quant_config
        record = carried(self.config)
        self.design = design_of(self.config)
        self.ranks = Ranks.of(self.design)
        self.row = row_of(record["architecture"])
        self.mapper = self.row.mapper()
        self.plan: StepPlan | None = None
        self.resident_bytes = 0
        shapes = student_shapes(Path(record["student"]))
        self.teacher = self._teacher(vllm_config)
        if self.design.kind is StudentKind.FULL:
            self.student = self._full_student(vllm_config, shapes)
        else:
            self.student = self._lowrank_student(shapes)
        self.logits_processor = LogitsComputer(
            self.config.vocab_size, scale=getattr(self.config, "logit_scale", 1.0)
        )
        self.secondary_weights = (
            DefaultModelLoader.Source(record["student"], revision=None, prefix=_STUDENT),
        )
        self.blocks = self._blocks()

    # ---- building ---------------------------------------------------------------------------

    def _teacher(self, vllm_config: Any) -> Party:
        count = self.design.block_map.num_teacher_layers
        make = self.row.make_layer
        layers = {
            index: make(vllm_config, self.config, f"teacher.layers.{index}")
            for index in range(count)
        }
        party = Party(layers)
        party.add_ends(self.row, self.config, self.config.tie_word_embeddings, "teacher")
        return party

    def _full_student(self, vllm_config: Any, shapes: dict[str, tuple[int, ...]]) -> Party:
        """One layer per block that is not shared.

        vLLM sorts attention layers by the one integer in their name, so the student's continue
        after the teacher's.
        """
        config = _student_config(self.config, self.design)
        first = self.design.block_map.num_teacher_layers
        layers = {
            index: self.row.make_layer(vllm_config, config, f"student.layers.{first + index}")
            for index, block in enumerate(self.design.block_map)
            if not block.shared
        }
        party = Party(layers)
        if self.design.own_embeddings:
            party.add_ends(
                self.row, config, f"{self.row.names.head}.weight" not in shapes, "student"
            )
        return party

    def _lowrank_student(self, shapes: dict[str, tuple[int, ...]]) -> Party:
        by_block: dict[int, dict[str, tuple[int, ...]]] = {}
        for name, shape in shapes.items():
            index, rest = _within_layer(self.row.local_name(name))
            by_block.setdefault(index, {})[rest] = shape
        stacked = self.mapper.orig_to_new_stacked
        return Party(
            {
                index: LowRankLayer(
                    self.teacher.layers[str(block.kept)], by_block.get(index, {}), stacked
                )
                for index, block in enumerate(self.design.block_map)
                if not block.shared
            }
        )

    def _blocks(self) -> tuple[BlockRun, ...]:
        call = LayerCall(self.row.residual)
        teacher = list(self.teacher.layers.values())
        student = dict(self.student.layers.items())
        return tuple(
            build_block(block, call, teacher, student.get(str(index)))
            for index, block in enumerate(self.design.block_map)
        )

    # ---- for the runner ---------------------------------------------------------------------

    def attention_sides(self) -> Iterator[tuple[str, int, Side]]:
        """(attention layer, its block, the rows it runs on) of the whole model."""
        for index, block in enumerate(self.blocks):
            for name, side in block.attention():
                yield name, index, side

    def kv_alias(self) -> dict[str, str]:
        """Student attention layer → teacher attention layer of the block, whose pages it uses."""
        return {ours: theirs for block in self.blocks for ours, theirs in block.kv_alias().items()}

    # ---- vLLM's model interface -------------------------------------------------------------

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Word embeddings (T,) → (T, hidden), of the teacher: part of vLLM's model interface."""
        hidden: torch.Tensor = self.teacher.embedding(input_ids)
        return hidden

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Token ids and positions (T,) → hidden states (T, hidden) after the final norm."""
        assert intermediate_tensors is None, "pipeline parallel is refused at start"
        assert inputs_embeds is None, "prompt embeddings are not enabled"
        plan = self.plan
        total = positions.shape[0]
        splits = [total] * len(self.blocks) if plan is None else [s.tokens for s in plan.blocks]
        hidden: torch.Tensor = self._on_sides(
            self._first(None if plan is None else plan.embedding, total),
            (input_ids, positions),
            lambda party, parts: party.embed(*parts),
        )
        state: State = (hidden,)
        for block, tokens in zip(self.blocks, splits, strict=True):
            state = block.run(positions, state, self._first(tokens, total))
        first = self._first(None if plan is None else plan.head_tokens, total)
        normed: torch.Tensor = self._on_sides(first, state, Party.final_norm)
        return normed

    def _first(self, tokens: int | None, total: int) -> int:
        """The first row of the student; padding rows join the teacher when all rows are his."""
        if self.plan is None or tokens is None or tokens == self.plan.num_tokens:
            return total
        return tokens

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Rows of hidden states, one per request → logits (rows, vocabulary)."""
        total = hidden_states.shape[0]
        first = total if self.plan is None else min(self.plan.head_rows, total)

        def logits(party: Party, parts: tuple[torch.Tensor, ...]) -> Any:
            return self.logits_processor(party.head, *parts)

        rows: torch.Tensor | None = self._on_sides(first, (hidden_states,), logits)
        return rows

    def _on_sides(
        self,
        first: int,
        parts: tuple[torch.Tensor, ...],
        apply: Callable[[Party, tuple[torch.Tensor, ...]], Any],
    ) -> Any:
        """Apply to the teacher's rows and to the student's, and put the results together.

        None stays None: vLLM returns no logits on tensor-parallel ranks that do not sample.
        """
        if first >= parts[0].shape[0]:
            return apply(self.teacher, parts)
        if first == 0:
            return apply(self.student, parts)
        upper = apply(self.teacher, tuple(part[:first] for part in parts))
        lower = apply(self.student, tuple(part[first:] for part in parts))
        return None if upper is None else torch.cat([upper, lower])

    # ---- weights ----------------------------------------------------------------------------

    def load_weights(self, weights: Weights) -> set[str]:
        """Load both checkpoints; returns the parameters that were filled.

        Raises `CheckpointError` where the student's tensors do not fit the design.
        """
        loaded: set[str] = set()
        plain = self._plain_weights(weights, loaded)
        loaded |= AutoWeightsLoader(self).load_weights(plain, mapper=self.mapper)
        self.resident_bytes = resident_bytes(self.parameters())
        return loaded

    def _plain_weights(self, weights: Weights, loaded: set[str]) -> Iterator[Any]:
        """Rename the tensors of whole layers and ends; take low-rank tensors in at once."""
        lowrank = self.design.kind is StudentKind.LOWRANK
        for full_name, value in weights:
            of_student = full_name.startswith(_STUDENT)
            name = self.row.local_name(full_name.removeprefix(_STUDENT))
            if of_student and lowrank:
                self._load_lowrank(name, value)
                continue
            party = self.student if of_student else self.teacher
            if name.startswith("head.") and party.tied:
                continue
            value = value.t() if self.row.is_transposed(name) else value
            yield f"{'student' if of_student else 'teacher'}.{name}", value
        if lowrank:
            loaded |= {name for name, _ in self.named_parameters() if name.startswith(_STUDENT)}

    def _load_lowrank(self, name: str, value: torch.Tensor) -> None:
        index, rest = _within_layer(name)
        layer = self.student.layers[str(index)]
        assert isinstance(layer, LowRankLayer)
        layer.load(rest, value)


def _within_layer(name: str) -> tuple[int, str]:
    """`layers.3.mlp.up_proj.lora_A` → (3, `mlp.up_proj.lora_A`)."""
    parts = name.split(".", 2)
    if len(parts) != 3 or parts[0] != "layers" or not parts[1].isdecimal():
        raise CheckpointError(f"{name} is not a tensor of a low-rank student")
    return int(parts[1]), parts[2]


def _student_config(config: Any, design: FamilyDesign) -> Any:
    """The config for student layers: their indices continue after the teacher's, and so do the
    per-layer attention types, each that of the block's kept layer."""
    types = getattr(config, "layer_types", None)
    if not types:
        return config
    extended = copy.copy(config)
    extended.layer_types = [*types, *(types[block.kept] for block in design.block_map)]
    return extended
