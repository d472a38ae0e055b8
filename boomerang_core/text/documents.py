"""Tokenised documents, drawn from sources in balance.

A tokenised document is a 1-D int64 tensor of token ids.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from boomerang_core.errors import DataError, SettingsError
from boomerang_core.files import save_tensors
from boomerang_core.text.records import Document, Feed
from boomerang_core.text.skipped import Skipped
from boomerang_core.text.sources import open_sources, shown

BATCH = 1024
"""Documents that are tokenised at once: a tokenizer uses all cores on many, one on one."""

TODAY = date(2026, 1, 1)
"""The date for chat templates that tell it (Llama 3's do): the same recipe gives the same text."""

CHAT_SHARE = 0.5
"""Share of tokens from chat where sources hold both kinds: small sizes of post-trained teachers
collapse when they are distilled on raw text alone (ADAPT)."""


@dataclass(frozen=True)
class Count:
    """What one source gave; the chat of a source that holds both kinds is counted apart."""

    source: str
    chat: bool
    documents: int
    tokens: int


@dataclass(frozen=True, eq=False)
class Drawn:
    """A tokenised document, where it comes from, and whether it is chat."""

    source: str
    chat: bool
    ids: torch.Tensor


@dataclass(frozen=True, eq=False)
class Text:
    """Tokenised documents in the order in which they were drawn.

    `wanted` is how many tokens were asked for, and `chat_share` how much of them was to be chat;
    where the sources hold too little, there are fewer, or another share is chat.  `skipped` are the
    sources some records of which were passed over.
    """

    drawn: tuple[Drawn, ...]
    wanted: int
    chat_share: float
    skipped: tuple[Skipped, ...] = ()

    @property
    def documents(self) -> list[torch.Tensor]:
        """The token ids of every document."""
        return [document.ids for document in self.drawn]

    @property
    def raw(self) -> list[torch.Tensor]:
        """The token ids of the documents that are no chat."""
        return raw(self.drawn)

    @property
    def counts(self) -> tuple[Count, ...]:
        """Documents and tokens of each source and kind, in the order of their first draw."""
        lengths: dict[tuple[str, bool], list[int]] = {}
        for document in self.drawn:
            kind = (shown(document.source), document.chat)
            lengths.setdefault(kind, []).append(len(document.ids))
        return tuple(Count(*kind, len(each), sum(each)) for kind, each in lengths.items())

    @property
    def tokens(self) -> int:
        """Tokens of all documents."""
        return sum(len(document.ids) for document in self.drawn)

    @property
    def lines(self) -> list[str]:
        """The counts in words, a line a source, then what the sources could not give."""
        lines = [
            f"{'chat' if count.chat else 'text'}: {count.tokens:,} tokens from {count.source}, "
            f"documents: {count.documents:,}"
            for count in self.counts
        ]
        lines += [f"{shown(skipped.source)}: {skipped}" for skipped in self.skipped]
        if self.tokens < self.wanted:
            lines.append(f"the sources hold {self.tokens:,} of the {self.wanted:,} tokens wanted")
        share = sum(count.tokens for count in self.counts if count.chat) / max(1, self.tokens)
        longest = max(map(len, self.documents), default=0)  # no balance is finer than that
        if abs(share - self.chat_share) * self.tokens > longest:
            short = "chat" if share < self.chat_share else "raw text"
            lines.append(f"{short} ran out: {share:.0%} is chat, not {self.chat_share:.0%}")
        return lines

    def to_json(self) -> list[dict[str, Any]]:
        """The counts, for provenance."""
        return [asdict(count) for count in self.counts]


def raw(documents: Sequence[Drawn]) -> list[torch.Tensor]:
    """The token ids of the documents that are no chat: the teacher's prompts begin with these."""
    return [document.ids for document in documents if not document.chat]


def read_text(
    sources: Sequence[str],
    tokenizer: Any,
    num_tokens: int,
    seed: int,
    chat_share: float | None = None,
    document_ends: bool = False,
) -> Text:
    """Draw documents from `sources` until they hold `num_tokens`; the seed orders them.

    `chat_share` is the share of tokens from chat; None is `CHAT_SHARE` where the sources hold
    chat and other text.  When one kind runs out, the other fills up: `Text.lines` says so.  On
    either side, sources give the same number of tokens as long as they last, all plain files
    together counting as one.  A few records that cannot be used are passed over.
    `document_ends`: the tokenizer's end token follows each raw document; not a passage within a
    file, nor what comes as token ids.
    Raises DataError, SettingsError.
    """
    if chat_share is not None and not 0 <= chat_share <= 1:
        raise SettingsError(f"chat_share must be between 0 and 1, got {chat_share}")
    end = tokenizer.eos_token_id if document_ends else None
    feeds = open_sources(sources, seed) if num_tokens else []
    lanes = [_Lane(feed, tokenizer, end) for feed in feeds]
    share = _share(lanes, chat_share)
    lanes = [lane for lane in lanes if (share > 0 if lane.chat else share < 1)]
    every = {id(lane.skipped): lane.skipped for lane in lanes}  # two lanes of a file share theirs
    drawn = tuple(_draw(lanes, num_tokens, share))
    skipped = tuple(each for each in every.values() if each.count)
    return Text(drawn, num_tokens if sources else 0, share, skipped)


class _Lane:
    """The tokenised documents of a feed, and how many tokens it has given."""

    def __init__(self, feed: Feed, tokenizer: Any, end: int | None) -> None:
        self.source = feed.source
        self.chat = feed.chat
        self.skipped = feed.skipped
        self.tokens = 0
        self._documents = tokenised(tokenizer, feed.documents, feed.skipped, end)

    def draw(self) -> Drawn | None:
        """The next document; None when there is none.  Raises DataError where there never was."""
        found = next(self._documents, None)
        if found is not None:
            self.tokens += len(found.ids)
        elif not self.tokens:
            raise self.skipped.none_left(f"the text of {self.source} has no tokens")
        return found


def _share(lanes: Sequence[_Lane], chat_share: float | None) -> float:
    """The share of chat to draw.  Raises SettingsError for a kind that no source holds."""
    kinds = {lane.chat for lane in lanes}
    if chat_share is None or not lanes:
        return CHAT_SHARE if len(kinds) == 2 else float(True in kinds)
    if chat_share > 0 and True not in kinds:
        raise SettingsError(f"chat_share is {chat_share}, but no source of text holds messages")
    if chat_share < 1 and False not in kinds:
        raise SettingsError(f"chat_share is {chat_share}, but every source of text holds messages")
    return chat_share


def _draw(lanes: list[_Lane], num_tokens: int, share: float) -> Iterator[Drawn]:
    """Documents until there are enough tokens, each from the lane that is furthest behind."""
    tokens = {False: 0, True: 0}
    while lanes and sum(tokens.values()) < num_tokens:
        behind = tokens[True] < share * sum(tokens.values()) or share == 1
        side = [lane for lane in lanes if lane.chat is behind] or lanes
        lane = min(side, key=lambda lane: lane.tokens)
        found = lane.draw()
        if found is None:
            lanes.remove(lane)
            continue
        tokens[lane.chat] += len(found.ids)
        yield found


def tokenised(
    tokenizer: Any, documents: Iterator[Document], skipped: Skipped, end: int | None = None
) -> Iterator[Drawn]:
    """Documents as token ids, chat through the chat template; empty ones are left out.

    The token `end`, if there is one, follows raw text where that ends.
    Chat that the template refuses is passed over.  Raises DataError for too much of it, and for
    messages or tokens that do not go with the tokenizer.
    """
    while part := list(itertools.islice(documents, BATCH)):
        texts = [_text(tokenizer, document, skipped) for document in part if not document.tokens]
        skipped.require_few()
        encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else [])
        for document in part:
            ids = _checked(tokenizer, document) if document.tokens else next(encoded)
            if ids and end is not None and document.ends_text:
                ids = [*ids, end]
            if ids:
                yield Drawn(document.source, document.chat, torch.tensor(ids))


def _text(tokenizer: Any, document: Document, skipped: Skipped) -> str:
    """What is tokenised: nothing of chat that the template refuses."""
    if not document.messages:
        return document.text
    from jinja2 import TemplateError

    if not has_chat_template(tokenizer):
        raise DataError(
            f"{document.place} holds messages, but the teacher's tokenizer has no chat template"
        )
    try:
        return chat_text(tokenizer, document.messages)
    except TemplateError as error:
        skipped.skip(f"{document.place}: the chat template refuses it: {error}")
        return ""


def chat_text(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **settings: Any) -> str:
    """Chat as the tokenizer's template writes it, on `TODAY`."""
    today = TODAY.strftime
    return str(
        tokenizer.apply_chat_template(messages, tokenize=False, strftime_now=today, **settings)
    )


def _checked(tokenizer: Any, document: Document) -> list[int]:
    """A document's own token ids: known to the tokenizer, and what its text says, if it has one."""
    ids = list(document.tokens)
    if not 0 <= min(ids) <= max(ids) < len(tokenizer):
        raise DataError(
            f"{document.place} has a token outside the teacher's vocabulary of {len(tokenizer)}"
        )
    if document.text and decode(tokenizer, ids) != document.text:
        raise DataError(f"{document.place}: its tokens are not those of the teacher's tokenizer")
    return ids


def has_chat_template(tokenizer: Any) -> bool:
    """Whether the teacher can be talked to."""
    return getattr(tokenizer, "chat_template", None) is not None


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of token ids, special tokens and spaces as they are."""
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def save_documents(documents: Sequence[torch.Tensor], path: Path) -> None:
    """Keep documents as two flat tensors, atomically."""
    lengths = torch.tensor([len(document) for document in documents])
    save_tensors({"tokens": torch.cat(list(documents)), "lengths": lengths}, path)


def load_documents(path: Path) -> list[torch.Tensor]:
    """Inverse of `save_documents`."""
    stored = load_file(path)
    return list(stored["tokens"].split(stored["lengths"].tolist()))
