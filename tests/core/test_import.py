"""Import of pairs that exist already, against plain lists of their layers."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from boomerang_core import importing
from boomerang_core.architectures import architecture_of
from boomerang_core.assemble import assemble
from boomerang_core.blocks import BlockMap
from boomerang_core.checkpoint import load_teacher, parse_teacher
from boomerang_core.cli import app
from boomerang_core.errors import CheckpointError, SettingsError, WriteError
from boomerang_core.family import Family, load_family
from boomerang_core.importing import Pair, import_pair
from boomerang_core.route import StudentKind, build_route
from boomerang_core.student import load_student
from tests.core.conftest import CONFIGS, LAYERS, VOCABULARY, tiny_teacher
from tests.core.pairs import KEPT, cut, edit_config, pair, write_pair, write_tiny_pair

DOUBLES = ["consolidated.safetensors", "original/consolidated.00.safetensors"]
"""Mistral's and Llama's weights once more, in layouts of their own."""
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CASES = [(name, tied) for name in CONFIGS for tied in (True, False)]
IDS = torch.randint(4, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    write_tiny_pair(tmp_path, "llama")
    return tmp_path


def spliced(teacher: Any, student: Any, mine: list[int], its: list[int]) -> Any:
    """Layers of the student, then of the teacher, with what goes before and after them."""
    row = architecture_of(teacher.config)
    model = copy.deepcopy(teacher)
    stacks = (student.get_submodule(row.layers), mine), (teacher.get_submodule(row.layers), its)
    layers = [copy.deepcopy(stack[index]) for stack, indices in stacks for index in indices]
    for place, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = place
    model.config.num_hidden_layers = len(layers)
    if getattr(model.config, "layer_types", None):
        kinds = (student.config.layer_types, mine), (teacher.config.layer_types, its)
        model.config.layer_types = [kind[index] for kind, indices in kinds for index in indices]
    parent, _, name = row.layers.rpartition(".")
    setattr(model.get_submodule(parent), name, nn.ModuleList(layers))
    for path in row.embeddings:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, copy.deepcopy(student.get_submodule(path)))
    return model


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(ids).logits
    return found


def assembled(family: Family, size: int) -> Any:
    student = load_student(family.student_dir)
    return assemble(load_teacher(family), student, build_route(family.design, size))


class TestEveryArchitecture:
    @pytest.mark.parametrize(("name", "tied"), CASES)
    def test_every_size_is_the_plain_list_of_layers(
        self, name: str, tied: bool, tmp_path: Path
    ) -> None:
        teacher = tiny_teacher(name, tied)
        student = cut(teacher, KEPT)
        write_pair(tmp_path, teacher, student)
        family = import_pair(pair(tmp_path), tmp_path / "out")
        expected = [
            logits(student),
            logits(spliced(teacher, student, [0], [2, 3, 4, 5])),
            logits(teacher),
        ]
        assert [row.layers for row in family.rows] == [4, 5, 6]
        for size, wanted in enumerate(expected):
            assert torch.equal(logits(assembled(family, size)), wanted), size
        assert not torch.allclose(expected[0], expected[1], atol=1e-2)  # or it shows nothing
        assert not torch.allclose(expected[1], expected[2], atol=1e-2)

    @pytest.mark.parametrize("name", ["qwen2", "qwen3"])
    def test_the_papers_code_leaves_layer_types_whole(self, name: str, tmp_path: Path) -> None:
        teacher = tiny_teacher(name, True)
        student = cut(teacher, KEPT)
        write_pair(tmp_path, teacher, student)
        assert len(set(teacher.config.layer_types)) == 2
        edit_config(layer_types=teacher.config.layer_types)(tmp_path)
        family = import_pair(pair(tmp_path), tmp_path / "out")
        assert torch.equal(logits(assembled(family, 0)), logits(student))

    @pytest.mark.parametrize(
        ("name", "old"),
        [
            ("llama", {"rope_theta": 10000.0, "rope_scaling": None}),
            ("gpt_neox", {"rotary_emb_base": 10000, "rotary_pct": 0.25, "rope_scaling": None}),
        ],
    )
    def test_configs_of_the_transformers_of_the_paper(
        self, name: str, old: dict[str, Any], tmp_path: Path
    ) -> None:
        write_tiny_pair(tmp_path, name)
        edit_config(rope_parameters=None, torch_dtype="float32", **old)(tmp_path)
        student = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
        family = import_pair(pair(tmp_path), tmp_path / "out")
        assert torch.equal(logits(assembled(family, 0)), logits(student))

    def test_a_student_of_random_weights_comes_from_nowhere(self, tmp_path: Path) -> None:
        teacher = tiny_teacher("llama", True)
        student = cut(teacher, KEPT, noise=10.0)
        write_pair(tmp_path, teacher, student)
        family = import_pair(pair(tmp_path), tmp_path / "out")
        assert torch.equal(logits(assembled(family, 0)), logits(student))


class TestFamily:
    def test_what_is_written(self, llama: Path) -> None:
        family = import_pair(pair(llama), llama / "deep" / "mine")
        assert family == load_family(llama / "deep" / "mine")
        assert (family.name, family.architecture) == ("mine", "LlamaForCausalLM")
        assert family.design.kind is StudentKind.FULL
        assert family.design.own_embeddings
        assert family.design.block_map == BlockMap.every_second_and_last(LAYERS)
        assert all(row.offered and row.quality is None for row in family.rows)
        assert family.default_size == len(family.rows) - 1
        assert family.teacher.location == str(llama / "teacher")
        source = family.provenance["imported"]
        assert source["student"] == "student"
        assert {"config.json", "model.safetensors", "student_config.json"} <= set(source["sha256"])
        assert str(llama) not in json.dumps(dict(family.provenance))
        assert [path.name for path in (llama / "deep").iterdir()] == ["mine"]

    @pytest.mark.parametrize(
        ("ladder", "steps"),
        [
            ("last-to-first", ((3, 2, 1), (0,))),
            ("first-to-last", ((0,), (1, 2, 3))),
            ("[[1],[3,2,0]]", ((1,), (3, 2, 0))),
        ],
    )
    def test_ladders(self, ladder: str, steps: tuple[tuple[int, ...], ...], llama: Path) -> None:
        assert import_pair(pair(llama, ladder=ladder), llama / "out").design.ladder.steps == steps

    def test_sizes_are_those_of_a_student_that_was_stored_in_bfloat16(self, tmp_path: Path) -> None:
        teacher = tiny_teacher("llama", True)
        student = cut(teacher, KEPT).to(torch.bfloat16)
        write_pair(tmp_path, teacher, student)
        family = import_pair(pair(tmp_path), tmp_path / "out")
        stored = load_file(family.student_dir / "model.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
        for name, parameter in student.named_parameters():
            assert torch.equal(stored[name], parameter)
        widened = AutoModelForCausalLM.from_pretrained(tmp_path / "student", dtype=torch.float32)
        assert torch.equal(logits(assembled(family, 0)), logits(widened))

    def test_the_config_does_not_decide_the_stored_dtype(self, llama: Path) -> None:
        edit_config(dtype="bfloat16")(llama)
        family = import_pair(pair(llama), llama / "out")
        stored = load_file(family.student_dir / "model.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {torch.float32}

    def test_a_student_without_a_tokenizer_has_none_to_compare(self, llama: Path) -> None:
        (llama / "student" / "tokenizer.json").unlink()  # what else there is needs it
        assert import_pair(pair(llama), llama / "out").rows

    def test_hub_ids_are_pinned(self, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        snapshots = {"lab/teacher": llama / "teacher", "lab/student": llama / "student"}
        asked: dict[str, Any] = {}

        def download(location: str, **options: Any) -> str:
            asked[location] = options
            folder = llama / "hub" / location / COMMIT
            folder.parent.mkdir(parents=True, exist_ok=True)
            if not folder.exists():
                folder.symlink_to(snapshots[location])
            return str(folder)

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        both = Pair(parse_teacher("lab/teacher"), parse_teacher("lab/student@v1"))
        family = import_pair(both, llama / "out")
        assert asked["lab/student"]["revision"] == "v1"
        patterns = {
            name: asked["lab/student"][name] for name in ("allow_patterns", "ignore_patterns")
        }
        files = ["model.safetensors", "student_config.json", "pytorch_model.bin", *DOUBLES]
        assert list(filter_repo_objects(files, **patterns)) == files[:2]
        assert (family.teacher.location, family.teacher.revision) == ("lab/teacher", COMMIT)
        assert family.provenance["imported"] == {"student": "lab/student", "revision": COMMIT}
        assert torch.equal(logits(assembled(family, 2)), logits(tiny_teacher("llama", True)))


class TestTheFolder:
    def test_nothing_is_written_over(self, llama: Path) -> None:
        (llama / "out").mkdir()
        (llama / "out" / "notes").touch()
        with pytest.raises(CheckpointError, match="not an empty folder"):
            import_pair(pair(llama), llama / "out")
        assert [path.name for path in (llama / "out").iterdir()] == ["notes"]

    def test_a_name_that_no_server_can_use(self, llama: Path) -> None:
        for out, name in ((llama / "my family", None), (llama / "out", "a/b")):
            with pytest.raises(SettingsError, match=r"must be one word.*give --name"):
                import_pair(pair(llama), out, name)
            assert not out.exists()

    def test_a_failure_at_the_end_leaves_nothing(
        self, llama: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(importing, "write_family", fail)
        with pytest.raises(WriteError, match=r"cannot write .*out: No space left"):
            import_pair(pair(llama), llama / "out")
        assert {path.name for path in llama.iterdir()} == {"teacher", "student"}


class TestCommand:
    def run(self, root: Path, *options: str) -> Any:
        pair = ["--teacher", str(root / "teacher"), "--student", str(root / "student")]
        return CliRunner().invoke(app, ["import", *pair, "--out", str(root / "out"), *options])

    def test_prints_the_sizes(self, tmp_path: Path) -> None:
        write_tiny_pair(tmp_path, "gpt2")
        (tmp_path / "student" / "student_config.json").unlink()
        result = self.run(tmp_path, "--kept", "0,2,4,5", "--ladder", "first-to-last", "--name", "x")
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert len(lines) == 1 + 3 + 3  # a heading, the sizes, three notes
        assert f"boomerang evaluate {tmp_path / 'out'} --text FILE --save" in result.output
        assert load_family(tmp_path / "out").name == "x"

    def measure(self, llama: Path) -> Any:
        text = llama / "text"
        text.write_text(" ".join(f"w{4 + index * 7 % 60}" for index in range(400)))
        return self.run(llama, "--text", str(text), "--tokens", "100", "--row-length", "16")

    def test_stopped_as_it_measures_it_begins_again(
        self, llama: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("boomerang_core.evaluate.ladder.frozen_teacher", stop)
            assert self.measure(llama).exit_code != 0
        assert {path.name for path in llama.iterdir()} == {"teacher", "student", "text"}
        assert self.measure(llama).exit_code == 0
        assert load_family(llama / "out").rows[0].quality is not None

    def test_measures(self, llama: Path) -> None:
        result = self.measure(llama)
        assert result.exit_code == 0, result.output
        assert "not measured" not in result.output
        family = load_family(llama / "out")
        qualities = [row.quality for row in family.rows]
        assert [quality.n for quality in qualities if quality] == [105] * 3
        assert qualities[-1] is not None
        assert (qualities[-1].kl, qualities[-1].top1) == (0.0, 1.0)
        assert family.provenance["imported"]["student"] == "student"
        assert family.provenance["evaluation"]["text"] == "text"
        assert (llama / "out" / "report" / "sizes.json").is_file()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--kept", "0,two"], "--kept must list layers such as 0,2,4"),
            (["--kept", "0,1,2,4"], "contradicts"),
            (["--text", "nowhere"], "cannot read evaluation text"),
            (["--text", "nowhere", "--device", "abacus"], "cannot use device 'abacus'"),
        ],
    )
    def test_a_users_error_is_one_line(self, options: list[str], message: str, llama: Path) -> None:
        result = self.run(llama, *options)
        assert result.exit_code == 2
        assert message in result.output
        assert result.output.startswith("error: ")
        assert result.output.count("\n") == 1
        assert not (llama / "out").exists()
