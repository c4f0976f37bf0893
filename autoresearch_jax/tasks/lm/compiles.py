"""How many programs XLA is asked for, and how many of them it has to compile because no cache has them."""

import threading
from typing import Any

import jax

_ASKED = "/jax/core/compile/backend_compile_duration"  # for what is found in the cache, too
_FOUND = "/jax/compilation_cache/cache_hits"


class CompileWatch:
    """Counts while it is entered; in all threads, since programs are compiled in several.

    Attributes:
      asked: programs that XLA was asked for.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._found = 0
        self._counting = False
        self._lock = threading.Lock()

    @property
    def compiled(self) -> int:
        """Those that were not in the persistent cache."""
        return self.asked - self._found

    def __enter__(self) -> "CompileWatch":
        self._counting = True
        jax.monitoring.register_event_duration_secs_listener(self._hear_duration)
        jax.monitoring.register_event_listener(self._hear)
        return self

    def __exit__(self, *exception: object) -> None:
        self._counting = False  # listeners cannot be taken away one by one

    def _hear_duration(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        if event == _ASKED:
            with self._lock:
                self.asked += self._counting

    def _hear(self, event: str, **kwargs: Any) -> None:
        if event == _FOUND:
            with self._lock:
                self._found += self._counting
