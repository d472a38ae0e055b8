"""Boomerang's offline lane: checkpoint → blocks → student → ladder → family folder.

The modules `errors`, `blocks`, `ladder`, `route`, `footprint`, `sizes` and `family`
are pure: they import no torch, transformers or vllm.
"""

__version__ = "0.1.0"
