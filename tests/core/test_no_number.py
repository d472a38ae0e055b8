"""A size whose figures are no numbers is refused: they are not written as a family's quality."""

import pytest
import torch

from boomerang_core.errors import CheckpointError
from boomerang_core.evaluate.ladder import evaluate_design
from boomerang_core.route import StudentKind
from tests.core.conftest import ROW_LENGTH, VOCABULARY, tiny_design, tiny_student, tiny_teacher


@pytest.mark.parametrize("factor", [float("nan"), 1e30])
def test_a_size_that_computes_no_number_is_named(factor: float) -> None:
    teacher = tiny_teacher("llama", True)
    student = tiny_student(teacher, StudentKind.FULL)
    broken = student.with_tensors({name: t * factor for name, t in student.tensors.items()})
    ids_RL = torch.randint(0, VOCABULARY, (2, ROW_LENGTH))
    with pytest.raises(CheckpointError, match=r"the model .* has a KL of (nan|inf)"):
        evaluate_design(teacher, broken, tiny_design(StudentKind.FULL), ids_RL)


def test_a_perplexity_beyond_what_a_float_holds_is_no_number() -> None:
    teacher = tiny_teacher("llama", False)
    ids_RL = torch.randint(0, VOCABULARY, (2, ROW_LENGTH))
    student = tiny_student(teacher, StudentKind.LOWRANK)
    teacher.lm_head.weight.data *= 1e5
    with pytest.raises(CheckpointError, match="a perplexity of inf"):
        evaluate_design(teacher, student, tiny_design(StudentKind.LOWRANK), ids_RL)
