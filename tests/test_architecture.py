"""The rules of the code base that a linter does not know: who may import whom, no pickle, no large files."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "anomalyhub"

# Top to bottom: a module imports from lines below its own and from its own package; those on one line know nothing of
# each other. A new module under anomalyhub/ gets its place here. "anomalyhub" itself is __init__.py, the public names.
LAYERS = (
    ("ui",),
    ("__main__",),
    ("cli",),
    (PACKAGE,),
    ("jobs",),
    ("benchmark",),
    ("pipeline",),
    ("review",),
    ("report",),
    ("detection", "discovery", "classification"),
    ("synthesis",),
    ("nn",),
    ("regions",),
    ("data", "backbones", "metrics", "search"),
    ("hub",),
    ("protocols",),
    ("registry",),
    ("types",),
    ("config", "state", "fsio", "locks"),
    ("errors",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

NO_TORCH = {"ui", "review", "regions"}
NUMPY_ONLY = {"types", "fsio", "errors"}
TORCH = {"torch", "torchvision", "timm", "accelerate"}
PICKLERS = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "torch.load", "torch.jit.load", "torch.hub.load", "pandas.read_pickle"}
DYNAMIC_IMPORTS = {"importlib.import_module", "__import__", "runpy.run_module", "runpy.run_path"}

MAX_FILE_BYTES = 100_000
LARGE_FILES = {"anomalyhub/backbones/embedded.safetensors": 10_000_000}  # weights that the package ships
LEFTOVER = re.compile(r"\b(?:TODO|FIXME|XXX)\b|(?<![\w.])/(?:work|root)/")


@dataclass(frozen=True)
class Module:
    """A module's dotted name, whether it is a package's __init__, and its text."""

    name: str
    is_package: bool
    source: str

    @property
    def layer(self) -> str:
        """The name to look up in RANK: the first part below the package, or the package itself."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else parts[0]


def package_modules(root: Path) -> Iterator[Module]:
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        yield Module(".".join(parts[:-1] if is_package else parts), is_package, path.read_text(encoding="utf-8"))


def from_targets(node: ast.ImportFrom, module: Module) -> Iterator[str]:
    """Dotted names that `from base import a, b` may load: base.a, base.b, with relative bases resolved."""
    base = node.module or ""
    if node.level:
        parents = module.name.split(".")
        parents = parents[: len(parents) - node.level + module.is_package]
        base = ".".join([*parents, base] if base else parents)
    for alias in node.names:
        yield f"{base}.{alias.name}"


def dotted(node: ast.expr, aliases: dict[str, str]) -> str | None:
    """`t.jit.load` -> "torch.jit.load" after `import torch as t`; None for anything but a chain of names."""
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        base = dotted(node.value, aliases)
        return base and f"{base}.{node.attr}"
    return None


def name_aliases(tree: ast.Module, module: Module) -> dict[str, str]:
    """Local name -> what it was imported from, anywhere in the file."""
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom):
            targets = from_targets(node, module)
            aliases |= {a.asname or a.name: target for a, target in zip(node.names, targets, strict=True)}
    return aliases


def import_fault(target: str, module: Module) -> str | None:
    """Why `module` may not import `target`, or None."""
    top, *rest = target.split(".")
    if top != PACKAGE:
        if top == "gradio" and module.layer != "ui":
            return "imports gradio outside ui"
        if top in TORCH and module.layer in NO_TORCH:
            return f"imports {top}, and {module.layer} works without torch"
        if module.layer in NUMPY_ONLY and top != "numpy" and top not in sys.stdlib_module_names:
            return f"imports {top}, and {module.layer} takes numpy and the standard library only"
        return f"imports {top}, which unpickles" if top in PICKLERS else None
    layer = rest[0] if rest and rest[0] in RANK else PACKAGE
    if layer == module.layer or target == f"{PACKAGE}.__version__":
        return None
    if RANK[layer] < RANK[module.layer]:
        return f"imports up: {target}"
    return f"imports sideways: {target}" if RANK[layer] == RANK[module.layer] else None


def call_faults(node: ast.Call, module: Module, aliases: dict[str, str]) -> Iterator[str]:
    """Why this call is refused."""
    name = dotted(node.func, aliases) or ""
    if name in UNSAFE_CALLS or name.endswith(".to_pickle"):
        yield f"calls {name}"
    for keyword in node.keywords:
        if keyword.arg == "allow_pickle" and getattr(keyword.value, "value", None) is not False:
            yield "calls with allow_pickle"
    if name in DYNAMIC_IMPORTS and module.name != PACKAGE:  # __init__.py loads its public names when they are asked for
        target = getattr(node.args[0], "value", None) if node.args else None
        if not isinstance(target, str) or target.startswith("."):
            yield f"calls {name} with a name that cannot be checked"
        elif fault := import_fault(target, module):
            yield fault


def faults(module: Module) -> list[str]:
    """Every broken rule as "module:line: reason", in the order of the lines."""
    if module.layer not in RANK:
        return [f"{module.name}:1: has no place in LAYERS"]
    tree = ast.parse(module.source)
    aliases = name_aliases(tree, module)
    found = []
    for node in ast.walk(tree):
        reasons: list[str | None] = []
        if isinstance(node, ast.Import):
            reasons = [import_fault(alias.name, module) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            reasons = [import_fault(target, module) for target in from_targets(node, module)]
            reasons += [f"imports {target}" for target in from_targets(node, module) if target in UNSAFE_CALLS]
        elif isinstance(node, ast.Call):
            reasons = list(call_faults(node, module, aliases))
        found += [(node.lineno, reason) for reason in reasons if reason]
    return [f"{module.name}:{line}: {reason}" for line, reason in sorted(found)]


def app_faults(source: str) -> list[str]:
    """app.py is a thin door: the standard library and anomalyhub.ui."""
    app = Module("app", False, source)
    tree = ast.parse(source)
    targets = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    targets += [t for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for t in from_targets(node, app)]
    allowed = re.compile(rf"{PACKAGE}\.ui(\.|$)")
    return [t for t in targets if t.split(".")[0] not in sys.stdlib_module_names and not allowed.match(t)]


def leftovers(text: str) -> list[str]:
    """Notes to oneself and paths of one machine, as "line: match"."""
    lines = enumerate(text.splitlines(), start=1)
    return [f"{number}: {match[0]}" for number, line in lines for match in LEFTOVER.finditer(line)]


@pytest.fixture(scope="module")
def repo_files() -> list[Path]:
    """What is committed or would be: git's files without the ignored ones."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git checkout: {error}")
    return [path for name in listing.split("\0") if name and (path := ROOT / name).is_file()]


def test_package_keeps_the_rules():
    modules = list(package_modules(ROOT))
    assert len(modules) > 5
    assert [fault for module in modules for fault in faults(module)] == []


def test_app_imports_only_the_ui():
    assert app_faults((ROOT / "app.py").read_text(encoding="utf-8")) == []


def test_every_package_folder_has_an_init():
    """setuptools leaves a folder without one out of the wheel."""
    folders = {path.parent for path in (ROOT / PACKAGE).rglob("*.py")}
    assert [str(folder.relative_to(ROOT)) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_no_large_files(repo_files):
    sizes = {str(path.relative_to(ROOT)): path.stat().st_size for path in repo_files}
    assert {name: size for name, size in sizes.items() if size > LARGE_FILES.get(name, MAX_FILE_BYTES)} == {}


def test_no_leftovers(repo_files):
    found = []
    for path in set(repo_files) - {Path(__file__).resolve()}:  # which has to spell them
        data = path.read_bytes()
        if b"\0" not in data:
            found += [f"{path.relative_to(ROOT)}:{hit}" for hit in leftovers(data.decode("utf-8", "replace"))]
    assert sorted(found) == []


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("pipeline", "from anomalyhub.cli import main", "imports up"),
        ("data.images", "def f():\n    from anomalyhub import detection", "imports up"),  # inside a function
        ("cli", "import anomalyhub.ui.app", "imports up"),  # demo starts it as a process of its own
        ("metrics", "from ..search import y", "imports sideways"),
        ("detection.patchcore", "from ..discovery.model import Net", "imports sideways"),  # relative
        ("search", "from .. import data", "imports sideways"),
        ("regions.crop", "from anomalyhub import Inspector", "imports up: anomalyhub.Inspector"),  # the public names
        ("errors", "from anomalyhub.types import Sample", "imports up"),
        ("types", "import scipy", "numpy and the standard library only"),
        ("errors", "import cv2", "numpy and the standard library only"),
        ("report.plots", "import gradio as gr", "gradio outside ui"),
        ("ui.detect_tab", "import torch.nn as nn", "works without torch"),
        ("regions.crop", "from torch import nn", "works without torch"),
        ("ui.detect_tab", "import timm", "works without torch"),
        ("nn", "import pickle", "unpickles"),
        ("nn", "from joblib import load", "unpickles"),
        ("nn", "import torch as t\nt.load('x')", "calls torch.load"),
        ("nn", "from torch import load", "imports torch.load"),
        ("nn", "import numpy as np\nnp.load('x', allow_pickle=True)", "allow_pickle"),
        ("jobs", "eval('1 + 1')", "calls eval"),
        ("jobs", "exec('x = 1')", "calls exec"),
        ("data", "import importlib\nimportlib.import_module('anomalyhub.ui')", "imports up"),
        ("data", "from importlib import import_module as load\nload('anomalyhub.ui')", "imports up"),
        ("data", "import importlib\nimportlib.import_module(name)", "cannot be checked"),
        ("data", "__import__('.ui', globals())", "cannot be checked"),
        ("wizard", "import os", "no place in LAYERS"),
    ],
)
def test_checker_finds_a_planted_fault(name, source, expected):
    found = faults(Module(f"{PACKAGE}.{name}", "." not in name, source))
    assert len(found) == 1 and expected in found[0], found


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("ui.app", "import gradio\nfrom anomalyhub.pipeline import Inspector\nfrom . import theme"),
        ("detection.patchcore", "import torch\nfrom ..search import k_center_greedy\nfrom .base import Base"),
        ("types", "import numpy as np\nfrom anomalyhub.errors import InvalidArgumentError"),
        ("nn.heads", "import torch\nmodel.eval()\nnp.load(path, allow_pickle=False)\nsafetensors.load(path)"),
        ("hub", "from anomalyhub import __version__, state"),
        ("search", "import importlib\nimportlib.import_module('faiss')"),
    ],
)
def test_checker_accepts(name, source):
    assert faults(Module(f"{PACKAGE}.{name}", "." not in name, source)) == []


def test_public_names_may_load_lazily_but_not_from_the_command_line():
    facade = "import importlib\nfrom anomalyhub.pipeline import x\nimportlib.import_module(name)"
    assert faults(Module(PACKAGE, True, facade)) == []
    assert faults(Module(PACKAGE, True, "from .cli import main")) == [f"{PACKAGE}:1: imports up: anomalyhub.cli.main"]


def test_app_checker_finds_a_planted_fault():
    source = "import os\nfrom anomalyhub.ui import build_app\nimport gradio\nfrom anomalyhub import cli, ui"
    assert app_faults(source) == ["gradio", "anomalyhub.cli"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a note # TODO: later", ["1: TODO"]),
        ("fine\npath = '/work/shared/data'", ["2: /work/"]),
        ("/root/.cache # FIXME", ["1: /root/", "1: FIXME"]),
        ("https://example.org/work/page, network/root", []),
        ("XXXL and meTODOs", []),
    ],
)
def test_leftovers(text, found):
    assert leftovers(text) == found
