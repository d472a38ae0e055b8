"""The prompts of a body."""

from types import SimpleNamespace

from server.prompts import about_tokens


def test_a_prompt_is_as_long_as_its_parts() -> None:
    """Parts may be text, texts, pictures, or all of them."""
    parts: list[object] = [{"type": "text", "text": "abcd" * 10}, "efgh" * 5, {"type": "image"}]
    mixed = SimpleNamespace(messages=[{"role": "user", "content": parts}])
    whole = SimpleNamespace(messages=[{"role": "user", "content": "abcd" * 15}])
    assert about_tokens(mixed) == about_tokens(whole)
    assert about_tokens(SimpleNamespace(prompt=[5, 6, 7])) == 3
    said = SimpleNamespace(content=[SimpleNamespace(text="abcd" * 5), SimpleNamespace(url="x")])
    items = [{"role": "user", "content": "abcd" * 10}, said, SimpleNamespace(call_id="x")]
    assert about_tokens(SimpleNamespace(prompt=None, input=items)) == about_tokens(whole)
    assert about_tokens(SimpleNamespace(prompt=None, input="abcd" * 15)) == about_tokens(whole)
