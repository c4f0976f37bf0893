"""One trial from programs to score: compile, initialise, train, snapshot, judge; each phase timed by itself."""

import csv
import hashlib
import itertools
import math
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from autoresearch_jax.sandbox.accounting import ATTENDED, WALL, AccountingError, LinuxAccounting
from autoresearch_jax.tasks.lm.clock import (
    AttendedClock,
    Clock,
    Reference,
    WallClock,
    uncalibrated_clock,
    wait_for_rest,
)
from autoresearch_jax.tasks.lm.config import PROFILE, SNAPSHOT, SPLIT, MeasureRequest, TrialFailedError
from autoresearch_jax.tasks.lm.data.dataset import Dataset
from autoresearch_jax.tasks.lm.data.loader import TokenLoader
from autoresearch_jax.tasks.lm.device import REFERENCE_OF, reference_machine
from autoresearch_jax.tasks.lm.flops import (
    check_steps,
    flops,
    memory_bytes,
    mesh_peak_flops,
    predict_steps,
    product_flops,
)
from autoresearch_jax.tasks.lm.integrity import METRICS
from autoresearch_jax.tasks.lm.judge import EvalResult, Scorer
from autoresearch_jax.tasks.lm.judging import Emit, Judging, Phases, of_candidate, open_trial
from autoresearch_jax.tasks.lm.leading import ALONE, Lead
from autoresearch_jax.tasks.lm.operations import stablehlo_module
from autoresearch_jax.tasks.lm.programs import CompileWatch, Programs, StepProgram, compile_program, make_mesh
from autoresearch_jax.tasks.lm.snapshot import save_snapshot
from autoresearch_jax.tasks.lm.trainer import Profiler, TrainPhase, TrainResult, train
from autoresearch_jax.types import (
    ATTENDED_SHARE,
    CHARGED_COMPILE,
    CLOCK_FAULT,
    COMPILED_PROGRAMS,
    COMPILING_SECONDS,
    CURVE_POINTS,
    LOSSES,
    TOO_BUSY,
    WALL_SECONDS,
    Budget,
    LossLimit,
    Status,
    write_curve,
)

# The last step may end a share of the budget late (`TimeLimits.free_share`), or this multiple of the usual time of the
# steps before it. Of a budget of a few seconds both can be less than one stall of the machine, when another process has
# the processor or a page is read from the disk: the wall clock counts a stall as the step's, the attended clock does so
# only as far as its accounts miss it.
MAX_OVERRUN_STEPS = 1.5
STALL_SECONDS = {WALL: 1.0, ATTENDED: 0.5}
LOOK_SECONDS = 0.5  # between two looks at how long compiling has taken
LAST_STEPS = 10  # of which the usual time is taken, the last one left out
LOSS_CURVE_FILE = "loss.csv"


def measure(request: MeasureRequest, emit: Emit, lead: Lead = ALONE) -> dict[str, Any]:
    """Runs a trial; returns status, value, error, snapshot and metrics as `Measurement` has them."""
    phases = Phases(emit)
    with CompileWatch() as compiles:
        return phases.answer(_Trial(request, phases, compiles, lead).run)


class _Trial:
    def __init__(self, request: MeasureRequest, phases: Phases, compiles: CompileWatch, lead: Lead) -> None:
        self.request = request
        self.lead = lead
        self.phases = phases
        self.compiles = compiles
        self.metrics = phases.metrics
        self.reference: Reference | None = None  # with the attended clock
        self.reference_seconds = math.nan
        self.accounting: LinuxAccounting | None = None
        self.charged_seconds = 0.0  # of the budget, before training

    def run(self) -> EvalResult:
        request = self.request
        self.phases.enter("startup")
        self.programs, dataset = open_trial(request)
        self.mesh = make_mesh(self.programs.mesh_axes)
        self.judging = Judging(request, self.programs, self.mesh, dataset, self.lead)
        rows = dataset.rows(self.programs.vocab_size, "train")
        token_ids_V = dataset.tokenizer(self.programs.vocab_size).draw_ids(request.seed)
        with ExitStack() as stack:
            loaders = [
                stack.enter_context(TokenLoader(rows, step.batch_shape, _mix(request.seed, index), token_ids_V))
                for index, step in enumerate(self.programs.steps)
            ]
            self.peak_flops = mesh_peak_flops(self.mesh)
            self.bits_per_nat = _bits_per_nat(dataset, self.programs.vocab_size)
            self.phases.leave("startup")
            init, steps, scorer = self._compile()
            leaves = self._init(init)
            result = self._train(steps, loaders, leaves)
        if result.nonfinite:
            raise TrialFailedError(Status.NONFINITE, f"the loss is {result.losses[-1][1]} at step {len(result.losses)}")
        if result.stretched:
            self.metrics[TOO_BUSY] = True
            raise TrialFailedError(Status.TIMEOUT, self._too_busy(result))
        if result.pruned:
            share = len(result.curve) / CURVE_POINTS
            loss = result.curve[-1] * self.bits_per_nat
            raise TrialFailedError(Status.PRUNED, f"stopped at {share:.0%} of the budget: its loss was {loss:.4g}")
        if request.budget.seconds is not None:
            stall_seconds = STALL_SECONDS[str(self.metrics["clock"])]  # of the clock that it was timed by in the end
            free_seconds = max(stall_seconds, request.limits.free_share * request.budget.seconds)
            check_kept_budget(result, request.budget.seconds - self.charged_seconds, request.min_steps, free_seconds)
        self._snapshot(dataset, result)
        read_leaves = [result.leaves[i] for i in self.programs.read_leaves]
        return self.judging.judge(scorer, read_leaves, self.phases)

    def _compile(self) -> tuple[Any, list[Any], Scorer]:
        """Compiles everything that will run, in threads; of the judge only the batch to begin with."""
        programs, mesh, judging = self.programs, self.mesh, self.judging
        self.phases.enter("compile")
        pool = ThreadPoolExecutor()
        try:
            with uncalibrated_clock(self.request.clock) as clock:
                start = clock.now()
                steps = [pool.submit(compile_program, step.exported, mesh, donate=True) for step in programs.steps]
                scorer = pool.submit(judging.compile)
                init = pool.submit(compile_program, programs.init, mesh)
                if self.request.clock == ATTENDED and self.request.budget.seconds is not None:
                    self.reference = pool.submit(Reference).result()
                pending = {init, scorer, *steps}
                while pending:
                    _, pending = wait(pending, timeout=LOOK_SECONDS)
                    self._charge_compiling(clock.now() - start)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # XLA cannot be interrupted; the process ends with the trial
        with of_candidate():
            compiled = init.result(), [step.result() for step in steps], scorer.result()
        self.lead.wait_compiled()
        self._calibrate()
        self.phases.leave("compile")
        device_kind = mesh.devices.flat[0].device_kind
        self.metrics.update(num_params=programs.num_params, num_devices=mesh.size, device_kind=device_kind)
        init_program, step_programs, scorer_program = compiled
        with of_candidate():
            self._check_costs(init_program, step_programs)
            fitting = judging.fitting(scorer_program)
        self.phases.leave("compile")  # with the smaller scorers, if there had to be some
        self.metrics[COMPILED_PROGRAMS] = self.compiles.compiled  # none of them, if the cache has all
        return init_program, step_programs, fitting

    def _charge_compiling(self, seconds: float) -> None:
        """Takes off the budget what compiling has taken so far beyond what is free; raises TrialFailedError if all."""
        self.metrics[COMPILING_SECONDS] = seconds
        if self.request.budget.seconds is not None:
            self.charged_seconds = self.request.limits.charged_compile(seconds, self.request.compile_cost)
            self.metrics[CHARGED_COMPILE] = self.charged_seconds
            self._require_budget("compiling", self.charged_seconds)

    def _require_budget(self, what: str, seconds: float) -> None:
        budget = self.request.budget
        if budget.seconds is not None and self.charged_seconds >= budget.seconds:
            raise TrialFailedError(Status.TIMEOUT, f"{what} spent the budget: {seconds:.1f} s of it")

    def _check_costs(self, init: Any, steps: Sequence[Any]) -> None:
        """Raises TooCostlyError for what will not fit into the memory or the budget."""
        programs, mesh, budget = self.programs, self.mesh, self.request.budget
        memory = [memory_bytes(step) for step in steps]
        step_flops = [
            flops(step, _product_flops(program) / mesh.size)
            for step, program in zip(steps, programs.steps, strict=True)
        ]
        peak_bytes = None if None in memory else max(m for m in memory if m is not None)
        self.metrics.update(peak_memory_bytes=peak_bytes, step_flops=step_flops[0])
        self.judging.check_memory(init=memory_bytes(init), step=peak_bytes)
        if budget.seconds is not None:
            begins = [step.from_progress for step in programs.steps]
            of_mesh = [f and f * mesh.size for f in step_flops]
            predicted = predict_steps(begins, of_mesh, budget.seconds, self.peak_flops)
            self.metrics["predicted_steps"] = predicted
            check_steps(predicted, self.request.min_steps, budget.seconds)

    def _init(self, init: Any) -> Any:
        self.phases.enter("init")
        budget = self.request.budget
        with uncalibrated_clock(self.request.clock) as clock:
            start = clock.now()
            with of_candidate("`init` cannot be run"):
                leaves = jax.block_until_ready(self.lead.init(init, _key_data(self.request.seed)))
            seconds = clock.now() - start
        self.phases.leave("init")
        charged = 0.0 if budget.seconds is None else max(0.0, seconds - self.request.limits.free(budget))
        self.metrics["charged_init_seconds"] = charged
        self.charged_seconds += charged
        self._require_budget("`init`", charged)
        return leaves

    def _calibrate(self) -> None:
        """Sets the unit of the attended clock; a trial outside of a run measures it."""
        if self.reference is not None:
            given = self.request.reference_seconds
            self.reference.warm_up()
            self.reference_seconds = self.reference.measure() if given is None else given
            self.metrics.update({"reference_seconds": self.reference_seconds, REFERENCE_OF: reference_machine()})

    def _make_clock(self) -> Clock:
        """The requested clock; else the wall clock, and the metrics say why."""
        if self.reference is None:
            return WallClock()
        try:
            self.accounting = self.accounting or LinuxAccounting()
            return AttendedClock(
                self.accounting, self.reference.run, self.reference_seconds, wait_for_rest=wait_for_rest
            )
        except AccountingError as error:
            self.metrics[CLOCK_FAULT] = str(error)
            return WallClock()

    def _train(self, steps: Sequence[Any], loaders: Sequence[TokenLoader], leaves: Any) -> TrainResult:
        programs, budget = self.programs, self.request.budget
        if budget.seconds is not None:
            budget = Budget(seconds=budget.seconds - self.charged_seconds)
        by_rows = NamedSharding(self.mesh, PartitionSpec("data"))
        phases = [
            TrainPhase(
                from_progress=step.from_progress,
                step=partial(self.lead.step, index, compiled),
                next_tokens=loader.__next__,
                put_tokens=partial(self.lead.put, by_rows),
                tokens_per_step=step.batch_shape[0] * (step.batch_shape[1] - 1),
                loss_index=step.metrics.index("loss"),
            )
            for index, (step, compiled, loader) in enumerate(zip(programs.steps, steps, loaders, strict=True))
        ]
        self.phases.enter("train")
        clock = self._make_clock()
        wall_limit = math.inf  # where the budget is one by itself
        if budget.seconds is not None and not isinstance(clock, WallClock):
            wall_limit = self.request.limits.max_stretch * budget.seconds
        profiler = Profiler(Path(self.request.log_dir) / PROFILE, budget) if self.request.profile else None
        with CompileWatch() as compiles:
            result = train(
                leaves,
                phases,
                budget=budget,
                clock=clock,
                on_progress=partial(self._report_training, clock),
                stop_above=[LossLimit(one.point, one.loss / self.bits_per_nat) for one in self.request.stop_above],
                wall_limit=wall_limit,
                profiler=profiler,
            )
        _write_loss_curve(Path(self.request.log_dir) / LOSS_CURVE_FILE, result)
        if self.accounting is not None:
            self.accounting.close()
        tokens_per_second = result.num_tokens / result.seconds
        self.metrics.update(
            clock.figures(),
            training_seconds=result.seconds,
            data_wait_seconds=result.data_wait_seconds,
            compiles_in_budget=compiles.asked,
            num_steps=result.num_steps,
            num_tokens=result.num_tokens,
            tokens_per_second=tokens_per_second,
            train_loss=_final_loss(result),
            mfu_percent=_mfu_percent(programs, tokens_per_second, self.peak_flops),
        )
        self.metrics[WALL_SECONDS] = result.wall_seconds
        self.metrics |= {} if profiler is None else {PROFILE: profiler.num_steps}
        self.metrics[LOSSES] = write_curve([loss * self.bits_per_nat for loss in result.curve]) or None
        return result

    def _too_busy(self, result: TrainResult) -> str:
        """Why the wall clock's limit ended a trial, one line."""
        share, speed = self.metrics.get(ATTENDED_SHARE), self.metrics.get("machine_speed")
        seen = f": {share:.0%} attended, at {speed:.0%} of its speed" if share is not None and speed is not None else ""
        return (
            f"the machine was too busy{seen}; after {result.wall_seconds:.0f} s {result.seconds:.1f} s of the budget "
            f"were spent (--max_stretch={self.request.limits.max_stretch:g})"
        )

    def _report_training(self, clock: Clock, result: TrainResult) -> None:
        budget = self.request.budget
        elapsed, loss = result.losses[-1]
        self.phases.emit(
            {
                "event": "progress",
                "phase": "train",
                "elapsed_seconds": elapsed,
                "budget_seconds": budget.seconds,
                "budget_steps": budget.steps,
                "step": len(result.losses),
                "loss": loss,
                "tokens_per_second": result.num_tokens / elapsed,
                ATTENDED_SHARE: clock.figures().get(ATTENDED_SHARE),
            }
        )

    def _snapshot(self, dataset: Dataset, result: TrainResult) -> None:
        self.phases.enter(SNAPSHOT)
        request, programs = self.request, self.programs
        self.metrics["snapshot_sha256"] = save_snapshot(
            Path(request.snapshot_dir),
            programs=programs,
            programs_dir=Path(request.programs_dir),
            leaves=self.lead.collect(result.leaves, programs.read_leaves),
            tokenizer_path=dataset.tokenizer_path(programs.vocab_size),
            facts={
                "dataset": str(dataset.folder),
                "split": SPLIT,
                "judge_tokens": request.judge_tokens,
                "seed": request.seed,
                "num_steps": result.num_steps,
                "num_tokens": result.num_tokens,
                METRICS: dict(self.metrics),
                **request.facts,
            },
        )
        self.phases.snapshot = request.snapshot_dir
        self.phases.leave(SNAPSHOT)


def check_kept_budget(result: TrainResult, seconds: float, min_steps: int, free_seconds: float) -> None:
    """Raises TrialFailedError for a last step that took much longer than the others, and for too few steps.

    Args:
      result: of training for `seconds`.
      seconds: the budget, what was charged to it left out.
      min_steps: that must fit into it.
      free_seconds: that the last step may end late, however long the steps are.
    """
    ends = [0.0, *(end for end, _ in result.losses)]
    steps = [end - begin for begin, end in itertools.pairwise(ends)]
    usual = statistics.median(steps[-LAST_STEPS:-1] or [0.0])
    overrun = min(ends[-1] - seconds, result.step_walls[-1])  # else the clock corrected itself meanwhile
    if overrun > max(free_seconds, min(MAX_OVERRUN_STEPS * usual, seconds / max(min_steps, 1))):
        reason = f"training ended {overrun:.1f} s after the budget: the last step took {steps[-1]:.1f} s"
        raise TrialFailedError(Status.INVALID, f"{reason}, those before it {usual:.2f} s")
    if result.num_steps < min_steps:
        reason = f"only {result.num_steps} steps fitted into {seconds:g} s, at least {min_steps} must"
        raise TrialFailedError(Status.REJECTED, f"{reason}: make the model or the batch smaller")


def _key_data(seed: int) -> np.ndarray:
    """The key of `init`, uint32[2]; the trial's seed, from which its token ids follow, cannot be computed from it."""
    return np.frombuffer(hashlib.sha256(f"init {seed}".encode()).digest()[:8], "<u4").copy()


def _mix(seed: int, stream: int) -> int:
    """An independent seed for one use of a trial's seed."""
    return int(np.random.SeedSequence((seed, stream)).generate_state(1)[0])


def _mfu_percent(programs: Programs, tokens_per_second: float, peak_flops: float | None) -> float | None:
    if peak_flops is None or programs.model_flops_per_token is None:
        return None
    return 100.0 * programs.model_flops_per_token * tokens_per_second / peak_flops


def _product_flops(program: StepProgram) -> float:
    with stablehlo_module(program.exported.mlir_module_serialized) as module:
        return product_flops(module)


def _bits_per_nat(dataset: Dataset, vocab_size: int) -> float:
    """Bits per byte of a training loss of one nat per token, which makes losses of all vocabularies comparable."""
    counts_V = dataset.train_counts(vocab_size)
    num_bytes = int((counts_V * dataset.tokenizer(vocab_size).num_bytes()).sum(dtype=np.int64))
    return int(counts_V.sum()) / (math.log(2) * num_bytes)


def _final_loss(result: TrainResult) -> float | None:
    """Mean loss of the last twentieth of the steps, nats per token; None where it is not finite, or there are none."""
    losses = [loss for _, loss in result.losses]
    return None if result.nonfinite or not losses else float(np.mean(losses[-max(1, len(losses) // 20) :]))


def _write_loss_curve(path: Path, result: TrainResult) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("step", "elapsed_seconds", "loss"))
        writer.writerows((i + 1, f"{end:.4f}", f"{loss:.6f}") for i, (end, loss) in enumerate(result.losses))
