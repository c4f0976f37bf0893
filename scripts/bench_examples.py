"""Runs each example for some minutes and audits what it found; called by bench_examples.sh.

Each example runs in a repository of its own in a temporary folder. The last lines are `key: value`:
  postgres_p95_ratio   champion's p95 latency on the holdout over the baseline's
  routing_gain         champion's accuracy on the holdout minus the baseline's
  retrieval_gain       the same of MRR@10
  page_ratio           champion's score on the holdout over the baseline's
none where an example was not measured or nothing was certified, with the reason above. The champion may hold edits that
were kept and not certified: the line of each example has both numbers. With --null:
  null_certified_per_100   certified among ideas without effect on routing
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench_conditions import IDENTITY

EXAMPLES = {
    "postgres": "postgres_p95_ratio",
    "routing": "routing_gain",
    "retrieval": "retrieval_gain",
    "page": "page_ratio",
}
TAG = "bench"
STOP = re.compile(r"(?<=^## Stop when\n)(\n*- .*)+", re.MULTILINE)
AUDIT_RUNS = 2

NULL_PAGE = """# Ideas without effect

## You may change

| constant | values       | note                                  |
|----------|--------------|---------------------------------------|
| `DRAW`   | 1 .. 1000000 | which texts get the second best label |

## Stop when

- 100 experiments
"""
NULL_CLASSIFIER = '''"""Naive Bayes that gives a part of the texts, drawn by their hash, the second best label."""

import hashlib
import math
from collections import Counter

DRAW = 1
SHARE = 0.2


class Model:
    def __init__(self, texts, labels):
        self._words = {label: Counter() for label in labels}
        for text, label in zip(texts, labels):
            self._words[label].update(text.lower().split())
        self._total = {label: words.total() + 1000 for label, words in self._words.items()}
        self._prior = Counter(labels)

    def predict(self, texts):
        return [sorted(self._prior, key=lambda label: -self._score(text, label))[is_drawn(text)] for text in texts]

    def _score(self, text, label):
        words, total = self._words[label], self._total[label]
        return math.log(self._prior[label]) + sum(math.log((words[w] + 0.1) / total) for w in text.lower().split())


def is_drawn(text):
    return int(hashlib.sha256(f"{DRAW} {text}".encode()).hexdigest()[:8], 16) < SHARE * 2**32


def train(texts, labels, seed):
    return Model(texts, labels)
'''


class NotMeasured(Exception):
    """An example has no figure; the message says why."""


class Bench:
    """One example in a repository of its own, of which `autoresearch` reads and writes alone."""

    def __init__(self, name: str, scratch: Path) -> None:
        """Copies the example, and makes its data."""
        self._repository, self._example = scratch / name, scratch / name / "examples" / name
        ignored = shutil.ignore_patterns("data", "__pycache__")
        try:
            shutil.copytree(Path("examples", name), self._example, ignore=ignored)
        except OSError as error:
            raise NotMeasured(f"there is no examples/{name}") from error
        shutil.copy(".gitignore", self._repository)
        if (self._example / "prepare.py").exists():
            self._call([sys.executable, f"examples/{name}/prepare.py"])
        self._flags = [f"--flagfile=examples/{name}/run.flags", f"--tag={TAG}"]

    def replace(self, name: str, text: str) -> None:
        """Writes one of the example's files."""
        (self._example / name).write_text(text, encoding="utf-8")

    def run(self, *flags: str, minutes: float | None = None) -> None:
        """A run of the loop; `minutes` stand in place of the page's stopping list."""
        if minutes is not None:
            page = (self._example / "program.md").read_text(encoding="utf-8")
            text, count = STOP.subn(f"\n- {minutes:g} minutes", page)
            assert count == 1, "program.md has one stopping list"
            self.replace("program.md", text)
        for arguments in (["init", "--quiet"], ["add", "."], [*IDENTITY, "commit", "--quiet", "--message=Example"]):
            self._call(["git", *arguments])
        self._call(["autoresearch", "run", *self._flags, "--proposer=constants", *flags])

    def status(self) -> Mapping[str, float]:
        """The figures of the run."""
        return json.loads(self._call(["autoresearch", "status", f"--tag={TAG}", "--format=json"]))

    def audit(self) -> Mapping[str, Mapping[str, float]]:
        """Scores of baseline and champion."""
        command = ["autoresearch", "audit", f"--tag={TAG}", f"--runs={AUDIT_RUNS}", "--format=json"]
        findings = json.loads(self._call(command))
        print(f"  audit: {findings['verdict']}: {findings['in_words']}", flush=True)
        return {row["subject"]: row for row in findings["subjects"]}

    def _call(self, command: Sequence[str]) -> str:
        done = subprocess.run(command, cwd=self._repository, capture_output=True, text=True)
        if done.returncode != 0:
            last = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
            raise NotMeasured(f"{Path(command[0]).name} {command[1]}: exit status {done.returncode}: {last}")
        return done.stdout


def measure(name: str, minutes: float, scratch: Path) -> float:
    """The figure of one example.

    Raises:
      NotMeasured: it has none.
    """
    bench, start = Bench(name, scratch), time.monotonic()
    bench.run(minutes=minutes)
    wall, found = (time.monotonic() - start) / 60, bench.status()
    kept = f"{found.get('keep', 0)} kept, {found['certified']} certified, {found['reverted']} reverted"
    share = found.get("attended_share")  # how much trials had the machine; on a busy one there are fewer of them
    print(f"{name}: {found['experiments']} experiments in {wall:.1f} minutes, {kept}; attended {share}", flush=True)
    if not found["certified"]:
        raise NotMeasured("nothing was certified")
    scores = bench.audit()
    baseline, champion = (scores[subject]["holdout"] for subject in ("baseline", "champion"))
    if baseline is None or champion is None:
        raise NotMeasured("the audit has no score on the holdout")
    print(f"  holdout: baseline {baseline:.4g}, champion {champion:.4g}", flush=True)
    return champion / baseline if EXAMPLES[name].endswith("ratio") else champion - baseline


def measure_null(experiments: int, scratch: Path) -> float:
    """Certified among 100 ideas that change which texts are wrong and not how many are to be expected."""
    bench = Bench("routing", scratch)
    bench.replace("classifier.py", NULL_CLASSIFIER)
    bench.replace("program.md", NULL_PAGE)
    bench.run(f"--experiments={experiments}")
    found = bench.status()
    print(f"{found['experiments']} ideas, {found.get('keep', 0)} kept, {found['certified']} certified", flush=True)
    return 100 * found["certified"] / found["experiments"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(EXAMPLES), help="names, with commas between them")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--null", type=int, help="ideas without effect, in place of the examples")
    given = parser.parse_args()
    names = given.only.split(",")
    if unknown := set(names) - set(EXAMPLES):
        parser.error(f"--only: no example {', '.join(sorted(unknown))}; there are {', '.join(EXAMPLES)}")
    figures: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in names if given.null is None else ["null"]:
            key = EXAMPLES.get(name, "null_certified_per_100")
            try:
                figures[key] = (
                    measure_null(given.null, Path(scratch))
                    if name == "null"
                    else measure(name, given.minutes, Path(scratch))
                )
            except NotMeasured as reason:
                print(f"{name}: not measured: {reason}", flush=True)
                figures[key] = None
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for key in EXAMPLES.values() if given.null is None else figures:
        value = figures.get(key)
        print(f"{key}: {'none' if value is None else f'{value:.4g}'}")
    sys.exit(1 if None in figures.values() else 0)


if __name__ == "__main__":
    main()
