"""The last part of a trial: what was trained is judged, within limits of memory and time, by the scrutiny asked for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
from jax.sharding import Mesh

from autoresearch_jax.tasks.lm.costs import TooCostlyError, check_memory
from autoresearch_jax.tasks.lm.data.dataset import Dataset
from autoresearch_jax.tasks.lm.judge import Exam, Scorer, Verdict, judge_within_memory, make_exam, smaller_scorer
from autoresearch_jax.tasks.lm.messages import JUDGE, JUDGE_HOLDOUT, MeasureRequest
from autoresearch_jax.tasks.lm.phases import Phases
from autoresearch_jax.tasks.lm.probes import EVERY_ROW, PROBE_SHARE, InvalidCandidateError
from autoresearch_jax.tasks.lm.programs import Programs, load_programs
from autoresearch_jax.types import HOLDOUT_SCORE, Scrutiny

# Judging may take this many times as long a token as training did, lest `logits` be used to train: a forward pass
# alone takes a third of a step. No batch may take more than this share of training, since a tiny training batch makes
# its tokens slow, and each judged batch has to begin anew. A short judging is free, as a short `init` is.
JUDGE_SLOWDOWN = 3.0
MAX_BATCH_SHARE = 0.1
LOGIT_BYTES = 4  # of one, in float32
# On a CPU, logits of more than this no longer stay in the caches between being made and being summed up. Of 8 and 32
# rows of 256 tokens with a vocabulary of 2048 the former took 0.82 of the processors' time (2 cores of an AMD EPYC).
CPU_LOGITS_BYTES = 16 << 20


@dataclass(frozen=True)
class Trained:
    """What training gave, as far as judging goes by it.

    Attributes:
      read_leaves: the arrays that `logits` reads.
      seconds: that training took by the wall clock, as judging is timed.
      num_tokens: it was made from.
    """

    read_leaves: Sequence[jax.Array]
    seconds: float
    num_tokens: int


def open_trial(request: MeasureRequest) -> tuple[Programs, Dataset]:
    """The programs of a trial and its dataset, with the vocabulary that they want.

    Raises:
      ProgramError: the programs break a rule.
      RuntimeError: they are not those that were checked.
      DatasetError: the dataset is not there, or has no such vocabulary.
    """
    programs = load_programs(Path(request.programs_dir))
    if programs.program_hash != request.program_hash:
        raise RuntimeError(f"{request.programs_dir} holds other programs than were checked")
    dataset = Dataset.open(
        Path(request.dataset_folder), sequence_length=request.sequence_length, vocab_sizes=(programs.vocab_size,)
    )
    return programs, dataset


def first_batch_rows(sizes: Iterable[int], platform: str, row_bytes: int) -> int:
    """Rows of the batches to judge with, if the memory allows: as many as can be, on a CPU as many as its caches hold.

    Args:
      sizes: to choose from.
      platform: "cpu", "cuda" or "tpu".
      row_bytes: of a row's logits.
    """
    ascending = sorted(sizes)
    if platform != "cpu":
        return ascending[-1]
    return max((rows for rows in ascending if rows * row_bytes <= CPU_LOGITS_BYTES), default=ascending[0])


class Judging:
    """The judge of one trial; its rows are opened when it is made, before anything is spent."""

    def __init__(self, request: MeasureRequest, programs: Programs, mesh: Mesh, dataset: Dataset) -> None:
        """Opens the rows; those of the holdout for an audit only.

        Raises:
          DatasetError: there are no rows, or they cannot be read.
        """
        self._request = request
        self._programs = programs
        self._mesh = mesh
        self._exam = make_exam(dataset, programs.vocab_size, request.split, request.judge_tokens)
        self._holdout = None
        if request.scrutiny is Scrutiny.AUDIT:
            self._holdout = make_exam(dataset, programs.vocab_size, "holdout", request.judge_tokens)

    def compile(self) -> Scorer:
        """The scorer for the batch to begin with, whether it fits into the memory or not."""
        programs = self._programs
        row_bytes = LOGIT_BYTES * programs.sequence_length * programs.vocab_size
        return Scorer(programs, self._mesh, first_batch_rows(programs.logits, programs.platform, row_bytes))

    def fitting(self, scorer: Scorer) -> Scorer:
        """That scorer, or the one for the largest smaller batch that the memory can hold.

        Raises:
          TooCostlyError: it holds not even the smallest.
        """
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
        """Raises TooCostlyError for a program that needs more than there is."""
        sharing = self._mesh.size if self._mesh.devices.flat[0].platform == "cpu" else 1  # host devices have one memory
        check_memory(
            {name: size and size * sharing for name, size in needed.items()}, self._request.device_memory_bytes
        )

    def judge(self, scorer: Scorer, trained: Trained, phases: Phases) -> Verdict:
        """Judges the split, and for an audit the holdout; notes what else is found.

        Raises:
          InvalidCandidateError: a probe failed, a likelihood is no number, or it took too long.
        """
        verdict = self._judge(scorer, trained, phases, JUDGE, self._exam)
        phases.metrics.update(
            val_bpb_original=verdict.bpb_original,
            unigram_bpb=verdict.unigram_bpb,
            probe_seconds=verdict.probe_seconds,
            num_probes=verdict.num_probes,
            worst_probe_nats=verdict.worst_probe,
            judge_batch_rows=verdict.batch_rows,
            judge_tokens=verdict.num_tokens,
        )
        if self._holdout is not None:
            try:
                score = self._judge(scorer, trained, phases, JUDGE_HOLDOUT, self._holdout).bpb
            except InvalidCandidateError as error:
                raise InvalidCandidateError(f"on the holdout: {error}") from error
            phases.metrics[HOLDOUT_SCORE] = score
        return verdict

    def _judge(self, scorer: Scorer, trained: Trained, phases: Phases, phase: str, exam: Exam) -> Verdict:
        phases.enter(phase)

        def report(share: float) -> None:
            phases.emit({"event": "progress", "phase": phase, "share": share})

        trained_as_long = trained.seconds / trained.num_tokens * exam.rows_NxT1[:, 1:].size
        num_batches = -(-len(exam.rows_NxT1) // scorer.batch_rows)
        most = min(JUDGE_SLOWDOWN * trained_as_long, MAX_BATCH_SHARE * trained.seconds * num_batches)
        verdict = judge_within_memory(
            self._programs,
            self._mesh,
            scorer,
            trained.read_leaves,
            exam,
            report,
            limit_seconds=max(self._request.free_judge_seconds, most),
            probe_share=PROBE_SHARE if self._request.scrutiny is Scrutiny.SEARCH else EVERY_ROW,
        )
        phases.leave(phase)
        return verdict
