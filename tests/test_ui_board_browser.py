"""The tabs Leaderboard and Compare in Chromium: figures, a submission, a repository, and which chain is best."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from test_ui_leaderboard import TABLE_1, submission, write_run
from ui_server import looks, serve

from anomalyhub.data.sample import write_sample

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

#: Seconds for each chain.
QUICK = "patchcore,coreset=0.1,resize=64,crop=64,calibration_images=4"


@pytest.fixture
def page(chromium_path, tmp_path):
    """A page that records what goes wrong on it and whom it asks."""
    from playwright.sync_api import sync_playwright

    both = {("bottle", 0): 60, ("bottle", 1): 70, ("cable", 0): 40, ("cable", 1): 50}
    write_run(tmp_path / "runs" / "quick", "prototype", both, published=TABLE_1)
    write_run(tmp_path / "runs" / "slow", "relation", {("bottle", 0): 80, ("cable", 0): 60}, seconds=200.0)
    write_sample(tmp_path / "sets" / "small", products="ring", n_train=6, n_test_good=3, n_defect=3, size=96)
    options = ["--results", str(tmp_path / "runs"), "--data-root", str(tmp_path / "sets")]
    with serve(tmp_path, *options) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=CHROMIUM)
        page = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme="light")
        page.set_default_timeout(60_000)
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


def methods(page) -> list[str]:
    return page.locator(".ah-l-entry b").all_inner_texts()


def look(page, folder: Path, panel: str) -> None:
    """Screenshots, wide and narrow, light and dark; nothing is cut off, and the ground is what it should be."""
    folder.mkdir()
    for dark in looks(page, folder, (1400, 420)):
        ground = page.evaluate("panel => getComputedStyle(document.querySelector(panel)).backgroundColor", panel)
        assert ground == ("rgb(24, 24, 27)" if dark else "rgb(255, 255, 255)")
    page.set_viewport_size({"width": 1400, "height": 900})


def test_figures_side_by_side_and_a_submission(page, tmp_path: Path):
    open_tab(page, "Leaderboard")
    page.click("#ah-l-task >> text=Name kinds")
    page.wait_for_selector(".ah-l-table >> text=prototype")
    assert {"Measured", "Published"} <= set(page.locator(".ah-l-pill:visible").all_inner_texts())
    assert methods(page)[:2] == ["relation", "prototype"]
    count = page.locator(".ah-l-row").count()
    page.click(".ah-l-table [data-sort=accuracy]")  # now the worst is first
    page.wait_for_function("document.querySelector('.ah-l-entry b').innerText !== 'relation'")
    assert methods(page)[-2:] == ["prototype", "relation"]
    page.fill("#ah-l-words :is(input, textarea)", "liu2024 table 1")
    page.wait_for_function("n => document.querySelectorAll('.ah-l-row').length < n", arg=count)
    page.fill("#ah-l-words :is(input, textarea)", "")
    page.click("#ah-l-origins >> text=Published")
    page.wait_for_function("document.querySelectorAll('.ah-l-row').length === 2")

    page.locator(".ah-l-row", has_text="prototype").click()
    page.wait_for_selector(".ah-l-detail >> text=liu2024, Table 1")
    assert page.locator(".ah-l-bars tr:not(.ah-l-ends)").count() == 3
    page.screenshot(path=tmp_path / "row.png")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('.ah-l-detail h2').innerText === 'relation'")
    page.keyboard.press("Escape")
    page.wait_for_selector(".ah-l-detail", state="detached")
    page.click("role=tab[name='Accuracy and time']")
    assert page.locator(".ah-l-point:visible").count() == 2
    page.locator(".ah-l-point").first.click()
    page.wait_for_selector(".ah-l-detail")
    page.keyboard.press("Escape")
    page.click("role=tab[name='By product']")
    assert page.locator(".ah-l-dots:visible th:text-is('bottle')").count() == 1
    page.click("role=tab[name='Table']")
    page.click("#ah-l-origins >> text=Published")
    page.wait_for_function("n => document.querySelectorAll('.ah-l-row').length === n", arg=count)
    look(page, tmp_path / "leaderboard", "#ah-l-stage .ah-panel")

    page.set_input_files("#ah-l-files input[type=file]", submission(tmp_path, {"product": "botle"}, {"seeds": 0}))
    page.wait_for_selector("#ah-l-slot3 .ah-l-faults")
    assert page.locator(".ah-l-faults li").count() == 2 and not page.is_visible("#ah-l-add")
    page.set_input_files("#ah-l-files input[type=file]", submission(tmp_path, {}))
    page.wait_for_selector("text=Nothing is wrong with it.")
    page.click("#ah-l-add")
    page.wait_for_selector(".ah-l-table >> text=Mine")
    page.wait_for_selector(".ah-l-table .ah-l-pill >> text=Submitted")
    assert len(list((tmp_path / "runs" / "submissions").iterdir())) == 1
    with page.expect_download() as download:
        page.click("#ah-l-csv")
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        assert {row["origin"] for row in csv.DictReader(file)} == {"ours", "published", "submitted"}

    page.click("#ah-l-place >> text=Folder")
    page.fill("#ah-l-folder input", str(tmp_path / "share"))
    page.keyboard.press("Enter")
    page.fill("#ah-l-repo :is(input, textarea)", "acme/results")
    page.click("#ah-l-pull")
    page.wait_for_selector("#ah-l-slot2 >> role=alert")
    page.click("#ah-l-push")
    page.wait_for_selector("#ah-l-slot2 >> text=are in acme/results", state="attached")
    page.click("#ah-l-pull")
    page.wait_for_selector("#ah-leaderboard >> text=runs, acme/results")
    assert [text for text in page.problems if "acme" not in text and "refused" not in text] == []
    assert page.hosts == {"127.0.0.1"}


def test_which_chain_is_best(page, tmp_path: Path):
    open_tab(page, "Compare")
    page.wait_for_selector("text=What works best on your parts?")
    assert page.is_disabled("#ah-p-start")
    page.click("#ah-p-kind >> text=Folder")
    page.wait_for_function("document.querySelector('#ah-p-dataset input')?.value === 'small/ring'")
    page.click("#ah-p-use-dataset")
    page.wait_for_selector("text=12 defects of 4 kinds, 3 good ones to test")
    for box in (
        "detectors label:has-text('PatchCore') >> nth=0",
        "binarizers >> text=Otsu",
        "classifiers >> text=Direct",
    ):
        page.click(f"#ah-p-{box}")
    page.wait_for_selector("text=0 chains")
    page.click("#ah-compare >> text=Settings")
    page.fill("#ah-p-more textarea", QUICK)
    page.fill("#ah-p-seeds input[type=number]", "2")
    page.keyboard.press("Tab")
    page.wait_for_selector("text=1 chain, 2 times each: about a minute on two cores")
    page.click("#ah-p-start")
    page.wait_for_selector("#ah-p-slot3 [role=progressbar]")
    page.wait_for_selector("#ah-p-slot3 >> text=of 2 chains measured")
    page.click("#ah-p-cancel")
    page.wait_for_selector("#ah-p-slot3 >> text=Stopped.")
    page.click("#ah-p-resume")
    page.wait_for_selector("#ah-p-slot3 [role=progressbar]")
    page.reload()  # the job goes on, and is found again with its form
    page.wait_for_selector("#ah-use-sample")
    page.problems.clear()
    open_tab(page, "Compare")
    page.wait_for_selector("#ah-p-summary .ah-verdict")
    verdict = page.inner_text("#ah-p-summary .ah-verdict")
    assert re.fullmatch(re.escape(QUICK) + r" \+ MEBin \+ Prototype is right on \d+ %", verdict)
    page.click("#ah-compare >> text=Settings")
    assert page.input_value("#ah-p-more textarea") == QUICK
    assert not page.is_checked("#ah-p-binarizers label:has-text('Otsu') input")
    assert page.locator(".ah-p-chains tr").count() == 1 and "in 2 rounds" in page.inner_text("#ah-p-summary")
    look(page, tmp_path / "compare", "#ah-p-stage .ah-panel")
    with page.expect_download() as download:
        page.click("#ah-p-json")
    stored = json.loads(Path(download.value.path()).read_text())
    assert [row["seed"] for row in stored["rows"]] == [0, 1]
    with page.expect_download() as download:
        page.click("#ah-p-png")
    assert download.value.suggested_filename == "anomalyhub-small-ring-chains.png"
    page.click("#ah-p-tabs >> role=tab[name='Figures']")
    page.wait_for_selector("#ah-p-figures >> text=lost to the classifier")
    page.click("#ah-p-binarizers >> text=Otsu")
    page.wait_for_selector("text=Something else is chosen since")
    assert page.problems == [] and page.hosts == {"127.0.0.1"}
