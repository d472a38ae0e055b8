"""The GPU benchmark of routed layers, on the CPU: its checks, its model, its counts, a tiny run."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from bench.gpu_layers import model
from bench.gpu_layers.__main__ import main
from bench.gpu_layers.checks import TOLERANCE, check
from bench.gpu_layers.model import Cache, Rope, run_step
from bench.gpu_layers.routes import (
    QWEN3_4B,
    QWEN3_8B,
    TINY,
    LayerCall,
    Shape,
    family_design,
    layers_of,
    plan_step,
    step_work,
    teacher_weights,
    thirds,
    three_sizes,
)
from bench.gpu_layers.weights import Layer, Maker, make_family, make_teacher
from boomerang_core.route import StudentKind

CPU = torch.device("cpu")


def test_mixed_equals_single_size_and_lowrank_equals_merged() -> None:
    found = check(CPU)

    assert len(found) == 8  # two kinds, decode and prefill; a low-rank student is compared thrice
    assert max(found.values()) < 10 * TOLERANCE


def test_a_delta_on_one_row_too_many_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    run_call = model._run_call

    def astray(family: Any, step: Any, call: LayerCall, *rest: Any) -> None:
        start = max(call.delta_start - 1, 0)
        run_call(family, step, replace(call, delta_start=start), *rest)

    monkeypatch.setattr(model, "_run_call", astray)
    with pytest.raises(AssertionError, match="not close"):
        check(CPU)


def _state(prefix: str, layer: Layer) -> dict[str, torch.Tensor]:
    """A layer under transformers' names."""
    maps, norms, heads = layer.maps, layer.norms, TINY.heads
    q, k, v = maps["qkv"].split(TINY.maps["qkv"].outputs)
    gate, up = maps["gate_up"].chunk(2)
    named = {
        "self_attn.q_proj": q,
        "self_attn.k_proj": k,
        "self_attn.v_proj": v,
        "self_attn.o_proj": maps["o"],
        "self_attn.q_norm": norms["heads"][0],
        "self_attn.k_norm": norms["heads"][heads],
        "mlp.gate_proj": gate,
        "mlp.up_proj": up,
        "mlp.down_proj": maps["down"],
        "input_layernorm": norms["input"],
        "post_attention_layernorm": norms["post"],
    }
    return {f"{prefix}.{name}.weight": tensor for name, tensor in named.items()}


def test_the_teacher_is_qwen3_as_transformers_runs_it() -> None:
    """Prefill, then one decode step on the cache that it left."""
    tokens = 9
    make = Maker(CPU, torch.float32)
    design = family_design(TINY, StudentKind.LOWRANK)
    family = make_family(TINY, design, make_teacher(TINY, make), make)
    config = Qwen3Config(
        vocab_size=TINY.vocab,
        hidden_size=TINY.hidden,
        intermediate_size=TINY.inner,
        num_hidden_layers=TINY.layers,
        num_attention_heads=TINY.heads,
        num_key_value_heads=TINY.kv_heads,
        head_dim=TINY.head_dim,
        rope_theta=model.THETA,
        rms_norm_eps=model.EPS,
        tie_word_embeddings=False,
    )
    reference = Qwen3ForCausalLM(config).eval()
    vocabulary = family.teacher.vocabulary
    state = {
        "model.embed_tokens.weight": vocabulary.embedding,
        "model.norm.weight": vocabulary.norm,
        "lm_head.weight": vocabulary.head,
    }
    for index, layer in enumerate(family.teacher.layers):
        state |= _state(f"model.layers.{index}", layer)
    reference.load_state_dict(state)
    ids_T = torch.randint(TINY.vocab, (tokens,))

    with torch.inference_mode():
        expected_TV = reference(ids_T[None]).logits[0]
        cache = Cache.random(TINY, 1, tokens - 1, make)
        teacher = design.ladder.teacher_size
        prefill = plan_step(design, [teacher], tokens - 1, tokens - 1)
        rope = Rope.at_end(TINY, prefill.load, make)
        first_BV = run_step(family, prefill, ids_T[:-1], cache, rope)
        cache = Cache(_grow(cache.keys), _grow(cache.values))
        decode = plan_step(design, [teacher], 1, tokens)
        rope = Rope.at_end(TINY, decode.load, make)
        second_BV = run_step(family, decode, ids_T[-1:], cache, rope)

    torch.testing.assert_close(first_BV[0], expected_TV[-2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(second_BV[0], expected_TV[-1], rtol=1e-4, atol=1e-4)


def _grow(parts: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """One empty position more; NaN shows where it is read before it is written."""
    return tuple(torch.nn.functional.pad(part, (0, 0, 0, 1), value=math.nan) for part in parts)


@pytest.mark.parametrize(
    ("shape", "parameters"), [(QWEN3_4B, 4_022_468_096), (QWEN3_8B, 8_190_735_360)]
)
def test_the_shapes_are_the_published_ones(shape: Shape, parameters: int) -> None:
    repeated = (shape.heads + shape.kv_heads - 2) * shape.head_dim  # q's and k's norm, per head

    assert teacher_weights(shape) - shape.layers * repeated == parameters


def test_the_family_is_the_papers() -> None:
    design = family_design(QWEN3_4B, StudentKind.FULL)

    assert [block.kept for block in design.block_map] == [*range(0, 36, 2), 35]
    assert [layers_of(design, size) for size in three_sizes(design)] == [19, 27, 36]


def test_a_mixed_step_reads_what_its_sides_read() -> None:
    """Full: both sides' layers; low-rank: the kept layers once, and the deltas."""
    element, rows = 2, 6
    for kind in StudentKind:
        design = family_design(TINY, kind)
        student, _, teacher = three_sizes(design)
        alone = {
            size: step_work(TINY, plan_step(design, [size] * (rows // 2), 1, 16), element)
            for size in (student, teacher)
        }
        mixed = step_work(TINY, plan_step(design, thirds(rows, (student, teacher)), 1, 16), element)
        shared = alone[student].read + alone[teacher].read - mixed.read
        vocabulary = 0 if design.own_embeddings else TINY.vocab * TINY.hidden
        kept = 0 if kind is StudentKind.FULL else len(design.block_map) * TINY.layer_weights
        assert shared == element * (vocabulary + kept)


def test_a_tiny_run_writes_both_reports(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.gpu_layers", "--device", "cpu", "--tiny", "--out"]
    subprocess.run([*command, str(tmp_path)], check=True, capture_output=True, timeout=120)

    result = json.loads((tmp_path / "gpu_layers.json").read_text(encoding="utf-8"))
    (shape,) = result["shapes"]
    assert [group["phase"] for group in shape["groups"]] == ["decode", "decode", "prefill"]
    cells = {cell["step"]: cell for cell in shape["groups"][1]["cells"]}
    assert cells["lowrank mixed"]["eager"]["n"] >= 15
    names = ("lowrank mixed", "full mixed", "full in turn")
    read = [cells[name]["read_bytes"] for name in names]  # floors depend on what is measured
    assert read == sorted(set(read))
    assert all(cells[name]["floor_ms"] > 0 for name in names)
    report = (tmp_path / "gpu_layers.md").read_text(encoding="utf-8")
    assert "lowrank mixed ÷ lowrank in turn" in report
    assert result["command"].startswith("python -m bench.gpu_layers --device cpu --tiny")


def test_an_unknown_shape_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(["--shapes", "qwen3-5b", "--out", str(tmp_path)])

    assert refusal.value.code == 2
    assert "qwen3-5b" in capsys.readouterr().err
