"""Git repositories that tests start from."""

import subprocess
from pathlib import Path


def git(folder: Path, *words: str) -> str:
    """What git prints; commits have an author."""
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def make_repository(folder: Path, source: str, page: str) -> None:
    """Commits all files of a folder, a training file and a page of instructions among them, on branch main."""
    folder.mkdir(exist_ok=True)
    (folder / "train_lib.py").write_text(source)
    (folder / "program.md").write_text(page)
    for words in ("init -q -b main", "add .", "commit -qm start"):
        git(folder, *words.split())
