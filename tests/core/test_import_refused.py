"""Import of a pair that does not fit: one clear error, and no folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config

from boomerang_core import matching
from boomerang_core.blocks import BlockMap
from boomerang_core.errors import (
    ArchitectureError,
    BlockMapError,
    BoomerangError,
    CheckpointError,
    LadderError,
    SettingsError,
    SizeError,
)
from boomerang_core.importing import import_pair
from tests.core.conftest import LAYERS, VOCABULARY, tiny_teacher, tiny_tokenizer
from tests.core.pairs import KEPT, cut, edit_config, pair, write_pair, write_tiny_pair


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    write_tiny_pair(tmp_path, "llama")
    return tmp_path


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """A pair whose student does not say which layers it keeps."""
    write_tiny_pair(tmp_path, "gpt2")
    (tmp_path / "student" / "student_config.json").unlink()
    return tmp_path


class TestWhichLayers:
    def test_distilgpt2(self, tmp_path: Path) -> None:
        config = GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=16,
            n_layer=12,
            n_head=2,
            n_positions=64,
            bos_token_id=1,
            eos_token_id=2,
        )
        torch.manual_seed(0)
        teacher = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
        kept = [0, 2, 4, 7, 9, 11]
        write_pair(tmp_path, teacher, cut(teacher, kept, noise=0.01), None)
        with pytest.raises(BlockMapError, match="--kept 0,2,4,7,9,11"):
            import_pair(pair(tmp_path), tmp_path / "out")
        family = import_pair(pair(tmp_path, kept=tuple(kept)), tmp_path / "out")
        # as in the paper's notebook: its last two layers first, then one block more at a time
        assert [row.layers for row in family.rows] == [6, 7, 8, 10, 11, 12]

    def test_nobody_says(self, gpt2: Path) -> None:
        with pytest.raises(BlockMapError, match=r"not known, .* no student_config.json; its weigh"):
            import_pair(pair(gpt2), gpt2 / "out")
        assert not (gpt2 / "out").exists()

    def test_nobody_says_and_weights_do_not_either(self, tmp_path: Path) -> None:
        teacher = tiny_teacher("gpt2", True)
        write_pair(tmp_path, teacher, cut(teacher, KEPT, noise=10.0), None)
        with pytest.raises(BlockMapError, match=r"give --kept 0,2,4,… or --layout"):
            import_pair(pair(tmp_path), tmp_path / "out")

    @pytest.mark.parametrize(
        "options",
        [
            {"kept": (0, 2, 4, 5)},
            {"layout": "every-second-and-last"},
            {"layout": "[[0,1],[2,3],[4],[5]]"},
            {"layout": "[[0,1],[2,3],[4],[5]]", "kept": (0, 2, 4, 5)},
        ],
    )
    def test_the_user_says(self, options: dict[str, Any], gpt2: Path) -> None:
        family = import_pair(pair(gpt2, **options), gpt2 / "out")
        assert family.design.block_map == BlockMap.every_second_and_last(LAYERS)

    def test_a_layer_may_stand_for_a_block_that_it_does_not_begin(self, tmp_path: Path) -> None:
        teacher = tiny_teacher("llama", True)
        write_pair(tmp_path, teacher, cut(teacher, [1, 2, 5]), None)
        layout = "[[0,1],[2],[3,4,5]]"
        with pytest.raises(BlockMapError, match="--kept 1,2,5"):
            import_pair(pair(tmp_path, layout=layout), tmp_path / "out")
        family = import_pair(pair(tmp_path, layout=layout, kept=(1, 2, 5)), tmp_path / "out")
        assert [block.kept for block in family.design.block_map] == [1, 2, 5]

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"kept": (0, 2, 3, 5)}, BlockMapError, "layer 2 .* from layer 4 .* not from 3"),
            ({"kept": (0, 3)}, BlockMapError, "has 4 layers, the block map 2 blocks"),
            ({"kept": (1, 2, 4, 5)}, BlockMapError, "first kept layer must be 0"),
            ({"kept": (0, 2, 4, 6)}, BlockMapError, "not in a teacher of 6 layers"),
            ({"layout": "thirds"}, SettingsError, "layout must be one of"),
            ({"layout": "pairs"}, BlockMapError, "has 4 layers, the block map 3 blocks"),
            ({"kept": (0, 2, 4, 5), "ladder": "upwards"}, SettingsError, "ladder must be one of"),
            ({"kept": (0, 2, 4, 5), "ladder": "[[0],[1]]"}, LadderError, "there are 4"),
            ({"kept": (0, 2, 4, 5), "ladder": "[[1],[3,0],[2]]"}, SizeError, "two sizes"),
        ],
    )
    def test_the_user_is_wrong(
        self, options: dict[str, Any], error: type[BoomerangError], message: str, gpt2: Path
    ) -> None:
        with pytest.raises(error, match=message):
            import_pair(pair(gpt2, **options), gpt2 / "out")
        assert {path.name for path in gpt2.iterdir()} == {"teacher", "student"}

    def test_the_user_contradicts_the_student(self, llama: Path) -> None:
        assert import_pair(pair(llama, layout="every-second-and-last"), llama / "agrees").rows
        with pytest.raises(BlockMapError, match=r"contradicts .*student_config.json"):
            import_pair(pair(llama, kept=(0, 1, 2, 4)), llama / "out")


def edit_weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        path = root / "student" / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, {"format": "pt"})

    return edit


def edit_tokenizer(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        tokenizer = tiny_tokenizer()
        change(tokenizer)
        tokenizer.save_pretrained(root / "student")

    return edit


def released_as(text: str) -> Callable[[Path], None]:
    return lambda root: (root / "student" / "student_config.json").write_text(text) and None


def another_architecture(root: Path) -> None:
    cut(tiny_teacher("mistral", True), KEPT).save_pretrained(root / "student")


UP = "model.layers.1.mlp.up_proj.weight"
DOWN = "model.layers.{}.mlp.down_proj.weight"
ROPE = {"rope_type": "default", "rope_theta": 5000.0}


class TestWhatDoesNotMatch:
    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            (another_architecture, CheckpointError, "a MistralForCausalLM, the teacher a Llama"),
            (edit_config(architectures=["Other"]), ArchitectureError, "no row"),
            (edit_config(hidden_size=48), CheckpointError, "hidden_size is 48, not 32"),
            (edit_config(num_attention_heads=8), CheckpointError, "attention_heads is 8, not 4"),
            (edit_config(num_key_value_heads=4), CheckpointError, "key_value_heads is 4, not 2"),
            (edit_config(head_dim=16), CheckpointError, "head_dim is 16, not 8"),
            (edit_config(intermediate_size=64), CheckpointError, "intermediate_size is 64, not 48"),
            (edit_config(vocab_size=128), CheckpointError, "vocab_size is 128, not 64"),
            (edit_config(rms_norm_eps=1e-5), CheckpointError, "rms_norm_eps is 1e-05, not 1e-06"),
            (edit_config(hidden_act="gelu"), CheckpointError, "hidden_act is 'gelu', not 'silu'"),
            (edit_config(rope_parameters=ROPE), CheckpointError, "'rope_theta': 5000.0.*, not"),
            (edit_config(attention_bias=True), CheckpointError, "attention_bias is True, not"),
            (edit_config(tie_word_embeddings=False), CheckpointError, "embeddings is False, not T"),
            (
                edit_config(hidden_size=48, rms_norm_eps=1e-5),
                CheckpointError,
                "hidden_size is 48, not 32; .*rms_norm_eps is 1e-05, not 1e-06",
            ),
            (edit_config(num_hidden_layers=3), BlockMapError, "has 3 layers, the block map 4"),
            (
                edit_weights(lambda t: t.update({DOWN.format(4): torch.zeros(32, 48)})),
                BlockMapError,
                "weights of 5 layers, its config.json and the block map say 4",
            ),
            (edit_weights(lambda t: t.pop(UP)), CheckpointError, "lacks the weight .*layers.1.mlp"),
            (
                edit_weights(lambda t: t.update({UP: torch.zeros(32, 32)})),
                CheckpointError,
                "cannot read the checkpoint",
            ),
            (
                edit_weights(lambda t: t.update({DOWN.format(1): torch.zeros(32, 32)})),
                CheckpointError,
                "differ in the shape of mlp.down_proj",
            ),
            (
                edit_weights(lambda t: t.update({"lm_head.weight": torch.zeros(64, 32)})),
                CheckpointError,
                "says tie_word_embeddings, but",
            ),
            (
                edit_weights(lambda t: t.update({UP: t[UP].to(torch.float8_e4m3fn)})),
                CheckpointError,
                "stores weights as F8_E4M3",
            ),
            (
                edit_weights(lambda t: t.update({DOWN.format(1): t[DOWN.format(2)].clone()})),
                BlockMapError,
                "layer 1 of the student comes from layer 4 of the teacher.* not from 2",
            ),
            (
                edit_tokenizer(lambda t: t.add_tokens(["new"])),
                CheckpointError,
                "the token 'new' has the id 64 in the student's and None in the teacher's",
            ),
            (
                edit_tokenizer(lambda t: setattr(t, "eos_token", "<s>")),
                CheckpointError,
                "eos_token is '<s>', not '</s>'",
            ),
            (
                edit_tokenizer(
                    lambda t: setattr(
                        t.backend_tokenizer, "pre_tokenizer", pre_tokenizers.Split("x", "isolated")
                    )
                ),
                CheckpointError,
                "split the same text into different tokens",
            ),
            (released_as("{"), CheckpointError, r"cannot read .*student_config.json"),
            (released_as("[]"), CheckpointError, "must be a JSON object"),
            (released_as("{}"), BlockMapError, r"student_config.json: .*must list integers"),
            (
                released_as('{"copied_teacher_layers": [0, 2], "pruned_teacher_layers": [[1]]}'),
                BlockMapError,
                "must list integers",
            ),
            (
                released_as('{"copied_teacher_layers": [0, 2], "pruned_teacher_layers": [1, 3]}'),
                BlockMapError,
                "do not add up to the teacher's 6 layers",
            ),
        ],
    )
    def test_is_one_clear_error_and_leaves_nothing(
        self, change: Callable[[Path], None], error: type[BoomerangError], message: str, llama: Path
    ) -> None:
        change(llama)
        with pytest.raises(error, match=message) as caught:
            import_pair(pair(llama), llama / "out")
        assert "\n" not in str(caught.value)
        assert {path.name for path in llama.iterdir()} == {"teacher", "student"}

    @pytest.mark.parametrize(
        ("name", "changes", "message"),
        [
            ("gpt_neox", {"use_parallel_residual": False}, "use_parallel_residual is False"),
            ("gpt_neox", {"layer_norm_eps": 1e-3}, "layer_norm_eps is 0.001, not 1e-05"),
            ("gpt2", {"layer_norm_epsilon": 1e-3}, "layer_norm_epsilon is 0.001, not 1e-05"),
            ("gpt2", {"activation_function": "relu"}, "'relu', not 'gelu_new'"),
            ("gpt2", {"n_positions": 128}, "max_position_embeddings is 128, not 64"),
            ("gpt2", {"n_inner": 64}, "intermediate_size is 64, not 128"),
            ("mistral", {"sliding_window": 8}, "sliding_window is 8, not 4"),
            # as transformers works it out from the student's own places, not the kept layers'
            ("qwen3", {"layer_types": None}, "layer_types is .*, not"),
        ],
    )
    def test_settings_of_other_architectures(
        self, name: str, changes: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        teacher = tiny_teacher(name, True)
        write_pair(tmp_path, teacher, cut(teacher, KEPT))
        edit_config(**changes)(tmp_path)
        with pytest.raises(CheckpointError, match=message):
            import_pair(pair(tmp_path), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_what_does_not_matter_may_differ(self, gpt2: Path) -> None:
        edit_config(n_inner=128, resid_pdrop=0.5, summary_type="last", use_cache=False)(gpt2)
        edit_tokenizer(lambda t: setattr(t, "pad_token", "</s>"))(gpt2)
        assert import_pair(pair(gpt2, kept=tuple(KEPT)), gpt2 / "out").rows

    def test_a_setting_that_no_list_knows_of(
        self, llama: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        edit_config(rope_parameters=ROPE)(llama)
        known = tuple(name for name in matching._SETTINGS if name != "rope_parameters")
        monkeypatch.setattr(matching, "_SETTINGS", known)
        with pytest.raises(CheckpointError, match=r"the student's logits are off by .*%"):
            import_pair(pair(llama), llama / "out")
        assert {path.name for path in llama.iterdir()} == {"teacher", "student"}
