"""Which run a command is about, by its tag in a folder of runs, which runs there are, and where findings are."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

from autoresearch_jax.commands.options import InRun, option
from autoresearch_jax.engine.database import LedgerError
from autoresearch_jax.engine.run_folder import Lineages, RunFolder, find_runs
from autoresearch_jax.errors import UsageError
from autoresearch_jax.findings.folder import OWN
from autoresearch_jax.sanitize import clean_line

MOST_TAGS = 8  # that a message lists
SAME_COMMAND = "the same `autoresearch try` (or `run`)"  # of which one began the run, and goes on with its baseline


@dataclass(frozen=True)
class FolderOptions:
    """Which run."""

    tag: str | None = option(None, "name of the run and of its folder")
    run_dir: str = option("./runs", "folder of the runs", path=True)

    @property
    def folder(self) -> RunFolder:
        """The folder of the run.

        Raises:
          UsageError: --tag is missing or empty, or leads out of the folder of the runs.
        """
        if not self.tag:
            what = "--tag is missing" if self.tag is None else "--tag= is empty"
            raise UsageError(f"{what}: name the run, such as --tag=nov20{self.tags('; there are ')}")
        parts = PurePosixPath(self.tag).parts
        if self.tag.startswith("/") or ".." in parts or not parts:
            raise UsageError(f"--tag={self.tag}: a name, not a path that leads out of {self.run_dir}")
        return RunFolder(Path(self.run_dir) / self.tag)

    @property
    def existing(self) -> RunFolder:
        """The folder of a run that has begun.

        Raises:
          UsageError: see `folder`.
          LedgerError: there is no such run; the message names those that there are.
        """
        folder = self.folder
        if not folder.ledger.exists():
            self.refuse(folder)
        return folder

    def refuse(self, folder: RunFolder, remedy: str = "check --tag and --run_dir") -> NoReturn:
        """Says that a folder has no ledger, and which runs there are.

        Raises:
          LedgerError: always.
        """
        if (lineages := Lineages.read(folder)) is not None:
            tags = ", ".join(run.path.relative_to(self.run_dir).as_posix() for run in lineages.runs)
            raise LedgerError(f"--tag={self.tag}: that is {lineages.number} lineages: name one of them, {tags}")
        raise LedgerError(f"{folder.ledger}: no ledger there; {self.tags('there are ') or remedy}")

    def tags(self, begin: str) -> str:
        """The tags of the runs that there are, the latest first; empty if there is none."""
        tags = [folder.path.relative_to(self.run_dir).as_posix() for folder in find_runs(Path(self.run_dir))]
        more = f" and {len(tags) - MOST_TAGS} more" if len(tags) > MOST_TAGS else ""
        return f"{begin}{', '.join(map(clean_line, tags[:MOST_TAGS]))}{more} in {self.run_dir}" if tags else ""

    def require_runs(self) -> Path:
        """The folder of the runs.

        Raises:
          UsageError: there are none in it.
        """
        if not find_runs(Path(self.run_dir)):
            raise UsageError(
                f"--run_dir={self.run_dir}: no runs there: begin one, `autoresearch run --tag=NAME`, or name another"
            )
        return Path(self.run_dir)

    @property
    def begun(self) -> RunFolder | None:
        """The folder of the run whose flags a command takes over; None where no run is named."""
        return self.folder if self.tag else None

    @property
    def not_taken(self) -> tuple[str, ...]:
        """Flags of that run that the command does not take over."""
        return ()

    def named(self, name: str) -> RunFolder:
        """A run that is named by its tag, in the folder of --run_dir, or by its own folder."""
        by_tag, by_path = RunFolder(Path(self.run_dir) / name), RunFolder(Path(name))
        return by_path if by_path.ledger.is_file() and not by_tag.ledger.is_file() else by_tag


@dataclass(frozen=True)
class TrialFolderOptions(FolderOptions):
    """Which run; by default the folder of trials by hand."""

    tag: str | None = option("trials", "name of the run and of its folder")


@dataclass(frozen=True)
class FindingOptions:
    """Where findings are beside those that are shipped."""

    findings_dir: str | None = option(
        None,
        "folder of findings beside those that are shipped; by default `findings` in --run_dir",
        path=True,
        in_run=InRun.MACHINE,
    )

    def folder(self, runs: FolderOptions) -> Path:
        """The folder, which need not exist."""
        return Path(runs.run_dir) / OWN if self.findings_dir is None else Path(self.findings_dir)
