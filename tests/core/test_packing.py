"""A packed family needs nothing but its folder, and verifies its teacher like the rest."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from boomerang_core import cli
from boomerang_core.assemble import assemble, export
from boomerang_core.checkpoint import load_teacher, load_tokenizer, parse_teacher, teacher_folder
from boomerang_core.compare.run import Texts, compare
from boomerang_core.contents import INDEX
from boomerang_core.errors import BoomerangError, CheckpointError, FamilyError, SettingsError
from boomerang_core.evaluate.record import save_report
from boomerang_core.family import Family, load_family, verify_family
from boomerang_core.merging import merge_family
from boomerang_core.packing import pack_family
from boomerang_core.route import StudentKind, build_route
from boomerang_core.student import load_student
from boomerang_core.text.evaluation import Sample
from tests.core.conftest import CONFIGS, tiny_design, tiny_student, tiny_teacher, write_tiny_family

KIND = StudentKind.LOWRANK
COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


@pytest.fixture
def family(tmp_path: Path) -> Family:
    """Its teacher lies in a folder beside it, with files that nothing reads."""
    teacher = tiny_teacher("llama", True)
    family = write_tiny_family(
        tmp_path / "family", teacher, tiny_student(teacher, KIND), tiny_design(KIND)
    )
    folder = Path(family.teacher.location)
    for name in ("pytorch_model.bin", "tokenizer.pkl", "modeling_tiny.py", "README.md"):
        (folder / name).write_bytes(b"")
    shutil.copyfile(folder / "model.safetensors", folder / "consolidated.safetensors")
    (family.root / "README.md").write_text("A card.")
    save_report(family, "note.json", {"kl": 1})
    return load_family(family.root)


def logits(family: Family) -> list[torch.Tensor]:
    """Of every size, from nothing but the folder and what it refers to."""
    teacher, student = load_teacher(family), load_student(family.student_dir)
    ids_BL = torch.arange(12).reshape(2, 6)
    return [
        assemble(teacher, student, build_route(family.design, row.size))(ids_BL).logits
        for row in family.rows
    ]


def moved(family: Family, to: Path) -> Family:
    """The folder at another place, and neither the old one nor the first teacher anywhere."""
    family.root.rename(to)
    return load_family(to)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_packed_family_computes_the_same_anywhere(family: Family, tmp_path: Path) -> None:
    expected = logits(family)
    packed = pack_family(family, tmp_path / "packed")
    shutil.rmtree(family.teacher.location)
    shutil.rmtree(family.root)
    there = moved(packed, tmp_path / "elsewhere")
    assert str(tmp_path) not in (there.root / INDEX).read_text()
    for size, found in enumerate(logits(there)):
        assert torch.equal(found, expected[size]), size
    assert load_tokenizer(there).chat_template
    assert there.teacher_name == "family-teacher"
    export(there, 0, tmp_path / "export")
    assert "tokenizer.json" in names(tmp_path / "export")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture(name: str, tied: bool, tmp_path: Path) -> None:
    teacher = tiny_teacher(name, tied)
    student = tiny_student(teacher, StudentKind.FULL, own_embeddings=True)
    design = tiny_design(StudentKind.FULL, own_embeddings=True)
    family = write_tiny_family(tmp_path / "family", teacher, student, design)
    assert all(map(torch.equal, logits(pack_family(family, tmp_path / "packed")), logits(family)))


def test_only_what_is_read_is_packed(family: Family, tmp_path: Path) -> None:
    packed = verify_family(pack_family(family, tmp_path / "packed").root)
    assert names(packed.root) == names(family.root) | {"teacher"}
    assert names(packed.root / "teacher") == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_a_teacher_in_shards(family: Family, tmp_path: Path) -> None:
    teacher = Path(family.teacher.location)
    expected = logits(family)
    model = load_teacher(teacher)
    (teacher / "model.safetensors").unlink()
    model.save_pretrained(teacher, max_shard_size="50KB")
    packed = pack_family(family, tmp_path / "packed")
    found = sorted((packed.root / "teacher").glob("*.safetensors"))
    assert len(found) > 1
    assert "consolidated.safetensors" not in names(packed.root / "teacher")
    assert all(map(torch.equal, logits(packed), expected))
    (teacher / found[0].name).unlink()
    with pytest.raises(CheckpointError, match=f"lacks {found[0].name}"):
        pack_family(family, tmp_path / "again")


def test_a_hub_teacher_is_packed_with_the_name_of_its_commit(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the hub's client keeps it: links into a store of blobs, in a folder named by commit."""
    snapshot = tmp_path / "hub" / COMMIT
    snapshot.mkdir(parents=True)
    for path in Path(family.teacher.location).iterdir():
        (snapshot / path.name).symlink_to(path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(snapshot))
    hub = replace(family, teacher=parse_teacher("lab/teacher"))
    packed = pack_family(hub, tmp_path / "packed")
    shutil.rmtree(snapshot)
    shutil.rmtree(family.teacher.location)
    assert packed.teacher_name == f"lab/teacher@{COMMIT}"
    assert not any(path.is_symlink() for path in packed.root.rglob("*"))
    assert len(logits(packed)) == len(family.rows)


def test_a_packed_family_is_packed_again(family: Family, tmp_path: Path) -> None:
    packed = pack_family(family, tmp_path / "packed")
    again = pack_family(packed, tmp_path / "again")
    assert (again.root / INDEX).read_bytes() == (packed.root / INDEX).read_bytes()
    flip(packed.root / "teacher" / "model.safetensors")
    with pytest.raises(FamilyError, match=r"teacher/model\.safetensors is corrupt"):
        pack_family(packed, tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_a_family_is_compared_with_its_packed_self(family: Family, tmp_path: Path) -> None:
    """One teacher, though the files that nothing reads were not packed."""
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"w{4 + i % 50}" for i in range(100)))
    families = {"here": family, "packed": pack_family(family, tmp_path / "packed")}
    out = tmp_path / "comparison.json"
    found = compare(families, [], Texts(Sample(text, 60, 32)), out, torch.device("cpu"))
    assert [series.name for series in found.series] == ["here", "packed"]
    assert found.series[0].points == found.series[1].points


def test_a_merged_family_takes_its_teacher_along(family: Family, tmp_path: Path) -> None:
    packed = pack_family(family, tmp_path / "packed")
    merged = merge_family(packed, tmp_path / "merged")
    expected = logits(packed)
    shutil.rmtree(packed.root)
    shutil.rmtree(family.teacher.location)
    assert merged.teacher_name == "family-teacher"
    for found, wanted in zip(logits(verify_family(merged.root)), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


class TestVerify:
    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
    def test_a_changed_small_file_is_found_at_every_load(
        self, family: Family, name: str, tmp_path: Path
    ) -> None:
        packed = pack_family(family, tmp_path / "packed")
        flip(packed.root / "teacher" / name)
        with pytest.raises(FamilyError, match=f"teacher/{name} is corrupt"):
            load_family(packed.root)

    def test_changed_weights_are_found_by_verify(self, family: Family, tmp_path: Path) -> None:
        """And stay found: what writes the index anew does not take them for right."""
        packed = pack_family(family, tmp_path / "packed")
        flip(packed.root / "teacher" / "model.safetensors")
        save_report(load_family(packed.root), "note.json", {"kl": 2})
        done = CliRunner().invoke(cli.app, ["verify", str(packed.root)])
        assert done.exit_code == 2
        assert "teacher/model.safetensors is corrupt" in done.output

    def test_missing_weights_are_found_at_every_load(self, family: Family, tmp_path: Path) -> None:
        packed = pack_family(family, tmp_path / "packed")
        (packed.root / "teacher" / "model.safetensors").unlink()
        with pytest.raises(FamilyError, match=r"lacks teacher/model\.safetensors"):
            load_family(packed.root)

    def test_a_download_with_the_notes_of_its_client(self, family: Family, tmp_path: Path) -> None:
        packed = pack_family(family, tmp_path / "packed")
        notes = packed.root / ".cache" / "huggingface"
        notes.mkdir(parents=True)
        (notes / "CACHEDIR.TAG").touch()
        (packed.root / ".gitattributes").touch()
        (packed.root / "README.md").write_text("Another card.")
        (packed.root / "LICENSE").touch()
        verify_family(packed.root)


class TestRefused:
    def test_a_used_out(self, family: Family, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "notes").touch()
        with pytest.raises(CheckpointError, match="not an empty folder"):
            pack_family(family, tmp_path / "out")
        assert names(tmp_path / "out") == {"notes"}

    @pytest.mark.parametrize("write", [pack_family, merge_family])
    def test_an_out_in_the_family(
        self, family: Family, write: Callable[[Family, Path], Family]
    ) -> None:
        with pytest.raises(SettingsError, match="lies in the family folder"):
            write(family, family.root / "out")
        load_family(family.root)

    def test_another_teacher_in_its_place(self, family: Family, tmp_path: Path) -> None:
        config = Path(family.teacher.location) / "config.json"
        record = json.loads(config.read_text())
        config.write_text(json.dumps({**record, "vocab_size": record["vocab_size"] + 1}))
        with pytest.raises(FamilyError, match="is not the teacher of tiny"):
            pack_family(family, tmp_path / "out")

    def test_weights_cut_off(self, family: Family, tmp_path: Path) -> None:
        weights = Path(family.teacher.location) / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        with pytest.raises(CheckpointError, match="cannot read"):
            pack_family(family, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert not list(tmp_path.glob(".out*"))

    def test_a_full_disk(
        self, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("boomerang_core.files.shutil.copyfile", fail)
        with pytest.raises(BoomerangError, match="No space left on device"):
            pack_family(family, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("location", "file"),
        [
            ("../teacher", None),
            ("teacher/../../x", None),
            ("", None),
            (".", None),
            ("teacher", "../../x.gguf"),
            ("teacher", "/x.gguf"),
        ],
    )
    def test_a_reference_out_of_the_family(
        self, family: Family, location: str, file: str | None
    ) -> None:
        record = json.loads((family.root / INDEX).read_text())
        record["teacher"] |= {"location": location, "file": file}
        (family.root / INDEX).write_text(json.dumps(record))
        with pytest.raises(FamilyError, match="must lie in the family folder"):
            load_family(family.root)

    def test_a_teacher_left_behind(self, family: Family) -> None:
        shutil.rmtree(family.teacher.location)
        with pytest.raises(CheckpointError, match="boomerang pack"):
            teacher_folder(family)


def test_the_command(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a relative folder, as people type it
    done = CliRunner().invoke(cli.app, ["pack", "family", "--out", "packed"])
    assert done.exit_code == 0, done.output
    assert "tiny, with its teacher family-teacher → packed" in done.output
    monkeypatch.chdir("/")
    assert verify_family(tmp_path / "packed").teacher.location == "teacher"


def test_the_folder_of_a_packed_teacher_is_absolute(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's processes get it, and would take `packed/teacher` for a hub id."""
    pack_family(family, tmp_path / "packed")
    monkeypatch.chdir(tmp_path)
    assert teacher_folder(load_family(Path("packed"))) == tmp_path / "packed" / "teacher"
