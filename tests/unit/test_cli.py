"""The offline commands, on a small family folder; no torch."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from boomerang_core import cli, precision
from boomerang_core.blocks import BlockMap
from boomerang_core.errors import SettingsError
from boomerang_core.family import load_family
from boomerang_core.footprint import ModelShape
from boomerang_core.kv_groups import kv_bytes
from boomerang_core.ladder import Ladder
from boomerang_core.memory_plan import DEFAULT_REQUESTS, Residents, Span, whole
from boomerang_core.precision import served_precision
from boomerang_core.route import FamilyDesign, StudentKind
from boomerang_core.sizes import Quality, format_bytes
from server.memory.fit import kv_tokens, require_kv_cache, with_kv_cache
from server.memory.residency import Residency
from server.settings import Settings, read_settings
from tests.folders import write_tiny
from tests.imports import heavy_after

runner = CliRunner()


@pytest.fixture
def family_dir(tmp_path: Path) -> Path:
    return write_small(tmp_path, StudentKind.LOWRANK)


def write_small(tmp_path: Path, kind: StudentKind) -> Path:
    """A family of three sizes, one of them not offered."""
    block_map = BlockMap.from_layers([[0], [1, 2], [3, 4], [5]], shared=(0, 5))
    design = FamilyDesign(block_map, Ladder.last_to_first(block_map), kind)
    shape = ModelShape(6, 32, 2, 8, 9_280_000, 2_048_000, 2_048_000, 32, tied=True)
    quality = {0: Quality(0.5, 0.6, 40.0, 1000)}
    folder = tmp_path / "small"
    (folder / "student").mkdir(parents=True)
    (folder / "student" / "model.safetensors").write_bytes(b"tensors")
    write_tiny(
        folder,
        design,
        shape,
        quality=quality,
        offered=frozenset({0, 2}),
        name="small",
        footprint_tokens=100,
    )
    return folder


def test_help_names_every_command_in_the_order_of_use() -> None:
    result = runner.invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    words = re.findall(r"^\W*(\w+)\s{2,}", result.output, re.MULTILINE)
    listed = [word for word in words if word in cli.common.JOURNEY]
    shown = [
        name for name in listed if name not in ("serve", "sample")
    ]  # where the server is loaded
    assert shown == [name for name in cli.common.JOURNEY if name not in ("serve", "sample")]


@pytest.mark.parametrize("command", [[], ["search"]])
def test_no_help_is_cut_off(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    listed = runner.invoke(cli.app, [*command, "--help"]).output
    assert not re.search(r"\w\.\.\.$", listed, re.MULTILINE), listed
    options = runner.invoke(cli.app, ["make", "--help"]).output
    assert "…" not in options.replace("0,2,4,…", "")
    assert "package:NAME/FILE.gguf" in options
    assert max(map(len, options.splitlines())) <= 80


def test_version_is_one_line() -> None:
    result = runner.invoke(cli.app, ["--version"])
    assert result.exit_code == 0
    assert re.fullmatch(r"boomerang \d+\.\d+\.\d+, vLLM \S+\n", result.output)


def test_sizes_prints_one_line_a_size(family_dir: Path) -> None:
    result = runner.invoke(cli.app, ["sizes", str(family_dir)])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert len(lines) == 1 + 3 + 2  # a heading, the sizes, two notes
    assert "0.5000" in lines[1]
    assert "not offered" in lines[2]


def test_sizes_tells_what_a_server_would_hold() -> None:
    """The shipped family: the budget is what the KV cache and the first six sizes need."""
    family = load_family(cli.common.FAMILIES / "smollm2-135m").served_in(4)
    kv = (3 * 1024 + 128) * kv_bytes(family)[-1]  # in whole blocks, and vLLM keeps one
    need = Residents.of(family).weight_bytes(Span(0, 5)) + kv
    options = ["--context", "1000", "--concurrency", "3", "--dtype", "float32"]
    command = ["sizes", "smollm2-135m", *options, "--memory-budget"]
    result = runner.invoke(cli.app, [*command, str(need)])
    assert result.exit_code == 0
    assert verdicts(result.output) == ["offered"] * 6 + ["does not fit"] * 8
    assert f"{format_bytes(kv)} of it KV cache (3200 tokens)" in result.output
    result = runner.invoke(cli.app, [*command, "1MiB"])
    assert result.exit_code == 2
    assert "error: a memory budget of 1,048,576 bytes fits no size" in result.output


def test_sizes_counts_what_a_server_that_merges_would_hold() -> None:
    family = load_family(cli.common.FAMILIES / "smollm2-135m").served_in(4)
    need = Residents.of(family).weight_bytes(whole(family.design)) + (256 << 20)
    command = ["sizes", "smollm2-135m", "--dtype", "float32", "--memory-budget", str(need)]
    assert verdicts(runner.invoke(cli.app, command).output) == ["offered"] * 14
    result = runner.invoke(cli.app, [*command, "--merge"])
    told = verdicts(result.output)
    assert told[0] == "offered"
    assert told[-1] == "does not fit"
    assert "1.342 of the teacher" in result.output
    assert result.output.splitlines()[-1].endswith("--dtype float32 --merge")


def test_serve_refuses_to_merge_what_has_no_deltas(tmp_path: Path) -> None:
    from server.cli import app

    folder = write_small(tmp_path, StudentKind.FULL)
    result = runner.invoke(app, ["serve", str(folder), "--merge"])
    assert result.exit_code == 2
    assert result.output == "error: small has a full student already: nothing to merge\n"


def verdicts(output: str) -> list[str]:
    """Of each size of the shipped family, smallest first."""
    told = output.partition("would hold up to each size:")[2]
    return [line.partition("MiB  ")[2] for line in told.splitlines() if "MiB  " in line]


def settings_of(output: str) -> Settings:
    """Those of the server that `sizes` names."""
    command = output.splitlines()[-1].partition("boomerang serve ")[2].split()
    options = {
        name.strip("-").replace("-", "_"): value
        for name, value in zip(command[1::2], command[2::2], strict=True)
    }
    return read_settings(family=command[0], **options)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"kv-cache-bytes": 100 << 20},
        {"context": 1},
        {"context": 512},
        {"context": 1000, "concurrency": 3},
        {"context": 8192},
        {"concurrency": 4},
    ],
    ids=str,
)
def test_the_server_that_sizes_names_offers_what_it_says(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, int]
) -> None:
    monkeypatch.setattr(precision, "built_for_cpu", lambda: True)
    asked = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    result = runner.invoke(cli.app, ["sizes", "smollm2-135m", "--memory-budget", "950MiB", *asked])
    assert result.exit_code == 0
    settings = settings_of(result.output)
    if not given:
        assert settings.kv_cache_bytes == read_settings(memory_budget="950MiB").kv_cache_bytes
    held = served_precision("auto")
    assert settings.dtype == held.dtype
    family = load_family(cli.family_folder(Path(settings.family))).served_in(held.bytes_per_param)
    settings = with_kv_cache(settings, family, settings.memory_budget)
    require_kv_cache(family, settings)
    assert settings.max_model_len == max(given.get("context", 2048), 16)
    assert settings.max_num_seqs == given.get("concurrency", DEFAULT_REQUESTS)
    if given.keys() & {"context", "concurrency"}:
        wanted = settings.max_model_len * given.get("concurrency", 1)
        assert wanted < kv_tokens(family, settings)[-1] < wanted * 1.1 + 256
    residency = Residency(family, settings.kv_bytes, settings.memory_budget)
    offered = len(residency.policy.table.offered)
    assert verdicts(result.output) == ["offered"] * offered + ["does not fit"] * (14 - offered)
    assert 0 < offered <= 14


def test_sizes_refuses_a_kv_cache_without_the_block_that_vllm_keeps() -> None:
    family = load_family(cli.family_folder(Path("smollm2-135m"))).served_in(4)
    request = str(2048 * family.table.teacher.kv_bytes_per_token)
    asked = ["--memory-budget", "950MiB", "--dtype", "float32", "--kv-cache-bytes", request]
    result = runner.invoke(cli.app, ["sizes", "smollm2-135m", *asked])
    assert result.exit_code == 2
    settings = read_settings(kv_cache_bytes=request)
    with pytest.raises(SettingsError, match="cannot hold one request"):
        require_kv_cache(family, settings)


def test_sizes_refuses_a_kv_cache_that_the_server_would() -> None:
    small = ["--memory-budget", "950MiB", "--kv-cache-bytes", "1MiB"]
    result = runner.invoke(cli.app, ["sizes", "smollm2-135m", *small])
    assert result.exit_code == 2
    assert "--kv-cache-bytes: 1.0MiB cannot hold one request of 2048 tokens" in result.output


def test_sizes_takes_the_kv_cache_in_one_way() -> None:
    both = ["--memory-budget", "1GiB", "--kv-cache-bytes", "1MiB", "--context", "10"]
    result = runner.invoke(cli.app, ["sizes", "smollm2-135m", *both])
    assert result.exit_code == 2
    assert "give either --kv-cache-bytes or --context and --concurrency" in result.output


def test_merge_refuses_maps_that_it_does_not_know(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "merged")]
    result = runner.invoke(cli.app, ["merge", "smollm2-135m", *out, "--maps", "head"])
    assert result.exit_code == 2
    assert "--maps must be one of all, attention, mlp, got 'head'" in result.output


def test_verify_accepts_a_whole_folder(family_dir: Path) -> None:
    result = runner.invoke(cli.app, ["verify", str(family_dir)])
    assert result.exit_code == 0
    assert "small: whole, 3 sizes" in result.output


def test_verify_refuses_a_flipped_byte(family_dir: Path) -> None:
    (family_dir / "student" / "model.safetensors").write_bytes(b"tensorS")
    result = runner.invoke(cli.app, ["verify", str(family_dir)])
    assert result.exit_code == 2
    assert "model.safetensors is corrupt" in result.output


def test_a_folder_without_a_family_is_one_line(tmp_path: Path) -> None:
    result = runner.invoke(cli.app, ["sizes", str(tmp_path)])
    assert result.exit_code == 2
    assert result.output.startswith("error: ")
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "give --teacher"),
        (["--preset", "no-such"], "there is no preset"),
        (["--teacher", "x", "--kind", "sparse"], "kind must be one of"),
        (["--preset", "smollm2-135m", "--recipe", "r.json"], "not both"),
        (["--recipe", "missing.json"], "missing.json: No such file or directory\n"),
    ],
)
def test_make_refuses(options: list[str], reason: str, tmp_path: Path) -> None:
    result = runner.invoke(cli.app, ["make", "--out", str(tmp_path / "out"), *options])
    assert result.exit_code == 2
    assert reason in result.output


def test_a_family_is_named_after_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.make.recipe_of(None, None, Path("."), [{"teacher": "x"}]).name == tmp_path.name
    with pytest.raises(SettingsError, match="name must be one word"):
        cli.make.recipe_of(None, None, Path("my family"), [{"teacher": "x"}])


def test_options_go_on_top_of_a_preset(tmp_path: Path) -> None:
    changes = [{"seed": 7}, cli.make.assignment("end_to_end.objective.kl=0.5")]
    recipe = cli.make.recipe_of("smollm2-135m", None, tmp_path, changes)
    assert (recipe.seed, recipe.rank, recipe.name) == (7, 64, "smollm2-135m")
    assert recipe.end_to_end.objective.kl == 0.5
    assert recipe.end_to_end.objective.alignment == 2.0  # what lies beside it stays


def test_the_papers_recipe_leaves_teacher_and_text_open(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--teacher"):
        cli.make.recipe_of("paper", None, tmp_path, [])
    recipe = cli.make.recipe_of("paper", None, tmp_path, [{"teacher": "x", "text": ["y"]}])
    stage = recipe.end_to_end
    assert (stage.objective.cross_entropy, stage.objective.kl, stage.objective.alignment) == (
        1.0,
        0.1,
        2.0,
    )
    assert stage.tokens == 500 * stage.batch_rows * recipe.row_length


def test_the_recipe_for_a_gpu_trains_as_the_shipped_familys_did() -> None:
    shipped = cli.make.recipe_of("smollm2-135m", None, Path("x"), []).to_json()
    changes = [{"teacher": "x", "text": ["y"]}]
    recipe = cli.make.recipe_of("gpu", None, Path("x"), changes).to_json()
    different = {name for name, value in shipped.items() if recipe[name] != value}
    of_that_family = {"name", "teacher", "text", "shared", "ladder"}
    assert different == {*of_that_family, "sample_rows", "sinks", "text_tokens", "document_ends"}


@pytest.mark.parametrize("preset", ["paper", "gpu", None])
@pytest.mark.parametrize("tokens", [None, 3_000_000, 100_000_000])
def test_text_is_enough_for_the_tokens_that_are_trained_on(
    preset: str | None, tokens: int | None
) -> None:
    changes: list[dict[str, Any]] = [{"teacher": "x", "text": ["y"]}]
    if tokens is not None:
        changes.append({"end_to_end": {"tokens": tokens}})
    recipe = cli.make.recipe_of(preset, None, Path("x"), changes)
    if preset is None and tokens is None:
        assert recipe.text_tokens == 48_000  # what make's default is measured with
        return
    heldout = min(recipe.text_tokens / recipe.heldout_every, recipe.heldout_tokens)
    written = recipe.sample_tokens * (1 - 1 / recipe.heldout_every)
    trained = recipe.text_tokens - heldout + written
    assert recipe.end_to_end.tokens <= trained < recipe.end_to_end.tokens + 2
    stated = cli.make.recipe_of(preset, None, Path("x"), [*changes, {"text_tokens": 9}])
    assert stated.text_tokens == 9


@pytest.mark.parametrize(
    ("stated", "more", "text_tokens"),
    [
        ({}, {}, 2_109_475),
        ({}, {"end_to_end": {"tokens": 3_000_000}}, 3_061_225),
        ({}, {"end_to_end": {"tokens": 1_000_000}}, 1_020_409),
        ({}, {"end_to_end": {"tokens": 3_000_000}, "text_tokens": 9}, 9),
        ({"text_tokens": 77_000}, {"end_to_end": {"tokens": 3_000_000}}, 77_000),
    ],
)
def test_text_of_a_familys_recipe_goes_on_following(
    stated: dict[str, Any], more: dict[str, Any], text_tokens: int, tmp_path: Path
) -> None:
    """Every recipe.json states its tokens of text, but not everyone who made one."""
    path = tmp_path / "recipe.json"
    first = [{"teacher": "x", "text": ["y"], "end_to_end": {"tokens": 2_067_285}}, stated]
    first = [*first, {"sample_tokens": 0, "heldout_every": 50}]
    path.write_text(json.dumps(cli.make.recipe_of(None, None, Path("x"), first).to_json()))
    assert cli.make.recipe_of(None, path, Path("x"), [more]).text_tokens == text_tokens


def test_what_needs_little_text_reads_what_it_always_read() -> None:
    changes: list[dict[str, Any]] = [{"teacher": "x"}, {"end_to_end": {"tokens": 49_152}}]
    with_text = cli.make.recipe_of(None, None, Path("x"), [*changes, {"text": ["y"]}])
    assert with_text.text_tokens == 48_000
    many = [*changes, {"end_to_end": {"tokens": 10**8}}]
    assert cli.make.recipe_of(None, None, Path("x"), many).text_tokens == 48_000  # there is none


@pytest.mark.parametrize("text", ["seed", "=3", "end_to_end.=3", ".seed=1"])
def test_an_assignment_names_a_field_and_a_value(text: str) -> None:
    with pytest.raises(SettingsError, match="FIELD=VALUE"):
        cli.make.assignment(text)


def test_a_shipped_family_goes_by_its_name() -> None:
    assert cli.family_folder(Path("smollm2-135m")) == cli.common.FAMILIES / "smollm2-135m"


def test_sizes_loads_nothing_heavy(family_dir: Path) -> None:
    command = ["sizes", str(family_dir)]
    code = f"from boomerang_core.cli import app; app({command!r}, standalone_mode=False)"
    assert heavy_after(code) == []


@pytest.mark.parametrize("command", [["make", "--shared"], ["import", "--student", "y", "--kept"]])
def test_a_list_that_is_none_is_one_line(command: list[str], tmp_path: Path) -> None:
    rest = ["0,one", "--teacher", "x", "--out", str(tmp_path / "out")]
    result = runner.invoke(cli.app, [*command, *rest])
    assert result.exit_code == 2
    assert "must list layers such as 0,2,4, got '0,one'" in result.output
