"""Settings and fixtures for all tests: offline, seeded, tiny."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

# Before any test module imports what reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "2")

import hypothesis
import numpy as np
import pytest

# The same examples in every run, and no failure because the machine is busy.
hypothesis.settings.register_profile("anomalyhub", derandomize=True, deadline=None)
hypothesis.settings.load_profile("anomalyhub")

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session", autouse=True)
def app_home(tmp_path_factory) -> None:
    """An app that a test builds keeps nothing in the user's own folder."""
    os.environ["ANOMALYHUB_HOME"] = str(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights: $ANOMALYHUB_SHARED, or `shared` beside the checkout."""
    folder = Path(os.environ.get("ANOMALYHUB_SHARED") or ROOT.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set ANOMALYHUB_SHARED to its folder")
    return folder


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """The browser's executable: $CHROMIUM or the first on the PATH. Without one, CI fails and a laptop skips."""
    names = (os.environ["CHROMIUM"],) if os.environ.get("CHROMIUM") else BROWSERS
    for name in names:
        if path := shutil.which(name):
            return path
    message = f"no Chromium (looked for {', '.join(names)}); install it: apt-get install chromium, or set CHROMIUM"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture
def own_accelerator():
    """accelerate keeps its state, the precision included, for the life of a process, and other tests train too."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def tiny_images(rng) -> list[np.ndarray]:
    """Six (32, 48, 3) uint8 images of one smooth texture, which differ in phase, brightness and noise."""
    y, x = np.mgrid[:32, :48].astype(np.float64)
    images = []
    for _ in range(6):
        phase = rng.uniform(0, 2 * np.pi, 3)
        wave = np.stack([np.sin(x / 5 + p) + np.sin(y / 3 + p / 2) for p in phase], axis=-1)
        image = 128 + rng.uniform(-8, 8) + 30 * wave + rng.normal(0, 2, wave.shape)
        images.append(image.clip(0, 255).astype(np.uint8))
    return images
