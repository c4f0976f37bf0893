"""Run folders of made-up experiments: real ledgers, sources, logs and decisions, and nothing is trained."""

import hashlib
import json
import random
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from ideas import AGENTS, HOSTILE, SOURCE, Idea, apply_all, draw_idea, with_hostile_words
from made_up_trials import BUDGET_SECONDS, draw_metrics, loss_curve, total_seconds, write_exchange, write_loss_file

from autoresearch_jax.assets.base import ConstantValue
from autoresearch_jax.assets.python_constants import read_constants
from autoresearch_jax.decide.certification import (
    CertificationSettings,
    MeasureChampion,
    decide_revert,
    is_due,
    next_step,
)
from autoresearch_jax.decide.lineage import Lineage
from autoresearch_jax.decide.noise import mean_of, next_paired_seed
from autoresearch_jax.decide.pruning import Pruning
from autoresearch_jax.decide.rule import Action, Complexity, Decision, LineageRule
from autoresearch_jax.engine.briefs import LOSS_CURVE
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.plan import draw_seed
from autoresearch_jax.engine.recorder import kept_or_not, write_results
from autoresearch_jax.engine.records import Intent, Kind, Purpose, TrialRow
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.proposers.base import CERTIFICATION
from autoresearch_jax.types import (
    CURVE_POINTS,
    HOLDOUT_SCORE,
    LOSSES,
    Measurement,
    Metric,
    Scalar,
    Status,
    write_curve,
)

METRIC = Metric("val_bpb")
SIGMA = 0.002  # standard deviation of a run
BASELINE_SCORE = 1.12
BEGAN_AT = 1_796_335_200.0
KILLED_AFTER = 97  # experiments of a process
PRUNED_BELOW = -2.5  # gain in sigma
AUDIT_RUNS = 3
FAILURES = (  # with their shares of all proposals
    (0.05, Status.REJECTED, "line 212: `jax.debug.callback` is a callback: a program only computes"),
    (0.04, Status.CRASH, "XLA says: dot_general requires contracting dimensions of one size"),
    (0.02, Status.OOM, "the step needs 5.2 GiB and the device has 4.0 GiB"),
    (0.015, Status.TIMEOUT, "compile took longer than 120 s"),
    (0.01, Status.NONFINITE, "the loss is nan at step 212"),
    (0.005, Status.INVALID, "its logits see the future: position 17 changes with token 18"),
    (0.05, Status.DUPLICATE, ""),
)


class NightWriter:
    """Writes a run experiment by experiment, with the decisions of the default rule; equal seeds give equal runs.

    The settings are stored by `save`. The ledger computes no scores before, which would take minutes for thousands of
    experiments, and an experiment is one transaction.
    """

    def __init__(self, path: Path, seed: int = 0, *, count: int = 100, hostile: bool = False) -> None:
        """Begins a run.

        Args:
          path: its folder.
          count: about how many experiments it will have; gains are rarer at its end.
          hostile: puts `HOSTILE` in place of words, and into the sources.
        """
        self.folder = RunFolder(path)
        self.folder.create()
        self.now = BEGAN_AT
        self.ledger = Ledger.open(self.folder.ledger, clock=lambda: self.now)
        self.count = 0
        self._seed, self._most, self._hostile = seed, count, hostile
        self._draw = random.Random(seed)
        self._rule, self._certification = LineageRule(METRIC), CertificationSettings()
        self._lineage = Lineage(-1, learn_again=1.3)
        self._ideas: dict[int, Idea] = {}
        self._trials: list[tuple[int, int, Purpose, float]] = []  # experiment, seed, purpose and score
        self._champion = self._measured = 0  # what was kept last, and the experiment that has its trials
        self._source = SOURCE  # the champion's, as `_constants` and `_hash` are
        self._constants: Mapping[str, ConstantValue] = read_constants(SOURCE)
        self._hash, self._commit = _sha256("baseline"), _sha256("start")[:40]
        self._looked_at: set[int] = set()
        self._keeps = self._certification_runs = 0
        self._session = self.ledger.begin_session()
        self._is_saved = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ledger.close()

    def write(self, count: int) -> None:
        """Adds experiments until there are `count`, the baseline among them."""
        while self.count < count:
            with nullcontext() if self._is_saved else self.ledger.transaction():
                if self.count == 0:
                    self._write_baseline()
                elif is_due(self._keeps, self._certification):
                    self._certify()
                else:
                    self._write_proposal()
            self.ledger.open_experiments(), self.ledger.open_trials()  # what is concluded is not read again
            if self.count % KILLED_AFTER == 0:  # another process goes on an hour later
                self.now += 3600
                self._session = self.ledger.begin_session()

    def save(self) -> None:
        """Stores the settings, and writes run.json and results.tsv."""
        settings: dict[str, Scalar] = {
            "editable": "train_lib.py",
            "seed": self._seed,
            "metric": METRIC.name,
            "direction": METRIC.direction,
            "budget_seconds": BUDGET_SECONDS,
            "budget_steps": None,
            "fingerprint": f"{_sha256('dataset')}-32768",
            "platform": "cpu",
            "device_kind": "2 x AMD EPYC with features 3a9985ab",
            "num_devices": 1,
            "mesh": "data=1,model=1",
            "jax_version": "0.12.0.1",
            "clock": "attended",
            **self._rule.settings,
            **self._certification.settings,
            **Pruning().settings,
            "reference_seconds": 0.0123,
            "eval_bundle": _sha256("eval bundle"),
        }
        self.ledger.save_settings(settings)
        self.folder.write_settings(self.ledger.settings())
        write_results(self.folder.results, self.ledger, METRIC)
        self._is_saved = True

    def end(self, reason: str = "8 hours reached") -> None:
        """Ends the process that works on the run."""
        self.ledger.end_session(self._session, reason)

    def audit(self) -> None:
        """Audits baseline and champion on the holdout."""
        question = json.dumps({"champion": self._champion, "kind": "holdout", "runs": AUDIT_RUNS}, sort_keys=True)
        for run in range(AUDIT_RUNS):
            for subject, experiment in (("baseline", 0), ("champion", self._measured)):
                trial = self.ledger.begin_audit_trial(
                    experiment, run, split="holdout", audit=1, question=question, subject=subject
                )
                found = self._drawn(trial, self._true_score(self._lineage.programs[experiment].contents))
                assert found.value is not None
                holdout = found.value + 0.03 + self._draw.gauss(0, SIGMA)
                self.ledger.finish_trial(trial.id, replace(found, metrics={**found.metrics, HOLDOUT_SCORE: holdout}))
        self.ledger.answer_audit(1)

    def begin(self) -> TrialRow:
        """Begins an experiment and its first trial, and leaves both open; `finish` goes on."""
        number = self._begin(self._draw_idea())
        return self.ledger.begin_trial(number, self._next_seed(number, Purpose.CANDIDATE))

    def finish(self, trial: TrialRow) -> None:
        """Finishes what `begin` began."""
        self._finish(trial, trial.experiment)
        self._decide(trial.experiment)

    def _write_baseline(self) -> None:
        baseline = Intent(Kind.BASELINE, SOURCE, self._constants, "baseline", parent_commit=self._commit)
        number = self._enter(baseline)
        self.ledger.set_program(number, self._hash)
        runs = self._rule.baseline_runs
        for _ in range(runs):
            self._measure(number, Purpose.CHAMPION)
        self._conclude(number, Decision(Action.KEEP, f"the baseline, {runs} runs; they scatter by {SIGMA:.2g}"))

    def _write_proposal(self) -> None:
        number = self._begin(self._draw_idea())
        fate = self._draw.random()
        for share, status, error in FAILURES:
            fate -= share
            if fate < 0:
                return self._fail(number, status, error)
        if self._ideas[number].gain < PRUNED_BELOW and number > 20:
            trial = self._begin_trial(number, Purpose.CANDIDATE)
            curve = loss_curve(BASELINE_SCORE * 1.3)[: self._draw.randint(4, 10)]
            words = f"stopped at {len(curve) / CURVE_POINTS:.0%} of the budget: its loss was {curve[-1]:.4g}"
            metrics = {**self._metrics(len(curve) / CURVE_POINTS, trial), LOSSES: write_curve(curve)}
            self._finish_with(trial, Measurement(Status.PRUNED, None, trial.seed, metrics, error=words))
            return self._conclude(number, Decision(Action.DISCARD, words), Status.PRUNED)
        self._measure(number, Purpose.CANDIDATE)
        self._decide(number)
        return None

    def _fail(self, number: int, status: Status, error: str) -> None:
        if status is Status.DUPLICATE:
            self.ledger.set_program(number, self._hash)
            is_shorter = self._draw.random() < 0.2
            words = "with 3 fewer syntax nodes: a proven refactoring" if is_shorter else "in a text that is no shorter"
            reason = f"the same program as the champion (experiment {self._measured}) {words}"
            action = Action.KEEP if is_shorter else Action.DISCARD
            return self._conclude(number, Decision(action, reason), status)
        if status is not Status.REJECTED:
            trial = self._begin_trial(number, Purpose.CANDIDATE)
            metrics = self._metrics(0.0, trial)
            self._finish_with(trial, Measurement(status, None, trial.seed, metrics, error=self._said(error)))
        return self._conclude(number, Decision(Action.DISCARD, self._said(error)), status)

    def _decide(self, number: int) -> None:
        """Carries out what the rule asks for after the first run of an experiment."""
        while True:
            complexity = Complexity(nodes_added=self._ideas[number].nodes_added)
            decision = self._rule.decide(self._lineage, number, complexity)
            self.ledger.record_decision(number, decision)
            if decision.action is Action.MEASURE_CANDIDATE:
                self._measure(number, Purpose.CANDIDATE)
            elif decision.action is Action.MEASURE_CHAMPION:
                self._measure(self._measured, Purpose.CHAMPION)
            else:
                break
        if decision.action.keeps:
            self._measure(number, Purpose.CHAMPION)
            self._keeps += 1
        self._conclude(number, decision)

    def _certify(self) -> None:
        """Takes doubtful edits out, as often as certification asks for it."""
        self._keeps = 0
        spent = self._certification_runs
        step = next_step(self._lineage, self._looked_at, spent, self._certification, at_end=False)
        if step is None or isinstance(step, MeasureChampion):
            return
        self._looked_at |= set(step.edits)
        source = apply_all([self._ideas[edit] for edit in sorted(self._lineage.champion - set(step.edits))])
        words = f"without {', '.join(map(str, step.edits))}"
        intent = Intent(Kind.REVERT, source, read_constants(source), words, "revert", CERTIFICATION)
        number = self._enter(self._of_champion(intent, without=step.edits))
        self.ledger.set_program(number, _sha256(f"program {number}"))
        decision = None
        while decision is None or decision.action is Action.MEASURE_CANDIDATE:
            if decision is not None:
                self.ledger.record_decision(number, decision)
            self._measure(number, Purpose.CERTIFY, without=step.edits)
            self._certification_runs += 1
            decision = decide_revert(self._lineage, number, METRIC)
        self.ledger.record_decision(number, decision)
        if decision.action.keeps:
            self._measure(number, Purpose.CHAMPION)
        self._conclude(number, decision)

    def _draw_idea(self) -> Idea:
        idea = draw_idea(self._draw, self._source, min(1.0, self.count / self._most))
        return with_hostile_words(idea, self._draw) if self._hostile else idea

    def _begin(self, idea: Idea) -> int:
        is_asked = idea.proposer == AGENTS[0]
        cost = write_exchange(self.folder.llm_dir(self.count), self._draw, AGENTS[0]) if is_asked else 0.0
        self.now += self._draw.uniform(8, 30) if is_asked else 0.5
        constants = {**self._constants, **idea.constants}
        intent = Intent(Kind.PROPOSAL, idea.apply(self._source), constants, idea.words, idea.category, idea.proposer)
        number = self._enter(replace(self._of_champion(intent), cost_dollars=cost))
        self._ideas[number] = idea
        self.ledger.set_program(number, _sha256(f"program {number}"))
        return number

    def _of_champion(self, intent: Intent, without: tuple[int, ...] = ()) -> Intent:
        return replace(intent, parent=self._champion, parent_commit=self._commit, without=without)

    def _enter(self, intent: Intent) -> int:
        self.count += 1
        self._began = self.now
        return self.ledger.begin_experiment(intent).id

    def _conclude(self, number: int, decision: Decision, status: Status = Status.OK) -> None:
        is_kept = decision.action.keeps
        runs = [run for run in self._trials if run[0] == (self._measured if status is Status.DUPLICATE else number)]
        fresh = [run for run in runs if run[2] is not Purpose.CANDIDATE] or runs
        score = mean_of([run[3] for run in fresh]) if status in (Status.OK, Status.DUPLICATE) else None
        commit = self._commit if number == 0 else _sha256(f"commit {number}")[:40]
        self.now += 1
        self.ledger.conclude(
            number,
            status,
            score,
            kept_or_not(decision),
            decision.reason,
            None if status is Status.REJECTED else commit,
            self.now - self._began,
            simplification=decision.action is Action.KEEP_SIMPLER,
        )
        if number in self._lineage.programs:
            self._lineage.conclude(number, kept=is_kept)
        if is_kept:
            self._champion, self._commit, self._source = number, commit, self.ledger.source(number)
            self._constants = {**self._constants, **self._ideas[number].constants} if number in self._ideas else {}
            if not self._constants:
                self._constants = read_constants(self._source)
            if status is Status.OK:
                self._measured, self._hash = number, _sha256(f"program {number}") if number else self._hash

    def _measure(self, number: int, purpose: Purpose, without: tuple[int, ...] = ()) -> None:
        self._finish(self._begin_trial(number, purpose), number, without)

    def _begin_trial(self, number: int, purpose: Purpose) -> TrialRow:
        return self.ledger.begin_trial(number, self._next_seed(number, purpose), purpose)

    def _finish(self, trial: TrialRow, number: int, without: tuple[int, ...] = ()) -> None:
        if number not in self._lineage.programs:
            self._lineage.begin(number, without=without)
        found = self._drawn(trial, self._true_score(self._lineage.programs[number].contents))
        assert found.value is not None
        self._finish_with(trial, found)
        self._trials.append((number, trial.seed, trial.purpose, found.value))
        self._lineage.observe(number, found.value, trial.seed)

    def _finish_with(self, trial: TrialRow, found: Measurement) -> None:
        self.ledger.finish_trial(trial.id, found)

    def _next_seed(self, number: int, purpose: Purpose) -> int:
        used = [seed for experiment, seed, _, _ in self._trials if experiment == number]
        seed = None
        if purpose is not Purpose.CHAMPION:
            of_champion = [seed for experiment, seed, _, _ in self._trials if experiment == self._measured]
            seed = next_paired_seed(of_champion, used, number)
        return draw_seed(self._seed, number, len(used)) if seed is None else seed

    def _true_score(self, contents: frozenset[int]) -> float:
        return BASELINE_SCORE - SIGMA * sum(self._ideas[edit].gain for edit in contents)

    def _drawn(self, trial: TrialRow, true_score: float) -> Measurement:
        """A trial that ends well; its time passes."""
        score = true_score + self._draw.gauss(0, SIGMA)
        metrics = {**self._metrics(1.0, trial), LOSSES: write_curve(loss_curve(score))}
        write_loss_file(self.folder.log_dir(trial.experiment) / LOSS_CURVE, self._draw, score)
        return Measurement(Status.OK, score, trial.seed, metrics)

    def _metrics(self, share: float, trial: TrialRow) -> dict[str, Scalar]:
        metrics = draw_metrics(self._draw, share, trial.experiment)
        self.now += total_seconds(metrics)
        return metrics

    def _said(self, error: str) -> str:
        return f"{error} {self._draw.choice(HOSTILE)}" if self._hostile else error


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_night(path: Path, count: int, seed: int = 0, *, hostile: bool = False, audited: bool = False) -> RunFolder:
    """Writes a run that is over, of `count` experiments with the baseline."""
    with NightWriter(path, seed, count=count, hostile=hostile) as night:
        night.write(count)
        if audited:
            night.audit()
        night.end()
        night.save()
        return night.folder
