"""Models and rows, loaded for a search.

Shapes: R rows, L tokens a row.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from boomerang_core.blocks import BlockMap
from boomerang_core.checkpoint import frozen_teacher, load_tokenizer
from boomerang_core.evaluate.ladder import Measured, evaluate_design
from boomerang_core.family import Family
from boomerang_core.ladder import Ladder
from boomerang_core.layer_runner import LayerRunner
from boomerang_core.route import route_of_set
from boomerang_core.route_runner import RouteRunner
from boomerang_core.search.ladders import Tools
from boomerang_core.search.layouts import Layout, LayoutChoice, replaced, search_layout
from boomerang_core.search.measure import Oracle, content_key, similarities
from boomerang_core.student import load_student
from boomerang_core.teacher_ref import TeacherRef
from boomerang_core.text.evaluation import Sample


class LadderSession:
    """A family's models, in float32, with what measures its ladders on a sample.

    What is measured is kept in a file of the folder `work`.  Raises `CheckpointError`, `DataError`.
    """

    def __init__(self, family: Family, sample: Sample, work: Path, device: torch.device) -> None:
        self._tokenizer = load_tokenizer(family)
        self._ids_RL = ids_RL = self.rows(sample)
        self._model = frozen_teacher(family, torch.float32, device)
        self._student = load_student(family.student_dir)
        self._design = design = family.design
        self._runner = RouteRunner.of(self._model, self._student, design, ids_RL.shape[1])
        models = dict(self._model.named_parameters()), self._student.tensors
        key = content_key(ids_RL, *models, blocks=design.block_map.to_json())
        whole = route_of_set(design, frozenset(range(len(design.block_map))))
        self.oracle = Oracle(self._runner, whole, ids_RL, work / f"ladders-{key}.json")

    def tools(self, limit: int) -> Tools:
        """What a search measures with; `limit` is for the shortest path."""
        return Tools(self.oracle.kl, self.similarity, limit)

    def similarity(self) -> list[float]:
        """How well each block's student layer stands for it."""
        assert self._runner.student is not None
        stands = list(zip(self._design.block_map, self._runner.student.layers, strict=True))
        return similarities(self._runner.teacher, stands, self._ids_RL)

    def rows(self, sample: Sample) -> torch.Tensor:
        """Another sample's token ids (R, L).  Raises `DataError`."""
        return sample.rows(self._tokenizer)

    def evaluate(self, ladder: Ladder, ids_RL: torch.Tensor) -> Measured:
        """Every size of another ladder, and naive pruning, on rows of tokens."""
        design = replace(self._design, ladder=ladder)
        return evaluate_design(self._model, self._student, design, ids_RL)


class LayoutSession:
    """A teacher, in float32, with what measures layouts on a sample.

    What is measured is kept in a file of the folder `work`.  Raises `CheckpointError`, `DataError`.
    """

    def __init__(self, ref: TeacherRef, sample: Sample, work: Path, device: torch.device) -> None:
        self._ids_RL = sample.rows(load_tokenizer(ref))
        model = frozen_teacher(ref, torch.float32, device)
        self._teacher = LayerRunner(model, self._ids_RL.shape[1])
        num_layers = len(self._teacher.layers)
        alone = BlockMap.from_kept_layers(range(num_layers), num_layers)
        key = content_key(self._ids_RL, dict(model.named_parameters()))
        self.oracle = Oracle(
            RouteRunner(self._teacher, None, alone),
            replaced([], num_layers),
            self._ids_RL,
            work / f"layouts-{key}.json",
        )

    def search(self, choice: LayoutChoice) -> Layout:
        """The layout of least total damage.  Raises `BlockMapError`."""
        return search_layout(self._teacher, self.oracle, self._ids_RL, choice)
