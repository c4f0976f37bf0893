"""Makes the starts of bench_start_table.py, each in a git repository with a tiny dataset; called by bench_start.sh.

A line tells the kind of a start, what was tried, what came, and whether that is right. A refusal is right if it is one
line that names the fault, with the right exit status, and nothing was measured. A notice is right if it came before the
first trial began. Where the start should simply work, its lines must show that it did. The last lines:
  faults_found_before_baseline    starts that were right, of all
  tracebacks                      starts that printed one
  silent_limits_lost              pages with a limit whose run went on, and of whose limit no line said the right thing
"""

import argparse
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from bench_start_table import BEGIN, PAGE, SETTINGS, STARTS, STOPS, Start

from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.records import TrialRow

SHIPPED = Path(__file__).resolve().parent.parent
sys.path.append(str(SHIPPED / "tests"))
from gemini_server import GeminiServer  # noqa: E402
from repositories import make_repository  # noqa: E402
from socks_server import socks_server  # noqa: E402
from tiny_corpus import write_corpus  # noqa: E402

SECONDS = 300.0  # a start that takes longer hangs
TRACEBACK = "Traceback (most recent call last)"
KEPT_VARIABLES = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")  # the others are the user's, and part of what is tried
MAX_SHOWN = 160  # characters of a line


@dataclass(frozen=True)
class Came:
    """What came of a start.

    Attributes:
      lines: what was printed, each line with the time when it came.
      status: exit status.
      trials: those that were begun.
    """

    lines: list[tuple[float, str]]
    status: int
    trials: list[TrialRow]

    def find(self, pattern: str) -> tuple[float, str] | None:
        """The first line that has it, with its time."""
        return next((line for line in self.lines if re.search(pattern, line[1])), None)

    @property
    def measured(self) -> list[TrialRow]:
        """Trials but for those that the command itself gave back."""
        return [trial for trial in self.trials if trial.interrupted_at is None]

    @property
    def has_traceback(self) -> bool:
        return self.find(re.escape(TRACEBACK)) is not None

    def fault(self, start: Start) -> str:
        """Why it is not right; empty if it is."""
        if self.has_traceback:
            return "a traceback"
        if self.status != start.status:
            return f"exit status {self.status}, not {start.status}"
        for pattern in (start.named, *start.shows):
            if self.find(pattern) is None:
                return f"no line has {pattern}"
        if start.status == 0:
            named = self.find(start.named) if start.named else None
            late = named is not None and any(trial.started_at < named[0] for trial in self.measured)
            return "named when the first trial had begun" if late else ""
        if more := [line for _, line in self.lines if not line.startswith("autoresearch")]:
            return f"more than a line: {more[0]}"
        return "named when something was measured" if self.measured else ""

    def loses_limit(self, start: Start) -> bool:
        """Whether the page's limit is gone and nothing said so."""
        said = all(self.find(pattern) is not None for pattern in (start.named, *start.shows))
        return start.limited and bool(self.measured) and not said

    def line(self, start: Start) -> str:
        """The line that matters most."""
        patterns = [start.named] if start.named else list(start.shows)
        found = [line for pattern in patterns if (line := self.find(pattern)) is not None]
        return (found or self.lines or [(0.0, "nothing was printed")])[-1][1]


@dataclass(frozen=True)
class Place:
    """Where starts are made: one after the other in the same folder, so that a run that was begun there can be copied.

    Attributes:
      folder: an empty one.
      environment: of the commands, which are those of a new user.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def set_up(self) -> None:
        """Makes home, flag file and dataset."""
        home, corpus, flags = self.folder / "home", self.folder / "tiny.jsonl", self.folder / "tiny.flags"
        home.mkdir()
        (self.folder / "tmp").mkdir()
        (home / ".gitconfig").write_text("[user]\n\tname = Researcher\n\temail = researcher@example.org\n")
        write_corpus(corpus)
        words = [f"--corpus=files:{corpus}", f"--data_dir={self.folder / 'data'}", *SETTINGS]
        flags.write_text("\n".join(words) + "\n")
        self.environment.update({name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ})
        self.environment.update(
            {
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "HOME": str(home),
                "XDG_CACHE_HOME": str(self.folder / "cache"),
                "TMPDIR": str(self.folder / "tmp"),
                "LC_ALL": "C.UTF-8",
                "PYTHONUNBUFFERED": "1",  # so that lines come in the order in which they are printed
                "FLAGS": str(flags),
                "SHIPPED": str(SHIPPED),
            }
        )
        self._require("autoresearch prepare --flagfile=$FLAGS")

    def _require(self, line: str) -> None:
        came = self.call(line, self.folder, {})
        if came.status != 0:
            sys.exit(f"bench_start: {line}: " + "\n".join(text for _, text in came.lines))

    def begin_run(self) -> Path:
        """A repository with a run that is over; copied to where it was made, it can go on."""
        repository = self._make_repository("repo", PAGE + STOPS)
        self._require(f"cd repo && {BEGIN}")
        return repository.rename(self.folder / "begun")

    def _make_repository(self, name: str, page: str) -> Path:
        source = (SHIPPED / "tests/tiny_train_lib.py").read_text(encoding="utf-8")
        make_repository(self.folder / name, source, page)
        return self.folder / name

    def make(self, start: Start) -> Came:
        """Makes one."""
        if start.on_run:
            if not (begun := self.folder / "begun").exists():
                self.begin_run()
            repository = Path(shutil.copytree(begun, self.folder / "repo", symlinks=True))
        else:
            repository = self._make_repository(start.folder, PAGE + start.stops)
        with ExitStack() as stack:
            server = stack.enter_context(GeminiServer(start.answers))
            proxy, _ = stack.enter_context(socks_server())
            came = self.call(start.typed, repository, {"MODEL": server.url, "SOCKS": proxy})
        shutil.rmtree(repository)
        return came

    def call(self, line: str, folder: Path, variables: Mapping[str, str]) -> Came:
        """Calls a line of shell in a folder, and looks for trials below that."""
        begun = time.time()
        with subprocess.Popen(
            ["sh", "-c", line],
            cwd=folder,
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        ) as process:
            watch = threading.Timer(SECONDS, os.killpg, (process.pid, signal.SIGKILL))
            watch.start()
            assert process.stdout is not None
            try:
                lines = [(time.time(), text.rstrip("\n")) for text in process.stdout if text.strip()]
                status = process.wait()
            finally:
                watch.cancel()
                if process.poll() is None:  # Ctrl-C
                    os.killpg(process.pid, signal.SIGTERM)
        trials: list[TrialRow] = []
        for path in folder.rglob("ledger.db"):
            with closing(Ledger.open_to_read(path)) as ledger:
                trials += [trial for trial in ledger.trials() if trial.started_at > begun]
        return Came(lines, status, trials)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    starts = [start for start in STARTS if args.only in f"{start.kind}: {start.tried}"]
    print(f"machine: {platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}", end=", ")
    print(f"{time.strftime('%Y-%m-%d')}, load {os.getloadavg()[0]:.2f}", flush=True)
    found = tracebacks = lost = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="autoresearch-start-") as name:
        place = Place(Path(name).resolve())
        place.set_up()
        for number, start in enumerate(starts, 1):
            came = place.make(start)
            fault = came.fault(start)
            found += not fault
            tracebacks += came.has_traceback
            lost += came.loses_limit(start)
            shown = came.line(start)[:MAX_SHOWN]
            print(f"{number:2} {start.kind}: {start.tried}: {shown}: {fault or 'ok'}", flush=True)
            if fault:
                print("".join(f"     | {line}\n" for _, line in came.lines), end="", file=sys.stderr, flush=True)
    print(f"seconds: {time.monotonic() - began:.0f}")
    print(f"faults_found_before_baseline: {found} of {len(starts)}")
    print(f"tracebacks: {tracebacks}")
    print(f"silent_limits_lost: {lost}")
    return 0 if (found, tracebacks, lost) == (len(starts), 0, 0) and starts else 1


if __name__ == "__main__":
    sys.exit(main())
