"""The size of a training file: syntax nodes, and what it carries in literals."""

import base64
import random
import zlib

import pytest
from fakes import SOURCE, FakeTask, ScriptedProposer, moved

from autoresearch_jax.assets.python_size import FREE_NAME_BYTES, literal_bytes, syntax_nodes
from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.proposals import Precheck
from autoresearch_jax.proposers.base import Proposal
from autoresearch_jax.types import Status

PLAIN = "def area(r):\n    return 3.14159 * r * r\n"


@pytest.mark.parametrize(
    "same",
    [
        "# a circle\n\ndef area(r):  # by its radius\n\n    return (3.14159 * r\n        * r)\n",
        'def area(r):\n    """Area of a circle."""\n    return 3.14159 * r * r\n',
        "def area_of_a_circle(radius):\n    return 3.14159 * radius * radius\n",
    ],
)
def test_comments_layout_docstrings_and_names_do_not_count(same: str) -> None:
    assert syntax_nodes(same) == syntax_nodes(PLAIN)


def test_what_is_said_with_less_counts_less() -> None:
    nodes = syntax_nodes(PLAIN)
    assert nodes is not None
    assert nodes < (syntax_nodes(PLAIN + "import math\n") or 0)
    assert nodes > (syntax_nodes("def area(r):\n    return 3.14159 * r**2\n") or 0)


def test_a_program_packed_into_a_literal_is_no_shorter(tiny_source: str) -> None:
    nodes = syntax_nodes(tiny_source)
    assert nodes is not None
    packed = base64.b85encode(zlib.compress(tiny_source.encode(), 9))
    number = int.from_bytes(zlib.compress(tiny_source.encode(), 9), "big")
    for hidden in (f"run({tiny_source!r})", f"run(d({packed!r}))", f"run(d({hex(number)}))"):
        assert (syntax_nodes(hidden) or 0) > nodes


@pytest.mark.parametrize(
    "runs",
    [
        "exec(__doc__)",
        "print(build.__doc__)",
        "f = open",
        "import inspect",
        "from linecache import getlines",
        "import os.path",
    ],
)
def test_what_can_run_a_docstring_or_a_comment_has_no_count(runs: str) -> None:
    assert syntax_nodes(f'"""a = 1"""\n{runs}\n# b = 2\n') is None


def test_values_of_listed_constants_count_one_node_each() -> None:
    texts = ('P = "SSSL"\nN = 4\n', 'P = "L"\nN: int = 2**2\n', "P = ('S', 'L')\nN = 2**2\n")
    nodes = [syntax_nodes(text, {"P", "N"}) for text in texts]
    assert nodes[0] == nodes[2] == syntax_nodes("P = 0\nN = 0\n")
    assert nodes[1] == syntax_nodes("P = 0\nN: int = 0\n")
    assert syntax_nodes(texts[0], {"N"}) == syntax_nodes(texts[0]) > nodes[0]
    assert syntax_nodes("if X:\n    P = 'SSSL'\n", {"P"}) == syntax_nodes("if X:\n    P = 'SSSL'\n"), "not at top level"


@pytest.mark.parametrize("source", ["x = = 1", "x = '\0'", "(" * 10_000, "X = " + "-" * 200_000 + "1\n"])
def test_a_source_that_cannot_be_parsed_has_no_length(source: str) -> None:
    assert syntax_nodes(source) is None


def test_floats_count_the_digits_that_they_hold() -> None:
    assert [literal_bytes(f"x = {text}", "") for text in ("0.5", "3e-4", "0.95", "3.14159", "1e999")] == [1, 1, 2, 3, 1]
    assert literal_bytes(f"x = {random.Random(0).random()!r}", "") >= 7


NUMBERS = random.Random(0).choices(range(256), k=2000)
CARRIERS = {
    "text": f"X = {base64.b85encode(bytes(NUMBERS)).decode()!r}",
    "one number": f"X = {hex(int.from_bytes(bytes(NUMBERS), 'big'))}",
    "tuples in tuples": f"X = {tuple(zip(NUMBERS[::2], NUMBERS[1::2], strict=True))}",
    "floats": f"X = {[number / 7 for number in NUMBERS]}",
    "complex numbers": f"X = {[number * 1j for number in NUMBERS]}",
    "f-string": "X = f'" + base64.b64encode(bytes(NUMBERS)).decode() + "{1}'",
    "an expression that shows itself": "X = f'{" + "+".join(map(str, NUMBERS)) + "=}'",
    "a text that nothing reads": f"pass\n{base64.b85encode(bytes(NUMBERS)).decode()!r}",
    "keys": f"X = {dict.fromkeys(map(str, range(100_000, 102_000)))}",
    "names in a list": f"a, b = 0, 1\nX = [{','.join('ab'[number % 2] for number in NUMBERS)}]",
    "many long names": "class X:\n" + "".join(f"    n{i:04}{'x' * 12}: 1\n" for i in range(1000)),
    "arguments by name": "X = dict(" + ",".join(f"n{i:04}{'x' * 12}=1" for i in range(1000)) + ")",
}


@pytest.mark.parametrize("carrier", CARRIERS)
def test_what_can_carry_data_counts(carrier: str, tiny_source: str) -> None:
    source = f"{tiny_source}\n{CARRIERS[carrier]}\n"
    assert literal_bytes(source, tiny_source) >= 2000
    assert literal_bytes(source, source) == 0, "the baseline may have it"


def test_an_honest_edit_hardly_counts(tiny_source: str) -> None:
    edit = tiny_source.replace("LEARNING_RATE *", "LEARNING_RATE * 0.5 *") + (
        '\n\ndef warmed(progress, share=0.1):\n    """A long docstring, with much to say."""\n'
        "    # and a comment\n    return jnp.where(progress < share, progress / share, 1.0)\n"
    )
    assert 0 < literal_bytes(edit, tiny_source) < 10
    assert literal_bytes("\n".join(f"name_{i:03} = {i % 2}" for i in range(FREE_NAME_BYTES // 10)), "") < 1000


def test_literals_of_the_baseline_are_no_room_for_others(tiny_source: str) -> None:
    assert literal_bytes(f"X = {'b' * 3000!r}", f"X = {'a' * 3000!r}") == 3000
    assert literal_bytes("x = = 1", tiny_source) == 0


def test_arguments_of_a_call_are_elements_beyond_the_usual(tiny_source: str) -> None:
    arguments = ", ".join("ab"[number % 2] for number in range(1016))
    assert literal_bytes(f"{tiny_source}\na = b = None\nprint({arguments})\n", tiny_source) == 1001, "and None"


@pytest.mark.parametrize("marked", ["source", "baseline", "both"])
def test_a_byte_order_mark_hides_nothing(marked: str) -> None:
    source, baseline = f"TABLE = {'a' * 500!r}\n", "x = 1\n"
    source = source if marked == "baseline" else f"\ufeff{source}"
    baseline = baseline if marked == "source" else f"\ufeff{baseline}"
    assert literal_bytes(source, baseline) == 500
    assert syntax_nodes(source) is not None


def test_a_table_is_rejected_before_anything_is_spent(bench):
    task = FakeTask(noise=0)
    table = Proposal("a table", "code", source=f"{SOURCE}\nTABLE = {'a' * 5000!r}\n")
    bench.loop(task, ScriptedProposer([table, moved(LR=0.1)])).run()
    ledger = bench.ledger()
    refused, kept = ledger.experiments()[1:]
    assert refused.status is Status.REJECTED
    assert refused.reason.startswith(
        "its literals, tables and names hold 5,000 bytes that the baseline's do not, more than 4,096 (--max_"
    )
    assert ledger.source(1) not in [source for source, _ in task.traced]
    assert kept.decision is Action.KEEP


def test_the_cap_holds_for_the_first_proposal_of_a_process_that_goes_on(bench):
    bench.loop(FakeTask(noise=0), ScriptedProposer([]), max_experiments=0).run()
    task, objections = FakeTask(noise=0), []
    precheck = Precheck(task, bench.folder)

    class Examining(ScriptedProposer):
        def propose(self, brief):
            proposal = super().propose(brief)
            objections.append(precheck.check(brief, proposal))
            return proposal

    table = Proposal("a table", "code", source=f"{SOURCE}\nTABLE = {'a' * 5000!r}\n")
    bench.loop(task, Examining([table]), precheck=precheck).run()
    assert "--max_literal_bytes" in str(objections[0])
    assert bench.ledger().experiment(1).status is Status.REJECTED


def test_what_the_baseline_holds_is_free(bench, run_git):
    source = f"{SOURCE}\nTABLE = {'a' * 5000!r}\n"
    (bench.repo / "train_lib.py").write_text(source)
    run_git(bench.repo, "commit", "-qam", "a table")
    better = Proposal("a better rate", "code", source=source.replace("LR = 0.5", "LR = 0.1"))
    bench.loop(FakeTask(noise=0), ScriptedProposer([better])).run()
    assert bench.ledger().experiment(1).decision is Action.KEEP
