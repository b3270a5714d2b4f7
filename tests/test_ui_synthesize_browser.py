"""Synthesize & pretrain in Chromium: the preview follows, defects are painted, a reload finds them; how it looks."""

from __future__ import annotations

import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from ui_server import looks, serve

from anomalyhub.synthesis import read_synthetic

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
TAB = "role=tab[name='Synthesize & pretrain']"
#: The pictures of the painted defects in the preview, so that a change shows.
PAINTED = "[...document.querySelectorAll('.ah-s-defect img')].map(one => one.src).join()"


@pytest.fixture
def page(chromium_path, tmp_path):
    from playwright.sync_api import sync_playwright

    with serve(tmp_path) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=CHROMIUM)
        page = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme="light")
        page.set_default_timeout(90_000)
        page.problems, page.hosts = [], set()
        page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("request", lambda request: page.hosts.add(urlsplit(request.url).hostname))
        page.goto(url)
        page.click(TAB)
        page.wait_for_selector("#ah-s-use-sample")
        yield page
        browser.close()


def changed(page, deed) -> None:
    """Do something, and wait until the preview shows other pictures."""
    before = page.evaluate(PAINTED)
    deed()
    page.wait_for_function(f"before => {PAINTED} !== before && document.querySelector('.ah-s-defect')", arg=before)


def test_from_a_sample_to_a_pretraining(page, tmp_path: Path):
    assert "Choose normal photos on the left" in page.inner_text("#ah-s-stage .ah-empty")
    assert page.is_disabled("#ah-s-start") and page.is_disabled("#ah-s-pretrain")
    page.click("#ah-s-product >> text=Ring")
    page.click("#ah-s-use-sample")
    page.wait_for_selector(".ah-s-defect img >> nth=5")  # at once, and before anything is generated
    assert page.locator(".ah-s-parts img").count() == 2 and "GrabCut" in page.inner_text("#ah-s-preview")
    assert page.is_disabled("#ah-s-pretrain") and page.is_enabled("#ah-s-start")

    changed(page, lambda: page.click("#ah-s-others"))
    changed(page, lambda: page.click("#ah-s-mask >> text=Polygons"))
    assert "6 of 192 kinds" in page.inner_text("#ah-s-preview")
    assert "192 kinds: 1,920 images" in page.inner_text("#ah-synthesize .ah-current")
    page.click("#ah-s-textures >> text=My own")
    page.wait_for_selector("text=There are no textures yet: upload some images")
    textures = []
    for number, name in enumerate(("dots", "lines")):
        texture = np.full((48, 64, 3), 255 * number, np.uint8)
        texture[:: 6 + number, :: 5 - 4 * number] = (200, 40, 90)
        Image.fromarray(texture).save(tmp_path / f"{name}.png")
        textures.append(str(tmp_path / f"{name}.png"))
    changed(page, lambda: page.set_input_files("#ah-s-texture-files input[type=file]", textures))
    assert "2 textures are here: dots, lines" in page.inner_text("#ah-s-textures-slot")
    assert "6 of 8 kinds" in page.inner_text("#ah-s-preview") and "dots, hexagon" in page.inner_text("#ah-s-preview")
    page.fill("#ah-s-each input[type=number]", "3")
    page.keyboard.press("Tab")
    page.wait_for_selector("text=3 of each of 8 kinds: 24 images")

    page.click("#ah-s-start")
    page.wait_for_selector("#ah-s-slot2 [role=progressbar], .ah-s-kind img")
    page.reload()  # the job goes on, and is found again
    page.click(TAB)
    page.wait_for_selector(".ah-s-kind img")
    page.problems.clear()  # what the former page was still asking for
    assert "24 painted defects of Machined ring" in page.inner_text("#ah-s-summary")
    assert page.locator(".ah-s-kind").count() == 8 and page.locator(".ah-s-kind img").count() == 24
    assert page.is_checked("#ah-s-mask >> text=Polygons") and page.is_visible("#ah-s-texture-files")
    with page.expect_download() as download:
        page.click("#ah-s-download")
    assert download.value.suggested_filename == "anomalyhub-machined-ring-synthetic.zip"
    with zipfile.ZipFile(download.value.path()) as file:
        file.extractall(tmp_path / "unpacked")
    assert len(read_synthetic(tmp_path / "unpacked")) == 24

    page.click("#ah-s-pretrain")  # queues the learning of what is normal as well; both can be stopped
    page.wait_for_selector("#ah-s-slot3 [role=progressbar]")
    page.click("#ah-s-cancel3")
    page.wait_for_selector("#ah-s-resume3:visible")
    assert "Stopped. Go on" in page.inner_text("#ah-s-slot3") and page.is_enabled("#ah-s-pretrain")
    look(page, tmp_path)
    assert page.problems == [] and page.hosts == {"127.0.0.1"}


def look(page, folder: Path) -> None:
    """Screenshots of both tabs, wide and narrow, light and dark; nothing is cut off, and no picture is broken."""
    for tab in ("Preview", "Painted defects"):
        page.set_viewport_size({"width": 1400, "height": 900})
        page.click(f"#ah-s-tabs >> role=tab[name='{tab}']")
        (folder / tab).mkdir()
        for dark in looks(page, folder / tab, (1400, 420)):
            ground = page.evaluate("getComputedStyle(document.querySelector('#ah-s-stage .ah-panel')).backgroundColor")
            assert ground == ("rgb(24, 24, 27)" if dark else "rgb(255, 255, 255)")
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
