"""What one visitor has done so far. Nothing in it is shared between visitors, and its files go when it goes."""

from __future__ import annotations

import re
import shutil
import tempfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anomalyhub.data import SampleRef, Split
from anomalyhub.errors import Cancelled
from anomalyhub.protocols import Progress
from anomalyhub.types import AnomalyMap

if TYPE_CHECKING:
    from anomalyhub import jobs
    from anomalyhub.pipeline import Inspector  # which imports torch


@dataclass(frozen=True, eq=False)
class Source:
    """Images to learn from, and those that belong to them.

    name     for people; also the product's name in a saved model
    normals  readable normal images; empty where nobody knows which are normal
    tests    images to check that came along; empty for uploads of normal images
    kind     "sample", "upload", "dataset", or "hub" for what was taken on the Hub tab
    notices  what was left out and why, one sentence each
    key      the sample product or the data set's name below the data root; of a taken data set JOB/PRODUCT; else empty
    have     what it is: of `anomalyhub.ui.methods.HAVE`
    """

    name: str
    normals: Split
    tests: Split
    kind: str
    notices: tuple[str, ...] = ()
    key: str = ""
    have: str = "many"

    @property
    def photos(self) -> Split:
        """The images that step 1 is about."""
        return self.tests if self.have == "none" else self.normals


@dataclass(frozen=True, eq=False)
class Checked:
    """One checked image, at gallery size: what re-judging needs.

    ref      where the image is; ref.label is its true label where known
    size     (H, W) of the image
    picture  (h, w, 3) uint8, the image reduced
    map      its anomaly map, reduced likewise; image_score is exact
    p_value  in (0, 1]; None where no image has set the threshold
    """

    ref: SampleRef
    size: tuple[int, int]
    picture: np.ndarray
    map: AnomalyMap
    p_value: float | None


@dataclass(eq=False)
class Session:
    """A visitor's state. Callbacks replace its fields only when their work is complete.

    source     what step 1 chose            inspector  what step 2 learned; holds the default threshold
    unknown    what was uploaded in step 3  checked    results of step 3, highest score first
    threshold  in force, in raw image scores
    notices    what the last upload or check of step 3 left out
    busy       "learn", "check" or "load" from the press of the button until that work has ended or is cancelled
    pressed    the ticket at the press of the button whose work is about to begin
    learning   the job that learns now
    fit_job    id of the job whose result is the inspector
    pretrain_jobs  ids of the visitor's pretrainings, the oldest first, for the Classify tab
    discover_job   id of the visitor's latest discovery, for the other tabs
    classify_jobs  ids of the visitor's jobs that learn kinds, the oldest first, for the Inspect tab
    paint_job      id of the visitor's latest painting of defects; kinds_job: of the kinds that the Hub tab has taken
    token      of the Hub, from the login until the logout, nowhere else; account: whose it is
    have       what the visitor says to have, and method: the key of what is chosen for that
    thumbnails small pictures as data URLs, by their files
    """

    source: Source | None = None
    inspector: Inspector | None = None
    unknown: Split | None = None
    checked: tuple[Checked, ...] = ()
    threshold: float = 0.0
    notices: tuple[str, ...] = ()
    busy: str = ""
    ticket: int = 0
    pressed: int | None = None
    learning: jobs.Job | None = None
    fit_job: str | None = None
    pretrain_jobs: list[str] = field(default_factory=list)
    discover_job: str | None = None
    classify_jobs: list[str] = field(default_factory=list)
    paint_job: str | None = None
    kinds_job: str | None = None
    token: str | None = field(default=None, repr=False)
    account: str = ""
    have: str = "many"
    method: str = "patchcore"
    thumbnails: dict[Path, str] = field(default_factory=dict, repr=False)
    _folder: Path | None = field(default=None, repr=False)

    @property
    def folder(self) -> Path:
        """The visitor's own temporary folder, made on first use; removed with the session, at the latest on exit."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="anomalyhub-session-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    @property
    def chosen(self) -> Source | None:
        """The source, unless the visitor now says to have something else."""
        return self.source if self.source is not None and self.source.have == self.have else None

    def press(self, work: str) -> None:
        """The button of some work was pressed, which begins in a moment."""
        self.busy, self.pressed = work, self.ticket

    def cancel(self) -> None:
        """Stop what this process does for the visitor, at its next progress report; jobs elsewhere go on."""
        self.ticket, self.busy = self.ticket + 1, ""

    def leave(self) -> None:
        """The page is closed: stop the work, and forget who has logged in; all else stays for a while, for a return."""
        self.cancel()
        self.token, self.account = None, ""

    def close(self) -> None:
        """Stop the work, forget everything and remove the files."""
        self.leave()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self.source = self.inspector = self.unknown = self._folder = self.learning = self.fit_job = None
        self.checked, self.notices, self.thumbnails = (), (), {}


class Job:
    """A progress callback that shows plain words and raises Cancelled once its visitor has cancelled.

    As a context it is the work of the button that was pressed last, even if Cancel was faster than its beginning, and
    marks that work as over when it ends.
    """

    def __init__(self, session: Session, show: Progress | None = None):
        self._session, self._ticket, self._show = session, session.ticket, show

    def __enter__(self) -> Job:
        pressed, self._session.pressed = self._session.pressed, None
        self._ticket = self._ticket if pressed is None else pressed
        return self

    def __exit__(self, *_) -> None:
        if self._session.ticket == self._ticket:  # else it was cancelled, and another job may run by now
            self._session.busy = ""

    def check(self) -> None:
        """Raise Cancelled if the visitor has cancelled since the job began."""
        if self._session.ticket != self._ticket:
            raise Cancelled("stopped: everything is as it was before")

    def __call__(self, fraction: float, text: str) -> None:
        self.check()
        if self._show is not None:
            self._show(fraction, plain_words(text))


#: What stages report, and how it reads to somebody who looks at parts.
_WORDS = (
    (r"features (?:of )?(\d+) of (\d+) images", r"Looking at photos: \1 of \2"),
    (r"regions of (\d+) of (\d+) images", r"Cutting out what stands out: \1 of \2 photos"),
    (r"support image (\d+) of (\d+)", r"Looking at photos: \1 of \2"),
    (r"reference (\d+)|features of (\d+) references", r"Looking at photos: \1\2"),
    (r"patch distances between all pairs of images", "Comparing the photos with each other"),
    (r"texts|prompts", "Reading the words"),
    (r"coreset (\d+)/(\d+)", r"Remembering what is typical: \1 of \2 details"),
    (r"threshold: (?:fold|reference) (\d+).*", r"Setting the threshold with parts held out: round \1"),
    (r"[\d,]+ patches x .*", "Preparing"),
    (r"waiting for (\d+ other jobs?) on this device", r"Waiting for \1 to end"),
    (r"loading|starting", "Starting: a few seconds"),
    (r"bank of ([\d,]+) patches", r"Done: \1 typical details remembered"),
    (r"reference of (\d+) images", r"Done: \1 photos compared"),
    (r"\d+ references|references: \d+|texts alone", "Done"),
)


def plain_words(text: str) -> str:
    """A progress text in plain words; one that is not known stays as it is."""
    for pattern, words in _WORDS:
        if match := re.fullmatch(pattern, text):
            return match.expand(words)
    return text[:1].upper() + text[1:]
