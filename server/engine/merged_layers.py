"""A low-rank student read as a full one: its deltas merged into the layers that it keeps."""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import torch

from boomerang_core.blocks import BlockMap
from boomerang_core.errors import CheckpointError
from boomerang_core.route import Owner
from boomerang_core.student import Tensors, merged_layer
from server.engine.architectures import EngineArchitecture
from server.engine.held_weights import read_tensors


class MergedLayers:
    """What a full student would have in its checkpoint, made from teacher and deltas when read."""

    def __init__(
        self,
        folders: Mapping[Owner, Path],
        block_map: BlockMap,
        architecture: EngineArchitecture,
        names: Collection[str],
    ) -> None:
        """`names`: the tensors that the student's checkpoint must have."""
        self._folders, self._block_map, self._architecture = folders, block_map, architecture
        self._names = frozenset(architecture.local_name(name) for name in names)

    def read(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, torch.Tensor]]:
        """The wanted layers' tensors by name, a layer at a time.

        In the dtype of the teacher's checkpoint, as `boomerang merge` and `export` write them.
        Raises `CheckpointError` where one that a layer is made from is missing.
        """
        names = self._architecture.names
        for index, block in enumerate(self._block_map):
            if block.shared or not wanted(names.layer_name(index, "")):
                continue
            own = self._layer(Owner.STUDENT, index)
            if gone := self._names_within(index) - own.keys():
                raise CheckpointError(f"the student no longer holds layers.{index}.{min(gone)}")
            kept = self._layer(Owner.TEACHER, block.kept)
            try:
                merged = merged_layer(kept, own, names)
            except KeyError as missing:
                raise CheckpointError(
                    f"the teacher no longer holds layers.{block.kept}.{missing.args[0]}"
                ) from missing
            for name, value in merged.items():
                yield names.layer_name(index, name), value

    def _layer(self, owner: Owner, index: int) -> Tensors:
        """A layer's tensors by their names within it."""
        local, prefix = self._architecture.local_name, f"layers.{index}."
        of_layer = read_tensors(self._folders[owner], lambda name: local(name).startswith(prefix))
        return {local(name).removeprefix(prefix): value for name, value in of_layer}

    def _names_within(self, index: int) -> frozenset[str]:
        prefix = f"layers.{index}."
        mine = (name for name in self._names if name.startswith(prefix))
        return frozenset(name.removeprefix(prefix) for name in mine)
