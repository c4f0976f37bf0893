"""The option that names a folder of findings, and what is checked of findings before a run begins."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.assets.base import AssetKind
from autoresearch_jax.assets.merging import rebase_text
from autoresearch_jax.commands.folder_options import FolderOptions
from autoresearch_jax.commands.options import InRun, option
from autoresearch_jax.engine.git import Git
from autoresearch_jax.errors import UsageError
from autoresearch_jax.findings.folder import OWN, open_library
from autoresearch_jax.findings.format import FindingError, apply_finding
from autoresearch_jax.sanitize import clean_line
from autoresearch_jax.types import Merge


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


def merge_changes(merge: Merge, asset: AssetKind) -> Merge:
    """Merges a change into a text whose constants have other values, too; see `rebase_text`."""
    return lambda base, ours, theirs: rebase_text(asset, theirs, base, ours, merge)


def require_fitting_finding(
    folder: Path,
    peers: Path | None,
    asset: AssetKind,
    editable: Path,
    source: str,
    environment: Mapping[str, str],
    flag: str,
    also: str,
) -> None:
    """Refuses to begin with nothing but findings where none fits the asset.

    Args:
      folder: of findings beside the shipped ones.
      peers: that of those of peers.
      asset: its kind.
      editable: the file in the user's checkout.
      source: its text.
      environment: of this process.
      flag: that asks for findings.
      also: why there is nothing else to try, for the message.

    Raises:
      UsageError: none fits.
    """
    library = open_library(folder, lambda text: None, asset, peers)
    merge, why = merge_changes(Git(editable.resolve().parent, environment).merge, asset), "there is none"
    for finding in library.findings():
        try:
            apply_finding(finding, source, library.base_text(finding.base), merge, asset)
            return
        except FindingError as error:
            why = clean_line(str(error))
    raise UsageError(
        f"{flag}: no finding fits {editable.name} ({why}){also}: import some (`autoresearch findings import`), or "
        "choose another --proposer"
    )
