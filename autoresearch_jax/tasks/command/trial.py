"""One trial of a command: the candidate run or served, beside the champion where the metric is a latency."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.files import write_json
from autoresearch_jax.sandbox.process import WatchError
from autoresearch_jax.sandbox.sandbox import scratch_folder
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.tasks.command.asset import AssetProcess, Cage, copy_written, untouched
from autoresearch_jax.tasks.command.evaluator import Evaluation, EvaluatorFailed
from autoresearch_jax.tasks.command.programs import SCRATCH
from autoresearch_jax.tasks.command.task_file import HOLDOUT, LATENCY, VAL
from autoresearch_jax.tasks.command.timebox import AssetFailed
from autoresearch_jax.types import Candidate, CandidateRejected, CandidateUntouched, Scalar, Status

ASSET_LOG = "asset.log"
CHAMPION_LOG = "champion.log"
REFERENCE = "reference.json"  # in the logs of an experiment: its text and its scores, for trials of others
CONTROL = "control"  # in the logs of an experiment: those of the champion, evaluated where the evaluator failed
MAX_EVALUATIONS = 3  # of what a run wrote, while the evaluator fails
TURNS = 3  # of each of the two, where the metric is a latency
ProgressCallback = Callable[[Mapping[str, Scalar]], None]
# split, the service that is asked or None, what a run wrote or None, which turn
Evaluate = Callable[[str, AssetProcess | None, Path | None, int], Evaluation]


@dataclass(frozen=True)
class Reference:
    """What other trials are compared with: a text, the mean of its scores so far, and a seed that it scored with."""

    source: str
    value: float
    seed: int


class Trial:
    """One trial: the candidate at work, beside the champion where the metric is a latency."""

    def __init__(
        self,
        cage: Cage,
        candidate: Candidate,
        budget_seconds: float,
        seed: int,
        log_dir: Path,
        evaluate: Evaluate,
        prepare: Callable[[str], Candidate],
        on_progress: ProgressCallback | None,
    ) -> None:
        """Starts nothing yet; `prepare` makes a candidate of the champion's text."""
        self._cage, self._candidate, self._budget_seconds = cage, candidate, budget_seconds
        self._evaluate_asset, self._prepare = evaluate, prepare
        self._task, self._seed, self._log_dir = cage.task, seed, log_dir
        self._tell = on_progress or (lambda report: None)
        self._asset: AssetProcess | None = None
        self._peak_memory_bytes = 0.0
        self._figures: Mapping[str, Scalar] = {}
        self._more: dict[str, Scalar] = {}
        self.out: Path | None = None  # what a run wrote, until the stack is closed

    def evaluate(self, splits: Sequence[str], reference: Reference | None, stack: ExitStack) -> dict[str, Evaluation]:
        """The candidate's evaluation on each split; what is left until the stack is closed is removed then.

        Called again it evaluates what the run wrote; a service is started again.

        Raises:
          AssetFailed: the candidate failed.
          EvaluatorFailed: the evaluator did.
        """
        try:
            if self._task.run is not None:
                if self.out is None:
                    self._run(stack)
                return {split: self._evaluate(split, None) for split in splits}
            asset = self._serve(self._candidate, ASSET_LOG, stack)
            if self._task.metric.noise != LATENCY:
                return {split: self._evaluate(split, asset) for split in splits}
            champion = None if reference is None else self._serve_champion(reference, asset, stack)
            value, last = self._take_turns(asset, champion, reference)
            found = {VAL: Evaluation(value, None, last.metrics)}
            if HOLDOUT in splits:
                turns = [self._evaluate(HOLDOUT, asset, turn) for turn in range(TURNS)]
                found[HOLDOUT] = Evaluation(statistics.median(turn.value for turn in turns))
            return found
        finally:
            self._close()

    def figures(self) -> dict[str, Scalar]:
        """Metrics of the trial."""
        used: dict[str, Scalar] = {
            "peak_memory_bytes": int(self._peak_memory_bytes),
            "sandbox": str(self._cage.sandbox.level),
        }
        return {**self._figures, **used, **self._more}

    def _close(self) -> None:
        if self._asset is not None:
            self._figures = self._asset.box.figures()
            self._peak_memory_bytes = self._asset.close()
            self._asset = None

    def _run(self, stack: ExitStack) -> None:
        assert self._task.run is not None
        folder = stack.enter_context(scratch_folder(SCRATCH))
        scratch, copies = folder / "cage", folder / "copies"
        out = scratch / "out"
        out.mkdir(parents=True)
        copies.mkdir()
        self._report("run")
        self._asset = self._start("run", self._task.run.command, scratch, {"OUT": str(out)}, self._candidate, ASSET_LOG)
        self._asset.run_to_end(
            lambda spent: self._tell({"phase": "run", "elapsed_seconds": spent, "budget_seconds": self._budget_seconds})
        )
        copy_written(out, copies / "out")
        self.out = copies / "out"

    def _serve(self, candidate: Candidate, log: str, stack: ExitStack) -> AssetProcess:
        """Starts a service, and waits until it can be asked."""
        serve = self._task.serve
        assert serve is not None
        self._report("start")
        scratch = stack.enter_context(scratch_folder(SCRATCH))
        asset = self._start("serve", serve.command, scratch, {}, candidate, log, serve.speaks)
        stack.callback(asset.close)
        self._asset = self._asset or asset
        asset.await_ready(serve.speaks, self._task.budget.start_seconds)
        return asset

    def _start(
        self,
        what: str,
        command: Sequence[str],
        scratch: Path,
        variables: Mapping[str, str],
        candidate: Candidate,
        log: str,
        speaks: str | None = None,
    ) -> AssetProcess:
        assert candidate.programs_dir is not None
        try:
            return AssetProcess(
                *(self._cage, what, command, scratch, candidate.programs_dir.resolve()),
                seconds=self._budget_seconds,
                log_path=self._log_dir / log,
                variables={"SEED": str(self._seed), "BUDGET_SECONDS": f"{self._budget_seconds:g}", **variables},
                speaks=speaks,
            )
        except OSError as error:
            raise untouched(error) from error

    def _serve_champion(self, reference: Reference, asset: AssetProcess, stack: ExitStack) -> AssetProcess:
        """Serves the champion beside the candidate, which stands still meanwhile."""
        _freeze(asset)
        try:
            champion = self._prepare(reference.source)
            return self._serve(champion, CHAMPION_LOG, stack)
        except Exception as error:
            raise _champion_failed(error) from error

    def _take_turns(
        self, asset: AssetProcess, champion: AssetProcess | None, reference: Reference | None
    ) -> tuple[float, Evaluation]:
        """The score of a latency, and the evaluation of the candidate's last turn."""
        own: list[float] = []
        others: list[float] = []
        for turn in range(TURNS):
            if champion is not None:
                _freeze(asset)
                champion.process.thaw()
                try:
                    others.append(self._evaluate(VAL, champion, turn).value)
                except AssetFailed as error:
                    raise _champion_failed(error) from error
                except EvaluatorFailed as error:  # of which the candidate, which stands still, is no cause
                    raise CandidateUntouched(f"in the champion's turn, {error}") from error
                champion.process.freeze()
                asset.process.thaw()
            last = self._evaluate(VAL, asset, turn)
            own.append(last.value)
        value = statistics.median(own)
        if reference is not None:
            beside = statistics.median(others)
            if beside == 0:
                raise _champion_failed(ValueError("its own score is 0, to which nothing is in proportion"))
            self._more = {"own_median": value, "champion_median": beside}
            value *= reference.value / beside
        return value, last

    def _evaluate(self, split: str, asset: AssetProcess | None, turn: int = 0) -> Evaluation:
        self._report(f"evaluate {split}")
        return self._evaluate_asset(split, asset, self.out, turn)

    def _report(self, phase: str) -> None:
        self._tell({"phase": phase})


def _freeze(asset: AssetProcess) -> None:
    """Stops the candidate; that it cannot be stopped is its own fault."""
    try:
        asset.process.freeze()
    except WatchError as error:
        raise AssetFailed(Status.CRASH, str(error)) from error


def evaluate_fairly(
    trial: Trial,
    splits: Sequence[str],
    reference: Reference | None,
    make_control: Callable[[], Trial] | None,
    stack: ExitStack,
) -> dict[str, Evaluation]:
    """As `Trial.evaluate`; where the evaluator fails, it has to score the champion now, else the task is at fault.

    What a run wrote is evaluated up to MAX_EVALUATIONS times. A service has one chance: one that makes the evaluator
    fail when it is about to score badly would draw again.

    Args:
      trial: of the candidate.
      splits: see `Trial.evaluate`.
      reference: the same.
      make_control: a trial of the champion; None where there is none.
      stack: see `Trial.evaluate`.

    Raises:
      AssetFailed: the candidate failed, or the evaluator fails on it alone, which is INVALID.
      EvaluatorFailed: the evaluator failed, on the champion as well where there is one.
    """
    control: Trial | None = None
    for left in reversed(range(MAX_EVALUATIONS)):
        try:
            return trial.evaluate(splits, reference, stack)
        except EvaluatorFailed as failure:
            if make_control is None:
                raise
            if trial.out is None:
                stack.close()  # ends what is served
            try:
                control = control or make_control()
                control.evaluate([VAL], None, stack)
            except EvaluatorFailed as other:
                remedy = "mend what it needs; with another evaluator begin a run with another --tag"
                raise EvaluatorFailed(f"{failure}; it fails on the champion, too: {remedy}", other.what) from failure
            except (AssetFailed, CandidateRejected, CandidateUntouched) as error:
                words = f"{failure}; the champion cannot be evaluated, either: {clean_line(str(error))}"
                raise EvaluatorFailed(words, failure.what) from failure
            if trial.out is None or not left:
                what = failure.what if trial.out is None else failure.what.replace(str(trial.out), "$OUT")
                words = f"the evaluator fails on it and scores the champion: it {what}"
                raise AssetFailed(Status.INVALID, clean_line(words)) from failure
    raise AssertionError("the last try returns or raises")


def find_reference(log_dirs: Sequence[Path]) -> Reference | None:
    """What the last of the experiments left that left anything: the champion comes after the baseline.

    A trial of the champion itself, which has no other beside it, is set against its own earlier ones.
    """
    *others, own = log_dirs
    for folder in (*reversed(others), own):
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads((folder / REFERENCE).read_text(encoding="utf-8"))
            values = found["values"]
            return Reference(str(found["source"]), statistics.fmean(values.values()), int(next(iter(values))))
    return None


def leave_reference(log_dir: Path, source: str, seed: int, value: float) -> None:
    """Adds a score to what trials of others are set against."""
    values: dict[str, float] = {}
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((log_dir / REFERENCE).read_text(encoding="utf-8"))
        values = found["values"] if found["source"] == source else {}
    write_json(log_dir / REFERENCE, {"source": source, "values": {**values, str(seed): value}})


def _champion_failed(error: Exception) -> CandidateUntouched:
    if isinstance(error, CandidateUntouched):
        return error
    return CandidateUntouched(f"the champion, which latencies are set against, fails: {clean_line(str(error))}")
