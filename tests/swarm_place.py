"""Peers with keys of their own and a shared remote, as people have them."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from repositories import git

from autoresearch_jax.swarm.membership import Settings, SwarmFolder
from autoresearch_jax.swarm.peer import Peer

BASE = "LR = 0.5\n\n\ndef loss(x):\n    return x * x\n"
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
