"""The contract with vLLM: every internal name that we touch is still there."""

import ast
from pathlib import Path

import pytest

from boomerang_core.errors import ArchitectureError, SettingsError
from server.engine import compat
from server.engine.architectures import engine_architecture

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
    monkeypatch.setattr(compat, "NAMES", compat.NAMES | {"Gone": "vllm:Gone"})
    monkeypatch.setattr(compat, "MEMBERS", {"vllm:LLM.generate": ("gone",)})
    assert compat.missing_names() == ("vllm:Gone", "vllm:LLM.generate(gone)")


def test_only_the_names_of_the_platform_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {"Cpu": "vllm:Cpu", "Gpu": "vllm:Gpu", "Both": "vllm:Both"}
    monkeypatch.setattr(compat, "NAMES", compat.NAMES | gone)
    monkeypatch.setattr(compat, "ONLY_ON", {"vllm:Cpu": "cpu", "vllm:Gpu": "gpu"})
    monkeypatch.setattr(compat, "platform", lambda: "cpu")
    assert compat.missing_names() == ("vllm:Cpu", "vllm:Both")
    monkeypatch.setattr(compat, "platform", lambda: "gpu")
    assert compat.missing_names() == ("vllm:Gpu", "vllm:Both")


def test_the_table_of_platforms_names_what_the_others_name() -> None:
    assert compat.ONLY_ON.keys() <= {*compat.NAMES.values(), *compat.MEMBERS}


def test_only_the_cpu_worker_needs_what_the_cpu_alone_has() -> None:
    targets = {compat.NAMES[name] for name in imported("worker.py") | imported("runner.py")}
    assert not {target for target in targets if compat.ONLY_ON.get(target) == "cpu"}


def imported(file: str) -> set[str]:
    """What a file of the engine imports from the table."""
    return {
        alias.name
        for node in ast.walk(ast.parse((ENGINE / file).read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "server.engine.compat"
        for alias in node.names
    }


def test_a_name_outside_the_table_does_not_resolve() -> None:
    with pytest.raises(AttributeError, match="not in the table"):
        compat.Anything  # noqa: B018


def test_every_name_that_is_imported_from_compat_is_in_the_table() -> None:
    for file in ENGINE.glob("*.py"):
        unknown = imported(file.name) - compat.NAMES.keys()
        assert not unknown, f"{file.name} imports {unknown}"


def test_gpt_neox_is_refused_clearly() -> None:
    with pytest.raises(ArchitectureError, match="GPTNeoXForCausalLM cannot be served"):
        engine_architecture("GPTNeoXForCausalLM")
