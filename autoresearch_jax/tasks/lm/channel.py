"""Messages with arrays between the processes of one trial on several hosts, over TCP. Loads no JAX.

A message is a line of JSON, then the bytes of its arrays. Nothing is encrypted: hosts of one trial share a network, as
they do for XLA's own collectives.
"""

import contextlib
import json
import math
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

NUMBERS = "iuf"  # kinds of numbers in arrays
MAX_HEADER_BYTES = 1 << 20
MAX_ARRAY_BYTES = 1 << 32
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # seconds, seconds, probes

Message = dict[str, Any]


@dataclass(frozen=True)
class Gathering:
    """How the processes of one trial on several hosts meet.

    Attributes:
      coordinator: HOST:PORT of the service by which JAX's processes find each other, on host 0.
      stream: HOST:PORT where the process of host 0 tells the others what to run.
      token: by which it knows them.
      num_hosts: how many processes there are.
      host_id: this one, from 0.
    """

    coordinator: str
    stream: str
    token: str
    num_hosts: int
    host_id: int


class ChannelClosed(ConnectionError):
    """The other side has closed its end, or speaks something else."""


class Channel:
    """One end of a connection; any thread may send, one receives."""

    def __init__(self, connection: socket.socket) -> None:
        """Takes a connection, which it closes."""
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._connection = connection
        self._file = connection.makefile("rb")
        self._sending = threading.Lock()

    @classmethod
    def connect(cls, address: str, timeout_seconds: float) -> "Channel":
        """Connects to HOST:PORT; raises OSError where nothing answers."""
        host, _, port = address.rpartition(":")
        return cls(socket.create_connection((host.strip("[]"), int(port)), timeout_seconds))

    @property
    def peer(self) -> str:
        """The address of the other side, without its port."""
        try:
            return str(self._connection.getpeername()[0])
        except OSError:
            return "an unknown address"

    def send(self, message: Mapping[str, Any], *arrays: np.ndarray) -> None:
        """Sends a message; raises OSError where the connection is lost."""
        arrays = tuple(map(np.ascontiguousarray, arrays))
        header = {**message, "arrays": [[str(array.dtype), array.shape] for array in arrays]}
        with self._sending:
            self._connection.sendall(json.dumps(header).encode() + b"\n")
            for array in arrays:
                self._connection.sendall(array.reshape(-1).view(np.uint8).data)

    def receive(self, timeout_seconds: float | None = None) -> tuple[Message, list[np.ndarray]]:
        """The next message and its arrays.

        Raises:
          ChannelClosed: there is none any more.
          OSError: the connection is lost, or no message has come in time; of use no more.
        """
        self._connection.settimeout(timeout_seconds)
        line = self._file.readline(MAX_HEADER_BYTES)
        if not line.endswith(b"\n"):
            raise ChannelClosed("the other side has closed the connection")
        try:
            message = json.loads(line)
            shapes = [(np.dtype(dtype), tuple(shape)) for dtype, shape in message.pop("arrays")]
            num_bytes = sum(dtype.itemsize * math.prod(shape) for dtype, shape in shapes)
            if num_bytes > MAX_ARRAY_BYTES or not all(dtype.kind in NUMBERS for dtype, _ in shapes):
                raise ValueError
            arrays = [np.empty(shape, dtype) for dtype, shape in shapes]
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise ChannelClosed("the other side does not speak as this program does") from error
        for array in arrays:
            view = memoryview(array.reshape(-1).view(np.uint8).data)
            while view:
                if not (read := self._file.readinto(view)):
                    raise ChannelClosed("the other side has closed the connection")
                view = view[read:]
        return message, arrays

    def is_closed(self, within_seconds: float) -> bool:
        """Waits that long for the other side to close the connection; what it sends meanwhile is dropped."""
        try:
            while True:
                self.receive(within_seconds)
        except TimeoutError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Closes it, also for a thread that receives."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._connection.close()
