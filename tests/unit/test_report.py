"""The report of a family: page, table and pictures from a folder without tensors; no torch."""

import json
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from boomerang_core import cli
from boomerang_core.blocks import BlockMap
from boomerang_core.errors import FamilyError, SettingsError, WriteError
from boomerang_core.family import Family, load_family
from boomerang_core.footprint import ModelShape
from boomerang_core.ladder import Ladder
from boomerang_core.report.charts.clouds import running_mean
from boomerang_core.report.page import write_report
from boomerang_core.route import FamilyDesign, StudentKind
from boomerang_core.sizes import Quality
from tests.folders import write_tiny
from tests.imports import heavy_after

BLOCKS = BlockMap.from_layers([[0], [1, 2], [3, 4], [5]], shared=(0, 5))
DESIGN = FamilyDesign(BLOCKS, Ladder.last_to_first(BLOCKS), StudentKind.LOWRANK)
SHAPE = ModelShape(6, 32, 2, 8, 9_280_000, 2_048_000, 2_048_000, 32, tied=True)
QUALITY = {
    0: Quality(0.5123, 0.6, 40.0, 1234),
    1: Quality(0.75, 0.55, 44.0, 1234),
    2: Quality(0.0, 1.0, 21.0, 1234),
}
NAIVE = [
    {"layers": 4, "kl": 2.5123, "top1": 0.2, "perplexity": 300.0, "n": 1234},
    {"layers": 5, "kl": 0.7, "top1": 0.5, "perplexity": 60.0, "n": 1234},
    {"layers": 6, "kl": 0.0, "top1": 1.0, "perplexity": 21.0, "n": 1234},
]
STEPS = [{"tokens": 10 * i, "size": i % 3, "kl": 1 / i, "loss": 1.0} for i in range(1, 31)]
HOSTILE = 'evaluate <script>alert(1)</script> & "$OUT" $\\frac$'
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Elements of a page; a tag that closes another than the open one is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.images: list[dict[str, str | None]] = []
        self.scopes: list[str | None] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.texts.setdefault(tag, []).append("")
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "th":
            self.scopes.append(dict(attrs)["scope"])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data


def family(
    folder: Path,
    quality: dict[int, Quality] | None = QUALITY,
    reports: bool = True,
    **fields: object,
) -> Family:
    (folder / "student").mkdir(parents=True)
    (folder / "student" / "model.safetensors").write_bytes(b"tensors")
    if reports:
        (folder / "report").mkdir()
        (folder / "report" / "naive.json").write_text(json.dumps(NAIVE))
        lines = "".join(json.dumps(step) + "\n" for step in STEPS)
        (folder / "report" / "training.jsonl").write_text(lines)
    note = {"text": "prose.txt", "date": "2026-01-02", "command": HOSTILE}
    given = {"name": "tiny<&>", "provenance": {"hardware": "a machine", "evaluation": note}}
    offered = frozenset({0, 2})
    return write_tiny(folder, DESIGN, SHAPE, quality=quality, offered=offered, **(given | fields))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return family(tmp_path_factory.mktemp("report") / "family")


@pytest.fixture(scope="module")
def out(tiny: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report that the command wrote."""
    folder = tmp_path_factory.mktemp("written")
    result = CliRunner().invoke(cli.app, ["report", str(tiny.root), "--out", str(folder)])
    assert (result.exit_code, result.output) == (0, f"{folder / 'index.html'}\n")
    return folder


@pytest.fixture(scope="module")
def page(out: Path) -> Page:
    return Page((out / "index.html").read_text(encoding="utf-8"))


def test_the_page_has_a_row_for_every_size(page: Page) -> None:
    cells = [row.split() for row in page.texts["tr"]][1:]
    assert cells == [
        ["39m", "4", "39,168,032", "74.8MiB", "0.512", "2.512", "0.600", "40.0", "yes"],
        ["48m", "5", "48,448,032", "92.5MiB", "0.750", "0.700", "0.550", "44.0", "no"],
        ["58m", "6", "57,728,032", "110.3MiB", "0.000", "0.000", "1.000", "21.0", "yes"],
    ]
    assert page.scopes == ["col"] * 9 + ["row"] * 3
    assert "n = 1,234 tokens of prose.txt" in " ".join(page.texts["caption"][0].split())


def test_what_the_family_says_is_escaped(page: Page) -> None:
    assert page.texts["h1"] == ["tiny<&>"]
    assert HOSTILE in [text.strip() for text in page.texts["dd"]]
    assert "script" not in page.texts


def test_every_picture_lies_beside_the_page_and_is_told_in_numbers(page: Page, out: Path) -> None:
    names = [str(image["src"]) for image in page.images]
    assert names == ["quality.png", "perplexity.png", "training.png"]
    for name in names:
        assert (out / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    quality, perplexity, training = (str(image["alt"]) for image in page.images)
    assert "from 0.512 nats per token at 39m to 0.000 at 58m" in quality
    assert "naive pruning starts at 2.512 and is worse at 1 of the 2 sizes below" in quality
    assert "from 40.0 at a footprint of 74.8MiB" in perplexity
    assert "worse at 2 of the 2 sizes below" in perplexity
    assert "sizes between: from" in training


def test_the_same_family_gives_the_same_bytes(tiny: Family, out: Path, tmp_path: Path) -> None:
    again = write_report(tiny, tmp_path).parent
    files = sorted(path.name for path in again.iterdir())
    assert files == ["index.html", "perplexity.png", "quality.png", "training.png"]
    assert all((again / name).read_bytes() == (out / name).read_bytes() for name in files)


def test_a_family_without_further_reports_has_a_shorter_page(tmp_path: Path) -> None:
    tiny = family(tmp_path / "family", reports=False, provenance={})
    page = Page(write_report(tiny, tmp_path / "out").read_text("utf-8"))
    assert [image["src"] for image in page.images] == ["quality.png", "perplexity.png"]
    assert "naive" not in str(page.images)
    assert len(page.texts["tr"][1].split()) == 8


def test_a_family_that_was_not_measured_is_refused(tmp_path: Path) -> None:
    tiny = family(tmp_path / "family", quality={0: QUALITY[0], 2: QUALITY[2]})
    with pytest.raises(FamilyError, match="size 48m of tiny<&> was never measured"):
        write_report(tiny, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("naive.json", json.dumps(NAIVE[:2]), "naive.json does not list the sizes"),
        ("naive.json", '[{"layers": 4}]', "naive.json does not list the sizes"),
        ("training.jsonl", '{"tokens": 1', "training.jsonl is malformed"),
        ("training.jsonl", '{"tokens": 1, "size": 0, "kl": NaN}', "training.jsonl is malformed"),
    ],
)
def test_a_report_that_cannot_be_read_is_named(
    name: str, text: str, reason: str, tmp_path: Path
) -> None:
    tiny = family(tmp_path / "family")
    (tiny.root / "report" / name).write_text(text)
    with pytest.raises(FamilyError, match=reason):
        write_report(tiny, tmp_path / "out")


def test_the_family_folder_stays_whole(tiny: Family) -> None:
    with pytest.raises(SettingsError, match="lies in the family folder"):
        write_report(tiny, tiny.root / "report")
    assert load_family(tiny.root).name == tiny.name


def test_a_folder_that_is_a_file_is_refused(tiny: Family, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(WriteError, match="cannot write"):
        write_report(tiny, tmp_path / "out")


def test_a_running_mean_counts_whole_windows_only() -> None:
    assert running_mean([1, 2, 3, 4, 5], [0, 3, 6, 0, 9], 0.4) == ([2, 3, 4], [3, 3, 5])
    assert running_mean([1], [7], 0.2) == ([1], [7])


def test_a_missing_package_is_named(
    tiny: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.startswith(("boomerang_core.report.", "matplotlib")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = CliRunner().invoke(cli.app, ["report", str(tiny.root), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert (
        "error: a report needs matplotlib: pip install '.[eval]' in Boomerang's source folder"
        in result.output
    )


def test_a_report_loads_no_torch() -> None:
    assert heavy_after("import boomerang_core.report.page") == ["matplotlib"]
