"""Where text comes from.  A source is one string of a recipe's `text`, or of `--text`::

prose.txt          any text file; .html, .htm and .xhtml lose their tags
python-reference   the language reference that comes with every Python
rows.jsonl         one JSON object a line (so are .ndjson and .json)
rows.parquet       one document a row
hub:NAME[@REVISION][?split=train&config=NAME&field=COLUMN]
                   a dataset of the Hugging Face hub, streamed; NAME may be a local folder
"""

from __future__ import annotations

import hashlib
import html
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from pydoc_data.topics import topics

from boomerang_core.contents import sha256_of
from boomerang_core.errors import DataError
from boomerang_core.text.hub import HUB, HubDataset, hub_feed, parquet_feed
from boomerang_core.text.records import Document, Feed, jsonl_feeds
from boomerang_core.text.skipped import Skipped

PYTHON_REFERENCE = "python-reference"
"""The language reference that comes with every Python: prose that needs no network."""

_JSONL = {".jsonl", ".ndjson", ".json"}
_PARQUET = ".parquet"
_HTML = {".html", ".xhtml", ".htm"}
_PASSAGE = 2000
_LONGEST = 8000
"""Characters of a paragraph beyond which blank lines alone do not divide the text."""
_GAP = re.compile(r"\n\s*\n")
_SPACES = re.compile(r"[ \t]+")
_TAG = re.compile(r"<(script|style)\b.*?</\1>|<[^>]+>", re.DOTALL | re.IGNORECASE)


def open_sources(sources: Sequence[str], seed: int) -> list[Feed]:
    """The documents of every source, in an order decided by the seed.

    Plain text is cut into passages, runs of paragraphs of about 2,000 characters (of lines where
    no blank line divides it), and all plain sources are shuffled together into one feed; every
    other source is a feed, or two where it holds both chat and other text.
    Raises DataError, SettingsError.
    """
    plain = [source for source in sources if is_plain(source)]
    feeds = [_plain_feed(plain, seed)] if plain else []
    for source in sources:
        if source.startswith(HUB):
            feeds.append(hub_feed(source, seed))
        elif _suffix(source) == _PARQUET:
            feeds.append(parquet_feed(source, seed))
        elif _suffix(source) in _JSONL:
            feeds += jsonl_feeds(source, seed)
    return feeds


def pin_sources(sources: Sequence[str]) -> tuple[str, ...]:
    """The same sources, with every hub dataset at a commit, so that they stay what they are.

    Raises DataError, SettingsError.
    """
    return tuple(
        str(HubDataset.parse(source).pinned()) if source.startswith(HUB) else source
        for source in sources
    )


def source_versions(sources: Sequence[str]) -> dict[str, str]:
    """The sha256 of every source whose content is here.

    A folder's is that of its files' names and hashes.  A pinned hub dataset names its own version.
    """
    versions = {}
    for source in sources:
        if source.startswith(HUB):
            if (folder := HubDataset.parse(source).folder) is not None:
                versions[source] = _folder_sha256(folder)
        elif source == PYTHON_REFERENCE:  # each Python's own
            versions[source] = hashlib.sha256(plain_text(source).encode()).hexdigest()
        elif Path(source).is_file():
            versions[source] = sha256_of(Path(source))
    return versions


def shown(source: str) -> str:
    """A source without the folders of this machine."""
    if not source.startswith(HUB):
        return Path(source).name
    folder = HubDataset.parse(source).folder
    return source if folder is None else source.replace(str(folder), folder.name, 1)


def is_plain(source: str) -> bool:
    """Whether a source is one text, and no list of documents."""
    return not source.startswith(HUB) and _suffix(source) not in {*_JSONL, _PARQUET}


def _suffix(source: str) -> str:
    return Path(source).suffix.lower()


def is_markup(source: str) -> bool:
    """Whether a plain source has tags, which are no part of its text."""
    return _suffix(source) in _HTML


def _plain_feed(sources: Sequence[str], seed: int) -> Feed:
    documents = [document for source in sources for document in _plain_documents(source)]
    random.Random(seed).shuffle(documents)
    name = ", ".join(sources)
    return Feed(name, False, iter(documents), Skipped(name))


def _plain_documents(source: str) -> list[Document]:
    passages = list(_passages(plain_text(source)))
    if not passages:
        raise DataError(f"{source} has no text")
    return [
        Document(source, source, text=passage, ends=place == len(passages))
        for place, passage in enumerate(passages, start=1)
    ]


def plain_text(source: str, kind: str = "text") -> str:
    """A plain source's text, spaces as they are but in markup, where runs of them mean one.

    Raises DataError, which says what `kind` of text it is.
    """
    if source == PYTHON_REFERENCE:
        return "\n\n".join(topics.values())
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8-sig")  # a mark that Windows may begin it with is none
    except OSError as error:
        raise DataError(f"cannot read {kind} from {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"cannot read {kind} from {path}: byte {error.start} is not UTF-8; a packed file must "
            "be unpacked first, another encoding converted"
        ) from error
    return _without_tags(text) if is_markup(source) else text


def _without_tags(text: str) -> str:
    plain = html.unescape(_TAG.sub(" ", text))
    return "\n".join(_SPACES.sub(" ", line).strip() for line in plain.split("\n"))


def _passages(text: str) -> Iterator[str]:
    passage = ""
    longest = _LONGEST if _GAP.search(text.strip()) else _PASSAGE
    for paragraph in _GAP.split(text):
        for piece in _cut(paragraph) if len(paragraph) > longest else [paragraph]:
            passage += piece.strip("\n").rstrip() + "\n\n"  # its indentation stays
            if len(passage) >= _PASSAGE:
                yield passage.strip("\n")
                passage = ""
    if passage.strip():
        yield passage.strip("\n")


def _cut(paragraph: str) -> Iterator[str]:
    """Pieces of a passage's length and more, up to the end of a line, or else to a space."""
    start = last = 0
    while len(paragraph) - last > _PASSAGE:
        near, far = last + _PASSAGE, last + 2 * _PASSAGE
        ends = (paragraph.find(mark, near, far) for mark in "\n ")
        last = next((end for end in ends if end >= 0), far)
        yield paragraph[start:last]
        start = last + (last < far)
    yield paragraph[start:]


def _folder_sha256(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{path.relative_to(folder).as_posix()} {sha256_of(path)}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
