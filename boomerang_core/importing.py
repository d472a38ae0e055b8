"""A teacher and a student that exist already, as a family folder; nothing is trained.

The paper's students (arXiv 2510.05064) say in `student_config.json` which teacher layers they keep.
Of others, `kept` or `layout` says so: DistilGPT2 started from GPT-2's layers 0, 2, 4, 7, 9 and 11
(transformers' distillation example, `scripts/extract.py`), the layers at which the reference code
patches DistilBERT too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from boomerang_core.architectures import architecture_of, model_shape
from boomerang_core.blocks import BlockMap
from boomerang_core.checkpoint import (
    STUDENT_CONFIG,
    as_one_error,
    load_config,
    load_teacher,
    pinned,
    teacher_folder,
)
from boomerang_core.choices import parse_ladder, parse_layout
from boomerang_core.contents import STUDENT, sha256_of
from boomerang_core.errors import BlockMapError, CheckpointError, SettingsError
from boomerang_core.family import Family, build_rows, load_family, write_family
from boomerang_core.folders import require_unused, write_folder
from boomerang_core.footprint import FOOTPRINT_TOKENS
from boomerang_core.matching import (
    check_logits,
    check_origins,
    check_settings,
    check_tokenizers,
    origins,
    stored_dtype,
    suggestion,
)
from boomerang_core.provenance import provenance
from boomerang_core.route import FamilyDesign, StudentKind, build_route
from boomerang_core.sizes import FAMILY_NAME, is_family_name
from boomerang_core.student import Student, save_student, student_from_model
from boomerang_core.teacher_ref import TeacherRef


@dataclass(frozen=True)
class Pair:
    """What to import.

    `ladder` is `last-to-first`, `first-to-last` or JSON steps.  `layout` (a name, or JSON blocks)
    and `kept` (a teacher layer for each student layer) are for students without
    `student_config.json`; from `kept` alone, each block runs up to the next kept layer.
    """

    teacher: TeacherRef
    student: TeacherRef
    ladder: str = "last-to-first"
    layout: str | None = None
    kept: tuple[int, ...] | None = None


def import_pair(
    pair: Pair,
    out: Path,
    name: str | None = None,
    measure: Callable[[Family], object] | None = None,
) -> Family:
    """Write the family folder of a pair that fits, whole or not at all.

    The student keeps its stored dtype and its own embedding, final norm and head.  A hub id is
    pinned to the commit that was read.  `name` None is the folder's.  Every size is offered;
    `measure` changes that, where it is given, in the family's folder before it becomes `out`.
    Raises `CheckpointError`, `ArchitectureError`, `BlockMapError`, `LadderError`, `SettingsError`,
    `SizeError` or `WriteError`, and then leaves no folder.
    """
    require_unused(out)
    name = name or out.absolute().name
    if not is_family_name(name):
        raise SettingsError(f"a family's name must be {FAMILY_NAME}, got {name!r}: give --name")

    def fill(folder: Path) -> None:
        _write(pair, name, folder)
        if measure is not None:
            measure(load_family(folder))

    write_folder(out, fill)
    return load_family(out)


def _write(pair: Pair, name: str, folder: Path) -> None:
    """Check the pair and write its family; both models are gone when this returns."""
    teacher_dir, student_dir = teacher_folder(pair.teacher), teacher_folder(pair.student)
    block_map = _block_map(pair, load_config(teacher_dir), teacher_dir, student_dir)
    ladder = parse_ladder(pair.ladder, block_map)
    design = FamilyDesign(block_map, ladder, StudentKind.FULL, own_embeddings=True)
    loaded = _load_fitting(teacher_dir, student_dir, block_map)
    shape = model_shape(loaded.teacher)
    family = Family(
        name=name,
        architecture=loaded.student.architecture,
        design=design,
        shape=shape,
        teacher=pinned(pair.teacher, teacher_dir),
        rows=build_rows(design, shape),
        student_params=loaded.student.num_params,
        footprint_tokens=FOOTPRINT_TOKENS,
        default_size=ladder.teacher_size,
        provenance=provenance(0, imported=_source(pair.student, student_dir)),
    )

    save_student(loaded.student, folder / STUDENT)  # as stored: what is next converts it
    check_logits(loaded.teacher, loaded.student, build_route(design, 0), loaded.checkpoint)
    write_family(family, folder)


@dataclass(frozen=True, eq=False)
class _Loaded:
    """Both models, and the student as tensors that the second one shares."""

    teacher: Any
    checkpoint: Any
    student: Student


def _load_fitting(teacher_dir: Path, student_dir: Path, block_map: BlockMap) -> _Loaded:
    """Check what takes no weights to check, then load them, in their stored dtypes."""
    teacher_config = load_config(teacher_dir)
    kept = [block.kept for block in block_map]
    student_config = _student_config(student_dir, teacher_config, kept)
    check_settings(teacher_config, student_config, kept)
    check_origins(origins(teacher_dir, student_dir, architecture_of(teacher_config)), block_map)
    check_tokenizers(teacher_dir, student_dir, student_config)
    teacher = load_teacher(teacher_dir)
    model = load_teacher(student_dir, stored_dtype(student_dir), student_config)
    _check_tied(model)
    return _Loaded(teacher, model, student_from_model(model, teacher, block_map))


def _block_map(pair: Pair, teacher_config: Any, teacher_dir: Path, student_dir: Path) -> BlockMap:
    """What the student, or the user, says about the layers that it keeps."""
    row = architecture_of(teacher_config)
    num_layers = getattr(teacher_config, row.num_layers)
    told = _told(pair, num_layers)
    beside = Path(pair.student.location) if pair.student.kind == "folder" else student_dir
    path = beside / STUDENT_CONFIG
    if path.is_file():
        released = _released(path, num_layers)
        if told not in (None, released):
            raise BlockMapError(f"--kept or --layout contradicts {path}; leave it out")
        return released
    if told is None:
        raise BlockMapError(
            f"which of the teacher's {num_layers} layers {student_dir} keeps is not known, as it "
            f"has no {STUDENT_CONFIG}; {suggestion(origins(teacher_dir, student_dir, row))}"
        )
    return told


def _told(pair: Pair, num_layers: int) -> BlockMap | None:
    if pair.layout is None:
        return None if pair.kept is None else BlockMap.from_kept_layers(pair.kept, num_layers)
    blocks = parse_layout(pair.layout, num_layers)
    return BlockMap.from_layers([list(block.layers) for block in blocks], pair.kept)


def _released(path: Path, num_layers: int) -> BlockMap:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} must be a JSON object, with 'copied_teacher_layers'")
    try:
        return BlockMap.from_student_config(record, num_layers)
    except BlockMapError as error:
        raise BlockMapError(f"{path}: {error}") from error


def _student_config(folder: Path, teacher_config: Any, kept: Sequence[int]) -> Any:
    """The student's transformers config; it must have the teacher's architecture and `kept` layers.

    The paper's code changes the number of layers alone, and leaves lists with an entry for each
    (`layer_types`) as long as the teacher's, which transformers refuses: they are cut here.
    """
    from transformers import PreTrainedConfig

    row = architecture_of(teacher_config)
    with as_one_error(folder):
        values, _ = PreTrainedConfig.get_config_dict(folder, local_files_only=True)
        found = architecture_of(SimpleNamespace(**values)).name
        if found != row.name:
            raise CheckpointError(
                f"the student is a {found}, the teacher a {row.name}; both must be the same"
            )
        depth = values.get(row.num_layers)
        if depth != len(kept):
            raise BlockMapError(
                f"{folder} has {depth} layers, the block map {len(kept)} blocks, which keep "
                f"the teacher's layers {', '.join(map(str, kept))}"
            )
        whole = getattr(teacher_config, row.num_layers)
        for name in row.per_layer:
            if len(values.get(name) or ()) == whole:
                values[name] = [values[name][layer] for layer in kept]
        return type(teacher_config).from_dict(values)


def _check_tied(model: Any) -> None:
    """Raise `CheckpointError` where a tied model's file has a head of its own."""
    row = architecture_of(model.config)
    head, embedding = (model.get_submodule(path).weight for path in (row.head, row.embedding))
    if model.config.tie_word_embeddings and head is not embedding:
        raise CheckpointError(
            "the student's config.json says tie_word_embeddings, but its head and its embedding "
            "are different matrices"
        )


def _source(ref: TeacherRef, folder: Path) -> dict[str, Any]:
    """Where the student comes from, for provenance; a folder goes by its name and its files."""
    if ref.kind == "hub":
        return {"student": ref.location, "revision": folder.name}
    paths = [*folder.glob("*.safetensors"), *folder.glob("*config.json")]
    sha256 = {path.name: sha256_of(path) for path in sorted(paths)}
    return {"student": ref.file or Path(ref.location).name, "sha256": sha256}
