"""`search ladder` and `search layout`: which blocks are patched first, which layers are kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boomerang_core.choices import compact
from boomerang_core.cli.common import (
    Device,
    FamilyFolder,
    RowLength,
    Teacher,
    Threads,
    Tokens,
    app,
    family_folder,
    given,
    limit_threads,
    plain_errors,
    print_sizes,
    refuse_without,
    require_file_place,
)
from boomerang_core.errors import SettingsError
from boomerang_core.family import load_family
from boomerang_core.files import save_json
from boomerang_core.provenance import provenance
from boomerang_core.search import report
from boomerang_core.search.ladders import ORDERS, PRESENT, SHORTEST, best_of, search_ladder

if TYPE_CHECKING:
    from boomerang_core.search.measure import Oracle
    from boomerang_core.text.evaluation import Sample

search = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(search, name="search", help="Search for better ladders and layouts.")

Text = Annotated[
    Path, typer.Option(help="Text to measure on, other than the one to score sizes on.")
]
Out = Annotated[Path | None, typer.Option(help="A JSON file to write the result into.")]
Work = Annotated[
    Path | None, typer.Option(help="Where measured models are kept (default: the cache folder).")
]


@search.command()
def ladder(
    context: typer.Context,
    family: FamilyFolder,
    text: Text,
    order: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(ORDERS)}; may be repeated (default: all but the last)."),
    ] = None,
    tokens: Tokens = 2048,
    row_length: RowLength = 512,
    limit: Annotated[
        int, typer.Option(min=1, help="Models that shortest-path may measure.")
    ] = 2000,
    out: Out = None,
    save: Annotated[bool, typer.Option(help="Give the family the best ladder found.")] = False,
    eval_text: Annotated[
        Path | None, typer.Option(help="Text to score the saved sizes on (default: --text).")
    ] = None,
    eval_tokens: Tokens = 8192,
    work: Work = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Compare orders of patching by their KL to the teacher.  A stopped run resumes."""
    with plain_errors():
        refuse_without(context, "save", "eval_text", "eval_tokens")
        _check_out(out)
        loaded = load_family(family_folder(family))
        orders = _known_orders(order or ORDERS[:-1])
        if "limit" in given(context) and SHORTEST not in orders:
            raise SettingsError(f"--limit needs --order {SHORTEST}")
        limit_threads(threads)
        from boomerang_core.own_teacher import require_own_teacher
        from boomerang_core.search.save import save_ladder
        from boomerang_core.search.session import LadderSession
        from boomerang_core.text.evaluation import Sample

        if save:
            require_own_teacher(loaded)
        sample = Sample(text, tokens, row_length)
        scored = Sample(eval_text or text, eval_tokens, row_length)
        session = LadderSession(loaded, sample, _work(work), _device(device))
        rows = session.rows(scored) if save else None  # too short a text shows before the search
        tools = session.tools(limit)
        ladders = [search_ladder(loaded.design, name, tools) for name in (PRESENT, *orders)]
        best = best_of(ladders)
        _print(report.ladder_lines(ladders), session.oracle)
        typer.echo(f"best: {best.order}, --ladder '{compact(best.ladder.to_json())}'")
        _write(out, sample, {"family": loaded.name, **report.ladder_record(ladders)})
        if rows is None:
            return
        if best.order == PRESENT:
            typer.echo("nothing to save: the family's own ladder is the best of these")
            return
        note = {"order": best.order, "area": round(best.area, 4), "searched": sample.note()}
        measured = session.evaluate(best.ladder, rows)
        print_sizes(save_ladder(loaded, best.ladder, measured, scored, note))
        if scored.text == text:
            typer.echo("scored on the text that chose the ladder: --eval-text takes another")


@search.command()
def layout(
    teacher: Teacher,
    text: Text,
    layers: Annotated[
        int | None, typer.Option(min=1, help="The student's layers (default: the fewest allowed).")
    ] = None,
    max_block: Annotated[int, typer.Option(min=2, help="Layers of the longest block.")] = 2,
    by: Annotated[
        str, typer.Option(help="Damage of a block: kl (to the teacher) or cosine (of its output).")
    ] = "kl",
    threshold: Annotated[
        float | None, typer.Option(help="Lowest cosine allowed for a block.")
    ] = None,
    tokens: Tokens = 2048,
    row_length: RowLength = 512,
    out: Out = None,
    work: Work = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Choose blocks by how well one layer, kept, stands for each."""
    with plain_errors():
        _check_out(out)
        limit_threads(threads)
        from boomerang_core.checkpoint import parse_teacher
        from boomerang_core.search.layouts import LayoutChoice
        from boomerang_core.search.session import LayoutSession
        from boomerang_core.text.evaluation import Sample

        choice = LayoutChoice(layers, max_block, by, threshold)
        sample = Sample(text, tokens, row_length)
        session = LayoutSession(parse_teacher(teacher), sample, _work(work), _device(device))
        found = session.search(choice)
        _print(report.layout_lines(found), session.oracle)
        _write(out, sample, {"teacher": teacher, "by": by, **report.layout_record(found)})


def _known_orders(names: tuple[str, ...] | list[str]) -> list[str]:
    if unknown := [name for name in names if name not in ORDERS]:
        raise SettingsError(f"order must be one of {', '.join(ORDERS)}, got {unknown[0]!r}")
    return list(dict.fromkeys(names))


def _work(folder: Path | None) -> Path:
    from boomerang_core.checkpoint import cache_root

    return folder or cache_root() / "search"


def _device(name: str | None) -> Any:
    from boomerang_core.devices import usable_device

    return usable_device(name)


def _print(lines: list[str], oracle: Oracle) -> None:
    for line in lines:
        typer.echo(line)
    typer.echo(f"{oracle.measured} models measured, {oracle.reused} found in {oracle.path}")


def _check_out(out: Path | None) -> None:
    if out is not None:
        require_file_place(out)


def _write(out: Path | None, sample: Sample, record: dict[str, Any]) -> None:
    if out is not None:
        save_json({**record, "sample": sample.note(), "provenance": provenance(0)}, out)
