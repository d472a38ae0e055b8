"""Fields that vLLM once had: it ignores them now, and answers what was not asked for.  Pure."""

from collections.abc import Mapping
from typing import Any

from boomerang_core.errors import SizeError

_CONSTRAINTS = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "guided_json_object": "json_object",
    "guided_whitespace_pattern": "whitespace_pattern",
}
"""What constrained an answer → the field of `structured_outputs` that does so now."""


def refuse_withdrawn(fields: Mapping[str, Any]) -> None:
    """Raise `SizeError` for such a field, saying what took its place; null counts as left out."""
    for name, key in _CONSTRAINTS.items():
        if fields.get(name) is not None:
            told = f'use "structured_outputs": {{"{key}": …}}'
            raise SizeError(f"vLLM no longer has {name}, and would ignore it; {told}", name)
    if fields.get("best_of") not in (None, 1):
        told = "ask for n answers and choose among them"
        raise SizeError(f"vLLM no longer has best_of, and would ignore it; {told}", "best_of")
