"""What the documents show exists: commands parse, links lead somewhere, figures come from a file."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer

from anomalyhub.cli import app

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
COMMAND = re.compile(r"^\s*(?:\$ )?(?:\S*/)?(?:python3? -m )?anomalyhub (.+)$")
#: A path of somebody's machine; /path/to and /dev/null are nobody's.
MACHINE = re.compile(r"(?<![\w.:/-])/(?:home|root|Users|work|mnt|tmp|data|opt|usr|var|srv)/|\b[A-Z]:\\")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code_blocks(markdown: str) -> list[str]:
    """Fenced blocks, and blocks indented by four spaces after an empty line."""
    fence = r"^( *)(`{3,}|~{3,})[^\n]*\n(.*?)^\1\2"
    blocks = [block for _, _, block in re.findall(fence, markdown, re.M | re.S)]
    rest = re.sub(fence + r".*?$", "", markdown, flags=re.M | re.S)
    return blocks + re.findall(r"(?:(?<=\n\n)|\A)((?:(?: {4}|\t)[^\n]*\n+)+)", rest)


def commands(markdown: str) -> list[str]:
    """Every `anomalyhub …` line of the code blocks, without what the shell does with it."""
    lines = [line for block in code_blocks(markdown) for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    found = [match[1] for line in lines if (match := COMMAND.match(line))]
    return [re.split(r" +(?:#|\||&&|;|>)", line)[0].strip() for line in found]


def parse(command: str) -> None:
    """Parse the words after `anomalyhub`; raises the parser's exception for a verb or option that does not exist."""
    parser = typer.main.get_command(app)
    words = shlex.split(command)
    with parser.make_context("anomalyhub", list(words)) as context:
        name, verb, rest = parser.resolve_command(context, words)
        if verb is not None and not {"-h", "--help"} & set(rest):
            verb.make_context(name, rest, parent=context)


def links(markdown: str) -> list[str]:
    """Targets of links and images, in Markdown and in HTML, outside of code."""
    prose = re.sub(r"^( *)(`{3,}|~{3,}).*?^\1\2", "", markdown, flags=re.M | re.S)
    prose = re.sub(r"`[^`\n]*`", "", prose)
    found = [a or b for a, b in re.findall(r"\]\(\s*(?:<([^>]+)>|([^)\s]+))", prose)]
    found += re.findall(r"^\s*\[[^\]]+\]:\s*(\S+)", prose, re.M)
    return found + re.findall(r"""(?:href|src)=["']([^"']+)["']""", prose)


def anchors(markdown: str) -> set[str]:
    """Anchors of the headings as GitHub makes them."""
    titles = re.findall(r"^#+ +(.+?) *#*$", markdown, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def missing_links(name: str, markdown: str) -> list[str]:
    missing = []
    for target in links(markdown):
        if re.match(r"[a-z][a-z+.-]*:|//", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = ROOT / (path or name)
        if not file.exists() or not file.resolve().is_relative_to(ROOT):
            missing.append(target)
        elif anchor and file.suffix == ".md" and anchor not in anchors(markdown if not path else text(path)):
            missing.append(target)
    return missing


def unknown_words(markdown: str) -> list[str]:
    """Verbs and options of `anomalyhub …`, and options that stand alone, in inline code, which do not exist."""
    parser = typer.main.get_command(app)
    options = {name: {opt for param in verb.params for opt in param.opts} for name, verb in parser.commands.items()}
    unknown = []
    for code in re.findall(r"`([^`\n]+)`", re.sub(r"^( *)(`{3,}|~{3,}).*?^\1\2", "", markdown, flags=re.M | re.S)):
        words = code.split()
        if words[0] == "anomalyhub" and len(words) > 1 and not words[1].startswith("-"):
            known = options.get(words[1])
            unknown += (
                [words[1]]
                if known is None
                else [w for w in words if w.startswith("--") and w not in {*known, "--help"}]
            )
        elif words[0].startswith("--") and words[0] not in set().union(*options.values(), {"--help", "--version"}):
            unknown.append(words[0])
    return unknown


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_parse(name):
    for command in commands(text(name)):
        try:
            parse(command)
        except Exception as error:  # the parser's, whichever module they come from
            reason = error.format_message() if hasattr(error, "format_message") else error
            pytest.fail(f"{name}: anomalyhub {command}: {reason}")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_verbs_and_options_in_the_text_exist(name):
    """`anomalyhub verb --option` need not be complete within a sentence."""
    assert unknown_words(text(name)) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files(name):
    assert missing_links(name, text(name)) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_path_of_a_machine(name):
    assert [line for line in text(name).splitlines() if MACHINE.search(line)] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_result_files_exist(name):
    """Every figure names its file: eval/results/NAME.json or eval/results/NAME.png, wherever it is written."""
    named = set(re.findall(r"eval/results/[\w./-]*\w", text(name)))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_make_targets_exist(name):
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.M))
    shown = re.findall(r"^\s*(?:\$ )?make ([a-z-]+)", "\n".join(code_blocks(text(name))), re.M)
    shown += re.findall(r"`make ([a-z-]+)", text(name))
    assert set(shown) <= targets


SHOWN = """# Title of it

Text `anomalyhub nothing` stays out.

```sh
$ anomalyhub sample --out sample   # a comment
python -m anomalyhub fit patchcore --data sample \\
    --out model
make demo
```

    .venv/bin/anomalyhub predict model --data sample --out results | head -1

[a](Makefile) [b](nowhere.md) [c](https://example.org/x) [d](#title-of-it) [e](#no-such) ![f](<no picture.png>)
"""


def test_commands_are_found():
    assert commands(SHOWN) == [
        "sample --out sample",
        "fit patchcore --data sample --out model",
        "predict model --data sample --out results",
    ]


def test_unknown_words_are_found():
    markdown = (
        "`anomalyhub fit --data x`, `anomalyhub fitt`, `anomalyhub fit --speed 3`, `--out`, `--outt X`, `ruff --fix`"
    )
    assert unknown_words(markdown) == ["fitt", "--speed", "--outt"]


def test_broken_links_are_found():
    assert missing_links("README.md", SHOWN) == ["nowhere.md", "#no-such", "no picture.png"]


@pytest.mark.parametrize(
    "command",
    [
        "fitt patchcore",  # no such verb
        "fit patchcore --data x",  # --out is missing
        "fit patchcore --data x --out y --speed 3",  # no such option
        "predict model --data x --out y --threshold low",  # not a number
        "predict model more --data x --out y",  # one argument too many
    ],
)
def test_wrong_commands_are_found(command):
    with pytest.raises(Exception) as caught:
        parse(command)
    assert hasattr(caught.value, "format_message")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("see /home/me/x", True),
        ("at `C:\\data`", True),
        ("https://example.org/home/page", False),  # an address
        ("eval/data/x and ./data/x", False),  # relative
        ("PYTHON=/path/to/python3.11 or CHROMIUM=/path", False),  # nobody's
    ],
)
def test_paths_of_a_machine_are_found(line, found):
    assert bool(MACHINE.search(line)) is found
