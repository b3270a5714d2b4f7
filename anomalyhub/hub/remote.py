"""The Hugging Face Hub as a store, or the server that HF_ENDPOINT names, by way of the huggingface_hub client."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from anomalyhub import __version__
from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, StoreError, UnsafeRepositoryError
from anomalyhub.fsio import atomic_file, make_folder
from anomalyhub.hub.base import PRODUCT_TAG, SESSION, TAG, BaseStore, RepoInfo, cache_root
from anomalyhub.hub.contents import MAX_FILES, Content, Entry, Listing, checked_kind
from anomalyhub.hub.downloads import Count, bar_class, download_all
from anomalyhub.hub.reach import (
    CONNECT_SECONDS,
    UnreachableError,
    answers,
    logged_out,
    offline,
    refusal,
    unreachable,
    within,
)
from anomalyhub.protocols import Progress

_ID = re.compile(r"[0-9a-f]{40,64}")
#: Seconds for which a server that has answered is taken to be there.
_FRESH = 30.0
#: Seconds for an answer, and for the list of all files of a repository, which comes in pages.
_READ_SECONDS, _TREE_SECONDS = 30.0, 300.0
#: Files that are sent before the progress is told, and their bytes.
_BATCH, _BATCH_BYTES = 100, 256 * 1024**2


@dataclass(frozen=True)
class Login:
    """Whose token it is: the user, the organisations, and whether it lets one push at all."""

    name: str
    orgs: tuple[str, ...] = ()
    can_write: bool = True


class HubStore(BaseStore):
    """Repositories on the Hub.

    token     kept in memory, and given to the client only; None: the login of this machine, which is HF_TOKEN or what
              `hf auth login` keeps; False: none, not even that
    endpoint  the server's address; None: HF_ENDPOINT, or https://huggingface.co

    With the machine's login, what has been pulled can be pulled again without a connection.
    """

    spec = "hub"
    _kept = frozenset({".gitattributes"})
    _is_cached = True

    def __init__(self, token: str | bool | None = None, endpoint: str | None = None):
        from huggingface_hub import HfApi

        self._token = _checked_token(token)
        self._api = HfApi(endpoint, self._token, library_name="anomalyhub", library_version=__version__)
        self.endpoint: str = self._api.endpoint
        self._answered = -_FRESH

    @cached_property
    def _downloads(self) -> str | None:
        """Where the client keeps files: None, its own cache, or for a login that is not the machine's for a while."""
        if self._token is None:
            return None
        make_folder(cache_root())
        folder = tempfile.mkdtemp(prefix=SESSION, dir=cache_root())
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def whoami(self) -> Login:
        """Who is logged in. Raises StoreError when nobody is, or the token is not taken."""
        with self._asking("log in", login=True):
            told = within(_READ_SECONDS, self._api.whoami)
            role = ((told.get("auth") or {}).get("accessToken") or {}).get("role")
            orgs = tuple(str(org["name"]) for org in told.get("orgs") or ())
            return Login(str(told["name"]), orgs, role != "read")

    def list(
        self, kind: str = "model", *, tag: str | None = None, product: str | None = None, limit: int = 200
    ) -> list[RepoInfo]:
        """As `BaseStore.list`; a product is found by its tag product:NAME, and `summary` is empty."""
        api, kind = self._api, checked_kind(kind)
        ask = {"model": api.list_models, "dataset": api.list_datasets, "space": api.list_spaces}[kind]
        wanted = [TAG, *([tag] if tag else []), *([PRODUCT_TAG + product] if product else [])]
        expand: Any = ["lastModified", "private", "sha", "tags", "usedStorage"]
        with self._asking(f"list {kind}s"):
            search = partial(ask, filter=wanted, sort="last_modified", limit=limit, expand=expand)
            infos = within(_READ_SECONDS, lambda: list(search()))
        found = [_repo_info(info, kind) for info in infos]
        return [info for info in found if set(wanted) <= set(info.tags)]

    def url(self, repo_id: str, kind: str) -> str:
        return f"{self.endpoint}/{'' if kind == 'model' else f'{kind}s/'}{repo_id}"

    def _head(self, repo_id: str, kind: str) -> Listing | None:
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        with self._asking(f"push {repo_id}", login=True):
            try:
                return within(_TREE_SECONDS, lambda: self._tree(repo_id, kind, None))
            except RepositoryNotFoundError as error:
                if isinstance(error, GatedRepoError):
                    raise
                return None  # or one that this login may not see, which `_commit` will be told

    def _listing(self, repo_id: str, kind: str, revision: str | None) -> Listing:
        record = self._record(repo_id, kind, revision or "main")
        try:
            with self._asking(f"read {kind} {repo_id}{f' at {revision[:60]!r}' if revision else ''}"):
                listing = within(_TREE_SECONDS, lambda: self._tree(repo_id, kind, revision))
        except UnreachableError:
            known = _recorded(record) if self._token is None else None
            if known is None:
                raise
            return known
        if self._token is None:
            for path in {record, self._record(repo_id, kind, listing.revision)}:
                with suppress(OSError, AnomalyHubError), atomic_file(path) as staged:  # the cache is a convenience
                    staged.write_text(json.dumps(asdict(listing)), encoding="utf-8")
        return listing

    def _tree(self, repo_id: str, kind: str, revision: str | None) -> Listing:
        """All files of a revision, each as the server describes it."""
        expand: Any = ["sha"]
        info = self._api.repo_info(repo_id, revision=revision, repo_type=kind, expand=expand, timeout=_READ_SECONDS)
        revision, entries = str(info.sha), []
        if not _ID.fullmatch(revision):
            raise UnsafeRepositoryError(f"{repo_id} is at {revision[:60]!r}, which is no commit's id: it is not pulled")
        try:
            for item in self._api.list_repo_tree(repo_id, recursive=True, revision=revision, repo_type=kind):
                if not isinstance(item.path, str):
                    raise TypeError(item.path)
                if hasattr(item, "blob_id"):
                    sha256 = item.lfs.sha256 if item.lfs else None
                    entries.append(Entry(item.path, item.size, sha256, None if item.lfs else item.blob_id))
                if len(entries) > MAX_FILES:
                    break  # choose() will say so
        except (KeyError, TypeError, AttributeError) as error:
            raise UnsafeRepositoryError(
                f"{repo_id} lists its files in a form that is none ({type(error).__name__}): it is not pulled"
            ) from None
        return Listing(revision, tuple(entries))

    def _record(self, repo_id: str, kind: str, revision: str) -> Path:
        return self._cached(repo_id, kind, "listings") / f"{quote(revision, safe='')}.json"

    def _cached(self, repo_id: str, kind: str, revision: str) -> Path:
        where = re.sub(r"[^A-Za-z0-9.-]+", "-", self.endpoint)[-100:]
        return cache_root() / "pulled" / where / f"{kind}s" / repo_id / revision

    def _assemble(
        self,
        staged: Path,
        repo_id: str,
        kind: str,
        revision: str,
        chosen: Sequence[Entry],
        cached: bool,
        progress: Progress | None,
    ) -> None:
        """As the base class does, after several downloads at a time have filled the client's cache."""
        missing = [entry for entry in chosen if self._in_cache(repo_id, kind, revision, entry) is None]
        if missing:
            download_all(missing, partial(self._download, repo_id, kind, revision), progress)
        super()._assemble(staged, repo_id, kind, revision, chosen, cached, None if missing else progress)

    def _fetch(self, repo_id: str, kind: str, revision: str, entry: Entry, progress: Progress) -> Path:
        known = self._in_cache(repo_id, kind, revision, entry)
        if known is not None and not entry.differs(known):
            return known
        return self._download(repo_id, kind, revision, entry, again=known is not None)

    def _in_cache(self, repo_id: str, kind: str, revision: str, entry: Entry) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(
            repo_id, entry.path, revision=revision, repo_type=kind, cache_dir=self._downloads
        )
        return Path(found).resolve() if isinstance(found, str) else None

    def _download(
        self,
        repo_id: str,
        kind: str,
        revision: str,
        entry: Entry,
        *,
        again: bool = False,
        count: Count | None = None,
    ) -> Path:
        from huggingface_hub import hf_hub_download

        with self._asking(f"pull {entry.path!r} of {repo_id}"):
            path = hf_hub_download(
                repo_id,
                entry.path,
                repo_type=kind,
                revision=revision,
                endpoint=self.endpoint,
                cache_dir=self._downloads,
                token=self._token,
                etag_timeout=CONNECT_SECONDS,
                force_download=again,
                tqdm_class=bar_class(entry, count or Count()),
            )
        return Path(path).resolve()

    def _commit(
        self,
        repo_id: str,
        kind: str,
        contents: Mapping[str, Content],
        changed: Sequence[str],
        removed: Sequence[str],
        parent: Listing | None,
        message: str,
        private: bool | None,
        progress: Progress,
    ) -> str:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        api = self._api
        progress(0.0, f"opening {repo_id}")
        with self._asking(f"push {repo_id}"), _quiet:
            head = self._opened(repo_id, kind, private, parent)
            added = [CommitOperationAdd(name, _local(contents[name])) for name in changed]
            sent, total = 0, sum(one.upload_info.size for one in added) or 1
            for batch in _batches(added):
                progress(0.95 * sent / total, f"sending {batch[0].path_in_repo}")
                api.preupload_lfs_files(repo_id, batch, repo_type=kind, free_memory=False, gitignore_content="")
                sent += sum(one.upload_info.size for one in batch)
            progress(0.95, "committing")
            operations = [*(CommitOperationDelete(name, is_folder=False) for name in removed), *added]
            done = api.create_commit(repo_id, operations, commit_message=message, repo_type=kind, parent_commit=head)
        return str(done.oid)

    def _opened(self, repo_id: str, kind: str, private: bool | None, parent: Listing | None) -> str:
        """The revision to commit upon, of a repository that is made if need be."""
        expand: Any = ["sha", "private"]
        if parent is None:
            sdk = "gradio" if kind == "space" else None
            self._api.create_repo(repo_id, repo_type=kind, private=private, space_sdk=sdk)
        info = self._api.repo_info(repo_id, repo_type=kind, expand=expand, timeout=_READ_SECONDS)
        if private and not info.private:
            raise StoreError(
                f"{repo_id} on {self.endpoint} is public, and nothing was pushed: make it private in its settings, or "
                "push under another name"
            )
        return str(info.sha) if parent is None else parent.revision

    @contextmanager
    def _asking(self, what: str, login: bool = False) -> Iterator[None]:
        """Ask the server for something: StoreError, within seconds, when it does not answer, or for what it says.

        login  it is of no use to ask without one
        """
        from huggingface_hub import constants, get_token

        token = self._token
        try:
            if constants.HF_HUB_OFFLINE:
                raise offline(what)
            token = get_token() if token is None else token
            if login and not token:
                raise logged_out(what)
            if time.monotonic() - self._answered > _FRESH and not answers(self.endpoint):
                raise unreachable(what, self.endpoint)
            yield
        except AnomalyHubError:
            raise
        except Exception as error:  # the client lets its HTTP library's errors through, and that library changes
            # without the client's error, whose text nobody has looked through for tokens
            raise refusal(error, what, self.endpoint, token) from None
        self._answered = time.monotonic()


def _checked_token(token: str | bool | None) -> str | bool | None:
    if not isinstance(token, str):
        return token
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidArgumentError("the token is empty or has letters that no token has: copy it again, without spaces")
    return token


def _recorded(path: Path) -> Listing | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return Listing(record["revision"], tuple(Entry(**entry) for entry in record["entries"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _repo_info(info: Any, kind: str) -> RepoInfo:
    tags = tuple(tag for tag in info.tags or () if isinstance(tag, str) and tag.isprintable())
    product = next((tag.removeprefix(PRODUCT_TAG) for tag in tags if tag.startswith(PRODUCT_TAG)), None)
    updated = info.last_modified.timestamp() if info.last_modified else None
    size = getattr(info, "used_storage", None)
    return RepoInfo(str(info.id), kind, str(info.sha or ""), tags, product, bool(info.private), updated, size)


def _local(content: Content) -> str | bytes:
    return content if isinstance(content, bytes) else str(content.absolute())


def _batches(added: Sequence[Any]) -> Iterator[list[Any]]:
    """Additions by turns, of so many files or bytes that the progress is told often."""
    batch: list[Any] = []
    for one in added:
        batch.append(one)
        if len(batch) == _BATCH or sum(each.upload_info.size for each in batch) >= _BATCH_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


class _Quiet:
    """The client draws bars for uploads, and warns of cards without front matter, beside what AnomalyHub tells.

    Both are a matter of the whole process, so the last of several pushes at a time puts them back.
    """

    def __init__(self):
        self._lock, self._inside, self._hidden = threading.Lock(), 0, False

    def __enter__(self) -> None:
        from huggingface_hub import constants
        from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars

        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            warnings.filterwarnings("ignore", category=UserWarning, module=r"huggingface_hub\.")
            self._hidden = constants.HF_HUB_DISABLE_PROGRESS_BARS is not None or are_progress_bars_disabled()
            if not self._hidden:
                disable_progress_bars()

    def __exit__(self, *_: Any) -> None:
        from huggingface_hub.utils import enable_progress_bars

        with self._lock:
            self._inside -= 1
            if not self._inside and not self._hidden:
                enable_progress_bars()


_quiet = _Quiet()
