"""The routed model: teacher and student behind one vLLM model, one plan per step.

Every block knows how to run a step whose first rows are the teacher's (`blocks.py`); this module
holds the weights, walks the blocks, and splits embedding, final norm and head where the student
has its own.  The runner sets `plan` before a forward pass; without one (vLLM's dummy runs) every
row runs the largest size that is held.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from boomerang_core.errors import CheckpointError
from boomerang_core.memory_plan import Span, parts_of
from boomerang_core.route import Owner, StudentKind
from server.engine.architectures import engine_architecture
from server.engine.blocks import BlockRun, LayerCall, Run, State, build_block
from server.engine.compat import AutoWeightsLoader, LogitsComputer
from server.engine.compat import process_weights_after_loading as process_weights
from server.engine.held_weights import ENDS, HeldWeights, Place, place_of, places_of, read_tensors
from server.engine.loader import carried, design_of, student_shapes
from server.engine.lowrank import LowRankLayer, load_layers, within_layer
from server.engine.masks import Cuts, Graphed
from server.engine.merged_layers import MergedLayers
from server.engine.party import Parties, Party, student_config
from server.engine.plan import Ranks, Side, StepPlan, build_plan
from server.engine.segments import segments_of, trace

NamedTensors = Iterable[tuple[str, torch.Tensor]]


class BoomerangForCausalLM(nn.Module):
    """Teacher and student; the class that vLLM loads."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        self.config = vllm_config.model_config.hf_config
        self.quant_config = vllm_config.quant_config
        record = carried(self.config)
        self.compiled, self.compile_seconds = bool(record["compiled"]), 0.0
        self.design = design_of(self.config)
        self.ranks = Ranks.of(self.design)
        self.architecture = engine_architecture(record["architecture"])
        self.mapper = self.architecture.mapper()
        self.plan: StepPlan | None = None
        self.graph: Graphed | None = None
        self._vllm_config = vllm_config
        self._folders = {
            Owner.TEACHER: Path(vllm_config.model_config.model),
            Owner.STUDENT: Path(record["student"]),
        }
        shapes = student_shapes(self._folders[Owner.STUDENT])
        self._merged_layers = (
            MergedLayers(self._folders, self.design.block_map, self.architecture, shapes)
            if record["merges_deltas"]
            else None
        )
        self._tied = {
            Owner.TEACHER: bool(self.config.tie_word_embeddings),
            Owner.STUDENT: f"{self.architecture.names.head}.weight" not in shapes,
        }
        self._span = Span(*record["sizes"])
        self.held_weights = HeldWeights(self._places(self._span))
        self.teacher = self._teacher(vllm_config)
        if self.design.kind is StudentKind.FULL:
            self.student = self._full_student(vllm_config)
        else:
            self.student = self._lowrank_student(shapes)
        self.parties = Parties(self.teacher, self.student)
        self.logits_processor = LogitsComputer(
            self.config.vocab_size, scale=getattr(self.config, "logit_scale", 1.0)
        )
        self.blocks = self._blocks()
        self._eager: Mapping[int, Run] = dict(enumerate(self.blocks))
        self.runs: Mapping[int, Run] = self._eager
        self._segments = segments_of(self.blocks, self.ranks.blocks)
        self.attention_sides = tuple(self._attention_sides())
        self.held_weights.settle({Owner.TEACHER: self.teacher, Owner.STUDENT: self.student})

    @property
    def resident_bytes(self) -> int:
        """Bytes of the weights that are held, each tensor counted once."""
        return self.held_weights.nbytes

    @property
    def held(self) -> Span:
        """The sizes whose weights are held."""
        return self._span

    # ---- building ---------------------------------------------------------------------------

    def _teacher(self, vllm_config: Any) -> Party:
        count = self.design.block_map.num_teacher_layers
        make = self.architecture.make_layer
        layers = {
            index: self._layer(
                Owner.TEACHER, index, make(vllm_config, self.config, f"teacher.layers.{index}")
            )
            for index in range(count)
        }
        party = Party(layers)
        self._add_ends(party, Owner.TEACHER, self.config)
        return party

    def _layer(self, owner: Owner, index: int, layer: nn.Module) -> nn.Module:
        return self.held_weights.built((owner, f"layers.{index}"), layer)

    def _add_ends(self, party: Party, owner: Owner, config: Any) -> None:
        party.add_ends(self.architecture, config, self._tied[owner], owner.value)
        for name in ENDS:
            if hasattr(party, name):
                self.held_weights.built((owner, name), getattr(party, name))

    def _full_student(self, vllm_config: Any) -> Party:
        """One layer per block that is not shared.

        vLLM sorts attention layers by the one integer in their name, so the student's continue
        after the teacher's.
        """
        config = student_config(self.config, self.design)
        first = self.design.block_map.num_teacher_layers
        make = self.architecture.make_layer
        layers = {
            index: self._layer(
                Owner.STUDENT, index, make(vllm_config, config, f"student.layers.{first + index}")
            )
            for index, block in enumerate(self.design.block_map)
            if not block.shared
        }
        party = Party(layers)
        if self.design.own_embeddings:
            self._add_ends(party, Owner.STUDENT, config)
        return party

    def _lowrank_student(self, shapes: dict[str, tuple[int, ...]]) -> Party:
        by_block: dict[int, dict[str, tuple[int, ...]]] = {}
        for name, shape in shapes.items():
            index, rest = within_layer(self.architecture.local_name(name))
            by_block.setdefault(index, {})[rest] = shape
        stacked, teacher = self.mapper.orig_to_new_stacked, self.teacher.layers
        layers = {
            index: LowRankLayer(teacher[str(block.kept)], by_block.get(index, {}), stacked)
            for index, block in enumerate(self.design.block_map)
            if not block.shared
        }
        return Party({i: self._layer(Owner.STUDENT, i, layer) for i, layer in layers.items()})

    def _blocks(self) -> tuple[BlockRun, ...]:
        call = LayerCall(self.architecture.residual)
        teacher = list(self.teacher.layers.values())
        student = dict(self.student.layers.items())
        return tuple(
            build_block(block, call, teacher, student.get(str(index)))
            for index, block in enumerate(self.design.block_map)
        )

    # ---- for the runner ---------------------------------------------------------------------

    def _attention_sides(self) -> Iterator[tuple[str, int, Side]]:
        """(attention layer, its block, the rows it runs on) of the whole model."""
        for index, block in enumerate(self.blocks):
            for name, side in block.attention():
                yield name, index, side

    def kv_alias(self) -> dict[str, str]:
        """Student attention layer → teacher attention layer of the block, whose pages it uses."""
        return {ours: theirs for block in self.blocks for ours, theirs in block.kv_alias().items()}

    def prepare(self) -> None:
        """Compile what the held sizes run, where that was asked for; the weights are there."""
        if self.compiled:
            took = trace(self, self._segments.values(), self._span, self._vllm_config)
            self.compile_seconds += took
            self.runs = self._segments

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
        cuts = self._cuts(positions.shape[0])
        hidden: torch.Tensor = self.parties.run(
            cuts.embedding, (input_ids, positions), lambda party, parts: party.embed(*parts)
        )
        state: State = (hidden,)
        masked = self.graph is not None and self.graph.mixed  # no segment is compiled for a mask
        for block, run in (self._eager if masked else self.runs).items():
            state = run.run(positions, state, cuts.blocks[block])
        normed: torch.Tensor = self.parties.run(cuts.head, state, Party.final_norm)
        return normed

    def _cuts(self, total: int) -> Cuts:
        """Whose rows are whose, of a step of so many rows: by the graph, or by the plan."""
        if self.graph is not None:
            return self.graph.cuts(self.ranks, total)
        return Cuts.of(self.plan or build_plan(self.ranks, [self._span.largest], [total]), total)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Rows of hidden states, one per request → logits (rows, vocabulary)."""
        total = hidden_states.shape[0]
        plan = self.plan or build_plan(self.ranks, [self._span.largest], [total], [total])
        first = min(plan.head_rows, total)

        def logits(party: Party, parts: tuple[torch.Tensor, ...]) -> Any:
            return self.logits_processor(party.head, *parts)

        rows: torch.Tensor | None = self.parties.run(first, (hidden_states,), logits)
        return rows

    # ---- weights ----------------------------------------------------------------------------

    def load_weights(self, weights: NamedTensors) -> set[str]:
        """Load what is held of both checkpoints; returns the parameters that were filled.

        `weights`, vLLM's iterator over all of the teacher, is left alone: each of its steps reads
        a tensor, held or not.  Raises `CheckpointError` where the student's tensors do not fit
        the design.
        """
        return self._load(self.held_weights.held)

    def hold(self, span: Span) -> None:
        """Hold what those sizes need and no more, or raise and hold what was; then `prepare`."""
        wanted = self._places(span)
        self._read(wanted - self.held_weights.held)
        self.held_weights.release(self.held_weights.held - wanted)
        for segment in self._segments.values():
            segment.drop(span)
        self._span = span

    def _read(self, missing: frozenset[Place]) -> None:
        """Bring places back, all of them or none."""
        config = self._vllm_config
        try:
            if new := self.held_weights.fill(missing):
                self._require(new, self._load(frozenset(new)))
                modules = nn.ModuleList(new.values())
                process_weights(modules, config.model_config, config.device_config.device)
        except BaseException:
            self.held_weights.release(missing)
            raise

    def _require(self, places: Iterable[Place], loaded: set[str]) -> None:
        """vLLM's check at start, for those places: the checkpoint has every parameter."""
        for name, _ in self.named_parameters():
            owner, _, local = name.partition(".")
            if place_of(Owner(owner), local) in places and name not in loaded:
                raise CheckpointError(f"{self._folders[Owner(owner)]} no longer holds {local}")

    def _places(self, span: Span) -> frozenset[Place]:
        return places_of(parts_of(self.design, span), self._tied)

    def _load(self, places: frozenset[Place]) -> set[str]:
        """Read the tensors of those places into their parameters, whose names are returned."""
        loaded: set[str] = set()
        for owner in Owner:
            tensors = self._tensors(owner, places)
            if owner is Owner.STUDENT and self.design.kind is StudentKind.LOWRANK:
                names = (name for party, name in places if party is owner)
                load_layers({name: self.student.get_submodule(name) for name in names}, tensors)
                loaded |= {name for name, _ in self.student.named_parameters(owner.value)}
            else:
                whole = ((f"{owner.value}.{name}", value) for name, value in tensors)
                loaded |= AutoWeightsLoader(self).load_weights(whole, mapper=self.mapper)
        return loaded

    def _tensors(self, owner: Owner, places: frozenset[Place]) -> NamedTensors:
        """The tensors of an owner's places, by their names within the party."""
        local = self.architecture.local_name

        def wanted(name: str) -> bool:
            place = place_of(owner, local(name))
            if place[1] == "head" and self._tied[owner]:
                return False
            return place in places or not self.held_weights.knows(place)

        merged = self._merged_layers if owner is Owner.STUDENT else None
        read = merged.read(wanted) if merged else read_tensors(self._folders[owner], wanted)
        for full_name, value in read:
            name = local(full_name)
            yield name, value.t() if self.architecture.is_transposed(name) else value
