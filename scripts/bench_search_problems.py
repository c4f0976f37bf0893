"""Synthetic problems of bench_search.py: tables of constants as program.md has them, and a score for each setting.

No optimum lies in the middle of its ranges and none at the start: a search that likes the middle, or stays where it is,
must not look good for that. Optima were drawn once and stand here as numbers. The best score of each is 0.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from autoresearch_jax.proposers.space import Choices, Constant, FloatRange, IntRange, Value

Setting = Mapping[str, Value]


@dataclass(frozen=True)
class Problem:
    """What is searched, from where, and what is made as small as possible.

    Attributes:
      name: one word.
      space: the table.
      start: the first setting of each search, which counts as a trial.
      score: of a setting; None for one that fails. Must be a function of the setting alone.
      best: the lowest score there is; None where only the searches can tell.
    """

    name: str
    space: tuple[Constant, ...]
    start: Setting
    score: Callable[[Setting], float | None]
    best: float | None = None


def _log(name: str) -> Constant:
    return Constant(name, FloatRange(1e-4, 1.0, log=True))


def _unit(value: Value) -> float:
    """Where a value of a `_log` row lies between its ends, 0 to 1."""
    return 1 + math.log10(float(value)) / 4


def _at(unit: float) -> float:
    return 10 ** (4 * (unit - 1))


def sphere() -> Problem:
    """Six magnitudes that matter by the square of the distance, and six that do not matter at all."""
    optimum = {"A": 0.71, "B": 0.22, "C": 0.83, "D": 0.41, "E": 0.13, "F": 0.62}
    space = tuple(_log(name) for name in "ABCDEFGHIJKL")

    def score(setting: Setting) -> float:
        return sum((_unit(setting[name]) - unit) ** 2 for name, unit in optimum.items())

    return Problem("sphere", space, {row.name: 0.01 for row in space}, score, 0.0)


def weights() -> Problem:
    """Eight magnitudes, each twice as important as the next, as the constants of a training run are."""
    optimum = (0.34, 0.81, 0.27, 0.66, 0.45, 0.91, 0.18, 0.73)
    space = tuple(_log(name) for name in "ABCDEFGH")

    def score(setting: Setting) -> float:
        units = [_unit(setting[row.name]) for row in space]
        return sum(2.0**-i * abs(unit - best) for i, (unit, best) in enumerate(zip(units, optimum, strict=True)))

    return Problem("weights", space, {row.name: _at(0.55) for row in space}, score, 0.0)


def valley() -> Problem:
    """Rosenbrock's curved valley in four dimensions: no constant can be moved far by itself."""
    space = tuple(Constant(name, FloatRange(-2.0, 2.0)) for name in "ABCD")

    def score(setting: Setting) -> float:
        x = [float(setting[row.name]) for row in space]
        total = sum(100 * (b - a * a) ** 2 + (1 - a) ** 2 for a, b in pairwise(x))
        return math.log1p(total)  # a search of 100 trials is about magnitudes here

    return Problem("valley", space, {"A": -1.2, "B": 1.0, "C": -1.2, "D": 1.0}, score, 0.0)


def rotated() -> Problem:
    """A bowl a hundred times longer than wide, along no axis: every pair of five magnitudes interacts."""
    optimum = (0.62, 0.28, 0.74, 0.37, 0.81)
    space = tuple(_log(name) for name in "ABCDE")

    def score(setting: Setting) -> float:
        offsets = [_unit(setting[row.name]) - best for row, best in zip(space, optimum, strict=True)]
        total = 0.0
        for k in range(5):  # a discrete cosine transform is a rotation
            scale = math.sqrt((1 if k == 0 else 2) / 5)
            along = scale * sum(x * math.cos(math.pi * k * (2 * i + 1) / 10) for i, x in enumerate(offsets))
            total += 10 ** (-k / 2) * along**2
        return total

    return Problem("rotated", space, {row.name: 0.01 for row in space}, score, 0.0)


def ripples() -> Problem:
    """Rastrigin's ripples over a bowl: five reals and two whole numbers, with a local optimum at every step."""
    reals = {"A": 1.7, "B": -2.6, "C": 0.8, "D": 3.3, "E": -1.4}
    wholes = {"M": 7, "N": 3}
    space = (
        *(Constant(name, FloatRange(-5.12, 5.12)) for name in reals),
        *(Constant(name, IntRange(0, 10)) for name in wholes),
    )

    def score(setting: Setting) -> float:
        offsets = [float(setting[name]) - best for name, best in reals.items()]
        ripple = sum(x * x + 10 * (1 - math.cos(2 * math.pi * x)) for x in offsets)
        return ripple + sum(4.0 * abs(float(setting[name]) - best) for name, best in wholes.items())

    return Problem("ripples", space, {**dict.fromkeys(reals, 0.0), "M": 2, "N": 8}, score, 0.0)


def funnel() -> Problem:
    """Ackley's: nearly flat far away, steep at the optimum; four reals, two magnitudes."""
    reals = {"A": -3.1, "B": 2.4, "C": 4.2, "D": -1.7}
    magnitudes = {"E": 0.31, "F": 0.78}
    space = (*(Constant(name, FloatRange(-8.0, 8.0)) for name in reals), *(_log(name) for name in magnitudes))

    def score(setting: Setting) -> float:
        offsets = [float(setting[name]) - best for name, best in reals.items()]
        offsets += [16 * (_unit(setting[name]) - best) for name, best in magnitudes.items()]
        square = math.sqrt(sum(x * x for x in offsets) / len(offsets))
        wave = sum(math.cos(2 * math.pi * x) for x in offsets) / len(offsets)
        return max(0.0, 20 - 20 * math.exp(-0.2 * square) + math.e - math.exp(wave))

    start: dict[str, Value] = {**dict.fromkeys(reals, 1.0), **dict.fromkeys(magnitudes, 0.01)}
    return Problem("funnel", space, start, score, 0.0)


def trap() -> Problem:
    """Two bowls: the start lies in the wide, shallow one, and the deep one is at the other end of three constants."""
    space = tuple(_log(name) for name in "ABCDEF")
    shallow, deep = (0.3, 0.25, 0.35, 0.6, 0.4, 0.7), (0.8, 0.85, 0.75, 0.6, 0.4, 0.7)

    def score(setting: Setting) -> float:
        units = [_unit(setting[row.name]) for row in space]
        to_shallow = sum((u - best) ** 2 for u, best in zip(units, shallow, strict=True))
        to_deep = sum((u - best) ** 2 for u, best in zip(units, deep, strict=True))
        return min(0.15 + to_shallow, 1.5 * to_deep)

    start = dict(zip("ABCDEF", map(_at, (0.4, 0.4, 0.2, 0.3, 0.7, 0.4)), strict=True))
    return Problem("trap", space, start, score, 0.0)


def switches() -> Problem:
    """Seven choices without an order, some of which are good only together, and one magnitude."""
    names = "ABCDEFG"
    space = (*(Constant(name, Choices(("u", "v", "w", "x"))) for name in names), _log("LR"))
    cost = {  # of each choice by itself; the best ones are 0
        "A": (0.5, 0.0, 0.9, 0.3),
        "B": (0.2, 0.6, 0.0, 0.4),
        "C": (0.0, 0.1, 0.2, 0.3),
        "D": (0.7, 0.7, 0.7, 0.0),
        "E": (0.1, 0.0, 0.1, 0.1),
        "F": (0.3, 0.2, 0.1, 0.0),
        "G": (0.0, 0.4, 0.4, 0.4),
    }

    def score(setting: Setting) -> float:
        total = sum(cost[name]["uvwx".index(str(setting[name]))] for name in names)
        total += 0.4 * ((setting["A"] == "v") != (setting["B"] == "w"))
        total += 0.4 * ((setting["F"] == "x") != (setting["G"] == "u"))
        return total + 2 * (_unit(setting["LR"]) - (0.7 if setting["D"] == "x" else 0.35)) ** 2

    return Problem("switches", space, {**dict.fromkeys(names, "w"), "B": "v", "LR": 0.01}, score, 0.0)


def stairs() -> Problem:
    """Whole numbers, reals that count in steps only, and a truth value: most small moves change nothing."""
    wholes = {"A": (1, 64, 12), "B": (1, 16, 13), "C": (0, 5, 1), "D": (2, 32, 25)}
    space = (
        *(Constant(name, IntRange(low, high, log=low > 0 and high > 20)) for name, (low, high, _) in wholes.items()),
        Constant("E", FloatRange(0.0, 1.0)),
        Constant("F", FloatRange(0.0, 1.0)),
        Constant("G", Choices((False, True))),
    )

    def score(setting: Setting) -> float:
        total = sum(abs(float(setting[n]) - best) / (high - low) for n, (low, high, best) in wholes.items())
        total += sum(0.1 * abs(math.floor(10 * float(setting[n])) - best) for n, best in (("E", 8), ("F", 1)))
        return total + 0.5 * (setting["G"] is not True)

    return Problem("stairs", space, {"A": 40, "B": 4, "C": 4, "D": 8, "E": 0.45, "F": 0.55, "G": False}, score, 0.0)


def training() -> Problem:
    """A night's table of fourteen rows as a formula: few matter, rate and batch go together, high rates fail."""
    space = (
        Constant("DEPTH", IntRange(1, 8)),
        Constant("ASPECT_RATIO", Choices((16, 32, 64, 96, 128))),
        Constant("WINDOW_PATTERN", Choices(("SSSL", "SSL", "SL", "L"))),
        Constant("BATCH_SIZE", Choices((8, 16, 32))),
        Constant("MATRIX_LR", FloatRange(0.01, 0.16, log=True)),
        Constant("EMBEDDING_LR", FloatRange(0.1, 2.0, log=True)),
        Constant("UNEMBEDDING_LR", FloatRange(0.001, 0.03, log=True)),
        Constant("SCALAR_LR", FloatRange(0.1, 2.0, log=True)),
        Constant("WEIGHT_DECAY", FloatRange(0.0, 0.4)),
        Constant("MUON_MOMENTUM", FloatRange(0.85, 0.98)),
        Constant("ADAM_BETA2", FloatRange(0.9, 0.99)),
        Constant("WARMUP_FRACTION", FloatRange(0.0, 0.2)),
        Constant("COOLDOWN_FRACTION", FloatRange(0.2, 1.0)),
        Constant("FINAL_LR_FRACTION", FloatRange(0.0, 0.2)),
    )
    start: dict[str, Value] = dict(
        zip(
            (row.name for row in space),
            (4, 32, "SSSL", 16, 0.04, 0.6, 0.004, 0.5, 0.2, 0.95, 0.95, 0.0, 0.5, 0.0),
            strict=True,
        )
    )

    def score(setting: Setting) -> float | None:
        value = {name: float(v) for name, v in setting.items() if not isinstance(v, str)}
        doublings = math.log2(value["MATRIX_LR"] / 0.02)
        batch = math.log2(value["BATCH_SIZE"] / 8)
        if doublings + 0.5 * value["DEPTH"] - 10 * value["WARMUP_FRACTION"] > 4.2:
            return None  # diverged
        width = math.log2(value["DEPTH"] * value["ASPECT_RATIO"] / 192)
        loss = 0.06 * width**2 + 0.01 * (value["DEPTH"] - 3) ** 2 + 0.05 * batch
        loss += 0.05 * (doublings - 1 - 0.5 * batch) ** 2
        loss += 0.02 * math.log2(value["EMBEDDING_LR"] / 1.1) ** 2
        loss += 0.01 * math.log2(value["UNEMBEDDING_LR"] / 0.009) ** 2
        loss += {"SSSL": 0.02, "SSL": 0.0, "SL": 0.01, "L": 0.05}[str(setting["WINDOW_PATTERN"])]
        loss += 0.2 * max(0.0, value["WEIGHT_DECAY"] - 0.05) + 2 * abs(value["MUON_MOMENTUM"] - 0.92)
        loss += 0.3 * (value["COOLDOWN_FRACTION"] - 0.85) ** 2 + 2 * (value["FINAL_LR_FRACTION"] - 0.04) ** 2
        return loss + 0.1 * value["WARMUP_FRACTION"]

    # at batch 8, depth 3, width 192 and no warm-up all terms but the doublings' vanish, and nothing diverges there
    return Problem("training", space, start, score, 0.0)


SYNTHETIC: Sequence[Callable[[], Problem]] = (
    *(sphere, weights, valley, rotated, ripples, funnel, trap, switches, stairs, training),
)
