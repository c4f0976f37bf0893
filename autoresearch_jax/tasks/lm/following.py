"""One of several hosts of a trial, but not the first: compiles its programs, and runs what process 0 announces.

It needs no data: rows come with what they are for. See `leading.py`.
"""

import collections
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from autoresearch_jax.tasks.lm.channel import Channel, ChannelClosed, Gathering
from autoresearch_jax.tasks.lm.judge import Scorer
from autoresearch_jax.tasks.lm.judging import first_scorer
from autoresearch_jax.tasks.lm.leading import (
    COLLECT,
    COMPILED,
    FAILED,
    INIT,
    JOIN_SECONDS,
    PUT,
    SCORE,
    STEP,
    join,
    replicate,
    spread,
)
from autoresearch_jax.tasks.lm.programs import Programs, compile_program, load_programs, make_mesh, try_devices
from autoresearch_jax.tasks.lm.trainer import MAX_STEPS_IN_FLIGHT

GONE_SECONDS = 3.0  # within which process 0 ends the trial by itself, if what has failed here has failed there, too


def follow(message: Mapping[str, Any]) -> dict[str, Any]:
    """Takes part in a trial until process 0 ends it.

    Args:
      message: "hosts", a `Gathering`; "programs_dir" and "program_hash", None where only the devices are asked for.
    """
    gathering = Gathering(**message["hosts"])
    join(gathering)
    channel = Channel.connect(gathering.stream, JOIN_SECONDS)
    try:
        channel.send({"token": gathering.token, "host_id": gathering.host_id})
        if message["programs_dir"] is None:
            jax.devices()  # process 0 waits for it
            channel.is_closed(JOIN_SECONDS)
        else:
            try_devices()
            _Follower(channel, Path(message["programs_dir"]), message["program_hash"]).run()
    except ChannelClosed:
        pass
    except Exception:
        if not channel.is_closed(GONE_SECONDS):
            raise
    return {"event": "result"}


class _Follower:
    def __init__(self, channel: Channel, programs_dir: Path, program_hash: str) -> None:
        self._channel = channel
        self._leaves: Any = None
        self._rows: collections.deque[jax.Array] = collections.deque()  # that were put, and not yet used
        self._in_flight: collections.deque[jax.Array] = collections.deque()  # losses
        try:
            self._programs = load_programs(programs_dir)
            if self._programs.program_hash != program_hash:
                raise RuntimeError(f"{programs_dir} holds other programs than process 0 has")
            self._compile(self._programs)
        except Exception as error:
            traceback.print_exc()
            channel.send({"event": FAILED, "reason": f"{type(error).__name__}: {error}"})
            channel.is_closed(JOIN_SECONDS)  # process 0 says what became of the trial
            raise
        channel.send({"event": COMPILED})

    def _compile(self, programs: Programs) -> None:
        self._mesh = mesh = make_mesh(programs.mesh_axes)
        self._by_rows = NamedSharding(mesh, PartitionSpec("data"))
        self._scorer: Callable[[int], Scorer] = cache(lambda batch_rows: Scorer(programs, mesh, batch_rows))
        with ThreadPoolExecutor() as pool:
            steps = [pool.submit(compile_program, step.exported, mesh, donate=True) for step in programs.steps]
            scorer = pool.submit(first_scorer, programs, self._scorer)
            self._init = pool.submit(compile_program, programs.init, mesh).result()
            self._steps = [step.result() for step in steps]
            scorer.result()

    def run(self) -> None:
        """Runs what is announced, until process 0 closes the connection."""
        run: dict[str, Callable[..., None]] = {
            PUT: self._put,
            INIT: self._start,
            STEP: self._step,
            COLLECT: self._collect,
            SCORE: self._score,
        }
        while True:
            message, arrays = self._channel.receive()
            run[message.pop("run")](*arrays, **message)

    def _put(self, rows: np.ndarray, num_rows: int, first: int) -> None:
        self._rows.append(spread(rows, self._by_rows, num_rows, first))

    def _start(self, key_data: Sequence[int]) -> None:
        self._leaves = self._init(np.array(key_data, np.uint32))

    def _step(self, phase: int, progress: float) -> None:
        tokens = self._rows.popleft()
        self._leaves, metrics = self._steps[phase](self._leaves, tokens, np.float32(progress))
        self._in_flight.append(metrics[self._programs.steps[phase].metrics.index("loss")])
        if len(self._in_flight) > MAX_STEPS_IN_FLIGHT:
            self._in_flight.popleft().block_until_ready()

    def _collect(self, indices: Sequence[int]) -> None:
        for index in indices:
            replicate(self._leaves[index])

    def _score(self, batch_rows: int) -> None:
        read_leaves = [self._leaves[index] for index in self._programs.read_leaves]
        inputs, targets = self._rows.popleft(), self._rows.popleft()
        self._scorer(batch_rows).score(read_leaves, inputs, targets)
