"""A low-rank student read as a full one: its deltas merged into the layers that it keeps."""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import torch

from boomerang_core.blocks import BlockMap
from boomerang_core.errors import CheckpointError
from boomerang_core.lowrank import A, B, dense_weights
from boomerang_core.route import Owner
from boomerang_core.student import Tensors
from server.engine.architectures import EngineArchitecture
from server.engine.held_weights import read_tensors


class MergedLayers:
    """What a full student would have in its checkpoint, made from teacher and deltas when read.

    A map at a time: beside it in the stored format there are two copies in float32.
    """

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
        """The wanted layers' tensors by name; merged weights in float32, for vLLM to round once.

        Raises `CheckpointError` where one that a layer is made from is missing.
        """
        layer_name = self._architecture.names.layer_name
        for index, block in enumerate(self._block_map):
            if not block.shared and wanted(layer_name(index, "")):
                for name, value in self._merged(index, block.kept):
                    yield layer_name(index, name), value

    def _merged(self, index: int, kept: int) -> Iterator[tuple[str, torch.Tensor]]:
        """A layer's tensors by their names within it."""
        own: Tensors = dict(self._layer(Owner.STUDENT, index))
        if gone := self._names_within(index) - own.keys():
            raise CheckpointError(f"the student no longer holds layers.{index}.{min(gone)}")
        missing = {f"{name.removesuffix(A)}.weight" for name in own if name.endswith(A)}
        for name, value in self._layer(Owner.TEACHER, kept):
            missing -= {name}
            yield name, self._changed(name, value, own)
        if missing:
            raise CheckpointError(f"the teacher no longer holds layers.{kept}.{min(missing)}")

    def _changed(self, name: str, kept: torch.Tensor, own: Tensors) -> torch.Tensor:
        """The student's tensor in the place of the kept layer's: W + B A, her own, or the same."""
        stem = name.removesuffix(".weight")
        if stem + A not in own:
            return own.get(name, kept)
        deltas = {stem + matrix: own[stem + matrix].float() for matrix in (A, B)}
        return dense_weights({name: kept.float()}, deltas, self._architecture.names.conv1d)[name]

    def _layer(self, owner: Owner, index: int) -> Iterator[tuple[str, torch.Tensor]]:
        local, prefix = self._architecture.local_name, f"layers.{index}."
        for name, value in read_tensors(
            self._folders[owner], lambda name: local(name).startswith(prefix)
        ):
            yield local(name).removeprefix(prefix), value

    def _names_within(self, index: int) -> frozenset[str]:
        prefix = f"layers.{index}."
        mine = (name for name in self._names if name.startswith(prefix))
        return frozenset(name.removeprefix(prefix) for name in mine)
