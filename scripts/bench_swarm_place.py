"""The remote, the keys and the processes of bench_swarm.py, and those who do not play fair."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from autoresearch_jax.findings.format import Evidence, Finding, base_digest
from autoresearch_jax.swarm.chain import finding_files
from autoresearch_jax.swarm.membership import Settings, SwarmFolder
from autoresearch_jax.swarm.peer import Peer
from autoresearch_jax.swarm.store import FINDINGS, REMOTE_PREFIX, SEEN_PREFIX

BASE = (Path(__file__).parent.parent / "train_lib.py").read_text(encoding="utf-8")
CLASSES = ("cpu", "NVIDIA L4", "NVIDIA H100 80GB HBM3")
HONEST = tuple(f"peer-{number}" for number in range(8))
KILLED, LATE, ROUTER = ("peer-5", "peer-6"), "peer-7", "peer-0"
STRANGER, TAKEN, REWRITER, FLOODER = "stranger", "taken", "rewriter", "flooder"
GIT_PORT, ZENOH = 9418, "tls/127.0.0.1:7447"
FLOOD = 1000
FIRST_LINE = BASE.splitlines()[0]


@dataclass(frozen=True)
class Plan:
    """When things happen, in seconds from the start of a phase."""

    making: float  # until the last finding is made
    away: tuple[float, float]
    late: float
    most_wait: float  # after the last finding
    quiet: float


def make_finding(name: str, number: int) -> Finding:
    """A finding that adds a line at the top of the file."""
    device = CLASSES[(int(name[-1]) if name[-1].isdigit() else 0) % 3]
    seen = Evidence(device, "bench", "20 s", 3, "keep", "2026-11-29", 0.01, 0.002, 0.97, replay=f"{name}:{number}")
    line = f"# {name} {number}"
    change = f"<<<<<<< SEARCH\n{FIRST_LINE}\n=======\n{line}\n{FIRST_LINE}\n>>>>>>> REPLACE\n"
    words = f"{name}-{number}", f"Finding {number} of {name}", "other", "kept", "run bench"
    return Finding(*words, base_digest(BASE), "Made up.", change, (seen,))


# ---- the place


class Place:
    """A folder with a remote behind git daemon, keys and certificates, and the processes of the peers."""

    def __init__(self, path: Path, plan: Plan, notices: bool, has_remote: bool = True) -> None:
        self.path = path
        self.plan = plan
        self.notices = notices
        self.has_remote = has_remote
        self.remote = path / "srv" / "findings.git"
        self.url = f"git://127.0.0.1:{GIT_PORT}/findings.git" if has_remote else ""
        self.members = path / "members"
        self.peers: dict[str, subprocess.Popen[bytes]] = {}
        self.daemon: subprocess.Popen[bytes] | None = None
        self.away: list[float] = []  # when the remote came up
        self.gone_at = 0.0

    def make(self) -> None:
        self.remote.parent.mkdir(parents=True)
        run("git", "init", "-q", "--bare", str(self.remote))
        lines = []
        for name in (*HONEST, STRANGER, TAKEN, REWRITER, FLOODER):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.key(name)))
            if name != STRANGER:
                lines.append(f"{name} {self.key(name).with_suffix('.key.pub').read_text()}")
        self.members.write_text("".join(lines))
        if self.notices:
            make_certificates(self.path)
        for name in (*HONEST, STRANGER, TAKEN, REWRITER, FLOODER):
            folder = SwarmFolder(self.path / name)
            folder.create()
            tls = {f"tls_{key}": str(self.path / f"swarm.{end}") for key, end in TLS_FILES} if self.notices else {}
            where = {"listen": (ZENOH,), "router": True} if name == ROUTER else {"connect": (ZENOH,)}
            given = {**tls, **where} if self.notices else {}
            key = str(self.key(STRANGER if name == TAKEN else name))
            folder.write_settings(Settings(self.url, name, key, str(self.members), **given))  # type: ignore[arg-type]
        self.set_remote(there=True)

    def key(self, name: str) -> Path:
        return self.path / f"{name}.key"

    def set_remote(self, *, there: bool) -> None:
        if not self.has_remote:
            self.away = self.away or [time.time()]
        elif there:
            words = ["git", "daemon", "--export-all", "--enable=receive-pack", "--reuseaddr", "--listen=127.0.0.1"]
            words += [f"--port={GIT_PORT}", f"--base-path={self.remote.parent}", "--max-connections=64"]
            self.daemon = subprocess.Popen(
                [*words, str(self.remote.parent)], start_new_session=True, stderr=subprocess.DEVNULL
            )
            self.away.append(time.time())
        elif self.daemon is not None:
            self.gone_at = time.time()
            os.killpg(self.daemon.pid, signal.SIGKILL)
            self.daemon.wait()

    def start(self, name: str, count: int, making: float) -> None:
        skew = (int(name[-1]) % 3 - 1) * 3600 if name[-1].isdigit() else 0
        words = [
            sys.executable,
            str(Path(__file__).with_name("bench_swarm.py")),
            "--peer",
            name,
            "--place",
            str(self.path),
            "--skew",
            str(skew),
        ]
        words += ["--count", str(count), "--making", str(making), *(["--notices"] if self.notices else [])]
        errors = (self.path / f"{name}.err").open("ab")
        self.peers[name] = subprocess.Popen(words, start_new_session=True, stderr=errors)

    def kill(self, name: str) -> None:
        os.killpg(self.peers.pop(name).pid, signal.SIGKILL)

    def stop(self) -> None:
        for process in self.peers.values():
            process.terminate()
        for process in self.peers.values():
            process.wait(60)
        gone_at = self.gone_at
        self.set_remote(there=False)
        self.gone_at = gone_at

    def log(self, name: str) -> list[dict]:
        path = self.path / f"{name}.log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def read(self, name: str) -> dict[str, float]:
        """When a peer read each finding first."""
        found: dict[str, float] = {}
        for line in self.log(name):
            for one in line.get("read", ()):
                found.setdefault(one, line["at"])
        return found

    def at_remote(self) -> set[str]:
        """The honest findings in the chains at the remote; without one in those of living peers or that one has."""
        found: set[str] = set()
        for name in HONEST:
            folder, prefix = self.remote, REMOTE_PREFIX
            if not self.has_remote:
                is_alive = name in self.peers
                folder = SwarmFolder(self.path / (name if is_alive else ROUTER)).store
                prefix = REMOTE_PREFIX if is_alive else SEEN_PREFIX
            listed = run("git", "-C", str(folder), "log", "--format=%s", f"{prefix}{FINDINGS}/{name}", check=False)
            found |= {line.partition(":")[0] for line in listed.splitlines() if line.startswith("peer-")}
        return found


TLS_FILES = (("ca", "pem"), ("certificate", "member.pem"), ("key", "member.tls"))


def make_certificates(path: Path) -> None:
    """An authority, and one certificate that all members show."""
    new = ("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    ca, member = path / "swarm", path / "swarm.member"
    run(*new, "-x509", "-days", "9", "-subj", "/CN=swarm", "-keyout", f"{ca}.tls", "-out", f"{ca}.pem")
    run(*new, "-subj", "/CN=member", "-keyout", f"{member}.tls", "-out", f"{member}.csr")
    (path / "ext").write_text("subjectAltName=DNS:member\nextendedKeyUsage=serverAuth,clientAuth\n")
    signed = ("openssl", "x509", "-req", "-in", f"{member}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.tls")
    run(*signed, "-CAcreateserial", "-days", "9", "-extfile", str(path / "ext"), "-out", f"{member}.pem")


def run(*words: str, check: bool = True, stdin: bytes = b"") -> str:
    return subprocess.run(words, check=check, capture_output=True, input=stdin).stdout.decode()


# ---- those who do not play fair


def make_trouble(place: Place, name: str) -> None:
    """The stranger pushes below two names, the rewriter and the flooder first behave."""
    peer = Peer(SwarmFolder(place.path / name), os.environ, lambda text: None)
    peer.offer((make_finding(name, number), BASE) for number in range(1, 6))
    peer.round()


def rewrite(place: Place) -> None:
    """The rewriter pushes another history over its own."""
    shutil.rmtree(SwarmFolder(place.path / REWRITER).store)
    peer = Peer(SwarmFolder(place.path / REWRITER), os.environ, lambda text: None)
    peer.offer((make_finding(REWRITER, number), BASE) for number in range(50, 55))
    tip, _ = peer._commit_waiting(FINDINGS)
    ref = f"{REMOTE_PREFIX}{FINDINGS}/{REWRITER}"
    at_remote = peer.store.remote_refs(place.url)[ref]
    assert tip is not None
    assert peer.store.push(place.url, tip, ref, at_remote).done


def flood(place: Place, *, large: bool) -> None:
    """The flooder pushes many commits that look right, or one with a large file; git signs the last."""
    folder = SwarmFolder(place.path / FLOODER)
    peer = Peer(folder, os.environ, lambda text: None)
    ref = f"{REMOTE_PREFIX}{FINDINGS}/{FLOODER}"
    at_remote = peer.own_tip(FINDINGS)
    git = ("git", f"--git-dir={folder.store}")
    tip = at_remote
    assert tip is not None
    stamp = f"flooder <flooder> {int(time.time())} +0000"
    if large:
        blob = run(*git, "hash-object", "-w", "--stdin", stdin=random.Random(0).randbytes(40 * 2**20)).strip()
        tree = run(*git, "mktree", stdin=f"100644 blob {blob}\tbig\n".encode()).strip()
        signing = ("-c", "gpg.format=ssh", "-c", f"user.signingKey={place.key(FLOODER)}", "-c", "user.name=f")
        tip = run(
            "git",
            f"--git-dir={folder.store}",
            *signing,
            "-c",
            "user.email=f",
            "commit-tree",
            "-S",
            tree,
            "-p",
            tip,
            "-m",
            "big",
        ).strip()
    else:
        like = "123456789"  # replaced by each number: to write a finding takes a tenth of a second
        template = finding_files(make_finding(FLOODER, int(like)), BASE, FLOODER)
        stream = [f"reset {ref}\nfrom {tip}\n\n"]
        for number in range(100, 100 + FLOOD):
            stream.append(f"commit {ref}\ncommitter {stamp}\ndata 1\nx\ndeleteall\n")
            for name, content in template.items():
                text = content.decode().replace(like, str(number))
                stream.append(f"M 100644 inline {name}\ndata {len(text.encode())}\n{text}\n")
        run(*git, "fast-import", "--quiet", "--force", stdin="".join(stream).encode())
        files = {name: content.replace(like.encode(), b"99") for name, content in template.items()}
        parent = run(*git, "rev-parse", ref).strip()
        tip = peer.store.write_commit(files, parent, FLOODER, "signed", place.key(FLOODER), int(time.time()))
    pushed = peer.store.push(place.url, tip, ref, at_remote)
    assert pushed.done, pushed.said
    peer.store.set_ref(ref, tip)
