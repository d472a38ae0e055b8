"""What a family says of the text that its sizes were measured on."""

from pathlib import Path
from typing import Any

import pytest

from boomerang_core.distill.prepared import written_share
from boomerang_core.evaluate.ladder import Measured
from boomerang_core.evaluate.record import evaluation_note
from boomerang_core.sizes import Quality


@pytest.mark.parametrize(
    ("name", "text", "reading"),
    [
        ("text.jsonl", '{"text": "words of <unk>"}', "read as training text is"),
        ("text.html", "<p>Words of &lt;unk>.</p>", "read as training text is"),
        ("text.txt", "Plain prose, as people write it.", "as it is"),
        (
            "text.txt",
            " = Heading = \n words of <unk> . And @-@ more .\n",
            "detokenised, sentences with <unk>",
        ),
    ],
)
def test_the_note_says_what_was_done_with_the_text(
    name: str, text: str, reading: str, tmp_path: Path
) -> None:
    """Only a text with `<unk>` is detokenised."""
    path = tmp_path / name
    path.write_text(text)
    quality = [Quality(0.0, 1.0, 2.0, 100)]
    note = evaluation_note(Measured(quality, quality), path)
    assert note["note"].startswith(reading)
    assert note["note"].endswith("not comparable with published perplexities")
    assert note["text"] == name


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({"sources": [{"tokens": 300}], "teacher": 100}, ", of which the teacher wrote about 25%"),
        ({"sources": [], "teacher": 100}, ", of which the teacher wrote about 100%"),
        ({"sources": [{"tokens": 300}, {"tokens": 1}], "teacher": 0}, ""),
    ],
)
def test_the_note_says_how_much_of_it_the_teacher_wrote(counts: dict[str, Any], told: str) -> None:
    quality = [Quality(0.0, 1.0, 2.0, 100)]
    note = evaluation_note(Measured(quality, quality), None, written_share(counts))
    assert note["text"] == f"held-out documents of the recipe's own text{told}"
