"""The online lane: one engine, any size, over HTTP."""
