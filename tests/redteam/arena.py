"""Where the red team's candidates run: the real task with all its processes, and a look at the machine afterwards."""

import base64
import contextlib
import os
import shutil
import signal
import site
import socket
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
from redteam.entries import DATASET, MARK, PORT, REPOSITORY, SECRET_NAME, TINY_SOURCE, VAL_TABLE, WEIGHTS

import autoresearch_jax
from autoresearch_jax.sandbox.sandbox import ProcessLimits, Sandbox
from autoresearch_jax.tasks.lm.config import LmTaskConfig, TimeLimits
from autoresearch_jax.tasks.lm.data.dataset import Dataset
from autoresearch_jax.tasks.lm.device import Device
from autoresearch_jax.tasks.lm.programs import make_mesh
from autoresearch_jax.tasks.lm.snapshot import load_snapshot
from autoresearch_jax.tasks.lm.task import LmTask
from autoresearch_jax.types import Budget, Candidate, CandidateRejected, Scalar, Scrutiny, Status

PACKAGE = Path(autoresearch_jax.__file__).parent
DEVICE = Device("cpu", "cpu", 1, 64 << 30)
STEPS = Budget(steps=30)
MAX_TRACE_BYTES = 2 << 30  # of memory: less than by default, so that whoever wants it all is done sooner
MAX_LEFT_BYTES = 64 << 20  # logs and programs of one candidate


@dataclass(frozen=True)
class Result:
    """What became of a candidate: of a refused one status, reason and details alone."""

    status: Status
    value: float | None
    reason: str
    details: str = ""
    program_hash: str | None = None
    snapshot: Path | None = None
    metrics: Mapping[str, Scalar] = field(default_factory=dict)


class Arena:
    """Runs candidates one by one, with a key in the environment, a listener on loopback and a marker for leftovers."""

    def __init__(self, folder: Path, dataset: Dataset, sandbox: Sandbox, compile_cache: Path) -> None:
        self.folder = folder
        self.compile_cache = compile_cache
        self.dataset = dataset
        self.sandbox = sandbox
        self.mark = f"rt-{uuid.uuid4().hex[:8]}"  # short enough for the name of a process
        self.secret = f"secret-{uuid.uuid4().hex}"
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.signals: list[int] = []
        self.programs_dir = folder / "programs"
        self._num_runs = 0

    def __enter__(self) -> "Arena":
        self._old_handler = signal.signal(signal.SIGUSR2, lambda number, frame: self.signals.append(number))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGUSR2, self._old_handler)
        self.listener.close()

    def fill(self, source: str) -> str:
        """A source with its placeholders filled in."""
        values = {
            MARK: self.mark,
            DATASET: str(self.dataset.folder.resolve()),
            REPOSITORY: str(PACKAGE.parent),
            PORT: str(self.listener.getsockname()[1]),
        }
        for name, table in {VAL_TABLE: "val_table", WEIGHTS: "weights"}.items():
            if name in source:
                values[name] = repr(base64.b85encode(getattr(self, table).tobytes()))
        for name, value in values.items():
            source = source.replace(name, value)
        return source

    @cached_property
    def val_table(self) -> np.ndarray:
        """Logits of each byte after each in the validation text, of 0 for all others, int8[128, 128] in 1/8 nats."""
        counts = np.full((128, 128), 0.05)
        for row in np.asarray(self.dataset.rows(256, "val")):
            inside = (row[:-1] < 128) & (row[1:] < 128)
            np.add.at(counts, (row[:-1][inside], row[1:][inside]), 1)
        return np.round(8 * np.log(150 * counts / counts.sum(axis=1, keepdims=True))).astype(np.int8)

    @cached_property
    def weights(self) -> np.ndarray:
        """What an honest trial ten times as long learnt, by the dataset's ids, int8[128, 128] in 1/8 nats."""
        result = self.run(TINY_SOURCE, seed=1, budget=Budget(steps=300))
        assert result.snapshot is not None
        snapshot = load_snapshot(result.snapshot, make_mesh({"data": 1, "model": 1}))
        (table,) = (leaf for leaf in snapshot.read_leaves if leaf.shape == (256, 256))
        ids = self.dataset.tokenizer(256).draw_ids(1)[:128]
        return np.round(8 * np.asarray(table)[ids[:, None], ids]).clip(-127, 127).astype(np.int8)

    @property
    def environment(self) -> dict[str, str]:
        """What the driver's own environment is here: with a key in it."""
        return {**os.environ, SECRET_NAME: self.secret}

    def task(self, budget: Budget = STEPS, limits: Mapping[str, float] | None = None) -> LmTask:
        config = LmTaskConfig(
            dataset=self.dataset,
            device=DEVICE,
            mesh_axes={"data": 1, "model": 1},
            budget=budget,
            sandbox=self.sandbox,
            programs_dir=self.programs_dir,
            trials_dirs=(self.folder,),
            environment=self.environment,
            compile_cache_dir=self.compile_cache,
            limits=TimeLimits(**(limits or {})),
            trace_limits=ProcessLimits(memory_bytes=MAX_TRACE_BYTES),
        )
        return LmTask(config)

    def run(
        self,
        source: str,
        *,
        seed: int = 0,
        budget: Budget = STEPS,
        limits: Mapping[str, float] | None = None,
        scrutiny: Scrutiny = Scrutiny.SEARCH,
    ) -> Result:
        """Prepares and measures a candidate."""
        task, folder = self.task(budget, limits), self._new_folder()
        try:
            candidate = task.prepare(self.fill(source), folder)
            return self._measure(task, candidate, folder, seed, scrutiny)
        except CandidateRejected as error:
            return Result(error.status, None, error.reason, error.details or "")
        finally:
            task.close()

    @cached_property
    def honest_score(self) -> float:
        """Of the tiny training file, before any cheat."""
        score = self._reference[1].value
        assert score is not None
        return score

    @property
    def has_honest_score(self) -> bool:
        return "honest_score" in vars(self)

    def honest(self) -> Result:
        """Measures the tiny training file, which is prepared once."""
        task, candidate = self._honest
        return self._measure(task, candidate, self._new_folder(), seed=0)

    @cached_property
    def _honest(self) -> tuple[LmTask, Candidate]:
        task = self.task()
        return task, task.prepare(TINY_SOURCE, self._new_folder())

    @cached_property
    def _reference(self) -> tuple[Path, Result]:
        """Where an honest trial has left the nats of its tokens, and what it came to."""
        task, candidate = self._honest
        folder = self.folder / "reference"
        folder.mkdir(parents=True)
        return folder, self._measure(task, candidate, folder, seed=0)

    def seal(self) -> dict[str, tuple[int, int]]:
        """Size and time of every file that no candidate may change: our package and the dataset."""
        paths = [*PACKAGE.rglob("*.py"), PACKAGE.parent / "train_lib.py", *self.dataset.folder.rglob("*")]
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.is_file()}

    def harm(self) -> list[str]:
        """What is left that must not be: processes, files, a key, a connection, a signal. Clears the folder of logs."""
        found = [f"process {pid}: {words}" for pid, words in self._processes()]
        found += [f"file {path}" for path in self._marked_files()]
        files = [path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink()]
        size = sum(path.stat().st_size for path in files)
        if size > MAX_LEFT_BYTES:
            found.append(f"{size:,} bytes in {self.folder}")
        found += [f"key in {path}" for path in files if self.secret.encode() in path.read_bytes()]
        found += [f"scratch folder {path}" for path in self.programs_dir.glob(".*")]
        with contextlib.suppress(BlockingIOError):
            self.listener.accept()[0].close()
            found.append("a connection")
        found += [f"signal {number}" for number in self.signals]
        self.signals.clear()
        for path in self.folder.glob("run-*"):
            shutil.rmtree(path)
        return found

    def _measure(
        self,
        task: LmTask,
        candidate: Candidate,
        folder: Path,
        seed: int,
        scrutiny: Scrutiny = Scrutiny.SEARCH,
    ) -> Result:
        measured = task.measure(
            candidate,
            seed=seed,
            log_dir=folder,
            snapshot_dir=folder / "snapshot",
            scrutiny=scrutiny,
            reference_log_dirs=[] if scrutiny is Scrutiny.SEARCH else [self._reference[0]],
        )
        return Result(
            measured.status,
            measured.value,
            measured.error or "",
            program_hash=candidate.program_hash,
            snapshot=measured.snapshot,
            metrics=measured.metrics,
        )

    def _new_folder(self) -> Path:
        self._num_runs += 1
        folder = self.folder / f"run-{self._num_runs}"
        folder.mkdir(parents=True)
        return folder

    def _processes(self) -> list[tuple[int, str]]:
        """Processes that bear the marker, or hold on to the arena's folder."""
        found = []
        for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
            words = ""
            with contextlib.suppress(OSError):
                words += Path(f"/proc/{pid}/comm").read_text() + Path(f"/proc/{pid}/cmdline").read_text()
                words += os.readlink(f"/proc/{pid}/cwd")
            if self.mark in words or str(self.folder) in words:
                found.append((pid, words.replace("\0", " ")))
        return found

    def _marked_files(self) -> list[Path]:
        """Files of the marker's name, where a candidate would leave some."""
        folders = [*map(Path, ("/tmp", "/var/tmp", "/dev/shm", "/etc", tempfile.gettempdir())), Path.home()]
        folders += [*PACKAGE.rglob("."), *PACKAGE.rglob("__pycache__"), PACKAGE.parent, Path(os.__file__).parent]
        folders += [*map(Path, site.getsitepackages()), self.dataset.folder]
        folders += [self.programs_dir, *self.programs_dir.glob("*")]
        return sorted({path for folder in folders for path in folder.glob(f"*{self.mark}*")})
