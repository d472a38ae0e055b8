"""The page's files and headers; no browser, no engine."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from boomerang_core.errors import FamilyError
from boomerang_core.family import load_family, naive_quality
from server.routes.page import FILES, page_router

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "server" / "page"
FAMILY = ROOT / "boomerang_core" / "families" / "smollm2-135m"


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.include_router(page_router())
    return TestClient(app)


@pytest.mark.parametrize("path", FILES)
def test_every_file_is_served_with_strict_headers(client: TestClient, path: str) -> None:
    name, media_type = FILES[path]
    reply = client.get(path)
    assert reply.status_code == 200
    assert reply.content == (FOLDER / name).read_bytes()
    assert reply.headers["content-type"].split(";")[0] == media_type
    policy = reply.headers["content-security-policy"].split("; ")
    assert policy[0] == "default-src 'none'"
    assert "frame-ancestors 'none'" in policy
    sources = {source for rule in policy for source in rule.split()[1:]}
    assert sources == {"'none'", "'self'"}
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"


def test_the_folder_holds_what_is_served_and_no_more(client: TestClient) -> None:
    assert {path.name for path in FOLDER.iterdir()} == {name for name, _ in FILES.values()}
    for path in ("/page/", "/page/../app.py", "/page/%2e%2e/app.py", "/page.js", "/index.html"):
        assert client.get(path).status_code == 404, path


def test_what_the_files_name_is_served() -> None:
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert {f"/{name}" for name in re.findall(r'(?:href|src)="([^#"]+)"', page)} <= FILES.keys()
    for script in FOLDER.glob("*.js"):
        for name in re.findall(r'from "\./([\w.]+)"', script.read_text(encoding="utf-8")):
            assert f"/page/{name}" in FILES, name


def test_nothing_comes_from_elsewhere_and_nothing_is_inline() -> None:
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|url\(|@import|\beval\b|innerHTML", text), path.name


def test_nothing_is_kept_by_the_browser() -> None:
    for path in FOLDER.glob("*.js"):
        assert not re.search(r"Storage|indexedDB|cookie", path.read_text(encoding="utf-8"))


def test_the_wheel_carries_the_page(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "server", source / "server")
    (source / "boomerang_core").mkdir()
    (source / "boomerang_core" / "__init__.py").touch()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(source)], check=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {f"server/page/{name}" for name, _ in FILES.values()} <= packed


def test_naive_pruning_of_the_shipped_family() -> None:
    family = load_family(FAMILY)
    found = naive_quality(family)
    assert [quality.kl for quality in found if quality] == [
        row["kl"] for row in json.loads((FAMILY / "report" / "naive.json").read_text())
    ]
    assert len(found) == len(family.rows)


@pytest.mark.parametrize("text", ["{", "[]", "[1]", '[{"layers": 17}]'])
def test_a_record_of_naive_pruning_that_is_not_the_familys(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "family"
    shutil.copytree(FAMILY, folder)
    family = load_family(folder)
    (folder / "report" / "naive.json").write_text(text)
    with pytest.raises(FamilyError, match=r"naive\.json does not list the sizes of smollm2-135m"):
        naive_quality(family)
    (folder / "report" / "naive.json").unlink()
    assert set(naive_quality(family)) == {None}
