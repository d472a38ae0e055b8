"""Tables of documents, read with the `datasets` library: datasets of the hub, and parquet files.

Both are streamed: rows are read as they are drawn, in an order shuffled by seed in a buffer.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from boomerang_core.causes import http_error
from boomerang_core.errors import DataError, SettingsError, first_line, install_hint
from boomerang_core.text.records import COLUMNS, Document, Feed, read_record
from boomerang_core.text.skipped import Skipped

HUB = "hub:"
BUFFER = 10_000
"""Rows among which the next one is chosen at random; the order of a dataset's files is too."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OPTIONS = ("split", "config", "field")


@dataclass(frozen=True)
class HubDataset:
    """A dataset by name: `hub:NAME[@REVISION][?split=train&config=NAME&field=COLUMN]`.

    `name` is an id on the hub, or a local folder, whose revision is None.
    """

    name: str
    revision: str | None = None
    split: str = "train"
    config: str | None = None
    field: str | None = None

    @classmethod
    def parse(cls, source: str) -> Self:
        """The inverse of `str`.  Raises SettingsError."""
        address, _, query = source.removeprefix(HUB).partition("?")
        options = dict(part.partition("=")[::2] for part in query.split("&") if part)
        if bad := [name for name, value in options.items() if name not in _OPTIONS or not value]:
            raise SettingsError(
                f"{source!r}: after '?' come split=…, config=… or field=…, not {bad[0]!r}"
            )
        if address and Path(address).is_dir():
            return cls(address, **options)
        name, at, revision = address.partition("@")
        if not _NAME.fullmatch(name) or (at and not revision):
            raise SettingsError(
                f"{source!r} is not hub:NAME[@REVISION][?split=…&config=…&field=…]; NAME is a "
                "dataset's id, such as org/name, or a folder"
            )
        return cls(name, revision or None, **options)

    def __str__(self) -> str:
        options = {name: value for name, value in asdict(self).items() if name in _OPTIONS}
        if self.split == "train":
            del options["split"]
        query = "&".join(f"{name}={value}" for name, value in options.items() if value)
        revision = f"@{self.revision}" if self.revision else ""
        return f"{HUB}{self.name}{revision}" + (f"?{query}" if query else "")

    @property
    def folder(self) -> Path | None:
        """The local folder, where it is one."""
        path = Path(self.name)
        return path if path.is_dir() else None

    def pinned(self) -> Self:
        """The same at the commit that its revision is now; needs the hub unless it is one.

        Raises DataError for a dataset that cannot be found.
        """
        if self.folder is not None or _COMMIT.fullmatch(self.revision or ""):
            return self
        with _as_one_error(str(self)) as datasets:
            builder = datasets.load_dataset_builder(self.name, self.config, revision=self.revision)
        # what the hub's client had cached, and used for want of the hub, carries no commit
        commit = str(builder.hash)
        return replace(self, revision=commit) if _COMMIT.fullmatch(commit) else self


def hub_feed(source: str, seed: int) -> Feed:
    """A dataset of the hub.  Raises DataError, SettingsError."""
    dataset = HubDataset.parse(source)
    place: dict[str, Any] = {
        "path": dataset.name,
        "name": dataset.config,
        "revision": dataset.revision,
    }
    return _table(source, _rows(source, seed, split=dataset.split, **place), dataset.field)


def parquet_feed(source: str, seed: int) -> Feed:
    """A parquet file, its row groups shuffled as the files of a dataset are.  Raises DataError."""
    file = {"path": "parquet", "data_files": source, "split": "train"}
    return _table(source, _rows(source, seed, by_row_group=True, **file))


def _table(source: str, rows: Iterator[Mapping[str, Any]], field: str | None = None) -> Feed:
    """The first row decides what the table holds: its columns are those of all."""
    first = next(rows, None)
    if first is None:
        raise DataError(f"{source} has no rows")
    column = field or next((name for name in COLUMNS if name in first), None)
    if column is None or column not in first:
        raise DataError(
            f"{source} has no column {field or 'text or messages'}; it has {', '.join(first)}"
            + (": choose one with ?field=COLUMN" if source.startswith(HUB) else ": rename one")
        )
    skipped = Skipped(source)
    documents = _documents(skipped, itertools.chain([first], rows), column)
    start = next(documents, None)
    if start is None:
        raise skipped.none_left(f"{source} has no text in its column {column}")
    return Feed(source, start.chat, itertools.chain([start], documents), skipped)


def _documents(
    skipped: Skipped, rows: Iterator[Mapping[str, Any]], column: str
) -> Iterator[Document]:
    source = skipped.source
    for row in rows:
        skipped.read += 1
        try:
            document = read_record({column: row[column]}, column, source, f"a row of {source}")
        except DataError as error:
            skipped.skip(str(error))
            skipped.require_few()
            continue
        if document is not None:
            yield document


def _rows(
    source: str, seed: int, by_row_group: bool = False, **dataset: Any
) -> Iterator[Mapping[str, Any]]:
    with _as_one_error(source) as datasets:
        table = datasets.load_dataset(streaming=True, **dataset)
        table = table.reshard() if by_row_group else table
        yield from table.shuffle(seed=seed, buffer_size=BUFFER)


@contextmanager
def _as_one_error(source: str) -> Iterator[Any]:
    """The `datasets` library; what it raises for data that it cannot read becomes DataError."""
    try:
        import datasets
        from pyarrow import ArrowException
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{source} needs the package datasets: {install_hint('train')}"
        ) from error
    try:
        yield datasets
    except (
        datasets.exceptions.DatasetsError,
        ArrowException,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        ImportError,
        http_error(),
    ) as error:
        raise DataError(f"cannot read {source}: {first_line(error)}") from error
