"""Every command that the pages show is one that the command line takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from server.cli import app

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/families.md", "docs/operations.md", "docs/clients.md")
COMMAND = r"(?:boomerang|python -m boomerang_core) "
COUNT = re.compile(r"[A-Z]")
"""What stands for a number in an example."""


def found(pattern: str) -> list[str]:
    """What follows `boomerang` in every page, where the pattern's one group finds it."""
    texts = ((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    return sorted({match for text in texts for match in re.findall(pattern, text, re.MULTILINE)})


WHOLE = found(rf"^{COMMAND}([^#\n]*[^#\s])")
NAMED = found(rf"`{COMMAND}([^`]+)`")


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the first words name, and the words after them."""
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def example(words: list[str]) -> Iterator[str]:
    """The words, with a number for the letter that stands for one."""
    return ("1" if COUNT.fullmatch(word) else word for word in words)


@pytest.mark.parametrize("line", WHOLE)
def test_a_line_is_a_whole_command(line: str) -> None:
    """With every argument that it must have, and no option that there is not."""
    command, words = command_of(shlex.split(line))
    assert not hasattr(command, "commands"), f"there is no command {line.split()[0]}"
    command.make_context(command.name, list(example(words)))


@pytest.mark.parametrize("text", NAMED)
def test_what_prose_names_is_there(text: str) -> None:
    command, words = command_of(text.split())
    assert command_of([])[0] is not command, f"there is no command {text.split()[0]}"
    options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("line", [line for line in WHOLE if line.startswith("compare ")])
def test_baselines_are_given_what_they_need(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run on the shipped family, all that an example lacks is its text."""
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line.replace("my-family", "smollm2-135m"))
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert result.output.startswith("error: cannot read evaluation text from FILE")


def test_pages_show_commands() -> None:
    """So that a changed pattern does not make all of this empty."""
    assert {line.split()[0] for line in WHOLE} >= {"make", "compare", "search", "serve", "sizes"}
    assert any(text.startswith("sample ") for text in NAMED)
