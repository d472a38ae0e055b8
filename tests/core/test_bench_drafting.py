"""What `bench.drafting` says of a draft, on distributions that can be reckoned by hand."""

import pytest
import torch

from bench.drafting import accepted, best, tokens_a_cycle

TEACHER = torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]]).log()
DRAFT = torch.tensor([[[0.2, 0.6, 0.2], [0.2, 0.1, 0.7]]]).log()


def test_sampled_tokens_are_accepted_by_what_the_distributions_share() -> None:
    torch.testing.assert_close(accepted(TEACHER, DRAFT, True), torch.tensor([[0.7, 0.9]]))
    torch.testing.assert_close(accepted(TEACHER, TEACHER, True), torch.ones(1, 2))


def test_greedy_tokens_are_accepted_where_they_agree() -> None:
    assert accepted(TEACHER, DRAFT, False).tolist() == [[0.0, 1.0]]


def test_a_cycle_has_the_tokens_before_the_first_refusal_and_one_more() -> None:
    places = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    assert tokens_a_cycle(places, 1) == pytest.approx(1 + 3 / 4)
    # drafts of two begin at three places and have 2, 1 and 0 tokens accepted
    assert tokens_a_cycle(places, 2) == pytest.approx(1 + 1)


@pytest.mark.parametrize(("cost", "draft", "gain"), [(0.0, 8, 9.0), (1.0, 1, 1.0)])
def test_the_longest_draft_is_best_where_drafting_is_free(
    cost: float, draft: int, gain: float
) -> None:
    """Every token is accepted: a free draft gains all of them, one as dear as the teacher none."""
    found = best(torch.ones(1, 32), cost)
    assert (found["draft"], found["gain"]) == (draft, gain)
