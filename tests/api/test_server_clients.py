"""The examples of the README and of docs/clients.md, executed against the real server."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from boomerang_core.family import Family
from tests.api.servers import ROOT, Running

pytestmark = pytest.mark.engine

TOKENIZER = "HuggingFaceTB/SmolLM2-135M-Instruct"


class Example(NamedTuple):
    """A fenced block of a page, and the heading above it."""

    heading: str
    language: str
    code: str


def examples(name: str) -> list[Example]:
    text = (ROOT / name).read_text(encoding="utf-8")
    found: list[Example] = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading = section.partition("\n")[0]
        blocks = re.findall(r"^```(\w+)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        found += [Example(heading, language, code) for language, code in blocks]
    return found


def here(code: str, server: Running) -> str:
    """The example with this server's address, names, tokenizer and context in it."""
    family = server.family
    for theirs, ours in (
        ("http://localhost:8000", server.url),
        ("localhost:8000", server.url),
        (TOKENIZER, family.teacher.location),
        ("smollm2-135m@106m", family.table.model_id(family.table.offered[1])),
        ("smollm2-135m", family.name),
        ('"max_length": 2048', '"max_length": 256'),
    ):
        code = code.replace(theirs, ours)
    return code


def execute(example: Example, server: Running) -> str:
    """What the example prints; it must end well."""
    code = here(example.code, server)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shells = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
    done = subprocess.run(
        [*shells[example.language], code],
        cwd=ROOT,
        env=os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def of(heading: str) -> list[Example]:
    return [example for example in examples("docs/clients.md") if example.heading == heading]


def test_every_example_is_executed_here() -> None:
    headings = [example.heading for example in examples("docs/clients.md")]
    tools = ["The openai package", "lm-eval", "vLLM's load tool", "guidellm"]
    assert headings == ["curl", "curl", *tools]


def test_the_readmes_request(server: Running, family: Family) -> None:
    """The reply has the headers that the README shows, and names the size that ran."""
    readme = examples("README.md")
    (example,) = (each for each in readme if "curl" in each.code and "completions" in each.code)
    head, _, body = execute(example, server).partition("\n\n")
    told = dict(line.split(": ", 1) for line in head.splitlines()[1:])
    assert told["x-boomerang-size"] == family.table.teacher.id
    assert told["x-boomerang-reason"] == "memory_budget"
    shown = re.findall(r"^(x-boomerang-[\w-]+): ", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert set(shown) <= told.keys()
    reply = json.loads(body)
    assert reply["model"] == family.table.model_id(family.table.teacher)
    assert reply["usage"]["completion_tokens"]


def test_curl(server: Running, family: Family) -> None:
    resolve, chat = of("curl")
    resolved = json.loads(execute(resolve, server))
    assert resolved["reason"] == "memory_budget"
    *events, done = filter(None, execute(chat, server).splitlines())
    assert done == "data: [DONE]"
    models = {json.loads(event.removeprefix("data: "))["model"] for event in events}
    assert models == {family.table.model_id(family.table.teacher)}


def test_the_openai_package(server: Running, family: Family) -> None:
    (example,) = of("The openai package")
    listed, rest = execute(example, server).split("\n", 1)
    names = [family.table.model_id(row) for row in family.table.offered]
    assert listed == str([family.name, *names])
    assert rest.startswith(f"{names[1]} ")
    assert f"\n{names[-1]} " in rest
    assert f"\n{names[0]} " in rest  # the response, of the student


@pytest.mark.slow
def test_lm_eval(server: Running) -> None:
    (example,) = of("lm-eval")
    printed = execute(example, server)
    assert re.search(r"'local_truthfulqa_mc1': \{.*'acc,none': [\d.]+", printed), printed


@pytest.mark.slow
def test_vllms_load_tool(server: Running) -> None:
    (example,) = of("vLLM's load tool")
    printed = execute(example, server)
    assert re.search(r"Successful requests: +8\b", printed), printed
    assert re.search(r"Total generated tokens: +[1-9]", printed), printed


@pytest.mark.guidellm
def test_guidellm(server: Running) -> None:
    (example,) = of("guidellm")
    printed = execute(example, server)
    assert re.search(r"concurrent@4 .*\| 8 +\| 0 +\| 0 +\|", printed), (
        printed
    )  # completed, cut, failed
