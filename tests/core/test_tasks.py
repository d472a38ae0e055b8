"""Sizes of tiny random families on tasks: against plain transformers, and stopped."""

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from boomerang_core.evaluate import harness
from boomerang_core.evaluate.harness import Assembled
from boomerang_core.evaluate.items import Item
from boomerang_core.route import StudentKind
from tests.core.task_bench import ANSWERS, CHOICES, FULL, LOWRANK, Bench, bench, docs

__all__ = ["bench", "docs"]  # fixtures

READING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{question}}",
    "process_results": "!function reading.scores",
    "metric_list": [
        {
            "metric": "word_perplexity",
            "aggregation": "weighted_perplexity",
            "higher_is_better": False,
        }
    ],
}


@pytest.mark.parametrize(("kind", "own"), [(LOWRANK, False), (FULL, True)])
def test_choices_are_scored_as_plain_transformers_scores_them(
    kind: StudentKind, own: bool, tmp_path: Path, docs: list[dict[str, Any]]
) -> None:
    """Also where embedding and head are of two owners, which lm-eval would tie."""
    bench = Bench(tmp_path, docs, kind, own)
    rows = bench.run(bench.task("pick", CHOICES), batch_size=5)
    assert [row.size for row in rows] == [row.id for row in bench.family.rows]
    expected = [
        [[bench.nats(size, doc["question"], c) for c in doc["choices"]] for doc in docs]
        for size in range(3)
    ]
    right = [[nats[doc["gold"]] for nats, doc in zip(per, docs, strict=True)] for per in expected]
    hits = [
        [
            float(max(range(3), key=nats.__getitem__) == doc["gold"])
            for nats, doc in zip(per, docs, strict=True)
        ]
        for per in expected
    ]
    for size, row in enumerate(rows):
        items = bench.items("pick", size)
        assert [item.id for item in items] == list(range(12))
        assert [item.log_likelihood for item in items] == pytest.approx(right[size], rel=1e-4)
        assert [item.accuracy for item in items] == hits[size]
        assert [item.metrics["acc,none"] for item in items] == hits[size]
        assert row.accuracy == pytest.approx(statistics.fmean(hits[size]), abs=1e-5)
        assert row.log_likelihood == pytest.approx(statistics.fmean(right[size]), rel=1e-4)
        gaps = [x - y for x, y in zip(right[size], right[2], strict=True)]
        if size < 2:
            assert row.log_likelihood_difference == pytest.approx(statistics.fmean(gaps), abs=1e-4)
            error = statistics.stdev(gaps) / 12**0.5
            assert row.log_likelihood_difference_se == pytest.approx(error, abs=1e-4)
    assert len({row.log_likelihood for row in rows}) == 3  # a mix-up would show


def test_answers_are_those_of_greedy_decoding(bench: Bench) -> None:
    bench.run(bench.task("say", ANSWERS), batch_size=4)
    lengths = set()
    for size in range(3):
        for item, doc in zip(bench.items("say", size), bench.docs, strict=True):
            ids = bench.tokenizer(doc["question"], return_tensors="pt")["input_ids"]
            model = bench.model(size)
            out = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
            text = bench.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
            said = text.split("w9")[0].strip()
            assert item.answer is not None
            assert item.answer.strip() == said
            assert item.tokens == len(said.split())
            lengths.add(item.tokens)
    assert len(lengths) > 1


def test_answers_in_the_chat_template(bench: Bench) -> None:
    """The tiny template is the question alone, so examples in turns of it stand without gaps."""
    few = {"limit": 3, "batch_size": 3}
    task = bench.task("say", ANSWERS)
    bench.run(task, out="plain", **few)
    bench.run(task, out="chat", chat=True, **few)
    assert bench.items("say", 1, "plain") == bench.items("say", 1, "chat")
    two = bench.task("say", ANSWERS, fewshot_split="train")
    bench.run(two, out="plain", few_shot=2, **few)
    bench.run(two, out="chat", few_shot=2, chat=True, **few)
    apart = zip(bench.items("say", 1, "plain"), bench.items("say", 1, "chat"), strict=True)
    assert all(plain.prompt != chat.prompt for plain, chat in apart)


def test_plain_text_is_read_a_word_at_a_time(bench: Bench) -> None:
    (bench.folder / "reading.py").write_text(
        "def scores(doc, results):\n"
        "    return {'word_perplexity': (results[0], len(doc['question'].split()))}\n"
    )
    rows = bench.run(bench.task("read", READING))
    for size, row in enumerate(rows):
        total = sum(bench.nats(size, "<s>", doc["question"]) for doc in bench.docs)
        count = sum(len(doc["question"].split()) for doc in bench.docs)
        assert row.log_likelihood == pytest.approx(total / count, rel=1e-4)
        assert row.perplexity == pytest.approx(torch.tensor(-total / count).exp().item(), rel=1e-3)
        assert row.accuracy is None


def test_every_size_sees_the_same_examples(bench: Bench) -> None:
    """Else they are other prompts, which `task_row` refuses."""
    task = bench.task("pick", CHOICES, fewshot_split="train")
    rows = bench.run(task, few_shot=2, limit=5)
    prompts = [[item.prompt for item in bench.items("pick", size)] for size in range(3)]
    assert prompts[0] == prompts[1] == prompts[2]
    assert len(set(prompts[0])) == 5
    assert {row.n for row in rows} == {5}
    bench.run(task, out="none", limit=5)
    assert not set(prompts[0]) & {item.prompt for item in bench.items("pick", 0, "none")}


def test_what_is_finished_is_not_run_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    task = bench.task("pick", CHOICES)
    rows = bench.run(task, limit=4)
    assert len(bench.told) == 3
    with monkeypatch.context() as patch:
        patch.delattr(harness, "Assembled")  # no model may be made from here on
        assert bench.run(task, limit=4, batch_size=2) == rows
        assert bench.told == []
    assert {row.n for row in bench.run(task, limit=5)} == {5}
    assert len(bench.told) == 3
    bench.task("pick", {**CHOICES, "doc_to_text": "w7 {{question}}"})
    assert bench.run(task, limit=5) != rows
    assert len(bench.told) == 3


def test_a_stopped_run_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    task = bench.task("pick", CHOICES)
    expected = bench.run(task, out="whole")
    calls = []

    def stop(*args: Any) -> list[Item]:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run_leaf(*args)

    run_leaf = harness.run_leaf
    monkeypatch.setattr(harness, "run_leaf", stop)
    with pytest.raises(KeyboardInterrupt):
        bench.run(task)
    assert not (bench.folder / "out" / "tasks.json").exists()
    assert bench.run(task) == expected
    assert len(bench.told) == 1


@pytest.mark.parametrize(("kind", "own"), [(LOWRANK, False), (FULL, True)])
def test_sizes_share_the_loaded_weights(
    kind: StudentKind, own: bool, tmp_path: Path, docs: list[dict[str, Any]]
) -> None:
    bench = Bench(tmp_path, docs, kind, own)
    models = Assembled(bench.family, 1, torch.float32, torch.device("cpu"))
    made = [models.of(row).model for row in bench.family.rows]
    memory = {p.data_ptr(): p.numel() for model in made for p in model.parameters()}
    loaded = {p.data_ptr(): p.numel() for p in bench.teacher.parameters()}
    assert sum(memory.values()) == sum(loaded.values()) + bench.student.num_params
    ids_1L = torch.tensor([[5, 6, 7]])
    for size, model in enumerate(made):
        assert torch.equal(model(ids_1L).logits, bench.model(size)(ids_1L).logits)
