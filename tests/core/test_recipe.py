"""Recipes: their forms, and what they refuse."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from boomerang_core import cli
from boomerang_core.choices import pairs
from boomerang_core.cli.make import recipe_of
from boomerang_core.distill import pipeline
from boomerang_core.distill.recipe import Recipe
from boomerang_core.distill.schedule import EndToEnd
from boomerang_core.errors import LadderError, SettingsError
from boomerang_core.family import load_family


class TestRecipe:
    def test_pairs_leave_shared_layers_alone(self) -> None:
        assert pairs(7, (0, 3)) == [[0], [1, 2], [3], [4, 5], [6]]

    @pytest.mark.parametrize(
        ("ladder", "own"),
        [
            ("last-to-first", True),
            ("first-to-last", False),
            ("[[0,1],[2,3]]", False),
            ("[[1,0], [2], [3]]", False),
            ("[[3],[2],[1],[0]]", True),
            ("[[0],[3],[1],[2]]", True),
            ("[[0,1,2,3]]", True),
        ],
    )
    def test_blocks_learn_on_the_stream_that_their_ladder_gives_them(
        self, recipe: Recipe, ladder: str, own: bool
    ) -> None:
        """However the order is written."""
        changed = replace(recipe, layout="[[0],[1,2],[3,4],[5]]", shared=(), ladder=ladder)
        assert changed.student_stream(changed.block_map(6)) is own

    def test_round_trip(self, recipe: Recipe) -> None:
        assert Recipe.from_json(recipe.to_json()) == recipe

    @pytest.mark.parametrize(
        "change",
        [
            {"kind": "sparse"},
            {"ladder": "sideways"},
            {"layout": "threes"},
            {"rank": 0},
            {"maps": "attention"},  # a block's first fit is of a map of its MLP
            {"sample_tokens": 0},
            {"unheard_of": 1},
            {"start": "cold"},
            {"start": "random"},  # of a low-rank student
            {"start": "random", "kind": "full"},  # and then nothing
            {"start": "naive"},
            {"own_embeddings": True},
            {"kept": "[0,"},
            {"kept": '["0"]'},
            {"layout": "[0,1]"},
        ],
    )
    def test_refuses_what_it_does_not_know(self, recipe: Recipe, change: dict[str, Any]) -> None:
        with pytest.raises(SettingsError):
            Recipe.from_json({**recipe.to_json(), **change}).block_map(6)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"text": "prose.txt"}, r"text must be a list, each a string, got 'prose\.txt'"),
            ({"shared": [0, "1"]}, "shared must be a list, each a whole number"),
            ({"rank": "8"}, "rank must be a whole number, got '8'"),
            ({"rank": True}, "rank must be a whole number, got True"),
            ({"seed": None}, "seed must be a whole number, got None"),
            ({"chat_share": "half"}, "chat_share must be a number or null, got 'half'"),
            ({"own_embeddings": 1}, "own_embeddings must be true or false"),
            ({"kept": 2}, "kept must be a string"),
            ({"end_to_end": {"clip": "1"}}, "clip must be a number"),
            ({"end_to_end": {"objective": 3}}, "objective must be an object of settings"),
            ({"kept": "0;2"}, r"measured, sequential, first, or layers such as \[0,2,4\]"),
        ],
    )
    def test_a_value_of_another_type_is_named(
        self, recipe: Recipe, change: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(SettingsError, match=message):
            Recipe.from_json({**recipe.to_json(), **change})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"ridge": 0}, "ridge must be above 0, got 0"),
            ({"ridge": math.nan}, "ridge must be a number, got nan"),
            ({"learning_rate": math.inf}, "learning_rate must be a number, got inf"),
            ({"end_to_end": {"learning_rate": math.nan}}, "learning_rate must be a number"),
            ({"row_length": 1}, "row_length must be at least 2, got 1"),
            ({"footprint_tokens": -5}, "footprint_tokens must be at least 1, got -5"),
            ({"seed": 2**70}, r"seed must be from 0 to 2\^63 - 1"),
            ({"seed": -1}, r"seed must be from 0 to 2\^63 - 1"),
            ({"text": ["no.txt"], "text_tokens": 0}, r"nothing of no\.txt would be read"),
            ({"layout": "[[0],"}, "layout is not JSON"),
        ],
    )
    def test_what_would_fail_later_is_refused_at_once(
        self, recipe: Recipe, change: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(SettingsError, match=message):
            Recipe.from_json({**recipe.to_json(), **change})

    def test_nan_is_no_setting_of_a_recipe_in_memory_either(self, recipe: Recipe) -> None:
        for name in ("ridge", "learning_rate", "sinks"):
            with pytest.raises(SettingsError):
                replace(recipe, **{name: math.nan})

    def test_a_space_before_a_list_changes_nothing(self, recipe: Recipe) -> None:
        lists = {"layout": "[[0],[1,2],[3,4],[5]]", "kept": "[0,2,3,5]", "ladder": "[[1],[2,3,0]]"}
        plain = replace(recipe, **lists)
        spaced = replace(recipe, **{name: f" {text} " for name, text in lists.items()})
        assert spaced.block_map(6) == plain.block_map(6)
        blocks = plain.block_map(6)
        assert spaced.patch_order(blocks) == plain.patch_order(blocks)

    def test_lists_are_lists_in_json_too(self, recipe: Recipe) -> None:
        lists = {
            "layout": [[0], [1, 2], [3, 4], [5]],
            "kept": [0, 2, 3, 5],
            "ladder": [[1, 2, 3, 0]],
        }
        plain = Recipe.from_json({**recipe.to_json(), **lists, "learning_rate": 1})
        text = {name: json.dumps(value, separators=(",", ":")) for name, value in lists.items()}
        assert plain == replace(recipe, **text, learning_rate=1)
        assert [block.kept for block in plain.block_map(6)] == lists["kept"]

    @pytest.mark.parametrize(
        "name", ["", ".", "..", "a/b", "a@b", "a b", "a\tb", "a\u00a0b", "a\\b"]
    )
    def test_a_name_that_no_server_can_use(self, recipe: Recipe, name: str) -> None:
        with pytest.raises(SettingsError, match="name must be one word without '/' and '@'"):
            replace(recipe, name=name)

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("sample-tokens", "sample_tokens"),
            ("tokens", "end_to_end.tokens"),
            ("warmpu", "end_to_end.warmup"),
            ("aligned_buy", "end_to_end.objective.aligned_by"),
        ],
    )
    def test_a_misspelt_setting(self, recipe: Recipe, name: str, meant: str) -> None:
        with pytest.raises(SettingsError, match=f"no setting '{name}'; did you mean '{meant}'"):
            Recipe.from_json({**recipe.to_json(), name: 1})

    def test_a_setting_like_no_other(self, recipe: Recipe) -> None:
        with pytest.raises(SettingsError, match=r"no setting 'colour'$"):
            Recipe.from_json({**recipe.to_json(), "colour": 1})

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("learning_rate", 0, "learning_rate must be above 0, got 0"),
            ("weight_decay", -1, "weight_decay must be at least 0, got -1"),
        ],
    )
    def test_a_setting_out_of_range_is_named(self, name: str, value: int, message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            EndToEnd(**{name: value})

    def test_blocks_kept_layers_and_ladder_as_json(self, recipe: Recipe) -> None:
        layout = "[[0],[1,2],[3,4],[5]]"
        chosen = replace(recipe, layout=layout, kept="[0,2,3,5]", ladder="[[1],[2,3,0]]")
        block_map = chosen.block_map(6)
        assert [block.kept for block in block_map] == [0, 2, 3, 5]
        assert chosen.patch_order(block_map).steps == ((1,), (2, 3, 0))

    @pytest.mark.parametrize("ladder", ["[[0],[1]]", "[[0],[0,1,2,3]]", "[[9]]"])
    def test_a_ladder_that_does_not_fit_the_blocks(self, recipe: Recipe, ladder: str) -> None:
        chosen = replace(recipe, ladder=ladder)
        with pytest.raises(LadderError):
            chosen.patch_order(chosen.block_map(6))


class TestDocumentEnds:
    """A recipe from before there were any stays what it was."""

    def test_new_recipes_have_them(self, recipe: Recipe) -> None:
        assert recipe.document_ends
        for preset in ("gpu", "paper", None):
            change = {"teacher": "x", "text": ["y"]}
            assert recipe_of(preset, None, Path("x"), [change]).document_ends

    def test_a_file_that_does_not_name_them_has_none(self, recipe: Recipe, tmp_path: Path) -> None:
        path = tmp_path / "recipe.json"
        values = recipe.to_json()
        for ends, expected in ((True, True), (False, False), (None, False)):
            values["document_ends"] = ends
            path.write_text(json.dumps({n: v for n, v in values.items() if v is not None}))
            assert Recipe.read(path).document_ends is expected
        shipped = recipe_of("smollm2-135m", None, Path("x"), [])
        assert not shipped.document_ends
        assert recipe_of(None, path, Path("x"), [{"document_ends": True}]).document_ends


def test_lists_of_a_recipe_are_options_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Recipe] = []
    shipped = load_family(cli.common.FAMILIES / "smollm2-135m")
    monkeypatch.setattr(pipeline, "make", lambda recipe, *_: made.append(recipe) or shipped)
    command = ["make", "--out", str(tmp_path / "out"), "--teacher", "x"]
    for kept in (["--kept", "0,2,4"], ["--kept", "[0,2,4]"], ["--set", "kept=[0,2,4]"]):
        options = [*kept, "--set", "layout=[[0],[1,2],[3,4]]"]
        result = CliRunner().invoke(cli.app, [*command, *options])
        assert result.exit_code == 0, result.output
    assert {(recipe.kept, recipe.layout) for recipe in made} == {("[0,2,4]", "[[0],[1,2],[3,4]]")}
