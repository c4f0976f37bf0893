"""Peers with keys of their own and a shared remote, as people have them."""

import datetime
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from repositories import git

from autoresearch_jax.findings.folder import ID_DIGITS
from autoresearch_jax.swarm.membership import Settings, SwarmFolder
from autoresearch_jax.swarm.peer import Peer

BASE = "LR = 0.5\n\n\ndef loss(x):\n    return x * x\n"
FINDINGS = "refs/autoresearch/findings"
NAMES = ("alice", "bob", "carol", "mallory")


def words_of(id: str) -> str:
    """An id of a peer's finding without the digits of its change."""
    assert id[-ID_DIGITS - 1] == "-"
    return id[: -ID_DIGITS - 1]


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

    def tls(self, name: str, **given) -> dict:
        """Settings of a peer with the certificate of a name, see `write_certificates`."""
        own = {"tls_ca": "authority.pem", "tls_certificate": f"{name}.pem", "tls_key": f"{name}.tls", **given}
        return {key: str(self.path / value) if key.startswith("tls_") else value for key, value in own.items()}

    def peer(
        self, name: str, key: str | None = None, folder: SwarmFolder | None = None, exchange=None, **given
    ) -> Peer:
        """The peer of a name, whose folder may be there already."""
        folder = folder or self.folder(name)
        folder.create()
        given = {"remote": f"file://{self.remote}", **given}
        folder.write_settings(Settings(name=name, key=str(self.key(key or name)), members=str(self.members), **given))
        return Peer(folder, os.environ, lambda text: self.told.append(f"{name}: {text}"), lambda: self.now, exchange)

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


def write_certificates(folder: Path, authority: str, names: list[str]) -> None:
    """An authority's certificate and those that it signed, with their keys, in PEM."""
    own = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, authority)])
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    for name in (authority, *names):
        key = own if name == authority else ec.generate_private_key(ec.SECP256R1())
        made = x509.CertificateBuilder(issuer, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        made = made.public_key(key.public_key()).serial_number(x509.random_serial_number())
        made = made.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
        if name == authority:
            made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        else:
            made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            made = made.add_extension(usage, critical=False)
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        (folder / f"{name}.pem").write_bytes(made.sign(own, hashes.SHA256()).public_bytes(pem))
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
        (folder / f"{name}.tls").write_bytes(private)


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
