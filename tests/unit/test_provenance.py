"""What an artefact says about its making."""

import pytest

from boomerang_core.provenance import command_line


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("/some/where/prose.txt", "prose.txt"),
        ("ours=/some/where/ours", "ours=ours"),
        ("--text=/some/where/prose.txt", "--text=prose.txt"),
        ("end_to_end.learning_rate=3e-4", "end_to_end.learning_rate=3e-4"),
        ("families/ours", "families/ours"),
    ],
)
def test_the_command_leaves_out_this_machines_folders(
    word: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/boomerang", "make", word])
    assert command_line().endswith(f"make {shown}")
