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
}
"""What constrained an answer → the field of `structured_outputs` that does so now."""
_BESIDE = ("guided_decoding_backend", "guided_whitespace_pattern")
"""What said how to."""
WITHDRAWN = frozenset({*_CONSTRAINTS, *_BESIDE, "best_of"})


def refuse_withdrawn(fields: Mapping[str, Any], choices: int | None) -> None:
    """Raise `SizeError` for such a field that asks for something, saying what took its place.

    `choices`: the request's `n`, beside which an equal `best_of` asks for nothing.
    """
    for name in sorted(WITHDRAWN & fields.keys()):
        value = fields[name]
        if value is None or value is False or (name == "best_of" and value in (1, choices)):
            continue
        raise SizeError(f"vLLM no longer has {name}, and would ignore it; {_instead(name)}", name)


def _instead(name: str) -> str:
    if name == "best_of":
        return "ask for n answers and choose among them"
    if name in _BESIDE:
        return 'see "structured_outputs", which constrains answers now'
    return f'use "structured_outputs": {{"{_CONSTRAINTS[name]}": …}}'
