"""In which number format a server holds weights, activations and the KV cache."""

from dataclasses import dataclass

from server.engine.compat import built_for_cpu

_BYTES = {"auto": 2, "bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class Precision:
    """vLLM's name of a number format (`auto`: bfloat16 or float16), and bytes of a number."""

    dtype: str
    bytes_per_param: int


def served_precision(asked: str) -> Precision:
    """The format to serve in.

    `auto` is float32 on a CPU: without bfloat16 instructions a batch takes several times as long
    in bfloat16 (docs/log.md).  On a GPU it is vLLM's choice.
    """
    dtype = "float32" if asked == "auto" and built_for_cpu() else asked
    return Precision(dtype, _BYTES[dtype])
