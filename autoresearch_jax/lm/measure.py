"""One trial from programs to score: compile, initialise, train, snapshot, judge; each phase timed by itself."""

import csv
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from autoresearch_jax.lm.clock import MonotonicClock
from autoresearch_jax.lm.costs import TooCostlyError, check_memory, check_steps, flops, memory_bytes, predict_steps
from autoresearch_jax.lm.dataset import Dataset
from autoresearch_jax.lm.judge import (
    Exam,
    Scorer,
    Verdict,
    is_out_of_memory,
    judge_within_memory,
    make_exam,
    smaller_scorer,
)
from autoresearch_jax.lm.loader import BatchShapeError, TokenLoader
from autoresearch_jax.lm.messages import JUDGE, JUDGE_HOLDOUT, MeasureRequest
from autoresearch_jax.lm.probes import EVERY_ROW, PROBE_SHARE, InvalidCandidateError
from autoresearch_jax.lm.programs import Programs, compile_program, load_programs
from autoresearch_jax.lm.snapshot import save_snapshot
from autoresearch_jax.lm.speed import mesh_peak_flops
from autoresearch_jax.lm.trainer import TrainPhase, TrainProgress, TrainResult, train
from autoresearch_jax.measurement import HOLDOUT_SCORE, Budget, Scalar, Scrutiny, Status
from autoresearch_jax.untrusted import quoted

# Judging may take this many times as long a token as training did, lest `logits` be used to train: a forward pass
# alone takes a third of a step. No batch may take more than this share of training, since a tiny training batch makes
# its tokens slow, and each judged batch has to begin anew. A short judging is free, as a short `init` is.
JUDGE_SLOWDOWN = 3.0
MAX_BATCH_SHARE = 0.1
# The last step may end so much after the budget, or so many times as long as the steps before it usually took.
FREE_OVERRUN_SECONDS = 2.0
MAX_OVERRUN_STEPS = 1.5
LAST_STEPS = 10  # of which the usual time is taken, the last one left out
LOSS_CURVE_FILE = "loss.csv"

Emit = Callable[[dict[str, Any]], None]


class TrialFailedError(Exception):
    """The candidate failed in a way that is a status, not a mistake of ours."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def make_mesh(axes: dict[str, int]) -> Mesh:
    """A mesh over this process's devices; axis types are Auto, since `jax.make_mesh` defaults to explicit ones."""
    size = int(np.prod(list(axes.values())))
    devices = jax.devices()[:size]
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes), devices=devices)


def measure(request: MeasureRequest, emit: Emit) -> dict[str, Any]:
    """Runs a trial.

    Args:
      request: what to run.
      emit: told of each phase's beginning, and of progress in it.

    Returns:
      {"status", "value", "error", "snapshot", "metrics"}, as `Measurement` has them.
    """
    trial = _Trial(request, emit)
    try:
        verdict = trial.run()
    except TrialFailedError as error:
        return trial.answer(error.status, None, str(error))
    except InvalidCandidateError as error:
        return trial.answer(Status.INVALID, None, str(error))
    except (BatchShapeError, TooCostlyError) as error:
        return trial.answer(Status.REJECTED, None, str(error))
    except jax.errors.JaxRuntimeError as error:  # it may quote names of the candidate's
        reason = quoted(next(iter(str(error).splitlines()), ""))
        return trial.answer(Status.OOM if is_out_of_memory(error) else Status.CRASH, None, f"XLA says: {reason}")
    return trial.answer(Status.OK, verdict.bpb, None)


class _Trial:
    def __init__(self, request: MeasureRequest, emit: Emit) -> None:
        self.request = request
        self.emit = emit
        self.metrics: dict[str, Scalar] = {}
        self.snapshot: str | None = None

    def answer(self, status: Status, value: float | None, error: str | None) -> dict[str, Any]:
        return {
            "status": str(status),
            "value": value,
            "error": error,
            "snapshot": self.snapshot,
            "metrics": self.metrics,
        }

    def run(self) -> Verdict:
        request = self.request
        self._enter("startup")
        programs = load_programs(Path(request.programs_dir))
        if programs.program_hash != request.program_hash:
            raise RuntimeError(f"{request.programs_dir} holds other programs than were checked")
        vocab_size = programs.vocab_size
        dataset = Dataset.open(
            Path(request.dataset_folder), sequence_length=request.sequence_length, vocab_sizes=(vocab_size,)
        )
        exam = make_exam(dataset, vocab_size, request.split, request.judge_tokens)
        holdout = None  # its rows are opened for an audit only, before anything is spent
        if request.scrutiny is Scrutiny.AUDIT:
            holdout = make_exam(dataset, vocab_size, "holdout", request.judge_tokens)
        mesh = make_mesh(programs.mesh_axes)
        with ExitStack() as stack:
            loaders = [
                stack.enter_context(
                    TokenLoader(dataset.rows(vocab_size, "train"), step.batch_shape, _mix(request.seed, index))
                )
                for index, step in enumerate(programs.steps)
            ]
            self.peak_flops = mesh_peak_flops(mesh)
            self._leave("startup")
            init, steps, scorer = self._compile(programs, mesh)
            leaves, charged_seconds = self._init(init)
            result = self._train(programs, mesh, steps, loaders, leaves, charged_seconds)
        if result.nonfinite:
            raise TrialFailedError(Status.NONFINITE, f"the loss is {result.losses[-1][1]} at step {len(result.losses)}")
        self._check_kept_budget(result, charged_seconds)
        self._snapshot(programs, dataset, result)
        judge_split = functools.partial(self._judge, programs, mesh, scorer, result)
        verdict = judge_split(JUDGE, exam)
        self.metrics.update(
            val_bpb_original=verdict.bpb_original,
            unigram_bpb=verdict.unigram_bpb,
            probe_seconds=verdict.probe_seconds,
            num_probes=verdict.num_probes,
            worst_probe_nats=verdict.worst_probe,
            judge_batch_rows=verdict.batch_rows,
            judge_tokens=verdict.num_tokens,
        )
        if holdout is not None:
            try:
                self.metrics[HOLDOUT_SCORE] = judge_split(JUDGE_HOLDOUT, holdout).bpb
            except InvalidCandidateError as error:
                raise InvalidCandidateError(f"on the holdout: {error}") from error
        return verdict

    def _enter(self, phase: str) -> None:
        self.phase_start = time.monotonic()
        self.emit({"event": "phase", "phase": phase})

    def _leave(self, phase: str) -> None:
        self.metrics[f"{phase.replace(' ', '_')}_seconds"] = time.monotonic() - self.phase_start

    def _compile(self, programs: Programs, mesh: Mesh) -> tuple[Any, list[Any], Scorer]:
        """Everything that will run, compiled at once in threads; the largest judge batch only, the others if needed."""
        self._enter("compile")
        with ThreadPoolExecutor() as pool:
            steps = [pool.submit(compile_program, step.exported, mesh, donate=True) for step in programs.steps]
            scorer = pool.submit(Scorer, programs, mesh, max(programs.logits))
            init = pool.submit(compile_program, programs.init, mesh)
        try:
            compiled = init.result(), [step.result() for step in steps], scorer.result()
        except jax.errors.JaxRuntimeError:
            raise
        except Exception as error:  # what JAX has against a program that it was not made to write
            reason = f"its programs cannot be compiled: {type(error).__name__}: {quoted(str(error))}"
            raise TrialFailedError(Status.CRASH, reason) from error
        self._leave("compile")
        self.metrics.update(
            num_params=programs.num_params, num_devices=mesh.size, device_kind=mesh.devices.flat[0].device_kind
        )
        init_program, step_programs, scorer_program = compiled
        self._check_costs(programs, mesh, init_program, step_programs)
        fitting = self._fitting(scorer_program, programs, mesh)
        self._leave("compile")  # with the smaller scorers, if there had to be some
        return init_program, step_programs, fitting

    def _fitting(self, scorer: Scorer, programs: Programs, mesh: Mesh) -> Scorer:
        """The scorer for the largest batch that the memory can hold."""
        while True:
            try:
                self._check_memory(mesh, logits=scorer.memory_bytes)
            except TooCostlyError:
                smaller = smaller_scorer(programs, mesh, scorer)
                if smaller is None:
                    raise
                scorer = smaller
            else:
                return scorer

    def _check_memory(self, mesh: Mesh, **needed: int | None) -> None:
        sharing = mesh.size if mesh.devices.flat[0].platform == "cpu" else 1  # host devices have one memory
        check_memory({name: size and size * sharing for name, size in needed.items()}, self.request.device_memory_bytes)

    def _check_costs(self, programs: Programs, mesh: Mesh, init: Any, steps: Sequence[Any]) -> None:
        """Raises TooCostlyError for what will not fit into the memory or the budget."""
        request, budget = self.request, self.request.budget
        memory = [memory_bytes(step) for step in steps]
        step_flops = [flops(step) for step in steps]
        peak_bytes = None if None in memory else max(m for m in memory if m is not None)
        self.metrics.update(peak_memory_bytes=peak_bytes, step_flops=step_flops[0])
        self._check_memory(mesh, init=memory_bytes(init), step=peak_bytes)
        if budget.seconds is not None:
            begins = [step.from_progress for step in programs.steps]
            of_mesh = [f and f * mesh.size for f in step_flops]
            predicted = predict_steps(begins, of_mesh, budget.seconds, self.peak_flops)
            self.metrics["predicted_steps"] = predicted
            check_steps(predicted, request.min_steps, budget.seconds)

    def _init(self, init: Any) -> tuple[Any, float]:
        self._enter("init")
        seed = self.request.seed
        key_data = np.array([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF], np.uint32)
        leaves = jax.block_until_ready(init(key_data))
        self._leave("init")
        return leaves, max(0.0, time.monotonic() - self.phase_start - self.request.free_init_seconds)

    def _train(
        self,
        programs: Programs,
        mesh: Mesh,
        steps: Sequence[Any],
        loaders: Sequence[TokenLoader],
        leaves: Any,
        charged_seconds: float,
    ) -> TrainResult:
        budget = self.request.budget
        if charged_seconds and budget.seconds is not None:
            if charged_seconds >= budget.seconds:
                raise TrialFailedError(Status.TIMEOUT, f"`init` spent the budget: {charged_seconds:.1f} s of it")
            budget = Budget(seconds=budget.seconds - charged_seconds)
        by_rows = NamedSharding(mesh, PartitionSpec("data"))

        def put_tokens(tokens_BxT1: np.ndarray) -> jax.Array:
            return jax.device_put(tokens_BxT1, by_rows)

        phases = [
            TrainPhase(
                from_progress=step.from_progress,
                step=compiled,
                next_tokens=loader.__next__,
                put_tokens=put_tokens,
                tokens_per_step=step.batch_shape[0] * (step.batch_shape[1] - 1),
                loss_index=step.metrics.index("loss"),
            )
            for step, compiled, loader in zip(programs.steps, steps, loaders, strict=True)
        ]
        self._enter("train")
        with _CompileWatch() as compiles:
            result = train(leaves, phases, budget=budget, clock=MonotonicClock(), on_progress=self._report_training)
        _write_loss_curve(Path(self.request.log_dir) / LOSS_CURVE_FILE, result)
        tokens_per_second = result.num_tokens / result.seconds
        self.metrics.update(
            training_seconds=result.seconds,
            charged_init_seconds=charged_seconds,
            data_wait_seconds=result.data_wait_seconds,
            compiles_in_budget=compiles.count,
            num_steps=result.num_steps,
            num_tokens=result.num_tokens,
            tokens_per_second=tokens_per_second,
            train_loss=_final_loss(result),
            mfu_percent=_mfu_percent(programs, tokens_per_second, self.peak_flops),
        )
        return result

    def _check_kept_budget(self, result: TrainResult, charged_seconds: float) -> None:
        """Refuses what the prediction could not see: a last step unlike the others, or too few of them."""
        if self.request.budget.seconds is None:
            return
        seconds, min_steps = self.request.budget.seconds - charged_seconds, self.request.min_steps
        ends = [0.0, *(end for end, _ in result.losses)]
        steps = [end - begin for begin, end in itertools.pairwise(ends)]
        usual = statistics.median(steps[-LAST_STEPS:-1] or [0.0])
        overrun = ends[-1] - seconds
        if overrun > max(FREE_OVERRUN_SECONDS, min(MAX_OVERRUN_STEPS * usual, seconds / max(min_steps, 1))):
            reason = f"training ended {overrun:.1f} s after the budget: the last step took {steps[-1]:.1f} s"
            raise TrialFailedError(Status.INVALID, f"{reason}, those before it {usual:.2f} s")
        if result.num_steps < min_steps:
            reason = f"only {result.num_steps} steps fitted into {seconds:g} s, at least {min_steps} must"
            raise TrialFailedError(Status.REJECTED, f"{reason}: make the model or the batch smaller")

    def _report_training(self, progress: TrainProgress) -> None:
        budget = self.request.budget
        self.emit(
            {
                "event": "progress",
                "phase": "train",
                "elapsed_seconds": progress.elapsed_seconds,
                "budget_seconds": budget.seconds,
                "budget_steps": budget.steps,
                "step": progress.step,
                "loss": progress.loss,
                "tokens_per_second": progress.tokens / progress.elapsed_seconds,
            }
        )

    def _snapshot(self, programs: Programs, dataset: Dataset, result: TrainResult) -> None:
        self._enter("snapshot")
        request = self.request
        # with the trial, and not in a column of its own: only this task knows what a snapshot is made of
        self.metrics["snapshot_sha256"] = save_snapshot(
            Path(request.snapshot_dir),
            programs=programs,
            programs_dir=Path(request.programs_dir),
            leaves=result.leaves,
            tokenizer_path=dataset.tokenizer_path(programs.vocab_size),
            facts={
                "dataset": str(dataset.folder),
                "split": request.split,
                "judge_tokens": request.judge_tokens,
                "seed": request.seed,
                "num_steps": result.num_steps,
                "num_tokens": result.num_tokens,
                **request.facts,
            },
        )
        self.snapshot = request.snapshot_dir
        self._leave("snapshot")

    def _judge(
        self, programs: Programs, mesh: Mesh, scorer: Scorer, result: TrainResult, phase: str, exam: Exam
    ) -> Verdict:
        self._enter(phase)
        read_leaves = [result.leaves[i] for i in programs.read_leaves]

        def report(share: float) -> None:
            self.emit({"event": "progress", "phase": phase, "share": share})

        trained_as_long = result.seconds / result.num_tokens * exam.rows_NxT1[:, 1:].size
        num_batches = -(-len(exam.rows_NxT1) // scorer.batch_rows)
        most = min(JUDGE_SLOWDOWN * trained_as_long, MAX_BATCH_SHARE * result.seconds * num_batches)
        limit_seconds = max(self.request.free_judge_seconds, most)
        probe_share = PROBE_SHARE if self.request.scrutiny is Scrutiny.SEARCH else EVERY_ROW
        verdict = judge_within_memory(
            programs, mesh, scorer, read_leaves, exam, report, limit_seconds=limit_seconds, probe_share=probe_share
        )
        self._leave(phase)
        return verdict


class _CompileWatch:
    """Counts compilations while it is entered: there should be none while the clock runs."""

    _EVENT = "/jax/core/compile/backend_compile_duration"

    def __init__(self) -> None:
        self.count = 0
        self._counting = False

    def __enter__(self) -> "_CompileWatch":
        self._counting = True
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *exception: object) -> None:
        self._counting = False  # listeners cannot be taken away one by one

    def _listen(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        self.count += self._counting and event == self._EVENT


def _mix(seed: int, stream: int) -> int:
    """A seed for one of several independent uses of a trial's seed."""
    return int(np.random.SeedSequence((seed, stream)).generate_state(1)[0])


def _mfu_percent(programs: Programs, tokens_per_second: float, peak_flops: float | None) -> float | None:
    if peak_flops is None or programs.model_flops_per_token is None:
        return None
    return 100.0 * programs.model_flops_per_token * tokens_per_second / peak_flops


def _final_loss(result: TrainResult) -> float | None:
    """Mean loss of the last twentieth of the steps, nats per token; None where it is not finite."""
    losses = [loss for _, loss in result.losses]
    return None if result.nonfinite else float(np.mean(losses[-max(1, len(losses) // 20) :]))


def _write_loss_curve(path: Path, result: TrainResult) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("step", "elapsed_seconds", "loss"))
        writer.writerows((i + 1, f"{end:.4f}", f"{loss:.6f}") for i, (end, loss) in enumerate(result.losses))
