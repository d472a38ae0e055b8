"""The offline commands, a file for each group of them.

Each command imports what it needs when it runs, so that `sizes` and `verify` load no torch.
"""

from boomerang_core.cli import (
    common,
    compare,
    evaluate,
    folders,
    importing,
    make,
    report,
    search,
)
from boomerang_core.cli.common import app, family_folder

__all__ = [
    "app",
    "common",
    "compare",
    "evaluate",
    "family_folder",
    "folders",
    "importing",
    "make",
    "report",
    "search",
]
