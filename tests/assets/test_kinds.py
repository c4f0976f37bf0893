"""Each kind of asset: comments and layout cost nothing, constants can be set, and a fault names its line."""

import os
from dataclasses import dataclass, field

import pytest

from autoresearch_jax.assets.base import AssetSyntaxError, ConstantError
from autoresearch_jax.assets.kinds import TRAINING_FILE, guessed_kind, kind_of, kind_words, stored_kind
from autoresearch_jax.assets.merging import is_same_apart_from, merge_texts, moved_constants, rebase_text
from autoresearch_jax.edits import Edit, EditError, apply_edits
from autoresearch_jax.engine.git import Git
from autoresearch_jax.errors import UsageError
from autoresearch_jax.types import Scalar


@dataclass(frozen=True)
class Case:
    """A text of one kind.

    Attributes:
      same: another text that says the same.
      other: one that says something else, and is larger.
      constants: what can be set in the text.
      values: new ones.
      replaced: what of the text is other with them.
      faults: texts that do not parse, each with the line that is to be named.
      pattern: of constants.
    """

    file: str
    text: str
    same: str
    other: str
    constants: dict[str, Scalar]
    values: dict[str, Scalar]
    replaced: tuple[tuple[str, str], ...]
    faults: dict[str, int | None] = field(default_factory=dict)
    pattern: str | None = None

    @property
    def expected(self) -> str:
        text = self.text
        for old, new in self.replaced:
            assert text.count(old) == 1
            text = text.replace(old, new)
        return text


CASES = [
    Case(
        "train.py",
        '"""A file."""\nLR = 0.5  # step size\nDEPTH = 4\n\n\ndef f(x):\n    return x + 1\n',
        '"""A file."""\nLR = (0.5)\nDEPTH = 4\ndef f(x): return x + 1\n',
        "LR = 0.5\nDEPTH = 4\n\n\ndef f(x):\n    return x + 1 + 2 * x\n",
        {"LR": 0.5, "DEPTH": 4},
        {"LR": 1e-05, "DEPTH": 6},
        (("0.5 ", "1e-05 "), ("= 4", "= 6")),
        {"LR = 1\nDEPTH = = 2\n": 2, "x = '\0'": None},
    ),
    Case(
        "settings.toml",
        '# of the search\ntitle = "a"\n\n[model]  # what it is\nlr   = 3e-4   # step size\ndeep.er = true\n'
        "sizes = [1, 2]\nhead = { width = 3, name = 'q' }\n",
        "title = 'a'\n[model.head]\nname = 'q'\nwidth = 3\n[model]\nsizes=[1,2]\nlr = 0.0003\ndeep = {er = true}\n",
        'title = "a"\n[model]\nlr = 3e-4\ndeep.er = true\nsizes = [1, 2, 3]\nhead = { width = 3, name = "q" }\n',
        {"title": "a", "model.lr": 0.0003, "model.deep.er": True, "model.head.width": 3, "model.head.name": "q"},
        {"title": 'b"', "model.lr": 1e-05, "model.deep.er": False, "model.head.width": 4},
        (('"a"', '"b\\""'), ("3e-4 ", "1e-05 "), ("true", "false"), ("width = 3", "width = 4")),
        {"a = 1\nb = \n": 2, "a = 1\na = 2\n": 2, 'a = 1\nb = "x': 2},
    ),
    Case(
        "settings.yaml",
        "# of the search\nmodel:   # what it is\n  lr: 3.0e-4   # step size\n  name: 'q'\n  word: abc\n  nothing:\n"
        "  flow: {p: 1, q: two}\n  kept: &k 5\n  again: *k\n  prompt: |\n    two\n    lines\n  list: [1, 2]\n",
        'model: {name: q, lr: 0.0003, "word": abc, nothing: null, flow: {q: two, p: 1}, kept: 5, again: 5,\n'
        '  prompt: "two\\nlines\\n", list: [1, 2]}\n',
        "model:\n  lr: 3.0e-4\n  name: 'q'\n  word: abc\n  nothing:\n  flow: {p: 1, q: two}\n  kept: 5\n  again: 5\n"
        "  prompt: |\n    two\n    more lines\n  list: [1, 2]\n",
        {
            "model.lr": 0.0003,
            "model.name": "q",
            "model.word": "abc",
            "model.nothing": None,
            "model.flow.p": 1,
            "model.flow.q": "two",
        },
        {"model.lr": 1e-05, "model.name": "it's", "model.word": "yes", "model.nothing": 3, "model.flow.q": "x, y"},
        (
            *(("3.0e-4", "1.0e-05"), ("'q'", '"it\'s"'), ("abc", '"yes"'), ("nothing:", "nothing: 3")),
            ("two}", '"x, y"}'),
        ),
        {"a: 1\n b: 2\n": 2, "a: 1\nb: *gone\n": 2, "a: 1\nb: \x01\n": 2, "a: 1\n---\nb: 2\n": 2},
    ),
    Case(
        "settings.json",
        '{"model": {"lr": 3e-4,\n   "sizes": [1, {"x": 2}], "on": true,\n "name": "a\\"b", "none": null},\n'
        ' "twice": 1, "twice": 2}',
        '{"twice": 2, "model": {"none": null, "name": "a\\u0022b", "on": true, "sizes": [1, {"x": 2}],\n'
        ' "lr": 0.0003}}\n',
        '{"model": {"lr": 3e-4, "sizes": [1, {"x": 2}, 7], "on": true, "name": "a\\"b", "none": null}, "twice": 2}',
        {"model.lr": 0.0003, "model.on": True, "model.name": 'a"b', "model.none": None},
        {"model.lr": 0.1, "model.on": False, "model.name": "é", "model.none": 1},
        (("3e-4", "0.1"), ("true", "false"), ('"a\\"b"', '"é"'), ("null", "1")),
        {'{"a": 1,\n "b": }': 2, "": 1},
    ),
    Case(
        "queries.sql",
        "-- WORKERS = 4\nSET work_mem = '64MB';  -- more\nSET random_page_cost TO 1.1;\n/* by name */\n"
        "CREATE INDEX i ON t USING gin (a gin_ops) INCLUDE (b);\nCREATE STATISTICS s ON a, b FROM t;\n"
        "SELECT a, 'it''s -- a' FROM t\nWHERE b = %(b)s;\n",
        "set work_mem = '64MB';\nset random_page_cost to 1.1;\n -- WORKERS = 4\n"
        "create index i on t using gin (a gin_ops) include (b);create statistics s on a, b from t;\n"
        "select a, 'it''s -- a' from t where b = %(b)s",
        "-- WORKERS = 4\nSET work_mem = '64MB';\nSET random_page_cost TO 1.1;\n"
        "CREATE INDEX i ON t USING gin (a gin_ops) INCLUDE (b);\nCREATE STATISTICS s ON a, b FROM t;\n"
        "SELECT a, 'it''s -- a' FROM t\nWHERE b = %(b)s AND a > 3;\n",
        {"WORKERS": 4, "work_mem": "64MB", "random_page_cost": 1.1},
        {"WORKERS": 8, "work_mem": "128MB", "random_page_cost": 2.0},
        (("WORKERS = 4", "WORKERS = 8"), ("64MB", "128MB"), ("1.1", "2.0")),
        {"SELECT 1;\nSELECT (2;\n": 2, "SELECT 1;\nSELECT 'a;\n": 2},
    ),
    Case(
        "page.html",
        "<!doctype html>\n<html><body><!-- gone --><p class=x id=y>Hello <b>a</b> <i>b</i>\n<style>\n:root {\n"
        "  --gap: 12px;\n}\n</style></body></html>\n",
        '<!DOCTYPE html><html>\n  <body>\n    <p id="y"\n class="x">Hello  <b>a</b>\n<i>b</i>'
        "<style>:root {\n  --gap: 12px;\n}</style>\n</body></html>",
        "<!doctype html><html><body><p class=x id=y>Hello <b>a</b><i>b</i> and c"
        "<style>:root {\n  --gap: 12px;\n}</style></body></html>",
        {"gap": 12},
        {"gap": 3.5},
        (("12px", "3.5px"),),
        {"<div>\n<span>\n</div>": 2, "<p>\n</b>": 2},
        r"--(?P<name>[\w-]+):[ \t]*(?P<value>[\d.]+)",
    ),
    Case(
        "prompt.txt",
        'Answer in one word.\n\nTEMPERATURE = 0.5\nSTYLE = "short"\n',
        'Answer in one word.\n\nTEMPERATURE = 0.5\nSTYLE = "short"',
        'Answer in one short word.\nTEMPERATURE = 0.5\nSTYLE = "short"\n',
        {"TEMPERATURE": 0.5, "STYLE": "short"},
        {"TEMPERATURE": 1, "STYLE": "long"},
        (("0.5", "1"), ("short", "long")),
        {},
        r"^(?P<name>[A-Z]+) = (?P<value>.+)$",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.file)
def test_kinds(case: Case, tmp_path) -> None:
    kind = kind_of(case.file, constants_pattern=case.pattern)
    assert (
        kind_of("x", declared=kind.name, constants_pattern=case.pattern)
        == kind
        == stored_kind({"a": kind_words(kind)}, "a")
    )
    # Comments and layout cost nothing.
    kind.check(case.text)
    assert kind.canonical(case.text) == kind.canonical(case.same)
    assert kind.size(case.text) == kind.size(case.same)
    assert kind.canonical(case.text) != kind.canonical(case.other)
    assert kind.size(case.text) < kind.size(case.other)
    # Constants are set in their places, and read back.
    assert kind.settable(case.text) == case.constants
    assert case.constants.items() <= kind.constants(case.text).items()
    changed = kind.set_constants(case.text, case.values)
    assert changed == case.expected
    assert kind.settable(changed) == case.constants | case.values
    assert kind.set_constants(case.text, case.constants) == case.text, "nothing to set"
    assert kind.canonical(changed) != kind.canonical(case.text)
    assert moved_constants(kind, case.text, changed) == {name: case.constants[name] for name in case.values}
    assert is_same_apart_from(kind, case.text, changed, case.values)
    assert not is_same_apart_from(kind, case.text, changed, list(case.values)[1:])
    assert kind.size(case.text, case.constants) == kind.size(changed, case.constants), "of listed ones the place counts"
    with pytest.raises(ConstantError, match="GONE"):
        kind.set_constants(case.text, {"GONE": 1})
    # A change is moved to a champion with other constants; one that adds nothing is stale.
    merge = Git(tmp_path, os.environ).merge
    name = next(iter(case.values))
    champion = kind.set_constants(case.text, {name: case.values[name]})
    moved = rebase_text(kind, case.other, case.text, champion, merge)
    assert moved is None or kind.settable(moved)[name] == case.values[name]
    assert rebase_text(kind, champion, case.text, champion, merge) is None, "it adds nothing"
    others = {other: value for other, value in case.values.items() if other != name}
    if others:
        both = merge_texts(kind, case.text, champion, kind.set_constants(case.text, others), others, merge)
        assert both == case.expected
    # A fault names its line.
    for text, line in case.faults.items():
        with pytest.raises(AssetSyntaxError) as caught:
            kind.check(text)
        assert caught.value.line == line
        assert kind.size(text) is None
        with pytest.raises(EditError, match=f"line {line or 1} of the result"):
            apply_edits(case.text, [Edit(case.text, text)] if text else [Edit(case.text, "{")], kind)


# Texts that do not say the same; those of one list differ from each other.
DIFFERENT = [
    ("a.py", ['def f():\n    """Sort."""', 'def f():\n    """Sort them."""']),
    ("a.sql", ["SELECT 1", "SELECT /*+ SeqScan(t) */ 1", "SELECT /*! STRAIGHT_JOIN */ 1", "SELECT --+ SeqScan(t)\n1"]),
    ("a.sql", ["SELECT /*+ A */ 1; SELECT 2", "SELECT 1; SELECT /*+ A */ 2"]),
    ("a.html", ["<p>a</p>", "<p>a<?php b ?></p>", "<p>a<?php c ?></p>", "<p>a<!--[if b]>c<![endif]--></p>"]),
    ("a.html", ["<p>a</p>", "<p>a<!--#include b--></p>", "<p>a<![CDATA[b]]></p>"]),
    ("a.html", ["<div></div>a", "<div/>a"]),
    ("a.html", ["<p x=1 x=2>a</p>", "<p x=2 x=1>a</p>", "<p x x=1>a</p>"]),
    ("a.html", [f"<pre>a{blank}b</pre>" for blank in ("\n", "\n\n", " \n", "  ")]),
    ("a.html", ["<script>a = `b\nc`</script>", "<script>a = `b\n\nc`</script>"]),
    ("a.html", ["<x-a>1</x-a> <x-a>2</x-a>", "<x-a>1</x-a><x-a>2</x-a>"]),
    ("a.yaml", ["!!pairs [a: 1]", "[[a, 1]]", "[a: 1]", "!!set {a, b}", "{a: null, b: null}"]),
    ("a.yaml", ["!x 1", "['!x', '1']", "!y 1"]),
    ("a.md", ["a\nb", "a\n\nb", "a  \nb", "a\x0cb"]),
]


@pytest.mark.parametrize(("file", "texts"), DIFFERENT)
def test_what_says_something_else_is_another_program(file: str, texts: list[str]) -> None:
    assert len({kind_of(file).canonical(text) for text in texts}) == len(texts)


def test_what_says_nothing_is_the_same_program() -> None:
    assert len({kind_of("a.sql").canonical(text) for text in ("SELECT 1", "SELECT /* SeqScan(t) */ 1")}) == 1
    assert len({kind_of("a.html").canonical(text) for text in ("<pre>a</pre>", "<pre>\na</pre><!-- b -->")}) == 1
    texts = ('"""A file."""', '"""A training file."""')
    assert len({TRAINING_FILE.canonical(text) for text in texts}) == 1
    assert stored_kind({"a": kind_words(TRAINING_FILE)}, "a") == TRAINING_FILE


def test_what_no_kind_can_be_made_of() -> None:
    assert kind_of("notes") == kind_of("a.css") == kind_of("x.sql", declared="text")
    assert (kind_of("a.PY").name, kind_of("a.yml").name, kind_of("a.htm").name) == ("python", "yaml", "html")
    assert stored_kind({}, "asset") == TRAINING_FILE
    assert (guessed_kind("x = 1").name, guessed_kind("SELECT 1;").name) == ("python", "text")
    for arguments, why in (
        (("a.py", "perl"), "no kind 'perl'"),
        (("a.toml", None, "x"), "leave the pattern"),
        (("a.sql", None, "(?P<name>x"), "is no regular expression"),
        (("a.sql", None, "(?P<name>x)"), r"no group \(\?P<value>"),
    ):
        with pytest.raises(UsageError, match=why):
            kind_of(*arguments)


def test_values_that_a_format_has_no_words_for() -> None:
    for file, text, name, value in (
        ("a.toml", "x = 1\n", "x", None),
        ("a.json", '{"x": 1}', "x", float("nan")),
        ("a.sql", "SET x = 1;\n", "x", "a b"),
    ):
        with pytest.raises(ConstantError, match=name):
            kind_of(file).set_constants(text, {name: value})


def test_aliases_cannot_stand_for_more_than_memory_holds() -> None:
    bomb = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    pairs = f"x: !!pairs [k: {{{', '.join(bomb.splitlines())}}}]"
    characters = f"a: &a {'x' * 30000}\nb: [{'*a, ' * 9000}]"
    for text in (bomb, pairs, characters, "a: &a [*a]\n", "[" * 5000, f"a: 0x{'f' * 5000}"):
        with pytest.raises(AssetSyntaxError):
            kind_of("a.yaml").constants(text)
