"""Command line of the benchmark."""

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.gpu_layers.checks import check
from bench.gpu_layers.report import markdown
from bench.gpu_layers.routes import SHAPES, TINY, Shape
from bench.gpu_layers.shape_run import TINY_SETTINGS, Bench, Settings
from bench.gpu_layers.timing import Clock, measure_ceilings
from bench.gpu_layers.weights import Maker
from boomerang_core.files import save_json, write_atomically
from boomerang_core.provenance import provenance

SEED = 0


def _arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_layers", description=__doc__)
    parser.add_argument("--shapes", default=",".join(SHAPES), help="comma-separated names")
    parser.add_argument("--out", type=Path, required=True, help="folder of the reports")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape, to test the benchmark")
    arguments = parser.parse_args(words)
    names = arguments.shapes.split(",")
    if unknown := sorted(set(names) - set(SHAPES)):
        parser.error(f"unknown shapes {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device; --device cpu --tiny tests the benchmark without one")
    if arguments.device == "cpu" and not arguments.tiny:
        parser.error("--device cpu needs --tiny")
    arguments.shapes = [TINY] if arguments.tiny else [SHAPES[name] for name in names]
    return arguments


def run(device: torch.device, shapes: list[Shape], settings: Settings) -> dict[str, Any]:
    """Check, then measure every shape; AssertionError where a check fails."""
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("highest")  # the checks compare float32, not TF32
    checks = check(device)
    print(f"checks: {len(checks)} comparisons hold, largest difference {max(checks.values()):.1e}")
    cuda = device.type == "cuda"
    make = Maker(device, torch.bfloat16 if cuda else torch.float32)
    clock = Clock(device)
    ceilings = measure_ceilings(
        clock, make, settings.ceiling_elements, settings.ceiling_width, settings.prefill_rounds
    )
    bench = Bench(make, clock, ceilings, settings)
    measured = []
    for shape in shapes:
        start = time.perf_counter()
        measured.append(bench.run(shape))
        if cuda:
            torch.cuda.empty_cache()
        print(f"{shape.name}: {time.perf_counter() - start:.1f} s", flush=True)
    return {
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "torch": torch.__version__,
        "dtype": str(make.dtype).removeprefix("torch."),
        "modes": list(bench.modes),
        "settings": asdict(settings),
        "checks": checks,
        "ceilings": asdict(ceilings),
        "shapes": measured,
    }


def main(words: list[str]) -> int:
    """Write `gpu_layers.json` and `gpu_layers.md`; non-zero where a check fails."""
    arguments = _arguments(words)
    settings = TINY_SETTINGS if arguments.tiny else Settings()
    if arguments.device == "cpu":
        torch.set_num_threads(1)  # tiny matrices are slower on several threads
    result = run(torch.device(arguments.device), arguments.shapes, settings)
    result = {**provenance(seed=SEED), **result}
    save_json(result, arguments.out / "gpu_layers.json")
    report = markdown(result)
    path = arguments.out / "gpu_layers.md"
    write_atomically(path, lambda temporary: _write(temporary, report))
    print(report)
    return 0


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
