"""Would a smaller size pay as a draft for the teacher (speculative decoding, arXiv 2211.17192)?

    python -m bench.drafting FAMILY --text FILE

The teacher writes answers, greedy and sampled at temperature 1, and every size says how likely its
own next token would have been accepted at each place of them: 1 where the greedy tokens agree, or
one minus the total variation distance between the two distributions.  A draft of k tokens, begun
anywhere in an answer, then gives 1 + a1 + a1 a2 + … tokens a cycle, for one step of the teacher
and k of the size.  A step costs the bytes of its weights, which bound decoding at few requests; the
teacher's check of k + 1 tokens costs one step, and the rest nothing.  So `gain`, tokens a second
over the teacher's alone at the best k, is more than an engine could reach.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from bench.run import finish
from boomerang_core.assemble import assemble
from boomerang_core.checkpoint import load_teacher, load_tokenizer
from boomerang_core.cli import family_folder
from boomerang_core.family import Family, load_family
from boomerang_core.route import build_route
from boomerang_core.sizes import SizeRow
from boomerang_core.student import load_student
from boomerang_core.text.evaluation import Sample

PROMPT_TOKENS = 32
LONGEST_DRAFT = 8
MODES = {"greedy": False, "sampled": True}


@torch.inference_mode()
def answers(teacher: Any, prompts_BL: torch.Tensor, tokens: int, sample: bool) -> torch.Tensor:
    """The teacher's answers behind their prompts (B, L + tokens)."""
    teacher.generation_config.eos_token_id = None
    ids_BL: torch.Tensor = teacher.generate(
        prompts_BL, max_new_tokens=tokens, do_sample=sample, temperature=1.0, top_k=0, top_p=1.0
    )
    return ids_BL


def accepted(teacher_BLV: torch.Tensor, draft_BLV: torch.Tensor, sample: bool) -> torch.Tensor:
    """Probability that the teacher accepts the draft's token, place by place (B, L)."""
    if not sample:
        return (teacher_BLV.argmax(-1) == draft_BLV.argmax(-1)).float()
    return torch.minimum(teacher_BLV.softmax(-1), draft_BLV.softmax(-1)).sum(-1)


def tokens_a_cycle(accepted_BL: torch.Tensor, draft: int) -> float:
    """Mean tokens of a cycle with a draft of so many: those accepted, and the teacher's own."""
    length = accepted_BL.shape[1] - draft + 1
    chains = torch.stack([accepted_BL[:, k : k + length] for k in range(draft)]).cumprod(0)
    return 1 + chains.sum(0).mean().item()


def best(accepted_BL: torch.Tensor, cost: float) -> dict[str, float | int]:
    """The draft that gains most where a drafted token costs so much, and what it gains."""
    gains = {
        k: tokens_a_cycle(accepted_BL, k) / (1 + k * cost) for k in range(1, LONGEST_DRAFT + 1)
    }
    draft = max(gains, key=lambda k: gains[k])
    return {
        "acceptance": round(accepted_BL.mean().item(), 3),
        "draft": draft,
        "gain": round(gains[draft], 3),
    }


@torch.inference_mode()
def measure(family: Family, prompts_BL: torch.Tensor, tokens: int) -> list[dict[str, Any]]:
    """Every size below the teacher's, both ways of writing."""
    teacher = load_teacher(family, torch.float32)
    student = load_student(family.student_dir).to(next(teacher.parameters()))
    rows, whole = family.rows[:-1], family.rows[-1].weight_bytes
    models = [assemble(teacher, student, build_route(family.design, row.size)) for row in rows]
    rates = {
        mode: _rates(teacher, models, answers(teacher, prompts_BL, tokens, sample), tokens, sample)
        for mode, sample in MODES.items()
    }

    def size(place: int, row: SizeRow) -> dict[str, Any]:
        cost = row.weight_bytes / whole
        found = {mode: best(rates_MBL[place], cost) for mode, rates_MBL in rates.items()}
        return {"size": row.id, "cost": round(cost, 3), **found}

    return [size(place, row) for place, row in enumerate(rows)]


def _rates(
    teacher: Any, models: Sequence[Any], ids_BL: torch.Tensor, tokens: int, sample: bool
) -> torch.Tensor:
    """Acceptance of every model at each token of the answers (M, B, tokens).

    One answer at a time: logits of all of them would take gigabytes.
    """

    def logits(model: Any, ids_L: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model(ids_L[None, :-1], logits_to_keep=tokens).logits
        return found

    def answer(ids_L: torch.Tensor) -> torch.Tensor:
        teacher_BLV = logits(teacher, ids_L)
        each = [accepted(teacher_BLV, logits(model, ids_L), sample) for model in models]
        return torch.stack(each)

    return torch.cat([answer(ids_L) for ids_L in tqdm(ids_BL, desc="answers")], dim=1)


def main(given: Sequence[str] | None = None) -> Mapping[str, Any]:
    """The command line; returns its report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family", type=Path)
    parser.add_argument("--text", type=Path, required=True, help="prompts are cut from it")
    parser.add_argument("--answers", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=96, help="of an answer")
    parser.add_argument("--out", type=Path, help="write the JSON there as well")
    options = parser.parse_args(given)
    if options.tokens < LONGEST_DRAFT:
        parser.error(f"--tokens {options.tokens}: drafts of up to {LONGEST_DRAFT} are tried")
    torch.manual_seed(0)
    family = load_family(family_folder(options.family))
    scored = options.answers * (PROMPT_TOKENS - 1)
    prompts_BL = Sample(options.text, scored, PROMPT_TOKENS).rows(load_tokenizer(family))
    report = {
        "family": family.name,
        "n": options.answers * options.tokens,
        "sizes": measure(family, prompts_BL, options.tokens),
    }
    finish(report, options)
    return report


if __name__ == "__main__":
    main()
