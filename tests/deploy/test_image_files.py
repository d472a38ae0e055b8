"""The Dockerfile and what goes into it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.deploy.charts import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert hadolint, "hadolint comes with requirements/dev.txt"
    done = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_targets_and_base() -> None:
    assert {"cpu", "gpu"} <= set(re.findall(r" AS (\w+)$", DOCKERFILE, re.MULTILINE))
    assert "\nARG BASE=" in DOCKERFILE.partition("\nFROM ")[0]
    for final in DOCKERFILE.split("FROM runtime AS ")[1:]:
        assert "\nUSER 10001:10001\n" in final


def test_what_is_copied_is_let_in() -> None:
    allowed = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        for word in line.split()
    }
    assert {
        re.sub(r"requirements/\w+\.txt", "requirements/*.txt", word) for word in copied
    } == allowed


def test_packages_are_pinned() -> None:
    for name in ("cpu", "gpu"):
        lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()[1:]
        assert len(lines) > 100
        assert all(re.fullmatch(r"[a-z0-9.-]+==[\w.]+", line) for line in lines)
