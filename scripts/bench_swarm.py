"""Measures a swarm on loopback; called by bench_swarm.sh.

Eight honest peers of three device classes, each a process with clocks up to an hour apart, make 160 findings in all
while the remote, a `git daemon`, is away for a minute. Two are killed, one comes late. Beside them: a stranger with a
key of its own, who also pushes over a member's name; a member who rewrites its chain; a member who floods, with 1,000
findings and, at the end, a file of 40 MB. All of it twice: with notices by zenoh over TLS, and by polling alone.

The last lines are `key: value`:
  arrival_after_outage_seconds  of findings that were made, but not read, before the remote was back: from then on
  arrival_seconds           with notices: the longest that any other finding took to any living peer, from when it was
                            made, or the peer began; and those of 95 in 100 and of half
  arrival_seconds_polling   the same without notices
  large_refused_seconds     until all peers, which poll each minute, had refused the chain with the large file
  findings_missing          honest findings at the remote that a living peer lacked at the end, of both
  stranger_findings         of the stranger that any peer read
  late_seconds              until the late joiner had all there was
  core_percent              of a peer and its git: 8 hours with 160 findings, from the CPU seconds of a quiet minute and
                            of a finding; `core_percent_busy` as it was while findings came
  questions_a_second        without a remote: that a member asked another in the end, and the share of a core that this
                            cost the other, `core_percent_asked`
  memory_mb                 the most that a peer's process had, less what Python has that imported what a run has anyway
"""

import argparse
import json
import os
import platform
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench_swarm_place import (
    BASE,
    FLOOD,
    FLOODER,
    HONEST,
    KILLED,
    LATE,
    REWRITER,
    STRANGER,
    TAKEN,
    Place,
    Plan,
    flood,
    make_finding,
    make_trouble,
    rewrite,
    run,
)

from autoresearch_jax.findings.format import Finding
from autoresearch_jax.swarm.background import EXCHANGE_SECONDS, POLL_SECONDS, BackgroundPeer
from autoresearch_jax.swarm.exchange import MemberExchange
from autoresearch_jax.swarm.membership import SwarmFolder
from autoresearch_jax.swarm.notices import ZenohNotices
from autoresearch_jax.swarm.peer import Peer, Round
from autoresearch_jax.swarm.serving import BUNDLES
from autoresearch_jax.swarm.store import FINDINGS, REMOTE_PREFIX, ChainCommit

ASKED = "peer-1"  # whom a member without measure asks
NIGHT_SECONDS, NIGHT_FINDINGS = 8 * 3600, 160
FULL = {True: Plan(200, (70, 130), 165, 60, 60), False: Plan(150, (40, 100), 125, 150, 0)}
QUICK = {True: Plan(40, (15, 25), 30, 40, 10), False: Plan(30, (10, 20), 25, 150, 0)}


# ---- a peer's process


def serve(name: str, place: Path, skew: float, count: int, making: float, notices: bool) -> None:
    """One peer at work: makes its findings at random times, and logs what it makes and reads."""
    log = (place / f"{name}.log").open("a", buffering=1)

    def write(**words: object) -> None:
        log.write(json.dumps({"at": time.time(), **words}) + "\n")

    started, rng, made = time.time(), random.Random(name), 0
    times = sorted(rng.uniform(0, making) for _ in range(count))

    def own() -> Iterator[tuple[Finding, str]]:
        nonlocal made
        while made < count and time.time() - started >= times[made]:
            made += 1
            write(made=f"{name}-{made}")
            yield make_finding(name, made), BASE

    class Logged(Peer):
        def _take(self, ref: str, commits: Sequence[ChainCommit], done: Round) -> None:
            before = len(done.read)
            super()._take(ref, commits, done)
            write(read=[found.finding.id.rpartition("-")[0] for found in done.read[before:]])

    def tell(text: str) -> None:
        write(told=text)

    folder = SwarmFolder(place / name)
    exchange = MemberExchange(folder, name, os.environ, tell) if notices else None
    peer = Logged(folder, os.environ, tell, lambda: time.time() + skew, exchange)
    poll_seconds = POLL_SECONDS if peer.settings.remote else EXCHANGE_SECONDS
    background = BackgroundPeer(peer, lambda peer: peer.offer(own()), tell, poll_seconds, look_seconds=0.5)
    background.start(None if exchange is None else ZenohNotices(peer.settings, background.wake, tell, (exchange,)))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    while not stop.wait(1.0):
        write(cost=cpu_seconds(), memory=most_memory())
    background.close()


def ask(place: Path, seconds: float) -> None:
    """A member that asks another for a bundle as fast as it can, each time for another."""
    settings = replace(SwarmFolder(place / KILLED[0]).read_settings(), name="asker")
    notices = ZenohNotices(settings, lambda: None, lambda text: None, (holder := _Session(),))
    notices.open()
    end, asked = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        query = {"ref": f"{REMOTE_PREFIX}{FINDINGS}/{ASKED}", "have": f"{random.getrandbits(160):040x}"}
        holder.session.get(f"{BUNDLES}/{ASKED}", lambda reply: None, payload=json.dumps(query), timeout=1.0)
        asked += 1
    print(asked)
    notices.close()


class _Session:
    """Keeps the session of notices."""

    session: Any = None

    def opened(self, session: Any) -> None:
        self.session = session

    def closing(self) -> None:
        pass


def cpu_seconds() -> float:
    """Of this process and of those of its children that ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def most_memory() -> float:
    """MB that this process had at most; not `ru_maxrss`, which a child takes over from its parent."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


# ---- a phase


def measure(
    path: Path, plan: Plan, count: int, *, notices: bool, calm: bool, has_remote: bool = True
) -> dict[str, object]:
    """Lets a swarm work, without a flood if `calm`, and returns its figures."""
    place = Place(path, plan, notices, has_remote)
    place.make()
    begun = time.time()
    for name in HONEST:
        if name != LATE:
            place.start(name, count, plan.making)
    for name in (STRANGER, TAKEN, REWRITER, FLOODER) if has_remote else ():
        make_trouble(place, name)
    todo: list[tuple[float, Callable[[], object]]] = [
        (plan.making * 0.15, lambda: rewrite(place)),
        (plan.making * 0.2, lambda: flood(place, large=False)),
        (plan.away[0], lambda: place.set_remote(there=False)),
        (plan.away[0] + 5, lambda: place.kill(KILLED[0])),
        (plan.away[1], lambda: place.set_remote(there=True)),
        (plan.late, lambda: place.kill(KILLED[1])),
        (plan.late + 1, lambda: place.start(LATE, count, max(1.0, plan.making - plan.late - 2))),
    ]
    if not has_remote:
        todo = [todo[3], *todo[5:]]
    elif calm:
        del todo[1]
    late_wanted: set[str] = set()
    for due, act in sorted(todo, key=lambda one: one[0]):
        time.sleep(max(0.0, begun + due - time.time()))
        if due == plan.late + 1:
            late_wanted = place.at_remote()
            late_began = time.time()
        act()
    time.sleep(max(0.0, begun + plan.making - time.time()))
    living = [name for name in HONEST if name not in KILLED]
    deadline = time.time() + plan.most_wait
    while time.time() < deadline and missing(place, living):
        time.sleep(1.0)
    lacking = missing(place, living)
    busy = {name: place.log(name) for name in living}
    quiet_from = time.time() + 5
    time.sleep(plan.quiet + 5 if plan.quiet else 0)
    quiet = {name: place.log(name) for name in living}
    held = refuse_large(place, living) if plan.quiet and not calm else 0.0
    asked = {} if has_remote else flood_with_questions(place)
    place.stop()
    figures = arrivals(place, living)
    if plan.quiet:
        figures |= costs(busy, quiet, quiet_from)
    figures |= asked
    late, figures["held"] = place.read(LATE), held
    figures["late"] = max((late.get(one, float("inf")) for one in late_wanted), default=late_began) - late_began
    figures["missing"] = sum(map(len, lacking.values()))
    read = {one for name in living if name != LATE for one in place.read(name)}
    figures["stranger"] = sum(one.startswith((STRANGER, TAKEN)) for one in read)
    figures["stranger"] += sum(one.startswith((STRANGER, TAKEN)) for one in place.read(LATE))
    figures["rewritten"] = sum(one.startswith(REWRITER) and int(one.rpartition("-")[2]) >= 50 for one in read)
    figures["flooded"] = sum(one.startswith(FLOODER) for one in read)
    figures["honest"] = len(place.at_remote())
    told = defaultdict(set)
    for name in living:
        for line in place.log(name):
            if "told" in line:
                told[line["told"][:110]].add(name)
    for text, names in sorted(told.items()):
        if "findings of" not in text:
            print(f"  told to {len(names)}: {text}", file=sys.stderr)
    return figures


def missing(place: Place, living: Sequence[str]) -> dict[str, set[str]]:
    """Honest findings at the remote that living peers lack."""
    there = place.at_remote()
    lacking = {name: {one for one in there if not one.startswith(name)} - set(place.read(name)) for name in living}
    made = sum("made" in line for name in living for line in place.log(name))
    if made + sum(one.startswith(KILLED) for one in there) > len(there):
        lacking["remote"] = {"not pushed yet"}
    return {name: them for name, them in lacking.items() if them}


def refuse_large(place: Place, living: Sequence[str]) -> float:
    """Seconds until all peers refused a chain with a large file, which they find out by polling."""
    flood(place, large=True)
    began = time.time()
    for name in living:
        while not any("cannot be fetched" in line.get("told", "") for line in place.log(name)):
            if time.time() > began + 240:
                return float("inf")
            time.sleep(1.0)
    return time.time() - began


def flood_with_questions(place: Place) -> dict[str, float]:
    """What a member that asks another all the time costs that one: questions a second, percent of a core."""
    seconds = 30.0
    before = [line for line in place.log(ASKED) if "cost" in line][-1]
    words = [sys.executable, str(Path(__file__)), "--ask", str(seconds), "--place", str(place.path)]
    count = int(run(*words).split()[-1])
    time.sleep(2.0)
    after = [line for line in place.log(ASKED) if "cost" in line][-1]
    share = (after["cost"] - before["cost"]) / (after["at"] - before["at"])
    return {"asked": count / seconds, "answering": 100 * share}


def arrivals(place: Place, living: Sequence[str]) -> dict[str, object]:
    """How long findings took, from when they were made, the remote was back, or the reader began."""
    made = {line["made"]: line["at"] for name in HONEST for line in place.log(name) if "made" in line}
    gone, back = place.gone_at, place.away[-1]
    took: dict[bool, list[float]] = {True: [], False: []}
    for name in living:
        began = place.log(name)[0]["at"]
        for one, at in place.read(name).items():
            if one in made:
                late = made[one] <= back and at >= gone  # it was not all over when the remote went
                took[late].append(at - max(made[one], began, back if late else 0.0))
    usual = sorted(took[False])
    shares = {"median": usual[len(usual) // 2], "most": usual[int(0.95 * len(usual))]}
    return {
        "longest": usual[-1],
        **shares,
        "after": max(took[True], default=0.0),
        "arrived": sum(map(len, took.values())),
    }


def costs(busy: dict[str, list[dict]], quiet: dict[str, list[dict]], quiet_from: float) -> dict[str, object]:
    """CPU seconds and memory of the costliest peer."""
    shares, idle, each, memory = [], [], [], []
    for name, lines in busy.items():
        if name == LATE:
            continue
        first, last = ([line for line in lines if "cost" in line][at] for at in (0, -1))
        spent = last["cost"] - first["cost"]
        shares.append(spent / (last["at"] - first["at"]))
        count = sum(len(line.get("read", ())) for line in lines)
        rest = [line for line in quiet[name] if "cost" in line and line["at"] >= quiet_from]
        idle.append((rest[-1]["cost"] - rest[0]["cost"]) / (rest[-1]["at"] - rest[0]["at"]))
        each.append(max(0.0, spent - idle[-1] * (last["at"] - first["at"])) / count)
        memory.append(rest[-1]["memory"])
    night = max(idle) + max(each) * NIGHT_FINDINGS / NIGHT_SECONDS
    words = {"busy": 100 * max(shares), "idle": 100 * max(idle), "each": max(each), "night": 100 * night}
    return {**words, "memory": max(memory)}


def bare_memory() -> float:
    """MB of a Python that has imported what the run has anyway: the engine, findings, their formats; no zenoh."""
    code = "import autoresearch_jax.findings.folder, autoresearch_jax.engine.git, yaml, filelock, bench_swarm; "
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); {code}print(bench_swarm.most_memory())"
    return float(run(sys.executable, "-c", code))


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="autoresearch-swarm-") as folder:
        yield Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer findings, shorter: for trying the script")
    parser.add_argument("--no_remote", action="store_true", help="without a remote and those who misuse it: 6 minutes")
    parser.add_argument("--ask", type=float, help=argparse.SUPPRESS)
    for name, kind in (("peer", str), ("place", Path), ("skew", float), ("count", int), ("making", float)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--calm", action="store_true", help="without the flood, with notices only: 5 minutes")
    parser.add_argument("--notices", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peer:
        serve(given.peer, given.place, given.skew, given.count, given.making, given.notices)
        return
    if given.ask:
        ask(given.place, given.ask)
        return
    run("ip", "link", "set", "lo", "up")
    plans, count = (QUICK, 5) if given.quick else (FULL, 20)
    found = {}
    calm = given.calm or given.no_remote
    for notices in (True,) if calm else (True, False):
        with scratch() as path:
            words = {"notices": notices, "calm": calm, "has_remote": not given.no_remote}
            found[notices] = measure(path, plans[notices], count, **words)
        print(f"{'with notices' if notices else 'polling'}: {found[notices]}", file=sys.stderr)
    show(found)


def show(found: Mapping[bool, Mapping[str, Any]]) -> None:
    """Prints the figures of the phases, that with notices and that without, which need not be there."""
    told, phases = found[True], list(found.values())
    has_trouble = "asked" not in told
    print(f"machine:                  {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[2]:.0f}")
    print(f"honest_findings:          {' and '.join(str(one['honest']) for one in phases)}")
    if has_trouble:
        print(f"rewritten_findings:       {sum(one['rewritten'] for one in phases)}")
        print(f"flooder_findings:         {max(one['flooded'] for one in phases)} of {FLOOD + 6}")
    print(f"core_percent_busy:        {told['busy']:.2f}")
    print(f"cpu_seconds_a_finding:    {told['each']:.3f}")
    print(f"core_percent_quiet:       {told['idle']:.2f}")
    print(f"core_percent:             {told['night']:.2f}")
    print(f"memory_mb:                {told['memory'] - bare_memory():.0f} ({told['memory']:.0f} with Python)")
    if has_trouble:
        print(f"large_refused_seconds:    {told['held']:.0f}")
    else:
        print(f"questions_a_second:       {told['asked']:.0f}")
        print(f"core_percent_asked:       {told['answering']:.1f}")
    print(f"findings_missing:         {sum(one['missing'] for one in phases)}")
    print(f"late_seconds:             {' and '.join(format(one['late'], '.1f') for one in phases)}")
    for notices, one in found.items():
        end = "" if notices else "_polling"
        if has_trouble:
            print(f"{f'arrival_after_outage_seconds{end}:':<25} {one['after']:.1f}")
        print(
            f"{f'arrival_seconds{end}:':<25} {one['longest']:.1f} (95 %: {one['most']:.1f}, half: {one['median']:.1f})"
        )
    if has_trouble:
        print(f"stranger_findings:        {sum(one['stranger'] for one in phases)}")


if __name__ == "__main__":
    main()
