"""The page and the badge of the conformance suite as a browser shows them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from fractal_backends.conformance.report import Report
from fractal_backends.conformance.report.badge import render_badge
from fractal_backends.conformance.report.page import render_page
from fractal_backends.conformance.requirements import requirements
from tests.helpers.reports import FAILURES, HOSTILE_REPORT, NOTHING, report

REQUIRED = "BROWSER_REQUIRED"
"""Set where these tests must not be skipped."""
WIDE, NARROW = 1280, 340


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)("there is no chromium")
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=sandbox)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab, in which nothing may go wrong, and which may ask for nothing but the file."""
    tab = browser.new_page(viewport={"width": WIDE, "height": 800})
    asked: list[str] = []
    wrong: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    yield tab
    tab.close()
    assert len({url.partition("#")[0] for url in asked}) == 1
    assert wrong == []


def show(page: Page, given: Report, folder: Path) -> None:
    """Open its page, as somebody would that was sent the file."""
    file = folder / "report.html"
    file.write_text(render_page(given), "utf-8")
    page.goto(file.as_uri())


def rows_seen(page: Page) -> list[str]:
    """The requirements whose rows are shown."""
    ids = "rows => rows.filter(row => row.checkVisibility()).map(row => row.id)"
    seen: list[str] = page.locator("tbody tr").evaluate_all(ids)
    return seen


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("given", [report(FAILURES), NOTHING, HOSTILE_REPORT], ids=lambda r: r.headline[:20])
def test_all_of_the_page_is_within_the_window(page: Page, tmp_path: Path, given: Report, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    show(page, given, tmp_path)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(
    ("label", "verdict"), [("Failed", "failed"), ("Warning", "warning"), ("Not judged", "not judged")]
)
def test_the_filter_shows_what_has_the_verdict(page: Page, tmp_path: Path, label: str, verdict: str) -> None:
    show(page, report(FAILURES), tmp_path)
    assert rows_seen(page) == list(requirements())
    page.locator(".filter label", has_text=label).click()
    chosen = [id for id in requirements() if id in FAILURES and FAILURES[id][0] == verdict]
    assert rows_seen(page) == chosen
    areas = {id.partition("-")[0] for id in chosen}
    assert page.locator("section.area:visible").count() == len(areas)
    page.locator(".filter label", has_text="All").click()
    assert rows_seen(page) == list(requirements())


def test_a_link_shows_what_it_leads_to_whatever_the_filter(page: Page, tmp_path: Path) -> None:
    show(page, report(FAILURES), tmp_path)
    page.locator(".filter label", has_text="Failed").click()
    assert not page.locator("#CAP-010").is_visible()
    page.locator("#not-judged a", has_text="CAP-010").click()
    assert rows_seen(page) == sorted(["CAP-010", "ERR-006", "HYG-001"], key=list(requirements()).index)


def test_a_requirement_tells_its_text_when_asked(page: Page, tmp_path: Path) -> None:
    show(page, report(), tmp_path)
    row = page.locator("#ERR-006")
    assert not row.locator("p").is_visible()
    row.locator("summary").click()
    assert "MUST" in row.locator("p").inner_text()


@pytest.mark.parametrize(
    "given", [report(), report(FAILURES), NOTHING, HOSTILE_REPORT], ids=lambda r: r.headline[:20]
)
def test_the_words_of_the_badge_have_room(page: Page, tmp_path: Path, given: Report) -> None:
    file = tmp_path / "badge.svg"
    file.write_text(render_badge(given), "utf-8")
    page.goto(file.as_uri())
    boxes = page.locator("text").evaluate_all(
        "found => found.map(one => one.getBBox()).map(b => [b.x, b.x + b.width])"
    )
    (left, label_end), (value, end) = boxes
    width = page.evaluate("document.documentElement.getBBox().width")
    assert 0 < left < label_end < value < end < width
