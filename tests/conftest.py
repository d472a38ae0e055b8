"""One thread for each process of the tests: their matrices are tiny, and threads that wait spin."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded; processes inherit it
