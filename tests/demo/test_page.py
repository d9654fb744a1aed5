"""The page in a real browser: Chromium of the system's packages, driven by Playwright."""

import os
import re
import shutil
import socket
from importlib.util import find_spec

import pytest
from conftest import TITLES
from demo_parts import MARKUP, markup_recommender
from item_parts import plain_model

from patchrec_hf import BOOK_PROMPT, Catalog, PatchRecommender, PatchRecProcessor
from patchrec_hf.demo.view import DemoView
from patchrec_hf.tiny import build_tiny_backbone


BROWSER = os.environ.get("PATCHREC_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")

# Neither is imported here: Gradio takes seconds, also where no test of this file runs.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("gradio") is None, reason='needs Gradio: pip install "patchrec-hf[demo]"'),
    pytest.mark.skipif(find_spec("playwright") is None, reason="needs Playwright: pip install playwright"),
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium (Debian: apt-get install chromium chromium-driver)"),
]
PATIENCE = 120_000  # milliseconds that a busy machine may take


@pytest.fixture(scope="module")
def serve():
    """Serves views, each on a free port, until all tests of this file are done."""
    from patchrec_hf.demo.page import build_page, launch_page

    pages = []

    def serve(view):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        page = build_page(view, k=4)
        pages.append(page)
        launch_page(page, "127.0.0.1", port)
        return f"http://127.0.0.1:{port}/"

    yield serve
    for page in pages:
        page.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(serve):
    return serve(DemoView(markup_recommender(), "A page of tests", "Readers are <synthetic>."))


@pytest.fixture
def visit(browser):
    """Opens a page, and fails if it asks for anything outside its own server."""
    opened, asked = [], []

    def visit(address):
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: asked.append(request.url))
        opened.append((page, address))
        page.goto(address)
        wait_for_results(page)
        return page

    yield visit
    for page, _ in opened:
        page.close()
    outside = [url for url in asked if not re.match(r"(http|ws)://127\.0\.0\.1:|data:|blob:", url)]
    assert asked
    assert outside == []


def wait_for_results(page):
    page.wait_for_function(
        "document.querySelector('.pr-column') && !document.querySelector('.pr-waiting, .pr-column.generating')"
    )


def pick(page, searched):
    """Types a part of a title into the field of the history, and chooses the first title of the list."""
    page.locator("#history input").fill(searched)
    page.locator("#history [role=option]").first.click()


def write(page, title):
    """Types a title into the field of the history, and presses Enter."""
    field = page.locator("#history input")
    field.fill(title)
    field.press("Enter")


def clear(page):
    page.locator("#history .remove-all").click()
    page.locator(".pr-message").wait_for()


def titles_of(page, selector):
    return page.locator(selector).all_inner_texts()


def test_a_picked_history_gets_recommendations_of_each_method(visit, address):
    page = visit(address)
    clear(page)
    assert "at least one item" in page.locator(".pr-message").inner_text()
    pick(page, "sign of the")
    page.locator(".pr-unit .pr-title", has_text=TITLES[19]).wait_for()
    write(page, "A Book That Nobody Wrote")
    page.locator(".pr-unit .pr-title", has_text="A Book That Nobody Wrote").wait_for()
    wait_for_results(page)
    chips = [text.strip() for text in titles_of(page, "#history .token")]
    assert [chip.removesuffix("×").strip() for chip in chips] == [TITLES[19], "A Book That Nobody Wrote"]
    units = titles_of(page, ".pr-unit .pr-title")
    assert [unit.split("\n")[0].strip() for unit in units] == [TITLES[19], "A Book That Nobody Wrote new"]
    for method in ("fusion", "item", "exact", "co_visits"):
        column = page.locator(f".pr-ranked[data-method={method}]")
        assert column.locator(".pr-item").count() == 4
        assert re.fullmatch(r"[\d.,]+ ms", column.locator(".pr-time").inner_text())
        assert all(re.fullmatch(r"-?\d+\.\d\d", text) for text in column.locator(".pr-score").all_inner_texts())


def test_seen_items_are_gray_until_they_are_left_out(visit, address):
    page = visit(address)
    seen = page.locator(".pr-item.pr-seen .pr-title").first
    other = page.locator(".pr-item:not(.pr-seen) .pr-title").first
    seen.wait_for()
    color = "element => getComputedStyle(element).color"
    assert seen.evaluate(color) != other.evaluate(color)
    assert "seen" in seen.inner_text()
    page.locator("#exclude input").check()
    page.wait_for_function("!document.querySelector('.pr-waiting, .pr-seen')")
    assert page.locator(".pr-ranked .pr-item").count() == 16


def test_the_budget_slider_changes_how_the_history_is_read(visit, address):
    page = visit(address)
    count = page.locator("[data-count=history]")
    before = int(count.inner_text())
    assert before > 4
    assert page.locator(".pr-unit.pr-session_patch").count() == 0
    field = page.locator("#budget input[type=number]")
    field.fill("4")
    field.press("Enter")
    page.locator(".pr-unit.pr-session_patch").first.wait_for()
    assert int(count.inner_text()) <= 4
    wait_for_results(page)
    assert page.locator(".pr-ranked").count() == 4


def test_markup_in_titles_is_shown_as_text(visit, address):
    page = visit(address)
    clear(page)
    for number, title in enumerate(MARKUP, start=1):
        pick(page, title)
        page.wait_for_function(f"document.querySelectorAll('.pr-unit').length === {number}")
    wait_for_results(page)
    assert titles_of(page, ".pr-unit .pr-title") == list(MARKUP)
    assert [chip.strip() for chip in titles_of(page, "#history .token")] == list(MARKUP)
    listed = {text.removesuffix("seen").strip() for text in titles_of(page, "[data-method=co_visits] .pr-title")}
    assert listed & set(MARKUP)
    assert page.title() == "A page of tests"
    assert page.locator(".pr-title :is(script, img, b)").count() == 0
    assert "Readers are <synthetic>." in page.locator(".pr-notice").inner_text()


def test_what_a_checkpoint_lacks_is_shown_with_its_reason(visit, serve):
    catalog = Catalog.from_titles(TITLES)
    tokenizer = build_tiny_backbone(catalog, vocab_size=400, hidden_size=32)[1]
    view = DemoView(PatchRecommender(plain_model(), PatchRecProcessor(tokenizer, catalog, BOOK_PROMPT)), "Titles")
    page = visit(serve(view))
    for method in ("fusion", "item", "co_visits"):
        assert "Not in this checkpoint." in page.locator(f".pr-absent[data-method={method}]").inner_text()
    assert page.locator(".pr-ranked[data-method=exact] .pr-item").count() == 4
    assert page.locator("#budget input[type=number]").is_disabled()
    assert "ItemPatchLayout, which has no budget" in page.locator("#budget").inner_text()


def test_another_history_can_be_asked_for(visit, address):
    page = visit(address)
    before = titles_of(page, ".pr-unit .pr-title")
    for _ in range(10):  # an example may be drawn again
        page.locator("#another").click()
        page.wait_for_timeout(500)
        wait_for_results(page)
        if titles_of(page, ".pr-unit .pr-title") != before:
            return
    pytest.fail("ten new histories were all as the first")
