"""The family folder: the one thing that the offline and the online lane share.

    family.json   format, architecture, block map, ladder, sizes, provenance, sha256 of every file
    student/      the student's tensors
    report/       what was measured
    teacher/      the teacher's checkpoint, in a family that was packed

A folder that has a `family.json` is whole: a new one gets it last, and what changes in one
changes at once (`saving.py`).  Reading verifies.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from boomerang_core.blocks import BlockMap
from boomerang_core.contents import (
    INDEX,
    NAIVE,
    NEXT,
    REPORT,
    STUDENT,
    finish_save,
    list_files,
    sha256_of,
    verify_files,
)
from boomerang_core.errors import BoomerangError, FamilyError, SettingsError
from boomerang_core.files import write_text
from boomerang_core.footprint import ModelShape, kv_bytes_per_token, route_params
from boomerang_core.ladder import Ladder
from boomerang_core.route import FamilyDesign, StudentKind, ladder_routes
from boomerang_core.sizes import (
    FAMILY_NAME,
    Quality,
    SizeRow,
    SizeTable,
    is_family_name,
    unique_ids,
)
from boomerang_core.teacher_ref import TeacherRef

FORMAT = 1
PACKED_TEACHER = "packed_teacher"
"""In the provenance: which teacher the folder carries."""


@dataclass(frozen=True)
class Family:
    """A teacher, its student, and every size in between."""

    name: str
    architecture: str
    design: FamilyDesign
    shape: ModelShape
    teacher: TeacherRef
    rows: tuple[SizeRow, ...]
    student_params: int
    footprint_tokens: int
    default_size: int
    provenance: Mapping[str, Any] = field(default_factory=dict)
    root: Path = Path()
    merges_deltas: bool = False
    """Whether they become weights as they are read (`merged_when_read`); never in a folder."""

    def __post_init__(self) -> None:
        if not is_family_name(self.name):
            raise FamilyError(f"a family's name must be {FAMILY_NAME}, got {self.name!r}")
        if len(self.rows) != self.design.ladder.num_sizes:
            raise FamilyError(
                f"the ladder has {self.design.ladder.num_sizes} sizes, the table {len(self.rows)}"
            )
        if not 0 <= self.default_size < len(self.rows) or not self.rows[self.default_size].offered:
            raise FamilyError(f"the default size {self.default_size} is not an offered size")

    @property
    def table(self) -> SizeTable:
        """The sizes, smallest first."""
        return SizeTable(self.name, self.rows)

    @property
    def student_dir(self) -> Path:
        """Where the student's tensors lie."""
        return self.root / STUDENT

    @property
    def report_dir(self) -> Path:
        """Where the reports of its measurements lie."""
        return self.root / REPORT

    @property
    def teacher_name(self) -> str:
        """What the teacher is called; of a packed one, what it was called before."""
        return str(self.provenance.get(PACKED_TEACHER, self.teacher.name))

    @property
    def seed(self) -> int:
        """The seed that it was made with."""
        return int(self.provenance.get("seed", 0))

    def served_in(self, bytes_per_param: int) -> "Family":
        """The family with footprints as they are when every number takes `bytes_per_param`."""
        shape = replace(self.shape, bytes_per_param=bytes_per_param)
        rows = tuple(
            replace(
                row,
                weight_bytes=row.params * bytes_per_param,
                kv_bytes_per_token=kv_bytes_per_token(shape, row.layers),
            )
            for row in self.rows
        )
        return replace(self, shape=shape, rows=rows)

    def require_deltas(self) -> None:
        """Raise `SettingsError` where the student is full: there is no delta to merge."""
        if self.design.kind is StudentKind.FULL:
            raise SettingsError(f"{self.name} has a full student already: nothing to merge")

    def merged_when_read(self) -> "Family":
        """The family as it is served with its deltas merged: in memory its student is full.

        The folder stays as it is.  Raises `SettingsError` where the student is full already.
        """
        self.require_deltas()
        own = sum(not block.shared for block in self.design.block_map)
        return replace(
            self,
            design=replace(self.design, kind=StudentKind.FULL),
            student_params=own * self.shape.layer_params,
            merges_deltas=True,
        )


def build_rows(
    design: FamilyDesign,
    shape: ModelShape,
    quality: Mapping[int, Quality] | None = None,
    offered: frozenset[int] | None = None,
) -> tuple[SizeRow, ...]:
    """The table of a ladder, computed from shapes; `offered` defaults to every size."""
    routes = ladder_routes(design)
    params = [route_params(shape, route) for route in routes]
    return tuple(
        SizeRow(
            size=size,
            id=name,
            layers=len(route.layers),
            params=count,
            weight_bytes=count * shape.bytes_per_param,
            kv_bytes_per_token=kv_bytes_per_token(shape, len(route.layers)),
            offered=offered is None or size in offered,
            quality=(quality or {}).get(size),
        )
        for size, (route, count, name) in enumerate(
            zip(routes, params, unique_ids(params), strict=True)
        )
    )


def write_family(family: Family, folder: Path) -> None:
    """Write `family.json` over the files that lie in a new `folder`, with their sha256."""
    files = list_files(folder, {})
    if not any(name.startswith(f"{STUDENT}/") for name in files):
        raise FamilyError(f"{folder} holds no student to write a family for")
    write_text(folder / INDEX, index_text(family, files))


def index_text(family: Family, files: Mapping[str, str]) -> str:
    """What `family.json` holds; `files` are name → sha256."""
    design = family.design
    record = {
        "format": FORMAT,
        "name": family.name,
        "architecture": family.architecture,
        "student_kind": design.kind.value,
        "own_embeddings": design.own_embeddings,
        "blocks": design.block_map.to_json(),
        "ladder": design.ladder.to_json(),
        "shape": asdict(family.shape),
        "teacher": asdict(family.teacher),
        "student_params": family.student_params,
        "footprint_tokens": family.footprint_tokens,
        "default_size": family.default_size,
        "sizes": [asdict(row) for row in family.rows],
        "provenance": dict(family.provenance),
        "sha256": dict(sorted(files.items())),
    }
    return json.dumps(record, indent=1) + "\n"


def load_family(folder: Path) -> Family:
    """Read and verify a family folder; of a teacher inside, all but the weights, for their size.

    Raises `FamilyError`, naming the file, where one is missing, has another sha256, or is not
    listed, and where `family.json` is not of this format.
    """
    return _load(folder, teacher_weights=False)


def verify_family(folder: Path) -> Family:
    """`load_family`, with the sha256 of the teacher's weights, which takes seconds a gigabyte."""
    return _load(folder, teacher_weights=True)


def _load(folder: Path, teacher_weights: bool, attempts: int = 3) -> Family:
    finish_save(folder)
    record = _read_index(folder)
    try:
        verify_files(folder, record.get("sha256"), teacher_weights)
    except FamilyError:
        saved = (folder / NEXT).exists() or _read_index(folder) != record  # while it was read
        if saved and attempts > 1:
            return _load(folder, teacher_weights, attempts - 1)
        raise
    try:
        family = _parse(record, folder)
        expected = build_rows(family.design, family.shape)
        _ = family.table  # checked here, rather than where it is first used
    except BoomerangError as error:
        raise FamilyError(f"{folder / INDEX}: {error}") from error
    except (LookupError, TypeError, ValueError, AssertionError, AttributeError) as error:
        raise FamilyError(f"{folder / INDEX} is malformed at {error!r}") from error
    for row, computed in zip(family.rows, expected, strict=True):
        if replace(row, id=computed.id, offered=True, quality=None) != computed:
            raise FamilyError(f"{folder / INDEX}: size {row.size} does not match the ladder")
    return family


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FamilyError(f"{folder} is not a family folder: it has no {INDEX}") from error
    except (OSError, ValueError) as error:
        raise FamilyError(f"{path} cannot be read: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise FamilyError(f"{path} must have format {FORMAT}")
    return record


def _parse(record: Mapping[str, Any], folder: Path) -> Family:
    design = FamilyDesign(
        BlockMap.from_json(record["blocks"]),
        Ladder.from_json(record["ladder"]),
        StudentKind(record["student_kind"]),
        bool(record["own_embeddings"]),
    )
    return Family(
        name=str(record["name"]),
        architecture=str(record["architecture"]),
        design=design,
        shape=ModelShape(**record["shape"]),
        teacher=TeacherRef(**record["teacher"]),
        rows=tuple(_parse_row(row) for row in record["sizes"]),
        student_params=int(record["student_params"]),
        footprint_tokens=int(record["footprint_tokens"]),
        default_size=int(record["default_size"]),
        provenance=dict(record["provenance"]),
        root=folder,
    )


def _parse_row(row: Mapping[str, Any]) -> SizeRow:
    quality = row["quality"]
    return SizeRow(**{**row, "quality": None if quality is None else Quality(**quality)})


def family_source(family: Family) -> dict[str, Any]:
    """What decides the numbers of a family's ladder: its student's weights, blocks and ladder."""
    design = family.design
    return {
        "family": family.name,
        "student": sha256_of(family.student_dir / "model.safetensors"),
        "blocks": design.block_map.to_json(),
        "ladder": design.ladder.to_json(),
    }


def naive_quality(family: Family) -> tuple[Quality | None, ...]:
    """Naive pruning's quality by size: the same layers, not distilled; None where not measured.

    Raises `FamilyError` where the record is not one of this family's sizes.
    """
    record = family.report_dir / NAIVE
    if not record.exists():
        return (None,) * len(family.rows)
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        layers = [row.pop("layers") for row in found]
        if layers != [row.layers for row in family.rows]:
            raise ValueError(f"sizes of {layers} layers")
        return tuple(Quality(**row) for row in found)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise FamilyError(
            f"{record} does not list the sizes of {family.name}: {error!r}"
        ) from error
