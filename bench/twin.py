"""A low-rank family made full: the same outputs from a student with weights of its own.

    python -m bench.twin FAMILY OUT

Every student layer becomes the kept teacher layer with its delta merged in, so that benchmarks can
compare both student kinds on one family.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from boomerang_core.architectures import architecture_of
from boomerang_core.checkpoint import load_teacher
from boomerang_core.cli import family_folder
from boomerang_core.errors import SettingsError
from boomerang_core.family import Family, load_family, write_family
from boomerang_core.route import StudentKind
from boomerang_core.student import Student, load_student, merge, save_student


def full_twin(family: Family, out: Path) -> Family:
    """Write the twin into `out` and read it back; `SettingsError` where the family is full."""
    if family.design.kind is not StudentKind.LOWRANK:
        raise SettingsError(f"{family.name} has a full student already")
    teacher, lowrank = load_teacher(family), load_student(family.student_dir)
    row = architecture_of(teacher.config)
    layers = teacher.get_submodule(row.layers)
    tensors = {
        row.layer_name(index, name): tensor
        for index, block in enumerate(lowrank.block_map)
        if not block.shared
        for name, tensor in merge(
            layers[block.kept].state_dict(), lowrank.layer(index), row
        ).items()
    }
    student = Student(lowrank.architecture, StudentKind.FULL, lowrank.block_map, False, tensors)
    save_student(student, out / "student")
    design = replace(family.design, kind=StudentKind.FULL)
    write_family(replace(family, design=design, student_params=student.num_params, root=out), out)
    return load_family(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    full_twin(load_family(family_folder(options.family)), options.out)


if __name__ == "__main__":
    main()
