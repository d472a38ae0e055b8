"""The page by keyboard, on a phone, and under a checker of accessibility."""

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from boomerang_core.family import Family
from tests.api.browsing import browser, browser_tier, page, said, send

__all__ = ["browser", "page"]  # fixtures

pytestmark = pytest.mark.engine


@browser_tier
def test_by_keyboard_alone(page: Page, family: Family) -> None:
    """Tab reaches every control that is shown, in the order of the page; keys do the rest."""
    page.get_by_role("heading", level=1).click()
    seen: list[str] = []
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.name"))
    wanted = ["by", "first", "compare", "prompt", "as", "max-tokens", "temperature", "send"]
    assert [name for name in dict.fromkeys(seen) if name in wanted] == wanted
    page.locator("#first").focus()
    page.keyboard.press("Home")
    page.locator("#compare").focus()
    page.keyboard.press("Space")
    expect(page.locator("#second")).to_be_visible()
    page.locator("#prompt").focus()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#progress")).to_contain_text("tokens", timeout=30_000)
    assert said(page)
    assert said(page, "second")
    expect(page.locator("article.first h3")).to_have_text(family.table.student.id)


@browser_tier
@pytest.mark.parametrize("budget", [False, True])
def test_a_phone_does_not_scroll_sideways(page: Page, budget: bool) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.get_by_label("compare with a second size").check()
    if budget:
        page.get_by_label("by memory budget").check()
    page.get_by_role("textbox", name="Prompt").fill("x" * 90)
    page.locator("#curl summary").click()
    send(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@browser_tier
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page: Page, scheme: Any, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    page.get_by_label("compare with a second size").check()
    page.locator("#access summary").click()
    page.locator("#curl summary").click()
    page.get_by_label("Max tokens").fill("100000")
    send(page)  # refused: the error is looked at too
    for way in ("by size", "by memory budget"):
        page.get_by_label(way, exact=True).check()
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


@browser_tier
def test_motion_stops_where_it_is_not_wanted(page: Page) -> None:
    page.route("**/v1/chat/completions", lambda route: None)
    page.get_by_role("button", name="Send").click()
    caret = "getComputedStyle(document.querySelector('.answer'), '::after').animationName"
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(caret) == "wait"
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(caret) == "none"
