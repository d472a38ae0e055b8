"""What a fresh interpreter has loaded: heavy packages must not come along with light modules."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "vllm", "matplotlib")


def heavy_after(code: str) -> list[str]:
    """The heavy packages that are loaded after `code`."""
    asks = f"import sys\n{code}\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()
