"""A stand-in for the hub's client: `hf download` of a repository that is a folder on this disk."""

import argparse
import os
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path


def main() -> None:
    """Copy what the file names, or else the patterns, choose, as the real client does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["download"])
    parser.add_argument("repository")
    parser.add_argument("filenames", nargs="*")
    parser.add_argument("--revision", required=True)
    parser.add_argument("--local-dir", type=Path, required=True)
    parser.add_argument("--include", action="append", default=[])
    parser.add_argument("--exclude", action="append", default=[])
    parser.add_argument("--quiet", action="store_true")
    given = parser.parse_intermixed_args()
    if os.environ["FAILS"]:
        sys.exit(1)
    chosen = given.filenames or given.include or ["*"]
    unwanted = [] if given.filenames else given.exclude
    root = Path(os.environ["HUB"], given.repository, given.revision)
    for file in (path for path in root.rglob("*") if path.is_file()):
        name = file.relative_to(root).as_posix()
        matches = [[fnmatch(name, pattern) for pattern in each] for each in (chosen, unwanted)]
        if any(matches[0]) and not any(matches[1]):
            copy = given.local_dir / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    notes = given.local_dir / ".cache" / "huggingface"
    notes.mkdir(parents=True, exist_ok=True)
    (notes / "note.metadata").touch()


if __name__ == "__main__":
    main()
