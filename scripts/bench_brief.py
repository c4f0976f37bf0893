"""Measures the beginning that pages of consecutive experiments share, in a real run; called by bench_brief.sh.

An agent with a command line changes a comment and the code of the demo's training file, another way for each
experiment, so that most are measured and discarded or kept by the rule as it comes. The third experiment takes out a
statement that does nothing, which is put into the middle of the file before the run: the same program in a shorter
text, so it is kept without a trial. Pages are compared as they were stored in `llm/`: bytes that both begin with, over
the bytes of the later one.

The last lines:
  brief_bytes                     of the last page
  brief_fixed_bytes               of it, instructions, contract, program.md and the champion's source
  shared_prefix_share_after_keep  the mean over pairs of pages with a keep between them
  shared_prefix_share             the least of pairs without one (wanted: at least 0.6)
"""

import argparse
import re
import subprocess
import sys
import tempfile
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from bench_conditions import DEMO, make_repository

from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.run_folder import RunFolder

TAG = "brief"
IDLE = "_ = 0 + 0  # does nothing"
AGENT = r"""
n=$(sed -n 's/^# Experiment //p' BRIEF.md)
case $n in
  3) sed -i '/^_ = 0 + 0/d' train_lib.py ;;
  *) sed -i "s/^SOFTCAP = .*/SOFTCAP = 1$n.5  # try $n, softer than before/" train_lib.py ;;
esac
printf 'another softcap, number %s: smaller logits at the start\ncategory: numerics\n' $n > HYPOTHESIS.md
"""


def main() -> None:
    """Runs, compares and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--experiments", type=int, default=6)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-brief-") as scratch:
        repository = Path(scratch) / "repository"
        parts = Path("train_lib.py").read_text(encoding="utf-8").split("\n\n\n")  # between definitions
        source = "\n\n\n".join([*parts[: len(parts) // 2], IDLE, *parts[len(parts) // 2 :]])
        make_repository(repository, {"train_lib.py": source})
        (repository / "agent.sh").write_text(AGENT)
        command = [
            *("autoresearch", "run", DEMO, f"--tag={TAG}", "--proposer=command", "--seed=0", "--baseline_runs=2"),
            *(f"--agent_command=sh {repository / 'agent.sh'}", f"--budget_steps={options.steps}", "--min_steps=1"),
            *("--set=DEPTH=1", f"--experiments={options.experiments}", "--max_runs=1", "--certify_share=0"),
        ]
        ended = subprocess.run(command, cwd=repository, stdout=sys.stderr, check=False)
        if ended.returncode:
            sys.exit(f"bench_brief: {' '.join(command)}: {ended.returncode}")
        report(RunFolder(repository / "runs" / TAG))


def report(folder: RunFolder) -> None:
    """Prints the figures of a run; ends the script if one of them cannot be measured."""
    with closing(Ledger.open_to_read(folder.ledger)) as ledger:
        kept = {row.id for row in ledger.experiments() if row.decision is Action.KEEP}
    pages = {int(path.parent.name): path.read_bytes() for path in folder.exchanges.glob("*/BRIEF.md")}
    shares = {number: shared_share(pages[before], pages[number]) for before, number in pairwise(sorted(pages))}
    fixed = {number: fixed_part(page) for number, page in pages.items()}
    after_keep = {number for before, number in pairwise(sorted(pages)) if fixed[before] != fixed[number]}
    print(f"experiments kept: {sorted(kept - {0})}")
    for number, share in shares.items():
        print(f"page {number}: {len(pages[number])} bytes, {share:.3f} as before{' (a keep)' * (number in after_keep)}")
    without = [share for number, share in shares.items() if number not in after_keep]
    with_keep = [share for number, share in shares.items() if number in after_keep]
    if not without or not with_keep:
        sys.exit("bench_brief: no pair of pages with a keep between them and one without: set more --experiments")
    print(f"brief_bytes: {len(pages[max(pages)])}")
    print(f"brief_fixed_bytes: {len(fixed[max(pages)])}")
    print(f"shared_prefix_share_after_keep: {fmean(with_keep):.3f}")
    print(f"shared_prefix_share: {min(without):.3f}")


def shared_share(before: bytes, page: bytes) -> float:
    """Bytes that two pages begin with, over those of the later one."""
    same = next((n for n, (one, other) in enumerate(zip(before, page, strict=False)) if one != other), len(before))
    return min(same, len(page)) / len(page)


def fixed_part(page: bytes) -> bytes:
    """A page up to the end of the champion's source."""
    found = re.search(rb"(?s).*?\n## The champion's source.*?\n(`{3,})python\n.*?\n\1\n", page)
    assert found is not None
    return found[0]


if __name__ == "__main__":
    main()
