"""What the teacher writes: until there is enough, and into a file that gives it back."""

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm import tqdm

from boomerang_core.distill import sampling
from boomerang_core.distill.prepared import told_of_written
from boomerang_core.distill.prompts import teacher_prompts
from boomerang_core.distill.sampling import sample_documents, save_samples
from boomerang_core.errors import DataError
from boomerang_core.text.documents import Drawn, Text, read_text
from tests.core.conftest import tiny_teacher, tiny_tokenizer
from tests.core.rows import ALL, counted, ids, read


def test_it_writes_no_more_where_no_bar_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TQDM_DISABLE=1 makes every bar one that counts nothing."""
    monkeypatch.setattr(sampling, "tqdm", functools.partial(tqdm, disable=True))
    batches = itertools.chain([[torch.arange(6)] * 4] * 3, itertools.repeat(None))
    monkeypatch.setattr(sampling, "_generate", lambda *_: next(batches))
    asked = itertools.repeat(torch.arange(2))
    found = sample_documents(None, None, asked, 50, seed=0, parts=tmp_path, rows=4)
    assert sum(map(len, found)) == 3 * 4 * 6
    assert len(list(tmp_path.iterdir())) == 3


class TestDistribution:
    """What a checkpoint recommends for chat does not change what its teacher writes."""

    PROMPTS = (torch.arange(4, 9), torch.arange(9, 12))

    def write(self, model: Any) -> list[list[int]]:
        torch.manual_seed(0)
        found = sampling._generate(model, tiny_tokenizer(), self.PROMPTS, 40)
        return [document.tolist() for document in found]

    def test_recommended_settings_are_set_aside(self) -> None:
        model = tiny_teacher("llama", True)
        plain = self.write(model)
        model.generation_config.update(
            repetition_penalty=3.0, no_repeat_ngram_size=1, min_p=0.5, max_length=4
        )
        recommended = model.generation_config
        assert self.write(model) == plain
        assert model.generation_config is recommended

    def test_every_end_token_ends_a_document(self) -> None:
        model = tiny_teacher("llama", True)
        whole = self.write(model)[0]
        other = whole[7]
        model.generation_config.eos_token_id = [2, other]
        first = whole.index(other, len(self.PROMPTS[0]))
        assert self.write(model)[0] == whole[: first + 1]


class TestSamples:
    @pytest.fixture
    def written(self) -> list[Drawn]:
        """Documents whose text alone would not give their ids back."""
        random_ids = [[1, 5, 3, 2], [0, 63], [4, 4, 4]]
        return [
            Drawn("teacher", chat, torch.tensor(each))
            for each, chat in zip(random_ids, (True, False, True), strict=True)
        ]

    def test_the_same_token_ids_come_back(self, tmp_path: Path, written: list[Drawn]) -> None:
        path = tmp_path / "samples.jsonl"
        assert save_samples(iter(written), tiny_tokenizer(), path) == written
        text = read(str(path))
        assert sorted(ids(text)) == sorted(document.ids.tolist() for document in written)
        assert counted(text) == {False: 2, True: 7}
        assert list(tmp_path.iterdir()) == [path]

    def test_half_written_samples_are_none(self, tmp_path: Path, written: list[Drawn]) -> None:
        def broken() -> Iterator[Drawn]:
            yield written[0]
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            save_samples(broken(), tiny_tokenizer(), tmp_path / "samples.jsonl")
        assert list(tmp_path.iterdir()) == []

    def test_another_tokenizer_is_noticed(self, tmp_path: Path, written: list[Drawn]) -> None:
        path = tmp_path / "samples.jsonl"
        save_samples(iter(written), tiny_tokenizer(), path)
        other = tiny_tokenizer()
        other.add_tokens(["w64"])
        path.write_text(path.read_text().replace("[4, 4, 4]", "[4, 4, 64]"))
        with pytest.raises(DataError, match="line 3 has a token outside"):
            read(str(path))
        with pytest.raises(DataError, match="line 3: its tokens are not those of the teacher"):
            read_text([str(path)], other, ALL, 0)

    def test_prompts_say_which_are_chat(self) -> None:
        kinds = [prompt.chat for prompt in itertools.islice(_tagged(tiny_tokenizer()), 20)]
        assert kinds[:3] == [False, True, False]  # a fixed opening, question and begin token
        plain = tiny_tokenizer()
        plain.chat_template = None
        assert not any(prompt.chat for prompt in itertools.islice(_tagged(plain), 20))


@pytest.mark.parametrize(
    ("tokens", "chat", "template", "warned"),
    [
        (0, False, True, True),
        (9, False, True, False),  # of which some is chat
        (0, True, True, False),
        (0, False, False, False),
    ],
)
def test_text_without_chat_is_told(tokens: int, chat: bool, template: bool, warned: bool) -> None:
    tokenizer = tiny_tokenizer()
    if not template:
        tokenizer.chat_template = None
    drawn = [Drawn("prose", False, torch.arange(9)), Drawn("other", chat, torch.arange(9))]
    lines = told_of_written(tokens, Text(tuple(drawn), 18, 0.5), tokenizer)
    assert lines[: bool(tokens)] == [f"teacher: {tokens} tokens"] * bool(tokens)
    assert (["warning" in line for line in lines[bool(tokens) :]] == [True]) is warned


def _tagged(tokenizer: Any) -> Iterator[Any]:
    return teacher_prompts(tokenizer, [], seed=0)
