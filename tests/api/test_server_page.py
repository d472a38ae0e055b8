"""The page in a real browser, against the real server; and switched off."""

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from boomerang_core.family import Family
from boomerang_core.sizes import format_bytes
from tests.api.browsing import PROMPT, browser, browser_tier, figures, page, said, send
from tests.api.servers import Running

__all__ = ["browser", "page"]  # fixtures

pytestmark = pytest.mark.engine


def chat(http: httpx.Client, model: str, tokens: int = 24) -> tuple[str, int]:
    """What the API answers to the same prompt, and in how many tokens."""
    messages = [{"role": "user", "content": PROMPT}]
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": tokens}
    reply = http.post("/v1/chat/completions", json=body).json()
    return reply["choices"][0]["message"]["content"], reply["usage"]["completion_tokens"]


def column(page: Page, kind: str) -> dict[str, str]:
    """What the table beside the sliders says of a side's size, by line."""
    lines = page.locator("#figures tbody tr").all()
    return {
        line.locator("th").inner_text(): line.locator(f"td.{kind}").inner_text() for line in lines
    }


def slide(page: Page, label: str, place: int) -> None:
    """Move a slider to a place by the keyboard."""
    slider = page.get_by_role("slider", name=label, exact=True)
    slider.press("Home")
    for _ in range(place):
        slider.press("ArrowRight")


def test_switched_off(other: Running) -> None:
    for path in ("/", "/page/page.js"):
        reply = httpx.get(other.url + path)
        assert reply.status_code == 404
        assert reply.json()["error"]["code"] == 404


@browser_tier
def test_an_answer_at_a_size_is_the_apis(page: Page, http: httpx.Client, family: Family) -> None:
    row = family.table.offered[1]
    slide(page, "Size", 1)
    slider = page.get_by_role("slider", name="Size", exact=True)
    needs = format_bytes(row.footprint_bytes(family.footprint_tokens))
    expect(slider).to_have_attribute("aria-valuetext", f"{row.id}, {row.layers} layers, {needs}")
    assert column(page, "first")["Footprint"] == needs
    assert column(page, "first")["KL to the teacher"] == "0.400"
    send(page)
    text, tokens = chat(http, family.table.model_id(row))
    assert said(page) == text
    shown = figures(page)
    assert shown["tokens"] == str(tokens)
    assert shown["first token"].endswith((" ms", " s"))
    assert float(shown["tokens/s"]) > 0
    progress = page.locator("#progress[role=status]")
    expect(progress).to_have_text(f"{row.id}: {shown['end']}, {tokens} tokens")


@browser_tier
def test_an_answer_grows_while_it_streams(page: Page) -> None:
    page.evaluate("""() => {
        window.lengths = [];
        const answer = document.querySelector(".answer");
        new MutationObserver(() => window.lengths.push(
            [answer.textContent.length, answer.getAttribute("aria-busy")]
        )).observe(answer, { childList: true });
    }""")
    page.get_by_label("completion", exact=True).check()
    send(page)
    lengths = page.evaluate("window.lengths")
    assert len({length for length, busy in lengths if busy == "true"}) > 3
    expect(page.locator("article.first .answer")).to_have_attribute("aria-busy", "false")


@browser_tier
def test_a_budget_is_resolved_before_sending(
    page: Page, http: httpx.Client, family: Family
) -> None:
    row = family.table.offered[1]
    page.get_by_label("by memory budget").check()
    budget = page.get_by_label("Memory budget", exact=True)
    budget.fill(str(row.footprint_bytes(6000)))
    page.get_by_label("Context, tokens").fill("2000")
    page.get_by_label("Requests at once").fill("3")
    needs = format_bytes(row.footprint_bytes(6000))
    expect(page.locator("#figures .total td.first")).to_have_text(needs)  # waits for the reply
    expect(page.locator("#budget-name")).to_have_text(row.id)
    assert "KV cache, 6,000 tokens" in column(page, "first")
    send(page)
    assert said(page) == chat(http, family.table.model_id(row))[0]
    budget.fill("1KiB")
    wrong = page.locator("#budget-error")
    fields = {"memory_budget": "1KiB", "context_tokens": 2000, "concurrency": 3}
    refusal = http.post("/v1/sizes/resolve", json=fields).json()["error"]["message"]
    expect(wrong).to_have_text(refusal)
    page.get_by_role("button", name="Send").click()
    expect(budget).to_be_focused()
    assert figures(page)["tokens"] != "0", "nothing was sent"


@browser_tier
def test_two_sizes_side_by_side(page: Page, http: httpx.Client, family: Family) -> None:
    student, teacher = family.table.student, family.table.teacher
    slide(page, "Size", len(family.table.offered) - 1)
    page.get_by_label("compare with a second size").check()
    slide(page, "Second size", 0)
    assert column(page, "first")["Layers"] == str(teacher.layers)
    assert column(page, "second")["Layers"] == str(student.layers)
    send(page)
    for side, row in (("first", teacher), ("second", student)):
        expect(page.locator(f"article.{side} h3")).to_have_text(row.id)
        assert said(page, side) == chat(http, family.table.model_id(row))[0]
        expect(page.locator(f"#curve text.mark.{side}")).to_have_text(row.id)
        expect(page.locator(f"#sizes .{side}-row th")).to_have_text(row.id)
    left, right = (page.locator(f"article.{side}").bounding_box() for side in ("first", "second"))
    assert left
    assert right
    assert left["x"] + left["width"] <= right["x"]
    assert left["y"] == right["y"]


@browser_tier
def test_a_dot_of_the_curve_chooses_its_size(page: Page, family: Family) -> None:
    row = family.table.student
    page.locator(f'#curve [data-size="{row.id}"]').click()
    expect(page.locator("#first-name")).to_have_text(row.id)
    expect(page.get_by_role("img")).to_have_accessible_name(
        f"KL to the teacher against parameters: {row.id} has 0.600, {family.table.teacher.id} "
        f"has 0.000 nats a token. Chosen: {row.id} has 0.600."
    )


@browser_tier
@pytest.mark.parametrize("way", ["button", "Escape"])
def test_stopping(page: Page, way: str) -> None:
    """The answer is held back, so that the stop cannot come too late."""
    page.route("**/v1/chat/completions", lambda route: None)
    page.get_by_role("button", name="Send").click()
    if way == "button":
        page.get_by_role("button", name="Stop").click()
    else:
        page.keyboard.press("Escape")
    expect(page.locator("#send")).to_be_enabled()
    assert figures(page)["end"] == "stopped by you"
    expect(page.locator("#stop")).to_be_disabled()
    page.unroute_all()
    send(page)
    assert figures(page)["end"] != "stopped by you"


@browser_tier
def test_refusals_are_shown_as_the_server_words_them(page: Page, http: httpx.Client) -> None:
    page.get_by_label("Max tokens").fill("100000")
    send(page)
    messages = [{"role": "user", "content": PROMPT}]
    body = {"messages": messages, "max_tokens": 100_000}
    refusal = http.post("/v1/chat/completions", json=body).json()["error"]["message"]
    expect(page.locator("article.first .error")).to_have_text(refusal)
    assert page.locator("article.first .error").get_attribute("role") == "alert"


@browser_tier
def test_sizes_that_have_gone_leave_the_sliders(
    page: Page, http: httpx.Client, family: Family
) -> None:
    """A budget was lowered meanwhile: the refused request is what shows it."""
    sizes = http.get("/v1/sizes").json()
    ends = family.table.student, family.table.teacher
    student, teacher = (family.table.model_id(row) for row in ends)
    kept = [{**row, "offered": row["id"] == student} for row in sizes["data"]]
    said = {"error": {"message": f"size {teacher} is not available", "code": 404}}
    slide(page, "Size", 0)
    page.get_by_label("Compare").check()
    page.route("**/v1/sizes", lambda route: route.fulfill(json={**sizes, "data": kept}))
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=404, json=said))
    send(page)
    expect(page.locator("#status")).to_have_text("ready, 1 sizes")
    assert page.locator("#first").get_attribute("max") == "0"
    expect(page.locator("#first-name")).to_have_text(student.partition("@")[2])
    expect(page.locator("article.first .error")).to_have_text(said["error"]["message"])


@browser_tier
@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('data: {"error": {"message": "the engine died"}}\n\ndata: [DONE]\n\n', "the engine died"),
        ('data: {"choices": [{"delta": {"content": "a"}}]}\n\n', "the connection ended before"),
    ],
)
def test_a_stream_that_breaks(page: Page, body: str, says: str) -> None:
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=200, body=body))
    send(page)
    expect(page.locator("article.first .error")).to_contain_text(says)
    assert figures(page)["end"] == "failed"


@browser_tier
def test_a_key_is_asked_for_sent_and_not_kept(page: Page) -> None:
    """A server with keys is played: what matters is what the browser sends."""

    def guarded(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer s3cret":
            route.fallback()
        else:
            said = '{"error": {"message": "this server wants an API key"}}'
            route.fulfill(status=401, body=said, content_type="application/json")

    page.route("**/v1/**", guarded)
    page.reload()
    expect(page.locator("#status")).to_have_text("this server wants an API key")
    page.get_by_label("API key", exact=True).fill("s3cret")
    page.get_by_role("button", name="Use").click()
    expect(page.locator("#status")).to_have_class("ready")
    kept = "[localStorage.length, sessionStorage.length, document.cookie]"
    assert page.evaluate(kept) == [0, 0, ""]
    assert "s3cret" not in (page.locator("#curl pre").text_content() or "")
    send(page)
    assert said(page)
