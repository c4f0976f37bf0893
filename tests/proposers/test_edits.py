"""The edit ladder: what was asked for or a refusal with the reason, never a third text."""

import ast
import re
import time
import tracemalloc

import pytest

from autoresearch_jax.proposers.edit_blocks import parse_blocks
from autoresearch_jax.proposers.edit_places import Reason, Rung
from autoresearch_jax.proposers.edits import MAX_CHARACTERS, MAX_EDITS, Edit, EditError, apply_edits, replace_file

SOURCE = '''\
"""A model."""

LEARNING_RATE = 0.04
MIN_LEARNING_RATE = 0.001


def forward(weights, tokens):
    """Logits.

    Two  blanks here.
    """
    hidden = weights["embed"][tokens]
    hidden = hidden  @ weights["up"]
    return hidden @ weights["down"]


def backward(weights, tokens):
    hidden = weights["embed"][tokens]
    if hidden.ndim == 3:
        hidden = hidden.mean(0)
    return hidden
'''


def edited(*edits: tuple[str, str], source: str = SOURCE) -> tuple[str, list[Rung]]:
    result = apply_edits(source, [Edit(*edit) for edit in edits])
    return result.source, list(result.rungs)


def problems(*edits: tuple[str, str], source: str = SOURCE) -> list[tuple[int | None, Reason]]:
    return [(problem.edit, problem.reason) for problem in refusal(*edits, source=source).problems]


def refusal(*edits: tuple[str, str], source: str = SOURCE) -> EditError:
    with pytest.raises(EditError) as refused:
        apply_edits(source, [Edit(*edit) for edit in edits])
    return refused.value


# The rungs


def test_a_part_of_a_line_is_replaced_where_it_stands_once_as_whole_words():
    new, rungs = edited(
        ("LEARNING_RATE = 0.001", "LEARNING_RATE = 0.0"), source="MIN_LEARNING_RATE = 0.001\nLEARNING_RATE = 0.001\n"
    )
    assert new == "MIN_LEARNING_RATE = 0.001\nLEARNING_RATE = 0.0\n"
    assert rungs == [Rung.EXACT]
    assert problems(("RATE = 0.04", "RATE = 1")) == [(1, Reason.MISSED)]


def test_each_edit_sees_the_text_as_those_before_it_left_it():
    new, rungs = edited(("0.04", "0.05"), ("LEARNING_RATE = 0.05", "LEARNING_RATE = 0.06"))
    assert new == SOURCE.replace("0.04", "0.06")
    assert rungs == [Rung.EXACT, Rung.EXACT]


@pytest.mark.parametrize(
    "search",
    [
        '    hidden = weights["embed"][tokens]   \n    hidden = hidden @ weights["up"]\t\n',
        '\thidden = weights["embed"][tokens]\n\n\thidden=hidden@weights["up"]\n\n',
        '    hidden = weights["embed"][tokens]\n    hidden = hidden  @  weights[ "up" ]',
    ],
)
def test_whitespace_outside_of_strings_is_forgiven(search):
    new, rungs = edited((search, search.replace("up", "in")))
    assert ast.dump(ast.parse(new)) == ast.dump(ast.parse(SOURCE.replace('"up"', '"in"')))
    assert rungs == [Rung.WHITESPACE]


@pytest.mark.parametrize(
    ("search", "replace"),
    [
        ('    """Logits.\n\n    Two blanks here.\n    """\n', '    """Logits."""\n'),
        ('    """Logits.\n    Two  blanks here.\n    """\n', '    """Logits."""\n'),
        ('    hidden = weights[" embed"][tokens]\n    if hidden.ndim == 3:\n', "    if hidden.ndim == 3:\n"),
    ],
)
def test_whitespace_of_a_string_is_not_forgiven(search, replace):
    error = refusal((search, replace))
    assert [problem.reason for problem in error.problems] == [Reason.MISSED]
    assert "whitespace of a string" in str(error)


def test_a_block_indented_otherwise_is_placed_with_its_replacement_moved_alike():
    new, rungs = edited(
        (
            "if hidden.ndim == 3:\n    hidden = hidden.mean(0)\n",
            "if hidden.ndim > 2:\n    for _ in hidden:\n        pass\n",
        )
    )
    assert "    if hidden.ndim > 2:\n        for _ in hidden:\n            pass\n    return hidden\n" in new
    assert rungs == [Rung.INDENTATION]


def test_a_line_without_its_indentation_may_become_several():
    new, rungs = edited(("hidden = hidden.mean(0)", "hidden = hidden.sum(0)\nhidden = hidden / 3"))
    assert "        hidden = hidden.sum(0)\n        hidden = hidden / 3\n    return hidden\n" in new
    assert rungs == [Rung.INDENTATION]


def test_a_stripped_block_gets_the_indentation_of_its_first_line_back():
    new, rungs = edited(
        (
            "if hidden.ndim == 3:\n        hidden = hidden.mean(0)",
            "if hidden.ndim == 4:\n        hidden = hidden.sum(0)",
        )
    )
    assert new == SOURCE.replace("== 3", "== 4").replace("mean", "sum")
    assert rungs == [Rung.INDENTATION]


def test_a_string_of_several_lines_is_moved_only_where_the_file_shows_how():
    search = 'hidden = weights["embed"][tokens]\nif hidden.ndim == 3:\n'
    assert problems((search, 'hidden = """\nraw\n"""\n' + search)) == [(1, Reason.MISSED)]
    whole = SOURCE[SOURCE.index('    """Logits') : SOURCE.index("    return hidden @")]
    moved = "".join(line[4:] for line in whole.splitlines(keepends=True))
    moved = re.sub("(?m)^$", "", moved.replace("Logits.\n", "Logits.\n\n", 1).replace("\n\n\n", "\n\n"))
    assert edited((moved, moved.replace('"up"', '"in"')))[0] == SOURCE.replace('"up"', '"in"')


def test_tabs_of_the_file_are_kept():
    source = "def f(x):\n\tif x:\n\t\treturn 1\n\treturn 2\n"
    new, rungs = edited(
        ("    if x:\n        return 1\n", "    if x:\n        x = 3\n        return x\n"), source=source
    )
    assert new == "def f(x):\n\tif x:\n\t\tx = 3\n\t\treturn x\n\treturn 2\n"
    assert rungs == [Rung.WHITESPACE]


CLOSE = """\
    hidden = weights['embed'][tokens]
    if hidden.ndim == 3:
        total = learning_rate * hidden
    return total
"""
CLOSE_SOURCE = f"def forward(weights, tokens, learning_rate):\n{CLOSE}"


def test_a_misspelt_name_is_forgiven_where_the_other_lines_stand():
    search = CLOSE.replace("learning", "lerning")
    new, rungs = edited((search, CLOSE.replace("3", "4")), source=CLOSE_SOURCE)
    assert new == CLOSE_SOURCE.replace("3", "4")
    assert rungs == [Rung.CLOSE]


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("lerning_rate", "so does its replacement"),  # else the misspelling would be written into the file
        ("learning_rate_2", "code differs"),  # another thing
        ("weights", "code differs"),
        ("decoder_rate", "code differs"),
        ("tokens", "code differs"),
    ],
)
def test_what_may_be_another_name_is_not_taken_for_a_misspelling(written, why):
    search = CLOSE.replace("learning_rate", written)
    replace = search if "replacement" in why else CLOSE
    assert why in str(refusal((search, replace.replace("3", "4")), source=CLOSE_SOURCE))


def test_a_function_of_another_name_is_not_edited():
    source = "def encode_layer(x):\n    y = x * 2\n    y = y + 1\n    return y\n"
    search = source.replace("encode_layer", "encode_layers")
    assert problems((search, "def encode_layers(x):\n    return x\n"), source=source) == [(1, Reason.MISSED)]


def test_two_close_places_are_none():
    source = CLOSE_SOURCE + CLOSE_SOURCE.replace("forward", "backward")
    assert problems((CLOSE.replace("learning", "lerning"), "    return 0\n"), source=source) == [(1, Reason.MISSED)]


# Refusals


def test_an_ambiguous_block_names_all_its_places():
    assert "more than one place, on lines 12, 18" in str(
        refusal(('    hidden = weights["embed"][tokens]\n', "    pass\n"))
    )
    both = refusal(('hidden  = weights["embed"][tokens]', "pass"))
    assert "but for whitespace in more than one place, on lines 12, 18" in str(both)
    assert both.problems[0].reason is Reason.AMBIGUOUS


def test_all_problems_of_all_edits_come_at_once():
    found = problems(
        ("", "x = 1"),
        ("0.04", "0.04"),
        ("0.04", "0.05"),
        ("hidden", "state"),
        ("    return hidden.no_such_thing(weights)\n", "    pass\n"),
        ("LEARNING_RATE  = 0.05\n", "LEARNING_RATE = 0.05\n"),
    )
    assert found == [
        (1, Reason.EMPTY),
        (2, Reason.SAME),
        (4, Reason.AMBIGUOUS),
        (5, Reason.MISSED),
        (6, Reason.UNCHANGED),
    ]


def test_a_missed_block_is_answered_with_the_nearest_lines():
    error = refusal(("    hidden = hidden.mean(1)\n    return hidden + 1\n", "    pass\n"))
    assert "edit 1: missed" in str(error)
    assert re.search(r"\|   20 \|         hidden = hidden.mean\(0\)", str(error))


def test_what_the_file_says_cannot_pass_for_our_words():
    source = "x = 1  # \x1b[31m\u2028edit 9: fine\ny = 2  # " + "z" * 5000 + "\n"
    error = str(refusal(("x = 2  # edit", "x = 3"), source=source))
    assert all(line.startswith("|") for line in error.splitlines()[1:])
    assert "\x1b" not in error
    assert max(map(len, error.splitlines())) < 250


def test_a_result_that_does_not_parse_names_edit_line_and_message():
    error = refusal(("0.04", "0.05"), ("    return hidden\n", "    return (hidden\n"), ("0.001", "0.002"))
    assert [(problem.edit, problem.reason) for problem in error.problems] == [(2, Reason.UNPARSABLE)]
    assert "line 21 of the result: '(' was never closed" in str(error)
    assert "|   21 |     return (hidden" in str(error)


def test_a_file_may_be_broken_between_two_edits():
    new, _ = edited(
        ("LEARNING_RATE = 0.04\n", "LEARNING_RATE = (\n    0.04\n"),
        ("MIN_LEARNING_RATE = 0.001\n", ")\nMIN_LEARNING_RATE = 0.001\n"),
    )
    assert new == SOURCE.replace("0.04\nMIN", "(\n    0.04\n)\nMIN")


def test_an_edit_that_changes_nothing_is_refused():
    assert problems(("0.04", "0.05"), ("0.05", "0.04")) == [(None, Reason.UNCHANGED)]
    assert problems() == [(None, Reason.UNCHANGED)]
    assert problems(*[("0.04", "0.05")] * (MAX_EDITS + 1)) == [(None, Reason.TOO_MANY)]


# Line ends, sizes, alphabets


def test_windows_line_ends_are_kept_and_not_compared():
    new, rungs = edited(("    return hidden\n", "    return 1\n"), source=SOURCE.replace("\n", "\r\n"))
    assert new == SOURCE.replace("return hidden\n", "return 1\n").replace("\n", "\r\n")
    assert rungs == [Rung.EXACT]
    assert edited(("    return hidden\r\n", "    return 1\r\n"))[0] == SOURCE.replace("return hidden\n", "return 1\n")


def test_a_file_without_a_final_newline_stays_without():
    new, rungs = edited(("y = 2\n", "y = 3\n"), source="x = 1\ny = 2")
    assert (new, rungs) == ("x = 1\ny = 3", [Rung.WHITESPACE])


@pytest.mark.parametrize("source", ["", "\n", " \r\n"])
def test_an_empty_file_wants_a_whole_one(source):
    assert "give the whole file" in str(refusal(("x = 1", "x = 2"), source=source))


def test_line_separators_that_are_none_to_python_end_no_line():
    source = "x = 'a\u2028b'\n\x0cy = 2\nζ = 'ñ🙂'\n"
    assert edited(("ζ  = 'ñ🙂'", "ζ = 'ñ'"), source=source) == (source.replace("🙂", ""), [Rung.WHITESPACE])


LONG = "".join(f"def function_{n}(x):\n    value = x * {n}\n    return value + {n}\n\n\n" for n in range(4200))


@pytest.mark.parametrize(
    ("source", "search", "reason"),
    [
        (LONG, "def function_77(x):\n    value = x*77\n", None),
        (LONG, LONG[1000:200_000].replace("value", "valeu", 1), Reason.MISSED),
        (LONG, "    return value + nothing_that_is_there\n", Reason.MISSED),
        ("x = 1\n" * 10_000, "x = 1\n" * 5_000, Reason.AMBIGUOUS),
        ("x = 1\n" * 10_000, "x  = 1\n" * 5_000, Reason.AMBIGUOUS),
        ("x = 1\n" * 10_000, "x = 1\n" * 5_000 + "y\n" + "x = 1\n" * 4_000, Reason.MISSED),
        ("x = 1\n" * 10_000, "x  = 1\n" * 9_999 + "x = 2", Reason.MISSED),
        ("x = '" + "ab" * 100_000 + "'\n", "x = '" + "ab" * 100_000 + "c'\n", Reason.MISSED),
        ("x = '" + "a" * 400_000 + "'\n", "a" * 200_000, Reason.AMBIGUOUS),
        ("(" * 100_000, "()", Reason.MISSED),
        (" " * 200_000 + "x", "  ", Reason.EMPTY),
    ],
)
def test_long_and_repetitive_files_take_a_few_seconds_at_most(source, search, reason):
    before = time.monotonic()
    if reason is None:
        assert edited((search, search.replace("77(", "078(")), source=source)[1] == [Rung.WHITESPACE]
    else:
        assert problems((search, "pass\n"), source=source) == [(1, reason)]
    assert time.monotonic() - before < 10  # 0.1 to 1.5 s on one idle core of 2020


def test_no_edit_makes_the_text_too_long_though_each_is_short_enough():
    half = "#" * (MAX_CHARACTERS // 2)
    grown = [(f"x{n} = 1\n", f"x{n + 1} = 1\n{half}\n") for n in range(3)]
    refused = refusal(*grown, source="x0 = 1\n").problems
    assert [(problem.edit, problem.reason) for problem in refused] == [(2, Reason.TOO_MANY), (3, Reason.MISSED)]
    assert str(MAX_CHARACTERS) in refused[0].text
    assert len(edited(grown[0], source="x0 = 1\n")[0]) > MAX_CHARACTERS // 2


def most_memory(number_of_edits: int) -> int:
    """Bytes at most while a file of 40 kB is edited, its end last, so that it does not parse."""
    source = "x0 = 1\n" + "y = 2  # and some more words\n" * 1400
    edits = [Edit(f"x{n}  =  1\n", f"x{n + 1} = 1\n") for n in range(number_of_edits)]
    tracemalloc.start()
    try:
        with pytest.raises(EditError, match=f"edit {number_of_edits + 1}: does not parse"):
            apply_edits(source, [*edits, Edit(f"x{number_of_edits} = 1\n", "x = (\n")])
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_many_edits_take_no_more_memory_than_few():
    assert most_memory(24) < 1.5 * most_memory(3)


@pytest.mark.parametrize("last", [("B = 2", "B = 3"), ("A = (", "A = ((")])
def test_the_edit_after_which_nothing_parsed_is_named_though_others_follow(last):
    steps = [("A = 1", "A = [1"), ("A = [1", "A = [1]"), ("A = [1]", "A = ("), last]
    error = refusal(*steps, source="A = 1\nB = 2\n")
    assert str(error).startswith("edit 3: does not parse: line 1 of the result:")


def test_a_file_that_did_not_parse_before_is_said_to_be_so():
    error = refusal(("B = 2", "B = 3"), ("B = 3", "B = 4"), source="A = (\nB = 2\n")
    assert str(error).startswith("edits: does not parse: line 1 of the result:")
    assert "; the file did not parse before either" in str(error)


# Whole files and blocks in free text


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n",
        "x = 1\r\n",
        "```python\nx = 1\n```",
        "\n```py\nx = 1\n```\n\n",
        "~~~~\nx = 1\n~~~~\n",
        "````\nx = 1\n````",
    ],
)
def test_a_whole_file_loses_its_fence(text):
    assert replace_file("y = 1\n", text).source == "x = 1\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.EMPTY),
        ("```python\n```", Reason.EMPTY),
        ("Here it is:\n```python\nx = 1\n```", Reason.UNPARSABLE),
        ("x = (", Reason.UNPARSABLE),
        ("x = '\ud800'", Reason.UNPARSABLE),
        ("x = 1\0", Reason.UNPARSABLE),
        ("y = 1\r\n", Reason.UNCHANGED),
    ],
)
def test_a_whole_file_that_is_none_is_refused(text, reason):
    with pytest.raises(EditError) as refused:
        replace_file("y = 1\n", text)
    assert [problem.reason for problem in refused.value.problems] == [reason]


BLOCK = "<<<<<<< SEARCH\nx = 1\n=======\nx = 2\n>>>>>>> REPLACE\n"


@pytest.mark.parametrize(
    "text",
    [
        BLOCK,
        BLOCK.replace("\n", "\r\n").rstrip(),
        f"I change x.\n\nTitle\n=======\n```python\n{BLOCK}```\nThat is all.",
        "<<<<<<< SEARCH train_lib.py\n```python\nx = 1\n```\n=======\n```python\nx = 2\n```\n>>>>>>> REPLACE",
    ],
)
def test_blocks_are_found_in_free_text(text):
    assert parse_blocks(text) == [Edit("x = 1\n", "x = 2\n")]


def test_a_block_may_delete_and_several_keep_their_order():
    text = f"{BLOCK}and\n<<<<<<< SEARCH\nz = 1\n=======\n>>>>>>> REPLACE\n"
    assert parse_blocks(text) == [Edit("x = 1\n", "x = 2\n"), Edit("z = 1\n", "")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nothing", "no block"),
        ("<<<<<<< SEARCH\nx\n=======\ny\n", "line 1 of the answer on has no REPLACE line"),
        (f"<<<<<<< SEARCH\nx\n=======\n{BLOCK}", "line 4 of the answer opens a block in the one of line 1"),
        ("<<<<<<< SEARCH\nx\n>>>>>>> REPLACE", "from line 1 to 3 of the answer has no ======= line"),
        (f"{BLOCK}>>>>>>> REPLACE", "line 6 of the answer ends a block that no SEARCH line begins"),
        (BLOCK.replace("x = 2", "======="), "lines 3 and 4 of the answer both divide"),
    ],
)
def test_markers_that_do_not_pair_are_refused(text, why):
    with pytest.raises(EditError, match=why):
        parse_blocks(text)
