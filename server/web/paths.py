"""Paths that more than their own endpoint knows of."""

COMPLETIONS = ("/v1/completions", "/v1/chat/completions", "/v1/responses")
"""Paths that run something: their responses are counted, and what is refused there is lost."""

TOKENIZING = ("/tokenize", "/detokenize")
"""Paths that need the engine's tokenizer and run nothing; vLLM's names, which have no `/v1`."""

PROBES = frozenset({"/live", "/ready", "/health", "/metrics"})
"""Paths that machines ask again and again: they need no key, and are not logged."""
