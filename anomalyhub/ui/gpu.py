"""The GPU of a ZeroGPU Space, which is there only while a function that asks for it runs, in a process of its own.

The `spaces` package, which such a Space has, forks this process for that function and sends what goes in and what comes
out between the two. So the function is a pure one, of a model's folder and some images; reading, progress and cancel
stay here, on the CPU, as do jobs, which are processes that `spaces` knows nothing of. Anywhere else this module does
nothing. `spaces` has to be imported before torch.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyhub.errors import AnomalyHubError
from anomalyhub.types import Inspection, Sample

if TYPE_CHECKING:
    from anomalyhub.pipeline import Inspector

#: Whether this is a ZeroGPU Space.
ZERO = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true") and bool(importlib.util.find_spec("spaces"))

#: Images and pixels of one call, between which a visitor can cancel.
_IMAGES, _PIXELS = 32, 64_000_000

_loaded: dict[str, Inspector] = {}

#: One image, its result, and the explanations of its regions, as `Inspector.explain` gives them.
Explained = tuple[Sample, Inspection, tuple[Any, ...]]


def explain(inspector: Inspector, samples: Iterable[Sample], folder: Path) -> Iterator[Explained]:
    """`inspector.explain(samples)`, on the GPU of a ZeroGPU Space where this is one.

    folder  for temporary files: the model is handed over in one
    Raises AnomalyHubError as the inspector does, and gr.Error when there is no GPU to be had.
    """
    if not ZERO:
        yield from inspector.explain(samples)
        return
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        model = Path(temporary) / "model"
        inspector.save(model)
        for chunk in _chunks(samples, inspector.detector.transductive):
            results = _on_gpu(str(model), [Sample(sample.id, sample.image) for sample in chunk])
            if isinstance(results, str):
                raise AnomalyHubError(results)
            for sample, (result, why) in zip(chunk, results, strict=True):
                yield sample, result, why


def _chunks(samples: Iterable[Sample], whole: bool) -> Iterator[list[Sample]]:
    """As many as one call takes; all of them for a detector that judges images by each other."""
    chunk, pixels = [], 0
    for sample in samples:
        chunk.append(sample)
        pixels += sample.image.shape[0] * sample.image.shape[1]
        if not whole and (len(chunk) >= _IMAGES or pixels >= _PIXELS):
            yield chunk
            chunk, pixels = [], 0
    if chunk:
        yield chunk


def _predict(folder: str, samples: list[Sample]) -> list[tuple[Inspection, tuple[Any, ...]]] | str:
    """Results of samples, by the model in a folder; or what is wrong, as errors do not come through in full."""
    os.environ.pop("ANOMALYHUB_DEVICE", None)
    try:
        if folder not in _loaded:  # a process may be used again
            from anomalyhub.pipeline import Inspector

            _loaded.clear()
            _loaded[folder] = Inspector.load(Path(folder))
        return [(result, why) for _, result, why in _loaded[folder].explain(samples)]
    except AnomalyHubError as error:
        return str(error)


def _seconds(folder: str, samples: list[Sample]) -> int:
    """What a call may take, which decides its place in the queue: loading, and a second for each image."""
    return 30 + len(samples)


if ZERO:
    import spaces

    os.environ["ANOMALYHUB_DEVICE"] = "cpu"  # of this process and its jobs; `spaces` pretends that there is a GPU
    _on_gpu = spaces.GPU(duration=_seconds)(_predict)
else:
    _on_gpu = _predict
