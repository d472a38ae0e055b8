"""Charts: what is written on a sheet stays on it."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from boomerang_core.report.charts import canvas
from boomerang_core.report.charts.canvas import near
from boomerang_core.report.charts.clouds import Cloud, CloudsChart, draw_clouds
from boomerang_core.report.charts.facets import Facet, FacetsChart, draw_facets
from boomerang_core.report.charts.lines import Line
from boomerang_core.report.pictures.tasks import _FIGURES

POINTS = [0.0, 1.0, 2.0]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    figures: list[Figure] = []
    saving = canvas._saving

    def kept(figure: Figure) -> Any:
        figures.append(figure)
        return saving(figure)

    monkeypatch.setattr(canvas, "_saving", kept)
    return figures


def off_the_sheet(figure: Figure) -> list[str]:
    """The texts that do not lie within the figure."""
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    width = figure.bbox.width
    boxes = ((text.get_text(), text.get_window_extent()) for text in texts)
    return [text for text, box in boxes if box.x0 < 0 or box.x1 > width]


@pytest.mark.parametrize("name", ["student, 88m:\n0.46", "student, 0.225m, of many letters:\n0.17"])
def test_names_of_clouds(name: str, drawn: list[Figure], tmp_path: Path) -> None:
    cloud = Cloud(name, POINTS, POINTS, POINTS, POINTS)
    draw_clouds(CloudsChart("title", "x", [cloud], ["caption"]), tmp_path / "a.png")
    assert off_the_sheet(drawn[0]) == []


@pytest.mark.parametrize("title", [figure.title for figure in _FIGURES])
def test_titles_of_tasks(title: str, drawn: list[Figure], tmp_path: Path) -> None:
    facet = Facet("task, n = 3", Line("task", POINTS, POINTS))
    draw_facets(FacetsChart(title, "x", [facet], ["caption"]), tmp_path / "a.png")
    assert off_the_sheet(drawn[0]) == []


def test_options_in_a_caption_stay_whole() -> None:
    command = "$ boomerang make " + "--sample-tokens 1000000 " * 20
    words = {word for line in canvas._wrapped(command) for word in line.split()}
    assert words == {"$", "boomerang", "make", "--sample-tokens", "1000000"}


@pytest.mark.parametrize(
    ("low", "high", "limits"),
    [(0, 0, (0, 0.1)), (0.1, 1.1, (0, 1.3)), (-3, -2, (-3.2, -1.8)), (5, 6, (4.8, 6.2))],
)
def test_limits_go_below_zero_only_for_what_is_there(
    low: float, high: float, limits: tuple[float, float]
) -> None:
    """An accuracy of zero everywhere has no axis of negative accuracies."""
    assert near(low, high, 0.2) == pytest.approx(limits)
