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
    "residency",
    "kv_groups",
    "precision",
)


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
