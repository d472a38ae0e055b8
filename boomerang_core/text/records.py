"""Documents before they are tokenised, and how a record of JSONL or of a table becomes one.

A record holds a document as `tokens` (ids of the teacher's own tokenizer), as `messages` or
`conversations` (chat: a list of `{role, content}`, or of `{from, value}` as in ShareGPT; a
content is a string, or a list of `{"type": "text", "text": …}`), or as `text`; the first of
them that it has counts.
"""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boomerang_core.errors import DataError
from boomerang_core.text.skipped import Skipped

COLUMNS = ("messages", "conversations", "text")
FIELDS = ("tokens", *COLUMNS)
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant"}
"""ShareGPT's names of those who speak, where a chat template knows others."""


@dataclass(frozen=True)
class Document:
    """One document: `tokens`, or else `messages`, or else `text`.

    `text` beside `tokens` is what they decode to.  `place` is where it stands, for errors.
    `ends` is False for a passage that another one of the same text follows.
    """

    source: str
    place: str
    chat: bool = False
    text: str = ""
    messages: Sequence[Mapping[str, Any]] = ()
    tokens: Sequence[int] = ()
    ends: bool = True

    @property
    def ends_text(self) -> bool:
        """Whether raw text ends with it: a chat template and a teacher write ends themselves."""
        return self.ends and not self.messages and not self.tokens


@dataclass(frozen=True)
class Feed:
    """Documents that are all chat or all not, in the order in which they are drawn.

    `skipped` counts the source's records that are no documents, as far as it was read.
    """

    source: str
    chat: bool
    documents: Iterator[Document]
    skipped: Skipped


def read_record(record: Mapping[str, Any], field: str, source: str, place: str) -> Document | None:
    """The document in a record's field; None where it is null or empty.  Raises DataError."""
    value = record[field]
    if value is None or value == "" or value == []:
        return None
    if isinstance(value, str) and field != "tokens":
        return Document(source, place, text=value) if value.strip() else None
    if field == "tokens":
        return _token_document(record, source, place)
    messages = [_message(each) for each in value] if isinstance(value, list) else [None]
    known = [message for message in messages if message is not None]
    if len(known) < len(messages):
        expected = "must be a string, or a list of {role, content} with strings"
        raise DataError(f"{place}: {field!r} {expected}")
    return Document(source, place, chat=True, messages=known)


def _token_document(record: Mapping[str, Any], source: str, place: str) -> Document:
    tokens, chat, text = record["tokens"], record.get("chat", False), record.get("text") or ""
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise DataError(f"{place}: 'tokens' must be a list of token ids")
    if type(chat) is not bool or not isinstance(text, str):
        raise DataError(f"{place}: beside 'tokens', 'chat' is true or false and 'text' a string")
    return Document(source, place, chat, text, tokens=tokens)


def _message(value: Any) -> Mapping[str, Any] | None:
    """One message as chat templates take it; None for what is none."""
    if not isinstance(value, Mapping):
        return None
    role, content = value.get("role"), value.get("content")
    if role is None and isinstance(speaker := value.get("from"), str):
        role, content = _ROLES.get(speaker, speaker), value.get("value")
    if isinstance(content, list):
        content = _joined(content)
    if not isinstance(role, str) or not isinstance(content, str):
        return None
    return {**value, "role": role, "content": content}


def _joined(parts: list[Any]) -> str | None:
    """The text of a content in parts; None where one is something else, such as a picture."""
    texts = [
        part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        for part in parts
    ]
    strings = [text for text in texts if isinstance(text, str)]
    return "".join(strings) if len(strings) == len(texts) else None


def jsonl_feeds(source: str, seed: int) -> list[Feed]:
    """A JSONL file as one or two feeds, its chat apart from the rest, each in random order.

    The file is read once to check every line, and a line again when it is drawn, so a file may be
    larger than memory.  Raises DataError where too many lines are wrong, with the first of them.
    """
    skipped = Skipped(source)
    offsets, numbers = _scan(source, skipped)
    skipped.require_few()
    feeds = []
    for chat, chosen in numbers.items():
        random.Random(seed).shuffle(chosen)
        if chosen:
            feeds.append(Feed(source, chat, _documents(source, offsets, chosen), skipped))
    if not feeds:
        raise skipped.none_left(f"{source} has no text")
    return feeds


def _scan(source: str, skipped: Skipped) -> tuple[array[int], dict[bool, array[int]]]:
    """Where each line begins, and the numbers of the lines, from 0, that are chat or not."""
    offsets, numbers = array("q"), {False: array("q"), True: array("q")}
    end = 0
    try:
        with Path(source).open("rb") as file:
            for number, line in enumerate(file):
                offsets.append(end)
                end += len(line)
                skipped.read += 1
                try:
                    document = _parse(source, number, line)
                except DataError as error:
                    skipped.skip(str(error))
                    continue
                if document is not None:
                    numbers[document.chat].append(number)
    except OSError as error:
        raise DataError(f"cannot read text from {source}: {error.strerror or error}") from error
    return offsets, numbers


def _documents(source: str, offsets: Sequence[int], numbers: Sequence[int]) -> Iterator[Document]:
    with Path(source).open("rb") as file:
        for number in numbers:
            file.seek(offsets[number])
            document = _parse(source, number, file.readline())
            assert document is not None, "the scan kept only lines with a document"
            yield document


def _parse(source: str, number: int, line: bytes) -> Document | None:
    """The document of a line; None for an empty one."""
    place = f"{source} line {number + 1}"
    if not line.strip():
        return None
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at column {error.pos + 1}"
        raise DataError(f"{place} is not JSON; a line holds one object: {reason}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{place} is not UTF-8, at byte {error.start}") from error
    if not isinstance(record, Mapping):
        raise DataError(f'{place} is not a JSON object, such as {{"text": "…"}}')
    there = [field for field in FIELDS if field in record]
    if not there:
        raise DataError(f"{place} has neither 'text' nor 'messages'; it has {_names(record)}")
    field = next((field for field in there if record[field] is not None), there[0])
    return read_record(record, field, source, place)


def _names(record: Mapping[str, Any]) -> str:
    return ", ".join(repr(name) for name in record) or "nothing"
