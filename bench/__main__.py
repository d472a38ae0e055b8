"""Every benchmark of the engine in one command and one report.

    python -m bench [FAMILY] [--out build/bench] [--pairs 7] [--only mixing …] [--report]

Runs each benchmark in a process of its own, one after another, and writes `NAME.json`, then
`report.md` and `report.png` from all that lie in the folder.  A benchmark whose file lies there
already is not run again; `--report` runs none.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.report import write_report
from boomerang_core.cli import family_folder
from boomerang_core.family import load_family
from boomerang_core.route import StudentKind


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's name in the report, its module and its arguments."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()


BENCHMARKS = (
    Benchmark("one-size", "bench.one_size"),
    Benchmark("one-size-merged", "bench.one_size", ("--merge",)),
    Benchmark("mixing", "bench.mixing"),
    Benchmark("mixing-merged", "bench.mixing", ("--merge",)),
    Benchmark("kv", "bench.kv"),
    Benchmark("bookkeeping", "bench.bookkeeping"),
    Benchmark("changes", "bench.changes"),
    Benchmark("speed-1", "bench.speed", ("--batch", "decode 1")),
    Benchmark("speed-16", "bench.speed", ("--batch", "decode 16")),
    Benchmark("processes", "bench.processes"),
)


def run(benchmark: Benchmark, family: Path, pairs: int, out: Path) -> None:
    """Run one benchmark into its file; its own messages go to the terminal."""
    file = out / f"{benchmark.name}.json"
    if file.exists():
        print(f"{file} is there", file=sys.stderr)
        return
    command = [sys.executable, "-m", benchmark.module, str(family), "--pairs", str(pairs)]
    command += [*benchmark.arguments, "--out", str(file)]
    print(f"{benchmark.name} …", file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def read(out: Path) -> dict[str, Any]:
    """Name → report, of the benchmarks that have run."""
    files = {each.name: out / f"{each.name}.json" for each in BENCHMARKS}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def main() -> None:
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family", type=Path, nargs="?", default=Path("smollm2-135m"))
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--pairs", type=int, default=7, help="measured rounds: default 7")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--report", action="store_true", help="write the report and run nothing")
    options = parser.parse_args()
    folder = family_folder(options.family)
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.report:
        is_full = load_family(folder).design.kind is StudentKind.FULL
        for benchmark in (each for each in BENCHMARKS if each.name in options.only):
            if is_full and "--merge" in benchmark.arguments:
                print(f"{benchmark.name}: the student is full, nothing to merge", file=sys.stderr)
                continue
            run(benchmark, folder, options.pairs, options.out)
    write_report(read(options.out), options.out)


if __name__ == "__main__":
    main()
