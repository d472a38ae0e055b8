"""Ends processes at once: our own and vLLM's when they have finished, and those that hang.

Python would first take the heap apart, object by object, for memory that the exit frees anyway:
two seconds of CPU time per process, one process after another.
"""

import atexit
import multiprocessing
import os
import sys
from contextlib import suppress

import psutil


def exit_now(status: int) -> None:
    """End this process, once what it registered for its exit has run."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def skip_teardown() -> None:
    """Let a process of vLLM's end so; called at the end of a shutdown, when only vLLM's is left.

    Does nothing in a process that is not vLLM's own, or that ends with an error: the status by
    which its parent learns of it is Python's to give.
    """
    error = sys.exc_info()[1]
    clean = error is None or (isinstance(error, SystemExit) and not error.code)
    if clean and multiprocessing.parent_process() is not None:
        atexit.register(os._exit, 0)


def kill_children() -> None:
    """SIGKILL the processes that this one has started, and theirs: a stopped one obeys no other.

    The parents go first: the death of a child would have them report it.
    """
    for child in multiprocessing.active_children():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(child.pid)
            for each in (process, *process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
