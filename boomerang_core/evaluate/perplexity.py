"""KL to the teacher, top-1 agreement and perplexity of every size, on held-out text.

Shapes: R rows, L tokens a row, D hidden, T scored tokens, V vocabulary.

Every size is a route, so every size is measured by the same code: the student, the teacher, all
between, and naive pruning (the same routes with each student layer replaced by the teacher layer
that it started from).  Sizes of a ladder share most of their first or last layers; the hidden
states of a shared beginning are computed once.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from boomerang_core.blocks import BlockMap
from boomerang_core.distill.data import read_text
from boomerang_core.distill.rows import begin_token, cut_rows
from boomerang_core.distill.sources import is_plain, plain_text, shown
from boomerang_core.distill.stream import LayerRunner, batches
from boomerang_core.errors import DataError
from boomerang_core.route import LayerRef, Owner, Route
from boomerang_core.sizes import Quality

_SPARE = 256
"""Tokens at the end of a part of a text that its other part might change."""

_JOINTS = re.compile(r" @(.)@ ")
_BEFORE = re.compile(r" ([,.;:!?%)\]]|'s\b|'t\b|'re\b|'ve\b|'ll\b|'d\b|n't\b)")
_AFTER = re.compile(r"([(\[$£]) ")
_QUOTED = re.compile(r'" ([^"]*) "')
_SENTENCE_END = re.compile(r"(?<= \.) ")


def detokenise(text: str) -> str:
    """Plain prose from WikiText's word-level form; other text passes through all but unchanged.

    Sentences with ``<unk>`` and headings are dropped, ``@-@`` marks joined, and the spaces
    before punctuation closed.
    """
    paragraphs = [_paragraph(line) for line in text.splitlines() if not line.startswith(" =")]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def _paragraph(line: str) -> str:
    sentences = [part for part in _SENTENCE_END.split(line.strip()) if "<unk>" not in part]
    joined = _JOINTS.sub(r"\1", " ".join(sentences))
    return _AFTER.sub(r"\1", _BEFORE.sub(r"\1", _QUOTED.sub(r'"\1"', joined)))


def evaluation_rows(path: Path, tokenizer: Any, row_length: int, tokens: int) -> torch.Tensor:
    """Rows (R, L) from the file's beginning that score at least ``tokens`` tokens.

    Of JSONL and parquet they are documents in the order that seed 0 gives, as training reads them.
    A row scores L - 1 tokens: the first has no context.  Raises DataError for a file that cannot
    be read or is too short.
    """
    wanted = scoring_rows(tokens, row_length) * row_length
    ids = _ids(str(path), tokenizer, wanted)
    return leading_rows(ids, row_length, tokens, begin_token(tokenizer))


def _ids(source: str, tokenizer: Any, wanted: int) -> torch.Tensor:
    """Token ids of the source's beginning, ``wanted`` and more; all where it has fewer."""
    if is_plain(source):
        return _leading_ids(plain_text(source, "evaluation text"), tokenizer, wanted)
    text = read_text([source], tokenizer, wanted, seed=0)
    for skipped in text.skipped:
        print(f"{shown(source)}: {skipped}", file=sys.stderr)
    return torch.cat(text.documents)


def _leading_ids(text: str, tokenizer: Any, wanted: int) -> torch.Tensor:
    """Token ids of the text's beginning, ``wanted`` and more; all of them where it has fewer.

    Of a long text only a beginning is tokenised, up to the end of a line, with so much to spare
    that the first ``wanted`` are those of the whole: what comes next changes the last few at most.
    """
    wordwise = "<unk>" in text
    characters = 8 * (wanted + _SPARE)
    while True:
        end = len(text) if characters >= len(text) else text.rfind("\n", 0, characters) + 1
        plain = detokenise(text[:end]) if wordwise else text[:end]
        ids = tokenizer(plain, add_special_tokens=False)["input_ids"]
        if end == len(text) or len(ids) >= wanted + _SPARE:
            return torch.tensor(ids, dtype=torch.int64)
        characters *= 4


def scoring_rows(tokens: int, row_length: int) -> int:
    """Rows that score so many tokens."""
    return math.ceil(tokens / (row_length - 1))


def leading_rows(
    ids: torch.Tensor, row_length: int, tokens: int, begin: int | None = None
) -> torch.Tensor:
    """Cut the first rows (R, L) of a token sequence that score at least ``tokens``.

    Each begins with the token ``begin``, if there is one.
    """
    rows = scoring_rows(tokens, row_length)
    ids_RL = cut_rows(ids, row_length, begin)[:rows]
    if len(ids_RL) < rows:
        raise DataError(
            f"the evaluation text has {len(ids)} tokens; scoring {tokens} takes "
            f"{rows * (row_length - (begin is not None))}: give more text, or score fewer tokens"
        )
    return ids_RL


def naive_route(route: Route, block_map: BlockMap) -> Route:
    """The route with each student layer replaced by the teacher layer that it started from."""
    layers = tuple(
        LayerRef(Owner.TEACHER, block_map[ref.index].kept) if ref.owner is Owner.STUDENT else ref
        for ref in route.layers
    )
    return replace(route, layers=layers, embedding=Owner.TEACHER, head=Owner.TEACHER)


@dataclass(frozen=True)
class Lanes:
    """Who runs a route: the teacher, and the student as a model of one layer a block.

    ``place`` names the teacher layer as which a student layer is called (its kept one), so that
    layers whose masks differ get the right one.
    """

    teacher: LayerRunner
    student: LayerRunner | None
    place: Callable[[LayerRef], int]

    def embed(self, owner: Owner, ids_BL: torch.Tensor) -> torch.Tensor:
        """What enters the first layer."""
        return self._runner(owner).embed(ids_BL)

    def step(self, ref: LayerRef, hidden_BLD: torch.Tensor) -> torch.Tensor:
        """One layer of a route."""
        layer: nn.Module = self._runner(ref.owner).layers[ref.index]
        return self.teacher.run(layer, self.place(ref), hidden_BLD)

    def head(self, owner: Owner, hidden_BLD: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self._runner(owner).head(hidden_BLD)

    def _runner(self, owner: Owner) -> LayerRunner:
        if owner is Owner.TEACHER:
            return self.teacher
        assert self.student is not None, "a route with student layers needs a student"
        return self.student


def lanes(teacher: LayerRunner, student: LayerRunner | None, block_map: BlockMap) -> Lanes:
    """Lanes whose student layers are called as their kept teacher layers."""
    kept = [block.kept for block in block_map]
    return Lanes(teacher, student, lambda r: kept[r.index] if r.owner is Owner.STUDENT else r.index)


class Prefix:
    """Hidden states along the last route, for one batch of rows; the next one reuses them."""

    def __init__(self, lanes: Lanes, ids_BL: torch.Tensor) -> None:
        self._lanes = lanes
        self._ids_BL = ids_BL
        self._done: list[tuple[object, torch.Tensor]] = []

    def logits(self, route: Route) -> torch.Tensor:
        """The route's logits (B, L, V)."""
        return self._lanes.head(route.head, self.states(route)[-1])

    def states(self, route: Route) -> list[torch.Tensor]:
        """What enters the route's first layer, and what each layer puts out (B, L, D)."""
        path: list[object] = [route.embedding, *route.layers]
        common = 0
        while common < min(len(path), len(self._done)) and self._done[common][0] == path[common]:
            common += 1
        del self._done[common:]
        for step in path[common:]:
            self._done.append((step, self._advance(step)))
        return [hidden_BLD for _, hidden_BLD in self._done]

    def _advance(self, step: object) -> torch.Tensor:
        if isinstance(step, LayerRef):
            return self._lanes.step(step, self._done[-1][1])
        assert isinstance(step, Owner)
        return self._lanes.embed(step, self._ids_BL)


class _Score:
    """Sums over scored tokens of one route."""

    def __init__(self) -> None:
        self.kl = self.agree = self.loss = 0.0
        self.tokens = 0

    def add(self, teacher: _TeacherLogits, logits_TV: torch.Tensor, next_T: torch.Tensor) -> None:
        """KL(teacher‖size) = Σ p log p - Σ p z + log Σ exp z, without a second softmax."""
        log_sum_T = logits_TV.logsumexp(-1)
        cross_T = torch.linalg.vecdot(teacher.probs_TV, logits_TV)
        self.kl += (teacher.entropy_T.neg() - cross_T + log_sum_T).clamp_min(0).sum().item()
        self.agree += (logits_TV.argmax(-1) == teacher.top_T).sum().item()
        self.loss += (log_sum_T - logits_TV.gather(-1, next_T[:, None])[:, 0]).sum().item()
        self.tokens += len(next_T)

    def quality(self) -> Quality:
        """Means over all tokens counted."""
        n = self.tokens
        return Quality(self.kl / n, self.agree / n, math.exp(self.loss / n), n)


class _TeacherLogits:
    """What a comparison needs of the teacher's logits."""

    def __init__(self, logits_TV: torch.Tensor) -> None:
        self.top_T = logits_TV.argmax(-1)
        log_probs_TV = logits_TV.log_softmax(-1)
        self.probs_TV = log_probs_TV.exp()
        self.entropy_T = -torch.linalg.vecdot(self.probs_TV, log_probs_TV)


@torch.inference_mode()
def evaluate_routes(
    lanes: Lanes,
    teacher_route: Route,
    routes: Sequence[Route],
    ids_RL: torch.Tensor,
    label: str | None,
) -> list[Quality]:
    """The quality of every route, in order, on rows of tokens.

    Neighbouring routes that begin alike share that work, so give a ladder in its order.  `label`
    names the progress bar; None shows none.
    """
    scores = [_Score() for _ in routes]
    total = len(ids_RL) * len(routes)
    with tqdm(total=total, desc=label, unit="row", disable=label is None) as bar:
        for part in batches(len(ids_RL), 1):
            ids_BL = ids_RL[part]
            prefix = Prefix(lanes, ids_BL)
            next_T = ids_BL[:, 1:].flatten().to(lanes.teacher.device)
            teacher = _TeacherLogits(prefix.logits(teacher_route)[:, :-1].flatten(0, 1))
            for score, route in zip(scores, routes, strict=True):
                score.add(teacher, prefix.logits(route)[:, :-1].flatten(0, 1), next_T)
                bar.update()
    return [score.quality() for score in scores]
