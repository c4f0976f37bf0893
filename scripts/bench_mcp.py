"""Measures the start of `autoresearch mcp`; called by bench_mcp.sh.

The client is a pipe: it writes `initialize` at once and stops the clock at the first line that comes back. A first
start, which compiles what was never imported, does not count. The last lines' figures, each a median:
  mcp_start_seconds     from the start of the process to the answered `initialize`, on the wall (wanted: under 1)
  mcp_start_cpu_seconds what the process used of processors until its end, which a busy machine changes little
  mcp_sdk_seconds       the same on the wall for a Python that only imports the SDK's server, for comparison
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

STARTS = 10
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}},
}
SDK_ALONE = "import mcp.server.mcpserver; print()"


def first_answer(command: list[str]) -> tuple[float, float]:
    """Seconds on the wall until the first line of output, and of processors until the process has ended."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(INITIALIZE).encode() + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
        process.stdin.close()
        process.wait()
    if not line or process.returncode:
        raise SystemExit(f"{command[0]} ended with status {process.returncode}, and answered {line!r}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--starts", type=int, default=STARTS)
    starts = parser.parse_args().starts
    server, alone = ["autoresearch", "mcp"], [sys.executable, "-c", SDK_ALONE]
    first_answer(server)
    served, imported = [], []
    for _ in range(starts):  # in turn, so that other work meets both
        served.append(first_answer(server))
        imported.append(first_answer(alone))
    print(f"load:                 {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"mcp_start_seconds:    {statistics.median(wall for wall, _ in served):.2f}")
    print(f"mcp_start_cpu_seconds: {statistics.median(cpu for _, cpu in served):.2f}")
    print(f"mcp_sdk_seconds:      {statistics.median(wall for wall, _ in imported):.2f}")


if __name__ == "__main__":
    main()
