"""Table, plot and figures of the nights that bench_night.py ran."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean

import matplotlib

from autoresearch_jax.search.results import KEEPS

Setting = str | float | bool
VARIANTS = ("full", "no_prune", "no_standby", "greedy")
GREEDY = "greedy"
DUPLICATE = "duplicate"
PRUNED = "pruned"
HOUR = 3600.0
# Okabe and Ito's, which people who see colours differently can tell apart, and a dash for who prints in grey
_LINES = {
    "full": ("#0072B2", "-"),
    "no_prune": ("#D55E00", "--"),
    "no_standby": ("#009E73", "-."),
    GREEDY: ("#000000", ":"),
}
_COLUMNS = (
    *("variant", "experiments", "duplicates", "per hour", "with the baseline", "trials", "pruned", "kept"),
    *("val_bpb at first", "claimed", "measured", "greedy's end reached after"),
)


@dataclass(frozen=True)
class Night:
    """What came of one variant.

    Attributes:
      variant: one of `VARIANTS`.
      settings: what must be equal for two nights to be compared.
      seconds: wall-clock from its start to its end.
      baseline_seconds: of these, until the first proposal was taken up.
      curve: seconds since the start and val_bpb of each champion as the loop knew it, the baseline first.
      outcomes: proposals that were concluded, by what became of them.
      trials: runs of the training file that ended.
      claimed: val_bpb of the last champion, as the loop knew it.
      measured: val_bpb of the last champion with seeds that the loop never saw.
      machine: where, and how busy it was.
    """

    variant: str
    settings: Mapping[str, Setting]
    seconds: float
    baseline_seconds: float
    curve: Sequence[tuple[float, float]]
    outcomes: Mapping[str, int]
    trials: int
    claimed: float
    measured: Sequence[float] = field(default=())
    machine: str = ""

    @property
    def experiments(self) -> int:
        """Proposals that were concluded and are no duplicates of what was measured before."""
        return sum(count for outcome, count in self.outcomes.items() if outcome != DUPLICATE)

    @property
    def kept(self) -> int:
        """Proposals that became champion."""
        return sum(self.outcomes.get(outcome, 0) for outcome in KEEPS)

    @property
    def per_hour(self) -> float:
        """Experiments per hour of the wall-clock after the baseline was done."""
        left = self.seconds - self.baseline_seconds
        return HOUR * self.experiments / left if left > 0 else 0.0

    @property
    def per_hour_in_all(self) -> float:
        """Experiments per hour of the whole night."""
        return HOUR * self.experiments / self.seconds

    @property
    def best(self) -> float | None:
        """Mean val_bpb of the last champion with seeds that the loop never saw; None if it was not measured."""
        return mean(self.measured) if self.measured else None


def save(night: Night, path: Path) -> None:
    """Writes a night down."""
    path.write_text(json.dumps(asdict(night), indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Night:
    """A night that was written down."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    return Night(**stored | {"curve": [(seconds, score) for seconds, score in stored["curve"]]})


def seconds_to_reach(night: Night, goal: float) -> float | None:
    """When a night's champion, as its loop knew it, was first as good as `goal`; None for never.

    The bare loop's own claims are lucky runs, so that for it, it is when it found what it ended with.
    """
    if night.variant == GREEDY:
        return night.curve[-1][0]
    return next((seconds for seconds, score in night.curve if score <= goal), None)


def table(nights: Sequence[Night]) -> str:
    """The nights side by side, in Markdown."""
    greedy = next((night.best for night in nights if night.variant == GREEDY), None)
    lines = [_COLUMNS, ("---", *("---:" for _ in _COLUMNS[1:]))]
    for night in nights:
        best, reached = "-", "-"
        if night.best is not None:
            best = f"{night.best:.4f}"
            if len(night.measured) > 1:
                best += f" ({min(night.measured):.4f} .. {max(night.measured):.4f})"
        if greedy is not None:
            seconds = seconds_to_reach(night, greedy)
            reached = "never" if seconds is None else f"{seconds / 60:.1f} min"
        lines.append(
            (
                *(night.variant, str(night.experiments), str(night.outcomes.get(DUPLICATE, 0))),
                *(f"{night.per_hour:.0f}", f"{night.per_hour_in_all:.0f}", str(night.trials)),
                *(str(night.outcomes.get(PRUNED, 0)), str(night.kept), f"{night.curve[0][1]:.4f}"),
                *(f"{night.claimed:.4f}", best, reached),
            )
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def figures(nights: Sequence[Night]) -> dict[str, str]:
    """The last lines, of what was measured."""
    found = {}
    for night in nights:
        if night.best is not None:
            found[f"best_val_bpb_{night.variant}"] = f"{night.best:.4f}"
            found[f"experiments_per_hour_{night.variant}"] = f"{night.per_hour:.1f}"
    return found


def plot(nights: Sequence[Night], path: Path) -> None:
    """Draws the champions' val_bpb over the night, and beside its end what was measured afterwards."""
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "night"  # equal nights give equal files
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    end = max(night.seconds for night in nights) / 60
    for number, night in enumerate(nights):
        color, dashes = _LINES[night.variant]
        minutes = [seconds / 60 for seconds, _ in night.curve]
        scores = [score for _, score in night.curve]
        axes.step(
            [*minutes, night.seconds / 60],
            [*scores, scores[-1]],
            where="post",
            color=color,
            linestyle=dashes,
            label=night.variant,
        )
        if night.best is not None:
            spread = ([night.best - min(night.measured)], [max(night.measured) - night.best])
            axes.errorbar(end * (1.02 + 0.02 * number), night.best, spread, color=color, marker="o", capsize=3)
    axes.axvline(end, color="0.8", linewidth=1)
    axes.set(
        xlabel="minutes since the start; right of the line: the end's program with fresh seeds, mean and range",
        ylabel="val_bpb of the champion",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
