"""The arrows between packages, read from the code's own imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.imports import ROOT, heavy_after

PURE = (
    "errors",
    "blocks",
    "ladder",
    "route",
    "footprint",
    "sizes",
    "family",
    "memory_plan",
    "kv_groups",
    "precision",
)

FOLDERS = ("text", "evaluate", "distill", "baselines", "compare", "report", "search", "cli")
"""Those of the core; each imports only those before it, and the core's own modules import none."""


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def importers(folder: str, package: str) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*.py")
        if any(name.split(".")[0] == package for name in imports(path))
    }


def test_the_core_does_not_import_the_server() -> None:
    assert importers("boomerang_core", "server") == set()
    assert importers("server", "boomerang_core")


def test_the_folders_of_the_core_import_only_those_before_them() -> None:
    core = ROOT / "boomerang_core"
    assert {path.parent.name for path in core.glob("*/__init__.py")} == set(FOLDERS)
    for path in core.rglob("*.py"):
        at = path.relative_to(core).parts[0]
        allowed = FOLDERS[: FOLDERS.index(at) + 1] if at in FOLDERS else ()
        named = (name.split(".") for name in imports(path) if name.startswith("boomerang_core."))
        used = {parts[1] for parts in named if parts[1] in FOLDERS}
        assert path.name == "__main__.py" or used <= set(allowed), path


def test_only_the_engine_imports_vllm() -> None:
    assert importers("boomerang_core", "vllm") == set()
    assert {path for path in importers("server", "vllm") if "server/engine/" not in path} == set()


def test_pure_modules_load_no_framework() -> None:
    assert heavy_after("import " + ", ".join(f"boomerang_core.{name}" for name in PURE)) == []


def test_choosing_a_size_loads_no_framework_and_no_http() -> None:
    assert heavy_after("import server.load.chooser") == []
    for module in ("costs", "tracker", "chooser"):
        names = set(imports(ROOT / "server" / "load" / f"{module}.py"))
        assert not {name.split(".")[0] for name in names} & {"time", "fastapi", "starlette"}
