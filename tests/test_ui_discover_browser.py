"""The board in Chromium: rename, select, move, drag, undo, reload, save, and how it looks."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import discover_tab_helpers
import pytest
from discover_tab_helpers import done_job
from ui_server import looks, serve

from anomalyhub.ui.work import Work

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

HELD = """[...document.querySelectorAll('.ah-column[data-column]')].map(
    column => [column.dataset.column, [...column.querySelectorAll('.ah-crop')].map(one => Number(one.dataset.crop))])"""
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture
def page(chromium_path, tmp_path):
    from playwright.sync_api import sync_playwright

    work = Work(tmp_path / "home")
    job_id = done_job(work, tmp_path / "scratch", product="<b>part</b>")
    program = (discover_tab_helpers.__file__,)
    with serve(tmp_path, job_id, program=program) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=CHROMIUM)
        page = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme="light")
        page.set_default_timeout(60_000)
        page.problems, page.hosts = [], set()
        page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("request", lambda request: page.hosts.add(urlsplit(request.url).hostname))
        page.goto(url)
        open_board(page)
        yield page
        browser.close()


def open_board(page) -> None:
    page.click("role=tab[name='Discover']")
    page.wait_for_selector(".ah-crop img[src^='data:image/jpeg']")


def held(page) -> dict[str, list[int]]:
    """Crops by column, as the page shows them."""
    return dict(page.evaluate(HELD))


def wait_for(page, columns: dict[str, list[int]]) -> None:
    expected = json.dumps([list(pair) for pair in columns.items()], separators=(",", ":"))
    page.wait_for_function(f"expected => JSON.stringify({HELD}) === expected", arg=expected)


def crop(page, number: int):
    return page.locator(f'.ah-crop[data-crop="{number}"]')


START = {"kind_1": [0, 1, 3], "kind_2": [2, 4, 7], "kind_3": [6, 5], "unknown": [8]}


def test_correcting_and_saving(page, tmp_path: Path):
    assert held(page) == START
    assert "3 kinds" in page.inner_text("#ah-d-summary") and "<b>part</b>" in page.inner_text("#ah-d-summary")
    page.wait_for_function("document.querySelectorAll('.ah-crop img[src]').length === 9")
    another_visitor_sees_nothing_of_it(page)
    assert page.is_disabled("[data-deed=undo]") and page.is_disabled("select[data-deed=move]")

    # a name that is taken is refused, and the field shows the old one again
    name = page.locator('[data-column="kind_2"] header input')
    name.fill("kind_3")
    name.press("Enter")
    page.wait_for_selector("text=there is a column 'kind_3' already")
    page.wait_for_function("document.querySelector('[data-column=kind_2] header input').value === 'kind_2'")
    name.fill("scratch")
    name.press("Enter")
    scratched = {"kind_1": [0, 1, 3], "scratch": [2, 4, 7], "kind_3": [6, 5], "unknown": [8]}
    wait_for(page, scratched)

    # two crops, by mouse and by keyboard, to another kind
    crop(page, 0).click()
    crop(page, 0).press("ArrowRight")
    page.keyboard.press("Space")
    assert page.inner_text(".ah-count") == "2 selected"
    page.select_option("select[data-deed=move]", "kind_3")
    wait_for(page, {"kind_1": [3], "scratch": [2, 4, 7], "kind_3": [6, 0, 1, 5], "unknown": [8]})
    page.wait_for_function("document.querySelectorAll('.ah-crop img[src]').length === 9")  # its pictures came along
    page.keyboard.press("Control+z")
    wait_for(page, scratched)

    # one by drag and drop, one to a new kind, and two deeds at once, faster than the app answers
    crop(page, 5).drag_to(page.locator('[data-column="scratch"]'))
    wait_for(page, {"kind_1": [0, 1, 3], "scratch": [2, 4, 5, 7], "kind_3": [6], "unknown": [8]})
    crop(page, 4).click()
    page.click("[data-deed=new]")
    dragged = {"kind_1": [0, 1, 3], "scratch": [2, 5, 7], "kind_3": [6], "unknown": [8], "kind_4": [4]}
    wait_for(page, dragged)
    crop(page, 8).click()
    page.evaluate(
        "document.querySelector('[data-mark=unsure]').click(), document.querySelector('[data-mark=normal]').click()"
    )
    page.wait_for_selector('.ah-crop[data-crop="8"][data-mark="normal"]')
    page.keyboard.press("Control+z")
    page.wait_for_selector('.ah-crop[data-crop="8"][data-mark="unsure"]')
    page.click('[data-column="scratch"] summary')
    page.click('[data-column="scratch"] [data-deed=split]')
    wait_for(page, split_of(dragged))

    # the image behind a crop, its neighbour, and the contact sheet
    crop(page, 0).dblclick()
    page.wait_for_selector("dialog[open] >> text=a/1.png")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("dialog[open] >> text=b/1.png")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="detached")
    page.click('[data-column="kind_1"] summary')
    page.click('[data-column="kind_1"] [data-deed=sheet]')
    page.wait_for_selector("dialog[open] .ah-sheet img")
    page.click("dialog [data-close]")

    # all of it is there after a reload, of a browser that comes back
    page.reload()
    open_board(page)
    wait_for(page, split_of(dragged))
    assert page.get_attribute('.ah-crop[data-crop="8"]', "data-mark") == "unsure"
    page.click("role=tab[name='Plots']")
    assert "0.750" in page.inner_text("#ah-d-plots") and "n/a" in page.inner_text("#ah-d-plots")
    assert "scratch" in page.inner_text("#ah-d-sizes")
    page.click("role=tab[name='Board']")

    with page.expect_download() as download:
        page.click("#ah-d-labelled")
    assert download.value.suggested_filename == "anomalyhub-b-part-b-labelled.zip"
    names = zipfile.ZipFile(download.value.path()).namelist()
    assert "metadata.jsonl" in names and any("/test/scratch/" in one for one in names)
    with page.expect_download() as download:
        page.click("#ah-d-table")
    assert "scratch" in Path(download.value.path()).read_text()
    look(page, tmp_path)
    refused = [text for text in page.problems if "already" not in text]
    assert refused == [] and page.hosts == {"127.0.0.1"}


def split_of(columns: dict[str, list[int]]) -> dict[str, list[int]]:
    """What splitting "scratch" makes of the columns: crops 2 and 7 are alike."""
    made = {}
    for name, crops in columns.items():
        made |= {"scratch": [2, 7], "scratch 2": [5]} if name == "scratch" else {name: crops}
    return made


def another_visitor_sees_nothing_of_it(page) -> None:
    other = page.context.browser.new_page()
    other.goto(page.url)
    other.click("role=tab[name='Discover']")
    other.wait_for_selector("text=Which kinds of defect are there?")
    assert other.locator(".ah-crop").count() == 0 and page.locator(".ah-crop").count() == 9
    other.close()


def look(page, folder: Path) -> None:
    """Screenshots, wide and narrow, light and dark; nothing is cut off, and what is to be touched is large enough."""
    for dark in looks(page, folder, (1400, 420)):
        ground = page.evaluate(
            "getComputedStyle(document.querySelector('#ah-discover-stage .ah-panel')).backgroundColor"
        )
        assert ground == ("rgb(24, 24, 27)" if dark else "rgb(255, 255, 255)")
    page.set_viewport_size({"width": 1400, "height": 900})
    small = page.evaluate(
        """[...document.querySelectorAll('.ah-board :is(button, select, summary, .ah-crop)')]
            .filter(e => e.offsetParent && Math.min(e.offsetWidth, e.offsetHeight) < 44).map(e => e.outerHTML)"""
    )
    assert small == []
