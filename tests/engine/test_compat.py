"""The contract with vLLM: every internal name that we touch is still there."""

import ast
from pathlib import Path

import pytest

from boomerang_core.errors import ArchitectureError, SettingsError
from server.engine import compat
from server.engine.rows import row_of

ENGINE = Path(compat.__file__).parent


def test_no_name_is_missing() -> None:
    assert compat.missing_names() == ()


def test_the_installed_version_is_the_pinned_one() -> None:
    compat.check_version()


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "VERSION", "0.31")
    with pytest.raises(SettingsError, match=r"vLLM 0\.31"):
        compat.check_version()


def test_a_lost_name_and_a_lost_parameter_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "NAMES", {"Gone": "vllm:Gone"})
    monkeypatch.setattr(compat, "MEMBERS", {"vllm:SamplingParams": ("gone",)})
    assert compat.missing_names() == ("vllm:Gone", "vllm:SamplingParams(gone)")


def test_a_name_outside_the_table_does_not_resolve() -> None:
    with pytest.raises(AttributeError, match="not in the table"):
        compat.Anything  # noqa: B018


def test_every_name_that_is_imported_from_compat_is_in_the_table() -> None:
    for file in ENGINE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "server.engine.compat":
                unknown = {alias.name for alias in node.names} - compat.NAMES.keys()
                assert not unknown, f"{file.name} imports {unknown}"


def test_gpt_neox_is_refused_clearly() -> None:
    with pytest.raises(ArchitectureError, match="GPTNeoXForCausalLM cannot be served"):
        row_of("GPTNeoXForCausalLM")
