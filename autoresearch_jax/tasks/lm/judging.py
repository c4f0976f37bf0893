"""Judging of a trial, after training or again from its snapshot; timing of a trial's phases."""

import time
import traceback
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from autoresearch_jax.errors import causes
from autoresearch_jax.files import sha256_of_file
from autoresearch_jax.sanitize import clean_line, quoted
from autoresearch_jax.tasks.lm.clock import uncalibrated_clock
from autoresearch_jax.tasks.lm.config import JUDGE, JUDGE_HOLDOUT, SNAPSHOT, SPLIT, MeasureRequest, TrialFailedError
from autoresearch_jax.tasks.lm.data.dataset import MANIFEST, Dataset, DatasetError
from autoresearch_jax.tasks.lm.data.loader import BatchShapeError
from autoresearch_jax.tasks.lm.flops import TooCostlyError, check_memory
from autoresearch_jax.tasks.lm.integrity import (
    METRICS,
    SNAPSHOT_SHA256,
    SnapshotError,
    UnfitSnapshotError,
    load_manifest,
    snapshot_differences,
)
from autoresearch_jax.tasks.lm.judge import (
    EvalResult,
    EvalSet,
    Scorer,
    is_out_of_memory,
    judge_within_memory,
    load_eval_set,
    smaller_scorer,
)
from autoresearch_jax.tasks.lm.leading import ALONE, Lead
from autoresearch_jax.tasks.lm.probes import InvalidCandidateError
from autoresearch_jax.tasks.lm.programs import BadProgramError, Programs, load_programs, make_mesh
from autoresearch_jax.tasks.lm.snapshot import load_snapshot, made_with, snapshot_mesh
from autoresearch_jax.types import ATTENDED_SHARE, HOLDOUT_SCORE, WALL_SECONDS, Scalar, Scrutiny, Status

# Judging may take this many times as long a token as training did, so that `logits` cannot do the work of `step`: a
# forward pass takes a third of a step. With tiny training batches, whose tokens are slow, the other bound counts.
JUDGE_SLOWDOWN = 3.0
MAX_BATCH_SHARE = 0.1  # of training, for one judged batch
LOGIT_BYTES = 4  # of one, in float32
# On a CPU, logits of more than this no longer stay in the caches between being made and being summed up. Of 8 and 32
# rows of 256 tokens with a vocabulary of 2048 the former took 0.82 of the processors' time (2 cores of an AMD EPYC).
CPU_LOGITS_BYTES = 16 << 20

TOKEN_NATS_FILE = "token_nats.npz"  # of the latest trial, to look at other candidates by
MAX_TOKEN_NATS = 1 << 18  # kept of one trial; of a larger split, those of rows at equal distances
MAX_NATS = 60_000.0  # that float16 holds

Emit = Callable[[dict[str, Any]], None]


@contextmanager
def of_candidate(what: str = "its programs cannot be compiled") -> Iterator[None]:
    """Turns what is raised while a candidate's programs are read, compiled or begun into TrialFailedError.

    Errors of a file or a disk are ours; XLA's, and those that have a status, stay as they are.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, TrialFailedError, TooCostlyError):
        raise
    except Exception as error:
        if any(isinstance(cause, OSError) for cause in causes(error)):
            raise
        traceback.print_exc()  # into the log, in case it is ours
        if isinstance(error, BadProgramError):
            raise TrialFailedError(Status.REJECTED, clean_line(str(error))) from error
        status = Status.OOM if isinstance(error, MemoryError) else Status.CRASH
        raise TrialFailedError(status, f"{what}: {type(error).__name__}: {quoted(str(error))}") from error


class Phases:
    """Times the phases of a trial; holds its metrics so far, and the folder of its snapshot once there is one."""

    def __init__(self, emit: Emit) -> None:
        self.emit = emit
        self.metrics: dict[str, Scalar] = {}
        self.snapshot: str | None = None
        self._start = time.monotonic()

    def enter(self, phase: str, limit_seconds: float | None = None) -> None:
        """Begins a phase; the driver is told how long this process itself lets it take, if it looks at that."""
        self._start = time.monotonic()
        self.announce(phase, limit_seconds)

    def announce(self, phase: str, limit_seconds: float | None) -> None:
        """Tells the driver of a phase, and of its limit; it then begins to wait anew."""
        self.emit({"event": "phase", "phase": phase, "limit_seconds": limit_seconds})

    def leave(self, phase: str) -> None:
        """Records how long the phase has taken so far."""
        self.metrics[f"{phase.replace(' ', '_')}_seconds"] = time.monotonic() - self._start

    def answer(self, run: Callable[[], EvalResult]) -> dict[str, Any]:
        """Runs a trial; returns status, value, error, snapshot and metrics as `Measurement` has them."""
        try:
            return self._answer(Status.OK, run().bpb, None)
        except TrialFailedError as error:
            return self._answer(error.status, None, str(error))
        except InvalidCandidateError as error:
            return self._answer(Status.INVALID, None, str(error))
        except MemoryError:
            return self._answer(Status.OOM, None, "the process of the trial had no memory left")
        except (BatchShapeError, TooCostlyError) as error:
            return self._answer(Status.REJECTED, None, str(error))
        except jax.errors.JaxRuntimeError as error:  # it may quote names of the candidate's
            reason = quoted(next(iter(str(error).splitlines()), ""))
            return self._answer(Status.OOM if is_out_of_memory(error) else Status.CRASH, None, f"XLA says: {reason}")

    def _answer(self, status: Status, value: float | None, error: str | None) -> dict[str, Any]:
        return {
            "status": str(status),
            "value": value,
            "error": error,
            "snapshot": self.snapshot,
            "metrics": self.metrics,
        }


def open_trial(request: MeasureRequest) -> tuple[Programs, Dataset]:
    """The programs of a trial and its dataset, with the vocabulary that they want.

    Raises:
      TrialFailedError: the programs break a rule, or cannot be read.
      RuntimeError: they are not those that were checked.
      DatasetError: the dataset is missing, or has no such vocabulary.
    """
    with of_candidate("its programs cannot be read"):
        programs = load_programs(Path(request.programs_dir))
    if programs.program_hash != request.program_hash:
        raise RuntimeError(f"{request.programs_dir} holds other programs than were checked")
    dataset = Dataset.open(
        Path(request.dataset_folder), sequence_length=request.sequence_length, vocab_sizes=(programs.vocab_size,)
    )
    return programs, dataset


def first_batch_rows(sizes: Iterable[int], platform: str, row_bytes: int) -> int:
    """Rows of the batches to begin judging with: the most there are; on a CPU as many as its caches hold."""
    ascending = sorted(sizes)
    if platform != "cpu":
        return ascending[-1]
    return max((rows for rows in ascending if rows * row_bytes <= CPU_LOGITS_BYTES), default=ascending[0])


def first_scorer(programs: Programs, make: Callable[[int], Scorer]) -> Scorer:
    """The scorer for the batch to begin with, made by `make` from its rows."""
    row_bytes = LOGIT_BYTES * programs.sequence_length * programs.vocab_size
    return make(first_batch_rows(programs.logits, programs.platform, row_bytes))


class Judging:
    """The judge of one trial."""

    def __init__(
        self, request: MeasureRequest, programs: Programs, mesh: Mesh, dataset: Dataset, lead: Lead = ALONE
    ) -> None:
        """Opens the rows, those of the holdout for an audit only; raises DatasetError if they cannot be read."""
        self._request = request
        self._programs = programs
        self._mesh = mesh
        self._lead = lead
        self._eval_set = load_eval_set(dataset, programs.vocab_size, SPLIT, request.judge_tokens, request.seed)
        self._holdout = None
        if request.scrutiny is Scrutiny.AUDIT:
            self._holdout = load_eval_set(dataset, programs.vocab_size, "holdout", request.judge_tokens, request.seed)

    def compile(self) -> Scorer:
        """The scorer for the batch to begin with."""
        return first_scorer(self._programs, lambda rows: Scorer(self._programs, self._mesh, rows, self._lead))

    def fitting(self, scorer: Scorer) -> Scorer:
        """That scorer, or the next smaller one that fits into memory; raises TooCostlyError if none does."""
        while True:
            try:
                self.check_memory(logits=scorer.memory_bytes)
            except TooCostlyError:
                smaller = smaller_scorer(self._programs, self._mesh, scorer)
                if smaller is None:
                    raise
                scorer = smaller
            else:
                return scorer

    def check_memory(self, **needed: int | None) -> None:
        """Raises TooCostlyError for a program that needs more memory than there is; host devices share theirs."""
        sharing = len(self._mesh.local_devices) if self._mesh.devices.flat[0].platform == "cpu" else 1
        check_memory(
            {name: size and size * sharing for name, size in needed.items()}, self._request.device_memory_bytes
        )

    def judge(self, scorer: Scorer, read_leaves: Sequence[jax.Array], phases: Phases) -> EvalResult:
        """Judges the split, and for an audit the holdout; see `judge.judge` for what it raises.

        Its time limit follows from how long training took for how many tokens, which the metrics of `phases` tell. Both
        are timed by the trial's clock.
        """
        result = self._judge(scorer, read_leaves, phases, JUDGE, self._eval_set)
        phases.metrics.update(
            val_bpb_original=result.bpb_original,
            unigram_bpb=result.unigram_bpb,
            probe_seconds=result.probe_seconds,
            num_probes=result.num_probes,
            worst_probe_nats=result.worst_probe,
            judge_batch_rows=result.batch_rows,
            judge_tokens=result.num_tokens,
        )
        save_token_nats(Path(self._request.log_dir), result.nats_NxT, self._programs.vocab_size)
        if self._holdout is not None:
            try:
                score = self._judge(scorer, read_leaves, phases, JUDGE_HOLDOUT, self._holdout).bpb
            except InvalidCandidateError as error:
                raise InvalidCandidateError(f"on the holdout: {error}") from error
            phases.metrics[HOLDOUT_SCORE] = score
        return result

    def _judge(
        self, scorer: Scorer, read_leaves: Sequence[jax.Array], phases: Phases, phase: str, eval_set: EvalSet
    ) -> EvalResult:
        references = []
        if eval_set is self._eval_set:
            shape = len(eval_set.rows_NxT1), self._programs.sequence_length
            folders = map(Path, self._request.reference_log_dirs)
            references = [load_token_nats(folder, shape, self._programs.vocab_size) for folder in folders]
        metrics = phases.metrics
        seconds, num_tokens = (float(metrics[name] or 0) for name in (WALL_SECONDS, "num_tokens"))
        seconds *= float(metrics.get(ATTENDED_SHARE) or 1)
        trained_as_long = seconds / num_tokens * eval_set.rows_NxT1[:, 1:].size
        num_batches = -(-len(eval_set.rows_NxT1) // scorer.batch_rows)
        most = min(JUDGE_SLOWDOWN * trained_as_long, MAX_BATCH_SHARE * seconds * num_batches)
        limit_seconds = max(self._request.limits.free(self._request.budget), most)
        phases.enter(phase, limit_seconds)

        @contextmanager
        def compiling() -> Iterator[None]:
            phases.announce(phase, self._request.limits.compile)
            yield
            phases.announce(phase, limit_seconds)

        with uncalibrated_clock(str(metrics["clock"])) as clock:
            result = judge_within_memory(
                self._programs,
                self._mesh,
                scorer,
                read_leaves,
                eval_set,
                on_progress=lambda share: phases.emit({"event": "progress", "phase": phase, "share": share}),
                limit_seconds=limit_seconds,
                scrutiny=self._request.scrutiny,
                references=[nats_NxT for nats_NxT in references if nats_NxT is not None],
                now=clock.now,
                compiling=compiling,
            )
        phases.leave(phase)
        return result


def save_token_nats(folder: Path, nats_NxT: np.ndarray, vocab_size: int) -> None:
    """Writes the nats of each target token to a folder; of a large split, those of rows at equal distances."""
    every = -(-nats_NxT.size // MAX_TOKEN_NATS)
    partial = folder / f".partial-{TOKEN_NATS_FILE}"
    with partial.open("wb") as file:
        np.savez(
            file,
            vocab_size=vocab_size,
            shape=nats_NxT.shape,
            nats=nats_NxT[::every].clip(max=MAX_NATS).astype(np.float16),
        )
    partial.replace(folder / TOKEN_NATS_FILE)


def load_token_nats(folder: Path, shape: tuple[int, int], vocab_size: int) -> np.ndarray | None:
    """What `save_token_nats` kept, float32[shape], NaN in the rows that it left out; None if not of these tokens."""
    try:
        with np.load(folder / TOKEN_NATS_FILE) as kept:
            if (int(kept["vocab_size"]), tuple(kept["shape"])) != (vocab_size, shape):
                return None
            nats_NxT = np.full(shape, np.nan, np.float32)
            nats_NxT[:: -(-nats_NxT.size // MAX_TOKEN_NATS)] = kept["nats"]
    except (OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile):
        return None
    return nats_NxT


def judge_again(request: MeasureRequest, emit: Emit) -> dict[str, Any]:
    """Judges the snapshot of a trial that was cut short after it was written.

    Returns what `measure` returns; only times of judging differ, and "snapshot_seconds", which was not recorded, is
    None.

    Raises:
      UnfitSnapshotError: the snapshot is damaged, or belongs to another trial.
    """
    phases = Phases(emit)

    def run() -> EvalResult:
        phases.enter("startup")
        programs, dataset = open_trial(request)
        mesh = make_mesh(programs.mesh_axes)
        judging = Judging(request, programs, mesh, dataset)
        phases.enter(SNAPSHOT)
        read_leaves = _load_trained(request, mesh, phases)
        phases.enter("compile")
        with of_candidate():
            scorer = judging.fitting(judging.compile())
        return judging.judge(scorer, read_leaves, phases)

    return phases.answer(run)


def _load_trained(request: MeasureRequest, mesh: Mesh, phases: Phases) -> Sequence[jax.Array]:
    """The arrays and metrics of this trial's snapshot; hashes are compared before anything is deserialised."""
    folder = Path(request.snapshot_dir)
    try:
        manifest = load_manifest(folder)
        if differences := _other_facts(request, manifest) or snapshot_differences(folder, manifest):
            raise UnfitSnapshotError(f"{folder}: {differences[0]}")
        read_leaves = load_snapshot(folder, mesh).read_leaves
    except SnapshotError as error:
        raise UnfitSnapshotError(str(error)) from error
    phases.snapshot = request.snapshot_dir
    sha256 = sha256_of_file(folder / MANIFEST)
    phases.metrics.update({**manifest[METRICS], SNAPSHOT_SHA256: sha256, "snapshot_seconds": None})
    return read_leaves


def _other_facts(request: MeasureRequest, manifest: Mapping[str, Any]) -> list[str]:
    """A line for each fact of a manifest that this trial would have written otherwise."""
    facts = {
        "program_hash": request.program_hash,
        "seed": request.seed,
        "split": SPLIT,
        "judge_tokens": request.judge_tokens,
        "made_with": made_with(),
        **request.facts,
    }
    found = [
        f"{name} {manifest.get(name)}, of this trial {value}: it is of another trial"
        for name, value in facts.items()
        if manifest.get(name) != value
    ]
    return found if METRICS in manifest else [*found, "it does not tell what was measured before it was written"]


def score_snapshot(folder: Path, dataset: Mapping[str, Any], batch_rows: int | None) -> dict[str, Any]:
    """Scores a snapshot on the devices it was made for, probing every row.

    Args:
      folder: of the snapshot, whose hashes were compared.
      dataset: arguments of `Dataset.open`; its `only_split` is judged.
      batch_rows: of the batches to begin with; None where they are not known.

    Returns:
      What it was scored with, and `value`; where that is None, what its probes found (`invalid`) or why it cannot be
      computed (`failed`).

    Raises:
      SnapshotError: it is missing or damaged, or was made for other devices than are here.
    """
    manifest = load_manifest(folder)
    mesh = snapshot_mesh(folder, manifest)
    snapshot = load_snapshot(folder, mesh)
    programs = snapshot.programs
    answer = {"program_hash": programs.program_hash, "made_with": made_with(), "value": None}
    try:
        opened = Dataset.open(**{**dataset, "folder": Path(dataset["folder"])})
        split, seed = dataset["only_split"], int(manifest["seed"])
        eval_set = load_eval_set(opened, programs.vocab_size, split, manifest.get("judge_tokens"), seed)
        scorer = Scorer(programs, mesh, batch_rows if batch_rows in programs.logits else max(programs.logits))
        judged = judge_within_memory(programs, mesh, scorer, snapshot.read_leaves, eval_set, scrutiny=Scrutiny.KEEP)
    except InvalidCandidateError as error:
        return {**answer, "invalid": str(error)}
    except (DatasetError, jax.errors.JaxRuntimeError) as error:
        return {**answer, "failed": next(iter(str(error).splitlines()), "")}
    return {**answer, "value": judged.bpb}
