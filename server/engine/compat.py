"""Every vLLM name that Boomerang touches, in one place, for one pinned minor version.

The other modules of `server.engine` import vLLM names from here and nowhere else, so a change in
vLLM shows up in one place.  Names resolve on first use (PEP 562): a front-end process that only
needs the scheduler never imports a worker.  `tests/engine/test_compat.py` reads the tables
(`vllm_names.py`) and fails with the name that is gone.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from boomerang_core.errors import SettingsError
from server.engine.vllm_names import MEMBERS, NAMES, ONLY_ON, VERSION


def _resolve(target: str) -> Any:
    """Import ``module`` or ``module:dotted.attribute``."""
    module_name, _, path = target.partition(":")
    found = importlib.import_module(module_name)
    for attribute in filter(None, path.split(".")):
        found = getattr(found, attribute)
    return found


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"{name!r} is not in the table of vLLM names")
    return globals().setdefault(name, _resolve(NAMES[name]))


def platform() -> str:
    """The platform of the installed vLLM, as far as we tell them apart: ``cpu`` or ``gpu``."""
    return "cpu" if _resolve(NAMES["current_platform"]).is_cpu() else "gpu"


def missing_names() -> tuple[str, ...]:
    """What the installed vLLM lacks of what its platform needs.

    A lost parameter reads ``name(param)``.
    """
    here = platform()
    missing = []
    for target, parameters in {**dict.fromkeys(NAMES.values(), ()), **MEMBERS}.items():
        if ONLY_ON.get(target, here) != here:
            continue
        try:
            found = _resolve(target)
        except (ImportError, AttributeError):
            missing.append(target)
            continue
        if parameters:
            known = inspect.signature(found).parameters
            missing += [f"{target}({name})" for name in parameters if name not in known]
    return tuple(missing)


def check_version() -> None:
    """Raise `SettingsError` unless the installed vLLM is of the pinned minor version."""
    installed = str(_resolve("vllm:__version__"))
    if installed.split(".")[:2] != VERSION.split("."):
        raise SettingsError(f"this version serves with vLLM {VERSION}.*, found {installed}")


def cpu_runner_class(runner: type) -> AbstractContextManager[None]:
    """Let `CPUWorker.init_device` build `runner`: it names its runner class as a module global.

    The GPU worker has a hook for this (`_make_model_runner`); the CPU worker has none in 0.32.
    """
    return _global("vllm.v1.worker.cpu_worker", "CPUModelRunner", runner)


def kv_cache_manager_class(manager: Callable[..., Any]) -> AbstractContextManager[None]:
    """Let `Scheduler.__init__` build `manager`: it names the class as a module global.

    Managers of single groups have a registry for this; the one above them has none in 0.32.
    """
    return _global("vllm.v1.core.sched.scheduler", "KVCacheManager", manager)


@contextmanager
def _global(module: str, name: str, value: Callable[..., Any]) -> Iterator[None]:
    """Replace a class that a module names, for as long as something is built with it."""
    namespace = _resolve(module)
    original = getattr(namespace, name)
    setattr(namespace, name, value)
    try:
        yield
    finally:
        setattr(namespace, name, original)
