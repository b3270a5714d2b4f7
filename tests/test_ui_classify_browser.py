"""From a few examples to named defects in Chromium: the tabs Classify and Inspect on a bundled sample."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from ui_server import looks, serve

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
HELD = """[...document.querySelectorAll('#ah-c-shelf .ah-column[data-column]')].map(
    column => [column.dataset.column, column.querySelectorAll('.ah-crop').length])"""


@pytest.fixture
def page(chromium_path, tmp_path):
    """A page that records what goes wrong on it and whom it asks."""
    from playwright.sync_api import sync_playwright

    with serve(tmp_path) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=CHROMIUM)
        page = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme="light")
        page.set_default_timeout(180_000)  # two jobs, on a machine that may be busy
        page.problems, page.hosts = [], set()
        page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("request", lambda request: page.hosts.add(urlsplit(request.url).hostname))
        page.goto(url)
        page.wait_for_selector("#ah-use-sample")
        yield page
        browser.close()


def open_tab(page, name: str) -> None:
    page.click(f"role=tab[name='{name}']")


def wait_for(page, columns: dict[str, int]) -> None:
    expected = json.dumps([list(pair) for pair in columns.items()], separators=(",", ":"))
    page.wait_for_function(f"expected => JSON.stringify({HELD}) === expected", arg=expected)


def test_from_examples_to_named_defects(page, tmp_path: Path):
    open_tab(page, "Inspect")
    page.wait_for_selector("text=Nothing to inspect with yet")
    assert page.is_disabled("#ah-i-start")
    open_tab(page, "Classify")
    page.wait_for_selector("text=Which kind of defect is it?")
    assert page.is_disabled("#ah-c-start")

    page.click("#ah-c-kind >> text=Sample")
    page.click("#ah-c-use-sample")
    page.wait_for_selector("text=Now show a few of each kind")
    page.click("#ah-c-source >> text=Test images")
    page.fill("#ah-c-per input[type=number]", "2")
    page.keyboard.press("Tab")
    page.click("#ah-c-use-tests")
    wait_for(page, {"cut": 2, "foreign_fibre": 2, "missing_thread": 2, "stain": 2})
    page.wait_for_function("document.querySelectorAll('#ah-c-shelf .ah-crop img[src]').length === 8")

    # one is removed and comes back, a kind gets another name
    page.locator("#ah-c-shelf .ah-crop").first.click()
    page.click("#ah-c-shelf [data-mark=remove] >> visible=true")
    wait_for(page, {"cut": 1, "foreign_fibre": 2, "missing_thread": 2, "stain": 2})
    page.wait_for_selector("text=1 with one example cannot be checked")
    page.keyboard.press("Control+z")
    wait_for(page, {"cut": 2, "foreign_fibre": 2, "missing_thread": 2, "stain": 2})
    name = page.locator('#ah-c-shelf [data-column="cut"] header input')
    name.fill("stain")
    name.press("Enter")
    page.wait_for_selector("text=there is a kind 'stain' already")
    name.fill("Schnitt")
    name.press("Enter")
    kinds = {"Schnitt": 2, "foreign_fibre": 2, "missing_thread": 2, "stain": 2}
    wait_for(page, kinds)
    page.locator("#ah-c-shelf .ah-crop").first.dblclick()
    page.wait_for_selector("dialog[open] >> text=where the detector finds it")
    page.keyboard.press("Escape")

    page.click("#ah-c-start")
    page.wait_for_selector("#ah-c-slot3 [role=progressbar]")
    page.problems.clear()
    page.reload()  # the job goes on, and is found again
    page.wait_for_selector("#ah-use-sample")
    page.problems.clear()
    open_tab(page, "Classify")
    page.wait_for_selector("#ah-c-summary .ah-verdict")
    right = int(re.match(r"(\d) of 8 examples named rightly", page.inner_text("#ah-c-summary .ah-verdict"))[1])
    assert right >= 3  # of four kinds, chance is 2
    wait_for(page, kinds)
    assert page.locator(".ah-c-confusion img:visible").count() == 1
    assert page.evaluate("[...document.querySelectorAll('#ah-classify img')].every(image => image.naturalWidth > 0)")
    with page.expect_download() as download:
        page.click("#ah-c-download")
    assert download.value.suggested_filename == "anomalyhub-woven-fabric-inspector.zip"
    names = zipfile.ZipFile(download.value.path()).namelist()
    assert {"inspector.json", "examples.json", "binarizer.json", "classifier/config.json"} <= set(names)
    look(page, tmp_path / "classify", "#ah-c-stage .ah-panel")

    open_tab(page, "Inspect")
    page.wait_for_selector("text=Woven fabric, 4 kinds")
    page.wait_for_selector("#ah-i-which >> text=Test images (32)")  # 40 without the examples
    page.click("#ah-i-start")
    page.wait_for_selector("#ah-i-cancel")
    page.click("#ah-i-cancel")
    page.wait_for_selector("text=Stopped. Everything is as it was before.")
    page.wait_for_selector("#ah-i-cancel", state="hidden")
    page.click("#ah-i-start")
    page.wait_for_selector("#ah-i-gallery .ah-card")
    page.wait_for_selector("text=Inspect again")
    cards = page.locator("#ah-i-gallery .ah-card")
    assert cards.count() == 32
    defective = int(re.match(r"(\d+) of 32", page.inner_text("#ah-i-summary .ah-verdict"))[1])
    assert 6 <= defective <= 26 and "named rightly" in page.inner_text("#ah-i-summary")

    page.click("#ah-i-shown >> text=normal")
    page.wait_for_function("n => document.querySelectorAll('#ah-i-gallery .ah-card').length === n", arg=32 - defective)
    page.click("#ah-i-shown >> text=All 32")
    page.wait_for_function("document.querySelectorAll('#ah-i-gallery .ah-card').length === 32")
    cards.first.click()
    page.wait_for_selector(".ah-i-row")
    captions = page.locator(".ah-i-row >> nth=0").locator("figcaption").all_inner_texts()
    assert len(captions) == 3 and "train/good/" in captions[1] and "Nearest example" in captions[2]
    page.screenshot(path=tmp_path / "evidence.png")
    page.keyboard.press("ArrowRight")
    second = cards.nth(1).get_attribute("title")
    page.wait_for_function("name => document.querySelector('#ah-i-detail h2').innerText === name", arg=second)
    page.keyboard.press("Escape")
    page.wait_for_selector(".ah-i-detail", state="detached")
    look(page, tmp_path / "inspect", "#ah-i-stage .ah-panel")

    with page.expect_download() as download:
        page.click("#ah-i-csv")
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 32 and sum(row["is_anomalous"] == "true" for row in rows) == defective
    with page.expect_download() as download:
        page.click("#ah-i-report")
    assert download.value.suggested_filename == "anomalyhub-woven-fabric-report.html"
    assert "Schnitt" in Path(download.value.path()).read_text()
    page.click("#ah-inspect >> role=tab[name='Table']")
    page.wait_for_selector("#ah-i-table >> text=probability")
    assert "foreign_fibre" in page.inner_text("#ah-i-table")

    # examples that are uploaded, and what is said when nobody has named them
    open_tab(page, "Classify")
    page.click("#ah-c-source >> text=My images")
    photo = next((tmp_path / "classify").glob("*.png"))
    page.set_input_files("#ah-c-files input[type=file]", photo)
    page.wait_for_selector("text=nobody has said which kind")
    page.fill("#ah-c-name :is(input, textarea)", "odd")
    page.set_input_files("#ah-c-files input[type=file]", photo)
    wait_for(page, kinds | {"odd": 1})
    page.wait_for_selector("text=The examples have changed since")
    expected = ("already", "nobody has said")
    assert [text for text in page.problems if not any(known in text for known in expected)] == []
    assert page.hosts == {"127.0.0.1"}


def look(page, folder: Path, panel: str) -> None:
    """Screenshots, wide and narrow, light and dark; nothing is cut off, and the ground is what it should be."""
    folder.mkdir()
    for dark in looks(page, folder, (1400, 420)):
        ground = page.evaluate("panel => getComputedStyle(document.querySelector(panel)).backgroundColor", panel)
        assert ground == ("rgb(24, 24, 27)" if dark else "rgb(255, 255, 255)")
    page.set_viewport_size({"width": 1400, "height": 900})
