"""Options that would do nothing are refused; what `sizes` counts by its options."""

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from boomerang_core import cli
from boomerang_core.family import load_family
from boomerang_core.sizes import format_bytes

FAMILY = "smollm2-135m"
EVALUATE = ["evaluate", FAMILY, "--text", "t"]
ON_TASKS = ["evaluate", FAMILY, "--tasks", "no.yaml", "--out", "o"]
COMPARE = ["compare", FAMILY, "--text", "t", "--out", "o"]
LADDER = ["search", "ladder", FAMILY, "--text", "t"]
MAKE = ["make", "--teacher", "x", "--out", "o"]
NAIVE = [*MAKE, "--start", "naive"]
NOT_SAMPLED = [*MAKE, "--sample-tokens", "0", "--text", "t"]
NOT_TRAINED = [*MAKE, "--tokens", "0"]
IMPORT = ["import", "--teacher", "t", "--student", "s", "--out", "o"]
ROW_OPTIONS = ["--tokens=9", "--row-length=9"]
TASK_OPTIONS = ["--limit=3", "--few-shot=1", "--chat", "--batch-size=2", "--dtype=bfloat16"]


def run(*words: str) -> Any:
    return CliRunner().invoke(cli.app, words)


@pytest.mark.parametrize(
    ("command", "option", "needed"),
    [
        *((EVALUATE, option, "--tasks") for option in TASK_OPTIONS),
        (EVALUATE, "--sizes=all", "--tasks"),
        (EVALUATE, "--server=http://x", "--tasks"),
        *((ON_TASKS, option, "--text") for option in ROW_OPTIONS),
        *((COMPARE, option, "--tasks") for option in TASK_OPTIONS),
        (COMPARE, "--calibration-tokens=9", "--calibration"),
        (COMPARE, "--seed=1", "--calibration"),
        (LADDER, "--eval-text=e", "--save"),
        (LADDER, "--eval-tokens=9", "--save"),
        *((IMPORT, option, "--text") for option in (*ROW_OPTIONS, "--device=cpu")),
        (LADDER, "--limit=9", "--order shortest-path"),
        ([*MAKE, "--kind", "full"], "--rank=8", "--kind lowrank"),
        ([*MAKE, "--preset", "paper", "--text", "t"], "--rank=8", "--kind lowrank"),
        (NAIVE, "--steps=0", "--start blockwise"),
        (NAIVE, "--block-tokens=9", "--start blockwise"),
        (NAIVE, "--set sinks=0.1", "--start blockwise"),
        (NAIVE, "--set learning_rate=0.1", "--start blockwise"),
        (MAKE, "--set learning_rate=0.1", "--steps above 0"),
        (MAKE, "--chat-share=1", "--text"),
        (MAKE, "--text-tokens=9", "--text"),
        (NOT_SAMPLED, "--sample-rows=9", "--sample-tokens above 0"),
        (NOT_TRAINED, "--precision=fp32", "--tokens above 0"),
        (NOT_TRAINED, "--set end_to_end.clip=2", "--tokens above 0"),
        (NOT_TRAINED, "--tensorboard=f", "--tokens above 0"),
        ([*MAKE, "--kept", "first"], "--set kept_tokens=9", "--kept measured or sequential"),
        (["sizes", FAMILY], "--kv-cache-bytes=1GiB", "--memory-budget"),
    ],
)
def test_an_option_that_needs_another(command: list[str], option: str, needed: str) -> None:
    """Also where it says what is the default: it is said in vain."""
    result = run(*command, *option.split())
    assert result.exit_code == 2
    assert result.output == f"error: {option.partition('=')[0]} needs {needed}\n"


@pytest.mark.parametrize("option", ["--dtype=float32", "--device=cpu"])
def test_what_a_server_decides_itself(option: str) -> None:
    command = [*ON_TASKS, "--server=http://x"]
    result = run(*command, option)
    assert result.exit_code == 2
    assert result.output == f"error: {option.partition('=')[0]} does nothing with --server\n"
    with_text = run(*command, "--text", "no-such-text", "--device=cpu")  # which is measured here
    assert "does nothing" not in with_text.output


def test_what_a_preset_holds_is_not_refused(tmp_path: Path) -> None:
    """The recipe for a GPU has steps, rows to sample and a rank."""
    options = ["--start", "naive", "--kind", "full", "--sample-tokens", "0", "--text", "t"]
    work = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    result = run("make", "--preset", "gpu", "--teacher", str(tmp_path), *options, *work)
    assert "needs" not in result.output
    assert result.exit_code == 2


def test_what_is_not_given_is_not_refused(tmp_path: Path) -> None:
    result = run(*EVALUATE[:3], str(tmp_path / "none"))
    assert "cannot read evaluation text" in result.output


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ([], 2048),
        (["--context", "1000"], 1000),
        (["--concurrency", "4"], 8192),
        (["--context", "1000", "--concurrency", "4"], 4000),
    ],
)
def test_a_footprint_is_for_so_many_requests_of_so_many_tokens(
    options: list[str], tokens: int
) -> None:
    result = run("sizes", FAMILY, "--dtype", "bfloat16", *options)
    assert f"weights and KV cache of {tokens} tokens" in result.output
    sizes = load_family(cli.common.FAMILIES / FAMILY).served_in(2).table
    told = re.findall(r"\d+\.\dMiB", result.output)
    assert told == [format_bytes(row.footprint_bytes(tokens)) for row in sizes.rows]


@pytest.mark.parametrize("command", [COMPARE, ["make", "--teacher", "x", "--out", "o"]])
@pytest.mark.parametrize("seed", ["-1", str(2**70)])
def test_a_seed_that_no_generator_takes(command: list[str], seed: str) -> None:
    result = run(*command, "--seed", seed)
    assert result.exit_code == 2
    assert "seed" in result.output
    assert "Traceback" not in result.output


INSIDE = {
    "make": ["--teacher", "./t", "--text", "t", "--out"],
    "import": ["--teacher", "t", "--student", "t", "--out"],
    "evaluate": [FAMILY, "--text", "t", "--out"],
    "compare": [FAMILY, "--text", "t", "--out"],
    "search ladder": [FAMILY, "--text", "t", "--out"],
    "search layout": ["--teacher", "./t", "--text", "t", "--out"],
    "export": [FAMILY, "--size", "teacher", "--out"],
}


@pytest.mark.parametrize("command", INSIDE)
def test_results_do_not_go_into_a_family(command: str, tmp_path: Path) -> None:
    """Which would not be whole with them, and no command would take it any more."""
    (tmp_path / "family.json").write_text("{}")
    place = tmp_path / "results" / "out"
    result = run(*command.split(), *INSIDE[command], str(place))
    assert result.exit_code == 2
    expected = "lies in a family folder, which holds only what it lists\n"
    assert result.output.endswith(expected), result.output
    assert not place.parent.exists()


def test_nor_into_the_family_itself(tmp_path: Path) -> None:
    (tmp_path / "family.json").write_text("{}")
    result = run("evaluate", FAMILY, "--text", "t", "--out", str(tmp_path))
    assert "lies in a family folder" in result.output


@pytest.mark.parametrize("command", INSIDE)
def test_a_place_of_the_wrong_kind_shows_before_the_work(command: str, tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.touch()
    folder.mkdir()
    for place in (file, folder):
        result = run(*command.split(), *INSIDE[command], str(place))
        assert result.exit_code == 2
        if f"{place} is a" in result.output:
            return
    pytest.fail("neither was refused")
