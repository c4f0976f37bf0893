"""`autoresearch run --lineages=M`: starts a driver for each lineage, passes signals on, and tells how they stand."""

import os
import secrets
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import IO, TextIO

from autoresearch_jax.commands.console import print_notice, say
from autoresearch_jax.commands.options import MAX_SEED, NONE, list_flags
from autoresearch_jax.commands.run_flags import RunFlags, flags_to_keep
from autoresearch_jax.commands.run_options import RunOptions
from autoresearch_jax.decide.rule import plus_minus
from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.plan import SEED_BITS
from autoresearch_jax.engine.run_folder import Lineages
from autoresearch_jax.engine.stopping import SIGNALS
from autoresearch_jax.errors import UsageError
from autoresearch_jax.executors.places import Place
from autoresearch_jax.report.runs import RunLine, list_folders
from autoresearch_jax.report.summary import summarize_run
from autoresearch_jax.report.tables import format_table, print_lines
from autoresearch_jax.sandbox.mounts import package_root
from autoresearch_jax.types import Scalar

READER_SECONDS = 10.0  # for the last lines of a lineage whose own children outlive it
_OWN_FLAGS = ("tag", "lineages", "seed", "workers")  # that differ from one lineage to the other
# Of a driver, which begins with the signals blocked: until it has imported all, it ends by one without a word.
_DRIVER = """
import os, signal, sys
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
for number in NUMBERS:
    if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN):
        signal.signal(number, lambda *_: os._exit(0))
signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)
sys.path.append(sys.argv[1])
from autoresearch_jax.cli import main
from autoresearch_jax.commands.lineages import end_with_parent
end_with_parent()
sys.exit(main(sys.argv[2:]))
"""


@dataclass(frozen=True)
class Share:
    """What one lineage has of this machine: processors, variables, and the value of its --workers."""

    place: Place
    workers: str


def run_lineages(options: RunOptions, number: int, *, adopts: bool) -> int:
    """Runs lineages until all have ended; 0 if all ended well, else the exit status of the first that did not.

    Args:
      options: of the command.
      number: how many lineages.
      adopts: whether who proposes tries findings.

    Raises:
      UserError: they cannot begin.
    """
    options.task.require()
    lineages = Lineages(options.where.folder, number)
    known = Lineages.read(lineages.folder)
    ours = [] if known is None else [run.path for run in known.runs]
    if strange := [run.path for run in lineages.begun if run.path not in ours]:
        raise UsageError(f"--lineages={number}: {strange[0]} is a run of its own: choose another --tag")
    if not adopts:
        print_notice(f"--proposer={options.proposer.proposer} tries no findings: no lineage adopts from another")
    lineages.folder.create()
    workers = options.task.workers
    if workers.on_ray:  # all share the cluster
        shares = [Share(Place(), workers.workers)] * number
    else:
        places = options.task.find_places(lineages.folder.logs / "devices.log")
        shares = share_workers(places, number, workers.workers)
    before = RunFlags.read(lineages.folder)
    seed = secrets.randbits(SEED_BITS) if options.seed is None else options.seed
    options = replace(options, seed=seed)
    replace(lineages, settings=flags_to_keep(options, os.environ)).write()
    words = _common_words(options, {} if before is None else before.texts)
    drivers = _Drivers()
    with drivers.signals_passed_on():
        for place, run in enumerate(lineages.runs):
            tag = f"{options.where.tag}-{place + 1}"
            own = [f"--tag={tag}", f"--seed={(seed + place) % MAX_SEED}", f"--workers={shares[place].workers}"]
            drivers.start(run.path.name, [*own, *words], shares[place].place)
        status = drivers.wait()
    if lineages.begun:
        print()
        print_lineages(lineages, sys.stdout)
    return status


def share_workers(places: Sequence[Place], number: int, workers: str) -> list[Share]:
    """What each of several lineages has of the places of this machine's workers; what does not divide stays unused.

    Raises:
      UsageError: there are fewer workers than lineages; or a lineage would have several TPU chips, of which a process
        sees one or all.
    """
    each = len(places) // number
    if each == 0:
        there = "is 1 worker" if len(places) == 1 else f"are {len(places)} workers"
        raise UsageError(
            f"--lineages={number}: there {there} for them (--workers={workers}): use --workers={number} or more, fewer "
            "lineages, or --workers=ray"
        )
    if each > 1 and any("TPU" in name for name in places[0].variables):
        raise UsageError(
            f"--lineages={number}: a lineage can have 1 TPU chip, not {each}: use --lineages={len(places)}"
        )
    return [Share(_joined(places[one * each : (one + 1) * each]), str(each)) for one in range(number)]


def _joined(places: Sequence[Place]) -> Place:
    """What several workers have, as one place."""
    variables = {name: ",".join(place.variables[name] for place in places) for name in places[0].variables}
    return Place(cpus=frozenset().union(*(place.cpus for place in places)), variables=variables)


def _common_words(options: RunOptions, before: Mapping[str, Sequence[str]]) -> list[str]:
    """The flags of every lineage; one that it has from `before`, and that is no longer given, with its default."""
    words: list[str] = []
    for flag in list_flags(options):
        if flag.name not in _OWN_FLAGS and (not flag.is_default or flag.name in before):
            words += flag.words or [f"--{flag.name}={NONE}"]
    return words


class _Drivers:
    """The processes of lineages, whose lines are printed with the lineage's name before them."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        self._readers: list[threading.Thread] = []
        self._signals: deque[int] = deque()
        self._are_started = False

    @contextmanager
    def signals_passed_on(self) -> Iterator[None]:
        """Passes the signals that end a run on to all, those that come while they are started afterwards."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        try:
            for number, handler in before.items():
                if (number, handler) != (signal.SIGHUP, signal.SIG_IGN):  # under `nohup`
                    signal.signal(number, self._take)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def start(self, name: str, words: Sequence[str], place: Place) -> None:
        """Starts `autoresearch run` with these flags; it ends, to be resumed, when this process dies.

        A session of its own keeps Ctrl-C from it, which is passed on.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            with place.taken():
                process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _DRIVER, str(package_root().parent), "run", *words],
                    env={**os.environ, **place.variables},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                    start_new_session=True,
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._processes.append(process)
        assert process.stdout is not None
        assert process.stderr is not None
        for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            reader = threading.Thread(target=_copy_lines, args=(name, source, target), daemon=True)
            reader.start()
            self._readers.append(reader)

    def wait(self) -> int:
        """Waits for all; see `run_lineages`."""
        self._are_started = True
        self._pass_on()
        codes = [process.wait() for process in self._processes]
        for reader in self._readers:
            reader.join(READER_SECONDS)
        return next((128 - code if code < 0 else code for code in codes if code != 0), 0)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)
        self._pass_on()

    def _pass_on(self) -> None:
        while self._are_started and self._signals:
            number = self._signals.popleft()
            for process in self._processes:
                process.send_signal(number)


def _copy_lines(name: str, source: IO[str], target: TextIO) -> None:
    for line in source:
        say(f"{name}  {line.rstrip()}".rstrip(), target)


def end_with_parent() -> None:
    """In a driver: has it end as by SIGTERM when its standard input is closed, as by the death of its parent."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def describe_lineages(lineages: Lineages) -> tuple[list[RunLine], dict[str, Scalar]]:
    """A line for each lineage that has begun, and which is the best."""
    lines = list_folders(lineages.begun, lineages.folder.path.parent)
    best: tuple[float, dict[str, Scalar]] | None = None
    for run in lineages.begun:
        with closing(Ledger.open_to_read(run.ledger)) as ledger, ledger.as_of_now():
            summary = summarize_run(ledger)
        metric, score = summary.metric, summary.champion_score
        if metric is None or score is None:
            continue
        worth = metric.gain(score.mean, over=0.0)
        if best is None or worth > best[0]:
            found: dict[str, Scalar] = {"best": run.path.name, f"best_{metric.name}": plus_minus(score)}
            best = worth, found
    given = sum(1 for _ in lineages.findings.glob("*.md"))
    return lines, {
        "lineages": lineages.number,
        **(best[1] if best else {"best": None}),
        "findings": given,
        "findings_dir": str(lineages.findings),
    }


def print_lineages(lineages: Lineages, stream: TextIO) -> None:
    """Prints how lineages stand."""
    lines, figures = describe_lineages(lineages)
    if lines:
        say(f"{format_table([line.row() for line in lines])}\n", stream)
    print_lines(figures, stream)
