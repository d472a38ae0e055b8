"""Blocks: contiguous runs of teacher layers, one student layer each (arXiv 2510.05064, §2)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from boomerang_core.errors import BlockMapError


@dataclass(frozen=True)
class Block:
    """Teacher layers `start … stop-1`; the student layer starts as a copy of layer `kept`.

    A `shared` block has one layer, and the student uses the teacher's own.
    """

    start: int
    stop: int
    kept: int
    shared: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise BlockMapError(
                f"a block must have at least one layer, got {self.start}…{self.stop}"
            )
        if self.kept not in self.layers:
            raise BlockMapError(f"kept layer {self.kept} is not in block {list(self.layers)}")
        if self.shared and len(self) > 1:
            raise BlockMapError(f"only a one-layer block can be shared, got {list(self.layers)}")

    @property
    def layers(self) -> range:
        """The teacher layers of the block, in order."""
        return range(self.start, self.stop)

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class BlockMap:
    """The partition of a teacher's layers into blocks, first to last.

    Raises `BlockMapError` unless the blocks are contiguous and cover every layer.
    """

    num_teacher_layers: int
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        expected = 0
        for block in self.blocks:
            if block.start != expected:
                raise BlockMapError(f"expected a block to start at {expected}, got {block.start}")
            expected = block.stop
        if expected != self.num_teacher_layers:
            raise BlockMapError(
                f"the blocks cover {expected} layers, the teacher has {self.num_teacher_layers}"
            )

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks)

    def __getitem__(self, index: int) -> Block:
        return self.blocks[index]

    @classmethod
    def every_second_and_last(cls, num_layers: int) -> Self:
        """The paper's layout for Qwen3 and Pythia: keep 0, 2, 4, …, and the last layer."""
        kept = list(range(0, num_layers, 2))
        last = num_layers - 1
        return cls.from_kept_layers(kept if kept[-1:] == [last] else [*kept, last], num_layers)

    @classmethod
    def first_two_then_every_second(cls, num_layers: int) -> Self:
        """The paper's layout for Llama-3.2-3B: keep 0, 1, then 2, 4, 6, …"""
        kept = [0, *([1] if num_layers > 1 else []), *range(2, num_layers, 2)]
        return cls.from_kept_layers(kept, num_layers)

    @classmethod
    def from_kept_layers(cls, kept: Sequence[int], num_layers: int) -> Self:
        """Each student layer stands for its own layer up to the next kept one."""
        if not kept or list(kept) != sorted(set(kept)):
            raise BlockMapError(f"kept layers must be distinct and ascending, got {list(kept)}")
        if kept[0] != 0:
            raise BlockMapError(f"the first kept layer must be 0, got {kept[0]}")
        if kept[-1] >= num_layers:
            raise BlockMapError(f"kept layer {kept[-1]} is not in a teacher of {num_layers} layers")
        stops = [*kept[1:], num_layers]
        pairs = zip(kept, stops, strict=True)
        return cls(num_layers, tuple(Block(start, stop, start) for start, stop in pairs))

    @classmethod
    def from_student_config(cls, config: Mapping[str, Any], num_layers: int) -> Self:
        """Read the `student_config.json` of the paper's released students.

        `copied_teacher_layers` are the kept layers; `pruned_teacher_layers` must be the rest.
        """
        try:
            kept = sorted(int(layer) for layer in config["copied_teacher_layers"])
            rest = sorted(set(range(num_layers)) - set(kept))
            pruned = sorted(int(layer) for layer in config.get("pruned_teacher_layers", rest))
        except (KeyError, TypeError, ValueError) as error:
            raise BlockMapError(
                "student_config.json must list integers under 'copied_teacher_layers', and under "
                "'pruned_teacher_layers' where it has that"
            ) from error
        if pruned != rest:
            raise BlockMapError(
                f"copied and pruned layers do not add up to the teacher's {num_layers} layers"
            )
        return cls.from_kept_layers(kept, num_layers)

    @classmethod
    def from_layers(
        cls,
        layers: Sequence[Sequence[int]],
        kept: Sequence[int] | None = None,
        shared: Sequence[int] = (),
    ) -> Self:
        """An explicit list of blocks, each a list of teacher layers.

        `kept` names one layer a block (default: the first of each); `shared` lists the teacher
        layers that the student shares.
        """
        if not layers or any(not block for block in layers):
            raise BlockMapError("every block must list at least one layer")
        for block in layers:
            if list(block) != list(range(block[0], block[-1] + 1)):
                raise BlockMapError(
                    f"a block must be a contiguous run of layers, got {list(block)}"
                )
        chosen = [block[0] for block in layers] if kept is None else list(kept)
        if len(chosen) != len(layers):
            raise BlockMapError(f"{len(layers)} blocks need as many kept layers, got {len(chosen)}")
        if unknown := set(shared) - {block[0] for block in layers if len(block) == 1}:
            raise BlockMapError(f"shared layers {sorted(unknown)} are not one-layer blocks")
        blocks = tuple(
            Block(block[0], block[-1] + 1, layer, shared=len(block) == 1 and block[0] in shared)
            for block, layer in zip(layers, chosen, strict=True)
        )
        return cls(blocks[-1].stop, blocks)

    def to_json(self) -> list[dict[str, Any]]:
        """One object a block: its layers, the kept one, and whether it is shared."""
        return [
            {"layers": list(block.layers), "kept": block.kept, "shared": block.shared}
            for block in self.blocks
        ]

    @classmethod
    def from_json(cls, rows: Sequence[Mapping[str, Any]]) -> Self:
        """The inverse of `to_json`."""
        layers = [list(row["layers"]) for row in rows]
        # where a shared block has no layers, or several, `from_layers` says so
        shared = [layer for row in rows if row["shared"] for layer in row["layers"]]
        return cls.from_layers(layers, [row["kept"] for row in rows], shared)
