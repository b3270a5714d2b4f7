"""Keep and share in Chromium: a detector is learned, given to a Hub, taken by somebody else, and checks images."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hub_server import READ_TOKEN, TOKEN, environment, hub_server
from ui_server import looks, serve

from anomalyhub.data.sample import write_sample

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture
def hub():
    with hub_server() as server:
        server.add("dataset", "acme/bolts", {"README.md": b"---\ntags: [anomalyhub]\n---\n# Bolts"})
        yield server


@pytest.fixture
def open_page(chromium_path, tmp_path, hub, monkeypatch):
    """A function that opens the app as somebody new; pages record what goes wrong and whom they ask."""
    from playwright.sync_api import sync_playwright

    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(name)
    for name, value in environment(hub, tmp_path).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "share").mkdir()
    with serve(tmp_path, "--store", f"folder:{tmp_path / 'share'}") as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=CHROMIUM)

        def open_page():
            page = browser.new_context(viewport={"width": 1400, "height": 900}, color_scheme="light").new_page()
            page.set_default_timeout(90_000)
            page.problems, page.hosts, page.answers = [], set(), []
            page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: page.problems.append(str(error)))
            page.on("request", lambda request: page.hosts.add(urlsplit(request.url).hostname))
            page.goto(url)
            page.wait_for_selector("#ah-use-sample")
            return page

        yield open_page
        browser.close()
    log = (tmp_path / "app.log").read_text()
    assert TOKEN not in log and READ_TOKEN not in log


def open_tab(page, name: str) -> None:
    page.click(f"role=tab[name='{name}']")


def field(name: str) -> str:
    return f"#ah-h-{name} :is(input, textarea)"


def log_in(page, token: str) -> None:
    page.fill(field("token"), token)
    page.click("#ah-h-log-in")
    page.wait_for_selector("#ah-h-login >> text=Logged in as me")
    assert token not in page.content()


def test_give_to_a_hub_and_take_from_it(open_page, hub, tmp_path: Path):
    page = open_page()
    open_tab(page, "Hub")
    page.wait_for_selector("#ah-hub >> text=Nothing is made yet")
    page.wait_for_selector("text=Keep & share")
    open_tab(page, "Detect")
    page.click("#ah-use-sample")
    page.wait_for_selector("text=Now press Learn")
    page.click("#ah-learn")
    page.wait_for_selector("text=Ready to check unknown parts")

    open_tab(page, "Hub")
    page.fill(field("token"), "hf_" + "wrong" * 6)
    page.click("#ah-h-log-in")
    page.wait_for_selector("#ah-h-slot1 >> role=alert")
    assert page.input_value(field("token")) == ""
    log_in(page, TOKEN)
    page.wait_for_function(f"document.querySelector('{field('target')}').value === 'me/woven-fabric-detector'")
    assert page.is_disabled("#ah-h-push")
    page.click("#ah-h-preview")
    page.wait_for_selector("#ah-h-draft >> text=How to use it")
    assert "me/woven-fabric-detector" in page.inner_text("#ah-h-draft")
    page.click("text=Change its text")
    text = page.input_value(field("text"))
    page.fill(field("text"), text.replace("## Limits", "## What we know of its limits"))
    page.click("#ah-h-redraw")
    page.wait_for_selector("#ah-h-draft >> text=What we know of its limits")
    page.click("#ah-h-push")
    page.wait_for_selector("#ah-h-given >> text=files sent")
    assert page.get_attribute("#ah-h-given a", "href") == f"{hub.url}/me/woven-fabric-detector"
    assert hub.repo("me/woven-fabric-detector").private
    assert b"What we know of its limits" in hub.files("me/woven-fabric-detector")["README.md"]
    look(page, tmp_path / "give")
    page.click("#ah-h-push")
    page.wait_for_selector("#ah-h-given >> text=Nothing changed")
    page.click("#ah-h-log-out")
    page.wait_for_selector("#ah-h-log-in")
    assert page.input_value(field("token")) == "" and TOKEN not in page.content()
    assert page.hosts == {"127.0.0.1"} and [text for text in page.problems if "400" not in text] == []

    page = open_page()  # somebody else, who may only read
    open_tab(page, "Hub")
    page.click("#ah-h-look")
    page.wait_for_selector("text=No models found")
    log_in(page, READ_TOKEN)
    page.click("#ah-h-kind >> text=Data sets")
    page.click("#ah-h-look")
    page.wait_for_selector(".ah-h-repo >> text=bolts")
    page.click("#ah-h-kind >> text=Models")
    page.click("#ah-h-look")
    page.wait_for_selector(".ah-h-repo >> text=private")
    look(page, tmp_path / "list")
    page.click(".ah-h-repo")
    page.wait_for_selector("#ah-h-chosen >> text=What we know of its limits")
    assert page.input_value(field("repo")) == "me/woven-fabric-detector"
    page.click("#ah-h-take")
    page.wait_for_selector("#ah-h-taken >> text=me/woven-fabric-detector is here")
    look(page, tmp_path / "taken")
    page.click("#ah-h-taken [data-tab=Detect]")
    page.wait_for_selector("text=Woven fabric, taken on the Hub tab")
    write_sample(tmp_path / "new", products="weave", n_train=0, n_test_good=1, n_defect=1, seed=5)
    photos = sorted((tmp_path / "new" / "weave" / "test").rglob("*.png"))
    page.set_input_files("#ah-unknown-files input[type=file]", photos)
    page.wait_for_selector(f"text={len(photos)} images to check")
    page.click("#ah-check")
    page.wait_for_selector("#ah-gallery .ah-card")
    assert page.locator("#ah-gallery .ah-card").count() == len(photos)
    assert 2 <= page.locator("#ah-gallery .ah-card.ah-is-defective").count() <= len(photos)
    page.problems.clear()
    page.reload()  # what was taken is found again
    page.wait_for_selector("text=Woven fabric, taken on the Hub tab")
    page.wait_for_selector("text=Ready to check unknown parts")
    open_tab(page, "Inspect")
    page.wait_for_selector("text=Woven fabric, without kinds")
    assert page.hosts == {"127.0.0.1"} and page.problems == []


def look(page, folder: Path) -> None:
    """Screenshots, wide and narrow, light and dark; nothing is cut off, and the ground is what it should be."""
    folder.mkdir()
    for dark in looks(page, folder, (1400, 420)):
        panel = "getComputedStyle(document.querySelector('#ah-h-stage .ah-panel')).backgroundColor"
        assert page.evaluate(panel) == ("rgb(24, 24, 27)" if dark else "rgb(255, 255, 255)")
    page.set_viewport_size({"width": 1400, "height": 900})
