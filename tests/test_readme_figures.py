"""Every measured figure of the README comes from eval/results, as eval/summary.py and eval/table.py print it.

Tables: each row is one that a script prints under the same head. Sentences: each figure is, rounded, one of the results
of the scripts that are named there. That both would notice a changed digit is tested by changing digits.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from anomalyhub.benchmark.published import load_published
from anomalyhub.benchmark.records import METRICS, UNITS
from anomalyhub.benchmark.table import HEADLINE, load, rendered

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "eval" / "results"
COMMAND = re.compile(r"`[^`\n]*\beval/(\w+)\.py(?: --config (?:eval/configs/)?([\w-]+)(?:\.yaml)?)?[^`\n]*`")
FOLDER = re.compile(r"\beval/results/([\w/-]*\w)(?![\w./])")
#: A figure of a sentence: a decimal, or a number with a unit; then what it counts.
FIGURE = re.compile(r"(?<![\w.,-])(\d{1,3}(?:,\d{3})+|\d*\.\d+|\d+)(?![\d.]*\d)\s?(%|ms\b|s\b|GiB\b|times\b|points\b)?")
#: Of rows of the literature: three or more figures in a line.
SERIES = re.compile(r"(?<![\w.])(\d*\.\d+(?: / \d*\.\d+){2,})")
#: What sentences with figures say that no script measures: settings, conventions, and sums that anybody can do.
SETTINGS = (
    r"10 % coreset, 1 GiB",
    r"tests? at half|40 % right",
    r"one false alarm is 0\.5 % on MTD and 3 % on leather",  # of 191 and 32 good images
    r"rate up to 0\.3|up to 30 %",
    r"version \d+\.\d+",
)
#: Paragraphs whose figures no file in eval/results holds yet, by their first words; one that is mended goes from here.
UNRECORDED = ("Fitted on a random half of MTD's test images",)
#: Lists of more numbers than this are raw material of a result, not a figure.
MANY = 12


@dataclass
class Block:
    """A paragraph, table or heading of the README, with the results of the scripts that it names."""

    kind: str
    text: str
    section: str
    files: tuple[str, ...] = field(default_factory=tuple)


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(markdown: str) -> list[Block]:
    found, section = [], ""
    fenced = re.sub(r"^( *)(`{3,}|~{3,}).*?^\1\2.*?$", "", markdown, flags=re.M | re.S)
    for text in re.split(r"\n\s*\n", fenced):
        text = text.strip("\n")
        if not text.strip():
            continue
        kind = "code" if text.startswith("    ") else "table" if text.lstrip().startswith("|") else "prose"
        if text.startswith("#"):
            kind, section = "heading", text.lstrip("# ")
        files = [match[2] or match[1].removeprefix("bench_") for match in COMMAND.finditer(text)]
        files += [name for code in re.findall(r"`([^`\n]*)`", text) for name in FOLDER.findall(code)]
        found.append(Block(kind, text, section, tuple(dict.fromkeys(files))))
    return found


def sections_of_results(found: list[Block]) -> set[str]:
    """Sections that name a script of eval/ and have a table."""
    tables = {block.section for block in found if block.kind == "table"}
    return {block.section for block in found if block.files} & tables


def rows_of(table: str) -> tuple[str, list[str]]:
    """Head and lines, without what only makes them pretty."""
    lines = [_plain(line) for line in table.splitlines()]
    return lines[0], [line for line in lines[1:] if not re.fullmatch(r"[| :-]+", line)]


def _plain(line: str) -> str:
    return " | ".join(cell.strip() for cell in line.strip().strip("|").split("|"))


@cache
def printed() -> tuple[str, ...]:
    """What the scripts print of all results."""
    sys.path.insert(0, str(ROOT / "eval"))
    try:
        import summary

        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            summary.main()
    finally:
        sys.path.remove(str(ROOT / "eval"))
    texts = [text.getvalue()]
    for run in run_folders():
        for metrics in (HEADLINE, METRICS):
            texts += [rendered(load([run]), metrics=metrics, decimals=decimals) for decimals in (1, 2)]
    return tuple(texts)


def run_folders() -> list[Path]:
    return sorted({path.parent for path in RESULTS.rglob(UNITS) if path.is_dir()})


@cache
def printed_tables() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for text in printed():
        for block in blocks(text):
            if block.kind == "table":
                head, lines = rows_of(block.text)
                found.setdefault(head, set()).update(lines)
    return found


def wrong_rows(table: str) -> list[str]:
    """Rows of a table that no script prints under its head."""
    head, lines = rows_of(table)
    known = printed_tables().get(head)
    return [f"no script prints a table with the head {head}"] if known is None else [x for x in lines if x not in known]


@cache
def numbers(name: str) -> tuple[float, ...]:
    """The figures of a result: of eval/results/NAME.json, or of the records in eval/results/NAME/."""
    path = RESULTS / f"{name}.json"
    if path.exists():
        return tuple(_numbers(json.loads(path.read_text(encoding="utf-8"))["result"]))
    rows = load([RESULTS / name]) if (RESULTS / name).is_dir() else []
    values = [value for row in rows for table in row.products.values() for value in table.values()]
    return tuple(x for value in values for x in (value.mean, value.std) if x is not None)


def _numbers(value) -> Iterator[float]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _numbers(item)
    elif isinstance(value, list) and len(value) <= MANY:
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield float(value)


def is_one_of(text: str, unit: str, values: tuple[float, ...]) -> bool:
    """Whether a figure is one of the values, rounded to its digits, in its unit."""
    digits = len(text.partition(".")[2])
    written = float(text.replace(",", ""))
    factors = {"%": (1, 100), "points": (1, 100), "ms": (1, 1000)}.get(unit, (1,))
    return any(f"{factor * value:.{digits}f}" == f"{written:.{digits}f}" for value in values for factor in factors)


def is_printed_series(text: str) -> bool:
    """Whether figures in a line are those of one published row, by metric or by number of shots."""
    wanted = [part.strip() for part in text.split("/")]
    digits = len(wanted[0].partition(".")[2])
    factor = 100 if float(wanted[0]) > 1 else 1
    rows: dict[tuple, list] = {}
    for one in load_published():
        rows.setdefault((*one.key[:6], "by metric", one.shots), []).append((0, one))
        rows.setdefault((*one.key[:6], "by shots", one.metric), []).append((one.shots or 0, one))
    for row in rows.values():
        values = [one.value for _, one in sorted(row, key=lambda pair: pair[0])]
        if [f"{factor * value:.{digits}f}" for value in values] == [f"{float(x):.{digits}f}" for x in wanted]:
            return True
    return False


def sources(found: list[Block], number: int) -> tuple[str, ...]:
    """The results that a paragraph is about: of the scripts it names, else of the last named before and the next."""
    if found[number].files:
        return found[number].files
    same = [at for at, block in enumerate(found) if block.section == found[number].section and block.files]
    before, after = [at for at in same if at < number][-1:], [at for at in same if at > number][:1]
    return tuple(name for at in (*before, *after) for name in found[at].files)


def wrong_figures(text: str, files: tuple[str, ...]) -> list[str]:
    """Figures of a paragraph that are in none of these results, in no published row, and no setting."""
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", " ", text)
    for setting in SETTINGS:
        text = re.sub(setting, " ", text)
    values = tuple(value for name in files for value in numbers(name))
    wrong = []
    for series in SERIES.findall(text):
        parts = series.split(" / ")
        if is_printed_series(series):
            text = text.replace(series, " ", 1)
        elif not is_consecutive(parts, files):
            wrong.append(series)
            text = text.replace(series, " ", 1)
    for match in FIGURE.finditer(text):
        written, unit = match[1], match[2] or ""
        if ("." in written or unit) and not is_one_of(written, unit, values):
            wrong.append(match[0].strip())
    return wrong


def is_consecutive(parts: list[str], files: tuple[str, ...]) -> bool:
    """Whether some result has these figures one after the other, or as nmi, ari and f1."""
    for name in files:
        values = numbers(name)
        for start in range(len(values) - len(parts) + 1):
            if all(is_one_of(part, "", (value,)) for part, value in zip(parts, values[start:], strict=False)):
                return True
    return False


def test_the_readme_has_figures():
    found = blocks(readme())
    assert sections_of_results(found)
    assert len([block for block in measured_tables(found)]) >= 3


def measured_tables(found: list[Block]) -> list[Block]:
    sections = sections_of_results(found)
    return [block for block in found if block.kind == "table" and block.section in sections]


def test_tables_are_what_the_scripts_print():
    wrong = {block.text.splitlines()[0]: wrong_rows(block.text) for block in measured_tables(blocks(readme()))}
    assert {head: rows for head, rows in wrong.items() if rows} == {}


def test_no_other_section_has_a_table_of_measurements():
    """A table elsewhere, such as that of what there is, has no decimals."""
    found = blocks(readme())
    others = [block for block in found if block.kind == "table" and block.section not in sections_of_results(found)]
    assert [block.text for block in others if re.search(r"\d\.\d", block.text)] == []


def test_figures_in_sentences_are_results():
    found = blocks(readme())
    wrong = {}
    for number, block in enumerate(found):
        if block.kind == "prose" and (block.files or block.section in sections_of_results(found)):
            if bad := wrong_figures(block.text, sources(found, number)):
                first = next((words for words in UNRECORDED if block.text.startswith(words)), block.text[:60])
                wrong[first] = bad
    assert {first: bad for first, bad in wrong.items() if first not in UNRECORDED} == {}
    assert set(UNRECORDED) <= set(wrong), "recorded by now: take it from the list"


def test_every_table_has_a_command():
    """In its own rows, or in the text before it, back to the table or heading before."""
    found = blocks(readme())
    without = []
    for number, block in enumerate(found):
        if block in measured_tables(found) and not block.files:
            before = number - 1
            while found[before].kind == "prose" and not found[before].files:
                before -= 1
            if not found[before].files:
                without.append(block.text.splitlines()[0])
    assert without == []


def test_named_commands_gave_the_results():
    """The script is there, and its result, which names the command; or the config, or the folder of its run."""
    for name in {name for block in blocks(readme()) for name in block.files} - {"summary", "table", "run", "bench"}:
        path = RESULTS / f"{name}.json"
        if path.exists():
            command = json.loads(path.read_text(encoding="utf-8"))["command"]
            assert f"eval/bench_{name}.py" in command and (ROOT / "eval" / f"bench_{name}.py").is_file()
        else:
            assert (RESULTS / name).is_dir() or (ROOT / "eval" / "configs" / f"{name}.yaml").is_file(), name


def digits_changed(text: str) -> Iterator[str]:
    """The text with one digit of one figure with decimals changed, for each such figure."""
    for match in re.finditer(r"\d*\.\d+", text):
        at = match.end() - 1
        yield text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]


def test_a_changed_digit_in_a_table_is_found():
    for block in measured_tables(blocks(readme())):
        changed = list(digits_changed(block.text))
        assert all(wrong_rows(text) for text in changed), block.text.splitlines()[0]
        swapped = re.sub(r"(\d\.\d)(\d)(\d)", r"\1\3\2", block.text)
        assert swapped == block.text or wrong_rows(swapped)


def test_most_changed_digits_in_sentences_are_found():
    found = blocks(readme())
    caught = total = 0
    for number, block in enumerate(found):
        if block.kind == "prose" and block.section in sections_of_results(found):
            if block.text.startswith(UNRECORDED):
                continue
            for text in digits_changed(re.sub(r"`[^`]*`", " ", block.text)):
                total += 1
                caught += bool(wrong_figures(text, sources(found, number)))
    assert total == 0 or caught / total > 0.5, f"{caught} of {total}"


PAGE = """# Title

## Elsewhere

| what | there |
|---|---|
| nothing | 3 |

## Measured

Some text, `python eval/bench_musc.py`. It takes 0.5 s, and 12 % of it `0.77`.

| data | value |
|---|---|
| a | 0.1 |

More text. `accelerate launch eval/run.py --config eval/configs/quick.yaml --out quick`
"""


def test_blocks():
    found = blocks(PAGE)
    assert [block.kind for block in found] == ["heading", "heading", "table", "heading", "prose", "table", "prose"]
    assert found[4].files == ("musc",) and found[6].files == ("quick",)
    assert sections_of_results(found) == {"Measured"} and measured_tables(found) == [found[5]]
    assert sources(found, 5) == ("musc", "quick")


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("0.804", (0.80371,), True),
        (".804", (0.80371,), True),
        ("0.805", (0.80371,), False),
        ("80.4", (0.80371,), False),
        ("7", (6.7,), True),
        ("1,872", (1871.6,), True),
    ],
)
def test_rounding(text, values, expected):
    assert is_one_of(text, "", values) is expected


def test_units():
    assert is_one_of("48", "%", (0.479,)) and is_one_of("147", "ms", (0.1468,)) and not is_one_of("147", "s", (0.1468,))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (".380 / .390 / .617", True),  # PatchCore+AnomalyNCD on MTD
        (".380 / .391 / .617", False),
        ("27.9 / 37.2 / 39.9 / 41.1 / 44.0", True),  # the contrastive classifier, 1 to 5 shots
        ("37.2 / 39.9 / 41.1 / 44.0 / 27.9", False),  # in another order
    ],
)
def test_published_series(text, expected):
    assert is_printed_series(text) is expected


def test_wrong_figures_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "RESULTS", tmp_path)
    (tmp_path / "made_up.json").write_text(
        json.dumps({"result": {"auroc": 0.8037, "seconds": 0.147, "raw": [0.5] * 99}})
    )
    files = ("made_up",)
    assert wrong_figures("an AUROC of 0.804 in 147 ms, 10 % coreset, 1 GiB budget, 100 images, `0.3`", files) == []
    assert wrong_figures("an AUROC of 0.814 in 148 ms, 0.50", files) == ["0.814", "148 ms", "0.50"]
