"""The text of the kinds of file that packages keep prose in; used by fetch_prose.py."""

from __future__ import annotations

import bz2
import csv
import gzip
import html
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

_MARKUP = {".html", ".htm", ".xhtml", ".docbook", ".page"}
_PLAIN = {"", ".txt", ".text", ".dict", ".info"}
_QUOTED = {".cfg", ".ruleset"}  # games: Battle for Wesnoth and Freeciv
_DROPPED = re.compile(
    r"<!--.*?-->|<(script|style|pre|nav|head|programlisting|screen|synopsis|literallayout)\b"
    r".*?</\1\s*>",
    re.DOTALL | re.IGNORECASE,
)
_BLOCK = re.compile(
    r"</?(p|para|simpara|div|ul|ol|li|dl|dt|dd|h[1-6]|table|tr|td|th|blockquote|sect\w*|chapter"
    r"|title|item|listitem|steps|term|note|hr|body|br\s*/?>\s*<br)\b[^>]*>",
    re.IGNORECASE,
)
_TAG = re.compile(r"</?[a-zA-Z!?][^>]*>")
_TAGGED = re.compile(r"\s*(?:[^\s/]+/[^\s/]+\s+){8}")  # the/at Fulton/np-tl County/nn-tl
_WIKI_DROPPED = (
    re.compile(r"<!--.*?-->|<ref[^>]*/>|<(ref|math|gallery|table)\b.*?</\1>", re.DOTALL),
    re.compile(r"^\{\|.*?^\|\}", re.DOTALL | re.MULTILINE),
    re.compile(r"\[\[(?:File|Image|Category|[a-z-]{2,12}):.*?\]\]", re.IGNORECASE),
    re.compile(r"^(?:=+.*=+\s*$|[#*:;|!{]).*$", re.MULTILINE),
    re.compile(r"<[^>]*>|'{2,5}|\[https?://\S*\]|__[A-Z]+__"),
)


def read(path: Path) -> str:
    """The text of a file, paragraphs separated by blank lines; "" for a file of no use here."""
    data = path.read_bytes()
    if path.suffix in {".gz", ".dz", ".bz2"}:
        unpack = bz2.decompress if path.suffix == ".bz2" else gzip.decompress
        data, path = unpack(data), path.with_suffix("")
    if path.suffix == ".rdb":
        return "\n".join(_r_strings(b"".join(_zlib_blocks(data, header=4))))
    if path.suffix in {".bzz", ".czz"}:  # a SWORD commentary
        data, path = b"".join(_zlib_blocks(data)), path.with_suffix(".html")
    kind = path.suffix if not re.fullmatch(r"\.info-\d+", path.suffix) else ".info"
    if data.startswith(b"<mediawiki"):
        kind = ".mediawiki"
    if kind not in _PLAIN | set(_READERS) or b"\0" in data[:4096]:
        return ""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return _READERS.get(kind, _plain)(text)


def strip_markup(text: str) -> str:
    """Blocks of text, blank lines between; standalone code goes, code in a sentence stays."""
    text = _DROPPED.sub("\n\n", re.sub(r"\s+", " ", text))
    text = re.sub(r"<br\b[^>]*>", " ", _BLOCK.sub("\n\n", text), flags=re.IGNORECASE)
    return html.unescape(_TAG.sub("", text))


def _plain(text: str) -> str:
    if text.count("\n\t\t\t`") > 5:  # Endless Sky: conversations between backticks
        return "\n\n".join(re.findall(r"`\s*([^`]*)`", text))
    if text.count('_("') > 5:
        return _quoted(text)
    return _untagged(text) if _TAGGED.match(text) else text


def _quoted(text: str) -> str:
    """The strings that a game marks for translation; a backslash ends a line that goes on."""
    strings = re.findall(r'_\s*\(?\s*"([^"]*)"', text)
    return "\n\n".join(_TAG.sub("", s.replace("\\\n", "").replace("\\n", "\n")) for s in strings)


def _untagged(text: str) -> str:
    """One block from the words of a corpus that is tagged with parts of speech, as Brown's is."""
    words = " ".join(token.rpartition("/")[0] for token in text.split())
    words = words.replace("``", "“").replace("''", "”")
    words = re.sub(r"([?!;:]) \1", r"\1", words)  # which Brown's doubles
    return re.sub(r"(?<=[“(\[]) | (?=[,.;:?!)\]”](?:\s|$))", "", words)


def _json(text: str) -> str:
    """Every string in JSON; none in broken JSON."""
    try:
        return "\n\n".join(strip_markup(s) if "<" in s else s for s in _strings(json.loads(text)))
    except json.JSONDecodeError:
        return ""


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _csv(text: str) -> str:
    """The cells of a table, one after another."""
    csv.field_size_limit(len(text) + 1)
    return "\n\n".join(cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row)


def _mediawiki(text: str) -> str:
    """The paragraphs of every page of a dump, without templates, tables, lists and links."""
    pages = re.findall(r"<text\b[^>]*>(.*?)</text>", text, re.DOTALL)
    return "\n\n\f\n\n".join(_wiki_page(html.unescape(page)) for page in pages)


def _wiki_page(text: str) -> str:
    text = _WIKI_DROPPED[0].sub("", text)
    inner = 1
    while inner:
        text, inner = re.subn(r"\{\{[^{}]*\}\}", "", text)
    text = _WIKI_DROPPED[1].sub("", text)
    text = re.sub(r"\[\[(?![^\[\]|]*:)(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]", r"\1", text)
    text = re.sub(r"\[https?://\S+ ([^\]]*)\]", r"\1", text)
    for dropped in _WIKI_DROPPED[2:]:
        text = dropped.sub("", text)
    text = re.sub(r"\(\s*[,;]\s*", "(", re.sub(r" ?\([\s,;]*\)", "", html.unescape(text)))
    return text.replace("\n", "\n\n")


def _zlib_blocks(data: bytes, header: int = 0) -> Iterator[bytes]:
    while data := data[header:].lstrip(b"\0"):
        block = zlib.decompressobj()
        yield block.decompress(data)
        data = block.unused_data


def _r_strings(data: bytes) -> Iterator[str]:
    """The strings of a serialised R object."""
    position = 0
    while match := re.compile(rb"\0(?:\x04\0|\0\x80)\t(....)", re.DOTALL).search(data, position):
        position = match.end() + int.from_bytes(match[1], "big")
        yield data[match.end() : position].decode("utf-8", "replace")


_READERS: dict[str, Callable[[str], str]] = {
    **dict.fromkeys(_MARKUP, strip_markup),
    **dict.fromkeys(_QUOTED, _quoted),
    ".csv": _csv,
    ".dict": lambda text: re.sub("[{}]", "", text),
    ".json": _json,
    ".mediawiki": _mediawiki,
}
