"""The prompts of a body, before vLLM gets it, and about how long they are."""

from typing import Any

_CHARS_PER_TOKEN = 4  # of English, about


def prompts_of(prompt: Any) -> list[Any]:
    """Each prompt of a field `prompt`: one text, one list of token ids, or a list of either."""
    several = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
    return prompt if several else [prompt]


def token_prompts(prompt: Any) -> list[list[int]]:
    """The prompts of a body that are given as token ids."""
    lists = (one for one in prompts_of(prompt) if isinstance(one, list))
    return [ids for ids in lists if ids and isinstance(ids[0], int)]


def about_tokens(request: Any) -> float | None:
    """About how long the longest prompt of a body is, before it is tokenised; None: no telling."""
    prompt = getattr(request, "prompt", None)
    if prompt:
        return max(_tokens_in(one) for one in prompts_of(prompt))
    if isinstance(given := getattr(request, "input", None), str):
        return _tokens_in(given)
    messages = given or getattr(request, "messages", ())
    return sum(_tokens_in(_of(one, "content")) for one in messages) if messages else None


def _of(part: Any, name: str) -> Any:
    """A field of what may be a dict or a model; the part itself where it is a text."""
    if isinstance(part, str):
        return part
    return part.get(name) if isinstance(part, dict) else getattr(part, name, None)


def _tokens_in(text: object) -> float:
    """Of text by its length; of token ids, their number; of parts, their sum; of all else, none."""
    if isinstance(text, str):
        return len(text) / _CHARS_PER_TOKEN
    if isinstance(text, list) and text and not isinstance(text[0], int):
        return sum(_tokens_in(_of(part, "text")) for part in text)
    return float(len(text)) if isinstance(text, list) else 0.0
