"""End vLLM's own processes at once, when vLLM has finished with them.

Python would first take the heap apart, object by object, for memory that the exit frees anyway:
two seconds of CPU time per process, one process after another.
"""

import atexit
import multiprocessing
import os
import sys


def skip_teardown() -> None:
    """Called at the end of a shutdown: what is left to run then is vLLM's, not Python's.

    Does nothing in a process that is not vLLM's own, or that ends with an error: the status by
    which its parent learns of it is Python's to give.
    """
    error = sys.exc_info()[1]
    clean = error is None or (isinstance(error, SystemExit) and not error.code)
    if clean and multiprocessing.parent_process() is not None:
        atexit.register(os._exit, 0)
