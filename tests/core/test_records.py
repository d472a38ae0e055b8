"""Records of JSONL and of tables: the forms of chat, and those that are passed over."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from boomerang_core.errors import DataError
from boomerang_core.text.documents import Text, read_text
from tests.core.conftest import tiny_tokenizer
from tests.core.rows import (
    ALL,
    chat_rows,
    encoded,
    ids,
    isolate_library,
    read,
    talk,
    text_rows,
    write_rows,
    write_table,
)

BAD: dict[str, Any] = {"messages": [{"role": "user", "content": None}]}


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    isolate_library(monkeypatch, tmp_path_factory.mktemp("cache"))


@pytest.fixture(params=["jsonl", "parquet"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Rows → the source that holds them."""

    def write(rows: Sequence[Mapping[str, Any]]) -> str:
        save = write_table if request.param == "parquet" else write_rows
        return save(tmp_path / f"rows.{request.param}", rows)

    return write


class TestChat:
    @staticmethod
    def read(source: str) -> Text:
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = (
            "{% for m in messages %}{{ {'user': 'w4', 'assistant': 'w5', 'system': 'w6'}"
            "[m['role']] + ' ' + m['content'] + ' ' }}{% endfor %}"
        )
        return read_text([source], tokenizer, ALL, 0)

    @pytest.mark.parametrize("column", ["messages", "conversations"])
    def test_sharegpt(self, write: Any, column: str) -> None:
        speakers = {"system": "w10", "human": "w11", "gpt": "w12"}
        turns = [{"from": speaker, "value": word} for speaker, word in speakers.items()]
        found = self.read(write([{column: turns}]))
        assert ids(found) == [[6, 10, 4, 11, 5, 12]]
        assert found.raw == []

    def test_content_in_parts(self, write: Any) -> None:
        parts = [{"type": "text", "text": "w10 "}, {"type": "text", "text": "w11"}]
        row = {"messages": [{"role": "user", "content": parts}]}
        assert ids(self.read(write([row]))) == [[4, 10, 11]]

    def test_a_picture_is_no_text(self, write: Any) -> None:
        row = {"messages": [{"role": "user", "content": [{"type": "image", "text": "w10"}]}]}
        with pytest.raises(DataError, match=r"no record of .* 'messages' must be"):
            self.read(write([row]))


class TestSkipped:
    def test_few_are_passed_over_and_counted(self, write: Any) -> None:
        rows = chat_rows(20)
        text = read(write([*rows[:7], BAD, *rows[7:], BAD]))
        assert sorted(ids(text)) == sorted(map(encoded, rows))
        assert "passed over: 2 of 22 records; the first: " in "\n".join(text.lines)

    def test_none_are_not_told(self, write: Any) -> None:
        assert "passed over" not in "\n".join(read(write(chat_rows(20))).lines)

    def test_one_in_a_hundred_are_too_many(self, write: Any) -> None:
        read(write([*chat_rows(3000), *[BAD] * 11]))
        with pytest.raises(DataError, match=r"(12|11) of .* records cannot be used; the first: "):
            read(write([*[BAD] * 12, *chat_rows(1100)]))

    def test_chat_that_the_template_refuses(self, write: Any) -> None:
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = (
            "{% if messages[0]['role'] != 'user' %}{{ raise_exception('roles must') }}{% endif %}"
            "{{ messages[0]['content'] }}"
        )
        refused = {"messages": talk("w4", "w5")[1:]}
        rows = [{"messages": talk("w4", "w5")} for _ in range(30)]
        text = read_text([write([*rows, refused])], tokenizer, ALL, 0)
        assert ids(text) == [[4]] * 30
        assert "passed over: 1 of 31 records" in "\n".join(text.lines)
        with pytest.raises(DataError, match=r"11 of 41 records cannot .* refuses it: roles must"):
            read_text([write([*rows, *[refused] * 11])], tokenizer, ALL, 0)

    def test_lines_of_a_file(self, tmp_path: Path) -> None:
        (path := tmp_path / "a.jsonl").write_text('{"text": "w4"}\n{"text": 4}\n{"text": "w\n')
        text = read(str(path))
        assert ids(text) == [[4]]
        assert f"a.jsonl: passed over: 2 of 3 records; the first: {path} line 2" in text.lines[1]

    def test_both_kinds_of_a_file_share_a_count(self, tmp_path: Path) -> None:
        rows = [*chat_rows(20), BAD, *text_rows(20)]
        text = read(write_rows(tmp_path / "a.jsonl", rows))
        assert sum("passed over" in line for line in text.lines) == 1
