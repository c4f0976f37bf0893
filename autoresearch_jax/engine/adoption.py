"""What a lineage gives the others, and what they gave it: findings, through a folder that they share."""

from collections.abc import Callable, Sequence
from pathlib import Path

from autoresearch_jax.engine.ledger import Ledger
from autoresearch_jax.engine.observers import Expendable, QuietObserver
from autoresearch_jax.engine.records import ExperimentRow, Kind
from autoresearch_jax.engine.run_findings import findings_of_run
from autoresearch_jax.engine.run_folder import Lineages, RunFolder
from autoresearch_jax.engine.state import asset_of, concluded
from autoresearch_jax.findings.folder import FindingFolder, open_library
from autoresearch_jax.findings.format import Finding, FindingError

ADOPT_EVERY = 20  # experiments of a lineage after which it gives the others what it found


class Adoption(QuietObserver):
    """Gives the other lineages what one found, every `ADOPT_EVERY` experiments; a store of what the others gave.

    It gives edits that were kept, and its evidence on findings that others may try, too, refutations included. What it
    gave itself is not among what it reads: that was measured here, on this champion or one before it.
    """

    def __init__(
        self,
        lineages: Lineages,
        run: RunFolder,
        ledger: Ledger,
        folder: Path,
        peers: Path | None,
        notice: Callable[[str], None],
    ) -> None:
        """Reads and writes nothing yet; `folder` is of other findings that may be tried, `peers` of those of peers."""
        self._tag = run.path.name
        self._ledger = ledger
        self._folders = folder, peers
        self._notice = notice
        self._shared = FindingFolder(lineages.findings, notice)
        self._attempt = Expendable(str(lineages.findings), notice)
        self._changes: dict[int, str] = {}
        self._own: set[str] = set()  # ids of what it gave
        self._given_at: int | None = None  # experiments that were over then
        self._told: set[str] = set()

    def ends(self, experiment: ExperimentRow) -> None:
        """Gives what was found so far, if it is time."""
        over = sum(row.kind is Kind.PROPOSAL for row in concluded(self._ledger))
        if over % ADOPT_EVERY == 0 and over != self._given_at:
            self._given_at = over
            self._attempt(self._give)

    def findings(self) -> Sequence[Finding]:
        """What the others gave; see `FindingStore.findings`."""
        if self._given_at is None:  # what an earlier process found
            self._given_at = -1
            self._attempt(self._give)
        return [finding for finding in self._shared.findings() if finding.id not in self._own]

    def base_text(self, digest: str) -> str | None:
        """See `FindingStore.base_text`."""
        return self._shared.base_text(digest)

    def add(self, finding: Finding, base_text: str | None) -> str:
        """See `FindingStore.add`."""
        return self._shared.add(finding, base_text)

    def _give(self) -> None:
        folder, peers = self._folders
        library = open_library(folder, lambda text: None, asset_of(self._ledger), peers, [self._shared])
        known = {finding.id for finding in library.findings()}
        for one in findings_of_run(self._ledger, self._tag, library, self._changes).findings:
            if one.finding.status == "refuted" and one.finding.id not in known:
                continue  # the others would try what they do not know yet
            self._own.add(one.finding.id)
            try:
                self.add(one.finding, one.base_text)
            except FindingError as error:
                if (text := str(error)) not in self._told:
                    self._told.add(text)
                    self._notice(text)
