"""Fitting with several processes: two ranks of torchrun on the CPU, which share the images and end with one bank."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from core_helpers import normals, photo, tiny_backbone
from safetensors.numpy import load_file

from anomalyhub.detection import create_detector
from anomalyhub.search import covering_radius

SCRIPT = """
import json, os, sys
from pathlib import Path
from core_helpers import normals, photo, tiny_backbone
from anomalyhub.detection import create_detector
from anomalyhub.errors import InvalidArgumentError

folder = Path(sys.argv[1]) / os.environ["RANK"]
read = []

class Watched(list):
    def __getitem__(self, index):
        read.append(index)
        return super().__getitem__(index)

def detector(**settings):
    return create_detector("patchcore", tiny_backbone(size=64), settings={"batch_size": 4, **settings})

fitted = detector(coreset=0.2).fit(Watched(normals(13)))
fitted.save(folder)
scores = [result.image_score for result in fitted.predict([photo(60 + i, defect=i > 2) for i in range(6)])]
errors = []
for samples in (normals(1), iter(normals(4)), []):
    try:
        detector().fit(samples)
    except InvalidArgumentError as error:
        errors.append(str(error))
(folder / "report.json").write_text(json.dumps({"scores": scores, "read": read, "errors": errors}))
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank saved: its arrays and its report."""
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "fit.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    here = Path(__file__).resolve().parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    done = subprocess.run(
        [*command, str(script), str(folder)], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    saved = [folder / str(rank) for rank in (0, 1)]
    return [(load_file(s / "state.safetensors"), json.loads((s / "report.json").read_text())) for s in saved]


@pytest.fixture(scope="module")
def alone():
    return create_detector("patchcore", tiny_backbone(size=64), settings={"coreset": 0.2}).fit(normals(13))


def test_all_ranks_end_with_the_same_model(ranks):
    (first, one), (second, other) = ranks
    assert first.keys() == second.keys()
    for name in first:
        assert np.array_equal(first[name], second[name]), name
    assert one["scores"] == other["scores"]


def test_the_images_are_shared_out(ranks):
    """Each rank reads every second image once for the bank, and its share of the held-out ones again."""
    reads = [report["read"] for _, report in ranks]
    assert reads[0][:7] == [0, 2, 4, 6, 8, 10, 12] and reads[1][:6] == [1, 3, 5, 7, 9, 11]
    assert sorted(reads[0][7:] + reads[1][6:]) == list(range(13))


def test_the_model_is_as_good_as_that_of_one_process(ranks, alone):
    arrays, report = ranks[0]
    assert arrays["bank"].shape == alone.search_.bank_.shape
    assert len(arrays["scores"]) == len(arrays["peaks"]) == len(alone.held_out_scores_) == 13
    everything = create_detector(
        "patchcore", tiny_backbone(size=64), settings={"coreset": 1.0, "calibration_images": 0}
    )
    rows = everything.fit(normals(13)).search_.bank_
    assert covering_radius(rows, arrays["bank"]) < 1.15 * covering_radius(rows, alone.search_.bank_)
    expected = [result.image_score for result in alone.predict([photo(60 + i, defect=i > 2) for i in range(6)])]
    np.testing.assert_allclose(report["scores"], expected, rtol=0.15)
    assert min(report["scores"][3:]) > max(report["scores"][:3])
    assert np.median(arrays["scores"]) == pytest.approx(np.median(alone.held_out_scores_), rel=0.1)


def test_what_cannot_be_shared_out_is_refused_by_every_rank(ranks):
    """By all: a rank that goes on alone would wait for the others for ever."""
    for _, report in ranks:
        few, stream, none = report["errors"]
        assert few == "1 images do not keep 2 processes busy: start at most one process per image"
        assert "several processes need a sequence of samples, not a stream" in stream
        assert "needs normal images and got none" in none
