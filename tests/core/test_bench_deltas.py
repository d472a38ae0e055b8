"""What `bench.deltas` leaves out and cuts down is what it says."""

import torch

from bench.deltas import cut_down, shares, without
from boomerang_core.family import load_family
from boomerang_core.lowrank import A, B
from boomerang_core.student import load_student
from tests.docs.test_readme import FAMILY

STUDENT = load_student(load_family(FAMILY).student_dir)
DOWN, UP = "mlp.down_proj", "mlp.up_proj"


def named(part: str) -> list[str]:
    return [name for name in STUDENT.tensors if name.endswith(B) and f".{part}." in name]


def test_only_the_deltas_of_that_map_or_module_go() -> None:
    for part, gone, kept in ((UP, UP, DOWN), ("mlp", DOWN, "self_attn.q_proj")):
        left = without(STUDENT, part).tensors
        assert named(gone)
        assert not any(left[name].any() for name in named(gone))
        assert all(torch.equal(left[name], STUDENT.tensors[name]) for name in named(kept))


def test_a_lower_rank_is_the_best_of_that_rank() -> None:
    stem = named(DOWN)[0].removesuffix(B)
    whole, cut = (
        each.tensors[stem + B].float() @ each.tensors[stem + A].float()
        for each in (STUDENT, cut_down(STUDENT, 8))
    )
    values = torch.linalg.svdvals(whole)
    assert torch.linalg.matrix_rank(cut, rtol=1e-4) == 8
    torch.testing.assert_close((whole - cut).norm(), values[8:].norm(), rtol=1e-3, atol=0)


def test_shares_are_of_both_factors() -> None:
    both = sum(t.numel() for n, t in STUDENT.tensors.items() if f".{UP}." in n)
    assert shares(STUDENT, 10 * both)[UP] == 0.1
