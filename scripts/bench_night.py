"""Measures what a night is worth: best val_bpb against wall-clock; called by bench_night.sh.

Four variants, one after another, each for --minutes of wall-clock from the call to the Ctrl-C that ends it, in a
repository and with a compile cache of its own:
  full         `autoresearch run` with its defaults
  no_prune     with --noprune
  no_standby   with --nostandby
  greedy       what every simple loop does: one or two random constants of program.md's table get a random value within
               their rows, `autoresearch trial --set ...` runs once with the seed that it always has, and what came out
               lower than the best so far is the new best
All have the default CPU configuration, train_lib.py and program.md as they come (but for the end of the night), one
dataset and one --seed. --budget_seconds is 10 in place of 60, so that a short night has many experiments.

A loop's own word on its champion is biased, most of all where one lucky run is enough. So the last champions are run
again afterwards, with three seeds that no loop saw; the variants take turns, so that all see the same machine.

  best_val_bpb_VARIANT          mean of these runs
  experiments_per_hour_VARIANT  proposals concluded (kept, discarded, pruned, rejected or failed; duplicates do not
                                count) per hour of the wall-clock after the baseline was done. The full system runs a
                                proposal as often as it takes to tell it from noise, the bare loop once.

The table has, besides, what the loop claimed, and when its champion was first as good, by its own word, as what the
bare loop's last one was measured to be; for the bare loop, when it found that. Nights can be run at different times
into one --out. Exits 0 only if all four were measured.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench_night_loops import (
    SHIPPED,
    Options,
    call,
    give_up,
    read_trial,
    run_greedy,
    run_system,
)
from bench_night_report import GREEDY, VARIANTS, Night, Setting, figures, load, plot, save, table

from autoresearch_jax.search.constants import set_constants

FRESH_SEEDS = 3
FIRST_FRESH_SEED = 1_000_001  # a loop draws its own from 31 bits, or has --seed


def say(text: str) -> None:
    print(f"bench_night: {text}", file=sys.stderr, flush=True)


def make_repository(folder: Path, quick: bool) -> None:
    """The files as they come, but for the end of the night, which is this script's."""
    folder.mkdir()
    source = (SHIPPED / "train_lib.py").read_text(encoding="utf-8")
    page = (SHIPPED / "program.md").read_text(encoding="utf-8")
    endless = re.sub(r"(?ms)^## Stop when\n.*?(?=^## )", "## Stop when\n\n- 1000000 experiments\n\n", page)
    assert endless != page, "program.md has no stopping list"
    (folder / "train_lib.py").write_text(set_constants(source, {"DEPTH": 1}) if quick else source, encoding="utf-8")
    (folder / "program.md").write_text(endless, encoding="utf-8")
    for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "start")):
        identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
        subprocess.run(["git", *identity, *words], cwd=folder, check=True)


def measure_again(nights: Sequence[Night], options: Options, out: Path) -> list[Night]:
    """The nights with their last champions' scores for fresh seeds."""
    measured: dict[str, list[float]] = {night.variant: [] for night in nights}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(1 if options.quick else FRESH_SEEDS):
            for night in nights:
                command = ["autoresearch", "trial", "--format=json", f"--editable={out / night.variant}/train_lib.py"]
                command += [f"--seed={FIRST_FRESH_SEED + options.seed + number}", f"--run_dir={scratch}/runs"]
                command += options.task_flags(Path(scratch) / "cache")
                summary = read_trial(command, Path(scratch), out / night.variant / "output")
                assert summary is not None
                if summary["status"] != "ok":
                    sys.exit(f"bench_night: {' '.join(command)}: {summary['status']}: {summary['error']}")
                say(f"{night.variant} with a fresh seed: {summary['val_bpb']:.4f}")
                measured[night.variant].append(summary["val_bpb"])
    return [replace(night, measured=tuple(measured[night.variant])) for night in nights]


def run_night(variant: str, options: Options, out: Path) -> None:
    """A variant's night, written down in `out`."""
    kept = out / variant
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        make_repository(scratch / "repository", options.quick)
        # so that no variant pays for what the first reads from the disk
        warm_up = ["autoresearch", "trial", *options.task_flags(scratch / "cold"), f"--run_dir={scratch / 'cold'}"]
        warm_up += ["--budget_seconds=1", "--min_steps=0"]
        status, _ = call(warm_up, scratch / "repository", kept / "output")
        if status:
            give_up(warm_up, status, kept / "output")
        say(f"{variant}: {options.seconds / 60:g} minutes; its output goes to {kept / 'output'}")
        is_bare = variant == GREEDY
        night = run_greedy(options, scratch, kept) if is_bare else run_system(variant, options, scratch, kept)
    save(night, kept / "night.json")
    say(f"{variant}: {night.experiments} experiments, {night.kept} kept, claims {night.claimed:.4f}")


def stored(out: Path, settings: Mapping[str, Setting] | None = None) -> list[Night]:
    """The nights in a folder; ends the script if they cannot be compared with each other, or with these settings."""
    nights = [load(path) for variant in VARIANTS if (path := out / variant / "night.json").is_file()]
    for night in nights:
        wanted = nights[0].settings if settings is None else settings
        differ = [name for name, value in wanted.items() if night.settings.get(name) != value]
        if differ:
            was = ", ".join(f"{name} {night.settings.get(name)} in place of {wanted[name]}" for name in differ)
            sys.exit(f"bench_night: --out={out}: {night.variant} was run with {was}: delete it, or take another folder")
    return nights


def report(out: Path, picture: Path | None) -> None:
    """Plot, table and last lines; ends the script with an error if something was not measured."""
    nights = stored(out)
    if not nights:
        sys.exit(f"bench_night: --out={out}: no night is stored there: leave --report_only and --measure_only out")
    plot(nights, out / "night.svg")
    if picture is not None:
        shutil.copyfile(out / "night.svg", picture)
    print(f"plot: {picture or out / 'night.svg'}")
    print(table(nights))
    for night in nights:
        print(f"machine of {night.variant}: {night.machine}")
    found = figures(nights)
    for key, value in found.items():
        print(f"{key}: {value}")
    if missing := [variant for variant in VARIANTS if f"best_val_bpb_{variant}" not in found]:
        sys.exit(f"bench_night: not measured: {', '.join(missing)}: --variants={','.join(missing)} --out={out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="of each night (default: 20)")
    parser.add_argument("--budget_seconds", type=float, default=10.0, help="of each trial (default: 10)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", default=",".join(VARIANTS), help="a part of them, by commas")
    parser.add_argument("--data_dir", help="folder of the dataset; it is prepared if it is not there")
    parser.add_argument("--out", type=Path, help="folder of results; default: a new one")
    parser.add_argument("--save", action="store_true", help="the plot becomes docs/night.svg")
    parser.add_argument("--measure_only", action="store_true", help="no night: the champions stored in --out again")
    parser.add_argument("--report_only", action="store_true", help="plot and table of what is stored in --out")
    parser.add_argument("--quick", action="store_true", help="to see that it works; no figures to quote")
    args = parser.parse_args()
    variants = [variant for variant in VARIANTS if variant in args.variants.split(",")]
    if unknown := set(args.variants.split(",")) - set(VARIANTS):
        parser.error(f"--variants={args.variants}: no {min(unknown)!r}; there are {', '.join(VARIANTS)}")
    if args.minutes <= 0 or args.budget_seconds <= 0 or args.seed < 0:
        parser.error("--minutes and --budget_seconds must be positive, --seed not negative")
    if args.out is None and (args.report_only or args.measure_only):
        parser.error("--report_only and --measure_only need --out, the folder that the nights are stored in")
    out = (args.out or Path(tempfile.mkdtemp(prefix="bench_night_"))).absolute()
    minutes, budget_seconds = (1.0, 2.0) if args.quick else (args.minutes, args.budget_seconds)
    options = Options(60 * minutes, budget_seconds, args.seed, args.data_dir, args.quick)
    if not args.report_only:
        out.mkdir(parents=True, exist_ok=True)
        stored(out, options.settings)  # before hours go into what they cannot be compared with
        command = ["autoresearch", "prepare", *options.dataset_flags]
        status, _ = call(command, SHIPPED, out / "prepare")
        if status:
            give_up(command, status, out / "prepare")
        for variant in [] if args.measure_only else variants:
            run_night(variant, options, out)
        nights = [night for night in stored(out) if night.variant in variants]
        for night in measure_again(nights, options, out):
            save(night, out / night.variant / "night.json")
    report(out, SHIPPED / "docs" / "night.svg" if args.save else None)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("bench_night: interrupted; nights that were over are stored, --measure_only goes on with them")
