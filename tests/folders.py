"""Family folders for the tests, around a student that lies there already; no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boomerang_core.family import Family, build_rows, load_family, write_family
from boomerang_core.footprint import ModelShape
from boomerang_core.route import FamilyDesign
from boomerang_core.sizes import Quality
from boomerang_core.teacher_ref import TeacherRef


def write_tiny(
    folder: Path,
    design: FamilyDesign,
    shape: ModelShape,
    teacher: Path | str = "teacher",
    quality: Mapping[int, Quality] | None = None,
    offered: frozenset[int] | None = None,
    **fields: Any,
) -> Family:
    """A family folder, written and read back; `fields` are those of `Family`."""
    rows = build_rows(design, shape, quality, offered)
    defaults = {
        "name": "tiny",
        "architecture": "LlamaForCausalLM",
        "teacher": TeacherRef("folder", str(teacher)),
        "student_params": 1,
        "footprint_tokens": 256,
        "default_size": len(rows) - 1,
    }
    write_family(Family(design=design, shape=shape, rows=rows, **(defaults | fields)), folder)
    return load_family(folder)
