"""The rows that a text is scored on: its beginning, of which alone a long one is tokenised."""

from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from boomerang_core.errors import DataError
from boomerang_core.text.evaluation import Sample, detokenise
from tests.core.conftest import tiny_tokenizer
from tests.core.rows import isolate_library, talk, write_rows, write_table

PROSE = "\n\n".join(topics.values())  # 465,000 characters, comes with every Python
LONG_LINES = PROSE.replace("\n\n", "\r").replace("\n", " ").replace("\r", "\n")
WORDWISE = PROSE.replace(" the ", " <unk> ").replace(",", " ,").replace("\n\n", " \n = A = \n ")


class ByteLevel:
    """A tokenizer such as most teachers have, which joins line ends too, and counts its work."""

    def __init__(self) -> None:
        self._tokenizer = Tokenizer(models.BPE())
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=1500, initial_alphabet=alphabet, show_progress=False
        )
        self._tokenizer.train_from_iterator([PROSE[:100_000]], trainer)
        self.characters = 0

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, Any]:
        self.characters += len(text)
        return {"input_ids": self._tokenizer.encode(text, add_special_tokens=False).ids}


@pytest.fixture(scope="module")
def tokenizer() -> ByteLevel:
    return ByteLevel()


@pytest.mark.parametrize("text", [PROSE, LONG_LINES, WORDWISE])
@pytest.mark.parametrize("tokens", [100, 3000, 20_000])
def test_the_rows_are_those_of_the_whole_text(
    text: str, tokens: int, tokenizer: ByteLevel, tmp_path: Path
) -> None:
    (path := tmp_path / "text").write_text(text)
    plain = detokenise(text) if text is WORDWISE else text
    whole = tokenizer(plain, False)["input_ids"]
    tokenizer.characters = 0
    rows = Sample(path, tokens, 100).rows(tokenizer)
    assert len(rows) == -(-tokens // 99)
    assert rows.flatten().tolist() == whole[: rows.numel()]
    if tokens == 100:
        assert tokenizer.characters < len(text) / 10


def test_text_of_one_line(tokenizer: ByteLevel, tmp_path: Path) -> None:
    line = " ".join(PROSE.split())
    (path := tmp_path / "text").write_text(line)
    whole = torch.tensor(tokenizer(line, False)["input_ids"])
    assert torch.equal(Sample(path, 99, 100).rows(tokenizer), whole[None, :100])


def test_too_short_a_text_says_what_it_has(tokenizer: ByteLevel, tmp_path: Path) -> None:
    (path := tmp_path / "text").write_text(PROSE)
    tokens = len(tokenizer(PROSE, False)["input_ids"])
    with pytest.raises(DataError, match=f"has {tokens} tokens; scoring {tokens} takes"):
        Sample(path, tokens, 100).rows(tokenizer)


class TestForms:
    """A text is the same in every form that training reads too."""

    SENTENCE = " ".join(f"w{word}" for word in range(4, 60))

    @pytest.fixture(autouse=True)
    def library(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        isolate_library(monkeypatch, tmp_path / "cache")

    def rows(self, path: str | Path) -> list[list[int]]:
        found: list[list[int]] = Sample(Path(path), 49, 8).rows(tiny_tokenizer()).tolist()
        return found

    def test_one_sentence(self, tmp_path: Path) -> None:
        row = [{"text": self.SENTENCE}]
        (plain := tmp_path / "a.txt").write_text(self.SENTENCE)
        (page := tmp_path / "a.html").write_text(f"<p>{self.SENTENCE}</p>")
        assert self.rows(plain) == torch.arange(4, 60).view(7, 8).tolist()
        assert self.rows(write_rows(tmp_path / "a.jsonl", row)) == self.rows(plain)
        assert self.rows(write_table(tmp_path / "a.parquet", row)) == self.rows(plain)
        assert self.rows(page) == self.rows(plain)

    def test_chat_goes_through_the_template(self, tmp_path: Path) -> None:
        source = write_rows(tmp_path / "a.jsonl", [{"messages": talk(self.SENTENCE, " w4")}])
        assert self.rows(source) == torch.arange(4, 60).view(7, 8).tolist()

    def test_what_is_passed_over_is_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = write_rows(tmp_path / "a.jsonl", [{"text": self.SENTENCE}, {"text": 4}])
        assert len(self.rows(source)) == 7
        assert "a.jsonl: passed over: 1 of 2 records" in capsys.readouterr().err
