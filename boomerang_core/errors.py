"""Errors that a user can cause.  Programming errors are asserts, not these.

BoomerangError
├── BlockMapError       blocks do not partition the teacher
├── LadderError         a ladder is not a nested order of all blocks
├── SizeError           a request for a size makes no sense        (HTTP 400)
│   ├── UnknownSizeError    no offered size has that name          (HTTP 404 for `model`, else 400)
│   │   └── UnavailableSizeError  it is left out for want of memory
│   └── BudgetError         no offered size fits the memory budget (HTTP 400)
├── FamilyError         a family folder is missing, corrupt or of another format
├── CheckpointError     a checkpoint cannot be read or written
├── ArchitectureError   an architecture that has no row yet
├── DataError           text to train or measure on is missing or unusable
├── TrainingError       a training run cannot go on
├── StoppedError        a training run was told to stop, and has kept its state
├── WriteError          a file cannot be written; what was there before is whole
├── EngineError         the engine could not start, or died
└── SettingsError       a setting is unknown or out of range

Any of them `may_pass`: the user need not fix a network or a disk, and a command says so by its
exit status.
"""

from boomerang_core import causes


class BoomerangError(Exception):
    """Base of every error that a user can cause; its message is one clear sentence."""

    @property
    def may_pass(self) -> bool:
        """Whether the same command may succeed later, by what the error was raised from."""
        return causes.may_pass(self)


class BlockMapError(BoomerangError):
    """The blocks do not partition the teacher's layers."""


class LadderError(BoomerangError):
    """The steps are not a nested order that patches every block once."""


class SizeError(BoomerangError):
    """A request names a size in a way that cannot be met.

    `param` is the request field at fault, where one is known.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class UnknownSizeError(SizeError):
    """No offered size has that name."""


class UnavailableSizeError(UnknownSizeError):
    """The family has that size, and the server's memory budget leaves it out."""


class BudgetError(SizeError):
    """No offered size fits the memory budget."""


class FamilyError(BoomerangError):
    """A family folder is missing, corrupt, or of a format that this version cannot read."""


class CheckpointError(BoomerangError):
    """A checkpoint cannot be found, read or written."""


class ArchitectureError(BoomerangError):
    """The checkpoint's architecture has no row in the table of architectures."""


class DataError(BoomerangError):
    """Text to train or to measure on is missing, empty or unreadable."""


class TrainingError(BoomerangError):
    """A training run cannot go on: its loss is no number, or its processes do not agree."""


class StoppedError(BoomerangError):
    """A training run was told to stop, and has kept its state: the same command goes on."""

    @property
    def may_pass(self) -> bool:
        """Always."""
        return True


class WriteError(BoomerangError):
    """A file cannot be written, as on a full disk; what was there before is whole."""


class EngineError(BoomerangError):
    """The engine that serves the models could not start, or died; it does not come back."""


class SettingsError(BoomerangError):
    """A setting is unknown, contradictory or out of range."""


def install_hint(extra: str) -> str:
    """How to get the packages of an extra."""
    return f"pip install '.[{extra}]' in Boomerang's source folder"


def first_line(error: BaseException) -> str:
    """What an error of a library says, as one line: some go on for pages, some say nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
