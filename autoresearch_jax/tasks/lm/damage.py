"""What is wrong with a snapshot's files, by their hashes alone: nothing is deserialised, and JAX is not loaded."""

import json
from pathlib import Path

from autoresearch_jax.tasks.lm.data.manifest import MANIFEST, FileEntry
from autoresearch_jax.tasks.lm.inventory import RESTORE, file_differences, inventory_differences

SNAPSHOT_SHA256 = "snapshot_sha256"  # among a trial's metrics: of the manifest, which has the hashes of all other files


def snapshot_damage(folder: Path, sha256: str | None) -> list[str]:
    """A line for each file of a snapshot that is not as it was written; none if nothing is wrong.

    Args:
      folder: of the snapshot.
      sha256: of its manifest, as it was recorded; None where that is not known.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return [f"{manifest}: is missing: {RESTORE}"]
    if sha256 is not None and (found := file_differences(manifest, sha256, RESTORE)):
        return found
    try:
        listed = json.loads(manifest.read_text(encoding="utf-8"))
        if "files" not in listed and listed["format_version"] == 1:
            return []  # which lists none
        files = {str(name): FileEntry(**entry) for name, entry in listed["files"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return [f"{manifest}: damaged: {type(error).__name__}: {error}: {RESTORE}"]
    return inventory_differences(folder, files, RESTORE)
