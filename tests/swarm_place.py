"""Peers with keys of their own and a shared remote, as people have them."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from repositories import git

from autoresearch_jax.swarm.membership import Settings, SwarmFolder
from autoresearch_jax.swarm.peer import Peer

BASE = "LR = 0.5\n\n\ndef loss(x):\n    return x * x\n"
FINDINGS = "refs/autoresearch/findings"
NAMES = ("alice", "bob", "carol", "mallory")


@dataclass
class Place:
    """A folder with a bare remote, a key for each name, and a members' file of all but mallory."""

    path: Path
    told: list[str]
    now: float = 1_800_000_000.0

    @property
    def remote(self) -> Path:
        return self.path / "remote.git"

    @property
    def members(self) -> Path:
        return self.path / "members"

    def key(self, name: str) -> Path:
        return self.path / f"{name}.key"

    def folder(self, name: str) -> SwarmFolder:
        return SwarmFolder(self.path / f"{name}/runs")

    def peer(self, name: str, key: str | None = None, **given) -> Peer:
        """The peer of a name, whose folder may be there already."""
        folder = self.folder(name)
        folder.create()
        given = {"remote": f"file://{self.remote}", **given}
        folder.write_settings(Settings(name=name, key=str(self.key(key or name)), members=str(self.members), **given))
        return Peer(folder, os.environ, lambda text: self.told.append(f"{name}: {text}"), lambda: self.now)

    def said(self, name: str) -> list[str]:
        """What a peer told since this was asked last."""
        lines = [line.removeprefix(f"{name}: ") for line in self.told if line.startswith(f"{name}: ")]
        self.told[:] = [line for line in self.told if not line.startswith(f"{name}: ")]
        return lines

    def refs(self) -> dict[str, str]:
        """What the remote has."""
        lines = git(self.remote, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        return dict(line.split() for line in lines)


def make_place(path: Path) -> Place:
    """Makes the remote and the keys."""
    place = Place(path, [])
    git(path, "init", "-q", "--bare", str(place.remote))
    for name in NAMES:
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(place.key(name))]
        subprocess.run(words, check=True)
    lines = (place.key(name).with_suffix(".key.pub").read_text() for name in NAMES[:-1])
    place.members.write_text("# who takes part\n" + "".join(f"{line.split()[2]} {line}" for line in lines))
    return place


def write_by_hand(place: Place, name: str, files: dict[str, str], parent: str | None, key: str) -> str:
    """A commit at the remote as a peer with other software would sign it; returns its name."""
    work = place.path / "by-hand"
    git(place.path, "init", "-q", str(work))
    index = {**os.environ, "GIT_INDEX_FILE": str(work / "index")}
    (work / "index").unlink(missing_ok=True)
    for path, text in files.items():
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).write_text(text)
        subprocess.run(["git", "add", "-f", path], cwd=work, env=index, check=True)
    tree = subprocess.run(["git", "write-tree"], cwd=work, env=index, check=True, capture_output=True, text=True)
    if parent is not None:
        git(work, "fetch", "-q", str(place.remote), f"{FINDINGS}/{name}")
    signing = ("-c", "gpg.format=ssh", "-c", f"user.signingKey={place.key(key)}")
    dated = {**os.environ, "GIT_COMMITTER_DATE": f"@{int(place.now)} +0000"}
    words = ["commit-tree", "-S", tree.stdout.strip(), *(() if parent is None else ("-p", parent)), "-m", "by hand"]
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    made = subprocess.run(
        ["git", *identity, *signing, *words], cwd=work, env=dated, check=True, capture_output=True, text=True
    ).stdout.strip()
    git(work, "push", "-q", "--force", str(place.remote), f"{made}:{FINDINGS}/{name}")
    return made
