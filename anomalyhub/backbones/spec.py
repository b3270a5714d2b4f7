"""The text that names a backbone, and where its weights come from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from anomalyhub.errors import BackboneError, InvalidArgumentError
from anomalyhub.hub.base import reason
from anomalyhub.hub.reach import CONNECT_SECONDS, answers


@dataclass(frozen=True)
class BackboneSpec:
    """A parsed SPEC: the name (or Hub id after `hf:`) and the local weights file, or folder of a CLIP, if given."""

    text: str
    name: str
    repo_id: str | None = None
    file: Path | None = None
    folder: Path | None = None


def parse_spec(text: str) -> BackboneSpec:
    """Split `NAME[@FILE]`, `clip@FOLDER` or `hf:OWNER/NAME[@FILE]`. Raises InvalidArgumentError or BackboneError."""
    name, _, file = text.strip().partition("@")
    if not name:
        raise InvalidArgumentError(
            f"backbone {text!r} has no name: give embedded, a timm name, or NAME@FILE.safetensors"
        )
    if "@" in text and not file:
        raise InvalidArgumentError(f"backbone {text!r} names no file after the @: give NAME@FILE.safetensors")
    repo_id = None
    if name.startswith("hf:"):
        repo_id = name[3:]
        parts = repo_id.split("/")
        if len(parts) != 2 or not all(parts):
            raise InvalidArgumentError(f"backbone {text!r} is not a Hub id: write hf:OWNER/NAME")
    if name == "embedded" and file:
        raise InvalidArgumentError(f"backbone {text!r}: embedded brings its own weights, leave out the @ and the file")
    if name == "clip":
        return BackboneSpec(text, name, folder=_checked_folder(Path(file).expanduser()) if file else None)
    return BackboneSpec(text, name, repo_id, _checked_file(Path(file).expanduser()) if file else None)


def _checked_file(path: Path) -> Path:
    if path.suffix != ".safetensors":
        raise BackboneError(f"{path} is not a .safetensors file: convert it (pickled checkpoints are not opened)")
    if not path.is_file():
        raise BackboneError(f"weights file {path} does not exist: check the path after the @")
    return path.resolve()


def _checked_folder(path: Path) -> Path:
    if not path.is_dir():
        raise BackboneError(
            f"{path} is not a folder: give clip@FOLDER, a folder with the config.json, model.safetensors and "
            "tokenizer.json of a CLIP"
        )
    return path.resolve()


def optional_hub_file(repo_id: str, filename: str, wanted_by: str, local: str = "") -> Path | None:
    """As `hub_file`; None where the repository has no such file."""
    from huggingface_hub import _CACHED_NO_EXIST, errors, try_to_load_from_cache

    try:
        path = hub_file(repo_id, filename, wanted_by, local)
    except BackboneError as error:
        missing = isinstance(error.__cause__, errors.EntryNotFoundError)
        if missing and not isinstance(error.__cause__, errors.LocalEntryNotFoundError):
            return None
        if try_to_load_from_cache(repo_id, filename) is _CACHED_NO_EXIST:  # an earlier answer, and no Hub now
            return None
        raise
    return path


def hub_file(repo_id: str, filename: str, wanted_by: str, local: str = "") -> Path:
    """The local path of a file of a Hub repository: from the cache, else downloaded.

    local  what to do instead, for messages; "" is to give a weights file, or to use embedded

    The Hub is asked only when the file is not in the cache; an unreachable Hub is reported within seconds.
    Raises BackboneError naming the remedy.
    """
    from huggingface_hub import constants, errors, hf_hub_download, hf_hub_url, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(repo_id, filename)
    except errors.HFValidationError as error:
        raise BackboneError(f"{repo_id!r} is not a Hub id: write hf:OWNER/NAME") from error
    if isinstance(cached, str):
        return Path(cached)
    otherwise = f"pass a local file as {wanted_by}@FILE.safetensors, or use --backbone embedded"
    remedy = f"download it once on a connected machine, {f'or {local}' if local else otherwise}"
    what = f"the weights of {wanted_by!r} ({repo_id}) are not in the local cache"
    if constants.HF_HUB_OFFLINE:
        raise BackboneError(f"{what} and HF_HUB_OFFLINE is set: {remedy}")
    if not answers(hf_hub_url(repo_id, filename)):
        raise BackboneError(f"{what} and {constants.ENDPOINT} cannot be reached: {remedy}")
    try:
        return Path(hf_hub_download(repo_id, filename, etag_timeout=CONNECT_SECONDS))
    except Exception as error:  # the client lets its HTTP library's errors through, and that library changes
        missing = (errors.RepositoryNotFoundError, errors.EntryNotFoundError)
        if isinstance(error, missing) and not isinstance(error, errors.LocalEntryNotFoundError):
            raise BackboneError(
                f"{repo_id} on {constants.ENDPOINT} has no {filename} that this login may read: check the name, "
                "or log in with `hf auth login`"
            ) from error
        raise BackboneError(f"downloading {filename} of {repo_id} failed ({reason(error)}): {remedy}") from error


def fingerprint(path: Path) -> str:
    """sha256 of a weights file, computed once per version of the file."""
    stat = path.stat()
    return _sha256(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=32)
def _sha256(path: Path, mtime: int, size: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
