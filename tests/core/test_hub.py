"""Datasets by name: grammar, splits and columns, streaming, pinning, and what cannot be read."""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub.errors import HTTPError

from boomerang_core.contents import sha256_of
from boomerang_core.errors import DataError, SettingsError
from boomerang_core.text import hub
from boomerang_core.text.hub import HubDataset
from boomerang_core.text.sources import pin_sources, shown, source_versions
from tests.core.rows import encoded, ids, isolate_library, read, text_rows, write_rows, write_table
from tests.imports import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class TransportError(HTTPError):
    """As the hub's client lets through what its own library of HTTP raises."""


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    isolate_library(monkeypatch, tmp_path_factory.mktemp("cache"))


class TestHub:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """A dataset with two splits, and a column of another name."""
        write_table(tmp_path / "set/train.parquet", text_rows(20, seed=1))
        write_table(tmp_path / "set/test.parquet", text_rows(20, seed=2))
        rows = [{"body": row["text"], "title": "w4"} for row in text_rows(20, seed=3)]
        write_table(tmp_path / "other/train.parquet", rows)
        return tmp_path

    def test_the_split_is_chosen(self, folder: Path) -> None:
        found = ids(read(f"hub:{folder}/set?split=test"))
        assert sorted(found) == sorted(map(encoded, text_rows(20, seed=2)))

    def test_the_column_is_chosen(self, folder: Path) -> None:
        found = ids(read(f"hub:{folder}/other?field=body"))
        assert sorted(found) == sorted(map(encoded, text_rows(20, seed=3)))

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("set?split=dev", r"Bad split: dev\. Available splits: \['train', 'test'\]"),
            ("set?config=fr", "'fr' not found"),
            ("set?field=body", "has no column body; it has text"),
            ("other", "no column text or messages; it has body, title"),
        ],
    )
    def test_what_is_not_there(self, folder: Path, source: str, message: str) -> None:
        with pytest.raises(DataError, match=message) as raised:
            read(f"hub:{folder}/{source}")
        assert "\n" not in str(raised.value)

    def test_a_dataset_that_cannot_be_reached(self) -> None:
        """In a process of its own: the hub's client reads its environment once."""
        code = (
            "from boomerang_core.text.sources import open_sources, pin_sources\n"
            "from boomerang_core.errors import DataError\n"
            "for look_up in (lambda s: open_sources(s, 0), pin_sources):\n"
            "    try:\n"
            "        look_up(['hub:no-such/dataset'])\n"
            "    except DataError as error:\n"
            "        print(error, error.may_pass)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        lines = done.stdout.splitlines()
        assert len(lines) == 2, done.stderr
        assert all("cannot read hub:no-such/dataset: " in line for line in lines)
        assert all(line.endswith(" False") for line in lines)  # the user said so

    def test_a_connection_that_breaks_may_be_tried_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def load_dataset_builder(*_: Any, **__: Any) -> None:
            raise TransportError("peer closed connection")

        monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
        with pytest.raises(DataError, match="peer closed connection") as caught:
            pin_sources(["hub:org/set"])
        assert caught.value.may_pass

    def test_rows_are_read_as_they_are_drawn(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        seen = 0

        def endless() -> Iterator[dict[str, str]]:
            nonlocal seen
            for seen in itertools.count(1):
                yield {"text": f"w{4 + seen % 60}"}

        def load_dataset(path: str, **options: Any) -> Any:
            assert (path, options["streaming"], options["split"]) == ("org/endless", True, "train")
            assert (options["name"], options["revision"]) == ("fr", "main")
            return datasets.IterableDataset.from_generator(endless)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        monkeypatch.setattr(hub, "BUFFER", 100)
        text = read("hub:org/endless@main?config=fr", tokens=50)
        assert text.tokens == 50
        assert seen < 2000

    def test_pinned_at_the_commit(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        asked = []

        class Builder:
            hash = COMMIT

        def load_dataset_builder(*place: Any, **options: Any) -> Builder:
            asked.append((place, options))
            return Builder()

        monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
        sources = ("prose.txt", "hub:org/set@v1?config=fr", f"hub:{tmp_path}", f"hub:a@{COMMIT}")
        pinned = pin_sources(sources)
        assert pinned == (sources[0], f"hub:org/set@{COMMIT}?config=fr", *sources[2:])
        assert asked == [(("org/set", "fr"), {"revision": "v1"})]
        assert pin_sources(pinned) == pinned

    def test_without_the_library(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        for source in ("hub:org/set", "rows.parquet"):
            with pytest.raises(SettingsError, match=r"pip install '\.\[train\]'"):
                read(source)
        write_rows(tmp_path / "rows.jsonl", text_rows(3))
        assert len(read(str(tmp_path / "rows.jsonl")).documents) == 3


class TestGrammar:
    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("hub:wikitext", HubDataset("wikitext")),
            ("hub:org/set@v1.0", HubDataset("org/set", "v1.0")),
            ("hub:org/set@refs/pr/1?split=test", HubDataset("org/set", "refs/pr/1", "test")),
            (
                "hub:org/set?config=en&field=body",
                HubDataset("org/set", config="en", field="body"),
            ),
        ],
    )
    def test_parsed_and_written(self, source: str, expected: HubDataset) -> None:
        assert HubDataset.parse(source) == expected
        assert str(expected) == source

    @pytest.mark.parametrize(
        "source",
        [
            "hub:",
            "hub:a/b/c",
            "hub:../a",
            "hub:org/set@",
            "hub:org/set?splits=test",
            "hub:org/set?split=",
            "hub:org/set?test",
            "hub:https://x.org/set",
        ],
    )
    def test_refused(self, source: str) -> None:
        with pytest.raises(SettingsError, match="hub:"):
            HubDataset.parse(source)


class TestVersions:
    def test_files_and_folders_have_one(self, tmp_path: Path) -> None:
        (tmp_path / "set").mkdir()
        file = write_rows(tmp_path / "set/train.jsonl", text_rows(3))
        sources = (file, f"hub:{tmp_path}/set", "python-reference", "hub:org/set")
        versions = source_versions(sources)
        assert versions[file] == sha256_of(Path(file))
        assert set(versions) == set(sources[:3])
        write_rows(tmp_path / "set/train.jsonl", text_rows(4))
        now = source_versions(sources)
        assert {name for name in versions if now[name] != versions[name]} == set(sources[:2])

    def test_names_without_folders(self, tmp_path: Path) -> None:
        (tmp_path / "set").mkdir()
        names = ("/a/b/prose.txt", f"hub:{tmp_path}/set?split=test", "hub:org/set?field=body")
        assert list(map(shown, names)) == ["prose.txt", "hub:set?split=test", names[2]]
