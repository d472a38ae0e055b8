"""Documents before they are tokenised, and how a record of JSONL or of a table becomes one.

A record holds a document as ``tokens`` (ids of the teacher's own tokenizer), as ``messages`` (chat:
a list of ``{role, content}``), or as ``text``; the first of them that it has counts.
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

FIELDS = ("tokens", "messages", "text")


@dataclass(frozen=True)
class Document:
    """One document: ``tokens``, or else ``messages``, or else ``text``.

    ``text`` beside ``tokens`` is what they decode to.  ``place`` is where it stands, for errors.
    """

    source: str
    place: str
    chat: bool = False
    text: str = ""
    messages: Sequence[Mapping[str, Any]] = ()
    tokens: Sequence[int] = ()


@dataclass(frozen=True)
class Feed:
    """Documents that are all chat or all not, in the order in which they are drawn."""

    source: str
    chat: bool
    documents: Iterator[Document]


def read_record(record: Mapping[str, Any], field: str, source: str, place: str) -> Document | None:
    """The document in a record's field; None where it is null or empty.  Raises DataError."""
    value = record[field]
    if value is None or value == "" or value == []:
        return None
    if isinstance(value, str) and field != "tokens":
        return Document(source, place, text=value) if value.strip() else None
    if field == "tokens":
        return _token_document(record, source, place)
    if not _are_messages(value):
        expected = "must be a string, or a list of {role, content} with strings"
        raise DataError(f"{place}: {field!r} {expected}")
    return Document(source, place, chat=True, messages=value)


def _token_document(record: Mapping[str, Any], source: str, place: str) -> Document:
    tokens, chat, text = record["tokens"], record.get("chat", False), record.get("text") or ""
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise DataError(f"{place}: 'tokens' must be a list of token ids")
    if type(chat) is not bool or not isinstance(text, str):
        raise DataError(f"{place}: beside 'tokens', 'chat' is true or false and 'text' a string")
    return Document(source, place, chat, text, tokens=tokens)


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(message, Mapping)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in value
    )


def jsonl_feeds(source: str, seed: int) -> list[Feed]:
    """A JSONL file as one or two feeds, its chat apart from the rest, each in random order.

    The file is read once to check every line, and a line again when it is drawn, so a file may be
    larger than memory.  Raises DataError with the first line that is wrong.
    """
    offsets, numbers = _scan(source)
    feeds = []
    for chat, chosen in numbers.items():
        random.Random(seed).shuffle(chosen)
        if chosen:
            feeds.append(Feed(source, chat, _documents(source, offsets, chosen)))
    if not feeds:
        raise DataError(f"{source} has no text")
    return feeds


def _scan(source: str) -> tuple[array[int], dict[bool, array[int]]]:
    """Where each line begins, and the numbers of the lines, from 0, that are chat or not."""
    offsets, numbers = array("q"), {False: array("q"), True: array("q")}
    end = 0
    try:
        with Path(source).open("rb") as file:
            for number, line in enumerate(file):
                offsets.append(end)
                end += len(line)
                if (document := _parse(source, number, line)) is not None:
                    numbers[document.chat].append(number)
    except OSError as error:
        raise DataError(f"cannot read text from {source}: {error}") from error
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
    except ValueError as error:
        raise DataError(f"{place} is not JSON; a line holds one object: {error}") from error
    if not isinstance(record, Mapping):
        raise DataError(f'{place} is not a JSON object, such as {{"text": "…"}}')
    there = [field for field in FIELDS if field in record]
    if not there:
        raise DataError(f"{place} has neither 'text' nor 'messages'; it has {_names(record)}")
    field = next((field for field in there if record[field] is not None), there[0])
    return read_record(record, field, source, place)


def _names(record: Mapping[str, Any]) -> str:
    return ", ".join(repr(name) for name in record) or "nothing"
