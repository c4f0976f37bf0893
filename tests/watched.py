"""`autoresearch watch` in a process of its own."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from autoresearch_jax.engine.run_folder import RunFolder


@dataclass(frozen=True)
class Server:
    """The address that it printed, and its process."""

    url: str
    process: subprocess.Popen

    @property
    def port(self) -> int:
        return int(self.url.split(":")[2].split("/")[0])


@contextmanager
def serving(folder: RunFolder, *flags: str, port: int = 0) -> Iterator[Server]:
    """Serves a run's page; with port 0 on a free one. It must end well."""
    words = ["watch", f"--run_dir={folder.path.parent}", f"--tag={folder.path.name}", f"--port={port}", *flags]
    command = [sys.executable, "-m", "autoresearch_jax.cli", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), process.communicate()[1]
        yield Server(url, process)
    finally:
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 0
    assert len(said.splitlines()) == 1, said
