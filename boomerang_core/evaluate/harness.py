"""lm-eval: tasks by name, and models of every size for them.  The only module that imports it.

A size is a transformers model assembled by reference, or a model name of our own server.
"""

from __future__ import annotations

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp
import lm_eval
import requests
import torch
from datasets.exceptions import DatasetsError
from lm_eval.api.registry import get_aggregation
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.tasks import TaskManager

from boomerang_core.assemble import assemble
from boomerang_core.checkpoint import frozen_teacher, load_tokenizer, teacher_folder
from boomerang_core.errors import DataError, SettingsError, first_line
from boomerang_core.evaluate import local_tasks
from boomerang_core.evaluate.items import Item
from boomerang_core.evaluate.served import longest_text
from boomerang_core.evaluate.tasks import GROUPS
from boomerang_core.family import Family
from boomerang_core.route import build_route
from boomerang_core.sizes import SizeRow
from boomerang_core.student import load_student
from boomerang_core.text.rows import begin_token

VERSION = str(lm_eval.__version__)
SEED = 1234  # lm-eval's own, for the choice of examples

logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of what is meant here


@dataclass(frozen=True, eq=False)
class Leaf:
    """One task of lm-eval that has items of its own; a group such as mmlu has many."""

    name: str
    task: Any
    examples: int

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its prompts and its scores."""
        config = {**self.task.dump_config(), "metadata": None}  # which has a path
        text = json.dumps(config, sort_keys=True, default=lambda value: type(value).__name__)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return {"task": self.name, "config": digest, "few_shot": self.examples}


def load_tasks(names: Sequence[str], few_shot: int | None) -> dict[str, list[Leaf]]:
    """The leaves of every task, group, tag or YAML file that is named, with their data.

    `few_shot` takes the place of a task's own number of examples, unless that is fixed at 0.
    Raises `SettingsError` for an unknown name and for a task that needs another package or runs
    generated code, `DataError` where its data cannot be had.
    """
    offline = all(name in GROUPS["local"] or _is_file(name) for name in names)
    folder = str(Path(local_tasks.__file__).parent)
    manager = TaskManager(include_path=folder, include_defaults=not offline)  # all take seconds
    for name in names:
        if name not in manager.all_tasks and not _is_file(name):
            raise SettingsError(f"lm-eval has no task {name!r}, and there is no such YAML file")
    return {name: _leaves(manager, name, few_shot) for name in names}


def _is_file(name: str) -> bool:
    return name.endswith(".yaml") and Path(name).is_file()


def _leaves(manager: Any, name: str, few_shot: int | None) -> list[Leaf]:
    try:
        tasks = manager.load([name])["tasks"]
    except ImportError as error:
        raise SettingsError(f"the task {name} needs a package: {first_line(error)}") from error
    except (OSError, DatasetsError, ValueError) as error:
        reason = first_line(error)
        raise DataError(f"the data of the task {name} cannot be had: {reason}") from error
    return [_leaf(task_name, task, few_shot) for task_name, task in tasks.items()]


def _leaf(name: str, task: Any, few_shot: int | None) -> Leaf:
    if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
        raise SettingsError(f"the task {name} runs generated code, or shows more than text")
    own = task.get_config("num_fewshot")
    examples = own or 0 if few_shot is None or own == 0 else few_shot
    task.set_config("num_fewshot", examples)
    return Leaf(name, task, examples)


def run_leaf(leaf: Leaf, model: Any, tokenizer: Any, limit: int | None, chat: bool) -> list[Item]:
    """How a model does on the items of a task, in their order; `limit` takes the first of them.

    `chat` puts the questions into the tokenizer's chat template, examples as turns of it.
    """
    leaf.task.set_fewshot_seed(SEED)  # the choice of examples starts anew for every size
    found = evaluate(
        model,
        {"tasks": {leaf.name: leaf.task}},
        limit=limit,
        bootstrap_iters=0,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
    )
    by_id: dict[int, list[dict[str, Any]]] = {}
    for sample in found["samples"][leaf.name]:  # one for each item and filter
        by_id.setdefault(sample["doc_id"], []).append(sample)
    return [_item(leaf, samples, tokenizer) for _, samples in sorted(by_id.items())]


def _item(leaf: Leaf, samples: Sequence[Mapping[str, Any]], tokenizer: Any) -> Item:
    first = samples[0]
    metrics = {
        f"{name},{sample['filter']}": float(sample[name])
        for sample in samples
        for name in sample["metrics"]
        if isinstance(sample[name], bool | int | float)  # numpy's float64 is a float
    }
    counted = next((name for name in metrics if _is_mean(leaf.task, name)), None)
    kind = leaf.task.OUTPUT_TYPE
    answer = str(first["resps"][0][0]) if kind == "generate_until" else None
    likelihood, words = _likelihood(leaf.task, first)
    return Item(
        task=leaf.name,
        id=int(first["doc_id"]),
        prompt=str(first["prompt_hash"])[:16],
        accuracy=None if counted is None else metrics[counted],
        metrics=metrics,
        log_likelihood=likelihood,
        words=words,
        tokens=None if answer is None else _count(tokenizer, answer),
        answer=answer,
    )


def _is_mean(task: Any, metric: str) -> bool:
    """Whether lm-eval takes the plain mean of the metric, as of accuracies."""
    name = metric.partition(",")[0]
    return task.aggregation().get(name) is get_aggregation("mean")


def _count(tokenizer: Any, answer: str) -> int:
    return len(tokenizer(answer, add_special_tokens=False)["input_ids"])


def _likelihood(task: Any, sample: Mapping[str, Any]) -> tuple[float | None, int | None]:
    """Nats of the right choice; or a word of the text, and how many words there are."""
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        total, words = sample["word_perplexity"]
        return total / words, int(words)
    if task.OUTPUT_TYPE == "loglikelihood":
        return float(sample["filtered_resps"][0][0]), None
    if task.OUTPUT_TYPE == "multiple_choice":
        right = _right_choices(task, sample["doc"])
        return max((float(sample["filtered_resps"][i][0]) for i in right), default=None), None
    return None, None


def _right_choices(task: Any, doc: Any) -> list[int]:
    """Indices of the right choices, wherever the task keeps them."""
    found = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    choices = task.doc_to_choice(doc)
    each = found if isinstance(found, list) else [found]
    indices = [choices.index(one) if one in choices else one for one in each]
    return [index for index in indices if isinstance(index, int) and 0 <= index < len(choices)]


def harnessed(model: Any, tokenizer: Any, batch_size: int) -> Any:
    """lm-eval's model around an assembled one; `batch_size` items at a time.

    It decodes as the task says: the defaults of the checkpoint are taken from the model.
    """
    model.generation_config = type(model.generation_config).from_model_config(model.config)
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)


class Models(ABC):
    """lm-eval's models of the sizes of one family."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.tokenizer = load_tokenizer(family)

    @abstractmethod
    def of(self, row: SizeRow) -> Any:
        """The model of a size."""

    @contextmanager
    def as_one_error(self) -> Iterator[None]:
        """Around every use of a model."""
        yield


class Assembled(Models):
    """Transformers models around one teacher and one student; no weight is copied."""

    def __init__(
        self, family: Family, batch_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(family)
        self._batch_size = batch_size
        self._teacher = frozen_teacher(family, dtype, device)
        self._student = load_student(family.student_dir).to(next(self._teacher.parameters()))

    def of(self, row: SizeRow) -> Any:
        """A model of the size."""
        model = assemble(self._teacher, self._student, build_route(self.family.design, row.size))
        return harnessed(model, self.tokenizer, self._batch_size)


class Completions(LocalCompletionsAPI):  # type: ignore[misc]  # which has no types
    """lm-eval's client of a completions endpoint, with the tokens that its own model would take."""

    add_bos_token: bool

    def tok_encode(
        self, string: Any, left_truncate_len: int | None = None, **settings: Any
    ) -> list[Any]:
        """Token ids; a chat template may have begun the text, and it must not begin twice."""
        if not isinstance(string, str):
            return [self.tok_encode(one, left_truncate_len, **settings) for one in string]
        begin = self.add_bos_token
        if begin and string.startswith(self.tokenizer.bos_token):
            settings["add_special_tokens"] = self.add_bos_token = False  # either would add it
        try:
            ids: list[int] = super().tok_encode(string, left_truncate_len, **settings)
        finally:
            self.add_bos_token = begin
        return ids


class Served(Models):
    """Sizes of a running server of ours, asked by name; `concurrent` requests at a time.

    The server must serve the very family.  Its API key is in `served.KEY`.
    """

    def __init__(self, family: Family, url: str, concurrent: int) -> None:
        super().__init__(family)
        if find_spec("tenacity") is None:
            raise SettingsError("--server needs the package tenacity: pip install tenacity")
        self._url, self._concurrent = url.rstrip("/"), concurrent
        with self.as_one_error():
            self._max_length = longest_text(family, self._url)

    def of(self, row: SizeRow) -> Any:
        """The completions endpoint for the size; prompts go as tokens, so nothing is ambiguous."""
        name = row.id if row.offered else f"{row.layers}L"
        return Completions(
            model=f"{self.family.name}@{name}",
            base_url=f"{self._url}/v1/completions",
            tokenizer=str(teacher_folder(self.family)),
            tokenizer_backend="huggingface",
            add_bos_token=begin_token(self.tokenizer) is not None,
            num_concurrent=self._concurrent,
            max_length=self._max_length,
        )

    @contextmanager
    def as_one_error(self) -> Iterator[None]:
        """What its client raises becomes `SettingsError`."""
        try:
            yield
        except requests.ConnectionError as error:  # its own words go on for lines
            raise SettingsError(f"the server at {self._url} cannot be reached") from error
        except (requests.RequestException, aiohttp.ClientError, TimeoutError) as error:
            raise SettingsError(f"the server at {self._url} failed: {error}") from error
