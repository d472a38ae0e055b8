"""The prompts of a completion's body."""

from typing import Any


def prompts_of(prompt: Any) -> list[Any]:
    """Each prompt of a field `prompt`: one text, one list of token ids, or a list of either."""
    several = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
    return prompt if several else [prompt]
