"""Text to distil on: what each kind of source holds, how kinds are balanced, what is refused."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, normalizers

from boomerang_core.errors import DataError, SettingsError
from boomerang_core.text.documents import TODAY, chat_text, read_text
from boomerang_core.text.sources import plain_text, shown
from tests.core.conftest import tiny_tokenizer
from tests.core.rows import (
    ALL,
    chat_rows,
    counted,
    encoded,
    ids,
    isolate_library,
    read,
    talk,
    text_rows,
    write_rows,
    write_table,
)


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    isolate_library(monkeypatch, tmp_path_factory.mktemp("cache"))


class TestRows:
    @pytest.fixture(params=["jsonl", "ndjson", "JSON", "parquet", "hub"])
    def write(self, request: pytest.FixtureRequest, tmp_path: Path) -> Any:
        """Rows → the source that holds them."""

        def write(rows: Sequence[Mapping[str, Any]]) -> str:
            if request.param == "hub":
                return "hub:" + str(Path(write_table(tmp_path / "set/train.parquet", rows)).parent)
            save = write_table if request.param == "parquet" else write_rows
            return save(tmp_path / f"rows.{request.param}", rows)

        return write

    @pytest.mark.parametrize("make", [text_rows, chat_rows])
    def test_every_row_is_a_document(self, write: Any, make: Any) -> None:
        rows = make(40)
        found = ids(read(write(rows)))
        assert sorted(found) == sorted(map(encoded, rows))
        assert found != list(map(encoded, rows))  # in another order

    def test_the_seed_decides_the_order(self, write: Any) -> None:
        source = write(text_rows(40))
        assert ids(read(source, seed=1)) == ids(read(source, seed=1))
        assert ids(read(source, seed=1)) != ids(read(source, seed=2))

    def test_empty_rows_are_passed_over(self, write: Any) -> None:
        source = write([{"text": ""}, {"text": "w4 w5"}, {"text": None}, {"text": " \n"}])
        assert ids(read(source)) == [[4, 5]]

    @pytest.mark.parametrize("rows", [[], [{"text": ""}], [{"messages": []}]])
    def test_no_usable_row(self, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
        with pytest.raises(DataError, match=r"rows\.jsonl has no text"):
            read(write_rows(tmp_path / "rows.jsonl", rows))
        if rows:
            with pytest.raises(DataError, match="has no text in its column"):
                read(write_table(tmp_path / "rows.parquet", rows))

    def test_no_document_is_read_after_enough(self, write: Any) -> None:
        few = read(write(text_rows(40)), tokens=50)
        assert 50 <= few.tokens < 50 + 30

    def test_counts_are_those_of_the_documents(self, write: Any) -> None:
        source = write(text_rows(30))
        (count,) = (text := read(source)).counts
        assert (count.source, count.chat) == (shown(source), False)
        assert (count.documents, count.tokens) == (30, sum(map(len, ids(text))))
        assert text.to_json() == [vars(count)]

    def test_messages_go_through_the_chat_template(self, tmp_path: Path) -> None:
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = (
            "{% for m in messages %}{% if m['role'] == 'user' %}w4 {% else %}w5 {% endif %}"
            "{{ m['content'] }} </s>\n{% endfor %}"
        )
        source = write_rows(tmp_path / "rows.jsonl", [{"messages": talk("w6", "w7")}])
        text = read_text([source], tokenizer, ALL, 0)
        assert ids(text) == [[4, 6, 2, 5, 7, 2]]
        assert text.raw == []

    def test_a_template_that_tells_the_date_tells_the_same_on_every_day(self) -> None:
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = (
            "{{ strftime_now('w%d') }} {% for m in messages %}{{ m['content'] }}{% endfor %}"
        )
        found = chat_text(tokenizer, [{"role": "user", "content": "w6"}])
        assert found == f"{TODAY:w%d} w6"


class TestBalance:
    @pytest.fixture
    def both(self, tmp_path: Path) -> str:
        rows = [*text_rows(400), *chat_rows(400)]
        random.Random(0).shuffle(rows)
        return write_rows(tmp_path / "both.jsonl", rows)

    @pytest.mark.parametrize(("share", "expected"), [(None, 0.5), (0.25, 0.25), (0, 0), (1, 1)])
    def test_the_share_of_chat(self, both: str, share: float | None, expected: float) -> None:
        text = read(both, tokens=3000, share=share)
        found = counted(text)
        assert abs(found[True] - expected * text.tokens) <= 30  # the longest document
        assert sum(map(len, text.raw)) == found[False]
        assert not any("ran out" in line for line in text.lines)

    def test_when_chat_runs_out_text_fills_up(self, tmp_path: Path) -> None:
        raw = write_rows(tmp_path / "raw.jsonl", text_rows(200))
        chat = write_table(tmp_path / "chat.parquet", chat_rows(10))
        text = read(raw, chat, tokens=1000)
        assert text.tokens >= 1000
        assert counted(text)[True] == sum(len(encoded(row)) for row in chat_rows(10))
        assert any(line.startswith("chat ran out: 1") for line in text.lines)

    def test_too_little_text_is_said(self, both: str) -> None:
        text = read(both)
        assert f"hold {text.tokens:,} of the {ALL:,} tokens" in "\n".join(text.lines)

    def test_sources_give_the_same_number_of_tokens(self, tmp_path: Path) -> None:
        sources = [
            write_rows(tmp_path / "a.jsonl", text_rows(50, seed=1)),
            write_rows(tmp_path / "b.jsonl", text_rows(300, seed=2)),
            write_table(tmp_path / "c.parquet", text_rows(300, seed=3)),
        ]
        tokens = {count.source: count.tokens for count in read(*sources, tokens=1500).counts}
        assert tokens.keys() == {"a.jsonl", "b.jsonl", "c.parquet"}
        assert max(tokens.values()) - min(tokens.values()) <= 30
        more = {count.source: count.tokens for count in read(*sources, tokens=5000).counts}
        assert more["a.jsonl"] == sum(len(encoded(row)) for row in text_rows(50, seed=1))

    @pytest.mark.parametrize(
        ("make", "share", "message"),
        [
            (text_rows, 0.5, "no source of text holds messages"),
            (chat_rows, 0.5, "every source of text holds messages"),
            (text_rows, 1.5, "between 0 and 1"),
        ],
    )
    def test_a_share_that_cannot_be(
        self, tmp_path: Path, make: Any, share: float, message: str
    ) -> None:
        with pytest.raises(SettingsError, match=message):
            read(write_rows(tmp_path / "rows.jsonl", make(3)), share=share)


def jsonl(*lines: str) -> str:
    return "\n".join([*lines, ""])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.txt", None, "cannot read text from .*absent.txt"),
        ("absent.jsonl", None, "cannot read text from .*absent.jsonl"),
        ("absent.parquet", None, "cannot read .*absent.parquet"),
        ("empty.txt", "", "empty.txt has no text"),
        ("blank.txt", " \n\n \n", "blank.txt has no text"),
        ("empty.jsonl", "", "empty.jsonl has no text"),
        ("absent.txt", None, "absent.txt: No such file or directory$"),
        ("a.txt", b"w4 \xff\xfe", "cannot read text from .*a.txt: byte 3 is not UTF-8; a packed"),
        ("a.jsonl", jsonl('{"text":'), "line 1 is not JSON; .*: Expecting value at column "),
        ("a.jsonl", b'{"text": "\xff"}', "line 1 is not UTF-8, at byte 10"),
        ("a.parquet", "PAR1", "cannot read .*a.parquet"),
        (
            "a.jsonl",
            jsonl("{", '{"text": 4}'),
            "no record .* the first: .* line 1 is not JSON",
        ),
        ("a.json", "[\n{}\n]", "a.json line 1 is not JSON"),
        ("a.jsonl", jsonl('"w4"'), "a.jsonl line 1 is not a JSON object"),
        ("a.jsonl", jsonl("", '{"body": "w4"}'), "line 2 has neither .*; it has 'body'"),
        ("a.jsonl", jsonl("{}"), "line 1 has neither .*; it has nothing"),
        ("a.jsonl", jsonl('{"text": 4}'), "line 1: 'text' must be a string"),
        ("a.jsonl", jsonl('{"messages": [{"role": "user"}]}'), "line 1: 'messages' must be"),
        ("a.jsonl", jsonl('{"messages": ["w4"]}'), "line 1: 'messages' must be"),
        ("a.jsonl", jsonl('{"tokens": "w4"}'), "line 1: 'tokens' must be a list of token ids"),
        ("a.jsonl", jsonl('{"tokens": [4.5]}'), "line 1: 'tokens' must be a list of token ids"),
        ("a.jsonl", jsonl('{"tokens": [4], "chat": 1}'), "'chat' is true or false"),
        ("a.jsonl", jsonl('{"tokens": [-1]}'), "line 1 has a token outside"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, name: str, content: str | bytes | None, message: str
) -> None:
    path = tmp_path / name
    if isinstance(content, str):
        path.write_text(content)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        read(str(path))
    assert "\n" not in str(raised.value)


def test_text_without_tokens(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex(r"\w"), "")
    path = tmp_path / "a.txt"
    path.write_text("word")
    with pytest.raises(DataError, match=r"the text of .*a\.txt has no tokens"):
        read_text([str(path)], tokenizer, ALL, 0)


def test_messages_that_the_teacher_cannot_read(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", chat_rows(1))
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match="line 1: the chat template refuses it: roles must"):
        read_text([source], tokenizer, ALL, 0)
    tokenizer.chat_template = None
    with pytest.raises(DataError, match=r"line 1 holds messages, but .* has no chat template"):
        read_text([source], tokenizer, ALL, 0)


def test_a_mark_at_the_beginning_of_a_file_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfw4 w5\r\n\r\nw6")
    assert plain_text(str(path)) == "w4 w5\n\nw6"
