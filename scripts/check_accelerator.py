"""Runs every part of this project once on this machine's accelerator and reports; called by check_accelerator.sh.

Each part is a process of its own with a deadline. One that hangs, dies or prints nonsense is a failed part, whose last
lines are its result, and the next one runs. OUT/accelerator.json and OUT/accelerator.md are written after each part.
Loads no JAX. Exit status: 0 if every part that was asked for answered, 1 if not, 2 if called wrongly.

The last lines' figures:
  parts_ok, parts_failed, parts_left_out    a part is left out where a package that it needs is missing
  findings                                  of the parts that answered: what is not as it should be, such as a kernel
                                            that differs from its definition
  seconds                                   the whole check
"""

import argparse
import collections
import contextlib
import importlib.metadata
import importlib.util
import json
import math
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the package need not be installed

from accelerator_plan import PART_NAMES, PARTS, PLATFORMS, QUICK_LEAVES_OUT, Plan, with_what_they_need  # noqa: E402
from accelerator_result import FAILED, LEFT_OUT, OK, as_markdown, checked  # noqa: E402

from autoresearch_jax.files import write_json  # noqa: E402
from autoresearch_jax.sandbox.process import describe_exit, watched  # noqa: E402
from autoresearch_jax.tasks.lm.device import choose_platform  # noqa: E402

JSON_FILE, MARKDOWN_FILE = "accelerator.json", "accelerator.md"
LAST_LINES = 20  # of a failed part's output, in the report
MAX_LINE = 400  # characters of a line that are kept and printed
MAX_PRINTED_LINES = 400  # of a part, as it goes; all are read
MAX_RESULT_BYTES = 1 << 22
CLOSE_SECONDS = 45.0  # for the guard of a part to end all that the part started; it takes milliseconds
READ_BYTES = 1 << 16
NOTHING: Mapping[str, Any] = {"figures": {}, "tables": {}, "findings": []}


@dataclass(frozen=True)
class Command:
    """A part to run.

    Attributes:
      name: of the part.
      argv: the process; it writes its result to `result`.
      seconds: its share of the time.
      result: the file.
      lacks: packages that are missing; it is left out if there are any.
    """

    name: str
    argv: Sequence[str]
    seconds: float
    result: Path
    lacks: Sequence[str] = ()


@dataclass
class Outcome:
    """What became of a part, as accelerator.json has it."""

    name: str
    status: str
    seconds: float = 0.0
    remark: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[str] = ()
    last_lines: Sequence[str] = ()


class Lines:
    """Output of a part, read piece by piece: printed as it comes, the last lines kept, without this machine's paths."""

    def __init__(self, prefix: str, work: Path) -> None:
        self._prefix = prefix
        self._paths = {f"{work}/": "", f"{ROOT}/": ""}
        self._rest = b""
        self._printed = 0
        self.last: collections.deque[str] = collections.deque(maxlen=LAST_LINES)

    def take(self, data: bytes) -> None:
        """Takes a piece; a line without an end is cut, not stored."""
        *whole, rest = re.split(rb"[\r\n]", self._rest + data)
        self._rest = rest[:READ_BYTES]
        for line in whole:
            self._add(line)

    def end(self) -> None:
        """Takes what stands after the last line's end."""
        self._add(self._rest)
        self._rest = b""

    def _add(self, line: bytes) -> None:
        text = "".join(c if c.isprintable() else " " for c in line[:MAX_LINE].decode("utf-8", "replace")).rstrip()
        for path, shown in self._paths.items():
            text = text.replace(path, shown)
        if not text:
            return
        self.last.append(text)
        self._printed += 1
        if self._printed <= MAX_PRINTED_LINES:
            print(f"  {self._prefix}: {text}", flush=True)
        elif self._printed == MAX_PRINTED_LINES + 1:
            print(f"  {self._prefix}: its further lines are not shown", flush=True)


def run_part(command: Command, seconds: float, environment: Mapping[str, str]) -> Outcome:
    """Runs a part for at most `seconds`; nothing that it started is left when this returns."""
    if command.lacks:
        remedy = f"needs {', '.join(command.lacks)}: install, or name a folder of wheels with --wheels"
        return Outcome(command.name, LEFT_OUT, remark=remedy)
    command.result.unlink(missing_ok=True)
    start = time.monotonic()
    process = subprocess.Popen(
        watched(command.argv),
        env=dict(environment),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for this process, which then ends the part
    )
    lines = Lines(command.name, command.result.parent)
    try:
        ended = _read_until(process, lines, start + seconds)
    finally:
        returncode = _end(process)
    lines.end()
    outcome = _outcome(command, None if not ended else returncode, seconds, list(lines.last))
    outcome.seconds = round(time.monotonic() - start, 2)
    return outcome


def _read_until(process: subprocess.Popen[bytes], lines: Lines, deadline: float) -> bool:
    """Reads a part's output to its end; returns whether that came before the deadline."""
    assert process.stdout is not None
    pieces: queue.Queue[bytes] = queue.Queue(maxsize=64)  # who prints more than can be shown waits
    descriptor = process.stdout.fileno()

    def read() -> None:
        data = b"?"
        while data:
            try:
                data = os.read(descriptor, READ_BYTES)
            except OSError:
                data = b""
            pieces.put(data)

    threading.Thread(target=read, daemon=True).start()
    while True:
        remaining = deadline - time.monotonic()
        try:
            if remaining <= 0:
                return False
            data = pieces.get(timeout=remaining)
        except queue.Empty:
            return False
        if not data:
            return True
        lines.take(data)


def _end(process: subprocess.Popen[bytes]) -> int | None:
    """Ends a part with all that it started; None if it cannot be ended."""
    assert process.stdin is not None
    try:
        returncode = process.wait(1.0)  # it may have just closed its output, to end
    except subprocess.TimeoutExpired:
        returncode = None
    with contextlib.suppress(OSError):
        process.stdin.close()  # on which the guard ends it
    if returncode is not None:
        return returncode
    process.terminate()
    try:
        return process.wait(CLOSE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(1.0)
        return None


def _outcome(command: Command, returncode: int | None, seconds: float, last_lines: list[str]) -> Outcome:
    """Reads a result; `returncode` is None for a part that was ended at its deadline."""
    found, fault = _read_result(command.result)
    outcome = Outcome(command.name, OK, **{name: found[name] for name in NOTHING})
    if returncode is None:
        outcome.remark = f"did not end within {seconds:.0f} s"
    elif returncode != 0:
        said = f": {last_lines[-1]}" if last_lines else ""
        outcome.remark = f"the process {describe_exit(returncode)}{said}"
    elif fault or not found["complete"]:
        outcome.remark = fault or "it ended before its result was complete"
    else:
        return outcome
    outcome.status, outcome.last_lines = FAILED, last_lines
    return outcome


def _read_result(path: Path) -> tuple[Mapping[str, Any], str]:
    """A result, and what is wrong with the file; an empty result for one that cannot be read."""
    try:
        if path.stat().st_size > MAX_RESULT_BYTES:
            return NOTHING, "its result is too large"
        value = json.loads(path.read_text(encoding="utf-8"))
        return checked(value), ""
    except FileNotFoundError:
        return NOTHING, "it left no result"
    except (OSError, ValueError, RecursionError) as error:
        return NOTHING, f"its result cannot be read: {next(iter(str(error).splitlines()), type(error).__name__)}"


def run_parts(
    commands: Sequence[Command], out: Path, facts: Mapping[str, Any], environment: Mapping[str, str]
) -> list[Outcome]:
    """Runs all parts in turn, also after one that fails, and writes the report after each.

    A part may also use the time that those before it left: the whole ends within the sum of the parts' seconds.
    """
    outcomes: list[Outcome] = []
    start, due = time.monotonic(), 0.0
    for command in commands:
        due += command.seconds
        seconds = max(1.0, due - (time.monotonic() - start))
        print(f"{command.name}: at most {seconds:.0f} s", flush=True)
        outcome = run_part(command, seconds, environment)
        outcomes.append(outcome)
        remark = f": {outcome.remark}" if outcome.remark else ""
        print(f"{command.name}: {outcome.status} after {outcome.seconds:.0f} s{remark}", flush=True)
        write_report(out, outcomes, {**facts, "seconds": round(time.monotonic() - start, 1)})
    return outcomes


MACHINE = ("device_kind", "driver", "jax", "cuda", "cudnn", "python")  # figures of `environment` for the report's head


def write_report(out: Path, outcomes: Sequence[Outcome], facts: Mapping[str, Any]) -> None:
    """Replaces the report's two files."""
    found = next((outcome.figures for outcome in outcomes if outcome.name == "environment"), {})
    machine = {name: found.get(name) for name in MACHINE}
    report = {**facts, "machine": machine, "parts": [asdict(outcome) for outcome in outcomes]}
    write_json(out / JSON_FILE, report)
    partial = out / f"{MARKDOWN_FILE}.partial"
    partial.write_text(as_markdown(report), encoding="utf-8")
    partial.replace(out / MARKDOWN_FILE)


class WheelError(Exception):
    """The folder of wheels cannot be used; one line that says why and what to do."""


def install_wheels(wheels: Path, target: Path) -> None:
    """Installs those wheels into `target` whose package this Python lacks; nothing is fetched.

    Raises:
      WheelError: it cannot be done.
    """
    there = {_normal(one.name) for one in importlib.metadata.distributions() if one.name}
    found = {_normal(path.name.split("-")[0]): path for path in sorted(wheels.glob("*.whl"))}
    if not found:
        raise WheelError(f"--wheels={wheels}: no .whl file there: `pip download --dest DIR PACKAGE` puts some")
    if missing := [str(path) for name, path in found.items() if name not in there]:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        done = subprocess.run([*pip, "--target", str(target), *missing], capture_output=True, text=True)
        if done.returncode:
            reason = next(reversed(done.stderr.strip().splitlines()), "it says nothing")
            raise WheelError(f"--wheels={wheels}: pip failed: {reason}: take wheels for this Python and machine")
    print(f"wheels: {len(missing)} installed for this check, {len(found) - len(missing)} there already", flush=True)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The flags; ends the process with status 2 if they make no sense."""
    parser = argparse.ArgumentParser(
        prog="check_accelerator", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--platform", choices=("auto", *PLATFORMS), default="auto")
    parser.add_argument("--only", metavar="PART[,PART]", help=f"of {', '.join(PART_NAMES)}; what they need runs, too")
    parser.add_argument(
        "--quick", action="store_true", help=f"3 minutes: less of each, without {', '.join(QUICK_LEAVES_OUT)}"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "accelerator", help="folder of the report")
    parser.add_argument("--wheels", type=Path, help="folder of wheels, of which those that are missing are used")
    parser.add_argument("--patience", type=float, default=1.0, help="multiplies what each part may take")
    args = parser.parse_args(words)
    by_default = [name for name in PART_NAMES if not (args.quick and name in QUICK_LEAVES_OUT)]
    args.only = by_default if args.only is None else [name.strip() for name in args.only.split(",")]
    if unknown := [name for name in args.only if name not in PART_NAMES]:
        parser.error(f"--only: unknown part {unknown[0]!r}: one of {', '.join(PART_NAMES)}")
    if args.wheels is not None and not args.wheels.is_dir():
        parser.error(f"--wheels={args.wheels}: no such folder")
    if not (args.patience > 0 and math.isfinite(args.patience)):
        parser.error(f"--patience={args.patience:g}: must be positive")
    return args


def make_commands(plan: Plan, only: Sequence[str], patience: float) -> list[Command]:
    """The parts as they are run."""
    column = 2 if plan.tiny else 1 if plan.quick else 0
    wanted = with_what_they_need(only)
    return [
        Command(
            name=part.name,
            argv=[sys.executable, str(ROOT / "scripts" / "accelerator_parts.py"), part.name, str(plan.folder)],
            seconds=patience * part.seconds[column],
            result=plan.folder / f"{part.name}.result.json",
            lacks=[name for name in part.needs if importlib.util.find_spec(name) is None],
        )
        for part in PARTS
        if part.name in wanted
    ]


def main(words: Sequence[str] | None = None) -> int:
    args = parse(words)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="accelerator-", ignore_cleanup_errors=True) as scratch:
        plan = Plan(choose_platform(args.platform), args.quick, scratch)
        packages = plan.folder / "site-packages"  # under this name a sandbox shows it to a trace
        packages.mkdir()
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{packages}", "PYTHONUNBUFFERED": "1"}
        sys.path.append(str(packages))
        try:
            args.out.mkdir(parents=True, exist_ok=True)
            if args.wheels is not None:
                install_wheels(args.wheels.absolute(), packages)
        except OSError as error:
            print(f"check_accelerator: --out={args.out}: {error.strerror}: name another folder", file=sys.stderr)
            return 1
        except WheelError as error:
            print(f"check_accelerator: {error}", file=sys.stderr)
            return 1
        write_json(plan.folder / "plan.json", plan.to_json())
        facts = {"platform": plan.platform, "quick": plan.quick, "date": time.strftime("%Y-%m-%d")}
        outcomes = run_parts(make_commands(plan, args.only, args.patience), args.out, facts, environment)
    by_status = collections.Counter(outcome.status for outcome in outcomes)
    for outcome in outcomes:
        for text in outcome.findings:
            print(f"finding: {outcome.name}: {text}")
    print(f"report: {args.out / MARKDOWN_FILE}")
    print(f"parts_ok: {by_status[OK]}")
    print(f"parts_failed: {by_status[FAILED]}")
    print(f"parts_left_out: {by_status[LEFT_OUT]}")
    print(f"findings: {sum(len(outcome.findings) for outcome in outcomes)}")
    print(f"seconds: {time.monotonic() - started:.0f}")
    return 0 if by_status[OK] == len(outcomes) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("check_accelerator: interrupted; the report has the parts before", file=sys.stderr)
        sys.exit(130)
