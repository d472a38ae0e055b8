"""Choosing a size by load: measured steps → predicted latency → the largest size in time.

Pure: no torch, no vLLM, no HTTP, and no clock of its own; every moment comes in as `now`, in
seconds.  `tracker.py` follows the requests, `costs.py` learns what a step takes, `prediction.py`
says what both lead to at a size, `chooser.py` chooses.
"""
