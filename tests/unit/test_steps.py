"""What a step was made of, as the scheduler tells the front end."""

from server.engine.steps import composition


def test_rows_of_requests_that_decode_and_tokens_of_prompts() -> None:
    requests = [
        (0, 1, 10, 10),  # its first token after the prompt
        (0, 1, 25, 10),
        (3, 1, 9, 10),  # the last token of a prompt
        (3, 7, 0, 20),
    ]
    assert composition(requests) == ({"0": 2}, {"3": 8})


def test_an_empty_step() -> None:
    assert composition([]) == ({}, {})
