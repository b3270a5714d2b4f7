"""anomalyhub.hub.front_matter: what a card says of itself, when it is a stranger's."""

from __future__ import annotations

import time

import pytest

from anomalyhub.hub.front_matter import read_front_matter


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\ntags: [a, b]\nlicense: mit\n---\n# Title\n", {"tags": ["a", "b"], "license": "mit"}),
        ("---\r\na: 1\r\n---\r\ntext", {"a": 1}),  # as Windows writes it
        ("\n---\na: ä\n---", {"a": "ä"}),  # a line before, none after
        ("---\na: 1\n--- \nb: 2\n---\n", {"a": 1}),
        ("# Title\n---\na: 1\n---\n", {}),  # not at the head
        ("---\na: 1\n", {}),  # no end
        ("---\n- 1\n---\n", {}),
        ("---\n\n---\n", {}),
        ("", {}),
        ("---\n\t: : [\n---\n", {}),
        ("---\na: !!bool maybe\n---\n", {}),  # PyYAML's KeyError
        ("---\na: !!int ''\n---\n", {}),  # its IndexError
        ("---\na: 2001-99-99\n---\n", {}),  # its ValueError
        ("---\n? [a]\n: b\n---\n", {}),
        ("---\na: !!python/object/apply:os.system [ls]\n---\n", {}),
        ("---\na: &a [x]\nb: [*a, *a]\n---\n", {}),  # references are not followed
        ("---\na: &a 1\n---\n", {"a": 1}),
        ("---\na: " + "[" * 20_000 + "\n---\n", {}),
        ("---\na: " + "x" * 300_000 + "\n---\n", {}),
    ],
)
def test_table(text, expected):
    assert read_front_matter(text) == expected


@pytest.mark.parametrize("line", ["b{n}: &b{n} [{nine}]\n", "b{n}: &b{n} {{<<: [{nine}]}}\n"])
def test_bombs_of_references(line):
    lines = ["---\nb0: &b0 {x: 1}\n"]
    lines += [line.format(n=n, nine=", ".join([f"*b{n - 1}"] * 9)) for n in range(1, 40)]
    begin = time.monotonic()
    assert read_front_matter("".join([*lines, "---\n"])) == {}
    assert time.monotonic() - begin < 5
