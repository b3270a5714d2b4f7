"""The whole Detect flow in Chromium: what the page shows, in light and dark, and that it asks nobody else."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from ui_server import looks, serve

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser(chromium_path):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_path, args=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory, chromium_path):
    with serve(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture
def page(browser, url):
    """A page at 1280 pixels that records what goes wrong on it and whom it asks."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page.set_default_timeout(60_000)
    page.problems, page.hosts = [], set()
    page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda request: page.hosts.add(urlsplit(request.url).hostname))
    page.goto(url)
    page.wait_for_selector("#ah-use-sample")
    yield page
    page.close()


def reload(page) -> None:
    """Load the page again; what the former one was still asking for is cut off, which the browser complains about."""
    assert page.problems == []
    page.reload()
    page.wait_for_selector("#ah-use-sample")
    page.problems.clear()


def defective(page) -> int:
    """The number in the verdict, which the gallery must agree with."""
    count = int(re.match(r"(\d+) of 18", page.inner_text(".ah-verdict"))[1])
    page.wait_for_function("n => document.querySelectorAll('.ah-card.ah-is-defective').length === n", arg=count)
    return count


def move_threshold(page, to_highest: bool) -> int:
    """Put the slider to one end by keyboard and wait until the verdict has changed."""
    before = page.inner_text(".ah-verdict")
    page.focus("#ah-threshold input[type=range]")
    page.keyboard.press("End" if to_highest else "Home")
    page.wait_for_function("text => document.querySelector('.ah-verdict').innerText !== text", arg=before)
    return defective(page)


def test_detect_flow_on_the_sample(page, tmp_path: Path):
    assert page.title() == "AnomalyHub"
    assert "Choose a sample product on the left" in page.inner_text(".ah-empty")  # the empty state
    assert page.is_disabled("#ah-learn") and page.is_disabled("#ah-check")
    assert "Show normal parts" in page.inner_text(".ah-current")

    page.click("#ah-use-sample")
    page.wait_for_selector("text=Now press Learn")
    assert page.locator(".ah-normals img").count() == 8
    assert "24 normal images of Woven fabric" in page.inner_text(".ah-done")

    page.click("#ah-learn")
    page.click("#ah-cancel-learn")
    page.wait_for_selector("text=Stopped. Everything is as it was before.", timeout=10_000)
    page.wait_for_selector("text=Now press Learn")
    page.wait_for_selector("#ah-cancel-learn", state="hidden")
    assert page.is_disabled("#ah-check")

    page.click("#ah-learn")
    page.wait_for_selector("#ah-cancel-learn")
    page.wait_for_selector("#ah-learn-slot [role=progressbar]")
    reload(page)  # the job goes on, and is found again
    page.wait_for_selector("#ah-cancel-learn")
    assert "24 normal images of Woven fabric" in page.inner_text(".ah-done")
    page.wait_for_selector("#ah-learn-slot [role=progressbar]")
    page.wait_for_selector("text=Ready to check unknown parts")
    assert not page.is_visible("#ah-cancel-learn") and page.locator(".ah-progress").count() == 0
    reload(page)  # and so is the model
    page.wait_for_selector("text=Ready to check unknown parts")

    page.click("#ah-check")
    page.wait_for_selector(".ah-card")
    page.wait_for_selector("text=Check again")
    assert page.locator(".ah-card").count() == 18
    default = defective(page)
    assert 6 <= default <= 15  # 12 of the 18 have a defect
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")

    assert move_threshold(page, to_highest=True) == 0
    assert move_threshold(page, to_highest=False) == 18
    page.click("#ah-default")
    page.wait_for_function("n => document.querySelector('.ah-verdict').innerText.startsWith(n + ' of')", arg=default)

    page.click("#ah-shown >> text=Normal")
    page.wait_for_function("n => document.querySelectorAll('.ah-card').length === n", arg=18 - default)
    page.click("#ah-shown >> text=All")
    page.wait_for_function("document.querySelectorAll('.ah-card').length === 18")

    first = page.locator(".ah-card").first
    first.click()
    page.wait_for_selector(".ah-detail")
    assert page.locator(".ah-pair img").count() == 2 and first.get_attribute("title") in page.inner_text(".ah-detail")
    page.keyboard.press("ArrowRight")
    second = page.locator(".ah-card").nth(1).get_attribute("title")
    page.wait_for_function("name => document.querySelector('.ah-detail h2').innerText === name", arg=second)
    page.keyboard.press("Escape")
    page.wait_for_selector(".ah-detail", state="detached")

    with page.expect_download() as download:
        page.click("#ah-csv")
    assert download.value.suggested_filename == "anomalyhub-woven-fabric-results.csv"
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "score", "p_value", "is_anomalous", "label"]
    assert len(rows) == 18 and sum(row["is_anomalous"] == "true" for row in rows) == default
    with page.expect_download() as download:
        page.click("#ah-model")
    assert download.value.suggested_filename == "anomalyhub-woven-fabric-model.zip"

    look(page, tmp_path)
    page.click("role=tab[name='Table']")
    page.wait_for_selector("#ah-table >> text=p-value")
    assert "test/" in page.inner_text("#ah-table") and "defective" in page.inner_text("#ah-table")
    assert page.problems == []
    assert page.hosts == {"127.0.0.1"}


def test_a_fit_found_again_can_be_cancelled(page):
    page.click("#ah-use-sample")
    page.wait_for_selector("text=Now press Learn")
    page.click("#ah-learn")
    page.wait_for_selector("#ah-learn-slot [role=progressbar]")
    reload(page)
    page.click("#ah-cancel-learn")
    page.wait_for_selector("text=Stopped. Everything is as it was before.", timeout=10_000)
    page.wait_for_selector("text=Now press Learn")
    reload(page)  # nothing is left to be found
    page.wait_for_selector("text=Choose a sample product on the left")
    page.wait_for_timeout(1500)
    assert "Choose a sample product" in page.inner_text(".ah-empty") and not page.is_visible("#ah-cancel-learn")
    assert page.problems == []


@pytest.mark.timeout(300)  # two fits, and photos that are compared twice
def test_no_normal_photos_and_a_few(page, tmp_path: Path):
    page.click("#ah-have >> text=No normal photos")
    page.wait_for_selector("#ah-method-none")
    assert "Show the photos to check" in page.inner_text(".ah-current") and not page.is_visible("#ah-shots")
    page.click("#ah-product >> text=Ring")
    page.click("#ah-use-sample")
    page.wait_for_selector("text=Now press Compare")
    page.click("#ah-method-none >> text=WinCLIP")
    page.wait_for_selector("text=Now press Prepare")
    assert page.input_value("#ah-product-name :is(input, textarea)") == "machined ring"
    page.click("#ah-method-none >> text=MuSc")
    page.wait_for_selector("text=Now press Compare")
    assert not page.is_visible("#ah-product-name")
    page.click("#ah-learn")
    page.wait_for_selector("#ah-learn-slot [role=progressbar]")
    page.wait_for_selector("text=It compared 40 photos with each other")
    page.click("#ah-check")
    page.wait_for_selector(".ah-card >> nth=39")
    assert page.locator(".ah-card").count() == 40
    assert "if most of the photos that were compared are normal" in page.inner_text("#ah-summary")

    page.click("#ah-have >> text=2 to 8 normal photos")
    page.wait_for_selector("text=Start with a few normal parts")
    assert page.is_disabled("#ah-learn") and page.locator(".ah-card:visible").count() == 0
    page.click("#ah-have >> text=No normal photos")  # nothing is lost
    page.wait_for_selector(".ah-card >> nth=39")
    page.click("#ah-have >> text=2 to 8 normal photos")
    page.wait_for_selector("text=Start with a few normal parts")
    page.fill("#ah-shots input[type=number]", "3")
    page.keyboard.press("Tab")
    page.click("#ah-use-sample")
    page.wait_for_selector("text=Now press Learn")
    assert "3 normal images of Machined ring" in page.inner_text(".ah-done")
    page.click("#ah-method-few >> text=Category-agnostic")
    page.click("#ah-learn")
    page.wait_for_selector("text=Learned from these 3 photos")
    page.wait_for_selector("text=Ready to check unknown parts")
    names = page.eval_on_selector_all("#ah-support img", "images => images.map(image => image.title)")
    assert len(set(names)) == 3 and all(name.startswith("train/good/") for name in names)
    page.click("#ah-check")
    page.wait_for_function("document.querySelectorAll('.ah-card').length === 18")
    page.wait_for_selector("text=Check again")
    assert not page.is_visible("#ah-file") and not page.is_visible("#ah-picked")  # helpers of the page
    look(page, tmp_path)

    reload(page)  # model and mode are found again
    page.wait_for_selector("text=Learned from these 3 photos")
    page.wait_for_selector("text=Ready to check unknown parts")
    assert page.is_checked("#ah-have input[value=few]") and page.is_checked("#ah-method-few input[value=siamese]")
    assert page.eval_on_selector_all("#ah-support img", "images => images.map(image => image.title)") == names
    assert page.problems == [] and page.hosts == {"127.0.0.1"}


def test_why_it_failed_stays_on_the_page(page):
    """The message goes away after a while, the reason is there until something else is chosen."""
    page.click("#ah-have >> text=2 to 8 normal photos")
    page.click("#ah-use-sample")
    page.wait_for_selector("text=Now press Learn")
    page.click("#ah-method-few >> text=APRIL-GAN")
    page.wait_for_selector("#ah-weights")
    page.click("#ah-learn")
    page.wait_for_selector("#ah-learn-slot >> text=APRIL-GAN needs trained weights")
    page.click("[data-testid=toast-close]")
    page.wait_for_selector("[data-testid=toast-close]", state="detached")
    assert page.is_visible("#ah-learn-slot >> text=APRIL-GAN needs trained weights") and page.is_enabled("#ah-learn")
    page.click("#ah-method-few >> text=Category-agnostic")
    page.wait_for_selector("#ah-learn-slot >> text=APRIL-GAN needs trained weights", state="hidden")


def look(page, folder: Path) -> None:
    """Screenshots, wide and narrow, light and dark; nothing is cut off, and the ground is what it should be."""
    for dark in looks(page, folder, (1280, 820)):
        ground = page.evaluate("getComputedStyle(document.querySelector('.ah-panel')).backgroundColor")
        assert ground == ("rgb(24, 24, 27)" if dark else "rgb(255, 255, 255)")
        legend = page.locator("#ah-legend img:visible")
        assert legend.count() == 1 and f"ah-on-{'dark' if dark else 'light'}" in legend.get_attribute("class")


def test_uploads_and_their_messages(page, tmp_path: Path, tiny_images):
    from PIL import Image

    files = []
    for i, image in enumerate(tiny_images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        files.append(tmp_path / f"{i}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    page.click("text=My images")
    page.set_input_files("#ah-normal-files input[type=file]", tmp_path / "broken.png")
    page.wait_for_selector("text=no image could be read")  # the message, in one sentence
    page.wait_for_selector("#ah-normal-files input[type=file]", state="attached")  # and the next try may come
    page.set_input_files("#ah-normal-files input[type=file]", [*files, tmp_path / "broken.png"])
    page.wait_for_selector("text=6 normal images of your product")
    assert "broken.png is not an image" in page.inner_text(".ah-notices")
    page.click("#ah-learn")
    page.wait_for_selector("#ah-unknown-files")
    page.set_input_files("#ah-unknown-files input[type=file]", files[:2])
    page.wait_for_selector("text=2 images to check")
    page.click("#ah-check")
    page.wait_for_selector(".ah-card")
    assert page.locator(".ah-card").count() == 2
    assert page.hosts == {"127.0.0.1"}
