"""Made-up ideas for train_lib.py, each with a true gain, and hostile words in place of theirs."""

import ast
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from autoresearch_jax.assets.python_constants import set_constants
from autoresearch_jax.findings.folder import BASES, SHIPPED
from autoresearch_jax.proposers.base import CONSTANTS_CATEGORY, CONSTANTS_PROPOSER
from autoresearch_jax.types import Scalar

SOURCE = (SHIPPED / BASES / "df10dc715aa9.txt").read_text(encoding="utf-8")  # made-up runs stay as they are
RANGES = {  # of constants, each between its two values
    "MATRIX_LR": (0.01, 0.16),
    "EMBEDDING_LR": (0.1, 2.0),
    "UNEMBEDDING_LR": (0.001, 0.03),
    "SCALAR_LR": (0.1, 2.0),
    "SOFTCAP": (8.0, 40.0),
    "WEIGHT_DECAY": (0.0, 0.4),
    "MUON_MOMENTUM": (0.85, 0.98),
    "ADAM_BETA2": (0.9, 0.99),
    "COOLDOWN_FRACTION": (0.2, 1.0),
}
GOOD = {  # of the ideas of a category, the share that is a gain at the beginning of a run
    "optimizer": 0.15,
    "architecture": 0.06,
    "schedule": 0.1,
    "initialization": 0.01,
    "attention": 0.05,
    CONSTANTS_CATEGORY: 0.1,
}
AGENTS = ("gemini-3.5-flash", "hybrid", "command")
SIMPLER = 0.06  # share of ideas for the code that take an earlier edit out again, once there is one
_RETURN = re.compile(r"^( {4,})return (.+)$", re.MULTILINE)
_FUNCTION = re.compile(r"^ *def (\w+)\(", re.MULTILINE)
_EDITED = re.compile(r"^(( {4,})scaled = (.+?)  # .*\n *return [\d.]+ \* scaled\n)", re.MULTILINE)
_COMMENT_CHARACTERS = 300  # of hostile words in a source

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><script>alert(1)</script><!--",
    "{{ 7 * 7 }} {% raw %} {# gone #} ${7 * 7} `${alert(1)}`",
    "\u202egnihtyna\u202c \u2067isolated and never closed",
    "' onmouseover='alert(1)' javascript:alert(1) &lt;b&gt; </textarea></style></title><b>",
    "two\nlines\tand \x1b[31mred\x1b[0m \x07 \u2028 ]]> $& \\u003cscript\\u003e",
    '<a href="javascript:alert(1)">here</a><br><i>slanted</i>',
    "[a link](javascript:alert(1)) | a | cell | `code` ![](https://example.org/x.png)",
    "very long " * 10_000,
)


@dataclass(frozen=True)
class Idea:
    """A change of the training file: of constants, or of one place in its code.

    Attributes:
      gain: the true one, in sigma.
      constants: new values.
      old: text that `new` replaces.
      nodes_added: by which the text is longer or shorter, as the decision is told.
    """

    proposer: str
    category: str
    words: str
    gain: float
    constants: Mapping[str, Scalar]
    old: str = ""
    new: str = ""
    nodes_added: int = 0

    def apply(self, source: str) -> str:
        """The source with the change; without it where another change took its place."""
        moved = set_constants(source, self.constants) if self.constants else source
        return moved.replace(self.old, self.new, 1) if self.old else moved


def apply_all(ideas: Sequence[Idea]) -> str:
    """`SOURCE` with all of them, in their order."""
    source, constants = SOURCE, dict[str, Scalar]()
    for idea in ideas:
        source = replace(idea, constants={}).apply(source)
        constants |= idea.constants
    return set_constants(source, constants)


def draw_idea(draw: random.Random, source: str, progress: float) -> Idea:
    """An idea for a source; gains are rarer the further the run is, from 0 to 1."""
    category = draw.choice(list(GOOD))
    gain = _draw_gain(draw, GOOD[category] * (1 - 0.8 * progress))
    if category == CONSTANTS_CATEGORY:
        names = draw.sample(list(RANGES), draw.choice((1, 2)))
        values = {name: round(draw.uniform(*RANGES[name]), 4) for name in names}
        words = ", ".join(f"{name} {value:g}" for name, value in values.items())
        return Idea(CONSTANTS_PROPOSER, category, f"{words} may suit a budget of a minute better", gain, values)
    proposer = draw.choice(AGENTS)
    edited = _edited_places(source)
    if edited and draw.random() < SIMPLER:
        place = draw.choice(edited)
        words = f"no scale of what {place.function} returns"
        return Idea(proposer, category, words, draw.gauss(-0.1, 0.3), {}, place.text, place.plain, nodes_added=-9)
    place, factor = draw.choice(_places(source) + edited), round(draw.uniform(0.9, 1.1), 3)
    new = f"{place.indent}scaled = {place.value}  # {category}\n{place.indent}return {factor} * scaled\n"
    words = f"scale what {place.function} returns by {factor}: it is too {'small' if factor > 1 else 'large'} at first"
    return Idea(proposer, category, words, gain, {}, place.text, new, nodes_added=9 if place.text == place.plain else 0)


def _draw_gain(draw: random.Random, good: float) -> float:
    kind = draw.random()
    if kind < good:
        return 0.7 + draw.expovariate(1.0)
    if kind < 0.4:
        return draw.gauss(0, 0.2)
    return draw.gauss(-2, 1) if kind < 0.85 else draw.uniform(-30, -5)


def with_hostile_words(idea: Idea, draw: random.Random) -> Idea:
    """The same idea by a hostile proposer."""
    words, category, proposer = draw.choice(HOSTILE), draw.choice(HOSTILE[:-1]), draw.choice(HOSTILE[:-1])
    comment = " ".join(draw.choice(HOSTILE).split())[:_COMMENT_CHARACTERS]
    new = idea.new.replace(f"# {idea.category}", f"# {comment}")
    return replace(idea, words=words, category=category, proposer=proposer, new=new)


@dataclass(frozen=True)
class _Place:
    """A return that an idea may scale, and the lines that stand there."""

    function: str
    indent: str
    value: str
    text: str

    @property
    def plain(self) -> str:
        """The line without a scale."""
        return f"{self.indent}return {self.value}\n"


@lru_cache(maxsize=4)
def _places(source: str) -> list[_Place]:
    """Returns of one line, of a name or a call, that stand in the source once."""
    found = [
        _Place(_function_at(source, match), match[1], match[2], f"{match[0]}\n") for match in _RETURN.finditer(source)
    ]
    return [place for place in found if source.count(place.text) == 1 and _is_name_or_call(place.value)]


def _is_name_or_call(text: str) -> bool:
    try:
        return isinstance(ast.parse(text, mode="eval").body, ast.Name | ast.Call)
    except SyntaxError:
        return False


@lru_cache(maxsize=4)
def _edited_places(source: str) -> list[_Place]:
    """What earlier ideas scaled in a source."""
    return [_Place(_function_at(source, match), match[2], match[3], match[1]) for match in _EDITED.finditer(source)]


def _function_at(source: str, match: re.Match[str]) -> str:
    return _FUNCTION.findall(source, 0, match.start())[-1]
