"""The two parties of a routed model, teacher and student: layers and ends that may be missing."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from boomerang_core.route import FamilyDesign
from server.engine.architectures import EngineArchitecture
from server.engine.blocks import Cut, State, copied, pick
from server.engine.compat import ParallelLMHead, VocabParallelEmbedding


class Party(nn.Module):
    """The weights of one owner: layers by index and, where it has its own, the two ends."""

    def __init__(self, layers: dict[int, nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(index): layer for index, layer in layers.items()})
        self.tied = False

    def add_ends(
        self, architecture: EngineArchitecture, config: Any, tied: bool, prefix: str
    ) -> None:
        """Give the party an embedding, a final norm and a head; `tied`: head = embedding."""
        self.tied = tied
        self.embedding = VocabParallelEmbedding(config.vocab_size, config.hidden_size)
        if architecture.names.positions:
            self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.norm = architecture.make_norm(config)
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


def student_config(config: Any, design: FamilyDesign) -> Any:
    """The config for student layers: their indices continue after the teacher's, and so do the
    per-layer attention types, each that of the block's kept layer."""
    types = getattr(config, "layer_types", None)
    if not types:
        return config
    extended = copy.copy(config)
    extended.layer_types = [*types, *(types[block.kept] for block in design.block_map)]
    return extended


@dataclass(frozen=True)
class Parties:
    """Both parties, for what each does to its own rows."""

    teacher: Party
    student: Party

    def run(self, cut: Cut, parts: State, apply: Callable[[Party, State], Any]) -> Any:
        """Apply to the teacher's rows and to the student's, and put the results together.

        None stays None: vLLM returns no logits on tensor-parallel ranks that do not sample.
        """
        if isinstance(cut, torch.Tensor):
            ours, theirs = apply(self.teacher, copied(parts)), apply(self.student, parts)
            return pick(cut, (ours,), (theirs,))[0]
        if cut >= parts[0].shape[0]:
            return apply(self.teacher, parts)
        if cut == 0:
            return apply(self.student, parts)
        upper = apply(self.teacher, tuple(part[:cut] for part in parts))
        lower = apply(self.student, tuple(part[cut:] for part in parts))
        return None if upper is None else torch.cat([upper, lower])
