"""What share adds to a push: whose card it is, and what could never be pulled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anomalyhub.errors import InvalidArgumentError, StoreError
from anomalyhub.hub import create_store
from anomalyhub.hub.markup import MARKER
from anomalyhub.hub.share import share


@pytest.fixture
def store(tmp_path):
    (tmp_path / "share").mkdir()
    return create_store(f"folder:{tmp_path / 'share'}")


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.csv").write_text("x\n1\n")
    return folder


def test_a_card_that_somebody_wrote_in_the_repository_stays(store, data):
    share(data, "acme/data", "dataset", store=store)
    _, made = store.card("acme/data", "dataset")
    assert MARKER in made.splitlines()
    (data / "README.md").write_text("# Mine\n")
    share(data, "acme/data", "dataset", store=store)  # as somebody does on the Hub's page
    (data / "README.md").unlink()
    (data / "a.csv").write_text("x\n2\n")
    pushed = share(data, "acme/data", "dataset", store=store)
    assert pushed.changed == ("a.csv",) and pushed.removed == ()
    assert store.card("acme/data", "dataset")[1] == "# Mine\n"
    with pytest.raises(InvalidArgumentError, match="somebody wrote"):
        share(data, "acme/data", "dataset", store=store, license="mit")
    share(data, "acme/data", "dataset", store=store, card=made)  # said outright
    assert store.card("acme/data", "dataset")[1] == made


def test_front_matter_alone_is_no_card_but_its_licence_counts(store, data):
    (data / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")  # as the Hub's page makes it
    store.push(data, "acme/data", "dataset")
    (data / "README.md").unlink()
    share(data, "acme/data", "dataset", store=store, tags=["benchmark"])
    _, card = store.card("acme/data", "dataset")
    assert MARKER in card.splitlines() and "license: cc-by-4.0" in card and "benchmark" in card


def test_a_repository_that_cannot_be_looked_at_is_not_overwritten(store, data, monkeypatch):
    share(data, "acme/data", "dataset", store=store)

    def away(*_):
        raise StoreError("the share is away")

    monkeypatch.setattr(store, "card", away)
    with pytest.raises(StoreError, match="away"):
        share(data, "acme/data", "dataset", store=store)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"A.csv": "1", "a.CSV": "2"}, "one name on some systems"),
        ({"model.json": " " * (9 << 20)}, "at most"),
    ],
)
def test_what_nobody_could_pull_is_not_pushed(store, tmp_path, files, words):
    folder = tmp_path / "odd"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(InvalidArgumentError, match=words):
        store.push(folder, "acme/odd", "dataset" if "a.CSV" in files else "model")
    assert store.list("dataset") == store.list("model") == []


def test_a_link_to_nothing_is_said(store, data):
    (data / "b.csv").symlink_to(data / "gone.csv")
    with pytest.raises(InvalidArgumentError, match="b.csv cannot be read"):
        store.push(data, "acme/data", "dataset")
    assert store.list("dataset") == []


def test_a_push_says_what_pulls_will_leave_out(store, data):
    (data / "run.py").write_text("print()")
    pushed = store.push(data, "acme/data", "dataset")
    assert "run.py" in pushed.notices[0]
    assert store.push(data, "acme/data", "dataset").notices == pushed.notices
    assert not (store.pull("acme/data", "dataset").folder / "run.py").exists()


def test_a_swap_names_no_place_of_this_machine(tmp_path):
    from anomalyhub.benchmark.swap import STAGES, SwapConfig, Swapped

    detector = f"patchcore,backbone=resnet18@{tmp_path}/weights.safetensors"
    row = {"detector": detector, "binarizer": "otsu", "classifier": "direct", "seed": 0, "image_auroc": 1.0}
    row |= {"accuracy": 0.5, "kind_accuracy": 0.5, "n": 2, "n_defective": 1, "lost": dict.fromkeys(STAGES, 0.1)}
    config = SwapConfig(str(tmp_path / "photos"), detectors=(detector,), binarizers=("otsu",), classifiers=("direct",))
    Swapped(config, (row,)).write(tmp_path)
    stored = json.loads((tmp_path / "swap.json").read_text())
    assert stored["config"]["data"] == "photos"
    assert stored["rows"][0]["detector"] == "patchcore,backbone=resnet18@weights.safetensors"
    assert all(str(tmp_path) not in (tmp_path / name).read_text() for name in ("swap.json", "swap.csv"))
