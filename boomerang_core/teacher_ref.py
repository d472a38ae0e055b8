"""Where a family's teacher is; pure."""

from dataclasses import dataclass
from pathlib import PurePath

from boomerang_core.errors import FamilyError


@dataclass(frozen=True)
class TeacherRef:
    """Where the teacher is: a local folder, a hub id, or an installed package.

    `file` is the checkpoint's file inside (a GGUF), where it is one; `revision` pins a hub id.
    A relative folder lies in the family folder; one that would lead out of it is a `FamilyError`.
    """

    kind: str
    location: str
    file: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("folder", "hub", "package"):
            raise FamilyError(f"a teacher is a folder, hub or package reference, got {self.kind!r}")
        if self.inside:
            path = PurePath(self.location, self.file or "")
            if not PurePath(self.location).parts or path.is_absolute() or ".." in path.parts:
                raise FamilyError(f"a relative teacher must lie in the family folder, got {path}")

    @property
    def inside(self) -> bool:
        """Whether it lies in the family folder."""
        return self.kind == "folder" and not PurePath(self.location).is_absolute()

    @property
    def name(self) -> str:
        """What it is called, without the folders of this machine."""
        location = PurePath(self.location).name if self.kind == "folder" else self.location
        return "/".join(filter(None, (location, self.file)))

    @property
    def pinned_name(self) -> str:
        """The name, with the revision where there is one."""
        return f"{self.name}@{self.revision}" if self.revision else self.name
