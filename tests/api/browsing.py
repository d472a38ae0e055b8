"""The page in a real browser: a visitor's moves, and what is read of it."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.api.servers import Running

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROMPT = "Once upon a time"
browser_tier = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    assert path, "the browser tier needs Chromium; leave it out with -m 'not browser'"
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=options)


@pytest.fixture
def page(browser: Browser, server: Running) -> Iterator[Page]:
    """The loaded page of a new visitor; a console message or an error of its own fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(server.url)
    expect(page.locator("#status")).to_have_class("ready")
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Max tokens").fill("24")
    page.get_by_role("textbox", name="Prompt").fill(PROMPT)
    yield page
    context.close()
    expected = "Failed to load resource: the server responded with a status of 4"  # Chromium's own
    assert [text for text in said if not text.startswith(expected)] == []


def send(page: Page) -> None:
    """Ask, and wait until every answer has ended."""
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#send")).to_be_enabled(timeout=30_000)


def figures(page: Page, side: str = "first") -> dict[str, str]:
    """The figures beside an answer, by name."""
    pairs = page.locator(f"article.{side} dl div").all()
    return {pair.locator("dt").inner_text(): pair.locator("dd").inner_text() for pair in pairs}


def said(page: Page, side: str = "first") -> str:
    return page.locator(f"article.{side} .answer").text_content() or ""
