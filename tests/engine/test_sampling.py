"""Text that the teacher writes by vLLM: from its own distribution, and read back token by token."""

import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM
from typer.testing import CliRunner

from boomerang_core.distill.prompts import Prompt
from boomerang_core.errors import DataError
from boomerang_core.text.documents import Drawn, read_text
from server import sample as command
from server.cli import app
from server.engine import sampling
from server.engine.sampling import Sampler
from tests.api.tokenizer import byte_tokenizer
from tests.engine.families import VOCABULARY, TinyFamily
from tests.imports import ROOT

pytestmark = pytest.mark.engine

LENGTH, POSITIONS = 8, 256
END = VOCABULARY - 1


@pytest.fixture(scope="module")
def teacher(build: Callable[[str], TinyFamily], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that has a tokenizer, with a chat template."""
    folder = tmp_path_factory.mktemp("talks") / "teacher"
    shutil.copytree(build("full-own-ends").teacher_dir, folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sampler(teacher: Path, keep: Callable[[Any], Any]) -> Sampler:
    limits = {"dtype": "float32", "max_num_seqs": 64, "block_size": 32}
    limits["max_num_batched_tokens"] = POSITIONS  # so few that prompts would be split
    return keep(Sampler(teacher, LENGTH, VOCABULARY, END, kv_cache_bytes=16 << 20, **limits))


def draw(sampler: Sampler, prompts: Iterator[Prompt], tokens: int, seed: int = 0) -> list[Drawn]:
    return list(sampler.documents(prompts, tokens, seed, "teacher"))


def same(ids: list[int]) -> Iterator[Prompt]:
    return itertools.repeat(Prompt(torch.tensor(ids)))


def test_continuations_have_the_teachers_own_distribution(teacher: Path, sampler: Sampler) -> None:
    prompt = [5, 60, 7]
    model = LlamaForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    with torch.no_grad():
        expected_V = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)

    documents = draw(sampler, same(prompt), 6000)
    assert all(document.ids[:3].tolist() == prompt for document in documents)
    first = torch.tensor([int(document.ids[3]) for document in documents])
    n = len(first)
    found_V = first.bincount(minlength=VOCABULARY) / n
    deviation_V = (expected_V * (1 - expected_V) / n).sqrt()
    assert n > 500
    assert ((found_V - expected_V).abs() <= 5 * deviation_V + 2 / n).all()

    ends = [document.ids[3:].tolist() for document in documents]
    assert any(END in added for added in ends)
    assert not any(END in added[:-1] for added in ends)
    assert {len(added) for added in ends if END not in added} == {LENGTH}


def test_the_seed_decides_the_text(sampler: Sampler) -> None:
    def ids(seed: int) -> list[list[int]]:
        return [each.ids.tolist() for each in draw(sampler, same([9, 9]), 300, seed)]

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)
    assert len({tuple(each) for each in ids(1)}) > 1  # each prompt has a seed of its own


def test_a_stopped_run_goes_on(
    sampler: Sampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "ROUND", 8)
    prompts = [Prompt(torch.tensor([9, token])) for token in range(1, 200)]

    def write(parts: Path | None, seed: int = 0) -> list[list[int]]:
        drawn = sampler.documents(iter(prompts), 300, seed, "teacher", parts)
        return [each.ids.tolist() for each in drawn]

    whole, stopped = write(tmp_path / "whole"), tmp_path / "stopped"
    assert whole == write(None)
    drawn = sampler.documents(iter(prompts), 300, 0, "teacher", stopped)
    assert [next(drawn).ids.tolist() for _ in range(12)] == whole[:12]  # in its second round
    rounds, ask = [], sampler._continue
    monkeypatch.setattr(sampler, "_continue", lambda asked: rounds.append(asked) or ask(asked))
    assert write(stopped) == whole
    assert len(rounds) == len(list((tmp_path / "whole").iterdir())) - 2
    assert write(stopped, seed=1) == write(None, seed=1) != whole  # another run's parts give way


def test_a_part_that_is_something_else_is_one_clear_error(sampler: Sampler, tmp_path: Path) -> None:
    (tmp_path / "000000.json").write_text("[]")
    with pytest.raises(DataError, match=r"000000.json is no finished result; delete it"):
        next(sampler.documents(same([9, 9]), 300, 0, "teacher", tmp_path))


def test_enough_tokens_and_no_document_more(sampler: Sampler) -> None:
    lengths = [len(document.ids) for document in draw(sampler, same([9, 9]), 300)]
    assert sum(lengths[:-1]) < 300 <= sum(lengths)


def test_what_the_tokenizer_does_not_know_is_cut_off(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = draw(sampler, same([9, 9]), 300)
    monkeypatch.setattr(sampler, "_vocabulary", 128)
    for document, cut in zip(whole, draw(sampler, same([9, 9]), 300), strict=False):
        kept = itertools.takewhile(lambda token: token < 128, document.ids.tolist())
        assert cut.ids.tolist() == list(kept)


def test_prompts_that_do_not_fit(sampler: Sampler) -> None:
    long, longest = (Prompt(torch.full((n,), 9)) for n in (POSITIONS - 1, POSITIONS))
    documents = draw(sampler, itertools.cycle([longest, long]), 600)
    assert {len(document.ids) for document in documents} == {POSITIONS}  # the last place is filled
    with pytest.raises(DataError, match="prompts have 256 tokens and more; the limit is 255"):
        draw(sampler, itertools.repeat(longest), 600)


class TestCommand:
    @pytest.fixture
    def run(
        self, teacher: Path, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[..., Any]:
        """`boomerang sample` with the engine of this module."""

        def engine(*arguments: Any) -> Sampler:
            assert arguments == (teacher, LENGTH, VOCABULARY, END, 16 << 20)
            return sampler

        monkeypatch.setattr(command, "_sampler", lambda: engine)

        def run(*words: str) -> Any:
            fixed = ["--teacher", str(teacher), "--length", str(LENGTH)]
            return CliRunner().invoke(app, ["sample", *fixed, "--kv-cache-bytes=16MiB", *words])

        return run

    @pytest.mark.parametrize(
        ("words", "share"), [([], 0.5), (["--chat-share=0.25"], 0.25), (["--chat-share=0"], 0)]
    )
    def test_what_it_writes_is_text_to_distil_on(
        self, run: Callable[..., Any], tmp_path: Path, words: list[str], share: float
    ) -> None:
        out = tmp_path / "samples.jsonl"
        result = run("--tokens=4000", f"--out={out}", *words)
        assert result.exit_code == 0, result.output
        text = read_text([str(out)], byte_tokenizer(), 10**6, 0, share)
        assert 4000 <= text.tokens < 4000 + 2 * POSITIONS
        assert list(tmp_path.iterdir()) == [out]
        raw = sum(map(len, text.raw))
        assert abs(raw - (1 - share) * 4000) < POSITIONS
        for count in text.counts:
            kind = "chat" if count.chat else "text"
            assert f"{kind}: {count.tokens:,} tokens" in result.output

    def test_it_begins_from_the_text_that_it_is_given(
        self, run: Callable[..., Any], tmp_path: Path
    ) -> None:
        source, out = tmp_path / "prose.txt", tmp_path / "samples.jsonl"
        source.write_text("qxqxqxqxqxqxqxqxqxqxqxqxqxqxqxqxqxqxqxqxqx")
        result = run("--tokens=2000", f"--out={out}", f"--prompts={source}", "--chat-share=0")
        assert result.exit_code == 0, result.output
        documents = read_text([str(out)], byte_tokenizer(), 10**6, 0).documents
        beginnings = byte_tokenizer()("qxqxqxqx")["input_ids"]
        begun = [document for document in documents if document[:8].tolist() == beginnings]
        assert len(begun) > len(documents) / 2

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--tokens=9", "--out=samples.txt"], "must be named so: samples.jsonl"),
            (["--tokens=9", "--out=a.jsonl", "--prompts=absent.txt"], "absent.txt"),
            (["--tokens=9", "--out=a.jsonl", "--teacher=absent/a/b"], "'absent/a/b' is no folder"),
        ],
    )
    def test_what_cannot_be_is_one_line(
        self, run: Callable[..., Any], words: list[str], message: str
    ) -> None:
        result = run(*words)
        assert result.exit_code == 2
        assert message in result.output
        assert len(result.output.splitlines()) == 1

    def test_a_teacher_that_cannot_chat(
        self, run: Callable[..., Any], teacher: Path, tmp_path: Path
    ) -> None:
        silent = tmp_path / "teacher"
        shutil.copytree(teacher, silent)
        for path in silent.glob("chat_template*"):
            path.unlink()
        out = f"--out={tmp_path}/samples.jsonl"
        result = run("--tokens=9", out, f"--teacher={silent}", "--chat-share=0.5")
        assert result.exit_code == 2
        assert "needs a chat template" in result.output

    def test_without_vllm(self) -> None:
        """In a process of its own, which has not loaded it."""
        code = (
            "import sys; sys.modules['vllm'] = None\n"
            "from boomerang_core.cli.common import plain_errors\n"
            "from server.sample import _sampler\n"
            "with plain_errors(): _sampler()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
        )
        assert (
            "error: sample needs vLLM: pip install '.[cpu]' in Boomerang's source folder, or [gpu]"
            in done.stderr
        )
