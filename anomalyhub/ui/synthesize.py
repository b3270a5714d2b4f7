"""What the Synthesize tab does before its jobs: normal images, textures, and a preview that follows the controls.

Callbacks without gradio, which change a Visit and return a sentence for the visitor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from anomalyhub.config import configure
from anomalyhub.data import SampleRef
from anomalyhub.errors import InvalidArgumentError, InvalidDatasetError, InvalidImageError, InvalidUploadError
from anomalyhub.protocols import Progress
from anomalyhub.synthesis import (
    Foreground,
    SynthesisConfig,
    Synthesizer,
    SyntheticSample,
    Textures,
    choose_method,
    load_textures,
    preview,
)
from anomalyhub.synthesis.foregrounds import reduced
from anomalyhub.types import Sample
from anomalyhub.ui import sources
from anomalyhub.ui.session import Job, Session, Source
from anomalyhub.ui.work import Work

#: Normal images that the preview paints on, painted ones, and pictures of the foreground.
_LOOKED_AT, N_PAINTED, _N_FOREGROUNDS = 8, 6, 2


@dataclass(frozen=True, eq=False)
class Chosen:
    """Normal images of a product.

    name     for people                         refs  the images
    kind     "sample", "upload" or "dataset", as of a Source
    lasting  whether they stay where they are, as those of a data folder do
    """

    name: str
    refs: tuple[SampleRef, ...]
    kind: str
    notices: tuple[str, ...] = ()
    lasting: bool = False


@dataclass(frozen=True)
class Form:
    """Step 2. Shares are in percent.

    mask        perlin, poisson or polygon             own   textures are the uploaded ones
    beta, area  lowest and highest share of the texture in the blend, and of the part that is painted over
    polygon     the share of the part that a polygon covers
    foreground  auto, grabcut, floodfill or whole      each  images of each kind
    """

    mask: str = "perlin"
    own: bool = False
    beta: tuple[float, float] = (20.0, 100.0)
    area: tuple[float, float] = (10.0, 40.0)
    polygon: float = 15.0
    foreground: str = "auto"
    each: int = 10
    seed: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """Fields of SynthesisConfig; of two ends that have crossed, the lower one is the lower end."""
        return {
            "mask": self.mask,
            "beta": [share / 100 for share in sorted(self.beta)],
            "area": [share / 100 for share in sorted(self.area)],
            "polygon_area": self.polygon / 100,
            "foreground": self.foreground,
        }


@dataclass(frozen=True, eq=False)
class Preview:
    """What would be painted.

    foregrounds  pictures of some normal images
    method       how their foreground is found             reason  why so; empty when the visitor said so
    lost         in how many images none was found, of so many that were looked at
    painted      some of the defects                       kinds   how many pseudo-classes there are
    """

    foregrounds: tuple[np.ndarray, ...]
    method: str
    reason: str
    lost: int
    looked: int
    painted: tuple[SyntheticSample, ...]
    kinds: int


@dataclass(eq=False)
class Visit:
    """What a visitor does on this tab.

    chosen    by step 1; started: what was chosen when the painting began, whose job is paint_job
    textures  uploaded ones: their folder below the app's; own: the same, loaded; left_out: files that are none, and why
    turn      of the preview: each shows other defects
    looked    some of the images, as they are painted on; choice: how their foreground is found by itself, and why
    fit_job   the job that learns what is normal for the pretraining, if need be; pretrain_job: the pretraining
    fits      jobs that learned what is normal, by the images
    page      of the gallery, from 1; offered: whether step 3 has offered the Detect tab's model
    """

    chosen: Chosen | None = None
    started: Chosen | None = None
    textures: Path | None = None
    own: Textures | None = None
    left_out: tuple[str, ...] = ()
    turn: int = 0
    looked: tuple[Sample, ...] = ()
    choice: tuple[str, str] = ("", "")
    paint_job: str | None = None
    fit_job: str | None = None
    pretrain_job: str | None = None
    fits: dict[tuple[Path, ...], str] = field(default_factory=dict)
    page: int = 1
    offered: bool = False


# Step 1.


def use_detect(session: Session, visit: Visit) -> str:
    """Take the normal images that the Detect tab has."""
    source = session.source
    if source is None or not source.normals:
        raise InvalidArgumentError(
            "the Detect tab has no normal images yet: choose some there, or take a sample or images of your own here"
        )
    return _choose(visit, source)


def use_sample(session: Session, visit: Visit, product: str, progress: Progress | None = None) -> str:
    """Take the normal images of a bundled sample."""
    return _choose(visit, sources.sample_source(product, Job(session, progress)))


def use_uploads(session: Session, visit: Visit, paths: Sequence[str], progress: Progress | None = None) -> str:
    """Take uploaded normal images and zips."""
    return _choose(visit, sources.upload_source(paths, session.folder, Job(session, progress)))


def use_dataset(session: Session, visit: Visit, root: Path | None, name: str, progress: Progress | None = None) -> str:
    """Take the normal images of a product below the data root."""
    if root is None:
        raise InvalidArgumentError("no data folder is open: start the app with --data-root DIR")
    return _choose(visit, sources.dataset_source(root, name, Job(session, progress)))


def _choose(visit: Visit, source: Source) -> str:
    lasting = source.kind == "dataset"
    visit.chosen = Chosen(source.name, source.normals.refs, source.kind, source.notices, lasting)
    visit.turn, visit.looked, visit.choice = 0, (), ("", "")
    return f"{chosen_text(visit.chosen)}. Next: look at the defects, then press Generate."


def chosen_text(chosen: Chosen) -> str:
    """What step 1 holds."""
    return f"{len(chosen.refs)} normal images of {chosen.name}"


# Step 2: what is painted.


def take_textures(
    session: Session, visit: Visit, paths: Sequence[str], work: Work, progress: Progress | None = None
) -> str:
    """Take uploaded textures: images, or a zip of folders with images, of each of which the first by name counts."""
    found, notices = sources.uploaded(paths, session.folder, sources.UNKNOWN, Job(session, progress))
    if not found:
        raise sources.no_images(notices)
    folder = work.keep_maps((ref.id, ref.path) for ref in found.refs)
    textures = load_textures(folder)
    if len(textures) < 2:
        raise InvalidUploadError("there is 1 texture, and kinds want 2 or more: upload more images")
    visit.textures, visit.own, visit.left_out, visit.turn = folder, textures, tuple(notices), 0
    return f"{len(textures)} textures are here: {', '.join(textures.names[:4])}{', …' * (len(textures) > 4)}"


@cache
def _drawn() -> Textures:
    """The package's own, drawn once for all visitors."""
    return load_textures()


def textures_of(visit: Visit, form: Form) -> Textures:
    """Raises InvalidArgumentError when the visitor's own are wanted and not there."""
    if not form.own:
        return _drawn()
    if visit.textures is None:
        raise InvalidArgumentError("there are no textures yet: upload some images, or have textures drawn")
    if not visit.textures.is_dir():  # nobody used them for an hour
        visit.textures = visit.own = None
        raise InvalidArgumentError("the textures were removed, as nothing used them: upload them again")
    if visit.own is None:
        visit.own = load_textures(visit.textures)
    return visit.own


def n_kinds(visit: Visit, form: Form) -> int:
    """How many pseudo-classes there would be; raises as `textures_of`."""
    return len(textures_of(visit, form)) * (4 if form.mask == "polygon" else 1)


def look(visit: Visit, form: Form) -> Preview:
    """Some defects as they would be painted. Raises InvalidArgumentError, InvalidDatasetError, InvalidImageError."""
    if visit.chosen is None:
        raise InvalidArgumentError("there are no normal images yet: choose some in step 1")
    if not visit.looked:
        _look_at(visit)
    auto = form.foreground == "auto"
    method, reason = visit.choice if auto else (form.foreground, "")
    config = configure(SynthesisConfig, form.settings | {"foreground": method})
    synthesizer = Synthesizer(visit.looked, textures_of(visit, form), config, form.seed)
    found = [synthesizer.foreground_of(index) for index in range(len(visit.looked))]
    shown = [found[index] for index in _spread(len(found), _N_FOREGROUNDS)]
    return Preview(
        foregrounds=tuple(preview(image, Foreground(mask, method, notice)) for image, mask, notice in shown),
        method=method,
        reason=reason,
        lost=sum(bool(notice) for _, _, notice in found),
        looked=len(found),
        painted=tuple(synthesizer.draw(number) for number in _numbers(visit.turn, len(synthesizer.classes))),
        kinds=len(synthesizer.classes),
    )


def _numbers(turn: int, kinds: int) -> list[int]:
    """Of the defects that would be painted, a few of kinds that are far apart, other ones each turn."""
    apart = max(1, (kinds // N_PAINTED - 1) | 1)  # odd: neighbours of four are one texture in four shapes
    again, first = divmod(turn, apart)
    return [again * kinds + first + apart * place for place in range(min(N_PAINTED, kinds))]


def _look_at(visit: Visit) -> None:
    """Read some of the images, and choose how their foreground is found, both as the job does it."""
    read, small, refs = [], [], visit.chosen.refs
    for index in _spread(len(refs), _LOOKED_AT):
        try:
            sample = refs[index].load()
        except InvalidImageError:  # gone since it was chosen
            continue
        read.append(Sample(sample.id, reduced(sample.image, SynthesisConfig.size)))
        small.append(reduced(sample.image))
    if not read:
        raise InvalidDatasetError("the images cannot be read any more: choose them again in step 1")
    visit.choice, visit.looked = choose_method(small), tuple(read)


def _spread(count: int, wanted: int) -> list[int]:
    """Evenly spaced numbers below `count`."""
    return np.unique(np.linspace(0, count - 1, wanted).astype(int)).tolist()
