"""Push this checkout to a Hugging Face Space.

    python spaces_config/deploy.py OWNER/NAME                    log in before: hf auth login, or HF_TOKEN
    python spaces_config/deploy.py OWNER/NAME --dry-run FOLDER   only write what would be pushed

The Space gets app.py, the package, and the versions that are installed here. A second call pushes what has changed.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from packaging.requirements import InvalidRequirement, Requirement  # noqa: E402
from packaging.utils import canonicalize_name  # noqa: E402
from packaging.version import Version  # noqa: E402

from anomalyhub.errors import AnomalyHubError, InvalidArgumentError, StoreError  # noqa: E402
from anomalyhub.fsio import atomic_folder  # noqa: E402
from anomalyhub.hub.base import create_store, reason  # noqa: E402
from anomalyhub.hub.contents import checked_repo_id  # noqa: E402

#: What these bring along differs between machines and follows from their version.
_WHOLE = frozenset({"torch", "torchvision"})


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 when the arguments, the login or the connection are wrong."""
    parser = argparse.ArgumentParser(prog="spaces_config/deploy.py", description="Push this checkout to a Space.")
    parser.add_argument("repo_id", metavar="OWNER/NAME")
    parser.add_argument("--private", action="store_true", help="of a new Space: for its owner only")
    parser.add_argument("--hardware", help="ask for this hardware, such as cpu-upgrade, t4-small or zero-a10g")
    parser.add_argument(
        "--pin", action="append", default=[], metavar="NAME==VERSION", help="instead of what is installed"
    )
    parser.add_argument("--message", default="", help="of the commit")
    parser.add_argument("--dry-run", type=Path, metavar="FOLDER", help="only write the files into this folder")
    options = parser.parse_args(arguments)
    try:
        checked_repo_id(options.repo_id)
        chosen = dict(map(_pin, options.pin))
        if options.dry_run:
            with atomic_folder(options.dry_run) as staged:
                build(staged, chosen, options.hardware)
            print(f"{options.dry_run} holds what would be pushed to {options.repo_id}")
        else:
            deploy(options.repo_id, chosen, options.hardware, options.private, options.message)
    except AnomalyHubError as error:
        print(f"deploy: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def deploy(repo_id: str, chosen: Mapping[str, str], hardware: str | None, private: bool, message: str) -> None:
    """Build and push, and ask for the hardware. Raises StoreError."""
    with tempfile.TemporaryDirectory(prefix="anomalyhub-space-") as folder:
        build(Path(folder), chosen, hardware)
        pushed = create_store("hub").push(folder, repo_id, "space", message or "Deploy", private=private or None)
    changed = len(pushed.changed) + len(pushed.removed)
    print(f"{pushed.url}: {f'{changed} files changed' if changed else 'nothing changed'}")
    if hardware:
        from huggingface_hub import HfApi

        try:
            HfApi().request_space_hardware(repo_id, hardware)
        except Exception as error:  # the client's many, and those of what it is made of
            raise StoreError(
                f"{repo_id} is deployed, but not on {hardware} ({reason(error)}): choose the hardware in its settings"
            ) from error


def build(folder: Path, chosen: Mapping[str, str] | None = None, hardware: str | None = None) -> None:
    """Write the files of the Space into an existing folder.

    chosen    versions to take in place of the installed ones, by name
    hardware  what the README suggests to those who copy the Space; None leaves it
    """
    for name in ("app.py", "LICENSE", "spaces_config/packages.txt"):
        shutil.copyfile(ROOT / name, folder / Path(name).name)
    for path in sorted((ROOT / "anomalyhub").rglob("*")):
        inner = path.relative_to(ROOT)
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in inner.parts):
            (folder / inner).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / inner)
    lines = [f"{name}=={version}" for name, version in sorted(pinned(chosen or {}).items())]
    (folder / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    readme = (ROOT / "spaces_config/README.md").read_text(encoding="utf-8")
    values = {
        "sdk_version": metadata.version("gradio"),
        "python_version": f'"{sys.version_info[0]}.{sys.version_info[1]}"',
    }
    for key, value in (values | ({"suggested_hardware": hardware} if hardware else {})).items():
        readme = re.sub(rf"(?m)^{key}: .*$", f"{key}: {value}", readme, count=1)
    (folder / "README.md").write_text(readme, encoding="utf-8")


def pinned(chosen: Mapping[str, str]) -> dict[str, str]:
    """Versions of what requirements.txt names and of all that it needs, as installed. Raises InvalidArgumentError."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [(Requirement(line), {""}) for line in lines if line.strip() and not line.startswith("#")]
    versions: dict[str, str] = {}
    seen: set[str] = set()
    while wanted:
        requirement, extras = wanted.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        name = canonicalize_name(requirement.name)
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError as error:
            raise InvalidArgumentError(f"{name} is not installed here: run make setup, then deploy again") from error
        versions[name] = Version(installed.version).public  # without the +cu130 of a build
        if name not in _WHOLE:
            wanted += [(Requirement(text), {"", *requirement.extras}) for text in installed.requires or ()]
    unknown = sorted(set(chosen) - set(versions))
    if unknown:
        raise InvalidArgumentError(f"--pin {unknown[0]} is nothing that AnomalyHub needs: see requirements.txt")
    return versions | chosen


def _pin(text: str) -> tuple[str, str]:
    try:
        requirement = Requirement(text)
        (version,) = requirement.specifier
        if version.operator == "==":
            return canonicalize_name(requirement.name), str(Version(version.version))
    except (InvalidRequirement, ValueError):
        pass
    raise InvalidArgumentError(f"--pin takes NAME==VERSION, got {text!r}: write torch==2.9.1, for example")


if __name__ == "__main__":
    sys.exit(main())
