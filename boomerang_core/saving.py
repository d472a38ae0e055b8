"""A family folder changed: all of a save, or nothing of it.

The files of a save are written beside the old ones, into a folder whose name begins with a dot.
Renamed to `.next`, with the new `family.json` in it, the save is made: `contents.finish_save` moves
the files to their places, and after a kill whoever loads the family does.  A process that is
loading it meanwhile begins again.  Only one that cannot write into the folder may find it between
two of these renames, and is told so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from boomerang_core.contents import INDEX, NEXT, finish_save, list_files, listed_in
from boomerang_core.family import Family, index_text
from boomerang_core.files import write_text, writing
from boomerang_core.folders import unfinished_folder


@contextmanager
def saved(family: Family, without: Collection[str] = ()) -> Iterator[Path]:
    """A folder to write what changes in `family.root`, by the same names; then it is saved.

    `without` are listed files to remove, where they are not written anew.  Files that stay keep
    the sha256 that they are listed with: a student of gigabytes is not read again, and a damaged
    file does not become right.  Raises `WriteError`; the family is then as it was.
    """
    root = family.root
    with writing(f"into {root}"), unfinished_folder(root, ".new.") as staged:
        yield staged
        changed = list_files(staged, {})
        finish_save(root)  # of another process, so that its files are known
        known = listed_in(root / INDEX)
        stay = list_files(root, {**known, **changed})
        for name in (known.keys() & set(without)) - changed.keys():
            stay.pop(name, None)
        write_text(staged / INDEX, index_text(family, {**stay, **changed}))
        staged.chmod(0o755)
        staged.rename(root / NEXT)
    finish_save(root)
