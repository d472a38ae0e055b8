"""Boomerang's offline lane: checkpoint → blocks → student → ladder → family folder.

Modules that the HTTP process needs are pure: they import no torch, transformers or vllm.  The
modules of this folder import none of the folders in it; of these, each imports only those before
it: `text`, `evaluate`, `distill`, `baselines`, `compare`, `report`, `search`, `cli`.  Both are
tested in `tests/unit/test_arrows.py`.
"""

__version__ = "0.1.0"
