"""Measures what the page of a long run costs, static and live; called by bench_report.sh.

The run is made up (tests/nights.py). The live page is in a browser while rows are committed, each as a driver does it;
the clock of both is the machine's. The last lines' figures:
  report_seconds        a process of `autoresearch report`, median of 3 (wanted: under 5)
  report_bytes          of report.html (wanted: under 6,000,000)
  first_paint_ms        first contentful paint of report.html in headless Chromium, median of 3 (wanted: under 1500)
  drawn_ms              until its chart has all points, median of 3
  update_ms             from the commit of an experiment's last row until the live page has painted its row and the
                        figures, median (wanted: under 300)
  chart_ms              until its chart has the point, too, median
  told_ms               from the commit until the server has told a watcher, median
  server_rss_mb         memory of the server after these updates (wanted: under 150)
  idle_core_percent     of a core that the server takes while nothing happens and the page is open (wanted: at most 1)
  watched_core_percent  of a core with WATCHERS more watchers, while a trial goes on and an experiment ends now and then
"""

import argparse
import http.client
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from autoresearch_jax.decide.rule import Action
from autoresearch_jax.engine.live import LiveWriter
from autoresearch_jax.engine.records import Intent, Kind
from autoresearch_jax.engine.run_folder import RunFolder
from autoresearch_jax.types import Measurement, Status

SHIPPED = Path(__file__).resolve().parent.parent
sys.path.append(str(SHIPPED / "tests"))
from browser import Shown, expect, find_chromium, running_chromium, showing  # noqa: E402
from nights import NightWriter  # noqa: E402
from watched import Server, serving  # noqa: E402

TAG = "bench"
TIMES = 3
UPDATES = 9
WATCHERS = 20
QUIET_SECONDS = 1.5  # before a commit, so that the server has nothing else to do
OBSERVED_SECONDS = 20.0  # over which the server's processor time is taken
PER_EXPERIMENT_SECONDS = 5.0  # while WATCHERS watch
REPORTS_PER_SECOND = 2  # of a trial that goes on
# Records when the chart has all points, and when the frame that shows a new row is painted.
OBSERVE = """window.drawn = {}; window.painted = {};
const count = () => document.querySelectorAll('#progress .scatterlayer .point').length;
setInterval(() => { window.drawn[count()] ??= Date.now() }, 10);
new MutationObserver(changes => {
  const names = changes.flatMap(change => [...change.addedNodes]).map(node => node.dataset && node.dataset.part);
  const note = () => { for (const name of names) window.painted[name] ??= Date.now() };
  requestAnimationFrame(() => scheduler.postTask(note, { priority: 'user-blocking' }));
}).observe(document.querySelector("[data-list='rows']"), { childList: true })"""


def report(folder: RunFolder) -> tuple[float, float]:
    """Wall and processor seconds of a report."""
    words = [f"--run_dir={folder.path.parent}", f"--tag={folder.path.name}"]
    before, start = os.times(), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "autoresearch_jax.cli", "report", *words], check=True, stdout=subprocess.DEVNULL
    )
    wall, after = time.perf_counter() - start, os.times()
    return wall, sum(after[2:4]) - sum(before[2:4])


def paint(show: Callable[..., Shown], page: Path, points: int) -> tuple[float, float]:
    """Milliseconds until the first contentful paint of a page, and until its chart is drawn."""
    shown = show(page.as_uri())
    shown.page.wait_for_function(
        "count => document.querySelectorAll('#progress .scatterlayer .point').length === count",
        arg=points,
        timeout=60_000,
    )
    drawn = shown.page.evaluate("performance.now()")
    first = shown.page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert shown.errors == []
    shown.page.close()
    return float(first), float(drawn)


def add_experiment(night: NightWriter, wait_seconds: float = 0.0) -> tuple[int, float]:
    """Ends an experiment as a driver does; returns its number and when its last commit was over, in milliseconds.

    `wait_seconds` lie between its beginning and its end.
    """
    ledger = night.ledger
    champion = max(row.id for row in ledger.experiments() if row.decision is Action.KEEP)
    intent = Intent(Kind.PROPOSAL, ledger.source(champion), {}, "one more", "optimizer", "bench", parent=champion)
    number = ledger.begin_experiment(intent).id
    trial = ledger.begin_trial(number, number)
    time.sleep(wait_seconds)
    values = {"status": Status.OK, "score": 1.2, "decision": Action.DISCARD, "reason": "no better", "seconds": 70.0}
    ledger.finish_trial(trial.id, Measurement(Status.OK, 1.2, number, {"training_seconds": 60.0}))
    ledger.update("experiments", {**values, "program_hash": f"program {number}"}, "id = ?", number)
    return number, 1e3 * time.time()


class Watchers:
    """Connections that read events, each in a thread, and note when the first of them hears of a row."""

    def __init__(self, server: Server, count: int, state: str) -> None:
        self.heard: dict[int, float] = {}  # milliseconds since 1970, by number of an experiment
        self._connections = [http.client.HTTPConnection("127.0.0.1", server.port) for _ in range(count)]
        self._threads = [threading.Thread(target=self._read, args=(each, state)) for each in self._connections]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def _read(self, connection: http.client.HTTPConnection, state: str) -> None:
        connection.request("GET", f"/events?since={state}")
        answer = connection.getresponse()
        while line := answer.readline():
            now = 1e3 * time.time()
            for part in line.split(b'"row-')[1:]:
                self.heard.setdefault(int(part.partition(b'"')[0]), now)

    def wait(self, number: int) -> float:
        """When a row was heard of."""
        deadline = time.monotonic() + 60
        while number not in self.heard:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no watcher was told of experiment {number}")
            time.sleep(0.01)
        return self.heard[number]


def processor_seconds(process: int) -> float:
    """That a process has taken so far."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_megabytes(process: int) -> float:
    """Memory of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def core_percent(process: int, seconds: float, work: Callable[[float], None] = time.sleep) -> float:
    """Share of a core that a process takes while `work` lasts, which is told how many seconds it has."""
    before, start = processor_seconds(process), time.monotonic()
    work(seconds)
    return 100 * (processor_seconds(process) - before) / (time.monotonic() - start)


def train_and_end(night: NightWriter, seconds: float) -> None:
    """Reports of a trial as they come, and experiments that end."""
    live = LiveWriter(night.folder)
    trial = night.ledger.trials()[-1].id + 1
    live.measures(night.ledger.experiments()[-1], trial, "run 1")
    training = {"phase": "train", "budget_seconds": 60.0, "budget_steps": None, "tokens_per_second": 57_000.0}
    ends_at = time.monotonic() + seconds
    next_at = time.monotonic() + PER_EXPERIMENT_SECONDS
    step = 0
    while time.monotonic() < ends_at:
        step += 1
        live.progress(trial, {**training, "step": step, "elapsed_seconds": step / 2, "loss": 9 - step / 100})
        if time.monotonic() >= next_at:
            next_at += PER_EXPERIMENT_SECONDS
            add_experiment(night)
        time.sleep(1 / REPORTS_PER_SECOND)


def measure_watch(night: NightWriter, show: Callable[..., Shown], seconds: float) -> dict[str, float]:
    """Figures of the live page."""
    with ExitStack() as stack:
        server = stack.enter_context(serving(night.folder))
        shown = show(server.url)
        expect(shown.page.locator("#connection"), 60).to_contain_text("at work")
        expect(shown.points(), 60).to_have_count(len(night.ledger.experiments()))
        shown.page.evaluate(OBSERVE)
        state = shown.page.evaluate("document.body.dataset.live")
        one = Watchers(server, 1, state)
        painted, told, drawn = [], [], []
        for _ in range(UPDATES):
            number, committed = add_experiment(night, QUIET_SECONDS)
            told.append(one.wait(number) - committed)
            found = shown.page.wait_for_function("name => window.painted[name]", arg=f"row-{number}", timeout=60_000)
            painted.append(float(found.json_value()) - committed)
            found = shown.page.wait_for_function("count => window.drawn[count]", arg=number + 1, timeout=60_000)
            drawn.append(float(found.json_value()) - committed)
        print(f"painted after ms: {', '.join(f'{each:.0f}' for each in painted)}")
        print(f"drawn after ms: {', '.join(f'{each:.0f}' for each in drawn)}")
        print(f"told after ms: {', '.join(f'{each:.0f}' for each in told)}")
        process = server.process.pid
        rss = resident_megabytes(process)
        time.sleep(QUIET_SECONDS)
        idle = core_percent(process, seconds)
        shown.page.close()
        Watchers(server, WATCHERS - 1, state)
        watched = core_percent(process, seconds, lambda most: train_and_end(night, most))
        assert shown.errors == []
    return {
        "update_ms": statistics.median(painted),
        "chart_ms": statistics.median(drawn),
        "told_ms": statistics.median(told),
        "server_rss_mb": rss,
        "idle_core_percent": idle,
        "watched_core_percent": watched,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=2000, help="of the run, with the baseline")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=OBSERVED_SECONDS, help="to take processor time over")
    args = parser.parse_args()
    if find_chromium() is None:
        parser.error("no Chromium on PATH: apt-get install chromium")
    print(f"machine: {platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}", end=", ")
    print(f"{time.strftime('%Y-%m-%d')}, load {os.getloadavg()[0]:.2f}", flush=True)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        night = stack.enter_context(NightWriter(Path(name) / TAG, args.seed, count=args.experiments))
        night.write(args.experiments)
        night.audit()
        night.save()
        stack.enter_context(night.folder.lock())
        print(f"{args.experiments} experiments, load {os.getloadavg()[0]:.2f}", flush=True)
        times = [report(night.folder) for _ in range(TIMES)]
        print("report seconds:", ", ".join(f"{wall:.2f} (processor {cpu:.2f})" for wall, cpu in times), flush=True)
        page = night.folder.path / "report.html"
        show = stack.enter_context(showing(stack.enter_context(running_chromium())))
        paints = [paint(show, page, args.experiments) for _ in range(TIMES)]
        watch = measure_watch(night, show, args.seconds)
        print(f"load {os.getloadavg()[0]:.2f}")
        print(f"report_seconds: {statistics.median(wall for wall, _ in times):.2f}")
        print(f"report_bytes: {page.stat().st_size}")
        print(f"first_paint_ms: {statistics.median(first for first, _ in paints):.0f}")
        print(f"drawn_ms: {statistics.median(drawn for _, drawn in paints):.0f}")
        for key, value in watch.items():
            print(f"{key}: {value:.2f}" if key.endswith("percent") else f"{key}: {value:.0f}")


if __name__ == "__main__":
    main()
