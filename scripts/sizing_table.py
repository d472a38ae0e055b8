"""Print the sizing table of docs/operations.md: memory × family → largest size, room for requests.

Computed from shapes by the footprint code; nothing is measured.  What is resident for a top size
is at most its own weights and the student's; what is left over, less what the process takes, is KV
cache.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from boomerang_core.blocks import BlockMap
from boomerang_core.family import build_rows, load_family
from boomerang_core.footprint import ModelShape
from boomerang_core.ladder import Ladder
from boomerang_core.route import FamilyDesign, StudentKind
from boomerang_core.sizes import SizeRow, format_bytes
from server.memory import cgroup, device

REQUEST_TOKENS = 4096
LEAST_REQUESTS = 4
RANK = 64
SHIPPED = Path(__file__).parents[1] / "boomerang_core" / "families" / "smollm2-135m"


@dataclass(frozen=True)
class Dense:
    """The published shape of a Qwen3 model."""

    name: str
    layers: int
    hidden: int
    heads: int
    intermediate: int
    tied: bool
    kv_heads: int = 8
    head_dim: int = 128
    vocabulary: int = 151_936

    @property
    def maps(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of a layer's linear maps: q, k, v, o, gate, up, down."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = [(self.hidden, query), *[(self.hidden, key)] * 2, (query, self.hidden)]
        mlp = [(self.hidden, self.intermediate)] * 2 + [(self.intermediate, self.hidden)]
        return attention + mlp

    @property
    def norms(self) -> int:
        """Parameters of a layer's norms."""
        return 2 * self.hidden + 2 * self.head_dim

    @property
    def shape(self) -> ModelShape:
        """What the footprint code takes."""
        return ModelShape(
            num_layers=self.layers,
            hidden_size=self.hidden,
            num_kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            layer_params=sum(inputs * outputs for inputs, outputs in self.maps) + self.norms,
            embedding_params=self.vocabulary * self.hidden,
            head_params=self.vocabulary * self.hidden,
            norm_params=self.hidden,
            tied=self.tied,
        )


@dataclass(frozen=True)
class Sizes:
    """A family's table and its student's parameters."""

    name: str
    rows: tuple[SizeRow, ...]
    student_params: int
    bytes_per_param: int
    reserve: int

    def largest(self, memory: int) -> tuple[SizeRow, int, int] | None:
        """(size, resident bytes, tokens of KV cache) of the largest size with room to work in."""
        for row in reversed([row for row in self.rows if row.offered]):
            resident = row.weight_bytes + self.student_params * self.bytes_per_param
            tokens = (memory - self.reserve - resident) // row.kv_bytes_per_token
            if tokens >= LEAST_REQUESTS * REQUEST_TOKENS:
                return row, resident, tokens
        return None


def shipped() -> Sizes:
    """The family in this repository in float32, as a CPU serves it."""
    family = load_family(SHIPPED)
    rows = build_rows(
        family.design,
        replace(family.shape, bytes_per_param=4),
        offered=frozenset(row.size for row in family.table.offered),
    )
    return Sizes(f"{family.name}, float32", rows, family.student_params, 4, cgroup.PROCESS_BYTES)


def lowrank(dense: Dense) -> Sizes:
    """A low-rank student of the paper's layout: deltas on every map of every student layer."""
    blocks = BlockMap.every_second_and_last(dense.layers)
    design = FamilyDesign(blocks, Ladder.last_to_first(blocks), StudentKind.LOWRANK, False)
    deltas = sum(RANK * (inputs + outputs) for inputs, outputs in dense.maps) + dense.norms
    return Sizes(
        dense.name, build_rows(design, dense.shape), len(blocks) * deltas, 2, device.PROCESS_BYTES
    )


FAMILIES = (
    (shipped(), (3.5, 4, 6)),
    (lowrank(Dense("Qwen3-4B", 36, 2560, 32, 9728, tied=True)), (9.5, 12, 19.5, 40, 80)),
    (lowrank(Dense("Qwen3-8B", 36, 4096, 32, 12_288, tied=False)), (9.5, 12, 19.5, 40, 80)),
    (lowrank(Dense("Qwen3-32B", 64, 5120, 64, 25_600, tied=False)), (40, 80, 160, 320)),
)


def table() -> str:
    """One row for each family and memory, in Markdown."""
    lines = [
        "| memory | family | student → teacher | largest size | resident | KV cache, tokens |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for family, memories in FAMILIES:
        span = f"{family.rows[0].id} → {family.rows[-1].id}"
        for memory in memories:
            found = family.largest(int(memory * 2**30))
            cells = ["none", "", ""]
            if found is not None:
                row, resident, tokens = found
                cells = [f"`{row.id}` ({row.layers} layers)", format_bytes(resident), f"{tokens:,}"]
            lines.append("| " + " | ".join([f"{memory:g} GiB", family.name, span, *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
