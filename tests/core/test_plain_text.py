"""Plain text and HTML as documents: passages, spaces, and where a document ends."""

import random
from pathlib import Path

import pytest

from boomerang_core.text.documents import read_text
from boomerang_core.text.sources import open_sources
from tests.core.conftest import tiny_tokenizer
from tests.core.rows import ALL, chat_rows, encoded, ids, read, text_rows, words, write_rows


class TestPlainText:
    def test_passages_in_the_order_of_the_seed(self, tmp_path: Path) -> None:
        """Recomputed from the description: the shipped family depends on every byte of it."""
        draw = random.Random(5)
        paragraphs = [words(draw, draw.randrange(20, 200)) for _ in range(90)]
        paths = [tmp_path / "one.txt", tmp_path / "two.txt"]
        for path, part in zip(paths, (paragraphs[:50], paragraphs[50:]), strict=True):
            path.write_text("\n\n".join(part) + "\n")
        passages = []
        for part in (paragraphs[:50], paragraphs[50:]):
            group: list[str] = []
            for paragraph in part:
                group.append(paragraph)
                if sum(len(each) + 2 for each in group) >= 2000:
                    passages.append(group)
                    group = []
            passages += [group] if group else []
        order = list(range(len(passages)))
        random.Random(3).shuffle(order)
        expected = [[i for p in passages[place] for i in encoded({"text": p})] for place in order]

        whole = read(*map(str, paths), seed=3)
        assert ids(whole) == expected
        first = read(*map(str, paths), seed=3, tokens=len(expected[0]) + 1)
        assert ids(first) == expected[:2]

    def test_blank_lines_alone_divide_paragraphs_of_any_usual_length(self, tmp_path: Path) -> None:
        draw = random.Random(5)
        lines = [words(draw, 150) for _ in range(48)]  # a little over 500 characters
        paragraphs = ["\n".join(lines[at : at + 12]) for at in range(0, 48, 12)]
        assert 6000 < min(map(len, paragraphs)) <= max(map(len, paragraphs)) < 8000
        (path := tmp_path / "a.txt").write_text("\n\n".join(paragraphs))
        assert sorted(ids(read(str(path)))) == sorted(encoded({"text": p}) for p in paragraphs)

    @pytest.mark.parametrize("name", ["a.txt", "a.html"])
    @pytest.mark.parametrize("title", ["", "w9\n\n"])
    @pytest.mark.parametrize("words_a_line", [100, 5000, 40_000])
    def test_text_that_blank_lines_do_not_divide(
        self, tmp_path: Path, name: str, title: str, words_a_line: int
    ) -> None:
        draw = random.Random(5)
        lines = [words(draw, words_a_line) for _ in range(40_000 // words_a_line)]
        text = title + "\n".join(f"<p>{line}</p>" if "html" in name else line for line in lines)
        (path := tmp_path / name).write_text(text)
        found = read(str(path))
        lengths = [len(words) for words in found.documents]
        assert sum(lengths) == len(encoded({"text": title + " ".join(lines)}))  # no word is cut
        assert max(lengths) < 4000 / 3
        assert len(lengths) > 40
        if words_a_line == 100 and not title:
            wholes = {tuple(encoded({"text": line})) for line in lines}
            assert all(tuple(document[:100]) in wholes for document in ids(found))

    def test_text_without_a_space_is_cut_all_the_same(self, tmp_path: Path) -> None:
        (path := tmp_path / "a.txt").write_text("語" * 10_000)
        assert [len(document) for document in read(str(path)).documents] == [1, 1, 1]

    CODE = "    def f(x):\n        return  x\n\n        # and\ta comment\n\n- a\n  - list"

    def test_spaces_are_part_of_plain_text(self, tmp_path: Path) -> None:
        (path := tmp_path / "a.py").write_text(f"\n{self.CODE}  \n\n")
        feed = open_sources([str(path)], 0)[0]
        assert [document.text for document in feed.documents] == [self.CODE]

    def test_a_long_paragraph_keeps_its_spaces_too(self, tmp_path: Path) -> None:
        lines = [f"    {number} and  {number}" for number in range(1000)]
        (path := tmp_path / "a.txt").write_text("\n".join(lines))
        feed = open_sources([str(path)], 0)[0]
        found = [document.text for document in feed.documents]
        assert len(found) > 5
        assert sorted(line for text in found for line in text.split("\n")) == sorted(lines)

    def test_spaces_in_html_mean_one(self, tmp_path: Path) -> None:
        (path := tmp_path / "a.html").write_text(f"<p>{self.CODE}</p>")
        feed = open_sources([str(path)], 0)[0]
        text = "def f(x):\nreturn x\n\n# and a comment\n\n- a\n- list"
        assert [document.text for document in feed.documents] == [text]

    def test_html_loses_its_tags(self, tmp_path: Path) -> None:
        path = tmp_path / "page.html"
        path.write_text("<style>w4</style><p>w5 <b>w6</b></p>")
        assert ids(read(str(path))) == [[5, 6]]

    def test_the_language_reference_is_at_hand(self) -> None:
        assert read("python-reference", tokens=2000).tokens >= 2000

    def test_no_sources_and_no_tokens_are_no_text(self, tmp_path: Path) -> None:
        assert read().documents == []
        assert read("python-reference", tokens=0).documents == []


class TestEnds:
    """The end token, 2 of the tiny tokenizer, is where a document ends."""

    @staticmethod
    def read(*sources: str, ends: bool = True) -> list[list[int]]:
        return ids(read_text(sources, tiny_tokenizer(), ALL, 0, document_ends=ends))

    def test_of_every_row(self, tmp_path: Path) -> None:
        source = write_rows(tmp_path / "a.jsonl", text_rows(5))
        assert sorted(self.read(source)) == sorted([*encoded(row), 2] for row in text_rows(5))
        assert self.read(source, ends=False) == ids(read(source))

    def test_of_a_file_and_not_of_its_passages(self, tmp_path: Path) -> None:
        paths = [tmp_path / "one.txt", tmp_path / "two.txt"]
        for path in paths:
            path.write_text("\n\n".join(words(random.Random(5), 100) for _ in range(40)))
        found = self.read(*map(str, paths))
        assert len(found) > 10
        assert sum(document[-1] == 2 for document in found) == 2
        assert sum(document.count(2) for document in found) == 2

    def test_not_of_chat_nor_of_what_comes_as_tokens(self, tmp_path: Path) -> None:
        rows = [*chat_rows(3), {"tokens": [4, 5]}]
        source = write_rows(tmp_path / "a.jsonl", rows)
        assert not any(2 in document for document in self.read(source))
